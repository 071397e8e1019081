//! One pass over a layer: source → blob file and its digest → decompress → diff id → untar.
//!
//! The caller's thread can do all these steps, piece by piece. While the engine has a spare processor, a second thread
//! decompresses ahead ([`crate::image::pull::decompress_ahead`]), so that a single layer uses two processors. Either of
//! the two threads may read, hash and write the blob's bytes ([`crate::image::pull::read_ahead`]) and compute the diff
//! id. Only a few pieces are in memory, so a slow disk slows the network down, and memory does not grow with the layer.
//! Each thread computes only while it holds one of the engine's processors ([`sampan_job::cpu::Cpus::take`]), and gives
//! the processor back while it waits. All results are temporaries, or a [`Partial`]; the caller gives them their final
//! names after a pass without errors.

use crate::image::pull::decompress_ahead::{DecompressAhead, Reader};
use crate::image::pull::read_ahead::{ReadAhead, ReadAheadReader};
use sampan_ipc::engine::Phase;
use sampan_job::cancel::{Cancel, Cancelled};
use sampan_job::cpu;
use sampan_job::limits::Limits;
use sampan_layer::decompress::{self, Format};
use sampan_layer::tar::TarError;
use sampan_layer::unpack::{self, UnpackError, Unpacked};
use sampan_oci::digest::{Algorithm, Digest, Hasher};
use sampan_os::thread;
use sampan_registry::RegistryError;
use sampan_store::partial_blob::Partial;
use sampan_store::{Store, StoreError, Temp};
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::path::Path;

/// Size of a copy's buffer, in bytes.
const BUFFER: usize = 128 << 10;
/// Stack of the thread that decompresses ahead, in bytes: enough for TLS and decompression, which do not recurse.
const STACK: usize = 1 << 20;

/// Why a layer is refused.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// The source cannot be read.
    #[error("cannot read blob {blob}")]
    Read {
        /// Digest of the blob.
        blob: String,
        /// Error of the read.
        source: io::Error,
    },
    /// The size of the blob differs from the size in the manifest.
    #[error("blob {blob} has {found} bytes, expected {expected}")]
    Size {
        /// Digest of the blob.
        blob: String,
        /// Number of bytes received. Reading stops after one byte more than expected.
        found: u64,
        /// Size in the manifest, in bytes.
        expected: u64,
    },
    /// The digest of the blob differs from the digest in the manifest.
    #[error("blob {expected} has digest {found}")]
    Digest {
        /// Digest in the manifest.
        expected: Digest,
        /// Digest of the received bytes.
        found: Digest,
    },
    /// The digest of the uncompressed tar differs from the diff id in the config.
    #[error("layer {blob} unpacks to diff id {found}, expected {expected}")]
    DiffId {
        /// Digest of the blob.
        blob: String,
        /// Diff id in the config.
        expected: Digest,
        /// Diff id of the received tar.
        found: Digest,
    },
    /// The blob cannot be decompressed.
    #[error("cannot decompress blob {blob}")]
    Decode {
        /// Digest of the blob.
        blob: String,
        /// Error of the decompressor.
        source: io::Error,
    },
    /// The layer cannot be unpacked.
    #[error("cannot unpack blob {blob}")]
    Unpack {
        /// Digest of the blob.
        blob: String,
        /// Error of the unpacking.
        source: UnpackError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// The digests and the size that the layer must have.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's size, in bytes.
    pub size: u64,
    /// Digest of the uncompressed tar. If `None`, the pipeline computes the diff id by SHA-256, and the caller compares
    /// it.
    pub diff_id: Option<Digest>,
}

/// The parameters of one pass over a layer.
pub struct Pipeline<'a> {
    /// The store that holds the temporaries.
    pub store: &'a Store,
    /// The limits that bound the processors in use.
    pub limits: &'a Limits,
    /// Cancels the pass; checked for every buffer.
    pub cancel: &'a Cancel,
    /// The digests and the size that the layer must have; `None` if they are not known, as for an import.
    pub expected: Option<Expected>,
    /// Whether to unpack the tar; false if the store has the layer.
    pub untar: bool,
    /// Called with the number of new bytes; bytes that a [`Partial`] had before do not count.
    pub on_bytes: &'a (dyn Fn(u64) + Sync),
    /// Called when all bytes were received.
    pub on_phase: &'a (dyn Fn(Phase) + Sync),
}

/// The verified result of a pass; the blob and the layer do not have their final names yet.
pub struct Streamed {
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's size, in bytes.
    pub size: u64,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Compression format of the blob.
    pub format: Format,
    /// The unpacked layer; `None` if the pass did not unpack the tar.
    pub layer: Option<Temp>,
    /// Number of the tar's entries that were skipped.
    pub skipped: u64,
}

/// Where the blob's bytes are written.
pub enum Sink<'a> {
    /// The bytes are written nowhere, because the store has the blob.
    None,
    /// The bytes are written into a file, because the blob's digest is not known yet.
    File(&'a mut File),
    /// The bytes are appended to a partial blob. The bytes that the partial blob has already pass through the pipeline
    /// first.
    Partial(&'a Partial<'a>),
}

