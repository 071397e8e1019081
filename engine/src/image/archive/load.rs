//! A load: reads images from an archive or a layout into the store.
//!
//! Documents → layers → commit. A load stores all files as temporaries until every image is verified, and then gives
//! all of them their final names. If anything fails, the load removes the temporaries. A docker archive has no
//! manifests: this module makes an OCI manifest from the unchanged config and layers, so the image keeps the ID that
//! docker shows. Runs on a job's thread; the caller announces the outcome.

use crate::image::archive::manifest::{self, ListedImage, ManifestError, Wanted};
use crate::image::archive::oci_layout::Layout;
use crate::image::archive::seekable::Seekable;
use crate::image::archive::source::{ArchiveError, Found, Source, layer_error, missing, row_id};
use crate::image::archive::streamed::StreamReader;
use crate::image::disk_space::{Claim, DiskSpace, DiskSpaceError};
use crate::image::import::CancellableReader;
use crate::image::policy::{Policies, PolicyError};
use crate::image::pull::pipeline::{Expected, LayerError, Pipeline, Sink};
use sampan_ipc::engine::Phase;
use sampan_job::cancel::{Cancel, Cancelled};
use sampan_job::limits::Limits;
use sampan_job::progress::Progress;
use sampan_layer::decompress::{self, Format};
use sampan_oci as oci;
use sampan_oci::digest::{Algorithm, Digest, Hasher};
use sampan_oci::platform::Platform;
use sampan_oci::reference::Reference;
use sampan_oci::{Descriptor, Manifest, PlatformField};
use sampan_store::images::{self, NewImage};
use sampan_store::{Generation, Pin, Store, StoreError, Temp, file_error};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A request to load images.
pub struct LoadRequest {
    /// The archive's file or pipe, or the layout's directory.
    pub from: OwnedFd,
    /// Whether `from` is a directory.
    pub is_layout: bool,
    /// Load only the image of this name in the archive; `None` loads all images.
    pub select: Option<String>,
    /// The new name of the image, in place of its names in the archive.
    pub reference: Option<Reference>,
    /// The wanted platform. `None` means the platform of this host, and accepts an image of any platform if no index
    /// lists it.
    pub platform: Option<Platform>,
    /// Whether to unpack the layers.
    pub unpack: bool,
    /// Which names an archive may give to unsigned images.
    pub policies: Arc<Policies>,
    /// Claims on free disk space.
    pub room: DiskSpace,
}

/// A loaded image.
pub struct LoadedImage {
    /// The image's names in the store.
    pub references: Vec<Reference>,
    /// Digest of the image's manifest.
    pub digest: Digest,
    /// Digest of the image's config.
    pub id: Digest,
    /// Size of the image's config and layers, in bytes.
    pub size: u64,
    /// Whether the store had the complete image under these names before the load.
    pub unchanged: bool,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
}

/// Why a load failed.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// The archive, or a file in it, cannot be read.
    #[error(transparent)]
    Archive(ArchiveError),
    /// The archive's documents are not valid.
    #[error(transparent)]
    Manifest(ManifestError),
    /// A layer differs from what the documents say.
    #[error("layer {name:?} in the archive has {what} {found}, expected {expected}")]
    Wrong {
        /// Name of the layer in the archive.
        name: String,
        /// The property that differs: size, digest or diff id.
        what: &'static str,
        /// Value of the property in the layer.
        found: String,
        /// Value of the property in the documents.
        expected: String,
    },
    /// The platform of the image differs from the requested platform.
    #[error("the image in the archive is for {found}, not for {wanted}")]
    Platform {
        /// Platform of the image.
        found: String,
        /// The requested platform.
        wanted: String,
    },
    /// The policy wants a signature for an image of this name.
    #[error("an image in the archive is called {reference}: {source}")]
    Policy {
        /// Name of the image.
        reference: String,
        /// The policy's refusal.
        source: Box<PolicyError>,
    },
    /// The disk has too little space for the images.
    #[error(transparent)]
    DiskSpace(#[from] DiskSpaceError),
    /// The disk filled up while the archive was read.
    #[error(transparent)]
    Full(Arc<DiskSpaceError>),
    /// The request gives a single name for the images of an archive that has several.
    #[error("the archive has {0} images, and one name was given")]
    Several(usize),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ArchiveError> for LoadError {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Cancelled(cancelled) => LoadError::Cancelled(cancelled),
            ArchiveError::Store(error) => LoadError::Store(error),
            other => LoadError::Archive(other),
        }
    }
}

