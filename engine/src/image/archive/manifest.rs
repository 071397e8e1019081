//! The images of an archive or a layout, as its own documents list them.
//!
//! Reads `index.json` of an OCI image layout, or `manifest.json` of a docker archive. An archive that has both (docker
//! 25 and later) is read as a layout, which preserves the digests. This module checks the size of every document before
//! reading the document, and the digest afterwards. Called by [`crate::image::archive::load`]; stores nothing.

use crate::image::archive::source::{ArchiveError, Source, document};
use sampan_oci as oci;
use sampan_oci::digest::Digest;
use sampan_oci::platform::Platform;
use sampan_oci::reference::{Reference, ReferenceError};
use sampan_oci::{Config, Descriptor, Document, Index, Manifest, OciError};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Most images of one archive.
const IMAGES_MAX: usize = 1000;
/// Most names of one image.
const NAMES_MAX: usize = 1000;
/// Most levels of indexes that list other indexes.
const NESTING_MAX: usize = 3;
/// Annotation with an image's name in a layout, as the writer of the layout chose it.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation with an image's full name in a layout, as containerd and docker record it.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Why no image can be read from the archive.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file in the archive cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A document is not valid.
    #[error("cannot use {name:?} in the archive")]
    Document {
        /// Name of the document.
        name: String,
        /// Error of the parser.
        source: OciError,
    },
    /// The digest of a document differs from the digest in the document's name.
    #[error("{name:?} in the archive has digest {found}, expected {expected}")]
    Digest {
        /// Name of the document.
        name: String,
        /// Digest in the document's name.
        expected: Digest,
        /// Digest of the document's content.
        found: Digest,
    },
    /// An image's name is not a valid reference.
    #[error("an image in the archive has a name that is no reference")]
    Name(#[from] ReferenceError),
    /// No image has the name that the client selected.
    #[error("no image in the archive is called {wanted:?}; there are: {}", there.join(", "))]
    NoSuch {
        /// The selected name.
        wanted: String,
        /// The first few names in the archive.
        there: Vec<String>,
    },
    /// The archive has no image, has too many images, or breaks another rule; the text names the rule.
    #[error("{0}")]
    Refused(String),
}

/// Most names that [`ManifestError::NoSuch`] lists.
const NAMES_SHOWN_MAX: usize = 10;

fn no_such(wanted: &str, there: impl Iterator<Item = String>) -> ManifestError {
    let there = there.map(|name| name.chars().take(100).collect()).take(NAMES_SHOWN_MAX).collect();
    ManifestError::NoSuch { wanted: wanted.chars().take(300).collect(), there }
}

fn refused(why: impl Into<String>) -> ManifestError {
    ManifestError::Refused(why.into())
}

/// An image that the archive lists.
pub struct ListedImage {
    /// The image's names; may be empty.
    pub names: Vec<Reference>,
    /// Descriptor and bytes of the image's manifest; `None` for a docker archive, which has no manifests.
    pub manifest: Option<(Descriptor, Vec<u8>)>,
    /// Digest of the index that lists the image's manifest, if an index does.
    pub index: Option<Digest>,
    /// Bytes of the image's config.
    pub config: Vec<u8>,
    /// The image's config, parsed.
    pub parsed: Config,
    /// The image's layers, lowest first: each layer's name in the archive, and its descriptor from the manifest.
    pub layers: Vec<(String, Option<Descriptor>)>,
}

/// Which images of the archive to read.
pub struct Wanted<'a> {
    /// Read only the image of this name in the archive; `None` reads all images.
    pub select: Option<&'a str>,
    /// The platform to choose from an index.
    pub platform: &'a Platform,
    /// Whether the source is a directory, which must be an OCI image layout.
    pub is_layout: bool,
}

/// Reads the list of the images in an archive.
///
/// # Errors
/// [`ManifestError`]: a document cannot be read or is not valid, or no image is selected.
pub fn read(source: &mut dyn Source, wanted: &Wanted<'_>) -> Result<Vec<ListedImage>, ManifestError> {
    let offers = if source.resolve("index.json")?.is_some() && source.resolve("oci-layout")?.is_some() {
        layout(source, wanted)?
    } else if source.resolve("manifest.json")?.is_some() {
        docker(source, wanted)?
    } else if source.resolve("repositories")?.is_some() {
        return Err(refused(
            "the archive has no manifest.json: it is of docker before 1.10, which is not supported",
        ));
    } else if wanted.is_layout {
        return Err(refused("the directory is no OCI image layout: it has no oci-layout or no index.json"));
    } else {
        return Err(refused("the file is no image archive: it has neither manifest.json nor index.json"));
    };
    match offers.is_empty() {
        true if wanted.is_layout => Err(refused("the layout holds no image")),
        true => Err(refused("the archive holds no image")),
        false => Ok(offers),
    }
}

