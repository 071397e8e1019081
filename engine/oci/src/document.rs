//! The documents of an image (index, manifest, config), parsed from untrusted bytes and checked.
//!
//! One set of types covers OCI image-spec and Docker's schema 2. Accepts images that can run as Linux containers; for
//! anything else, the error says what the document is. Never fetches a document and never checks its digest: callers
//! compare the digest first.

use crate::digest::{Digest, Hasher};
use crate::platform::Platform;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest manifest or index, in bytes. Clients and registries should support this size: OCI distribution-spec,
/// "Pushing Manifests".
pub const MANIFEST_MAX: u64 = 4 << 20;
/// Longest config, in bytes.
pub const CONFIG_MAX: u64 = 8 << 20;
/// Most layers of one image: overlayfs accepts at most 500 lower directories.
pub const LAYERS_MAX: usize = 500;

/// Longest operating system, architecture or variant, in bytes: `index.json` of the store holds them for all images.
const PLATFORM_WORD_MAX: usize = 64;

/// Media type of an OCI index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an OCI manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI config.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of a Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Media type of a Docker manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of a Docker config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Media types of OCI layers: plain, gzip, zstd.
pub const LAYER: [&str; 3] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
];
const DOCKER_LAYER: [&str; 3] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// The media types of the `Accept` header in a request for a manifest.
pub const ACCEPT: [&str; 4] = [INDEX, DOCKER_LIST, MANIFEST, DOCKER_MANIFEST];

/// A reference to content by digest. OCI image-spec, "Content Descriptors".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type of the content.
    #[serde(default)]
    pub media_type: String,
    /// The digest that the content must have.
    pub digest: Digest,
    /// The number of bytes that the content must have.
    pub size: u64,
    /// The platform that an image in an index was built for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformField>,
    /// Annotations of the content.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The `platform` field of a descriptor. In descriptors of artifacts its members may be empty or missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformField {
    /// The architecture, as in [`Platform::architecture`].
    #[serde(default)]
    pub architecture: String,
    /// The operating system, as in [`Platform::os`].
    #[serde(default)]
    pub os: String,
    /// The variant, as in [`Platform::variant`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl PlatformField {
    /// The platform, in normalized spelling.
    pub fn platform(&self) -> Platform {
        Platform::of(&self.os, &self.architecture, self.variant.as_deref())
    }
}

impl From<&Platform> for PlatformField {
    fn from(p: &Platform) -> Self {
        PlatformField { architecture: p.architecture.clone(), os: p.os.clone(), variant: p.variant.clone() }
    }
}

/// A list of manifests. OCI image-spec, "Image Index".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// The version of the schema, always 2.
    pub schema_version: u32,
    /// The media type: [`INDEX`] or [`DOCKER_LIST`].
    #[serde(default)]
    pub media_type: String,
    /// The descriptors of the manifests.
    pub manifests: Vec<Descriptor>,
}

/// An image's manifest. OCI image-spec, "Image Manifest".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The version of the schema, always 2.
    pub schema_version: u32,
    /// The media type: [`MANIFEST`] or [`DOCKER_MANIFEST`].
    #[serde(default)]
    pub media_type: String,
    /// The descriptor of the image's config.
    pub config: Descriptor,
    /// The descriptors of the layers, lowest first.
    pub layers: Vec<Descriptor>,
}

impl Manifest {
    /// The bytes of the config and all layers together.
    pub fn content_size(&self) -> u64 {
        self.layers.iter().fold(self.config.size, |sum, layer| sum.saturating_add(layer.size))
    }
}

/// Converts a Docker schema 2 manifest to an OCI manifest with equal config, layers and annotations. Equal input gives
/// equal bytes. `None` if `docker` is not such a manifest, or if OCI has no counterpart for a layer's media type.
pub fn to_oci_manifest(docker: &[u8]) -> Option<Vec<u8>> {
    let mut manifest: serde_json::Value = serde_json::from_slice(docker).ok()?;
    let fields = manifest.as_object_mut()?;
    fields.insert("mediaType".to_owned(), MANIFEST.into());
    fields.get_mut("config")?.as_object_mut()?.insert("mediaType".to_owned(), CONFIG.into());
    for layer in fields.get_mut("layers")?.as_array_mut()? {
        let kind = layer.get("mediaType")?.as_str()?;
        if !LAYER.contains(&kind) {
            let at = DOCKER_LAYER.iter().position(|known| *known == kind)?;
            layer.as_object_mut()?.insert("mediaType".to_owned(), LAYER.get(at).copied()?.into());
        }
    }
    serde_json::to_vec(&manifest).ok()
}

/// A parsed index or manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// An index: a list of images.
    Index(Index),
    /// The manifest of one image.
    Manifest(Manifest),
}

