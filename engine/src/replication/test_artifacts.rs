//! Artifacts for the tests of the sides, and a copier without retries.

use sampan_oci as oci;
use sampan_oci::Descriptor;
use sampan_oci::digest::{Algorithm, Digest, Hasher};
use sampan_oci::platform::Platform;
use sampan_replication::artifact;
use sampan_replication::side::{Begin, Manifest, Repository, SideError};
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::path::Path;

/// A layout that is written file by file, as another tool would.
pub(crate) struct Written<'a> {
    pub(crate) dir: &'a Path,
    entries: Vec<Value>,
}

impl<'a> Written<'a> {
    pub(crate) fn new(dir: &'a Path) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).expect("made");
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
        let layout = Written { dir, entries: Vec::new() };
        layout.write_index();
        layout
    }

    pub(crate) fn path(&self, digest: &Digest) -> std::path::PathBuf {
        self.dir.join("blobs").join(digest.algorithm().word()).join(digest.hex())
    }

    /// Stores a blob, and returns its descriptor.
    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        self.blob_by(Algorithm::Sha256, media_type, bytes)
    }

    pub(crate) fn blob_by(&self, algorithm: Algorithm, media_type: &str, bytes: &[u8]) -> Value {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        let digest = hasher.finish();
        fs::create_dir_all(self.dir.join("blobs").join(algorithm.word())).expect("made");
        fs::write(self.path(&digest), bytes).expect("written");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Stores a document with odd spaces, which a copier must not change.
    pub(crate) fn document(&self, document: &Value) -> Value {
        let kind = document["mediaType"].as_str().expect("a type");
        self.blob(kind, format!("{document:#} \n").as_bytes())
    }

    /// Stores the manifest of an image of one layer for a platform.
    pub(crate) fn image(&self, architecture: &str, content: &str) -> Value {
        let diff_id = Digest::of(content.as_bytes());
        let config = json!({"os": "linux", "architecture": architecture, "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
        let config = self.blob(oci::CONFIG, config.to_string().as_bytes());
        let layer = self.blob(oci::LAYER[0], content.as_bytes());
        let manifest =
            json!({"schemaVersion": 2, "mediaType": oci::MANIFEST, "config": config, "layers": [layer]});
        let mut descriptor = self.document(&manifest);
        descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
        descriptor
    }

    /// Stores an index of these manifests.
    pub(crate) fn index(&self, manifests: &[Value]) -> Value {
        self.document(&json!({"schemaVersion": 2, "mediaType": oci::INDEX, "manifests": manifests}))
    }

    /// Lists a manifest in the layout's index, under a name if it is not empty.
    pub(crate) fn list(&mut self, name: &str, manifest: &Value) {
        let mut entry = manifest.clone();
        if !name.is_empty() {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        self.entries.push(entry);
        self.write_index();
    }

    fn write_index(&self) {
        let index = json!({"schemaVersion": 2, "manifests": self.entries});
        fs::write(self.dir.join("index.json"), index.to_string()).expect("written");
    }
}

/// The architecture of this host, as images name it.
pub(crate) fn host() -> String {
    Platform::host().architecture
}

/// The digest in a descriptor.
pub(crate) fn digest_of(descriptor: &Value) -> Digest {
    Digest::parse(descriptor["digest"].as_str().expect("a digest")).expect("valid")
}

/// Reads a blob whole.
pub(crate) fn read(source: &dyn Repository, blob: &Descriptor) -> Result<Vec<u8>, SideError> {
    let mut bytes = Vec::new();
    source.blob(blob, 0, None)?.reader.read_to_end(&mut bytes).expect("read");
    Ok(bytes)
}

/// Copies what a manifest names, in small pieces.
pub(crate) fn copy_parts(
    source: &dyn Repository,
    target: &dyn Repository,
    manifest: &Manifest,
) -> Result<(), SideError> {
    let parts = artifact::parts(&manifest.bytes).expect("a manifest");
    for child in parts.children.iter().filter(|child| target.keeps_child(child)) {
        let manifest = source.manifest(&child.digest.to_string())?;
        copy_parts(source, target, &manifest)?;
        target.put_child(&manifest)?;
    }
    for blob in &parts.blobs {
        if target.has_blob(blob)? {
            continue;
        }
        let Begin::Session(mut session) = target.begin(blob, None)? else { continue };
        let mut at = 0;
        for piece in read(source, blob)?.chunks(7) {
            at = target.send(&mut session, blob, at, piece)?;
        }
        target.finish(&session, blob)?;
    }
    Ok(())
}

/// Copies an artifact.
pub(crate) fn copy(source: &dyn Repository, target: &dyn Repository, tag: &str) -> Result<(), SideError> {
    let manifest = source.manifest(tag)?;
    copy_parts(source, target, &manifest)?;
    target.put_manifest(tag, &manifest).map(drop)
}
