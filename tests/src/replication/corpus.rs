//! Odd and ordinary content: the kinds of artifacts that the conformance suite of the OCI distribution-spec pushes, and
//! those of Docker.
//!
//! The documents are written from the specifications: image-spec ("Image Manifest", "Image Index", "Content
//! Descriptors", "Guidelines for Artifact Usage") and distribution-spec ("Pushing Manifests", "Listing Referrers").
//! Nothing here is random, so that an artifact has the same digest in every test.

use super::client::Client;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compression, write::GzEncoder};
use sampan_oci as oci;
use sampan_oci::digest::{Algorithm, Digest, Hasher};
use serde_json::{Value, json};
use std::io::Write;

/// Media type of the empty descriptor `{}`.
pub const EMPTY_JSON: &str = "application/vnd.oci.empty.v1+json";
/// Media type of a layer that may not be distributed.
pub const NONDISTRIBUTABLE: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
/// Media type of a layer in Docker's schema 2.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Media type of a layer that Docker leaves at its URLs.
pub const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// A manifest or an index.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The digest under which it is stored.
    pub digest: Digest,
}

/// An artifact with all that it consists of.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// What is particular about it; also its tag.
    pub tag: &'static str,
    /// Blobs, each with the digest under which it is pushed.
    pub blobs: Vec<(Digest, Vec<u8>)>,
    /// Manifests and indexes in the order in which a registry accepts them. The last one has the tag.
    pub documents: Vec<Document>,
}

/// An artifact that a registry has accepted.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its tag.
    pub tag: String,
    /// Digest of the tagged document.
    pub digest: Digest,
    /// The tagged document.
    pub bytes: Vec<u8>,
}

/// Makes an artifact.
struct Maker {
    artifact: Artifact,
    algorithm: Algorithm,
}

impl Maker {
    fn new(tag: &'static str) -> Self {
        let artifact = Artifact { tag, blobs: Vec::new(), documents: Vec::new() };
        Maker { artifact, algorithm: Algorithm::Sha256 }
    }

