//! Reads and writes the two index files of the store: `index.json` and `index.settled.json`.
//!
//! `index.json` has one entry for each image and name, so that other tools can read the store (OCI image-spec, "Image
//! Layout"). The annotation `org.opencontainers.image.ref.name` holds the full name. Other tools do not find images
//! with a docker schema 2 manifest; for each such image the file has a second entry, the *twin* of the first, with an
//! OCI manifest.
//!
//! `index.settled.json` is the durable index ([`crate::durability`]); the file exists only while `index.json` has
//! images that are not durable yet. Both files are read and replaced as a whole, while the commit lock is held.
//! [`crate::images`] decides about the entries.

use crate::error::{StoreError, file_error};
use crate::store::Store;
use crate::temp::Temp;
use sampan_oci as oci;
use sampan_oci::digest::Digest;
use sampan_oci::{Descriptor, Index};
use sampan_os::small_file;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

const INDEX: &str = "index.json";
const DURABLE_INDEX: &str = "index.settled.json";
/// The annotation with the name of an image. OCI image-spec, "Pre-Defined Annotation Keys".
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation of a twin: the digest of the schema 2 manifest that the twin's manifest was made from.
const MADE_OF: &str = "sampan.made-of";
/// The annotation with the name of a schema 2 image. The name must be in another annotation than [`REF_NAME`], which
/// the twin has: umoci ignores both of two entries with the same name.
const OWN_NAME: &str = "sampan.ref.name";
/// Longest index file that is read or written, in bytes.
const SIZE_MAX: u64 = 64 << 20;

/// The content of an index file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IndexFile {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    manifests: Vec<Descriptor>,
}

/// Reads `index.json`, without the twins.
///
/// # Errors
/// [`StoreError`] if the file cannot be read or is not valid.
pub(crate) fn read(store: &Store) -> Result<Index, StoreError> {
    Ok(Index { manifests: without_twins(read_all_entries(store)?), ..empty() })
}

/// Removes the twins, and moves each name to [`REF_NAME`].
fn without_twins(mut manifests: Vec<Descriptor>) -> Vec<Descriptor> {
    manifests.retain(|entry| !entry.annotations.contains_key(MADE_OF));
    for entry in &mut manifests {
        if let Some(name) = entry.annotations.remove(OWN_NAME) {
            entry.annotations.insert(REF_NAME.to_owned(), name);
        }
    }
    manifests
}

fn empty() -> Index {
    Index { schema_version: 2, media_type: oci::INDEX.to_owned(), manifests: Vec::new() }
}

/// Reads all entries of `index.json`, with the twins.
///
/// # Errors
/// [`StoreError`] if the file cannot be read or is not valid.
pub(crate) fn read_all_entries(store: &Store) -> Result<Vec<Descriptor>, StoreError> {
    Ok(read_file(store, INDEX)?.manifests)
}

/// Reads the durable index from its own file; `None` if that file does not exist.
///
/// # Errors
/// [`StoreError`] if the file cannot be read or is not valid.
pub(crate) fn read_durable(store: &Store) -> Result<Option<Vec<Descriptor>>, StoreError> {
    match has_durable(store)? {
        true => Ok(Some(without_twins(read_file(store, DURABLE_INDEX)?.manifests))),
        false => Ok(None),
    }
}

/// Whether the file of the durable index exists.
///
/// # Errors
/// [`StoreError`] if stat(2) fails, except for a missing file.
pub(crate) fn has_durable(store: &Store) -> Result<bool, StoreError> {
    exists(&store.root().join(DURABLE_INDEX))
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(file_error("look at", path)(error)),
    }
}

/// Renames a durable index that is not valid, so that an administrator can examine it.
///
/// # Errors
/// [`StoreError`] if the file cannot be renamed.
pub(crate) fn set_broken_durable_aside(store: &Store) -> Result<(), StoreError> {
    let path = store.root().join(DURABLE_INDEX);
    let aside = path.with_extension("broken");
    std::fs::rename(&path, &aside).map_err(file_error("rename", &path))?;
    store.sync_root()
}

