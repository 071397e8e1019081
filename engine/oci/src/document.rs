//! The documents of an image: index, manifest, config; read from untrusted bytes, and checked.
//!
//! OCI image-spec and Docker's schema 2 in one set of types. Accepts what runs as a container on Linux and
//! refuses the rest by name. Never fetches anything; whoever calls has compared the digest of the bytes.

use crate::digest::{Digest, Hasher};
use crate::platform::Platform;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest manifest or index, in bytes; the distribution-spec asks registries for as much.
pub const MANIFEST_MAX: u64 = 4 << 20;
/// Longest config, in bytes.
pub const CONFIG_MAX: u64 = 8 << 20;
/// Most layers of one image: what overlayfs mounts on one another.
pub const LAYERS_MAX: usize = 500;

/// Longest word of a platform, in bytes; they are kept in `index.json`, for all images in one file.
const WORD_MAX: usize = 64;

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

/// What a registry is told that we read.
pub const ACCEPT: [&str; 4] = [INDEX, DOCKER_LIST, MANIFEST, DOCKER_MANIFEST];

/// A pointer to content. OCI image-spec, "Content Descriptors".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    #[serde(default)]
    pub media_type: String,
    /// What the content's digest must be.
    pub digest: Digest,
    /// How many bytes it must have.
    pub size: u64,
    /// What the image was made for, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformField>,
    /// Words about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// `platform` of a descriptor; artifacts leave its words empty, or away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformField {
    /// See [`Platform::architecture`].
    #[serde(default)]
    pub architecture: String,
    /// See [`Platform::os`].
    #[serde(default)]
    pub os: String,
    /// See [`Platform::variant`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl PlatformField {
    /// The platform that the words name.
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
    /// Always 2.
    pub schema_version: u32,
    /// [`INDEX`] or [`DOCKER_LIST`].
    #[serde(default)]
    pub media_type: String,
    /// Its entries.
    pub manifests: Vec<Descriptor>,
}

/// An image's manifest. OCI image-spec, "Image Manifest".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// [`MANIFEST`] or [`DOCKER_MANIFEST`].
    #[serde(default)]
    pub media_type: String,
    /// The image's config.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

impl Manifest {
    /// Bytes of config and layers.
    pub fn content_size(&self) -> u64 {
        self.layers.iter().fold(self.config.size, |sum, layer| sum.saturating_add(layer.size))
    }
}

/// The OCI manifest of the same config, layers and annotations as a schema 2 manifest: the same bytes each time.
/// `None` if it is no such manifest, or has a media type that OCI has no counterpart of.
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

/// An index or a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Several images.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

/// What is read of an image's config. OCI image-spec, "Image Configuration".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// When it was made; RFC 3339, and optional.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// See [`Platform::architecture`].
    #[serde(default)]
    pub architecture: String,
    /// See [`Platform::os`].
    #[serde(default)]
    pub os: String,
    /// See [`Platform::variant`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// How a container of it runs.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub config: Run,
    /// Its layers, unpacked.
    pub rootfs: RootFs,
    /// How it came about.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub history: Vec<History>,
}

/// `config` of an image's config: what the engine itself reads or writes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Run {
    /// `KEY=value` environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    /// Default command.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub cmd: Vec<String>,
    /// What stands before the command.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub entrypoint: Vec<String>,
    /// `user[:group]`, names or numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// The signal that stops it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Words of the image's owner.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// `rootfs` of an image's config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Digests of the unpacked tars, lowest first.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub diff_ids: Vec<Digest>,
}

/// An entry of an image config's history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
}

impl Config {
    /// When the image was made, in nanoseconds since the epoch; `None` if it does not say.
    pub fn created_nanos(&self) -> Option<i64> {
        self.created.as_deref().and_then(crate::timestamp::parse)
    }

    /// The platform that it says it is for.
    pub fn platform(&self) -> Platform {
        Platform::of(&self.os, &self.architecture, self.variant.as_deref())
    }