    fn digest(&self, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(self.algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Adds a blob; its descriptor.
    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = self.digest(bytes);
        if !self.artifact.blobs.iter().any(|(known, _)| *known == digest) {
            self.artifact.blobs.push((digest.clone(), bytes.to_vec()));
        }
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Adds a layer with one file, whose content differs with the artifact and `nth`; its descriptor.
    fn layer(&mut self, nth: usize, is_compressed: bool) -> Value {
        let mut builder = tar::Builder::new(Vec::new());
        let content = format!("file {nth} of the artifact {}\n", self.artifact.tag).repeat(100 + nth);
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("file-{nth}"), content.as_bytes()).expect("to memory");
        let tar = builder.into_inner().expect("to memory");
        if !is_compressed {
            return self.blob(oci::LAYER[0], &tar);
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&tar).expect("to memory");
        self.blob(oci::LAYER[1], &encoder.finish().expect("to memory"))
    }

    fn config(&mut self, architecture: &str) -> Value {
        let config = json!({
            "architecture": architecture, "os": "linux", "author": self.artifact.tag,
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        self.blob(oci::CONFIG, config.to_string().as_bytes())
    }

    /// Adds a document; its descriptor.
    fn document(&mut self, document: &Value) -> Value {
        self.raw(
            document["mediaType"].as_str().expect("a media type"),
            serde_json::to_vec(document).expect("JSON"),
        )
    }

    fn raw(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = self.digest(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.artifact.documents.push(Document { media_type: media_type.to_owned(), bytes, digest });
        descriptor
    }

    /// Adds an image with two layers; its descriptor, with a platform.
    fn image(&mut self, architecture: &str) -> Value {
        let layers = [self.layer(0, true), self.layer(1, true)];
        let config = self.config(architecture);
        let mut descriptor = self.document(&manifest(config, &layers));
        descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
        descriptor
    }

    fn end(self) -> Artifact {
        self.artifact
    }
}

fn manifest(config: Value, layers: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": oci::MANIFEST, "config": config, "layers": layers})
}

fn index(manifests: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": oci::INDEX, "manifests": manifests})
}

fn with(mut document: Value, key: &str, value: Value) -> Value {
    document[key] = value;
    document
}

/// Adds an artifact's `data` to its descriptor.
fn with_data(descriptor: Value, bytes: &[u8]) -> Value {
    with(descriptor, "data", STANDARD.encode(bytes).into())
}

/// All artifacts. A registry may refuse some of them: docker-registry 2.8.2 refuses the sparse index and, unless it is
/// configured to, the layers that are elsewhere.
pub fn all() -> Vec<Artifact> {
    let mut all = Vec::new();

    let mut maker = Maker::new("image");
    maker.image("amd64");
    all.push(maker.end());

    let mut maker = Maker::new("image-uncompressed");
    let layers = [maker.layer(0, false), maker.layer(1, false)];
    let config = maker.config("amd64");
    maker.document(&manifest(config, &layers));
    all.push(maker.end());

    let mut maker = Maker::new("no-layers");
    let config = maker.config("amd64");
    maker.document(&manifest(config, &[]));
    all.push(maker.end());

    // The empty blob, once among others and once listed twice.
    let mut maker = Maker::new("empty-layers");
    let (empty, full) = (maker.blob(oci::LAYER[0], b""), maker.layer(0, true));
    let config = maker.config("amd64");
    maker.document(&manifest(config, &[empty.clone(), full, empty]));
    all.push(maker.end());

    let mut maker = Maker::new("index");
    let children = [maker.image("amd64"), maker.image("arm64")];
    maker.document(&index(&children));
    all.push(maker.end());

    let mut maker = Maker::new("index-empty");
    maker.document(&index(&[]));
    all.push(maker.end());

    let mut maker = Maker::new("index-nested");
    let children = [maker.image("amd64"), maker.image("arm64")];
    let inner = maker.document(&index(&children));
    let outer = [inner, maker.image("riscv64")];
    maker.document(&index(&outer));
    all.push(maker.end());

    // No registry gets the other child.
    let mut maker = Maker::new("index-sparse");
    let present = maker.image("amd64");
    let absent = json!({"mediaType": oci::MANIFEST, "digest": Digest::of(b"nowhere"), "size": 1234,
        "platform": {"architecture": "s390x", "os": "linux"}});
    maker.document(&index(&[present, absent]));
    all.push(maker.end());

    all.extend(artifacts());
    all.extend(subjects());
    all.extend(unusual_documents());
    all.extend(elsewhere());
    all.extend(dockers());
    all
}

fn artifacts() -> Vec<Artifact> {
    let mut maker = Maker::new("artifact");
    let config = maker.blob(EMPTY_JSON, b"{}");
    let layers = [maker.blob("application/vnd.example.data", b"any bytes at all")];
    let document = with(manifest(config, &layers), "artifactType", "application/vnd.example.artifact".into());
    maker.document(&with(document, "annotations", json!({"org.example.key": "value"})));
    let plain = maker.end();

    // Nothing but the artifact's type: the layer is the empty descriptor too.
    let mut maker = Maker::new("artifact-empty");
    let empty = maker.blob(EMPTY_JSON, b"{}");
    let document = manifest(empty.clone(), &[empty]);
    maker.document(&with(document, "artifactType", "application/vnd.example.nothing".into()));
    let nothing = maker.end();

    let mut maker = Maker::new("artifact-config");
    let config = maker.blob("application/vnd.example.config.v2+json", br#"{"chart":"a"}"#);
    let layers = [maker.blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"a chart")];
    maker.document(&manifest(config, &layers));
    let config = maker.end();

    let mut maker = Maker::new("artifact-index");
    let empty = maker.blob(EMPTY_JSON, b"{}");
    let layers = [maker.blob("text/plain", b"one")];
    let document = manifest(empty, &layers);
    let child = maker.document(&with(document, "artifactType", "application/vnd.example.part".into()));
    maker.document(&with(index(&[child]), "artifactType", "application/vnd.example.whole".into()));
    vec![plain, nothing, config, maker.end()]
}

fn subjects() -> Vec<Artifact> {
    // The subject is pushed with it, but nothing refers to it except the referrer.
    let mut maker = Maker::new("subject");
    let mut subject = maker.image("amd64");
    subject.as_object_mut().expect("an object").remove("platform");
    let config = maker.blob(EMPTY_JSON, b"{}");
    let layers = [maker.blob("application/spdx+json", br#"{"spdxVersion":"SPDX-2.3"}"#)];
    let document = with(manifest(config, &layers), "artifactType", "application/spdx+json".into());
    maker.document(&with(document, "subject", subject));
    let present = maker.end();

    let mut maker = Maker::new("subject-missing");
    let subject = json!({"mediaType": oci::MANIFEST, "digest": Digest::of(b"not pushed yet"), "size": 99});
    let config = maker.blob(EMPTY_JSON, b"{}");
    let layers = [maker.blob("text/plain", b"a signature")];
    let document =
        with(manifest(config, &layers), "artifactType", "application/vnd.example.signature".into());
    maker.document(&with(document, "subject", subject.clone()));
    let missing = maker.end();

    let mut maker = Maker::new("subject-of-index");
    let child = maker.image("amd64");
    maker.document(&with(index(&[child]), "subject", subject));
    vec![present, missing, maker.end()]
}

fn unusual_documents() -> Vec<Artifact> {
    let mut maker = Maker::new("data");
    let (config_bytes, layer_bytes) = (&b"{}"[..], &b"bytes that the descriptor has too"[..]);
    let config = with_data(maker.blob(EMPTY_JSON, config_bytes), config_bytes);
    let layers = [with_data(maker.blob("text/plain", layer_bytes), layer_bytes)];
    let document = with(manifest(config, &layers), "artifactType", "application/vnd.example.data".into());
    maker.document(&document);
    let data = maker.end();

    // Unknown fields, the order of keys, white space and escapes: a program that encodes the document anew changes
    // them.
    let mut maker = Maker::new("custom-fields");
    let (config, layer) = (maker.config("amd64"), maker.layer(0, true));
    let text = format!(
        "{{\n\t\"x-before\": [1.50, 1e3, \"\\u00e9\\/\"],\n  \"layers\": [{layer}],\r\n \"config\" : {},\n \
         \"mediaType\":\"{}\",\n \"schemaVersion\":2, \"org.example.field\": {{\"b\":null,\"a\":true}}}}\n\n",
        with(config, "x-custom", json!({"deep": [{}]})),
        oci::MANIFEST,
    );
    maker.raw(oci::MANIFEST, text.into_bytes());
    let custom = maker.end();

    // The specification asks registries to accept 4 MiB.
    let mut maker = Maker::new("large-manifest");
    let (config, layers) = (maker.config("amd64"), [maker.layer(0, true)]);
    let filler = "x".repeat(3_900 << 10);
    maker.document(&with(manifest(config, &layers), "annotations", json!({"org.example.filler": filler})));
    let large = maker.end();

    let mut maker = Maker::new("many-layers");
    let layers: Vec<Value> = (0..40).map(|nth| maker.layer(nth, true)).collect();
    let config = maker.config("amd64");
    maker.document(&manifest(config, &layers));
    let many = maker.end();

    // zstd and an encrypted layer, which are bytes like all others.
    let mut maker = Maker::new("other-layers");
    let zstd = zstd::encode_all(&b"no tar at all"[..], 3).expect("to memory");
    let layers = [
        maker.blob(oci::LAYER[2], &zstd),
        maker.blob("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", b"a secret"),
    ];
    let config = maker.config("amd64");
    maker.document(&manifest(config, &layers));
    let other = maker.end();

    let mut maker = Maker::new("sha512");
    maker.algorithm = Algorithm::Sha512;
    maker.image("amd64");
    vec![data, custom, large, many, other, maker.end()]
}

/// Layers that are not in the registry, but at their URLs.
fn elsewhere() -> Vec<Artifact> {
    let make = |tag, media_type: &str, is_pushed: bool| {
        let mut maker = Maker::new(tag);
        let bytes = format!("the bytes of {tag}");
        let mut foreign = match is_pushed {
            true => maker.blob(media_type, bytes.as_bytes()),
            false => {
                let digest = Digest::of(bytes.as_bytes());
                json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
            }
        };
        foreign["urls"] = json!(["https://elsewhere.test/layer"]);
        let (mut layer, mut config) = (maker.layer(0, true), maker.config("amd64"));
        if media_type == DOCKER_FOREIGN {
            layer["mediaType"] = DOCKER_LAYER.into();
            config["mediaType"] = oci::DOCKER_CONFIG.into();
            let document = manifest(config, &[foreign, layer]);
            maker.document(&with(document, "mediaType", oci::DOCKER_MANIFEST.into()));
        } else {
            maker.document(&manifest(config, &[foreign, layer]));
        }
        maker.end()
    };
    vec![
        make("nondistributable", NONDISTRIBUTABLE, false),
        make("nondistributable-present", NONDISTRIBUTABLE, true),
        make("docker-foreign", DOCKER_FOREIGN, false),
    ]
}

fn dockers() -> Vec<Artifact> {
    let image = |maker: &mut Maker, architecture: &str| {
        let mut layers = [maker.layer(0, true), maker.layer(1, true)];
        layers.iter_mut().for_each(|layer| layer["mediaType"] = DOCKER_LAYER.into());
        let mut config = maker.config(architecture);
        config["mediaType"] = oci::DOCKER_CONFIG.into();
        let document = manifest(config, &layers);
        let mut descriptor = maker.document(&with(document, "mediaType", oci::DOCKER_MANIFEST.into()));
        descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
        descriptor
    };
    let mut schema2 = Maker::new("docker-schema2");
    image(&mut schema2, "amd64");
    let mut list = Maker::new("docker-list");
    let children = [image(&mut list, "amd64"), image(&mut list, "arm64")];
    list.document(&with(index(&children), "mediaType", oci::DOCKER_LIST.into()));
    vec![schema2.end(), list.end()]
}

impl Artifact {
    /// The tagged document.
    pub fn top(&self) -> &Document {
        self.documents.last().expect("an artifact has a document")
    }

    /// Pushes the artifact. The digest that the registry gives to the tagged document, if it has accepted everything.
    ///
    /// That digest may be another one than ours: docker-registry 2.8.2 knows a tagged document by its sha256, although
    /// blobs and documents that were pushed as sha512 keep their names.
    pub fn push(&self, client: &Client, repository: &str) -> Option<Digest> {
        for (digest, bytes) in &self.blobs {
            let stored = client.push_blob(repository, &digest.to_string(), bytes).status() == 201;
            if !stored || client.blob(repository, &digest.to_string()).as_ref() != Some(bytes) {
                return None;
            }
        }
        let mut stored = None;
        for (nth, document) in self.documents.iter().enumerate() {
            let digest = document.digest.to_string();
            let name = if nth + 1 == self.documents.len() { self.tag } else { &digest };
            if client.push_manifest(repository, name, &document.media_type, &document.bytes).status() != 201 {
                return None;
            }
            let answer = client.manifest(repository, name);
            stored = Digest::parse(answer.header("docker-content-digest")).ok();
            stored.as_ref().filter(|_| answer.status() == 200 && answer.body == document.bytes)?;
        }
        stored
    }
}

/// Pushes all artifacts to a repository; those that the registry has accepted.
pub fn push_all(client: &Client, repository: &str) -> Vec<Stored> {
    let push = |artifact: Artifact| {
        let digest = artifact.push(client, repository)?;
        Some(Stored { tag: artifact.tag.to_owned(), digest, bytes: artifact.top().bytes.clone() })
    };
    all().into_iter().filter_map(push).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_artifact_has_a_tag_of_its_own_and_valid_json() {
        let all = all();
        let tags: HashSet<&str> = all.iter().map(|artifact| artifact.tag).collect();
        assert_eq!(tags.len(), all.len());
        for artifact in &all {
            for document in &artifact.documents {
                let value: Value = serde_json::from_slice(&document.bytes).expect("JSON");
                assert_eq!(value["mediaType"], document.media_type.as_str(), "{}", artifact.tag);
                assert!(document.bytes.len() <= 4 << 20, "{}", artifact.tag);
            }
        }
    }

    #[test]
    fn the_corpus_is_the_same_each_time() {
        let digests = || all().iter().map(|artifact| artifact.top().digest.clone()).collect::<Vec<_>>();
        assert_eq!(digests(), digests());
    }
}