impl Sink<'_> {
    /// Writes `bytes`, which begin at `offset` in the blob; returns the number of new bytes.
    fn take(&mut self, offset: u64, bytes: &[u8]) -> Result<usize, StoreError> {
        match self {
            Sink::None => {}
            Sink::File(file) => {
                let at = || std::path::Path::new("the store").to_owned();
                file.write_all(bytes).map_err(|source| StoreError::File {
                    doing: "write a blob to",
                    path: at(),
                    source,
                })?;
            }
            Sink::Partial(partial) => {
                let old = partial.kept().saturating_sub(offset);
                let new = bytes.get(usize::try_from(old).unwrap_or(usize::MAX)..).unwrap_or_default();
                partial.append(new)?;
                return Ok(new.len());
            }
        }
        Ok(bytes.len())
    }
}

impl Pipeline<'_> {
    /// Sends all of `from` through the pipeline, and the blob's bytes into `sink`.
    ///
    /// # Errors
    /// [`LayerError`]; the temporaries are removed.
    pub fn run(&self, from: impl Read + Send, sink: Sink<'_>) -> Result<Streamed, LayerError> {
        let layer = if self.untar { Some(self.store.temp_layer()?) } else { None };
        let root = layer.as_ref().map(|temp| temp.path().join("diff"));
        let _cpu = self.limits.cpus.take();
        let queue = ReadAhead::new(BlobReader::new(self, from, sink));
        let (format, unpacked) =
            match decompress::open_buffered(ReadAheadReader::new(&queue), self.limits.bounds.zstd_window_log)
            {
                Ok((format, decoder)) => {
                    let (end, unpacked) = self.unpack(decoder, &|| queue.fetch(), root.as_deref());
                    (end.map(|()| format), unpacked)
                }
                Err(error) => (Err(error), Err(TarError::Truncated.into())),
            };
        let mut blob_reader = queue.into_source();
        if format.is_ok() && unpacked.is_ok() {
            // Bytes after the compressed stream are part of the blob. If reading these bytes fails,
            // `blob_reader.failed` holds the error.
            let _ = io::copy(&mut blob_reader, &mut io::sink());
        }
        self.cancel.check()?;
        self.judge(blob_reader, format, unpacked, layer)
    }

    /// Decompresses and unpacks; returns how the decompression and the unpacking ended.
    fn unpack(
        &self,
        decoder: impl Read + Send,
        meanwhile: &(dyn Fn() -> bool + Sync),
        root: Option<&Path>,
    ) -> (io::Result<()>, Result<(Digest, u64), UnpackError>) {
        let on_end = || {
            (self.on_phase)(Phase::Verifying);
            (self.on_phase)(Phase::Extracting);
        };
        let algorithm = self.diff_id().map_or(Algorithm::Sha256, Digest::algorithm);
        let mut hasher = Hasher::new(algorithm);
        let decompressor = DecompressAhead::new(
            decoder,
            |piece: &[u8]| hasher.update(piece),
            self.limits,
            meanwhile,
            &on_end,
        );
        let unpacked = std::thread::scope(|scope| {
            // If the second thread cannot be started, the caller's thread decompresses alone.
            let is_alone = self.limits.bounds.cpus == 1;
            let run_ahead = || thread::spawn_scoped(scope, "ahead", STACK, || decompressor.run_ahead()).ok();
            let ahead = if is_alone { None } else { run_ahead() };
            if ahead.is_some() {
                // The new thread may be queued on this processor. Yield once, so that the new thread can run and move
                // to another processor.
                std::thread::yield_now();
            }
            let unpacked = self.drain(&decompressor, root);
            decompressor.close();
            cpu::idle(|| ahead.map(|ahead| ahead.join()));
            unpacked
        });
        let end = decompressor.end();
        // `end` is `None` if unpacking failed before decompression ended; the bytes decompressed until then were valid.
        (end.unwrap_or(Ok(())), unpacked.map(|skipped| (hasher.finish(), skipped)))
    }

    /// Unpacks the decompressed bytes and reads them to their end; returns the number of skipped entries.
    fn drain(
        &self,
        decompressor: &DecompressAhead<'_, impl Read, impl FnMut(&[u8])>,
        root: Option<&Path>,
    ) -> Result<u64, UnpackError> {
        let mut reader = Reader::new(decompressor);
        let unpacked = match (root, self.store.namespace()) {
            (Some(root), None) => unpack::unpack(&mut reader, root)?.0,
            (Some(root), Some(namespace)) => namespace.unpack(&mut reader, root)?,
            (None, _) => Unpacked::default(),
        };
        // The diff id also covers the zeroes after the tar's end mark.
        pass_rest(&mut reader).map_err(TarError::Read)?;
        Ok(unpacked.skipped)
    }

    /// Copies all bytes of `from` into `sink` and checks the blob's digest; does not decompress.
    ///
    /// # Errors
    /// [`LayerError`]: the source or the store fails, or the size or the digest is wrong.
    pub fn copy(&self, from: impl Read, sink: Sink<'_>) -> Result<(), LayerError> {
        let _cpu = self.limits.cpus.take();
        let mut blob_reader = BlobReader::new(self, from, sink);
        let mut buffer = vec![0; BUFFER];
        while blob_reader.some(&mut buffer)? > 0 {
            cpu::share();
        }
        self.compare(blob_reader.size, &blob_reader.hasher.finish())
    }

    /// Checks every digest and picks the error to report. The order of precedence is: a failed source, a wrong digest,
    /// bad compression, a bad tar, a wrong diff id.
    fn judge<R: Read>(
        &self,
        mut blob_reader: BlobReader<'_, R>,
        format: io::Result<Format>,
        unpacked: Result<(Digest, u64), UnpackError>,
        layer: Option<Temp>,
    ) -> Result<Streamed, LayerError> {
        if let Some(failed) = blob_reader.failed.take() {
            return Err(failed);
        }
        if let (Err(_), Ok(_) | Err(UnpackError::Tar(_))) = (&format, &unpacked) {
            // Bytes that cannot be decompressed usually mean that the source sent another blob: read all bytes to check
            // the digest.
            let _ = io::copy(&mut blob_reader, &mut io::sink());
            if let Some(failed) = blob_reader.failed.take() {
                return Err(failed);
            }
        }
        let complete = format.is_err() || unpacked.is_ok();
        let (digest, size) = (blob_reader.hasher.finish(), blob_reader.size);
        if complete {
            self.compare(size, &digest)?;
        }
        let format = format.map_err(|source| LayerError::Decode { blob: self.name(), source })?;
        let (diff_id, skipped) =
            unpacked.map_err(|source| LayerError::Unpack { blob: self.name(), source })?;
        if let Some(expected) = self.diff_id().filter(|expected| **expected != diff_id).cloned() {
            return Err(LayerError::DiffId { blob: self.name(), expected, found: diff_id });
        }
        Ok(Streamed { digest, size, diff_id, format, layer, skipped })
    }

    fn compare(&self, size: u64, digest: &Digest) -> Result<(), LayerError> {
        match &self.expected {
            Some(expected) if size != expected.size => {
                Err(LayerError::Size { blob: self.name(), found: size, expected: expected.size })
            }
            Some(expected) if *digest != expected.digest => {
                Err(LayerError::Digest { expected: expected.digest.clone(), found: digest.clone() })
            }
            _ => Ok(()),
        }
    }

    fn diff_id(&self) -> Option<&Digest> {
        self.expected.as_ref()?.diff_id.as_ref()
    }

    fn name(&self) -> String {
        self.expected.as_ref().map_or_else(|| "import".to_owned(), |e| e.digest.to_string())
    }
}

