//! The documents of an image, as far as a preheat reads them: which manifests, and which blobs.
//!
//! Pure; called by `resolve` for each document that a registry sends. More images are accepted than the engine can
//! run: artifacts, other operating systems, and Docker's obsolete schema 1, since their blobs can be distributed
//! all the same. The bounds keep a hostile registry from filling the memory.

use sampan_oci::digest::Digest;
use sampan_oci::platform::Platform;
use serde::Deserialize;

/// Most manifests of one image.
pub const MANIFESTS_MAX: usize = 64;
/// Most blobs of one image, for all its platforms together.
pub const BLOBS_MAX: usize = 1000;
/// The platform that builders give to documents about an image, such as attestations. No client pulls them.
const UNKNOWN: &str = "unknown";

/// Why a document is not an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The JSON is malformed, or a field has the wrong type.
    #[error("cannot read the manifest")]
    Json(#[from] serde_json::Error),
    /// The document names neither manifests nor layers.
    #[error("the document is neither an index nor a manifest")]
    Neither,
    /// The index or the manifest is too large.
    #[error("the image has more than {0}")]
    TooMany(&'static str),
    /// The index has no image for the platform.
    #[error("the index has no image for {0}")]
    Platform(Platform),
}

/// What a document says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum References {
    /// An index: the digests of the manifests or indexes to read next.
    Manifests(Vec<Digest>),
    /// A manifest: the digests of its blobs.
    Blobs(Vec<Digest>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    manifests: Option<Vec<Item>>,
    config: Option<Item>,
    layers: Option<Vec<Item>>,
    fs_layers: Option<Vec<OldLayer>>,
}

#[derive(Deserialize)]
struct Item {
    digest: Digest,
    platform: Option<ItemPlatform>,
    /// Where else the blob is, if it may not be distributed by registries.
    #[serde(default)]
    urls: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct ItemPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

impl Item {
    fn platform(&self) -> Option<Platform> {
        let of = self.platform.as_ref().filter(|of| !of.os.is_empty())?;
        Some(Platform::of(&of.os, &of.architecture, of.variant.as_deref()))
    }
}

/// A layer of schema 1.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OldLayer {
    blob_sum: Digest,
}

/// Parses an index or a manifest. From an index, chooses the manifests for `wanted`, or all.
pub(super) fn parse(bytes: &[u8], wanted: Option<&Platform>) -> Result<References, ImageError> {
    let document: Document = serde_json::from_slice(bytes)?;
    if let Some(manifests) = document.manifests {
        return Ok(References::Manifests(choose(manifests, wanted)?));
    }
    let mut blobs = Vec::new();
    match (document.layers, document.fs_layers) {
        (Some(layers), _) => {
            // A registry need not have a blob that is elsewhere.
            let has = |item: &Item| item.urls.as_ref().is_none_or(Vec::is_empty);
            let items = document.config.into_iter().chain(layers);
            blobs.extend(items.filter(has).map(|item| item.digest));
        }
        (None, Some(layers)) => blobs.extend(layers.into_iter().map(|layer| layer.blob_sum)),
        (None, None) => return Err(ImageError::Neither),
    }
    blobs.sort();
    blobs.dedup();
    if blobs.len() > BLOBS_MAX {
        Err(ImageError::TooMany("1000 blobs"))
    } else {
        Ok(References::Blobs(blobs))
    }
}

fn choose(mut manifests: Vec<Item>, wanted: Option<&Platform>) -> Result<Vec<Digest>, ImageError> {
    manifests.retain(|item| item.platform.as_ref().is_none_or(|platform| platform.os != UNKNOWN));
    if let Some(wanted) = wanted {
        let rank = |item: &Item| item.platform().and_then(|of| wanted.rank(&of));
        match manifests.iter().filter_map(rank).min() {
            Some(best) => {
                manifests.retain(|item| rank(item) == Some(best));
                manifests.truncate(1);
            }
            // An index in an index has no platform. Its manifests are ranked when it is read.
            None => manifests.retain(|item| item.platform().is_none()),
        }
        if manifests.is_empty() {
            return Err(ImageError::Platform(wanted.clone()));
        }
    }
    let mut digests: Vec<Digest> = manifests.into_iter().map(|item| item.digest).collect();
    digests.sort();
    digests.dedup();
    match digests.len() {
        0..=MANIFESTS_MAX => Ok(digests),
        _ => Err(ImageError::TooMany("64 manifests")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: usize) -> String {
        format!("sha256:{number:064x}")
    }

    fn digests(numbers: &[usize]) -> Vec<Digest> {
        numbers.iter().map(|number| Digest::parse(&digest(*number)).expect("good")).collect()
    }

    fn item(number: usize, rest: &str) -> String {
        format!(r#"{{"mediaType":"x","size":1,"digest":"{}"{rest}}}"#, digest(number))
    }

    fn platform(number: usize, os: &str, architecture: &str, variant: &str) -> String {
        let rest =
            format!(r#","platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}"#);
        item(number, &rest)
    }

    fn index(items: &[String]) -> Vec<u8> {
        format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, items.join(",")).into_bytes()
    }

    #[test]
    fn a_manifest_has_its_config_and_each_layer_once() {
        let elsewhere = item(9, r#","urls":["https://elsewhere.example/layer"]"#);
        let layers = [item(2, ""), item(3, r#","urls":[]"#), item(2, ""), elsewhere].join(",");
        let manifest = format!(r#"{{"schemaVersion":2,"config":{},"layers":[{layers}]}}"#, item(1, ""));
        assert_eq!(parse(manifest.as_bytes(), None).expect("good"), References::Blobs(digests(&[1, 2, 3])));
        let old = format!(
            r#"{{"schemaVersion":1,"fsLayers":[{{"blobSum":"{0}"}},{{"blobSum":"{0}"}}]}}"#,
            digest(4)
        );
        assert_eq!(parse(old.as_bytes(), None).expect("good"), References::Blobs(digests(&[4])));
    }

    #[test]
    fn an_index_gives_all_platforms_or_the_one_that_fits_best() {
        let index = index(&[
            platform(1, "linux", "amd64", ""),
            platform(2, "linux", "arm", "v6"),
            platform(3, "linux", "arm", "v7"),
            platform(4, "unknown", "unknown", ""),
            platform(5, "windows", "amd64", ""),
        ]);
        let found = |wanted: Option<&str>| {
            let wanted = wanted.map(|text| Platform::parse(text).expect("good"));
            parse(&index, wanted.as_ref())
        };
        assert_eq!(found(None).expect("good"), References::Manifests(digests(&[1, 2, 3, 5])));
        assert_eq!(found(Some("linux/arm/v7")).expect("good"), References::Manifests(digests(&[3])));
        assert_eq!(found(Some("linux/x86_64")).expect("good"), References::Manifests(digests(&[1])));
        let error = found(Some("linux/riscv64")).expect_err("refused").to_string();
        assert_eq!(error, "the index has no image for linux/riscv64");
    }

    #[test]
    fn an_index_in_an_index_is_read_for_a_platform() {
        let index = index(&[item(1, ""), platform(3, "linux", "amd64", ""), item(2, "")]);
        let wanted = Platform::parse("linux/arm64").expect("good");
        assert_eq!(parse(&index, Some(&wanted)).expect("good"), References::Manifests(digests(&[1, 2])));
    }

    #[test]
    fn a_hostile_document_is_refused() {
        let many: Vec<String> = (0..65).map(|number| item(number, "")).collect();
        assert!(matches!(parse(&index(&many), None), Err(ImageError::TooMany(_))));
        let layers: Vec<String> = (0..1001).map(|number| item(number, "")).collect();
        let manifest = format!(r#"{{"layers":[{}]}}"#, layers.join(","));
        assert!(matches!(parse(manifest.as_bytes(), None), Err(ImageError::TooMany(_))));
        for document in [
            "",
            "null",
            "[]",
            "7",
            r#"{"manifests":7}"#,
            r#"{"layers":[{"digest":"../../etc/passwd"}]}"#,
            r#"{"layers":[{}]}"#,
        ] {
            assert!(matches!(parse(document.as_bytes(), None), Err(ImageError::Json(_))), "{document}");
        }
        assert!(matches!(parse(b"{}", None), Err(ImageError::Neither)));
    }
}