/// An image's config, as far as the engine reads it. OCI image-spec, "Image Configuration".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The time at which the image was built, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The architecture, as in [`Platform::architecture`].
    #[serde(default)]
    pub architecture: String,
    /// The operating system, as in [`Platform::os`].
    #[serde(default)]
    pub os: String,
    /// The variant, as in [`Platform::variant`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The defaults for containers of the image.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub config: Run,
    /// The digests of the unpacked layers.
    pub rootfs: RootFs,
    /// The steps in which the image was built.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub history: Vec<History>,
}

/// The `config` field of an image's config, as far as the engine reads or writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Run {
    /// The environment, as `KEY=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    /// The default command, or the default arguments of the entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub cmd: Vec<String>,
    /// The program and first arguments; the command follows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub entrypoint: Vec<String>,
    /// The user that the container runs as: `user[:group]`, names or numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// The signal that asks the container to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// The labels of the image.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The ports that the image's program listens on, `80/tcp` for example; the values have no meaning.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// Directories with data of the image's program; the values have no meaning.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub volumes: BTreeMap<String, serde_json::Value>,
}

/// The `rootfs` field of an image's config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// The type of the root file system, always `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The digest of each layer's uncompressed tar, lowest layer first.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub diff_ids: Vec<Digest>,
}

/// One build step in an image config's history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The time of the step, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command of the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// The comment on the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the step made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

impl Config {
    /// The time at which the image was built, in nanoseconds since the epoch; `None` if it is missing or invalid.
    pub fn created_nanos(&self) -> Option<i64> {
        self.created.as_deref().and_then(crate::timestamp::parse)
    }

    /// The platform that the config names.
    pub fn platform(&self) -> Platform {
        Platform::of(&self.os, &self.architecture, self.variant.as_deref())
    }

    /// The chain ID of each layer, lowest first. OCI image-spec, "Layer ChainID".
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.rootfs.diff_ids.len());
        for diff_id in &self.rootfs.diff_ids {
            let next = match chain.last() {
                None => diff_id.clone(),
                Some(below) => {
                    let mut hasher = Hasher::new(crate::digest::Algorithm::Sha256);
                    hasher.update(format!("{below} {diff_id}").as_bytes());
                    hasher.finish()
                }
            };
            chain.push(next);
        }
        chain
    }
}

/// Why a document does not describe an image that can run here.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// The JSON is malformed, or a field is missing or has the wrong type.
    #[error("cannot read {what}")]
    Json {
        /// The document: manifest or config.
        what: &'static str,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// The document is well-formed but not accepted; the text says why.
    #[error("{0}")]
    Refused(String),
    /// The index has no image for the requested platform.
    #[error("no image for {wanted} in the index; {}", list_platforms(there))]
    Platform {
        /// The requested platform.
        wanted: Box<Platform>,
        /// Platforms in the index, sorted; at most 20.
        there: Box<[String]>,
    },
}

fn list_platforms(there: &[String]) -> String {
    match there {
        [] => "it names no platform".to_owned(),
        some => format!("there are: {}", some.join(", ")),
    }
}

fn refused(why: impl Into<String>) -> OciError {
    OciError::Refused(why.into())
}

/// The fields that show which kind of document the bytes are.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    schema_version: Option<u32>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

/// Parses an index or a manifest. `content_type` is the registry's `Content-Type` header, with any parameters.
///
/// # Errors
/// [`OciError::Json`]: the document is malformed. [`OciError::Refused`]: it is of schema 1, an artifact, both index and
/// manifest, has too many layers or too large a config, or a layer is not a tar.
pub fn parse_document(bytes: &[u8], content_type: Option<&str>) -> Result<Document, OciError> {
    check_object("the manifest", bytes)?;
    let json = |source| OciError::Json { what: "the manifest", source };
    let shape: Shape = serde_json::from_slice(bytes).map_err(json)?;
    if shape.fs_layers.is_some() || shape.schema_version == Some(1) {
        return Err(refused(
            "the manifest is of schema 1, which is obsolete; the image must be pushed again with a newer tool",
        ));
    }
    if shape.schema_version.is_some_and(|v| v != 2) {
        return Err(refused("the manifest's schemaVersion is not 2"));
    }
    // A document that one tool reads as an index and another as a manifest could show each of them another image:
    // a known attack (CVE-2021-41190).
    if shape.manifests.is_some() && (shape.layers.is_some() || shape.config.is_some()) {
        return Err(refused("the manifest has both 'manifests' and 'layers' or 'config'"));
    }
    let declared = shape.media_type.as_deref().filter(|t| !t.is_empty());
    let served = content_type.map(|t| t.split(';').next().unwrap_or(t).trim());
    let is_list = |t: &str| t == INDEX || t == DOCKER_LIST;
    let is_manifest = |t: &str| t == MANIFEST || t == DOCKER_MANIFEST;
    if let Some(kind) = declared.filter(|t| !is_list(t) && !is_manifest(t)) {
        return Err(refused(format!(
            "the manifest is of media type {kind:?}, which is not a container image"
        )));
    }
    if shape.manifests.is_some() {
        if declared.or(served).is_some_and(is_manifest) {
            return Err(refused(
                "the document has the media type of a manifest, but the 'manifests' of an index",
            ));
        }
        return serde_json::from_slice(bytes).map(Document::Index).map_err(json);
    }
    if declared.or(served).is_some_and(is_list) {
        return Err(refused("the document has the media type of an index, but no 'manifests'"));
    }
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(json)?;
    check_manifest(&manifest, shape.artifact_type.as_deref())?;
    Ok(Document::Manifest(manifest))
}

