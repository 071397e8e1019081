//! The images of the store: finding, naming, tagging and removing them.
//!
//! An image is the manifest of one platform. `index.json` has one entry for each reference of an image, or one entry
//! for an image without a reference. If the image was chosen from an OCI index, an annotation keeps the digest of that
//! index, and the index itself is not stored. Called by the engine's jobs; never uses the network.

use crate::durability::Generation;
use crate::error::StoreError;
use crate::gc::Swept;
use crate::index::{self, REF_NAME, name_of};
use crate::store::{Pin, Store};
use crate::sync::{DurableCommit, commit_image, wait_until_durable};
use sampan_ipc::engine::Image;
use sampan_oci as oci;
use sampan_oci::digest::Digest;
use sampan_oci::reference::Reference;
use sampan_oci::{Config, Descriptor, Document, Index, Manifest, PlatformField};
use sampan_os::mutex::lock;
use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

/// The annotation with the digest of the index that an image was chosen from.
pub(crate) const INDEX_DIGEST: &str = "sampan.index.digest";
/// Fewest hex digits of a digest or ID that a user may type for an image.
const PREFIX_MIN: usize = 4;
/// Most containers that an error message names.
const LISTED_MAX: usize = 10;

/// Why an image cannot be found or changed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The manifest or config of an image is not valid.
    #[error("image {digest} of the store cannot be read")]
    Unreadable {
        /// Digest of the image's manifest.
        digest: Digest,
        /// The error in the document.
        source: oci::OciError,
    },
    /// No image has the name.
    #[error("image {0:?} is not in the local store")]
    NotFound(String),
    /// Several images have a digest or ID that begins with the typed digits.
    #[error("{name:?} stands for {count} images")]
    Ambiguous {
        /// The digits that the user typed.
        name: String,
        /// Number of images that match.
        count: usize,
    },
    /// The request names an image by its ID, and the image has several references.
    #[error("image {name} has {count} references")]
    SeveralReferences {
        /// What the request called the image.
        name: String,
        /// Number of the image's references.
        count: usize,
    },
    /// Containers use the image.
    #[error("image {name} is in use by {}", list_containers(containers))]
    InUse {
        /// What the request called the image.
        name: String,
        /// The names of the containers.
        containers: Vec<String>,
    },
    /// A new name is not a valid reference.
    #[error(transparent)]
    Reference(#[from] oci::reference::ReferenceError),
}

/// `container A`, or `containers A, B and 3 more`.
fn list_containers(containers: &[String]) -> String {
    let some = containers.iter().take(LISTED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match (containers.len(), containers.len().saturating_sub(LISTED_MAX)) {
        (1, _) => format!("container {some}"),
        (_, 0) => format!("containers {some}"),
        (_, more) => format!("containers {some} and {more} more"),
    }
}

/// An image that is to be committed.
pub struct NewImage<'a> {
    /// The full reference of the image.
    pub reference: &'a Reference,
    /// Media type, digest and size of the manifest.
    pub manifest: Descriptor,
    /// The platform that the image is for.
    pub platform: PlatformField,
    /// Digest of the index that the image was chosen from.
    pub index: Option<Digest>,
    /// The value of [`Store::generation`] when the job began.
    pub since: Generation,
}

/// An image of the store with its documents.
pub struct Loaded {
    /// The references of the image, sorted.
    pub references: Vec<String>,
    /// The first entry of the image in `index.json`.
    pub entry: Descriptor,
    /// The manifest of the image.
    pub manifest: Manifest,
    /// The config of the image.
    pub config: Config,
}

/// The result of [`remove`].
#[derive(Debug, Default)]
pub struct Removed {
    /// Digest of the image's manifest.
    pub digest: String,
    /// The image's ID; empty if the image's documents cannot be read.
    pub id: String,
    /// The references that were removed.
    pub untagged: Vec<String>,
    /// Whether the image itself was removed.
    pub deleted: bool,
    /// The labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Bytes of disk space that were freed.
    pub freed: u64,
}

