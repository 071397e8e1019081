//! Fetches a layer of an image into the store; if several jobs need the layer at the same time, only one job fetches
//! it.
//!
//! Called by [`crate::image::pull`], on several threads. The thread that claims the layer's blob first downloads it,
//! continuing an earlier partial download, and unpacks it in the same pass. Other threads wait for the claim and then
//! find the layer in the store, or continue the work if the first thread failed. Names blobs and layers in the store;
//! never touches `index.json`.

use crate::image::pull::pipeline::{Expected, LayerError, Pipeline, Sink};
use sampan_ipc::engine::Phase;
use sampan_job::cancel::{Cancel, Cancelled};
use sampan_job::limits::{Claim, Limits};
use sampan_job::progress::Progress;
use sampan_job::rate_limit::RateLimit;
use sampan_layer::unpack::UnpackError;
use sampan_oci::Descriptor;
use sampan_oci::digest::Digest;
use sampan_registry::blob_download::{BlobRequest, Download};
use sampan_registry::mirrors::Mirrors;
use sampan_store::partial_blob::Partial;
use sampan_store::{Store, Temp, file_error};
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The note for the client when a partial download turns out to be wrong.
const STARTING_OVER: &str = "the partial download of an earlier attempt is wrong, starting over";

/// One layer of an image.
pub struct Layer<'a> {
    /// Index of the layer's row in the job's progress.
    pub row: usize,
    /// Position of the layer in the image; the lowest layer has 0.
    pub nth: usize,
    /// Descriptor of the layer's blob.
    pub blob: &'a Descriptor,
}

/// The digests of a layer that follow from the image's config.
#[derive(Clone)]
pub struct Ids {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Name of the unpacked layer in the store. OCI image-spec, "Layer ChainID".
    pub chain_id: Digest,
}

/// Fetches the layers of one pull.
pub struct Fetch<'a> {
    /// The store that receives the layers.
    pub store: &'a Store,
    /// Limits that all jobs share.
    pub limits: &'a Limits,
    /// The registry and its mirrors.
    pub registry: &'a Mirrors,
    /// The job's own rate limit.
    pub rate: &'a RateLimit,
    /// The job's progress.
    pub progress: &'a Progress,
    /// Cancels the job.
    pub cancel: &'a Cancel,
    /// Whether to unpack the layers; otherwise only their blobs are stored.
    pub unpack: bool,
    /// The layers' digests, which may not have arrived yet.
    pub config: &'a (dyn Config + Sync),
}

/// The layers' digests from an image's config, which is fetched in parallel with the layers.
pub trait Config {
    /// The digests of the layer `nth`; `None` until the config has arrived.
    fn now(&self, nth: usize) -> Option<Ids>;

    /// Waits for the digests of the layer `nth`.
    ///
    /// # Errors
    /// [`Cancelled`]: the config could not be fetched, so the job ends.
    fn wait(&self, nth: usize) -> Result<Ids, Cancelled>;
}