fn check_manifest(manifest: &Manifest, artifact: Option<&str>) -> Result<(), OciError> {
    let config = manifest.config.media_type.as_str();
    if config != CONFIG && config != DOCKER_CONFIG {
        let kind = artifact.unwrap_or(config);
        return Err(refused(format!("it is an artifact of type {kind:?}, not a container image")));
    }
    if manifest.config.size > CONFIG_MAX {
        let size = manifest.config.size;
        return Err(refused(format!(
            "the image's config has {size} bytes; at most {CONFIG_MAX} are allowed"
        )));
    }
    if manifest.layers.len() > LAYERS_MAX {
        let count = manifest.layers.len();
        return Err(refused(format!("the image has {count} layers; at most {LAYERS_MAX} can be mounted")));
    }
    for layer in &manifest.layers {
        let kind = layer.media_type.as_str();
        if kind.contains("nondistributable") || kind.contains(".foreign.") {
            return Err(refused(format!(
                "layer {} is not in the registry: only its vendor distributes it ({kind})",
                layer.digest
            )));
        }
        if !LAYER.contains(&kind) && !DOCKER_LAYER.contains(&kind) {
            return Err(refused(format!(
                "layer {} is of media type {kind:?}, which is not a tar, gzip or zstd",
                layer.digest
            )));
        }
    }
    let total = manifest.layers.iter().try_fold(0u64, |sum, layer| sum.checked_add(layer.size));
    if total.is_none_or(|sum| sum > i64::MAX as u64) {
        return Err(refused("the sum of the layers' sizes is out of range"));
    }
    Ok(())
}

/// Parses an image's config and checks it against its manifest.
///
/// # Errors
/// [`OciError::Json`]: the config is malformed. [`OciError::Refused`]: the number of its diff IDs is not the number of
/// the manifest's layers, or [`check_platform`] refuses it.
pub fn parse_config(bytes: &[u8], manifest: &Manifest) -> Result<Config, OciError> {
    check_object("the image's config", bytes)?;
    let config: Config = serde_json::from_slice(bytes)
        .map_err(|source| OciError::Json { what: "the image's config", source })?;
    let (diff_ids, layers) = (config.rootfs.diff_ids.len(), manifest.layers.len());
    if diff_ids != layers {
        return Err(refused(format!(
            "the image's config has {diff_ids} diff ids, but its manifest has {layers} layers"
        )));
    }
    check_platform(&config)?;
    Ok(config)
}

/// Refuses bytes that are not a JSON object: an HTML page, for example, or a JSON list, which serde would accept as a
/// struct's fields in order.
fn check_object(what: &str, bytes: &[u8]) -> Result<(), OciError> {
    match bytes.trim_ascii_start().first() {
        Some(b'{') => Ok(()),
        None => Err(refused(format!("{what} is empty"))),
        Some(_) => Err(refused(format!("{what} is not a JSON object"))),
    }
}

/// Checks the lengths of a config's operating system, architecture and variant.
///
/// # Errors
/// [`OciError::Refused`]: one of them has more than 64 bytes.
pub fn check_platform(config: &Config) -> Result<(), OciError> {
    let variant = config.variant.as_deref().unwrap_or_default();
    let words = [config.os.as_str(), &config.architecture, variant];
    match words.iter().any(|word| word.len() > PLATFORM_WORD_MAX) {
        true => Err(refused(format!(
            "the image's config has an os, architecture or variant of more than {PLATFORM_WORD_MAX} bytes"
        ))),
        false => Ok(()),
    }
}