/// Adds an image to the index. The store must already have all blobs and layers of the image. The image can be used at
/// once; it is durable after the next [`Store::make_durable`].
///
/// If another image had the reference, that image loses the reference and stays in the store, even without any
/// reference. Returns true if the image already had the reference, so that nothing changed.
///
/// # Errors
/// [`StoreError`] if the index cannot be read or written. After an error the index is unchanged.
pub fn commit(store: &Store, new: NewImage<'_>) -> Result<bool, StoreError> {
    let reference = new.reference.to_string();
    // Call this before taking the commit lock, because it may wait for the disk.
    store.prepare_commit()?;
    let commit = lock(&store.commit);
    let index = index::read(store)?;
    let mut annotations = BTreeMap::from([(REF_NAME.to_owned(), reference.clone())]);
    if let Some(digest) = &new.index {
        annotations.insert(INDEX_DIGEST.to_owned(), digest.to_string());
    }
    let entry = Descriptor { annotations, platform: Some(new.platform), ..new.manifest };
    touch(store, &entry.digest);
    if index.manifests.contains(&entry) {
        drop(commit);
        wait_until_durable(store, new.since);
        return Ok(true);
    }
    commit_image(store, index, |index| put(index, entry, &reference))?;
    Ok(false)
}

/// Adds an image without a reference to the index, like [`commit`]. If the store already has the image, it keeps its
/// references.
///
/// # Errors
/// [`StoreError`] if the index cannot be read or written. After an error the index is unchanged.
pub fn commit_nameless(
    store: &Store,
    manifest: Descriptor,
    platform: PlatformField,
    from_index: Option<Digest>,
    since: Generation,
) -> Result<bool, StoreError> {
    store.prepare_commit()?;
    let commit = lock(&store.commit);
    let index = index::read(store)?;
    if index.manifests.iter().any(|entry| entry.digest == manifest.digest) {
        drop(commit);
        wait_until_durable(store, since);
        return Ok(true);
    }
    let annotations = from_index.map(|digest| (INDEX_DIGEST.to_owned(), digest.to_string()));
    let annotations = annotations.into_iter().collect();
    let entry = Descriptor { annotations, platform: Some(platform), ..manifest };
    commit_image(store, index, |index| index.manifests.push(entry))?;
    Ok(false)
}

/// Adds `entry`, which has the name `reference`. An image that had the name before loses the name and stays in the
/// index, even without any name.
fn put(index: &mut Index, entry: Descriptor, reference: &str) {
    if let Some(at) = index.manifests.iter().position(|e| name_of(e) == Some(reference)) {
        let mut old = index.manifests.remove(at);
        let others = index.manifests.iter().any(|e| e.digest == old.digest);
        if !others && old.digest != entry.digest {
            old.annotations.remove(REF_NAME);
            index.manifests.push(old);
        }
    }
    index.manifests.retain(|e| e.digest != entry.digest || name_of(e).is_some());
    index.manifests.push(entry);
}

/// Groups the index's entries by image, that is, by digest. Returns the first entry of each image with the image's
/// references, sorted.
fn grouped(index: &Index) -> Vec<(Descriptor, Vec<String>)> {
    let mut groups: Vec<(Descriptor, Vec<String>)> = Vec::new();
    for entry in &index.manifests {
        let name = name_of(entry).map(str::to_owned);
        match groups.iter_mut().find(|(e, _)| e.digest == entry.digest) {
            Some((_, names)) => names.extend(name),
            None => groups.push((entry.clone(), name.into_iter().collect())),
        }
    }
    groups.iter_mut().for_each(|(_, names)| names.sort());
    groups
}

fn load(store: &Store, entry: Descriptor, references: Vec<String>) -> Result<Loaded, ImageError> {
    let manifest = manifest(store, &entry)?;
    let config = config(store, &entry, &manifest)?;
    Ok(Loaded { references, entry, manifest, config })
}

