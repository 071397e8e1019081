//! One pass over a layer: source → blob file and its digest → decompress → diff id → untar.
//!
//! Two threads a layer, so that two cores work side by side: the caller's reads, hashes, writes and
//! decompresses; a second one hashes what comes out and unpacks it. Between them a few buffers go round, so a
//! slow disk holds the network back and memory does not grow with the layer. Each computes only while it has one
//! of the engine's processors ([`Limits::cpu`]), and lends it to others while it waits. Everything lands in
//! temporaries, or in a [`Partial`]; the caller names them when all digests are right.

use crate::cancel::{Cancel, Cancelled};
use crate::decode::{self, Format};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::limits::{Cpu, Limits};
use crate::namespace::Namespace;
use crate::partial::Partial;
use crate::place::UnpackError;
use crate::registry::RegistryError;
use crate::store::{Store, StoreError, Temp};
use crate::unpack::{self, Unpacked};
use sampan_ipc::engine::Phase;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvError, SyncSender, TryRecvError, sync_channel};

/// Size of a buffer between the two threads.
const BUFFER: usize = 128 << 10;
/// How many of them there are.
const BUFFERS: usize = 6;
/// Stack of the unpacking thread: it does not recurse.
const STACK: usize = 256 << 10;

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
    /// The digest of the unpacked tar.
    pub diff_id: Digest,
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
    pub on_bytes: &'a dyn Fn(u64),
    /// Told when all bytes are here.
    pub on_phase: &'a dyn Fn(Phase),
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

type Buffer = Vec<u8>;

impl Pipeline<'_> {
    /// Sends all of `from` through, and the blob's bytes into `sink`.
    ///
    /// # Errors
    /// [`LayerError`]; the temporaries are gone then.
    pub fn run(&self, from: impl Read, sink: Sink<'_>) -> Result<Streamed, LayerError> {
        let layer = if self.untar { Some(self.store.temp_layer()?) } else { None };
        let root = layer.as_ref().map(|temp| temp.path().join("diff"));
        let diff_algorithm = self.expected.as_ref().map_or(Algorithm::Sha256, |e| e.diff_id.algorithm());
        let (full, filled) = sync_channel::<Option<Buffer>>(BUFFERS);
        let (empty, emptied) = sync_channel::<Buffer>(BUFFERS);
        for _ in 0..BUFFERS {
            let _ = empty.send(Vec::new());
        }
        let (limits, namespace) = (self.limits, self.store.namespace());
        let cpu = limits.cpu();
        let mut tap = Tap::new(self, from, sink, &cpu);
        let (format, unpacked) = std::thread::scope(|scope| {
            let unpacker = std::thread::Builder::new().name("unpack".into()).stack_size(STACK);
            let unpacker = unpacker.spawn_scoped(scope, move || {
                let cpu = limits.cpu();
                Drain {
                    filled,
                    empty,
                    cpu,
                    buffer: Vec::new(),
                    at: 0,
                    ended: false,
                    hasher: Hasher::new(diff_algorithm),
                }
                .unpack(root, namespace)
            });
            let unpacker = unpacker.map_err(|source| LayerError::Read { blob: self.name(), source })?;
            let format = self.feed(&mut tap, &full, &emptied);
            // Without its end mark the stream is broken for the other thread, which then stops.
            drop((full, emptied));
            (self.on_phase)(Phase::Extracting);
            let unpacked = cpu.idle(|| unpacker.join()).expect("the unpacking thread does not panic");
            Ok::<_, LayerError>((format, unpacked))
        })?;
        self.cancel.check()?;
        self.judge(tap, format, unpacked, layer)
    }

    /// Sends all of `from` into `sink` and compares the digest, without a look into it.
    ///
    /// # Errors
    /// [`LayerError`].
    pub fn copy(&self, from: impl Read, sink: Sink<'_>) -> Result<(), LayerError> {
        let cpu = self.limits.cpu();
        let mut tap = Tap::new(self, from, sink, &cpu);
        let mut buffer = vec![0; BUFFER];
        while tap.some(&mut buffer)? > 0 {}
        self.compare(tap.size, &tap.hasher.finish())
    }

    /// Decompresses into buffers until the source ends or the other thread stops.
    fn feed<R: Read>(
        &self,
        tap: &mut Tap<'_, R>,
        full: &SyncSender<Option<Buffer>>,
        emptied: &Receiver<Buffer>,
    ) -> io::Result<Format> {
        let cpu = tap.cpu;
        let (format, mut decoder) = decode::open(&mut *tap, self.limits.bounds.zstd_window_log)?;
        while let Ok(mut buffer) = receive(emptied, cpu) {
            buffer.resize(BUFFER, 0);
            let len = fill(&mut decoder, &mut buffer)?;
            if len == 0 {
                // What stands behind the compressed stream is part of the blob.
                drop(decoder);
                io::copy(tap, &mut io::sink())?;
                (self.on_phase)(Phase::Verifying);
                let _ = full.send(None);
                break;
            }
            buffer.truncate(len);
            // There is room for all buffers that there are: it does not block.
            if full.send(Some(buffer)).is_err() {
                break;
            }
        }
        Ok(format)
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
        if let Some(expected) = self.expected.as_ref().filter(|e| e.diff_id != diff_id) {
            let expected = expected.diff_id.clone();
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

    fn name(&self) -> String {
        self.expected.as_ref().map_or_else(|| "import".to_owned(), |e| e.digest.to_string())
    }
}

/// The compressed side: everything that is read here is counted, hashed and written.
struct Tap<'a, R> {
    pipeline: &'a Pipeline<'a>,
    cpu: &'a Cpu<'a>,
    from: R,
    sink: Sink<'a>,
    hasher: Hasher,
    size: u64,
    failed: Option<LayerError>,
}

