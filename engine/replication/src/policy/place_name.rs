//! The two sides of a policy as they are written: `docker://HOST/GLOB`, `oci:DIRECTORY` and `store:`.
//!
//! Used by `file`. Opens nothing.

use sampan_oci::reference::Reference;
use std::fmt;
use std::path::{Path, PathBuf};

/// A source or a destination; prints as it is written in a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceName {
    /// `docker://HOST[:PORT]/PATH`: repositories of a registry.
    Registry {
        /// The host, and the port if there is one.
        host: String,
        /// At a source, a glob over paths of repositories. At a destination, the path that all repositories go below; it
        /// may be empty.
        pattern: String,
    },
    /// `oci:DIRECTORY`: an OCI image layout in a directory, given from the root.
    OciDirectory(PathBuf),
    /// `store:`: the images of this host.
    Store,
}

/// The error for text that is not a place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the name of a place: {why}")]
pub struct PlaceNameError {
    /// The text, cut to 100 characters.
    pub text: String,
    /// The rule that the text breaks.
    pub why: &'static str,
}

impl PlaceName {
    /// Parses a place. The caller parses the pattern of a source as a glob.
    ///
    /// # Errors
    /// [`PlaceNameError`]: no known prefix, no valid host, a tag or digest, or a directory that is not given from the root.
    pub fn parse(text: &str) -> Result<Self, PlaceNameError> {
        let refuse = |why| PlaceNameError { text: text.chars().take(100).collect(), why };
        if text == "store:" {
            return Ok(PlaceName::Store);
        }
        if text.starts_with("store:") {
            return Err(refuse("store: stands alone in a policy; images are chosen by name under [filter]"));
        }
        if let Some(directory) = text.strip_prefix("oci:") {
            let is_good = directory.starts_with('/') && !directory.contains('\0');
            return match is_good {
                true => Ok(PlaceName::OciDirectory(Path::new(directory).components().collect())),
                false => {
                    Err(refuse("the directory of an OCI layout is given from the root, as oci:/mnt/stick"))
                }
            };
        }
        let Some(rest) = text.strip_prefix("docker://") else {
            return Err(refuse("it begins with none of docker://, oci: and store:"));
        };
        let (host, pattern) = rest.split_once('/').unwrap_or((rest, ""));
        // A name without a dot, a port or `localhost` is not a host but a repository of Docker Hub: say which.
        let is_host = Reference::parse(&format!("{host}/x"))
            .is_ok_and(|name| name.path() == "x" && name.host() == host);
        if !is_host && host != "docker.io" {
            return Err(refuse(
                "docker:// is followed by the host of a registry, such as docker.io/library/debian",
            ));
        }
        if pattern.contains([':', '@']) {
            return Err(refuse("a place has no tag and no digest: tags are given under [filter]"));
        }
        if pattern.ends_with('/') {
            return Err(refuse("a path does not end in '/'"));
        }
        Ok(PlaceName::Registry { host: host.to_owned(), pattern: pattern.to_owned() })
    }
}

impl fmt::Display for PlaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlaceName::Registry { host, pattern } if pattern.is_empty() => write!(f, "docker://{host}"),
            PlaceName::Registry { host, pattern } => write!(f, "docker://{host}/{pattern}"),
            PlaceName::OciDirectory(directory) => write!(f, "oci:{}", directory.display()),
            PlaceName::Store => f.write_str("store:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_parsed_and_printed_as_they_are_written() {
        for text in [
            "docker://registry.example",
            "docker://registry.example:5000/team/**",
            "docker://localhost/{a,b}",
            "docker://docker.io/library/debian",
            "docker://[::1]:5000/a",
            "oci:/mnt/stick",
            "store:",
        ] {
            assert_eq!(PlaceName::parse(text).expect(text).to_string(), text);
        }
        assert_eq!(
            PlaceName::parse("oci:/mnt//stick/").expect("valid"),
            PlaceName::OciDirectory("/mnt/stick".into())
        );
        for text in [
            "",
            "registry.example/team",
            "docker://",
            "docker://debian",
            "docker://library/debian",
            "docker:///a",
            "docker://host.example/a:1",
            "docker://host.example/a/",
            "docker://bad_host.example/a",
            "docker://host.example:x/a",
            "oci:stick",
            "oci:",
            "store:x",
        ] {
            assert!(PlaceName::parse(text).is_err(), "{text}");
        }
        let error = PlaceName::parse("store:team/web").expect_err("more than the store").to_string();
        assert!(error.ends_with("store: stands alone in a policy; images are chosen by name under [filter]"));
    }
}