/// Chooses the entry of `index` that fits the platform `wanted` best.
///
/// # Errors
/// [`OciError::Platform`]: no entry fits; the error lists the platforms in the index.
pub fn choose<'a>(index: &'a Index, wanted: &Platform) -> Result<&'a Descriptor, OciError> {
    let known = |d: &&Descriptor| {
        matches!(d.media_type.as_str(), "" | INDEX | DOCKER_LIST | MANIFEST | DOCKER_MANIFEST)
    };
    let usable: Vec<&Descriptor> = index.manifests.iter().filter(known).collect();
    let ranked = usable.iter().filter_map(|d| {
        let rank = match &d.platform {
            Some(p) => wanted.rank(&p.platform())?,
            // An entry without a platform is the last choice. Its config names the platform.
            None => 1000,
        };
        Some((rank, *d))
    });
    // Of equal entries the first wins, as the specification demands: OCI image-spec, "Image Index", manifests.
    if let Some((_, found)) = ranked.min_by_key(|(rank, _)| *rank) {
        return Ok(found);
    }
    let mut offered: Vec<String> =
        usable.iter().filter_map(|d| d.platform.as_ref()).map(|p| p.platform().to_string()).collect();
    offered.sort();
    offered.dedup();
    offered.retain(|p| p != "unknown/unknown");
    offered.truncate(20);
    Err(OciError::Platform { wanted: Box::new(wanted.clone()), there: offered.into() })
}

/// Deserializes `null` as an empty list or map: encoders in Go write `null` for both.
fn null_is_empty<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(c: char) -> String {
        format!("sha256:{}", c.to_string().repeat(64))
    }

    fn manifest(config_type: &str, layer_type: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{config_type}","digest":"{}","size":2}},
            "layers":[{{"mediaType":"{layer_type}","digest":"{}","size":3,"annotations":null}}]}}"#,
            digest('a'),
            digest('b')
        )
    }

    fn why(bytes: &str, content_type: Option<&str>) -> String {
        match parse_document(bytes.as_bytes(), content_type) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn oci_and_docker_manifests_are_read_with_or_without_parameters_in_the_content_type() {
        let oci = manifest(CONFIG, LAYER[2]);
        assert!(
            matches!(parse_document(oci.as_bytes(), None), Ok(Document::Manifest(m)) if m.content_size() == 5)
        );
        let docker = manifest(DOCKER_CONFIG, DOCKER_LAYER[1]);
        assert_eq!(
            why(&docker, Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8")),
            "accepted"
        );
    }

    #[test]
    fn what_is_no_container_image_is_refused_by_name() {
        assert!(why(r#"{"schemaVersion":1,"fsLayers":[]}"#, None).contains("schema 1"));
        assert!(why(&manifest("application/vnd.cncf.helm.config.v1+json", LAYER[0]), None).contains("helm"));
        assert!(why(&manifest(CONFIG, "application/x-thing"), None).contains("application/x-thing"));
        assert!(why(&manifest(CONFIG, LAYER[1]), Some(INDEX)).contains("media type of an index"));
        assert!(why(r#"{"manifests":[],"layers":[]}"#, None).contains("both"));
        assert!(why("{", None).contains("cannot read the manifest"));
        let short = manifest(CONFIG, LAYER[1]).replace(&digest('b'), "sha256:bb");
        assert!(why(&short, None).contains("cannot read"));
    }

    #[test]
    fn a_config_needs_as_many_diff_ids_as_there_are_layers() {
        let Ok(Document::Manifest(m)) = parse_document(manifest(CONFIG, LAYER[1]).as_bytes(), None) else {
            panic!("a manifest");
        };
        let one = format!(
            r#"{{"rootfs":{{"type":"layers","diff_ids":["{}"]}},"config":null,"history":null}}"#,
            digest('c')
        );
        let config = parse_config(one.as_bytes(), &m).expect("no created, and good");
        assert_eq!(config.created_nanos(), None);
        assert_eq!(config.chain_ids()[0].to_string(), digest('c'));
        assert!(
            parse_config(br#"{"rootfs":{"diff_ids":null}}"#, &m)
                .expect_err("none")
                .to_string()
                .contains("0 diff ids")
        );
    }

    #[test]
    fn the_entry_of_an_index_that_fits_best_is_chosen() {
        let entry = |c: char, os: &str, arch: &str| {
            format!(
                r#"{{"mediaType":"{MANIFEST}","digest":"{}","size":1,"platform":{{"os":"{os}","architecture":"{arch}"}}}}"#,
                digest(c)
            )
        };
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{},{}]}}"#,
            entry('1', "unknown", "unknown"),
            entry('2', "linux", "arm64"),
            entry('3', "linux", "amd64")
        );
        let Ok(Document::Index(index)) = parse_document(text.as_bytes(), Some(INDEX)) else {
            panic!("an index")
        };
        let chosen = choose(&index, &Platform::of("linux", "amd64", None)).expect("there");
        assert_eq!(chosen.digest.to_string(), digest('3'));
        let error = choose(&index, &Platform::of("linux", "s390x", None)).expect_err("not there").to_string();
        assert!(error.ends_with("there are: linux/amd64, linux/arm64"), "{error}");
    }
}