impl<'a, R: Read> Tap<'a, R> {
    fn new(pipeline: &'a Pipeline<'a>, from: R, sink: Sink<'a>, cpu: &'a Cpu<'a>) -> Self {
        let algorithm = pipeline.expected.as_ref().map_or(Algorithm::Sha256, |e| e.digest.algorithm());
        Tap { pipeline, cpu, from, sink, hasher: Hasher::new(algorithm), size: 0, failed: None }
    }

    fn some(&mut self, into: &mut [u8]) -> Result<usize, LayerError> {
        self.pipeline.cancel.check()?;
        let blob = || self.pipeline.name();
        let len = self.cpu.idle(|| self.from.read(into)).map_err(|source| read_error(blob(), source))?;
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

/// The unpacked side: a reader of the buffers that come.
struct Drain<'a> {
    filled: Receiver<Option<Buffer>>,
    empty: SyncSender<Buffer>,
    cpu: Cpu<'a>,
    buffer: Buffer,
    at: usize,
    ended: bool,
    hasher: Hasher,
}

impl Drain<'_> {
    /// Digest of all, and how many entries were passed over.
    fn unpack(
        mut self,
        root: Option<PathBuf>,
        namespace: Option<&Namespace>,
    ) -> Result<(Digest, u64), UnpackError> {
        let (unpacked, mut rest) = match (root, namespace) {
            (Some(root), None) => unpack::unpack(&mut self, &root)?,
            (Some(root), Some(namespace)) => (namespace.unpack(&mut self, &root)?, &mut self),
            (None, _) => (Unpacked::default(), &mut self),
        };
        // Behind the tar's end mark stand zeroes, which the diff id covers too.
        io::copy(&mut rest, &mut io::sink())
            .map_err(|e| UnpackError::Tar(crate::tarball::TarError::Read(e)))?;
        Ok((self.hasher.finish(), unpacked.skipped))
    }
}

impl Read for Drain<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.buffer.len() && !self.ended {
            let used = std::mem::take(&mut self.buffer);
            // The first is the empty one that we began with.
            if used.capacity() > 0 {
                let _ = self.empty.send(used);
            }
            self.at = 0;
            match receive(&self.filled, &self.cpu) {
                Ok(Some(buffer)) => {
                    self.hasher.update(&buffer);
                    self.buffer = buffer;
                }
                Ok(None) => self.ended = true,
                Err(_) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            }
        }
        let rest = self.buffer.get(self.at..).unwrap_or_default();
        let len = rest.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        self.at += len;
        Ok(len)
    }
}

/// Receives, and lends the processor only if it has to wait.
fn receive<T>(from: &Receiver<T>, cpu: &Cpu<'_>) -> Result<T, RecvError> {
    match from.try_recv() {
        Ok(got) => Ok(got),
        Err(TryRecvError::Disconnected) => Err(RecvError),
        Err(TryRecvError::Empty) => cpu.idle(|| from.recv()),
    }
}

fn fill(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < into.len() {
        match from.read(into.get_mut(have..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(len) => have += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}
