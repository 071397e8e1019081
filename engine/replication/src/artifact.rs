//! What a manifest refers to: children, blobs and a subject. Reads any OCI or Docker document, not only images.
//!
//! Pure. A copier must not refuse what it does not understand: it copies the bytes, and reads only descriptors. Called
//! by `copy`.

use sampan_oci::Descriptor;
use sampan_oci::digest::Digest;
use serde::Deserialize;
use std::collections::HashSet;

/// Most descriptors of one manifest.
const DESCRIPTORS_MAX: usize = 20_000;

/// What a manifest refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Manifests of an index, in their order, each digest once.
    pub children: Vec<Descriptor>,
    /// Config and layers, each digest once, without foreign layers.
    pub blobs: Vec<Descriptor>,
    /// Layers that their vendor distributes, and that a registry need not have.
    pub foreign: Vec<Descriptor>,
    /// The manifest that this one refers to, which is copied on its own.
    pub subject: Option<Digest>,
    /// The media type that the document states; empty if it states none.
    pub media_type: String,
    /// What the artifact is: its `artifactType`, or the media type of its config.
    pub artifact_type: String,
}

/// Why a document cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum PartsError {
    /// The document is not a JSON object, or a field has the wrong type.
    #[error("cannot read the manifest")]
    Json(#[from] serde_json::Error),
    /// The document is well-formed but not accepted; the text says why.
    #[error("{0}")]
    Refused(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    /// The blobs of an artifact manifest of OCI image-spec 1.1's release candidates.
    #[serde(default)]
    blobs: Option<Vec<Descriptor>>,
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Reads what the manifest `bytes` refers to.
///
/// # Errors
/// [`PartsError::Json`]: it is no JSON object, or a descriptor is malformed. [`PartsError::Refused`]: it is of schema 1,
/// is index and manifest at once, or names more than 20,000 descriptors.
pub fn parts(bytes: &[u8]) -> Result<Parts, PartsError> {
    // serde reads a struct from an array, too.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(PartsError::Refused("the manifest is no JSON object".to_owned()));
    }
    let document: Document = serde_json::from_slice(bytes)?;
    if document.fs_layers.is_some() || document.schema_version == Some(1) {
        let why = "the manifest is of schema 1, which registries no longer store; push the image again with a newer tool";
        return Err(PartsError::Refused(why.to_owned()));
    }
    // A document that one tool reads as an index and another as a manifest shows each of them another image:
    // CVE-2021-41190.
    if document.manifests.is_some() && (document.layers.is_some() || document.config.is_some()) {
        let why = "the manifest has both 'manifests' and 'layers' or 'config'".to_owned();
        return Err(PartsError::Refused(why));
    }
    let config_type = document.config.as_ref().map(|config| config.media_type.clone()).unwrap_or_default();
    let artifact_type = document.artifact_type.filter(|kind| !kind.is_empty()).unwrap_or(config_type);
    let children = document.manifests.unwrap_or_default();
    let layers = document.config.into_iter().chain(document.layers.into_iter().flatten());
    let all: Vec<Descriptor> = layers.chain(document.blobs.into_iter().flatten()).collect();
    if children.len() + all.len() > DESCRIPTORS_MAX {
        let why = format!("the manifest names more than {DESCRIPTORS_MAX} descriptors");
        return Err(PartsError::Refused(why));
    }
    let (foreign, blobs) = all.into_iter().partition(is_foreign);
    Ok(Parts {
        children: each_once(children),
        blobs: each_once(blobs),
        foreign: each_once(foreign),
        subject: document.subject.map(|subject| subject.digest),
        media_type: document.media_type.unwrap_or_default(),
        artifact_type,
    })
}

/// The media type that the document states; `None` if it states none or is no JSON object.
pub fn media_type(bytes: &[u8]) -> Option<String> {
    let document: Document = serde_json::from_slice(bytes).ok()?;
    document.media_type.filter(|kind| !kind.is_empty())
}

/// Whether only its vendor distributes the layer. OCI image-spec, "Non-Distributable Layers"; Docker's foreign layers.
fn is_foreign(layer: &Descriptor) -> bool {
    layer.media_type.contains(".layer.nondistributable.") || layer.media_type.contains(".rootfs.foreign.")
}

fn each_once(descriptors: Vec<Descriptor>) -> Vec<Descriptor> {
    let mut seen = HashSet::new();
    descriptors.into_iter().filter(|descriptor| seen.insert(descriptor.digest.clone())).collect()
}

/// Removes the manifests of other platforms from the index `bytes`; keeps all other fields. `None` if nothing is to be
/// removed, or if `bytes` is no index.
pub fn rewrite_index(bytes: &[u8], keep: &dyn Fn(&Descriptor) -> bool) -> Option<Vec<u8>> {
    let mut document: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let manifests = document.get_mut("manifests")?.as_array_mut()?;
    let before = manifests.len();
    manifests.retain(|manifest| Descriptor::deserialize(manifest).is_ok_and(|descriptor| keep(&descriptor)));
    if manifests.len() == before {
        return None;
    }
    serde_json::to_vec(&document).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(nth: u8) -> String {
        Digest::of(&[nth]).to_string()
    }

    fn descriptor(kind: &str, nth: u8) -> String {
        format!(r#"{{"mediaType":"{kind}","digest":"{}","size":1}}"#, digest(nth))
    }

    #[test]
    fn blobs_are_named_once_and_foreign_layers_apart() {
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar", 1);
        let foreign = descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", 2);
        let config = descriptor("application/vnd.oci.empty.v1+json", 3);
        let text = format!(
            r#"{{"schemaVersion":2,"config":{config},"layers":[{layer},{layer},{foreign}],"unknown":[1,{{}}]}}"#
        );
        let parts = parts(text.as_bytes()).expect("a manifest");
        assert_eq!((parts.blobs.len(), parts.foreign.len(), parts.children.len()), (2, 1, 0));
        assert_eq!(parts.artifact_type, "application/vnd.oci.empty.v1+json");
    }

    #[test]
    fn documents_without_layers_are_artifacts_as_well() {
        for text in [r#"{"schemaVersion":2}"#, r#"{"schemaVersion":2,"layers":null,"manifests":[]}"#] {
            assert_eq!(parts(text.as_bytes()).expect("a document"), Parts::default());
        }
    }

    #[test]
    fn what_two_tools_would_read_differently_is_refused() {
        let config = descriptor("x/y", 1);
        for text in [
            r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(),
            format!(r#"{{"manifests":[],"config":{config}}}"#),
            "[]".to_owned(),
            r#"{"layers":[{"digest":"sha256:../../etc","size":1}]}"#.to_owned(),
        ] {
            assert!(parts(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_index_keeps_its_other_fields_when_platforms_are_removed() {
        let (one, two) = (descriptor("a/b", 1), descriptor("a/b", 2));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{one},{two}],"annotations":{{"k":"v"}}}}"#);
        let wanted = digest(2);
        let kept = rewrite_index(index.as_bytes(), &|d| d.digest.to_string() == wanted).expect("smaller");
        let text = String::from_utf8(kept).expect("JSON");
        assert!(text.contains(&wanted) && !text.contains(&digest(1)) && text.contains(r#""k":"v""#));
        assert_eq!(rewrite_index(index.as_bytes(), &|_| true), None);
    }
}