fn read_file(store: &Store, name: &str) -> Result<IndexFile, StoreError> {
    let path = store.root().join(name);
    let file = small_file::open(&path).map_err(file_error("open", &path))?;
    let bytes = small_file::read(file, SIZE_MAX).map_err(file_error("read", &path))?;
    serde_json::from_slice(&bytes).map_err(|source| StoreError::Broken { path, source })
}

/// Makes `index.json` if the file is missing: a copy of the durable index or, without a durable index, an empty index.
///
/// # Errors
/// [`StoreError`] if a file cannot be examined or written.
pub(crate) fn create_missing(store: &Store) -> Result<(), StoreError> {
    match (exists(&store.root().join(INDEX))?, has_durable(store)?) {
        (true, _) => Ok(()),
        (false, true) => restore_durable(store),
        (false, false) => write(store, empty()),
    }
}

/// Size of `index.json` in bytes.
pub(crate) fn size(store: &Store) -> u64 {
    std::fs::metadata(store.root().join(INDEX)).map_or(0, |meta| meta.len())
}

/// Replaces `index.json` durably.
///
/// # Errors
/// [`StoreError`] if the file cannot be written.
pub(crate) fn write(store: &Store, index: Index) -> Result<(), StoreError> {
    let bytes = serialize(store, index)?;
    store.replace_file(INDEX, &bytes)?;
    store.durability.record_index_change();
    store.refill_reserve(bytes.len() as u64);
    Ok(())
}

/// Replaces `index.json` durably like [`write`], for removals: if the disk is full, the reserve file makes room for the
/// index.
///
/// # Errors
/// [`StoreError`] if the file cannot be written.
pub(crate) fn write_after_removal(store: &Store, index: Index) -> Result<(), StoreError> {
    store.replace_file_from_reserve(INDEX, &serialize(store, index)?)?;
    store.durability.record_index_change();
    Ok(())
}

/// Replaces `index.json` by an index with a new image that is not durable yet. Does not wait for the disk, because
/// power loss leaves the durable index. The caller has made sure that the file of the durable index exists.
///
/// # Errors
/// [`StoreError`] if the file cannot be written; after an error `index.json` is unchanged.
pub(crate) fn write_ahead(store: &Store, index: Index) -> Result<(), StoreError> {
    let bytes = serialize(store, index)?;
    store.put_file(INDEX, &bytes)?;
    store.durability.record_index_change();
    store.refill_reserve(bytes.len() as u64);
    Ok(())
}

/// Makes the current `index.json`, which is on the disk, also the durable index, by a second hard link to the file.
///
/// No fsync is needed: a file system with a journal keeps the order of changes in a directory, so a later `index.json`
/// is never on the disk without this link.
///
/// # Errors
/// [`StoreError`] if the file can neither be linked nor copied; after an error no file has changed.
pub(crate) fn link_as_durable(store: &Store) -> Result<(), StoreError> {
    let (index, durable) = (store.root().join(INDEX), store.root().join(DURABLE_INDEX));
    match std::fs::hard_link(&index, &durable) {
        Ok(()) => Ok(()),
        // Some file systems have no hard links.
        Err(_) => write_durable(store, read(store)?.manifests),
    }
}

/// Writes a durable index to a temporary file, and waits until it is on the disk.
///
/// # Errors
/// [`StoreError`] if the file cannot be written.
pub(crate) fn stage_durable(store: &Store, durable: Vec<Descriptor>) -> Result<Temp, StoreError> {
    store.write_synced(&serialize(store, Index { manifests: durable, ..empty() })?)
}

/// Renames the staged file to `index.settled.json`. The rename is durable only after the next fsync of the store's root
/// directory.
///
/// # Errors
/// [`StoreError`] if the file cannot be renamed.
pub(crate) fn rename_to_durable(store: &Store, staged: Temp) -> Result<(), StoreError> {
    staged.rename(&store.root().join(DURABLE_INDEX))
}

/// Replaces the file of the durable index, and waits until the new file is on the disk.
///
/// # Errors
/// [`StoreError`] if the file cannot be written.
pub(crate) fn write_durable(store: &Store, durable: Vec<Descriptor>) -> Result<(), StoreError> {
    rename_to_durable(store, stage_durable(store, durable)?)?;
    store.sync_root()
}

