//! A save: writes images of the store into an archive or a layout.
//!
//! An OCI archive and a layout get configs and blobs byte for byte, so all digests stay. Manifests are also written
//! byte for byte, except docker manifests, which are converted to OCI manifests. A docker archive gets configs byte for
//! byte and layers as they are stored, except that a save decompresses zstd layers: docker before version 23 cannot
//! read zstd. A tar header gives the length of a layer before the layer's content, so a save decompresses a zstd layer
//! twice: first to learn its length, then to write it. A save checks the digest of every blob that it reads. Runs on a
//! job's thread; the caller announces the outcome.

use crate::image::archive::manifest::{CONTAINERD_NAME, REF_NAME, blob_name};
use crate::image::archive::writer::{ArchiveWriter, LayoutWriter, TarWriter};
use sampan_ipc::engine::{Container, Phase};
use sampan_job::cancel::{Cancel, Cancelled};
use sampan_job::limits::Limits;
use sampan_job::progress::Progress;
use sampan_layer::decompress::{self, Format};
use sampan_oci as oci;
use sampan_oci::digest::{Digest, Hasher};
use sampan_oci::reference::Reference;
use sampan_oci::{Descriptor, Index};
use sampan_store::images::{self, ImageError, Loaded};
use sampan_store::{Pin, Store, StoreError, file_error};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

/// A request to save images.
pub struct SaveRequest {
    /// The images: references, digests or ID prefixes.
    pub names: Vec<String>,
    /// Format of the archive to write.
    pub target: Container,
    /// The file, pipe or directory to write the archive into.
    pub to: OwnedFd,
    /// The image's name in the archive, in place of its references; only for a save of a single image.
    pub rename: Option<String>,
}

/// A saved image.
pub struct SavedImage {
    /// The reference in the request, or the image's ID if the request named no reference.
    pub name: String,
    /// Digest of the image's manifest.
    pub digest: Digest,
    /// Digest of the image's config.
    pub id: Digest,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
}