/// An image as `manifest.json` of a docker archive lists it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

fn docker(source: &mut dyn Source, wanted: &Wanted<'_>) -> Result<Vec<ListedImage>, ManifestError> {
    let bytes = document(source, "manifest.json", oci::MANIFEST_MAX)?;
    let json = |source| OciError::Json { what: "the list of images", source };
    let images: Vec<DockerImage> =
        serde_json::from_slice(&bytes).map_err(|e| unusable("manifest.json", json(e)))?;
    check_count(images.len())?;
    let tags = |image: &DockerImage| image.repo_tags.clone().unwrap_or_default();
    let is_wanted = |nth: usize, image: &DockerImage| {
        let called =
            |name: &str| name == format!("@{nth}") || tags(image).iter().any(|tag| is_called(tag, name));
        wanted.select.is_none_or(called)
    };
    if let Some(name) = wanted.select
        && !images.iter().enumerate().any(|(nth, image)| is_wanted(nth, image))
    {
        return Err(no_such(name, images.iter().flat_map(tags)));
    }
    let chosen = images.into_iter().enumerate().filter(|(nth, image)| is_wanted(*nth, image));
    chosen.map(|(_, image)| docker_image(source, image, wanted.select)).collect()
}

fn docker_image(
    source: &mut dyn Source,
    image: DockerImage,
    select: Option<&str>,
) -> Result<ListedImage, ManifestError> {
    let mut tags = image.repo_tags.unwrap_or_default();
    if let Some(select) = select.filter(|select| !select.starts_with('@')) {
        tags.retain(|tag| is_called(tag, select));
    }
    let names = references(tags.iter().map(String::as_str), Reference::parse)?;
    let config = document(source, &image.config, oci::CONFIG_MAX)?;
    if let Some(expected) = crate::image::archive::source::named_digest(&image.config) {
        compare(&image.config, &expected, &config)?;
    }
    let layers = image.layers.unwrap_or_default();
    if layers.len() > oci::LAYERS_MAX {
        let (count, most) = (layers.len(), oci::LAYERS_MAX);
        return Err(refused(format!(
            "an image in the archive has {count} layers, at most {most} can be mounted"
        )));
    }
    let parsed: Config = serde_json::from_slice(&config)
        .map_err(|source| unusable(&image.config, OciError::Json { what: "the image's config", source }))?;
    oci::check_platform(&parsed).map_err(|source| unusable(&image.config, source))?;
    let (diff_ids, count) = (parsed.rootfs.diff_ids.len(), layers.len());
    if diff_ids != count {
        return Err(refused(format!(
            "{:?} in the archive names {diff_ids} diff ids, manifest.json {count} layers",
            image.config
        )));
    }
    let layers = layers.into_iter().map(|layer| (layer, None)).collect();
    Ok(ListedImage { names, manifest: None, index: None, config, parsed, layers })
}