/// Replaces the durable index like [`write_durable`], for removals: if the disk is full, the reserve file makes room
/// for the index.
///
/// # Errors
/// [`StoreError`] if the file cannot be written.
pub(crate) fn write_durable_after_removal(store: &Store, durable: Vec<Descriptor>) -> Result<(), StoreError> {
    let bytes = serialize(store, Index { manifests: durable, ..empty() })?;
    store.replace_file_from_reserve(DURABLE_INDEX, &bytes)
}

/// Removes `index.settled.json`, so that `index.json` is the durable index. The removal is durable only after the next
/// fsync of the store's root directory.
///
/// # Errors
/// [`StoreError`] if the file cannot be removed; after an error no file has changed.
pub(crate) fn remove_durable(store: &Store) -> Result<(), StoreError> {
    let path = store.root().join(DURABLE_INDEX);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error("remove", &path)(error)),
        _ => Ok(()),
    }
}

/// Replaces `index.json` by the durable index, and waits until the change is on the disk.
///
/// # Errors
/// [`StoreError`] if the file cannot be renamed, or the directory cannot be synced.
pub(crate) fn restore_durable(store: &Store) -> Result<(), StoreError> {
    let (index, durable) = (store.root().join(INDEX), store.root().join(DURABLE_INDEX));
    std::fs::rename(&durable, &index).map_err(file_error("rename to the index", &durable))?;
    store.durability.record_index_change();
    // If both names are hard links to one file, rename(2) does nothing, and the file of the durable index stays. So
    // remove that file first.
    remove_durable(store)?;
    store.sync_root()
}

/// The bytes of an index file: the entries of `index`, and their twins. Also stores the manifests of the twins.
fn serialize(store: &Store, index: Index) -> Result<Vec<u8>, StoreError> {
    let mut manifests = index.manifests;
    let mut twins = Vec::new();
    for entry in &mut manifests {
        if let Some((twin, bytes)) = twin(store, entry) {
            store.write_blob(&twin.digest, &bytes)?;
            let name = entry.annotations.remove(REF_NAME).unwrap_or_default();
            entry.annotations.insert(OWN_NAME.to_owned(), name);
            twins.push(twin);
        }
    }
    manifests.append(&mut twins);
    let file = IndexFile { schema_version: 2, media_type: oci::INDEX.to_owned(), manifests };
    let path = || store.root().join(INDEX);
    let bytes = serde_json::to_vec(&file).map_err(|error| file_error("write", &path())(error.into()))?;
    if bytes.len() as u64 > SIZE_MAX {
        // A longer file could be written but not read again, so refuse it.
        let source = io::Error::other("there are too many images and references in the store");
        return Err(file_error("write", &path())(source));
    }
    Ok(bytes)
}

/// The twin of an entry, and the bytes of its OCI manifest. `None` for an image without a schema 2 manifest or without
/// a name. Also `None` if the manifest cannot be read, so that one broken image does not prevent writing the index.
pub(crate) fn twin(store: &Store, entry: &Descriptor) -> Option<(Descriptor, Vec<u8>)> {
    if entry.media_type != oci::DOCKER_MANIFEST || name_of(entry).is_none() {
        return None;
    }
    let bytes = store.read_blob(&entry.digest, oci::MANIFEST_MAX).ok()?;
    let bytes = oci::to_oci_manifest(&bytes)?;
    let mut twin = entry.clone();
    twin.media_type = oci::MANIFEST.to_owned();
    twin.size = bytes.len() as u64;
    twin.annotations.insert(MADE_OF.to_owned(), entry.digest.to_string());
    twin.digest = Digest::of(&bytes);
    Some((twin, bytes))
}

/// Adds the twins that an older version of the engine did not write.
///
/// # Errors
/// [`StoreError`] if the index cannot be read or written.
pub(crate) fn add_missing_twins(store: &Store) -> Result<(), StoreError> {
    // `twin` returns `None` for an entry that already has a twin: the name of such an entry is not in REF_NAME, and
    // `twin` ignores an entry without a name.
    match read_all_entries(store)?.iter().any(|entry| twin(store, entry).is_some()) {
        true => write(store, read(store)?),
        false => Ok(()),
    }
}

/// The full name of an entry; `None` if the image has no name.
pub(crate) fn name_of(entry: &Descriptor) -> Option<&str> {
    entry.annotations.get(REF_NAME).map(String::as_str)
}