/// Why a save failed.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// An image does not exist, or cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The request gives one name for several images.
    #[error("{0} images were selected, and one name was given for the archive")]
    Several(usize),
    /// The store cannot be read, or the target cannot be written.
    #[error("cannot write {name:?} into the archive")]
    Write {
        /// Name of the file in the archive.
        name: String,
        /// Error of the read or the write.
        source: io::Error,
    },
    /// The content of a blob in the store does not match the blob's digest.
    #[error("blob {expected} in the store has digest {found}")]
    Digest {
        /// Digest in the name of the blob.
        expected: Digest,
        /// Digest of the blob's content.
        found: Digest,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn writing(name: &str) -> impl FnOnce(io::Error) -> SaveError {
    let name = name.to_owned();
    move |source| SaveError::Write { name, source }
}

/// Saves images of `store`.
///
/// # Errors
/// [`SaveError`]; after a call of `cancel`, the error is always [`SaveError::Cancelled`], even if another error came
/// first. After an error, a file or pipe holds an incomplete archive, which the caller discards; a directory has no new
/// files.
pub fn save(
    store: &Store,
    limits: &Limits,
    request: SaveRequest,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Vec<SavedImage>, SaveError> {
    let result = run(store, limits, request, progress, cancel);
    match result {
        Err(_) if cancel.is_cancelled() => Err(Cancelled.into()),
        other => other,
    }
}

fn run(
    store: &Store,
    limits: &Limits,
    request: SaveRequest,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Vec<SavedImage>, SaveError> {
    let images = find(store, &request)?;
    let mut work = Work { store, limits, progress, cancel, done: HashSet::new(), rows: Vec::new() };
    work.begin(&images);
    let target = request.target;
    match target {
        Container::DockerArchive => {
            work.docker(&images, Box::new(TarWriter::new(request.to.into(), cancel)))?;
        }
        Container::OciArchive => {
            let mut outlet = TarWriter::new(request.to.into(), cancel);
            outlet.directory("blobs/").map_err(writing("blobs/"))?;
            outlet.directory("blobs/sha256/").map_err(writing("blobs/sha256/"))?;
            work.layout(&images, Box::new(outlet))?;
        }
        Container::OciLayout => {
            let outlet = LayoutWriter::new(request.to, cancel).map_err(writing("."))?;
            work.layout(&images, Box::new(outlet))?;
        }
    }
    Ok(images.into_iter().flat_map(|image| image.saved()).collect())
}

/// An image that the request selects, and the image's names.
struct Chosen {
    image: Loaded,
    /// Keeps the image's content in the store during the save, even if a user removes the image.
    _pin: Pin,
    /// The full references by which the request selected the image.
    references: Vec<String>,
    /// The image's names in the archive; empty if the request selected the image by ID.
    names: Vec<String>,
}

impl Chosen {
    fn saved(self) -> Vec<SavedImage> {
        let Loaded { entry, manifest, config, .. } = self.image;
        let saved = |name: String| SavedImage {
            name,
            digest: entry.digest.clone(),
            id: manifest.config.digest.clone(),
            labels: config.config.labels.clone(),
        };
        match self.references.is_empty() {
            true => vec![saved(manifest.config.digest.to_string())],
            false => self.references.into_iter().map(saved).collect(),
        }
    }
}

/// Finds the images in the order of the request. An image that the request names several times is returned only once.
fn find(store: &Store, request: &SaveRequest) -> Result<Vec<Chosen>, SaveError> {
    let mut chosen: Vec<Chosen> = Vec::new();
    for name in &request.names {
        let (image, pin) = images::find_and_pin(store, name)?;
        let full = Reference::parse(name).map(|reference| reference.to_string()).ok();
        let full = full.filter(|full| image.references.contains(full) && !full.contains('@'));
        let at = chosen.iter().position(|c| c.image.entry.digest == image.entry.digest);
        let at = at.unwrap_or_else(|| {
            chosen.push(Chosen { image, _pin: pin, references: Vec::new(), names: Vec::new() });
            chosen.len() - 1
        });
        if let (Some(full), Some(there)) = (full, chosen.get_mut(at))
            && !there.references.contains(&full)
        {
            there.references.push(full);
        }
    }
    for image in &mut chosen {
        image.names.clone_from(&image.references);
    }
    if let Some(rename) = &request.rename {
        match chosen.as_mut_slice() {
            [only] => only.names = vec![rename.clone()],
            several => return Err(SaveError::Several(several.len())),
        }
    }
    Ok(chosen)
}

struct Work<'a> {
    store: &'a Store,
    limits: &'a Limits,
    progress: &'a Progress,
    cancel: &'a Cancel,
    /// Names of the files that are already in the archive.
    done: HashSet<String>,
    /// The digest of the layer that each progress row shows.
    rows: Vec<Digest>,
}

/// An image in `manifest.json` of a docker archive.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// How a layer is written into a docker archive: the file's name and size, and whether the layer is decompressed.
struct DockerLayer {
    name: String,
    size: u64,
    is_unpacked: bool,
}

impl Work<'_> {
    /// Makes one progress row for each layer; images that share a layer share its row.
    fn begin(&mut self, images: &[Chosen]) {
        let mut rows = Vec::new();
        for layer in images.iter().flat_map(|chosen| &chosen.image.manifest.layers) {
            if !self.rows.contains(&layer.digest) {
                self.rows.push(layer.digest.clone());
                rows.push((layer.digest.short().to_owned(), layer.size));
            }
        }
        self.progress.begin(rows);
    }

    fn row(&self, digest: &Digest) -> usize {
        self.rows.iter().position(|row| row == digest).unwrap_or(usize::MAX)
    }

    fn layout(&mut self, images: &[Chosen], mut to: Box<dyn ArchiveWriter + '_>) -> Result<(), SaveError> {
        let mut written = Vec::with_capacity(images.len());
        for chosen in images {
            written.push(self.oci_manifest(&chosen.image.entry)?);
        }
        self.document(&mut *to, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        self.document(&mut *to, "index.json", &index(images, &written))?;
        for (chosen, (entry, bytes)) in images.iter().zip(&written) {
            let manifest = &chosen.image.manifest;
            self.document(&mut *to, &blob_name(&entry.digest), bytes)?;
            let config = &manifest.config.digest;
            let bytes = self.store.read_blob(config, oci::CONFIG_MAX)?;
            self.document(&mut *to, &blob_name(config), &bytes)?;
            for layer in &manifest.layers {
                self.blob(&mut *to, &blob_name(&layer.digest), layer)?;
            }
        }
        self.cancel.check()?;
        to.finish().map_err(writing("index.json"))
    }

    /// The image's manifest and its entry in an index. Converts a docker manifest to an OCI manifest, because other
    /// tools find only OCI manifests in a layout.
    fn oci_manifest(&self, entry: &Descriptor) -> Result<(Descriptor, Vec<u8>), SaveError> {
        let bytes = self.store.read_blob(&entry.digest, oci::MANIFEST_MAX)?;
        if entry.media_type != oci::DOCKER_MANIFEST {
            return Ok((entry.clone(), bytes));
        }
        // OCI defines no media type for one of the layers: write the docker manifest unchanged.
        let Some(made) = oci::to_oci_manifest(&bytes) else { return Ok((entry.clone(), bytes)) };
        let (digest, size, media_type) = (Digest::of(&made), made.len() as u64, oci::MANIFEST.to_owned());
        Ok((Descriptor { digest, size, media_type, ..entry.clone() }, made))
    }

    fn docker(&mut self, images: &[Chosen], mut to: Box<dyn ArchiveWriter + '_>) -> Result<(), SaveError> {
        let mut list = Vec::new();
        let mut layers = Vec::new();
        for chosen in images {
            let Loaded { manifest, config, .. } = &chosen.image;
            let parts = manifest.layers.iter().zip(&config.rootfs.diff_ids);
            let here = parts.map(|(layer, diff_id)| self.docker_layer(layer, diff_id));
            let here = here.collect::<Result<Vec<_>, SaveError>>()?;
            list.push(DockerImage {
                config: format!("{}.json", manifest.config.digest.hex()),
                // Docker writes null for an image without a name.
                repo_tags: Some(chosen.names.clone()).filter(|names| !names.is_empty()),
                layers: here.iter().map(|layer| layer.name.clone()).collect(),
            });
            layers.push(here);
        }
        let bytes = crate::image::to_json(&list);
        self.document(&mut *to, "manifest.json", &bytes)?;
        for (chosen, here) in images.iter().zip(layers) {
            let manifest = &chosen.image.manifest;
            let config = self.store.read_blob(&manifest.config.digest, oci::CONFIG_MAX)?;
            self.document(&mut *to, &format!("{}.json", manifest.config.digest.hex()), &config)?;
            for (layer, docker) in manifest.layers.iter().zip(here) {
                match docker.is_unpacked {
                    true => self.decompressed(&mut *to, &docker, layer)?,
                    false => self.blob(&mut *to, &docker.name, layer)?,
                }
            }
        }
        self.cancel.check()?;
        to.finish().map_err(writing("the end mark"))
    }

    fn document(&mut self, to: &mut dyn ArchiveWriter, name: &str, bytes: &[u8]) -> Result<(), SaveError> {
        self.cancel.check()?;
        match self.done.insert(name.to_owned()) {
            true => to.document(name, bytes).map_err(writing(name)),
            false => Ok(()),
        }
    }

    /// Copies a blob unchanged, unless the target already has a file of this name.
    fn blob(&mut self, to: &mut dyn ArchiveWriter, name: &str, layer: &Descriptor) -> Result<(), SaveError> {
        let row = self.row(&layer.digest);
        if !self.done.insert(name.to_owned()) {
            return Ok(());
        }
        if to.has_blob(name, layer.size) {
            self.progress.phase(row, Phase::Exists);
            return Ok(());
        }
        self.progress.phase(row, Phase::Saving);
        let mut from = self.open(layer)?;
        let on_bytes = |len| self.progress.add(row, len);
        let hasher = Hasher::new(layer.digest.algorithm());
        let mut hashed = Hashed { from: &mut from, hasher, limits: self.limits, on_bytes: &on_bytes };
        let copied = to.blob(name, layer.size, &mut hashed);
        self.close(row, name, copied, hashed.hasher.finish(), &layer.digest)
    }

    /// Checks the result of copying a blob. Reports a damaged blob as an error even if all bytes were copied.
    fn close(
        &self,
        row: usize,
        name: &str,
        copied: io::Result<()>,
        found: Digest,
        expected: &Digest,
    ) -> Result<(), SaveError> {
        self.cancel.check()?;
        copied.map_err(|source| {
            self.progress.fail(row, &source.to_string());
            SaveError::Write { name: name.to_owned(), source }
        })?;
        if found != *expected {
            self.progress.fail(row, "the store's blob is damaged");
            return Err(SaveError::Digest { expected: expected.clone(), found });
        }
        self.progress.phase(row, Phase::Complete);
        Ok(())
    }

    fn open(&self, layer: &Descriptor) -> Result<File, SaveError> {
        let path = self.store.blob_path(&layer.digest);
        Ok(File::open(&path).map_err(file_error("open", &path))?)
    }

    /// Decides how to write a layer into a docker archive: a zstd layer is decompressed, any other is written
    /// unchanged.
    fn docker_layer(&self, layer: &Descriptor, diff_id: &Digest) -> Result<DockerLayer, SaveError> {
        let path = self.store.blob_path(&layer.digest);
        let (format, mut plain) = decompress::open(self.open(layer)?, self.limits.bounds.zstd_window_log)
            .map_err(file_error("read", &path))?;
        if format != Format::Zstd {
            let name = format!("{}.tar", layer.digest.hex());
            return Ok(DockerLayer { name, size: layer.size, is_unpacked: false });
        }
        let row = self.row(&layer.digest);
        self.progress.phase(row, Phase::Extracting);
        let _cpu = self.limits.cpus.take();
        let mut buffer = vec![0; 64 << 10];
        let mut size = 0_u64;
        loop {
            self.cancel.check()?;
            match plain.read(&mut buffer).map_err(file_error("decompress", &path))? {
                0 => break,
                len => size += len as u64,
            }
        }
        Ok(DockerLayer { name: format!("{}.tar", diff_id.hex()), size, is_unpacked: true })
    }

    /// Writes a layer in decompressed form, unless the archive already has a file of this name.
    fn decompressed(
        &mut self,
        to: &mut dyn ArchiveWriter,
        docker: &DockerLayer,
        layer: &Descriptor,
    ) -> Result<(), SaveError> {
        let row = self.row(&layer.digest);
        if !self.done.insert(docker.name.clone()) {
            return Ok(());
        }
        self.progress.phase(row, Phase::Saving);
        let mut from = self.open(layer)?;
        let on_bytes = |len| self.progress.add(row, len);
        let hasher = Hasher::new(layer.digest.algorithm());
        let mut hashed = Hashed { from: &mut from, hasher, limits: self.limits, on_bytes: &on_bytes };
        let copied = decompress::open(&mut hashed, self.limits.bounds.zstd_window_log)
            .and_then(|(_, mut plain)| to.blob(&docker.name, docker.size, &mut plain))
            // The blob's digest also covers bytes after the compressed stream, so read and hash them, too.
            .and_then(|()| io::copy(&mut hashed, &mut io::sink()).map(drop));
        self.close(row, &docker.name, copied, hashed.hasher.finish(), &layer.digest)
    }
}

/// Makes `index.json`: one entry for each name, or a single entry for an image without names.
fn index(images: &[Chosen], written: &[(Descriptor, Vec<u8>)]) -> Vec<u8> {
    let mut manifests = Vec::new();
    for (Chosen { names, references, .. }, (written, _)) in images.iter().zip(written) {
        let entry = |annotations| Descriptor { annotations, platform: None, ..written.clone() };
        for name in names {
            let mut annotations = BTreeMap::from([(REF_NAME.to_owned(), name.clone())]);
            if references.contains(name) {
                annotations.insert(CONTAINERD_NAME.to_owned(), name.clone());
            }
            manifests.push(entry(annotations));
        }
        if names.is_empty() {
            manifests.push(entry(BTreeMap::new()));
        }
    }
    let index = Index { schema_version: 2, media_type: oci::INDEX.to_owned(), manifests };
    crate::image::to_json(&index)
}

/// A reader that hashes and counts the bytes of a blob. Holds a processor only while hashing: the archive may be a pipe
/// to another job of this engine, which reads it only when that job gets a processor.
struct Hashed<'a> {
    from: &'a mut File,
    hasher: Hasher,
    limits: &'a Limits,
    on_bytes: &'a (dyn Fn(u64) + Sync),
}

impl Read for Hashed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.from.read(into)?;
        let cpu = self.limits.cpus.take();
        self.hasher.update(into.get(..len).unwrap_or_default());
        drop(cpu);
        (self.on_bytes)(len as u64);
        Ok(len)
    }
}