impl From<ManifestError> for LoadError {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::Archive(error) => error.into(),
            other => LoadError::Manifest(other),
        }
    }
}

/// Loads images into `store`.
///
/// # Errors
/// [`LoadError`]; after a call of `cancel`, the error is always [`LoadError::Cancelled`], even if another error came
/// first. After an error the store has no new image.
pub fn load(
    store: &Store,
    limits: &Limits,
    request: LoadRequest,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Vec<LoadedImage>, LoadError> {
    let mut work = Work {
        store,
        limits,
        progress,
        cancel,
        platform: request.platform,
        unpack: request.unpack,
        policies: request.policies,
        room: request.room,
        seen: HashMap::new(),
        blobs: HashMap::new(),
        layers: HashMap::new(),
        known: None,
        pins: Vec::new(),
        claims: Vec::new(),
    };
    let result = work.run(request.from, request.is_layout, request.select.as_deref(), request.reference);
    match result {
        Err(_) if cancel.is_cancelled() => Err(Cancelled.into()),
        other => other,
    }
}

struct Work<'a> {
    store: &'a Store,
    limits: &'a Limits,
    progress: &'a Progress,
    cancel: &'a Cancel,
    platform: Option<Platform>,
    unpack: bool,
    policies: Arc<Policies>,
    room: DiskSpace,
    /// Layers that were loaded, by their resolved names.
    seen: HashMap<String, Blob>,
    /// Blobs that do not have their final names yet.
    blobs: HashMap<Digest, Temp>,
    /// Unpacked layers that do not have their final names yet, by chain id.
    layers: HashMap<Digest, Temp>,
    /// The blob's digest and the chain id of each layer of the store's images. Read from the store when first needed.
    known: Option<HashSet<(Digest, Digest)>>,
    /// Pins on content of the store that these images need.
    pins: Vec<Pin>,
    /// Claims on disk space for layers that this load has not written yet.
    claims: Vec<Claim>,
}

/// The blob of a loaded layer.
#[derive(Clone)]
struct Blob {
    digest: Digest,
    size: u64,
    diff_id: Digest,
    format: Format,
}

/// An image whose layers are all loaded.
struct Ready {
    references: Vec<Reference>,
    manifest: Descriptor,
    bytes: Vec<u8>,
    index: Option<Digest>,
    offer_config: Vec<u8>,
    id: Digest,
    platform: PlatformField,
    size: u64,
    labels: BTreeMap<String, String>,
    /// The chain ids of the image's layers, the lowest first; empty if the load does not unpack layers.
    chain_ids: Vec<Digest>,
}