/// Reads the manifest of an image.
///
/// # Errors
/// [`ImageError`] if the manifest is missing, is damaged, or is not a manifest.
pub fn manifest(store: &Store, entry: &Descriptor) -> Result<Manifest, ImageError> {
    let bytes = store.read_blob(&entry.digest, oci::MANIFEST_MAX)?;
    let unreadable = |source| ImageError::Unreadable { digest: entry.digest.clone(), source };
    match oci::parse_document(&bytes, Some(&entry.media_type)).map_err(unreadable)? {
        Document::Manifest(manifest) => Ok(manifest),
        Document::Index(_) => Err(unreadable(oci::OciError::Refused("it is an index".to_owned()))),
    }
}

/// Reads the config of an image.
///
/// # Errors
/// [`ImageError`] if the config is missing, is damaged, or does not match the manifest.
pub fn config(store: &Store, entry: &Descriptor, manifest: &Manifest) -> Result<Config, ImageError> {
    let bytes = store.read_blob(&manifest.config.digest, oci::CONFIG_MAX)?;
    let unreadable = |source| ImageError::Unreadable { digest: entry.digest.clone(), source };
    oci::parse_config(&bytes, manifest).map_err(unreadable)
}

/// The images in `index.json`: the first entry of each image, and all references of the image. Reads no other file.
///
/// # Errors
/// [`StoreError`] if `index.json` cannot be read.
pub fn entries(store: &Store) -> Result<Vec<(Descriptor, Vec<String>)>, StoreError> {
    Ok(grouped(&index::read(store)?))
}

impl Loaded {
    /// Digests of the image's blobs: the manifest, the config and the layers. If the image has a layer twice, its
    /// digest appears twice.
    pub fn blobs(&self) -> impl Iterator<Item = &Digest> {
        let documents = [&self.entry.digest, &self.manifest.config.digest];
        documents.into_iter().chain(self.manifest.layers.iter().map(|layer| &layer.digest))
    }

    /// The description of the image that clients receive.
    pub fn summary(&self, store: &Store) -> Image {
        Image {
            references: self.references.clone(),
            digest: self.entry.digest.to_string(),
            id: self.manifest.config.digest.to_string(),
            platform: self.config.platform().to_string(),
            size: self.size_on_disk(store),
            layers: u32::try_from(self.manifest.layers.len()).unwrap_or(u32::MAX),
            created: self.config.created_nanos(),
        }
    }
}

impl Loaded {
    /// The bytes that the image's blobs and unpacked layers take on the disk; a blob or layer that the image has twice
    /// counts once. `images` and `system df` show this size, and `image prune` frees as many bytes if no other image
    /// shares content.
    pub fn size_on_disk(&self, store: &Store) -> u64 {
        let blobs: HashSet<&Digest> = self.blobs().collect();
        let blobs = blobs.into_iter().map(|digest| store.size_on_disk(&store.blob_path(digest)));
        let layers: HashSet<Digest> = self.config.chain_ids().into_iter().collect();
        let layers = layers.iter().map(|chain_id| store.layer_size(chain_id));
        // A missing blob or layer takes no space.
        blobs.chain(layers).fold(0, |sum, size| sum.saturating_add(size.unwrap_or(0)))
    }
}

/// The digest of the index that an image was chosen from, which the image's entry in `index.json` records.
pub fn index_of(entry: &Descriptor) -> Option<Digest> {
    entry.annotations.get(INDEX_DIGEST).and_then(|digest| Digest::parse(digest).ok())
}

/// All images, in the order in which they were committed. Images whose documents cannot be read are logged and left
/// out.
///
/// # Errors
/// [`StoreError`] if `index.json` itself cannot be read.
pub fn list(store: &Store) -> Result<Vec<Loaded>, ImageError> {
    let groups = grouped(&index::read(store)?);
    let mut images = Vec::with_capacity(groups.len());
    for (entry, references) in groups {
        match load(store, entry, references) {
            Ok(image) => images.push(image),
            Err(error) => log::warn!("{}", sampan_ipc::report::chain(&error)),
        }
    }
    Ok(images)
}

