//! `index.json` of the store: an entry for each image and name, as other tools read them, too.
//!
//! OCI image-spec, "Image Layout". An image with a name has that in `org.opencontainers.image.ref.name`, in full. Beside
//! the images the file has what is for others: an OCI manifest for each schema 2 image, which they would not find.
//! `index.settled.json` is what power loss would leave of it ([`crate::durability`]); it is not there if that is all. Both
//! are read and replaced as a whole, under the commit lock. [`crate::images`] says what stands in them.

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

/// The file's name in the store.
const FILE: &str = "index.json";
/// What power loss would leave of it.
const SETTLED: &str = "index.settled.json";
/// OCI image-spec, "Pre-Defined Annotation Keys".
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Marks an entry for other tools: the digest of the schema 2 manifest that its OCI manifest was made of.
const MADE_OF: &str = "sampan.made-of";
/// Where a schema 2 image has its name, since the entry for other tools has it where they look: umoci takes two
/// entries of one name for neither.
const OWN_NAME: &str = "sampan.ref.name";
/// Longest file that is read or written, in bytes.
const MAX: u64 = 64 << 20;

/// The file, as it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    manifests: Vec<Descriptor>,
}

/// What it says of images: what is there for other tools is left out.
///
/// # Errors
/// [`StoreError`] if it cannot be read.
pub(crate) fn read(store: &Store) -> Result<Index, StoreError> {
    Ok(Index { manifests: of_images(read_as_written(store)?), ..empty() })
}

/// Those of `manifests` that are not there for other tools alone, with their names where they are ours.
fn of_images(mut manifests: Vec<Descriptor>) -> Vec<Descriptor> {
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

/// All its entries, as other tools find them.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_as_written(store: &Store) -> Result<Vec<Descriptor>, StoreError> {
    Ok(file(store, FILE)?.manifests)
}

/// The settled entries; `None` if all are.
///
/// # Errors
/// [`StoreError`] if they cannot be read.
pub(crate) fn read_settled(store: &Store) -> Result<Option<Vec<Descriptor>>, StoreError> {
    match has_settled(store)? {
        true => Ok(Some(of_images(file(store, SETTLED)?.manifests))),
        false => Ok(None),
    }
}

/// True if they have a file of their own.
///
/// # Errors
/// [`StoreError`] if that cannot be told.
pub(crate) fn has_settled(store: &Store) -> Result<bool, StoreError> {
    is_there(&store.root().join(SETTLED))
}

fn is_there(path: &Path) -> Result<bool, StoreError> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(file_error("look at", path)(error)),
    }
}

/// They are broken, and kept for whoever wants to know why.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn put_settled_aside(store: &Store) -> Result<(), StoreError> {
    let path = store.root().join(SETTLED);
    let aside = path.with_extension("broken");
    std::fs::rename(&path, &aside).map_err(file_error("rename", &path))?;
    store.sync_root()
}

fn file(store: &Store, name: &str) -> Result<Written, StoreError> {
    let path = store.root().join(name);
    let file = small_file::open(&path).map_err(file_error("open", &path))?;
    let bytes = small_file::read(file, MAX).map_err(file_error("read", &path))?;
    serde_json::from_slice(&bytes).map_err(|source| StoreError::Broken { path, source })
}

/// Makes one if there is none: of the settled entries, or empty.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn lay_out(store: &Store) -> Result<(), StoreError> {
    match (is_there(&store.root().join(FILE))?, has_settled(store)?) {
        (true, _) => Ok(()),
        (false, true) => take_back(store),
        (false, false) => write(store, empty()),
    }
}

/// Bytes that the file has.
pub(crate) fn size(store: &Store) -> u64 {
    std::fs::metadata(store.root().join(FILE)).map_or(0, |meta| meta.len())
}

/// Replaces it, durably.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn write(store: &Store, index: Index) -> Result<(), StoreError> {
    let bytes = bytes(store, index)?;
    store.replace_file(FILE, &bytes)?;
    store.durability.record_replacement();
    store.lay_by(bytes.len() as u64);
    Ok(())
}

/// As [`write`], by one who removes: on a full disk there is a reserve for it.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn write_shrunk(store: &Store, index: Index) -> Result<(), StoreError> {
    store.replace_file_from_reserve(FILE, &bytes(store, index)?)?;
    store.durability.record_replacement();
    Ok(())
}