impl Work<'_> {
    fn run(
        &mut self,
        from: OwnedFd,
        is_layout: bool,
        select: Option<&str>,
        reference: Option<Reference>,
    ) -> Result<Vec<LoadedImage>, LoadError> {
        if is_layout {
            let mut layout = Layout::new(from);
            let offers = self.listed_images(&mut layout, true, select, reference)?;
            self.check_room(&offers)?;
            return self.images(&mut layout, offers);
        }
        let file = File::from(from);
        if let Some(mut seekable) = Seekable::open(&file)? {
            let offers = self.listed_images(&mut seekable, false, select, reference)?;
            self.check_room(&offers)?;
            return self.images(&mut seekable, offers);
        }
        let staging = StreamReader {
            store: self.store,
            limits: self.limits,
            progress: self.progress,
            cancel: self.cancel,
            unpack: self.unpack,
        };
        // The size of a stream is not known, so no disk space can be claimed: check the free space while reading.
        let room = self.room.clone();
        let patient = CancellableReader { file: &file, cancel: self.cancel };
        let (_, plain) =
            decompress::open(patient, self.limits.bounds.zstd_window_log).map_err(ArchiveError::Read)?;
        let plain = room.checked_reader(self.store, plain);
        let full = plain.full();
        let mut staged = staging.read(plain).map_err(|error| match full.get() {
            Some(error) => LoadError::Full(Arc::clone(error)),
            None => error.into(),
        })?;
        let offers = self.listed_images(&mut staged, false, select, reference)?;
        self.images(&mut staged, offers)
    }

    /// Lists the archive's images, and checks whether the policy allows their names.
    fn listed_images(
        &self,
        source: &mut dyn Source,
        is_layout: bool,
        select: Option<&str>,
        reference: Option<Reference>,
    ) -> Result<Vec<ListedImage>, LoadError> {
        let platform = self.platform.clone().unwrap_or_else(Platform::host);
        let mut offers = manifest::read(source, &Wanted { select, platform: &platform, is_layout })?;
        let is_renamed = reference.is_some();
        if let Some(reference) = reference {
            match offers.as_mut_slice() {
                [only] => only.names = vec![reference],
                several => return Err(LoadError::Several(several.len())),
            }
        }
        // The policy does not apply to a name that the user gave, just as it does not apply to `sampan tag`.
        for name in offers.iter().flat_map(|offer| &offer.names).filter(|_| !is_renamed) {
            let refused = |error| LoadError::Policy { reference: name.to_string(), source: Box::new(error) };
            self.policies.check_unsigned(name).map_err(refused)?;
        }
        Ok(offers)
    }

    /// Claims disk space for the layers in the manifests, before they are read. A docker archive does not say the sizes
    /// of its layers.
    fn check_room(&mut self, offers: &[ListedImage]) -> Result<(), LoadError> {
        for offer in offers {
            if let Some(manifest) = offer.manifest() {
                let chain_ids = offer.parsed.chain_ids();
                self.claims.push(self.room.claim(self.store, &manifest, &chain_ids, self.unpack, None)?);
            }
        }
        Ok(())
    }

    /// Loads all layers of all images; then gives all blobs, layers and images their final names.
    fn images(
        &mut self,
        source: &mut dyn Source,
        offers: Vec<ListedImage>,
    ) -> Result<Vec<LoadedImage>, LoadError> {
        let mut ready = Vec::with_capacity(offers.len());
        for offer in offers {
            self.cancel.check()?;
            ready.push(self.image(source, offer)?);
        }
        self.cancel.check()?;
        self.finish(ready)
    }

    /// Loads an image's layers as temporaries without final names.
    fn image(&mut self, source: &mut dyn Source, mut offer: ListedImage) -> Result<Ready, LoadError> {
        self.check_platform(&offer)?;
        let is_adopted = self.adopt(&mut offer)?;
        let chain_ids = offer.parsed.chain_ids();
        self.pins.push(self.store.pin(chain_ids.iter().cloned()));
        let mut blobs = Vec::with_capacity(offer.layers.len());
        let parts = offer.layers.iter().zip(&offer.parsed.rootfs.diff_ids).zip(&chain_ids);
        for (((name, expected), diff_id), chain_id) in parts {
            self.cancel.check()?;
            blobs.push(match expected.as_ref().filter(|_| is_adopted) {
                Some(here) => self.stored(name, here.digest.clone(), here.size, diff_id, chain_id)?,
                None => self.layer(source, name, expected.as_ref(), diff_id, chain_id)?,
            });
        }
        let id = offer.config_digest();
        self.pins.push(self.store.pin([id.clone()]));
        let (manifest, bytes) = match offer.manifest {
            Some(manifest) => manifest,
            None => made_manifest(&id, offer.config.len() as u64, &blobs),
        };
        Ok(Ready {
            references: offer.names,
            manifest,
            bytes,
            index: offer.index,
            size: blobs.iter().fold(offer.config.len() as u64, |sum, blob| sum.saturating_add(blob.size)),
            offer_config: offer.config,
            id,
            platform: PlatformField::from(&offer.parsed.platform()),
            labels: offer.parsed.config.labels,
            chain_ids: if self.unpack { chain_ids } else { Vec::new() },
        })
    }

    /// Looks in the store for the image of a docker archive; an equal config digest means an equal image. The stored
    /// image may have come from a registry with a manifest. If the stored image is complete, the load gives it the
    /// names from the archive and reads no layer.
    fn adopt(&mut self, offer: &mut ListedImage) -> Result<bool, LoadError> {
        let id = offer.config_digest();
        let is_it = |image: &images::Loaded| image.manifest.config.digest == id;
        let images = images::list(self.store).unwrap_or_default();
        let Some(image) = images.into_iter().find(is_it).filter(|_| offer.manifest.is_none()) else {
            return Ok(false);
        };
        let needed = image.manifest.layers.iter().map(|layer| layer.digest.clone());
        self.pins.push(self.store.pin(needed.chain([id, image.entry.digest.clone()])));
        let has = |layer: &Descriptor| self.store.has_blob(&layer.digest, layer.size);
        let Ok(bytes) = self.store.read_blob(&image.entry.digest, oci::MANIFEST_MAX) else {
            return Ok(false);
        };
        if !image.manifest.layers.iter().all(has) {
            return Ok(false);
        }
        offer.index = images::index_of(&image.entry);
        let manifest = Descriptor { annotations: BTreeMap::new(), platform: None, ..image.entry };
        offer.manifest = Some((manifest, bytes));
        for (here, layer) in offer.layers.iter_mut().zip(image.manifest.layers) {
            here.1 = Some(layer);
        }
        Ok(true)
    }

    fn check_platform(&self, offer: &ListedImage) -> Result<(), LoadError> {
        let found = offer.parsed.platform();
        match &self.platform {
            Some(wanted) if offer.index.is_none() && wanted.rank(&found).is_none() => {
                Err(LoadError::Platform { found: found.to_string(), wanted: wanted.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Loads one layer, unless this load has read it before for another image.
    fn layer(
        &mut self,
        source: &mut dyn Source,
        name: &str,
        expected: Option<&Descriptor>,
        diff_id: &Digest,
        chain_id: &Digest,
    ) -> Result<Blob, LoadError> {
        let resolved = source.resolve(name)?.ok_or_else(|| missing(name))?;
        let known = self.seen.get(&resolved).cloned();
        let blob = match known {
            Some(blob) => blob,
            None => self.take(source, &resolved, expected, diff_id, chain_id)?,
        };
        check(name, "diff id", &blob.diff_id, diff_id)?;
        if let Some(expected) = expected {
            check(name, "size", &blob.size, &expected.size)?;
            check(name, "digest", &blob.digest, &expected.digest)?;
        }
        self.seen.insert(resolved, blob.clone());
        self.unpack(name, &blob, chain_id)?;
        self.claims.iter().for_each(|claim| claim.arrived(&blob.digest));
        Ok(blob)
    }

    fn take(
        &mut self,
        source: &mut dyn Source,
        name: &str,
        expected: Option<&Descriptor>,
        diff_id: &Digest,
        chain_id: &Digest,
    ) -> Result<Blob, LoadError> {
        // A blob that the store has is not read again. The digest in the manifest finds the blob in the store; without
        // a manifest, the diff id finds an uncompressed layer.
        let (wanted, size) = expected.map_or((diff_id, None), |e| (&e.digest, Some(e.size)));
        self.pins.push(self.store.pin([wanted.clone()]));
        let found = source.layer(name)?;
        let found = match found {
            Found::Reader(_, len) if self.store.has_blob(wanted, size.unwrap_or(len)) => {
                Found::Stored(wanted.clone(), size.unwrap_or(len))
            }
            other => other,
        };
        match found {
            Found::Kept(kept) => {
                let streamed = kept.streamed;
                self.pins.push(self.store.pin([streamed.digest.clone()]));
                if let Some(unpacked) = streamed.layer {
                    self.layers.entry(chain_id.clone()).or_insert(unpacked);
                }
                let blob = Blob {
                    digest: streamed.digest,
                    size: streamed.size,
                    diff_id: streamed.diff_id,
                    format: streamed.format,
                };
                self.rename(name, blob, expected, kept.blob)
            }
            Found::Stored(digest, size) => self.stored(name, digest, size, diff_id, chain_id),
            Found::Reader(from, len) => self.read(name, from, len, expected, diff_id, chain_id),
        }
    }

    /// Sends the bytes of a layer through the pipeline.
    fn read(
        &mut self,
        name: &str,
        from: Box<dyn Read + Send + '_>,
        len: u64,
        expected: Option<&Descriptor>,
        diff_id: &Digest,
        chain_id: &Digest,
    ) -> Result<Blob, LoadError> {
        let row = self.progress.append(row_id(name), len);
        self.progress.phase(row, Phase::Downloading);
        let whole = expected.map(|e| Expected {
            digest: e.digest.clone(),
            size: e.size,
            diff_id: Some(diff_id.clone()),
        });
        let (temp, mut file) = self.store.temp_file("blob")?;
        let untar = self.unpack && !self.store.has_layer(chain_id) && !self.layers.contains_key(chain_id);
        let streamed = self.pass(row, whole, untar, from, Sink::File(&mut file)).map_err(|error| {
            self.progress.fail(row, &sampan_ipc::report::chain(&error));
            layer_error(name, error)
        })?;
        self.progress.phase(row, Phase::Complete);
        if let Some(unpacked) = streamed.layer {
            self.layers.insert(chain_id.clone(), unpacked);
        }
        let blob = Blob {
            digest: streamed.digest,
            size: streamed.size,
            diff_id: streamed.diff_id,
            format: streamed.format,
        };
        self.pins.push(self.store.pin([blob.digest.clone()]));
        self.blobs.entry(blob.digest.clone()).or_insert(temp);
        Ok(blob)
    }

    fn pass(
        &self,
        row: usize,
        expected: Option<Expected>,
        untar: bool,
        from: impl Read + Send,
        sink: Sink<'_>,
    ) -> Result<crate::image::pull::pipeline::Streamed, LayerError> {
        let pipeline = Pipeline {
            store: self.store,
            limits: self.limits,
            cancel: self.cancel,
            expected,
            untar,
            on_bytes: &|bytes| self.progress.add(row, bytes),
            on_phase: &|phase| self.progress.phase(row, phase),
        };
        let streamed = pipeline.run(from, sink)?;
        self.progress.note_skipped(streamed.digest.short(), streamed.skipped);
        Ok(streamed)
    }

    /// Uses a blob that the store already has; its digest was checked when it was stored. Unpacks the blob if the store
    /// lacks the unpacked layer or the diff id is not yet proven.
    fn stored(
        &mut self,
        name: &str,
        digest: Digest,
        size: u64,
        diff_id: &Digest,
        chain_id: &Digest,
    ) -> Result<Blob, LoadError> {
        let row = self.progress.append(row_id(name), size);
        let path = self.store.blob_path(&digest);
        let mut start = [0; 4];
        let mut file = File::open(&path).map_err(file_error("open", &path))?;
        let len =
            crate::image::archive::source::fill(&mut file, &mut start).map_err(file_error("read", &path))?;
        let format = Format::of(start.get(..len).unwrap_or_default());
        let blob = Blob { digest, size, diff_id: diff_id.clone(), format };
        let proven = (format == Format::Plain && blob.digest == *diff_id) || self.is_known(&blob, chain_id);
        if !proven || (self.unpack && !self.store.has_layer(chain_id)) {
            self.unpack_again(row, name, &blob, chain_id)?;
        }
        self.progress.phase(row, Phase::Exists);
        Ok(blob)
    }

    /// Whether an image of the store has this blob as the layer `chain_id`. If so, the blob's diff id is right, and the
    /// blob need not be read to check it.
    fn is_known(&mut self, blob: &Blob, chain_id: &Digest) -> bool {
        let known = self.known.get_or_insert_with(|| {
            let images = images::list(self.store).unwrap_or_default();
            let pairs = images.iter().flat_map(|image| {
                let blobs = image.manifest.layers.iter().map(|layer| layer.digest.clone());
                blobs.zip(image.config.chain_ids()).collect::<Vec<_>>()
            });
            pairs.collect()
        });
        known.contains(&(blob.digest.clone(), chain_id.clone()))
    }

    /// Unpacks a loaded layer again if an image uses it on top of other lower layers.
    fn unpack(&mut self, name: &str, blob: &Blob, chain_id: &Digest) -> Result<(), LoadError> {
        if !self.unpack || self.layers.contains_key(chain_id) || self.store.has_layer(chain_id) {
            return Ok(());
        }
        let row = self.progress.append(row_id(name), blob.size);
        self.unpack_again(row, name, blob, chain_id)?;
        self.progress.phase(row, Phase::Complete);
        Ok(())
    }

    fn unpack_again(
        &mut self,
        row: usize,
        name: &str,
        blob: &Blob,
        chain_id: &Digest,
    ) -> Result<(), LoadError> {
        self.progress.phase(row, Phase::Extracting);
        let path = match self.blobs.get(&blob.digest) {
            Some(temp) => temp.path().to_owned(),
            None => self.store.blob_path(&blob.digest),
        };
        let file = File::open(&path).map_err(file_error("open", &path))?;
        let expected =
            Expected { digest: blob.digest.clone(), size: blob.size, diff_id: Some(blob.diff_id.clone()) };
        let untar = self.unpack && !self.store.has_layer(chain_id);
        let streamed = self.pass(row, Some(expected), untar, file, Sink::None).map_err(|error| {
            self.progress.fail(row, &sampan_ipc::report::chain(&error));
            layer_error(name, error)
        })?;
        if let Some(unpacked) = streamed.layer {
            self.layers.insert(chain_id.clone(), unpacked);
        }
        Ok(())
    }

    /// Records a blob under the digest that the manifest gives. The pipeline computes only SHA-256; if the manifest has
    /// a SHA-512 digest, the blob is read again.
    fn rename(
        &mut self,
        name: &str,
        mut blob: Blob,
        expected: Option<&Descriptor>,
        temp: Temp,
    ) -> Result<Blob, LoadError> {
        if let Some(expected) = expected.filter(|e| e.digest.algorithm() != Algorithm::Sha256) {
            blob.digest = hash(temp.path(), expected.digest.algorithm())
                .map_err(|source| ArchiveError::File { name: name.to_owned(), source })?;
            self.pins.push(self.store.pin([blob.digest.clone()]));
        }
        self.blobs.entry(blob.digest.clone()).or_insert(temp);
        Ok(blob)
    }

    /// Gives all blobs and layers their final names, then commits the images. If this fails, removes the content that
    /// no image needs.
    fn finish(&mut self, ready: Vec<Ready>) -> Result<Vec<LoadedImage>, LoadError> {
        let named = self.name(ready);
        self.room.keep(self.store);
        if named.is_err() {
            self.pins.clear();
            self.store.collect_garbage();
        }
        named
    }

    fn name(&mut self, ready: Vec<Ready>) -> Result<Vec<LoadedImage>, LoadError> {
        for (digest, temp) in self.blobs.drain() {
            self.store.name_blob(temp, &digest)?;
        }
        for (chain_id, temp) in self.layers.drain() {
            self.store.name_layer(temp, &chain_id)?;
        }
        for image in &ready {
            self.store.complete_layers(&image.chain_ids, self.cancel)?;
            self.pins.push(self.store.pin([image.manifest.digest.clone()]));
            self.store.write_blob(&image.id, &image.offer_config)?;
            self.store.write_blob(&image.manifest.digest, &image.bytes)?;
        }
        ready.into_iter().map(|image| self.commit(image)).collect()
    }

    fn commit(&self, image: Ready) -> Result<LoadedImage, LoadError> {
        let new = |reference| NewImage {
            reference,
            manifest: image.manifest.clone(),
            platform: image.platform.clone(),
            index: image.index.clone(),
            // A load does not know which of the stored blobs are already on the disk, so it treats all of them as new.
            since: Generation::default(),
        };
        let mut unchanged = true;
        for reference in &image.references {
            unchanged &= images::commit(self.store, new(reference))?;
        }
        if image.references.is_empty() {
            unchanged = images::commit_nameless(
                self.store,
                image.manifest.clone(),
                image.platform,
                image.index,
                Generation::default(),
            )?;
        }
        Ok(LoadedImage {
            references: image.references,
            digest: image.manifest.digest,
            id: image.id,
            size: image.size,
            unchanged,
            labels: image.labels,
        })
    }
}

impl ListedImage {
    fn manifest(&self) -> Option<Manifest> {
        self.manifest.as_ref().and_then(|(_, bytes)| serde_json::from_slice(bytes).ok())
    }

    /// The image's ID.
    fn config_digest(&self) -> Digest {
        let declared = self.manifest().map(|manifest| manifest.config.digest);
        declared.unwrap_or_else(|| Digest::of(&self.config))
    }
}

/// Makes an OCI manifest for an image from a docker archive, which has no manifests.
fn made_manifest(id: &Digest, config_size: u64, blobs: &[Blob]) -> (Descriptor, Vec<u8>) {
    let descriptor = |media_type: &str, digest: &Digest, size| Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.clone(),
        size,
        platform: None,
        annotations: BTreeMap::new(),
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: oci::MANIFEST.to_owned(),
        config: descriptor(oci::CONFIG, id, config_size),
        layers: blobs.iter().map(|b| descriptor(b.format.media_type(), &b.digest, b.size)).collect(),
    };
    let bytes = crate::image::to_json(&manifest);
    (descriptor(oci::MANIFEST, &Digest::of(&bytes), bytes.len() as u64), bytes)
}

fn check<T: PartialEq + ToString>(
    name: &str,
    what: &'static str,
    found: &T,
    expected: &T,
) -> Result<(), LoadError> {
    if found == expected {
        return Ok(());
    }
    let (found, expected) = (found.to_string(), expected.to_string());
    Err(LoadError::Wrong { name: name.to_owned(), what, found, expected })
}

fn hash(path: &std::path::Path, algorithm: Algorithm) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            len => hasher.update(buffer.get(..len).unwrap_or_default()),
        }
    }
}