/// Number of images in the store; 0 if `index.json` cannot be read.
pub fn count(store: &Store) -> usize {
    index::read(store).map_or(0, |index| grouped(&index).len())
}

/// Finds the image `name`: a reference, a digest, an ID (the digest of the config), or the first digits of a digest or
/// ID.
///
/// # Errors
/// [`ImageError::NotFound`], [`ImageError::Ambiguous`].
pub fn find(store: &Store, name: &str) -> Result<Loaded, ImageError> {
    let (entry, references) = locate(store, name)?;
    load(store, entry, references)
}

/// Finds the image `name` like [`find`], and pins its blobs and layers, so that the blobs and layers stay even if the
/// image is removed.
///
/// # Errors
/// [`ImageError::NotFound`], [`ImageError::Ambiguous`].
pub fn find_and_pin(store: &Store, name: &str) -> Result<(Loaded, Pin), ImageError> {
    // Hold the commit lock: without it, another job could remove the image after it is found and before it is pinned.
    let commit = lock(&store.commit);
    let image = find(store, name)?;
    let needed = image.blobs().cloned().chain(image.config.chain_ids());
    let pin = store.pin_locked(&commit, needed);
    Ok((image, pin))
}

/// Finds the entry of the image `name`, without reading its documents, which may be broken.
fn locate(store: &Store, name: &str) -> Result<(Descriptor, Vec<String>), ImageError> {
    let mut groups = grouped(&index::read(store)?);
    let not_found = || ImageError::NotFound(name.chars().take(300).collect());
    if let Ok(reference) = Reference::parse(name) {
        let full = reference.to_string();
        let by_name = |(entry, names): &(Descriptor, Vec<String>)| {
            names.contains(&full)
                || reference.digest().is_some_and(|d| {
                    let of_repository =
                        |n: &String| Reference::parse(n).is_ok_and(|r| r.name() == reference.name());
                    (entry.digest == *d || entry.annotations.get(INDEX_DIGEST) == Some(&d.to_string()))
                        && names.iter().any(of_repository)
                })
        };
        if let Some(at) = groups.iter().position(by_name) {
            return Ok(groups.swap_remove(at));
        }
    }
    let prefix = name.strip_prefix("sha256:").unwrap_or(name);
    if prefix.len() < PREFIX_MIN || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(not_found());
    }
    let is_id = |entry: &Descriptor| {
        let image = load(store, entry.clone(), Vec::new());
        image.is_ok_and(|image| image.manifest.config.digest.hex().starts_with(prefix))
    };
    groups.retain(|(entry, _)| entry.digest.hex().starts_with(prefix) || is_id(entry));
    match groups.len() {
        0 | 1 => groups.pop().ok_or_else(not_found),
        count => Err(ImageError::Ambiguous { name: name.to_owned(), count }),
    }
}

/// Adds the reference `target` to the image `source`; returns the image and the full reference.
///
/// # Errors
/// [`ImageError::NotFound`] or [`ImageError::Ambiguous`] for `source`; [`ImageError::Reference`] if `target` is not a
/// valid reference.
pub fn tag(store: &Store, source: &str, target: &str) -> Result<(Loaded, Reference), ImageError> {
    let reference = Reference::parse(target)?;
    let image = find(store, source)?;
    let commit = DurableCommit::lock(store);
    let mut index = index::read(store)?;
    if !index.manifests.iter().any(|e| e.digest == image.entry.digest) {
        return Err(ImageError::NotFound(source.to_owned()));
    }
    let mut entry = image.entry.clone();
    entry.annotations.insert(REF_NAME.to_owned(), reference.to_string());
    put(&mut index, entry, &reference.to_string());
    commit.add_name(index)?;
    Ok((image, reference))
}