/// Replaces it for an image that is new in it and not on the disk yet: nor is the file. Power loss leaves the settled
/// entries, of which there are some.
///
/// # Errors
/// [`StoreError`]; nothing is named then.
pub(crate) fn write_unsettled(store: &Store, index: Index) -> Result<(), StoreError> {
    let bytes = bytes(store, index)?;
    store.put_file(FILE, &bytes)?;
    store.durability.record_replacement();
    store.lay_by(bytes.len() as u64);
    Ok(())
}

/// From now on what it says, which is on the disk, is what power loss leaves: one more name of the same file. A file
/// system that changes its directories in order, as all with a journal do, has none of the later indexes without it.
///
/// # Errors
/// [`StoreError`]; nothing has changed then.
pub(crate) fn settle_as_it_is(store: &Store) -> Result<(), StoreError> {
    let (index, settled) = (store.root().join(FILE), store.root().join(SETTLED));
    match std::fs::hard_link(&index, &settled) {
        Ok(()) => Ok(()),
        // Some file systems have one name for each file.
        Err(_) => write_settled(store, read(store)?.manifests),
    }
}

/// A file that is to have the settled entries, on the disk and without its name.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn stage_settled(store: &Store, settled: Vec<Descriptor>) -> Result<Temp, StoreError> {
    store.written(&bytes(store, Index { manifests: settled, ..empty() })?)
}

/// Gives it that, behind the next fsync of the directory.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn put_settled(store: &Store, staged: Temp) -> Result<(), StoreError> {
    staged.rename(&store.root().join(SETTLED))
}

/// Replaces the settled entries, durably.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn write_settled(store: &Store, settled: Vec<Descriptor>) -> Result<(), StoreError> {
    put_settled(store, stage_settled(store, settled)?)?;
    store.sync_root()
}

/// As [`write_settled`], by one who removes: on a full disk there is a reserve for it.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn write_settled_shrunk(store: &Store, settled: Vec<Descriptor>) -> Result<(), StoreError> {
    store.replace_file_from_reserve(SETTLED, &bytes(store, Index { manifests: settled, ..empty() })?)
}

/// All that it says is settled, behind the next fsync of the directory.
///
/// # Errors
/// [`StoreError`]; nothing has changed then.
pub(crate) fn settle_all(store: &Store) -> Result<(), StoreError> {
    let path = store.root().join(SETTLED);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error("remove", &path)(error)),
        _ => Ok(()),
    }
}

/// The settled entries are what it says, durably, whatever it said.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn take_back(store: &Store) -> Result<(), StoreError> {
    let (index, settled) = (store.root().join(FILE), store.root().join(SETTLED));
    std::fs::rename(&settled, &index).map_err(file_error("rename to the index", &settled))?;
    store.durability.record_replacement();
    // Two names of one file, which it has where nothing came behind the second, rename(2) leaves both.
    settle_all(store)?;
    store.sync_root()
}

/// Its bytes, with what is there for others.
fn bytes(store: &Store, index: Index) -> Result<Vec<u8>, StoreError> {
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
    let file = Written { schema_version: 2, media_type: oci::INDEX.to_owned(), manifests };
    let bytes = serde_json::to_vec(&file).expect("an index has no shape that JSON cannot hold");
    if bytes.len() as u64 > MAX {
        // Nobody could read it again.
        let source = io::Error::other("there are too many images and references in the store");
        return Err(file_error("write", &store.root().join(FILE))(source));
    }
    Ok(bytes)
}

/// The entry that other tools find a schema 2 image by, and its OCI manifest. `None` for other images, for one that
/// has no name, and for one whose manifest cannot be read: it must not keep the others from being written.
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

/// Makes the entries for other tools that an older engine did not make.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn add_missing_twins(store: &Store) -> Result<(), StoreError> {
    // Where there is a twin, the entry's name is not where others look.
    match read_as_written(store)?.iter().any(|entry| twin(store, entry).is_some()) {
        true => write(store, read(store)?),
        false => Ok(()),
    }
}

/// The reference that an entry is for.
pub(crate) fn name_of(entry: &Descriptor) -> Option<&str> {
    entry.annotations.get(REF_NAME).map(String::as_str)
}