fn layout(source: &mut dyn Source, wanted: &Wanted<'_>) -> Result<Vec<ListedImage>, ManifestError> {
    let bytes = document(source, "index.json", oci::MANIFEST_MAX)?;
    let json = |source| OciError::Json { what: "the index", source };
    let index: Index = serde_json::from_slice(&bytes).map_err(|e| unusable("index.json", json(e)))?;
    check_count(index.manifests.len())?;
    let mut groups: BTreeMap<Option<String>, Vec<Descriptor>> = BTreeMap::new();
    let there: Vec<String> = index.manifests.iter().filter_map(name_of).map(str::to_owned).collect();
    for entry in index.manifests {
        let name = name_of(&entry).map(str::to_owned);
        let called = |select: &str| {
            name.as_deref().is_some_and(|name| is_called(name, select))
                || entry.annotations.get(REF_NAME).is_some_and(|name| is_called(name, select))
        };
        if wanted.select.is_none_or(called) {
            groups.entry(name).or_default().push(entry);
        }
    }
    if let Some(name) = wanted.select.filter(|_| groups.is_empty()) {
        return Err(no_such(name, there.into_iter()));
    }
    let mut offers: Vec<ListedImage> = Vec::new();
    for (name, entries) in groups {
        let names = references(name.as_deref(), local_reference)?;
        for entry in of_platform(entries, wanted.platform)? {
            let known = |offer: &&mut ListedImage| {
                offer.manifest.as_ref().is_some_and(|(m, _)| m.digest == entry.digest)
                    || offer.index.as_ref() == Some(&entry.digest)
            };
            // The list already has this image under another name: add only the new names.
            if let Some(offer) = offers.iter_mut().find(known) {
                offer.names.extend(names.iter().cloned());
                continue;
            }
            offers.push(layout_image(source, entry, names.clone(), wanted.platform)?);
        }
    }
    Ok(offers)
}

fn name_of(entry: &Descriptor) -> Option<&str> {
    let word = |key| entry.annotations.get(key).map(String::as_str).filter(|name| !name.is_empty());
    word(CONTAINERD_NAME).or_else(|| word(REF_NAME))
}

/// Several entries of one name are one image if each entry is for another platform; returns the entry for the wanted
/// platform.
fn of_platform(entries: Vec<Descriptor>, wanted: &Platform) -> Result<Vec<Descriptor>, ManifestError> {
    let mut platforms: Vec<String> =
        entries.iter().filter_map(|e| e.platform.as_ref()).map(|p| p.platform().to_string()).collect();
    platforms.sort();
    platforms.dedup();
    if entries.len() < 2 || platforms.len() != entries.len() {
        return Ok(entries);
    }
    let index = Index { schema_version: 2, media_type: oci::INDEX.to_owned(), manifests: entries };
    let chosen = oci::choose(&index, wanted).map_err(|source| unusable("index.json", source))?;
    Ok(vec![chosen.clone()])
}

/// Follows an entry of `index.json` to one manifest and its config.
fn layout_image(
    source: &mut dyn Source,
    entry: Descriptor,
    names: Vec<Reference>,
    platform: &Platform,
) -> Result<ListedImage, ManifestError> {
    let (mut at, mut index) = (entry, None);
    for _ in 0..=NESTING_MAX {
        let name = blob_name(&at.digest);
        let bytes = blob(source, &at, oci::MANIFEST_MAX)?;
        match oci::parse_document(&bytes, Some(&at.media_type)).map_err(|e| unusable(&name, e))? {
            Document::Index(list) => {
                let chosen = oci::choose(&list, platform).map_err(|e| unusable(&name, e))?;
                index = index.or(Some(at.digest));
                at = chosen.clone();
            }
            Document::Manifest(manifest) => {
                let config = blob(source, &manifest.config, oci::CONFIG_MAX)?;
                let name = blob_name(&manifest.config.digest);
                let parsed = oci::parse_config(&config, &manifest).map_err(|e| unusable(&name, e))?;
                let descriptor = descriptor(&manifest, &at.digest, &bytes);
                let layers = manifest.layers.into_iter().map(|l| (blob_name(&l.digest), Some(l))).collect();
                return Ok(ListedImage {
                    names,
                    manifest: Some((descriptor, bytes)),
                    index,
                    config,
                    parsed,
                    layers,
                });
            }
        }
    }
    Err(refused(format!("the index in the archive is nested more than {NESTING_MAX} deep")))
}

/// The entry of the manifest in the store's own index.
fn descriptor(manifest: &Manifest, digest: &Digest, bytes: &[u8]) -> Descriptor {
    let media_type = match (manifest.media_type.as_str(), manifest.config.media_type.as_str()) {
        ("", oci::DOCKER_CONFIG) => oci::DOCKER_MANIFEST,
        ("", _) => oci::MANIFEST,
        (declared, _) => declared,
    };
    Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.clone(),
        size: bytes.len() as u64,
        platform: None,
        annotations: BTreeMap::new(),
    }
}

