//! An image in full: the document of `image inspect`, and the steps in which the image was built.
//!
//! The document has docker's keys, and a few more about the store. Docker Engine API, "ImageInspect". Reads the image's
//! documents and changes nothing.

use crate::images::{self, INDEX_DIGEST, ImageError, Loaded};
use crate::store::Store;
use sampan_ipc::details::Step;
use sampan_ipc::image_name::{familiar, repository};
use sampan_oci as oci;
use sampan_oci::timestamp;
use serde_json::{Value, json};

/// Docker's name for a store of unpacked layers.
const DRIVER: &str = "overlay2";
/// Docker's value for a time that is not known.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Describes an image completely, as JSON.
///
/// # Errors
/// [`ImageError::NotFound`], [`ImageError::Ambiguous`], or another [`ImageError`] if the image cannot be read.
pub fn document(store: &Store, name: &str) -> Result<String, ImageError> {
    let image = images::find(store, name)?;
    let raw = store.read_blob(&image.manifest.config.digest, oci::CONFIG_MAX)?;
    let unreadable = |source| ImageError::Unreadable {
        digest: image.entry.digest.clone(),
        source: oci::OciError::Json { what: "the image's config", source },
    };
    let config: Value = serde_json::from_slice(&raw).map_err(unreadable)?;
    let summary = image.summary(store);
    let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let settings = config.get("config").filter(|value| value.is_object()).cloned();
    let tags = image.references.iter().filter(|name| !name.contains('@')).map(|name| familiar(name));
    let mut document = json!({
        "Id": summary.id,
        "RepoTags": tags.collect::<Vec<_>>(),
        "RepoDigests": repo_digests(&image),
        "Parent": "",
        "Comment": image.config.history.last().and_then(|step| step.comment.as_deref()).unwrap_or_default(),
        "Created": image.config.created_nanos().map(timestamp::format),
        "DockerVersion": text("docker_version"),
        "Author": text("author"),
        "Config": settings.unwrap_or_else(|| json!({})),
        "Architecture": image.config.architecture,
        "Os": image.config.os,
        "Size": summary.size,
        "VirtualSize": summary.size,
        "GraphDriver": {"Name": DRIVER, "Data": directories(store, &image)},
        "RootFS": {"Type": "layers", "Layers": image.config.rootfs.diff_ids},
        "Metadata": {"LastTagTime": NEVER},
        // What docker does not tell.
        "Digest": summary.digest,
        "IndexDigest": image.entry.annotations.get(INDEX_DIGEST),
        "References": summary.references,
        "MediaType": image.entry.media_type,
        "ManifestSize": image.entry.size,
        "Layers": layers(store, &image),
    });
    if let (Some(variant), Some(keys)) = (&image.config.variant, document.as_object_mut()) {
        keys.insert("Variant".to_owned(), json!(variant));
    }
    Ok(document.to_string())
}

/// The image's repositories, each with the digest by which its registry has the image.
fn repo_digests(image: &Loaded) -> Vec<String> {
    let manifest = image.entry.digest.to_string();
    let digest = image.entry.annotations.get(INDEX_DIGEST).unwrap_or(&manifest);
    let mut names: Vec<String> =
        image.references.iter().map(|name| format!("{}@{digest}", repository(name))).collect();
    names.sort();
    names.dedup();
    names
}

/// The directories of the unpacked layers by docker's names: the uppermost layer, and the others, from the top down.
fn directories(store: &Store, image: &Loaded) -> Value {
    let chain = image.config.chain_ids();
    let path = |chain_id| store.layer_path(chain_id).join("diff").display().to_string();
    match chain.split_last() {
        None => Value::Null,
        Some((top, [])) => json!({"UpperDir": path(top)}),
        Some((top, below)) => {
            let lower: Vec<String> = below.iter().rev().map(path).collect();
            json!({"UpperDir": path(top), "LowerDir": lower.join(":")})
        }
    }
}

/// The blob of each layer, and the directory with its files, lowest layer first.
fn layers(store: &Store, image: &Loaded) -> Vec<Value> {
    let chain = image.config.chain_ids();
    (image.manifest.layers.iter())
        .zip(&image.config.rootfs.diff_ids)
        .zip(&chain)
        .map(|((layer, diff_id), chain_id)| {
            json!({
                "MediaType": layer.media_type, "Digest": layer.digest, "Size": layer.size,
                "DiffId": diff_id, "ChainId": chain_id,
                "Path": store.has_layer(chain_id).then(|| store.layer_path(chain_id).join("diff")),
            })
        })
        .collect()
}

/// The steps in which an image was built, the newest first. If the history has fewer steps with a layer than the image
/// has layers, the layers without a step come last.
pub fn steps(store: &Store, image: &Loaded) -> Vec<Step> {
    let chain = image.config.chain_ids();
    let mut sizes = chain.iter().map(|chain_id| store.layer_size(chain_id).unwrap_or(0));
    let mut steps: Vec<Step> = Vec::with_capacity(image.config.history.len());
    for step in &image.config.history {
        steps.push(Step {
            created: step.created.as_deref().and_then(timestamp::parse),
            created_by: step.created_by.clone().unwrap_or_default(),
            size: if step.empty_layer { 0 } else { sizes.next().unwrap_or(0) },
            comment: step.comment.clone().unwrap_or_default(),
        });
    }
    let unnamed: Vec<Step> = sizes.map(|size| Step { size, ..Step::default() }).collect();
    steps.reverse();
    steps.extend(unnamed);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::tests::image;

    #[test]
    fn the_document_has_docker_s_keys_and_familiar_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let digest = image(&store, "a", "one");
        images::tag(&store, "a", "localhost:5000/b:2").expect("tagged");
        let text = document(&store, "a").expect("described");
        let document: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(document["RepoTags"], json!(["a:latest", "localhost:5000/b:2"]));
        let digests = [format!("a@{digest}"), format!("localhost:5000/b@{digest}")];
        assert_eq!(document["RepoDigests"], json!(digests));
        assert_eq!(document["Config"]["Cmd"], json!(["one"]));
        assert_eq!(document["RootFS"], json!({"Type": "layers", "Layers": []}));
        assert_eq!(document["Digest"], digest.to_string());
    }

    #[test]
    fn steps_without_a_layer_have_no_size() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        image(&store, "a", "one");
        let mut image = images::find(&store, "a").expect("found");
        let step = |by: &str, empty_layer| oci::History {
            created_by: Some(by.to_owned()),
            created: Some("1970-01-01T00:00:01Z".to_owned()),
            empty_layer,
            ..oci::History::default()
        };
        image.config.history = vec![step("COPY", false), step("CMD", true)];
        let steps = steps(&store, &image);
        assert_eq!(steps.iter().map(|step| step.created_by.as_str()).collect::<Vec<_>>(), ["CMD", "COPY"]);
        assert_eq!((steps[0].created, steps[0].size), (Some(1_000_000_000), 0));
    }
}