/// Removes the reference `name`, or the whole image if `name` is a digest or ID.
///
/// Removing the last reference also removes the image, and all blobs and layers that no other image uses. The image's
/// documents need not be readable.
///
/// # Errors
/// [`ImageError::NotFound`], [`ImageError::Ambiguous`]; [`ImageError::SeveralReferences`] if `name` is an ID, the image
/// has several references and `force` is false; [`ImageError::InUse`] if the image would be removed, but `users`
/// returns containers that use it.
pub fn remove(
    store: &Store,
    name: &str,
    force: bool,
    users: &dyn Fn(&Digest) -> Vec<String>,
) -> Result<Removed, ImageError> {
    let (entry, references) = locate(store, name)?;
    let users = users(&entry.digest);
    let full = Reference::parse(name).map(|r| r.to_string()).ok().filter(|full| references.contains(full));
    if full.is_none() && !users.is_empty() {
        return Err(ImageError::InUse { name: name.to_owned(), containers: users });
    }
    if full.is_none() && references.len() > 1 && !force {
        return Err(ImageError::SeveralReferences { name: name.to_owned(), count: references.len() });
    }
    let (id, labels) = id_and_labels(store, &entry.digest);
    let (mut removed, swept) = remove_entries(store, &entry.digest, full.as_deref(), false, name, users)?;
    removed.freed = free_space(store, swept);
    Ok(Removed { id, labels, ..removed })
}

/// Removes the image with all its references; `None` if the image is in use, or if another job removed the image
/// before.
///
/// # Errors
/// [`ImageError::Store`] if the index cannot be read or written.
pub fn remove_unused(store: &Store, digest: &Digest) -> Result<Option<Removed>, ImageError> {
    let (id, labels) = id_and_labels(store, digest);
    let (mut removed, swept) = remove_entries(store, digest, None, true, "", Vec::new())?;
    if !removed.deleted {
        return Ok(None);
    }
    removed.freed = free_space(store, swept);
    Ok(Some(Removed { id, labels, ..removed }))
}

/// The ID and the labels of an image; empty if the image's documents cannot be read.
fn id_and_labels(store: &Store, digest: &Digest) -> (String, BTreeMap<String, String>) {
    let entry = index::read(store).ok().and_then(|i| i.manifests.into_iter().find(|e| e.digest == *digest));
    let image = entry.and_then(|entry| load(store, entry, Vec::new()).ok());
    image
        .map(|image| (image.manifest.config.digest.to_string(), image.config.config.labels))
        .unwrap_or_default()
}

/// Removes the entries of the image `digest` from `index.json`: all entries, or only the entry with the name `name`.
/// With `only_unused`, does nothing if the image is in use. `typed` is what the request called the image.
fn remove_entries(
    store: &Store,
    digest: &Digest,
    name: Option<&str>,
    only_unused: bool,
    typed: &str,
    users: Vec<String>,
) -> Result<(Removed, Swept), ImageError> {
    let commit = DurableCommit::lock(store);
    let mut index = index::read(store)?;
    let mut removed = Removed { digest: digest.to_string(), ..Removed::default() };
    if only_unused && is_in_use(store, digest) {
        return Ok((removed, Swept::default()));
    }
    let is_removed = |e: &Descriptor| e.digest == *digest && name.is_none_or(|name| name_of(e) == Some(name));
    let before = index.manifests.len();
    removed.untagged =
        index.manifests.iter().filter(|e| is_removed(e)).filter_map(name_of).map(str::to_owned).collect();
    index.manifests.retain(|e| !is_removed(e));
    removed.deleted = before > index.manifests.len() && !index.manifests.iter().any(|e| e.digest == *digest);
    if removed.deleted && !users.is_empty() {
        return Err(ImageError::InUse { name: typed.to_owned(), containers: users });
    }
    if before > index.manifests.len() {
        commit.remove(index, is_removed)?;
    }
    let swept = if removed.deleted { sweep_unused(store) } else { Swept::default() };
    Ok((removed, swept))
}

/// Whether the image is in use: a job or a container has pinned its manifest. Every job and container that uses an
/// image pins it.
pub fn is_in_use(store: &Store, digest: &Digest) -> bool {
    store.is_pinned(digest)
}

