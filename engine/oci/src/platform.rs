//! Platforms: parses `os/arch[/variant]`, names the host's, and ranks how well an image fits.
//!
//! Called where an image is chosen from an index. OCI image-spec, "Image Index", platform. Never inspects the
//! processor: the platform of this program's build counts as the host's.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The platform of an image or a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// The architecture in Go's spelling (GOARCH), such as `amd64` or `arm64`.
    pub architecture: String,
    /// The operating system in Go's spelling (GOOS), such as `linux`.
    pub os: String,
    /// The variant of the architecture, such as `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// The error for text that is not a platform; holds the text, cut to 100 characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform: expected os/arch or os/arch/variant, like linux/arm64 or linux/arm/v7")]
pub struct PlatformError(pub String);

impl Platform {
    /// The platform of this host.
    pub fn host() -> Self {
        Platform::of(
            "linux",
            std::env::consts::ARCH,
            if cfg!(target_arch = "arm") { Some("v7") } else { None },
        )
    }

    /// Parses `os/arch[/variant]`. Accepts other common names of architectures, such as `aarch64` and `x86_64`.
    ///
    /// # Errors
    /// [`PlatformError`]: the text does not have two or three parts, or a part is empty, longer than 32 bytes, or has a
    /// character other than letters, digits, `.`, `_` and `-`.
    pub fn parse(text: &str) -> Result<Self, PlatformError> {
        let refuse = || PlatformError(text.chars().take(100).collect());
        let word = |w: &&str| {
            !w.is_empty()
                && w.len() <= 32
                && w.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        let words: Vec<&str> = text.split('/').collect();
        if !words.iter().all(word) {
            return Err(refuse());
        }
        match words.as_slice() {
            [os, arch] => Ok(Platform::of(os, arch, None)),
            [os, arch, variant] => Ok(Platform::of(os, arch, Some(variant))),
            _ => Err(refuse()),
        }
    }

    /// Makes a platform; replaces other common names by Go's spelling.
    pub fn of(os: &str, arch: &str, variant: Option<&str>) -> Self {
        let os = os.to_ascii_lowercase();
        let arch = arch.to_ascii_lowercase();
        let (arch, implied) = match arch.as_str() {
            "x86_64" | "x86-64" => ("amd64", None),
            "x86" | "i386" | "i686" => ("386", None),
            "aarch64" => ("arm64", None),
            "armhf" => ("arm", Some("v7")),
            "armel" => ("arm", Some("v6")),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            other => (other, None),
        };
        let variant = variant.filter(|v| !v.is_empty()).or(implied).map(str::to_ascii_lowercase);
        Platform { architecture: arch.to_owned(), os, variant }
    }

    /// How well an image for the platform `image` fits a request for `self`: less is better; `None` if it cannot run.
    ///
    /// An arm host also runs older variants (v7 runs v6 and v5). arm64 without a variant means v8, and amd64 without
    /// one means v1. An arm image that names no variant ranks after those that do.
    pub fn rank(&self, image: &Platform) -> Option<u32> {
        let image = Platform::of(&image.os, &image.architecture, image.variant.as_deref());
        if self.os != image.os || self.architecture != image.architecture {
            return None;
        }
        let level = |p: &Platform| p.variant.as_ref().and_then(|v| v.strip_prefix('v')?.parse::<u32>().ok());
        match self.architecture.as_str() {
            "arm" => {
                let wanted = level(self).unwrap_or(7);
                match level(&image) {
                    Some(has) if has <= wanted => Some(wanted - has),
                    Some(_) => None,
                    None => Some(50),
                }
            }
            "arm64" => {
                let (wanted, has) = (level(self).unwrap_or(8), level(&image).unwrap_or(8));
                (has <= wanted).then(|| wanted - has)
            }
            "amd64" => {
                let (wanted, has) = (level(self).unwrap_or(1), level(&image).unwrap_or(1));
                (has <= wanted).then(|| wanted - has)
            }
            _ if self.variant == image.variant => Some(0),
            _ if self.variant.is_none() || image.variant.is_none() => Some(1),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Platform {
        Platform::parse(text).expect("a platform")
    }

    #[test]
    fn older_variants_of_arm_run_and_newer_ones_do_not() {
        assert_eq!(p("linux/arm/v7").rank(&p("linux/arm/v6")), Some(1));
        assert_eq!(p("linux/arm/v6").rank(&p("linux/arm/v7")), None);
        assert_eq!(p("linux/arm64").rank(&p("linux/arm64/v8")), Some(0));
        assert_eq!(p("linux/x86_64").rank(&p("linux/amd64")), Some(0));
        assert_eq!(p("linux/amd64").rank(&p("linux/amd64/v3")), None);
        assert_eq!(p("linux/amd64").rank(&p("linux/arm64")), None);
        assert_eq!(p("linux/amd64").rank(&p("windows/amd64")), None);
    }

    #[test]
    fn text_that_is_no_platform_is_refused() {
        for bad in ["", "linux", "linux/", "a/b/c/d", "linux/am d64", "/amd64"] {
            assert!(Platform::parse(bad).is_err(), "{bad:?}");
        }
    }
}
