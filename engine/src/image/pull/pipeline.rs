//! One pass over a layer: source → blob file and its digest → decompress → diff id → untar.
//!
//! The caller's thread does all of it, piece by piece. A second thread decompresses ahead of it while the engine has a
//! processor to spare ([`crate::image::pull::decompress_ahead`]), so that a layer which comes alone takes two; the bytes are read, hashed and
//! written ([`crate::image::pull::read_ahead`]), and the diff id is computed, by whichever has time for it.
//! Nothing is held but a few pieces, so a slow disk holds the network back and memory does not grow with the layer.
//! Each thread computes only while it has one of the engine's processors ([`sampan_job::cpu::Cpus::take`]), and lends it to others
//! while it waits. Everything lands in temporaries, or in a [`Partial`]; the caller names them when all digests are
//! right.

use crate::image::pull::decompress_ahead::{Reader, Relay};
use crate::image::pull::read_ahead::{Feed, Inlet};
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

/// Bytes that are copied at a time.
const BUFFER: usize = 128 << 10;
/// Stack of the thread that runs ahead: TLS and decompression, no recursion.
const STACK: usize = 1 << 20;

/// Why a layer is not taken.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The job was ended.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// The source failed.
    #[error("cannot read blob {blob}")]
    Read {
        /// Which.
        blob: String,
        /// Why.
        source: io::Error,
    },
    /// It has not the size that the manifest says.
    #[error("blob {blob} has {found} bytes, expected {expected}")]
    Size {
        /// Which.
        blob: String,
        /// Bytes that came: one more than expected if there are more.
        found: u64,
        /// Bytes in the manifest.
        expected: u64,
    },
    /// It is not what the manifest says.
    #[error("blob {expected} has digest {found}")]
    Digest {
        /// Digest in the manifest.
        expected: Digest,
        /// Digest of what came.
        found: Digest,
    },
    /// It is not, unpacked, what the config says.
    #[error("layer {blob} unpacks to diff id {found}, expected {expected}")]
    DiffId {
        /// Which.
        blob: String,
        /// Diff id in the config.
        expected: Digest,
        /// Diff id of what came.
        found: Digest,
    },
    /// It cannot be decompressed.
    #[error("cannot decompress blob {blob}")]
    Decode {
        /// Which.
        blob: String,
        /// Why.
        source: io::Error,
    },
    /// It cannot be unpacked.
    #[error("cannot unpack blob {blob}")]
    Unpack {
        /// Which.
        blob: String,
        /// Why.
        source: UnpackError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// What must come out.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's size.
    pub size: u64,
    /// The digest of the unpacked tar; `None` if the caller compares it, and then it is a SHA-256.
    pub diff_id: Option<Digest>,
}

/// A layer on its way.
pub struct Pipeline<'a> {
    /// Where the temporaries are.
    pub store: &'a Store,
    /// Whose processors it may use.
    pub limits: &'a Limits,
    /// Looked at with every buffer.
    pub cancel: &'a Cancel,
    /// What is known of the layer; `None` when importing.
    pub expected: Option<Expected>,
    /// Unpack the tar; not needed when the layer is there.
    pub untar: bool,
    /// Told of bytes as they come, those of a [`Partial`] that were there before left out.
    pub on_bytes: &'a (dyn Fn(u64) + Sync),
    /// Told when all bytes are here.
    pub on_phase: &'a (dyn Fn(Phase) + Sync),
}

/// What came out, verified, and not named yet.
pub struct Streamed {
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's size.
    pub size: u64,
    /// The digest of the unpacked tar.
    pub diff_id: Digest,
    /// How the blob is compressed.
    pub format: Format,
    /// The unpacked layer, if it was unpacked.
    pub layer: Option<Temp>,
    /// Entries of it that were passed over.
    pub skipped: u64,
}

/// Where the blob's bytes go as they come by.
pub enum Sink<'a> {
    /// Nowhere: they are read from the store.
    None,
    /// Into a file; digest and size are not known yet.
    File(&'a mut File),
    /// Behind those that are there, which come by first.
    Partial(&'a Partial<'a>),
}

