//! Makes an image from tars of a root file system, which a client passes as descriptors.
//!
//! Each tar goes through the pipeline for pulled layers. The blob is stored unchanged: uncompressed, gzip or zstd. Runs
//! on a job's thread; the caller announces the outcome.

use crate::image::pull::pipeline::{LayerError, Pipeline, Sink, Streamed};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sampan_ipc::engine::Phase;
use sampan_job::cancel::{Cancel, Cancelled};
use sampan_job::cpu;
use sampan_job::limits::Limits;
use sampan_job::progress::Progress;
use sampan_oci as oci;
use sampan_oci::digest::Digest;
use sampan_oci::platform::Platform;
use sampan_oci::reference::Reference;
use sampan_oci::{Config, Descriptor, History, Manifest, PlatformField, RootFs, Run};
use sampan_store::images::{self, NewImage};
use sampan_store::{Generation, Pin, Store, StoreError, Temp};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

/// How often a reader of a silent pipe checks whether the job was cancelled, in milliseconds.
const LOOK_MS: u16 = 200;

/// A request to import an image.
pub struct ImportRequest {
    /// Reference of the new image.
    pub reference: Reference,
    /// Platform of the new image.
    pub platform: Platform,
    /// The run configuration of the new image.
    pub run: Run,
    /// The layers' tars, lowest first; each is read from its current offset.
    pub layers: Vec<OwnedFd>,
}

/// An imported image.
pub struct Imported {
    /// Digest of the image's manifest.
    pub digest: Digest,
    /// Digest of the image's config.
    pub id: Digest,
    /// Whether the store had the complete image under this name before the import.
    pub unchanged: bool,
}

/// Why an import failed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A tar cannot be imported.
    #[error("cannot import layer {nth}")]
    Layer {
        /// Number of the layer, from 1.
        nth: usize,
        /// Error of the pipeline.
        source: Box<LayerError>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImportError {
    /// Whether the import ended because the job was cancelled.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, ImportError::Layer { source, .. } if matches!(**source, LayerError::Cancelled(_)))
    }
}

/// Imports an image into `store`.
///
/// # Errors
/// [`ImportError`]: a tar cannot be read or unpacked, or the store fails. After an error the store has no new image.
pub fn import(
    store: &Store,
    limits: &Limits,
    request: ImportRequest,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Imported, ImportError> {
    let files: Vec<File> = request.layers.into_iter().map(File::from).collect();
    let size = |file: &File| file.metadata().map_or(0, |meta| if meta.is_file() { meta.len() } else { 0 });
    progress.begin(files.iter().zip(1..).map(|(file, nth)| (format!("layer {nth}"), size(file))));
    let mut layers = Vec::new();
    for (row, file) in files.iter().enumerate() {
        let streamed = stream(store, limits, row, file, progress, cancel).map_err(|source| {
            progress.fail(row, &sampan_ipc::report::chain(&source));
            ImportError::Layer { nth: row + 1, source: Box::new(source) }
        })?;
        layers.push(streamed);
    }
    let config = config(&request.platform, request.run, &layers);
    let manifest = name(store, &config, layers)?;
    store.complete_layers(&config.chain_ids(), cancel).map_err(|error| match cancel.check() {
        Err(cancelled) => {
            ImportError::Layer { nth: manifest.0.layers.len(), source: Box::new(cancelled.into()) }
        }
        Ok(()) => error.into(),
    })?;
    let config_digest = manifest.0.config.digest.clone();
    let bytes = crate::image::to_json(&manifest.0);
    let digest = Digest::of(&bytes);
    let _manifest = store.pin([digest.clone()]);
    store.write_blob(&digest, &bytes)?;
    let descriptor = descriptor(oci::MANIFEST, &digest, bytes.len() as u64);
    let platform = PlatformField::from(&request.platform);
    let new = NewImage {
        reference: &request.reference,
        manifest: descriptor,
        platform,
        index: None,
        since: Generation::default(),
    };
    let unchanged = images::commit(store, new)?;
    Ok(Imported { digest, id: config_digest, unchanged })
}

fn stream(
    store: &Store,
    limits: &Limits,
    row: usize,
    file: &File,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<(Streamed, Temp), LayerError> {
    progress.phase(row, Phase::Downloading);
    let pipeline = Pipeline {
        store,
        limits,
        cancel,
        expected: None,
        untar: true,
        on_bytes: &|bytes| progress.add(row, bytes),
        on_phase: &|phase| progress.phase(row, phase),
    };
    let (temp, mut kept) = store.temp_file("blob")?;
    let streamed = pipeline.run(CancellableReader { file, cancel }, Sink::File(&mut kept))?;
    progress.note_skipped(streamed.digest.short(), streamed.skipped);
    progress.phase(row, Phase::Complete);
    Ok((streamed, temp))
}

fn config(platform: &Platform, run: Run, layers: &[(Streamed, Temp)]) -> Config {
    let created = Some(oci::timestamp::format(sampan_ipc::time::now()));
    Config {
        created: created.clone(),
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        config: run,
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids: layers.iter().map(|(layer, _)| layer.diff_id.clone()).collect(),
        },
        history: layers
            .iter()
            .map(|_| History {
                created: created.clone(),
                created_by: Some("sampan import".to_owned()),
                ..History::default()
            })
            .collect(),
    }
}

/// Gives the blobs and layers their final names. The returned pin keeps them until the image is committed.
fn name(
    store: &Store,
    config: &Config,
    layers: Vec<(Streamed, Temp)>,
) -> Result<(Manifest, Pin), StoreError> {
    let chain_ids = config.chain_ids();
    let bytes = crate::image::to_json(config);
    let config_digest = Digest::of(&bytes);
    let blobs = layers.iter().map(|(layer, _)| layer.digest.clone());
    let pin = store.pin(blobs.chain(chain_ids.iter().cloned()).chain([config_digest.clone()]));
    store.write_blob(&config_digest, &bytes)?;
    let mut descriptors = Vec::new();
    for ((layer, blob), chain_id) in layers.into_iter().zip(&chain_ids) {
        descriptors.push(descriptor(layer.format.media_type(), &layer.digest, layer.size));
        store.name_blob(blob, &layer.digest)?;
        if let Some(unpacked) = layer.layer {
            store.name_layer(unpacked, chain_id)?;
        }
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: oci::MANIFEST.to_owned(),
        config: descriptor(oci::CONFIG, &config_digest, bytes.len() as u64),
        layers: descriptors,
    };
    Ok((manifest, pin))
}

fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Descriptor {
    let media_type = media_type.to_owned();
    Descriptor { media_type, digest: digest.clone(), size, platform: None, annotations: BTreeMap::new() }
}

/// A reader of a descriptor that may be a silent pipe; a read fails after the job was cancelled.
pub(crate) struct CancellableReader<'a> {
    pub(crate) file: &'a File,
    pub(crate) cancel: &'a Cancel,
}

impl Read for CancellableReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            self.cancel.check().map_err(|Cancelled| io::Error::other("cancelled"))?;
            let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            // No descriptor is ready: the pipe is open and empty.
            if poll(&mut fds, PollTimeout::ZERO)? == 0
                && cpu::idle(|| poll(&mut fds, PollTimeout::from(LOOK_MS)))? == 0
            {
                continue;
            }
            match (&mut &*self.file).read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}