impl Fetch<'_> {
    /// Fetches and unpacks the layer, unless the store has it.
    ///
    /// # Errors
    /// [`LayerError`]. A partial blob that may be right is kept for the next attempt.
    pub fn layer(&self, layer: &Layer<'_>) -> Result<(), LayerError> {
        let (digest, size) = (&layer.blob.digest, layer.blob.size);
        let claim = self.limits.claim(&digest.to_string(), self.cancel, &|bytes| {
            self.progress.set_from_other_job(layer.row, bytes)
        })?;
        let unpacked = if self.store.has_blob(digest, size) {
            let Some(ids) = self.config.now(layer.nth) else {
                // Release the claim: another job may need the blob before this image's config arrives.
                drop(claim);
                self.config.wait(layer.nth)?;
                return self.layer(layer);
            };
            if self.has_layer(&ids) {
                self.progress.phase(layer.row, Phase::Exists);
                return Ok(());
            }
            self.progress.phase(layer.row, Phase::Extracting);
            let path = self.store.blob_path(digest);
            let file = File::open(&path).map_err(file_error("open", &path))?;
            self.pass(layer, file, Sink::None, &|bytes| self.progress.add(layer.row, bytes))?
        } else {
            self.download(layer, &claim)?
        };
        // If the config has not arrived yet, release the claim now: the blob is complete, and another job that needs
        // the blob must not wait for this image's config.
        let claim = self.config.now(layer.nth).map(|_| claim);
        if let Some((unpacked, diff_id)) = unpacked
            && !self.name_layer(layer, unpacked, diff_id)?
        {
            // The config has just arrived, and its diff id uses another algorithm. Unpack the stored blob again to
            // compute that diff id.
            drop(claim);
            return self.layer(layer);
        }
        self.progress.phase(layer.row, Phase::Complete);
        Ok(())
    }

    /// Whether the layer need not be unpacked: the store has it, or this pull stores only blobs.
    fn has_layer(&self, ids: &Ids) -> bool {
        !self.unpack || self.store.has_layer(&ids.chain_id)
    }

    /// Downloads the blob. If a continued download is wrong, starts over at the first byte. If a mirror or registry
    /// sends a wrong blob, tries the next mirror or registry.
    fn download(&self, layer: &Layer<'_>, claim: &Claim<'_>) -> Result<Option<UnnamedLayer>, LayerError> {
        let (digest, size) = (&layer.blob.digest, layer.blob.size);
        let mut partial = Partial::open(self.store, digest, size)?;
        let joined = AtomicBool::new(partial.kept() > 0);
        let mut result = self.stream(layer, claim, &partial, &joined);
        if joined.load(Ordering::Relaxed) && result.as_ref().is_err_and(is_wrong) {
            log::warn!("blob {digest}: {STARTING_OVER}");
            self.progress.retry(layer.row, STARTING_OVER);
            partial.clear()?;
            result = self.stream(layer, claim, &partial, &joined);
        }
        while result.as_ref().is_err_and(is_wrong) && self.registry.reject_blob(digest) {
            partial.clear()?;
            result = self.stream(layer, claim, &partial, &joined);
        }
        match result {
            Ok(unpacked) => {
                partial.finish()?;
                Ok(unpacked)
            }
            Err(error) => {
                if is_wrong(&error) || partial.is_empty() {
                    partial.discard();
                }
                Err(error)
            }
        }
    }

    /// Runs the pipeline over the bytes of the partial blob, and then over the rest of the blob from the registry.
    fn stream(
        &self,
        layer: &Layer<'_>,
        claim: &Claim<'_>,
        partial: &Partial<'_>,
        joined: &AtomicBool,
    ) -> Result<Option<UnnamedLayer>, LayerError> {
        let here = AtomicU64::new(partial.kept());
        let count = |bytes| {
            let now = here.fetch_add(bytes, Ordering::Relaxed) + bytes;
            claim.record_bytes(now);
            self.progress.set(layer.row, now);
        };
        count(0);
        let on_retry = |note: &str| {
            joined.store(true, Ordering::Relaxed);
            self.progress.retry(layer.row, note);
        };
        let wanted = BlobRequest {
            registry: self.registry,
            limits: self.limits,
            rate: self.rate,
            cancel: self.cancel,
            digest: &layer.blob.digest,
            size: layer.blob.size,
            on_begin: &|| self.progress.phase(layer.row, Phase::Downloading),
            on_retry: &on_retry,
            on_etag: &|etag| partial.set_etag(etag),
        };
        let source = Source { kept: partial.reader()?, partial, wanted, download: None };
        self.pass(layer, source, Sink::Partial(partial), &count)
    }

    /// Runs one pass of the pipeline: writes the blob into `sink`, and unpacks the layer into a temporary unless the
    /// store has the layer. Compares the diff id if the config has arrived.
    fn pass(
        &self,
        layer: &Layer<'_>,
        from: impl Read + Send,
        sink: Sink<'_>,
        on_bytes: &(dyn Fn(u64) + Sync),
    ) -> Result<Option<UnnamedLayer>, LayerError> {
        let Descriptor { digest, size, .. } = layer.blob;
        let known = self.config.now(layer.nth);
        let diff_id = known.as_ref().map(|ids| ids.diff_id.clone());
        let pipeline = Pipeline {
            store: self.store,
            limits: self.limits,
            cancel: self.cancel,
            expected: Some(Expected { digest: digest.clone(), size: *size, diff_id }),
            untar: !known.is_some_and(|ids| self.has_layer(&ids)),
            on_bytes,
            on_phase: &|phase| self.progress.phase(layer.row, phase),
        };
        if self.unpack {
            let streamed = pipeline.run(from, sink)?;
            self.progress.note_skipped(digest.short(), streamed.skipped);
            return Ok(streamed.layer.map(|layer| (layer, streamed.diff_id)));
        }
        pipeline.copy(from, sink).map(|()| None)
    }

    /// Waits for the config, and gives the unpacked layer its final name. Returns false if the config's diff id uses
    /// another algorithm than the SHA-256 that was computed.
    fn name_layer(&self, layer: &Layer<'_>, unpacked: Temp, found: Digest) -> Result<bool, LayerError> {
        let Ids { diff_id: expected, chain_id } = self.config.wait(layer.nth)?;
        if expected.algorithm() != found.algorithm() {
            return Ok(false);
        }
        if expected != found {
            return Err(LayerError::DiffId { blob: layer.blob.digest.to_string(), expected, found });
        }
        self.store.name_layer(unpacked, &chain_id)?;
        Ok(true)
    }
}

/// An unpacked layer that does not have its final name yet, and the layer's diff id.
type UnnamedLayer = (Temp, Digest);

/// Whether the received bytes are wrong, so that no later attempt may continue them.
fn is_wrong(error: &LayerError) -> bool {
    match error {
        LayerError::Size { .. }
        | LayerError::Digest { .. }
        | LayerError::DiffId { .. }
        | LayerError::Decode { .. } => true,
        LayerError::Unpack { source, .. } => matches!(source, UnpackError::Tar(_)),
        LayerError::Cancelled(_)
        | LayerError::Read { .. }
        | LayerError::Store(_)
        | LayerError::Registry(_) => false,
    }
}

/// A reader of a blob: first the bytes of the partial blob, then the missing bytes, for which it asks the registry.
struct Source<'a> {
    kept: io::Take<File>,
    partial: &'a Partial<'a>,
    wanted: BlobRequest<'a>,
    download: Option<Download<'a>>,
}

impl Read for Source<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.kept.limit() > 0 {
            return match self.kept.read(into)? {
                0 if !into.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
                len => Ok(len),
            };
        }
        if let Some(download) = &mut self.download {
            return download.read(into);
        }
        let at = self.partial.kept();
        if at == self.wanted.size {
            return Ok(0);
        }
        let etag = self.partial.etag();
        let download = Download::begin(self.wanted, at, etag.as_deref()).map_err(io::Error::other)?;
        self.download.insert(download).read(into)
    }
}