impl Sink<'_> {
    /// Takes `bytes`, which stand at `offset` in the blob; how many of them are new.
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
    /// Sends all of `from` through, and the blob's bytes into `sink`.
    ///
    /// # Errors
    /// [`LayerError`]; the temporaries are gone then.
    pub fn run(&self, from: impl Read + Send, sink: Sink<'_>) -> Result<Streamed, LayerError> {
        let layer = if self.untar { Some(self.store.temp_layer()?) } else { None };
        let root = layer.as_ref().map(|temp| temp.path().join("diff"));
        let _cpu = self.limits.cpus.take();
        let feed = Feed::new(Tap::new(self, from, sink));
        let (format, unpacked) =
            match decompress::open_buffered(Inlet::new(&feed), self.limits.bounds.zstd_window_log) {
                Ok((format, decoder)) => {
                    let (end, unpacked) = self.unpack(decoder, &|| feed.fetch(), root.as_deref());
                    (end.map(|()| format), unpacked)
                }
                Err(error) => (Err(error), Err(TarError::Truncated.into())),
            };
        let mut tap = feed.into_source();
        if format.is_ok() && unpacked.is_ok() {
            // What stands behind the compressed stream is part of the blob. What breaks there, the tap knows.
            let _ = io::copy(&mut tap, &mut io::sink());
        }
        self.cancel.check()?;
        self.judge(tap, format, unpacked, layer)
    }

    /// Decompresses and unpacks; how each of them ended.
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
        let relay = Relay::new(decoder, |piece: &[u8]| hasher.update(piece), self.limits, meanwhile, &on_end);
        let unpacked = std::thread::scope(|scope| {
            // Without a second thread the first does all.
            let is_alone = self.limits.bounds.cpus == 1;
            let run_ahead = || thread::spawn_scoped(scope, "ahead", STACK, || relay.run_ahead()).ok();
            let ahead = if is_alone { None } else { run_ahead() };
            if ahead.is_some() {
                // It may have been put on this processor, and goes elsewhere then.
                std::thread::yield_now();
            }
            let unpacked = self.drain(&relay, root);
            relay.close();
            cpu::idle(|| ahead.map(|ahead| ahead.join()));
            unpacked
        });
        let end = relay.end();
        // Where the unpacking was given up first, nothing is wrong with the compressed bytes so far.
        (end.unwrap_or(Ok(())), unpacked.map(|skipped| (hasher.finish(), skipped)))
    }

    /// Unpacks what comes out, to its end; how many entries were passed over.
    fn drain(
        &self,
        relay: &Relay<'_, impl Read, impl FnMut(&[u8])>,
        root: Option<&Path>,
    ) -> Result<u64, UnpackError> {
        let mut reader = Reader::new(relay);
        let unpacked = match (root, self.store.namespace()) {
            (Some(root), None) => unpack::unpack(&mut reader, root)?.0,
            (Some(root), Some(namespace)) => namespace.unpack(&mut reader, root)?,
            (None, _) => Unpacked::default(),
        };
        // Behind the tar's end mark stand zeroes, which the diff id covers too.
        pass_rest(&mut reader).map_err(TarError::Read)?;
        Ok(unpacked.skipped)
    }

    /// Sends all of `from` into `sink` and compares the digest, without a look into it.
    ///
    /// # Errors
    /// [`LayerError`].
    pub fn copy(&self, from: impl Read, sink: Sink<'_>) -> Result<(), LayerError> {
        let _cpu = self.limits.cpus.take();
        let mut tap = Tap::new(self, from, sink);
        let mut buffer = vec![0; BUFFER];
        while tap.some(&mut buffer)? > 0 {
            cpu::share();
        }
        self.compare(tap.size, &tap.hasher.finish())
    }

    /// Compares all digests; whatever broke first for the outermost reason is the error.
    fn judge<R: Read>(
        &self,
        mut tap: Tap<'_, R>,
        format: io::Result<Format>,
        unpacked: Result<(Digest, u64), UnpackError>,
        layer: Option<Temp>,
    ) -> Result<Streamed, LayerError> {
        if let Some(failed) = tap.failed.take() {
            return Err(failed);
        }
        if let (Err(_), Ok(_) | Err(UnpackError::Tar(_))) = (&format, &unpacked) {
            // Bytes that cannot be decompressed are most often not the bytes of this blob.
            let _ = io::copy(&mut tap, &mut io::sink());
            if let Some(failed) = tap.failed.take() {
                return Err(failed);
            }
        }
        let complete = format.is_err() || unpacked.is_ok();
        let (digest, size) = (tap.hasher.finish(), tap.size);
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

/// The compressed side: everything that is read here is counted, hashed and written.
struct Tap<'a, R> {
    pipeline: &'a Pipeline<'a>,
    from: R,
    sink: Sink<'a>,
    hasher: Hasher,
    size: u64,
    failed: Option<LayerError>,
}

impl<'a, R: Read> Tap<'a, R> {
    fn new(pipeline: &'a Pipeline<'a>, from: R, sink: Sink<'a>) -> Self {
        let algorithm = pipeline.expected.as_ref().map_or(Algorithm::Sha256, |e| e.digest.algorithm());
        Tap { pipeline, from, sink, hasher: Hasher::new(algorithm), size: 0, failed: None }
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

/// What a registry did wrong comes through readers as the inside of an I/O error.
fn read_error(blob: String, source: io::Error) -> LayerError {
    match source.downcast::<RegistryError>() {
        Ok(error) => LayerError::Registry(error),
        Err(source) => LayerError::Read { blob, source },
    }
}

impl<R: Read> Read for Tap<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.failed.is_some() {
            return Err(io::Error::other("the source failed before"));
        }
        self.some(into).map_err(|error| {
            let io = io::Error::other(error.to_string());
            self.failed = Some(error);
            io
        })
    }
}

/// Reads on to the end.
fn pass_rest(from: &mut impl BufRead) -> io::Result<()> {
    loop {
        match from.fill_buf()?.len() {
            0 => return Ok(()),
            len => from.consume(len),
        }
    }
}
