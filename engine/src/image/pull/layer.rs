//! One layer of an image: into the store once, whoever needs it.
//!
//! Called by [`crate::image::pull`], on several threads. Who claims the layer's blob fetches it, behind what an earlier
//! try left of it, and unpacks it in the same pass; who comes later finds it, or takes over if the first one
//! fails. Names blobs and layers in the store; never touches `index.json`.

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

/// Told when bytes that were kept turn out to be wrong.
const STARTING_OVER: &str = "what was kept of an earlier try is wrong, starting over";

/// One layer of an image.
pub struct Layer<'a> {
    /// Its row in the job's progress.
    pub row: usize,
    /// Which one of the image, the lowest is 0.
    pub nth: usize,
    /// Its blob.
    pub blob: &'a Descriptor,
}

/// What the image's config says of a layer.
#[derive(Clone)]
pub struct Ids {
    /// Digest of its tar.
    pub diff_id: Digest,
    /// Its name in the store, unpacked. OCI image-spec, "Layer ChainID".
    pub chain_id: Digest,
}

/// How layers come: from one registry, for one job.
pub struct Fetch<'a> {
    /// Where they go.
    pub store: &'a Store,
    /// What is shared with other jobs.
    pub limits: &'a Limits,
    /// Who has them.
    pub registry: &'a Mirrors,
    /// The job's own limit.
    pub rate: &'a RateLimit,
    /// The job's rows.
    pub progress: &'a Progress,
    /// Ends the job.
    pub cancel: &'a Cancel,
    /// Unpack them; else their blobs are all that is kept.
    pub unpack: bool,
    /// What the config says, which may still be on its way.
    pub config: &'a (dyn Config + Sync),
}

/// What an image's config says of its layers.
pub trait Config {
    /// Of the layer `nth`, if it has come.
    fn now(&self, nth: usize) -> Option<Ids>;

    /// Of the layer `nth`, when it has come.
    ///
    /// # Errors
    /// [`Cancelled`]: it never will, and the job is over.
    fn wait(&self, nth: usize) -> Result<Ids, Cancelled>;
}

impl Fetch<'_> {
    /// Sees to it that the layer is in the store.
    ///
    /// # Errors
    /// [`LayerError`]. What came of the blob is kept, if it may be right, for the next try.
    pub fn layer(&self, layer: &Layer<'_>) -> Result<(), LayerError> {
        let (digest, size) = (&layer.blob.digest, layer.blob.size);
        let claim = self.limits.claim(&digest.to_string(), self.cancel, &|bytes| {
            self.progress.set_from_other_job(layer.row, bytes)
        })?;
        let unpacked = if self.store.has_blob(digest, size) {
            let Some(ids) = self.config.now(layer.nth) else {
                // As below.
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
            self.pass(layer, file, Sink::None, &|_| {})?
        } else {
            self.download(layer, &claim)?
        };
        // The blob is whole: who else wants it need not wait for this image's config.
        let claim = self.config.now(layer.nth).map(|_| claim);
        if let Some((unpacked, diff_id)) = unpacked
            && !self.name(layer, unpacked, diff_id)?
        {
            // Now it is known by what to hash it, and that is done from the disk.
            drop(claim);
            return self.layer(layer);
        }
        self.progress.phase(layer.row, Phase::Complete);
        Ok(())
    }

    /// True if nothing is to be unpacked.
    fn has_layer(&self, ids: &Ids) -> bool {
        !self.unpack || self.store.has_layer(&ids.chain_id)
    }

    /// Fetches the blob; once more from its beginning if its parts do not belong together, and from the next place
    /// if this one has it wrong.
    fn download(&self, layer: &Layer<'_>, claim: &Claim<'_>) -> Result<Option<Fresh>, LayerError> {
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

    /// Sends what is kept and what the registry has behind it through the pipeline.
    fn stream(
        &self,
        layer: &Layer<'_>,
        claim: &Claim<'_>,
        partial: &Partial<'_>,
        joined: &AtomicBool,
    ) -> Result<Option<Fresh>, LayerError> {
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

    /// One pass: into `sink`, and unpacked into a temporary unless the layer is known to be there. Its diff id is compared
    /// if it is known.
    fn pass(
        &self,
        layer: &Layer<'_>,
        from: impl Read + Send,
        sink: Sink<'_>,
        on_bytes: &(dyn Fn(u64) + Sync),
    ) -> Result<Option<Fresh>, LayerError> {
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

    /// Names what was unpacked, when its name is known; false if its diff id is not the SHA-256 that it was taken for.
    fn name(&self, layer: &Layer<'_>, unpacked: Temp, found: Digest) -> Result<bool, LayerError> {
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

/// An unpacked layer without a name, and its diff id.
type Fresh = (Temp, Digest);

/// True if the bytes that came are at fault: nobody should go on with them.
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

/// A blob's bytes: those that were kept, then those that the registry has. It is asked only if some are missing.
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
