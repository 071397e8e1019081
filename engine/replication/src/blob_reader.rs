//! Reads a blob from the source in whole chunks, and computes its digest on the way.
//!
//! Owned by one copy of a blob. Opens the source anew where it broke off. Each byte is hashed once, in order, also if
//! it is read twice. After a restart of the engine the bytes that the destination has are read once more for the
//! digest, since the state of a hash cannot be saved. Never retries: the copy decides that.

use crate::run::{Halt, Run};
use crate::side::{BlobReader, FailureKind, Repository, SideError};
use sampan_oci::Descriptor;
use sampan_oci::digest::{Digest, Hasher};
use std::io::{self, Read};

/// Most bytes that are read by one call, so that a stop is noticed.
const PIECE: usize = 256 << 10;

pub(crate) struct ChunkReader<'a> {
    run: &'a Run<'a>,
    source: &'a dyn Repository,
    blob: &'a Descriptor,
    hasher: Hasher,
    /// Number of bytes in the hasher, from the blob's first byte on.
    hashed: u64,
    /// The open source, and the offset of its next byte.
    open: Option<(BlobReader, u64)>,
    etag: Option<String>,
    chunk: Vec<u8>,
    /// Offset in the blob of the chunk's first byte.
    chunk_at: u64,
}

impl<'a> ChunkReader<'a> {
    pub(crate) fn new(run: &'a Run<'a>, source: &'a dyn Repository, blob: &'a Descriptor) -> Self {
        let hasher = Hasher::new(blob.digest.algorithm());
        ChunkReader {
            run,
            source,
            blob,
            hasher,
            hashed: 0,
            open: None,
            etag: None,
            chunk: Vec::new(),
            chunk_at: 0,
        }
    }

    /// The bytes of the chunk from `at` on; none if the chunk does not reach there.
    pub(crate) fn bytes_from(&self, at: u64) -> &[u8] {
        let skip = at.checked_sub(self.chunk_at).and_then(|skip| usize::try_from(skip).ok());
        skip.and_then(|skip| self.chunk.get(skip..)).unwrap_or_default()
    }

    /// Makes the chunk hold the `len` bytes from `at` on. If the destination has taken a part of the chunk, keeps the rest.
    pub(crate) fn fill(&mut self, at: u64, len: u64) -> Result<(), Halt> {
        if at > self.chunk_at && !self.bytes_from(at).is_empty() {
            return Ok(());
        }
        if at != self.chunk_at {
            self.chunk.clear();
            self.chunk_at = at;
        }
        let wanted = usize::try_from(len).unwrap_or(usize::MAX);
        self.chunk.reserve_exact(wanted.saturating_sub(self.chunk.len()));
        while self.chunk.len() < wanted {
            let next = self.chunk_at + self.chunk.len() as u64;
            self.hash_up_to(next)?;
            self.open_at(next)?;
            let before = self.chunk.len();
            let most = self.most(wanted - before);
            let Some((body, _)) = &mut self.open else { continue };
            let read = body.reader.by_ref().take(most as u64).read_to_end(&mut self.chunk);
            // The bytes before a failure are good.
            let len = self.chunk.len() - before;
            let chunk = std::mem::take(&mut self.chunk);
            self.account(chunk.get(before..).unwrap_or_default());
            self.chunk = chunk;
            self.after_read(read.map(|_| len))?;
        }
        Ok(())
    }

    /// Frees the chunk: its share of the memory belongs to others while this copy waits. What is needed of it is read
    /// again.
    pub(crate) fn free(&mut self) {
        self.chunk = Vec::new();
    }

    /// Computes the digest of the whole blob; reads what was not read yet.
    pub(crate) fn digest(&mut self) -> Result<Digest, Halt> {
        self.hash_up_to(self.blob.size)?;
        let hasher = std::mem::replace(&mut self.hasher, Hasher::new(self.blob.digest.algorithm()));
        self.hasher = hasher.clone();
        Ok(hasher.finish())
    }

    /// Reads and hashes the bytes before `end` that were not hashed.
    fn hash_up_to(&mut self, end: u64) -> Result<(), Halt> {
        let mut scratch = Vec::new();
        while self.hashed < end {
            scratch.resize(PIECE, 0);
            self.open_at(self.hashed)?;
            let most = self.most(usize::try_from(end - self.hashed).unwrap_or(usize::MAX));
            let Some((body, _)) = &mut self.open else { continue };
            let read = body.reader.read(scratch.get_mut(..most).unwrap_or_default());
            if let Ok(len) = &read {
                self.account(scratch.get(..*len).unwrap_or_default());
            }
            self.after_read(read)?;
        }
        Ok(())
    }

    fn most(&self, wanted: usize) -> usize {
        wanted.min(PIECE).min(self.run.rate.part()).min(self.run.limits.rate.part())
    }

    /// Moves on behind `bytes`, which were just read, and hashes those that were not hashed before.
    fn account(&mut self, bytes: &[u8]) {
        let Some((_, at)) = &mut self.open else { return };
        let known = usize::try_from(self.hashed.saturating_sub(*at)).unwrap_or(usize::MAX);
        let fresh = bytes.get(known..).unwrap_or_default();
        self.hasher.update(fresh);
        self.hashed += fresh.len() as u64;
        *at += bytes.len() as u64;
    }

    /// Checks the outcome of a read, and waits for the rate limits.
    fn after_read(&mut self, read: io::Result<usize>) -> Result<(), Halt> {
        let len = match read {
            Ok(0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(self.broken(error)),
        };
        for rate in [&self.run.rate, &self.run.limits.rate] {
            rate.take(len, &self.run.soft)?;
        }
        self.run.check()
    }

    /// Opens the source at `offset`, unless its next byte is there.
    fn open_at(&mut self, offset: u64) -> Result<(), Halt> {
        if self.open.as_ref().is_some_and(|(_, at)| *at == offset) {
            return Ok(());
        }
        self.open = None;
        let mut body = self.source.blob(self.blob, offset, self.etag.as_deref())?;
        self.etag.clone_from(&body.etag);
        // A side that cannot begin at an offset sends the bytes before it as well.
        let skip = offset.saturating_sub(body.starts);
        match io::copy(&mut body.reader.by_ref().take(skip), &mut io::sink()) {
            Ok(skipped) if skipped == skip => {}
            Ok(_) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => return Err(self.broken(error)),
        }
        self.open = Some((body, offset));
        Ok(())
    }

    fn broken(&mut self, error: io::Error) -> Halt {
        let at = self.open.take().map_or(self.hashed, |(_, at)| at);
        let (digest, name) = (&self.blob.digest, self.source.name());
        let why = format!("cannot read blob {digest} from {name} at byte {at}: {error}");
        SideError::new(FailureKind::Temporary(None), why).into()
    }
}