/// The time when the image was last pulled or used: the modification time of the manifest's file.
pub fn last_used(store: &Store, digest: &Digest) -> SystemTime {
    let file = std::fs::symlink_metadata(store.blob_path(digest));
    file.and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Records that the image is used now; [`last_used`] then returns the current time.
pub fn touch(store: &Store, digest: &Digest) {
    let path = store.blob_path(digest);
    let touched = std::fs::File::options().write(true).open(&path);
    if let Err(error) = touched.and_then(|file| file.set_modified(SystemTime::now())) {
        log::warn!(
            "cannot set the time of {}, so pruning may take its image for unused: {error}",
            path.display()
        );
    }
}

/// The digests of all blobs, and the chain IDs of all layers, that any image uses.
///
/// # Errors
/// [`ImageError`] if an image cannot be read, because then it is unknown what that image uses.
pub fn used(store: &Store) -> Result<HashSet<Digest>, ImageError> {
    let mut used = HashSet::new();
    for image in all(store)? {
        let image = image?;
        used.extend(image.blobs().cloned());
        used.extend(image.config.chain_ids());
        used.extend(index::twin(store, &image.entry).map(|(entry, _)| entry.digest));
    }
    Ok(used)
}

/// All images, in the order in which they were committed, with an error in place of each image that cannot be read.
///
/// # Errors
/// [`StoreError`] if `index.json` itself cannot be read.
pub fn all(store: &Store) -> Result<impl Iterator<Item = Result<Loaded, ImageError>>, ImageError> {
    let groups = grouped(&index::read(store)?);
    Ok(groups.into_iter().map(|(entry, references)| load(store, entry, references)))
}

/// Sweeps blobs and layers that no image uses. The caller holds the commit lock, and passes the result to
/// [`free_space`] after releasing the lock.
fn sweep_unused(store: &Store) -> Swept {
    let swept = used(store).and_then(|used| Ok(store.sweep(&used)?));
    swept.unwrap_or_else(|error| {
        log::warn!(
            "no unused blob or layer is removed, because it is unknown what is in use: {}",
            sampan_ipc::report::chain(&error)
        );
        Swept::default()
    })
}

/// Removes the layers that a sweep has moved to `tmp/`, and restores the reserve; returns the number of bytes freed by
/// the sweep.
fn free_space(store: &Store, swept: Swept) -> u64 {
    let freed = swept.remove();
    store.refill_reserve(index::size(store));
    freed
}

impl Store {
    /// Removes all blobs and layers that no image uses and no job or container has pinned. If an image cannot be read,
    /// removes nothing. Returns the digests of the removed blobs, the chain IDs of the removed layers, and the number
    /// of bytes freed.
    pub fn collect_garbage(&self) -> (Vec<String>, u64) {
        let mut swept = {
            let _commit = lock(&self.commit);
            sweep_unused(self)
        };
        let names = std::mem::take(&mut swept.names);
        (names, free_space(self, swept))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Stores an image without layers and names it.
    pub(crate) fn image(store: &Store, reference: &str, cmd: &str) -> Digest {
        let since = store.generation();
        let config = format!(
            r#"{{"os":"linux","architecture":"amd64","config":{{"Cmd":["{cmd}"]}},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
        );
        let config_digest = Digest::of(config.as_bytes());
        store.write_blob(&config_digest, config.as_bytes()).expect("written");
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{config_digest}","size":{}}},"layers":[]}}"#,
            oci::CONFIG,
            config.len()
        );
        let digest = Digest::of(manifest.as_bytes());
        store.write_blob(&digest, manifest.as_bytes()).expect("written");
        let reference = Reference::parse(reference).expect("good");
        let manifest = Descriptor {
            media_type: oci::MANIFEST.to_owned(),
            digest: digest.clone(),
            size: manifest.len() as u64,
            platform: None,
            annotations: BTreeMap::new(),
        };
        let new = NewImage {
            reference: &reference,
            manifest,
            platform: PlatformField::default(),
            index: None,
            since,
        };
        commit(store, new).expect("committed");
        digest
    }

    #[test]
    fn an_index_that_is_a_fifo_is_an_error_and_does_not_block() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        image(&store, "a", "one");
        store.make_durable();
        for name in ["index.json", "boot"] {
            std::fs::remove_file(dir.path().join(name)).expect("there");
            nix::unistd::mkfifo(&dir.path().join(name), nix::sys::stat::Mode::S_IRWXU).expect("made");
        }
        assert!(list(&store).is_err());
        drop(store);
        let store = Store::open(dir.path()).expect("opened");
        assert!(list(&store).is_err());
    }

    #[test]
    fn a_name_that_moves_leaves_its_old_image_nameless_and_findable() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let one = image(&store, "a", "one");
        let two = image(&store, "a", "two");
        let images = list(&store).expect("listed");
        assert_eq!(images.len(), 2);
        assert_eq!(find(&store, "a").expect("found").entry.digest, two);
        let old = find(&store, &one.hex()[..12]).expect("found by prefix");
        assert!(old.references.is_empty());
        // After the image got a name again, the index has one entry for it.
        tag(&store, one.hex(), "b:1").expect("tagged");
        assert_eq!(list(&store).expect("listed").len(), 2);
        assert_eq!(index::read(&store).expect("read").manifests.len(), 2);
    }

    #[test]
    fn the_last_reference_takes_the_image_and_its_blobs_along() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let one = image(&store, "a", "one");
        tag(&store, "a", "b").expect("tagged");
        assert!(matches!(
            remove(&store, one.hex(), false, &|_| Vec::new()),
            Err(ImageError::SeveralReferences { count: 2, .. })
        ));
        let first = remove(&store, "a", false, &|_| Vec::new()).expect("removed");
        assert!(!first.deleted && first.untagged == ["docker.io/library/a:latest"]);
        let last = remove(&store, "b", false, &|_| Vec::new()).expect("removed");
        assert!(last.deleted);
        assert!(!store.blob_path(&one).exists());
        assert!(matches!(find(&store, "a"), Err(ImageError::NotFound(_))));
    }

    #[test]
    fn a_schema_2_image_has_an_oci_entry_for_others_that_goes_along_with_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        image(&store, "a", "one");
        let mut old = find(&store, "a").expect("found").entry;
        let bytes = store.read_blob(&old.digest, oci::MANIFEST_MAX).expect("read");
        let text = String::from_utf8(bytes).expect("text").replace(oci::CONFIG, oci::DOCKER_CONFIG);
        let docker = text.replacen('{', &format!(r#"{{"mediaType":"{}","#, oci::DOCKER_MANIFEST), 1);
        old.digest = Digest::of(docker.as_bytes());
        old.size = docker.len() as u64;
        old.media_type = oci::DOCKER_MANIFEST.to_owned();
        store.write_blob(&old.digest, docker.as_bytes()).expect("written");
        index::write(&store, Index { manifests: vec![old.clone()], ..index::read(&store).expect("read") })
            .expect("written");
        assert_eq!(index::read(&store).expect("read").manifests, [old.clone()]);
        let twin = index::read_all_entries(&store).expect("read").pop().expect("an entry");
        assert_eq!((twin.media_type.as_str(), name_of(&twin)), (oci::MANIFEST, name_of(&old)));
        store.collect_garbage();
        assert!(store.blob_path(&twin.digest).exists());
        remove(&store, "a", false, &|_| Vec::new()).expect("removed");
        assert!(!store.blob_path(&twin.digest).exists());
    }

    #[test]
    fn a_prefix_that_is_too_short_finds_no_image() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let one = image(&store, "a", "one");
        assert!(matches!(find(&store, &one.hex()[..3]), Err(ImageError::NotFound(_))));
        assert!(matches!(find(&store, ""), Err(ImageError::NotFound(_))));
    }
}