    /// The chain id of each layer, lowest first. OCI image-spec, "Layer ChainID".
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

/// A document that is no image that runs here.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// The JSON is broken, or a field is missing or wrong.
    #[error("cannot read {what}")]
    Json {
        /// Which document.
        what: &'static str,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// Well-formed, and refused.
    #[error("{0}")]
    Refused(String),
    /// An index without an image for the platform that is wanted.
    #[error("no image for {wanted} in the index; {}", offer(there))]
    Platform {
        /// The platform that is wanted.
        wanted: Box<Platform>,
        /// Some of those that there are, sorted.
        there: Box<[String]>,
    },
}

fn offer(there: &[String]) -> String {
    match there {
        [] => "it names no platform at all".to_owned(),
        some => format!("there are: {}", some.join(", ")),
    }
}

fn refused(why: impl Into<String>) -> OciError {
    OciError::Refused(why.into())
}

/// What decides which kind of document some bytes are.
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

/// Reads an index or a manifest. `content_type` is what the registry called it, parameters and all.
///
/// # Errors
/// [`OciError::Json`] for broken documents, [`OciError::Refused`] for schema 1, artifacts, documents that are
/// two things at once, and layers that are no tars.
pub fn parse_document(bytes: &[u8], content_type: Option<&str>) -> Result<Document, OciError> {
    check_object("the manifest", bytes)?;
    let json = |source| OciError::Json { what: "the manifest", source };
    let shape: Shape = serde_json::from_slice(bytes).map_err(json)?;
    if shape.fs_layers.is_some() || shape.schema_version == Some(1) {
        return Err(refused(
            "the manifest is of schema 1, which is obsolete; the image must be pushed again by a newer tool",
        ));
    }
    if shape.schema_version.is_some_and(|v| v != 2) {
        return Err(refused("the manifest's schemaVersion is not 2"));
    }
    // One that is read as an index by one tool and as a manifest by another is a known attack.
    if shape.manifests.is_some() && (shape.layers.is_some() || shape.config.is_some()) {
        return Err(refused("the manifest has both 'manifests' and 'layers' or 'config'"));
    }
    let declared = shape.media_type.as_deref().filter(|t| !t.is_empty());
    let served = content_type.map(|t| t.split(';').next().unwrap_or(t).trim());
    let is_list = |t: &str| t == INDEX || t == DOCKER_LIST;
    let is_manifest = |t: &str| t == MANIFEST || t == DOCKER_MANIFEST;
    if let Some(kind) = declared.filter(|t| !is_list(t) && !is_manifest(t)) {
        return Err(refused(format!("the manifest is of media type {kind:?}, which is no container image")));
    }
    if shape.manifests.is_some() {
        if declared.or(served).is_some_and(is_manifest) {
            return Err(refused("the manifest is called a manifest and holds a list"));
        }
        return serde_json::from_slice(bytes).map(Document::Index).map_err(json);
    }
    if declared.or(served).is_some_and(is_list) {
        return Err(refused("the manifest is called an index and holds no 'manifests'"));
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
        return Err(refused(format!("the image's config has {size} bytes, at most {CONFIG_MAX} are read")));
    }
    if manifest.layers.len() > LAYERS_MAX {
        let count = manifest.layers.len();
        return Err(refused(format!("the image has {count} layers, at most {LAYERS_MAX} can be mounted")));
    }
    for layer in &manifest.layers {
        let kind = layer.media_type.as_str();
        if kind.contains("nondistributable") || kind.contains(".foreign.") {
            return Err(refused(format!("layer {} is kept elsewhere by its vendor ({kind})", layer.digest)));
        }
        if !LAYER.contains(&kind) && !DOCKER_LAYER.contains(&kind) {
            return Err(refused(format!(
                "layer {} is of media type {kind:?}, which is no tar, gzip or zstd",
                layer.digest
            )));
        }
    }
    let total = manifest.layers.iter().try_fold(0u64, |sum, layer| sum.checked_add(layer.size));
    if total.is_none_or(|sum| sum > i64::MAX as u64) {
        return Err(refused("the layers' sizes add up to more than any disk holds"));
    }
    Ok(())
}

/// Reads an image's config and checks it against its manifest.
///
/// # Errors
/// [`OciError::Refused`] if it has not as many diff ids as the manifest has layers.
pub fn parse_config(bytes: &[u8], manifest: &Manifest) -> Result<Config, OciError> {
    check_object("the image's config", bytes)?;
    let config: Config = serde_json::from_slice(bytes)
        .map_err(|source| OciError::Json { what: "the image's config", source })?;
    let (diff_ids, layers) = (config.rootfs.diff_ids.len(), manifest.layers.len());
    if diff_ids != layers {
        return Err(refused(format!(
            "the image's config names {diff_ids} diff ids, its manifest {layers} layers"
        )));
    }
    check_platform(&config)?;
    Ok(config)
}

/// Refuses what is no JSON object: a page for people, say, or a list, which would be read as the fields in order.
fn check_object(what: &str, bytes: &[u8]) -> Result<(), OciError> {
    match bytes.trim_ascii_start().first() {
        Some(b'{') => Ok(()),
        None => Err(refused(format!("{what} is empty"))),
        Some(_) => Err(refused(format!("{what} is no JSON object"))),
    }
}

/// Refuses a config whose platform is no words but a text.
///
/// # Errors
/// [`OciError::Refused`].
pub fn check_platform(config: &Config) -> Result<(), OciError> {
    let variant = config.variant.as_deref().unwrap_or_default();
    match [config.os.as_str(), &config.architecture, variant].iter().any(|word| word.len() > WORD_MAX) {
        true => Err(refused(format!(
            "the image's config names a platform in words of more than {WORD_MAX} bytes"
        ))),
        false => Ok(()),
    }
}

/// Picks the entry of `index` that fits `wanted` best.
///
/// # Errors
/// [`OciError::Platform`] with the platforms that there are.
pub fn choose<'a>(index: &'a Index, wanted: &Platform) -> Result<&'a Descriptor, OciError> {
    let known = |d: &&Descriptor| {
        matches!(d.media_type.as_str(), "" | INDEX | DOCKER_LIST | MANIFEST | DOCKER_MANIFEST)
    };
    let usable: Vec<&Descriptor> = index.manifests.iter().filter(known).collect();
    let ranked = usable.iter().filter_map(|d| {
        let rank = match &d.platform {
            Some(p) => wanted.rank(&p.platform())?,
            // No word about the platform: its config decides, if nothing better is there.
            None => 1000,
        };
        Some((rank, *d))
    });
    // The first of equals wins, as the spec asks.
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

/// JSON writers in Go say `null` for an empty list or map.
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
        assert!(why(&manifest(CONFIG, LAYER[1]), Some(INDEX)).contains("called an index"));
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
