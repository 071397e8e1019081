//! Measures how much disk space the store takes, and how much of this space could be freed.
//!
//! Serves `sampan system df`. Counts the blocks of files, not their lengths, and counts a file with several names only
//! once. Takes no lock, so files that appear or disappear meanwhile may be counted or not. Memory use grows with the
//! number of blobs and layers, not with the number of files in the layers.

use crate::error::file_error;
use crate::images::{self, ImageError, Loaded};
use crate::partial_blob;
use crate::store::Store;
use sampan_ipc::engine::{Image, ImageUsage, Usage};
use sampan_oci::digest::Digest;
use sampan_os::mutex::lock;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

/// The disk usage of a store.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One entry each for `images`, `layers` and `partials`.
    pub kinds: Vec<Usage>,
    /// One entry for each image, oldest first.
    pub images: Vec<ImageUsage>,
}

/// A blob or an unpacked layer.
#[derive(Default)]
struct StoredObject {
    size: u64,
    /// Number of images that use the blob or layer.
    images: u32,
    /// Whether a job, a named image or an image in use needs the blob or layer.
    needed: bool,
}

type Objects = HashMap<Digest, StoredObject>;

/// Measures the whole store.
///
/// # Errors
/// [`ImageError`] if a directory or `index.json` cannot be read. Images that cannot be read are logged and left out. If
/// an image was left out, nothing counts as reclaimable, because it is unknown which blobs that image needs.
pub fn report(store: &Store) -> Result<Report, ImageError> {
    let (mut blobs, stray_blobs) = blobs(store)?;
    let (mut layers, stray_layers) = layers(store)?;
    let mut images = Vec::new();
    let mut unreadable = 0;
    for image in images::all(store)? {
        match image {
            Ok(image) => {
                let in_use = images::is_in_use(store, &image.entry.digest);
                let needed = in_use || !image.references.is_empty();
                distinct(image.blobs()).for_each(|digest| need(&mut blobs, digest, needed));
                distinct(&image.config.chain_ids()).for_each(|digest| need(&mut layers, digest, needed));
                images.push((image, in_use));
            }
            Err(error) => {
                log::warn!("{}", sampan_ipc::report::chain(&error));
                unreadable += 1;
            }
        }
    }
    let active = images.iter().filter(|(image, in_use)| *in_use || !image.references.is_empty()).count();
    let mut of_images = sum("images", &blobs, stray_blobs);
    (of_images.count, of_images.active) = ((images.len() + unreadable) as u64, active as u64);
    let of_layers = sum("layers", &layers, stray_layers);
    // The row `images` counts blobs and unpacked layers, as docker does. The row `layers` counts the unpacked layers a
    // second time.
    of_images.size = of_images.size.saturating_add(of_layers.size);
    of_images.reclaimable = of_images.reclaimable.saturating_add(of_layers.reclaimable);
    let mut kinds = vec![of_images, of_layers, partials(store)?];
    if unreadable > 0 {
        kinds.iter_mut().take(2).for_each(|kind| kind.reclaimable = 0);
    }
    let images =
        images.iter().map(|(image, in_use)| of_image(store, image, *in_use, &blobs, &layers)).collect();
    Ok(Report { kinds, images })
}

fn distinct<'a>(digests: impl IntoIterator<Item = &'a Digest>) -> impl Iterator<Item = &'a Digest> {
    let mut digests: Vec<&Digest> = digests.into_iter().collect();
    digests.sort_unstable();
    digests.dedup();
    digests.into_iter()
}

fn need(objects: &mut Objects, digest: &Digest, needed: bool) {
    if let Some(object) = objects.get_mut(digest) {
        object.images += 1;
        object.needed |= needed;
    }
}

fn of_image(store: &Store, image: &Loaded, in_use: bool, blobs: &Objects, layers: &Objects) -> ImageUsage {
    let (mut size, mut unique) = (0, 0);
    let chain_ids = image.config.chain_ids();
    let objects = distinct(image.blobs()).filter_map(|digest| blobs.get(digest));
    for object in objects.chain(distinct(&chain_ids).filter_map(|digest| layers.get(digest))) {
        size += object.size;
        unique += if object.images == 1 { object.size } else { 0 };
    }
    let image = Image { size, ..image.summary(store) };
    ImageUsage { image, size, unique, in_use }
}

/// Adds up `objects` and the `stray` bytes of files that do not belong to the store.
fn sum(kind: &str, objects: &Objects, stray: u64) -> Usage {
    let mut usage = Usage { kind: kind.to_owned(), size: stray, reclaimable: stray, ..Usage::default() };
    for object in objects.values() {
        usage.count += 1;
        usage.size += object.size;
        match object.needed {
            true => usage.active += 1,
            false => usage.reclaimable += object.size,
        }
    }
    usage
}

/// All blobs, and the bytes of other files in the directories of blobs.
fn blobs(store: &Store) -> Result<(Objects, u64), ImageError> {
    let mut objects = Objects::new();
    let mut stray = 0;
    for algorithm in ["sha256", "sha512"] {
        let dir = store.root().join("blobs").join(algorithm);
        each(&dir, |name, path| {
            let size = store.size_on_disk(path)?;
            match Digest::parse(&format!("{algorithm}:{name}")) {
                Ok(digest) => drop(objects.insert(digest.clone(), object(store, &digest, size))),
                Err(_) => stray += size,
            }
            Ok(())
        })?;
    }
    Ok((objects, stray))
}

fn layers(store: &Store) -> Result<(Objects, u64), ImageError> {
    let mut objects = Objects::new();
    let mut stray = 0;
    let mut sizes = HashMap::new();
    each(&store.root().join("layers"), |name, path| {
        let size = store.size_on_disk(path)?;
        match Digest::parse(&format!("sha256:{name}")) {
            Ok(digest) => {
                sizes.insert(digest.clone(), size);
                objects.insert(digest.clone(), object(store, &digest, size));
            }
            Err(_) => stray += size,
        }
        Ok(())
    })?;
    // Sizes that were measured before are replaced by these, which `images` then shows.
    *lock(&store.layer_sizes) = sizes;
    Ok((objects, stray))
}

fn object(store: &Store, digest: &Digest, size: u64) -> StoredObject {
    StoredObject { size, needed: store.is_pinned(digest), images: 0 }
}

/// Downloads that are not complete, and the files of running jobs under `tmp/`.
fn partials(store: &Store) -> Result<Usage, ImageError> {
    let mut usage = Usage { kind: "partials".to_owned(), ..Usage::default() };
    each(&store.root().join("partial"), |name, path| {
        let size = store.size_on_disk(path)?;
        usage.size += size;
        let needed = partial_blob::digest_of(path).is_some_and(|digest| store.is_pinned(&digest));
        if !needed {
            usage.reclaimable += size;
        }
        if !partial_blob::is_note(name) {
            usage.count += 1;
            usage.active += u64::from(needed);
        }
        Ok(())
    })?;
    each(&store.root().join("tmp"), |_, path| {
        // `tmp/` is emptied at start, so everything in it belongs to a running job.
        usage.size += store.size_on_disk(path)?;
        usage.count += 1;
        usage.active += 1;
        Ok(())
    })?;
    Ok(usage)
}

/// Calls `visit` for each entry of `dir`; skips entries that disappear meanwhile.
fn each(dir: &Path, mut visit: impl FnMut(&str, &Path) -> io::Result<()>) -> Result<(), ImageError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(file_error("list", dir))?,
    };
    for entry in entries {
        let path = entry.map_err(file_error("list", dir))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match visit(&name, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(file_error("look at", &path))?,
        }
    }
    Ok(())
}