/// The reader of compressed bytes, which counts and hashes all bytes and writes them into the sink.
struct BlobReader<'a, R> {
    pipeline: &'a Pipeline<'a>,
    from: R,
    sink: Sink<'a>,
    hasher: Hasher,
    size: u64,
    failed: Option<LayerError>,
}

impl<'a, R: Read> BlobReader<'a, R> {
    fn new(pipeline: &'a Pipeline<'a>, from: R, sink: Sink<'a>) -> Self {
        let algorithm = pipeline.expected.as_ref().map_or(Algorithm::Sha256, |e| e.digest.algorithm());
        BlobReader { pipeline, from, sink, hasher: Hasher::new(algorithm), size: 0, failed: None }
    }

    fn some(&mut self, into: &mut [u8]) -> Result<usize, LayerError> {
        self.pipeline.cancel.check()?;
        let blob = || self.pipeline.name();
        let len = self.from.read(into).map_err(|source| read_error(blob(), source))?;
        let bytes = into.get(..len).unwrap_or_default();
        let offset = self.size;
        self.size += len as u64;
        if let Some(expected) = self.pipeline.expected.as_ref().map(|e| e.size).filter(|e| self.size > *e) {
            return Err(LayerError::Size { blob: blob(), found: self.size, expected });
        }
        self.hasher.update(bytes);
        let new = self.sink.take(offset, bytes)?;
        (self.pipeline.on_bytes)(new as u64);
        Ok(len)
    }
}

/// Converts an I/O error of the source. If the I/O error wraps an error of the registry, returns the registry's error.
fn read_error(blob: String, source: io::Error) -> LayerError {
    match source.downcast::<RegistryError>() {
        Ok(error) => LayerError::Registry(error),
        Err(source) => LayerError::Read { blob, source },
    }
}

impl<R: Read> Read for BlobReader<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.failed.is_some() {
            return Err(io::Error::other("an earlier read of the source failed"));
        }
        self.some(into).map_err(|error| {
            let io = io::Error::other(error.to_string());
            self.failed = Some(error);
            io
        })
    }
}

/// Reads to the end and discards the bytes.
fn pass_rest(from: &mut impl BufRead) -> io::Result<()> {
    loop {
        match from.fill_buf()?.len() {
            0 => return Ok(()),
            len => from.consume(len),
        }
    }
}