fn blob(source: &mut dyn Source, descriptor: &Descriptor, max: u64) -> Result<Vec<u8>, ManifestError> {
    let name = blob_name(&descriptor.digest);
    let bytes = document(source, &name, max)?;
    compare(&name, &descriptor.digest, &bytes)?;
    match bytes.len() as u64 == descriptor.size {
        true => Ok(bytes),
        false => Err(refused(format!(
            "{name:?} in the archive has {} bytes, expected {}",
            bytes.len(),
            descriptor.size
        ))),
    }
}

fn compare(name: &str, expected: &Digest, bytes: &[u8]) -> Result<(), ManifestError> {
    let found = expected.algorithm().digest(bytes);
    if found == *expected {
        return Ok(());
    }
    Err(ManifestError::Digest { name: name.to_owned(), expected: expected.clone(), found })
}

/// The path of a blob in a layout. OCI image-spec, "Image Layout".
pub fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().word(), digest.hex())
}

fn unusable(name: &str, source: OciError) -> ManifestError {
    ManifestError::Document { name: name.to_owned(), source }
}

fn check_count(count: usize) -> Result<(), ManifestError> {
    if count > IMAGES_MAX {
        return Err(refused(format!("the archive lists {count} images, at most {IMAGES_MAX} are read")));
    }
    Ok(())
}

fn references<'a>(
    names: impl IntoIterator<Item = &'a str>,
    parse: impl Fn(&str) -> Result<Reference, ReferenceError>,
) -> Result<Vec<Reference>, ManifestError> {
    let mut references = Vec::new();
    for name in names {
        let reference = parse(name)?;
        // A reference with a digest promises that the registry has this content, which an archive cannot prove.
        if reference.digest().is_some() {
            return Err(refused(format!("an image in the archive is called {name:?}: a digest is no name")));
        }
        references.push(reference);
        if references.len() > NAMES_MAX {
            return Err(refused(format!("an image in the archive has more than {NAMES_MAX} names")));
        }
    }
    Ok(references)
}

/// Parses an image's name from a layout. If the name has no host, puts the host `localhost` in front of it, as
/// podman-load(1) does.
///
/// # Errors
/// [`ReferenceError`]: the name is no reference.
pub fn local_reference(name: &str) -> Result<Reference, ReferenceError> {
    let first = name.split_once('/').map_or("", |(first, _)| first);
    if first.contains(['.', ':', '[']) || first == "localhost" {
        return Reference::parse(name);
    }
    Reference::parse(&format!("localhost/{name}"))
}

/// Whether the name `name` in the archive matches the name `wanted` that a user gave.
fn is_called(name: &str, wanted: &str) -> bool {
    name == wanted || matches!((Reference::parse(name), Reference::parse(wanted)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_oci::PlatformField;

    #[test]
    fn a_name_without_a_host_is_below_localhost_and_one_with_a_host_is_itself() {
        let name = |text: &str| local_reference(text).expect("good").to_string();
        assert_eq!(name("v1"), "localhost/v1:latest");
        assert_eq!(name("a/b:1"), "localhost/a/b:1");
        assert_eq!(name("localhost/a:1"), "localhost/a:1");
        assert_eq!(name("quay.io/a/b:1"), "quay.io/a/b:1");
        assert_eq!(name("host:5000/a"), "host:5000/a:latest");
        assert!(local_reference("A b").is_err());
        assert!(is_called("docker.io/library/app:1", "app:1") && !is_called("localhost/app:1", "app:1"));
    }

    #[test]
    fn entries_of_one_name_are_one_image_only_if_each_is_for_another_platform() {
        let entry = |content: &str, arch: Option<&str>| Descriptor {
            media_type: oci::MANIFEST.to_owned(),
            digest: Digest::of(content.as_bytes()),
            size: 1,
            platform: arch.map(|arch| PlatformField::from(&Platform::of("linux", arch, None))),
            annotations: BTreeMap::new(),
        };
        let amd64 = Platform::of("linux", "amd64", None);
        let several = vec![entry("1", Some("arm64")), entry("2", Some("amd64"))];
        let chosen = of_platform(several.clone(), &amd64).expect("there");
        assert_eq!(chosen, several[1..]);
        for whole in [
            vec![entry("1", Some("amd64")), entry("2", Some("amd64"))],
            vec![entry("1", None), entry("2", None)],
        ] {
            assert_eq!(of_platform(whole.clone(), &amd64).expect("all"), whole);
        }
    }
}
