//! One pass over a layer: source → blob file and its digest → decompress → diff id → untar.
//!
//! Two threads a layer, so that two cores work side by side: the caller's reads, hashes, writes and
//! decompresses; a second one hashes what comes out and unpacks it. Between them a few buffers go round, so a
//! slow disk holds the network back and memory does not grow with the layer. Everything lands in temporaries;
//! the caller names them ([`Store::name_blob`], [`Store::name_layer`]) when all digests are right.

use crate::cancel::{Cancel, Cancelled};
use crate::decode::{self, Format};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::place::UnpackError;
use crate::store::{Store, StoreError, Temp};
use crate::unpack;
use sampan_ipc::engine::Phase;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

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
    Registry(#[from] crate::registry::RegistryError),
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
    /// Looked at with every buffer.
    pub cancel: &'a Cancel,
    /// What is known of the layer; `None` when importing.
    pub expected: Option<Expected>,
    /// Keep the blob's bytes; not needed when it is read from the store.
    pub keep_blob: bool,
    /// Unpack the tar; not needed when the layer is there.
    pub untar: bool,
    /// Told of bytes as they come.
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
    /// The blob, if it was kept.
    pub blob: Option<Temp>,
    /// The unpacked layer, if it was unpacked.
    pub layer: Option<Temp>,
}

type Buffer = Vec<u8>;

impl Pipeline<'_> {
    /// Sends all of `from` through.
    ///
    /// # Errors
    /// [`LayerError`]; the temporaries are gone then.
    pub fn run(&self, from: impl Read) -> Result<Streamed, LayerError> {
        let (blob, file) = match self.keep_blob {
            true => self.store.temp_file("blob").map(|(temp, file)| (Some(temp), Some(file)))?,
            false => (None, None),
        };
        let layer = if self.untar { Some(self.store.temp_layer()?) } else { None };
        let root = layer.as_ref().map(|temp| temp.path().join("diff"));
        let algorithm = self.expected.as_ref().map_or(Algorithm::Sha256, |e| e.digest.algorithm());
        let diff_algorithm = self.expected.as_ref().map_or(Algorithm::Sha256, |e| e.diff_id.algorithm());
        let mut tap =
            Tap { pipeline: self, from, file, hasher: Hasher::new(algorithm), size: 0, failed: None };
        let (full, filled) = sync_channel::<Option<Buffer>>(BUFFERS);
        let (empty, emptied) = sync_channel::<Buffer>(BUFFERS);
        for _ in 0..BUFFERS {
            let _ = empty.send(Vec::new());
        }
        let (format, unpacked) = std::thread::scope(|scope| {
            let drain = Drain {
                filled,
                empty,
                buffer: Vec::new(),
                at: 0,
                ended: false,
                hasher: Hasher::new(diff_algorithm),
            };
            let unpacker = std::thread::Builder::new().name("unpack".into()).stack_size(STACK);
            let unpacker = unpacker.spawn_scoped(scope, move || drain.unpack(root));
            let unpacker = unpacker.map_err(|source| LayerError::Read { blob: self.name(), source })?;
            let format = self.feed(&mut tap, &full, &emptied);
            // Without its end mark the stream is broken for the other thread, which then stops.
            drop((full, emptied));
            (self.on_phase)(Phase::Extracting);
            let unpacked = unpacker.join().expect("the unpacking thread does not panic");
            Ok::<_, LayerError>((format, unpacked))
        })?;
        self.cancel.check()?;
        self.judge(tap, format, unpacked, blob, layer)
    }

    /// Decompresses into buffers until the source ends or the other thread stops.
    fn feed<R: Read>(
        &self,
        tap: &mut Tap<'_, R>,
        full: &SyncSender<Option<Buffer>>,
        emptied: &Receiver<Buffer>,
    ) -> io::Result<Format> {
        let (format, mut decoder) = decode::open(&mut *tap)?;
        while let Ok(mut buffer) = emptied.recv() {
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
        unpacked: Result<Digest, UnpackError>,
        blob: Option<Temp>,
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
        if let Some(expected) = self.expected.as_ref().filter(|_| complete) {
            if size != expected.size {
                return Err(LayerError::Size { blob: self.name(), found: size, expected: expected.size });
            }
            if digest != expected.digest {
                return Err(LayerError::Digest { expected: expected.digest.clone(), found: digest });
            }
        }
        let format = format.map_err(|source| LayerError::Decode { blob: self.name(), source })?;
        let diff_id = unpacked.map_err(|source| LayerError::Unpack { blob: self.name(), source })?;
        if let Some(expected) = self.expected.as_ref().filter(|e| e.diff_id != diff_id) {
            let expected = expected.diff_id.clone();
            return Err(LayerError::DiffId { blob: self.name(), expected, found: diff_id });
        }
        Ok(Streamed { digest, size, diff_id, format, blob, layer })
    }

    fn name(&self) -> String {
        self.expected.as_ref().map_or_else(|| "import".to_owned(), |e| e.digest.to_string())
    }
}

/// The compressed side: everything that is read here is counted, hashed and written.
struct Tap<'a, R> {
    pipeline: &'a Pipeline<'a>,
    from: R,
    file: Option<File>,
    hasher: Hasher,
    size: u64,
    failed: Option<LayerError>,
}

impl<R: Read> Tap<'_, R> {
    fn take(&mut self, into: &mut [u8]) -> Result<usize, LayerError> {
        self.pipeline.cancel.check()?;
        let blob = || self.pipeline.name();
        let len = self.from.read(into).map_err(|source| LayerError::Read { blob: blob(), source })?;
        let bytes = into.get(..len).unwrap_or_default();
        self.size += len as u64;
        if let Some(expected) = self.pipeline.expected.as_ref().map(|e| e.size).filter(|e| self.size > *e) {
            return Err(LayerError::Size { blob: blob(), found: self.size, expected });
        }
        self.hasher.update(bytes);
        if let Some(file) = &mut self.file {
            let doing = crate::store::file_error("write a blob to", Path::new("the store"));
            file.write_all(bytes).map_err(doing)?;
        }
        (self.pipeline.on_bytes)(len as u64);
        Ok(len)
    }
}

impl<R: Read> Read for Tap<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.failed.is_some() {
            return Err(io::Error::other("the source failed before"));
        }
        self.take(into).map_err(|error| {
            let io = io::Error::other(error.to_string());
            self.failed = Some(error);
            io
        })
    }
}

/// The unpacked side: a reader of the buffers that come.
struct Drain {
    filled: Receiver<Option<Buffer>>,
    empty: SyncSender<Buffer>,
    buffer: Buffer,
    at: usize,
    ended: bool,
    hasher: Hasher,
}

impl Drain {
    fn unpack(mut self, root: Option<PathBuf>) -> Result<Digest, UnpackError> {
        let mut rest = match root {
            Some(root) => unpack::unpack(&mut self, &root).map(|(_, rest)| rest)?,
            None => &mut self,
        };
        // Behind the tar's end mark stand zeroes, which the diff id covers too.
        io::copy(&mut rest, &mut io::sink())
            .map_err(|e| UnpackError::Tar(crate::tarball::TarError::Read(e)))?;
        Ok(self.hasher.finish())
    }
}

impl Read for Drain {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.buffer.len() && !self.ended {
            let used = std::mem::take(&mut self.buffer);
            // The first is the empty one that we began with.
            if used.capacity() > 0 {
                let _ = self.empty.send(used);
            }
            self.at = 0;
            match self.filled.recv() {
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
