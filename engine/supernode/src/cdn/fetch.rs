//! Fetches the pieces of a task that are not on the disk.
//!
//! Called on a thread for each fetch. Bytes go to the disk as they come, and a piece is announced when all of it
//! is there. A connection that breaks is replaced by one that begins at the next byte. The file is complete when
//! its length, its MD5 if a client gave one, and the digest in its URL are right, and all of it is durable.

use super::check::{self, BUFFER};
use super::digests::{FileHasher, PieceHasher};
use super::error::CdnError;
use super::job::Job;
use super::message::{CompleteFile, Content};
use super::piece_file::{self, Digests, PieceFile};
use super::record::Record;
use super::source::Fetch;
use super::task_dir::allocate;
use crate::origin::{Body, OriginError, Request};
use crate::piece::LENGTH_MAX;
use sampan_job::cancel::Cancelled;
use sampan_registry::blob_download::PROGRESS_BYTES;
use sampan_registry::retry::Waits;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

/// How often the bad pieces on the disk are fetched, the first time included.
const ROUNDS: u32 = 3;

/// Fetches the missing pieces of the file of `job`, and notes the state of the file in `record`.
///
/// # Errors
/// [`CdnError`]: the origin, the disk or the content is at fault. Finished pieces stay on the disk.
pub(super) fn run(job: &Job, request: &Request, record: Record) -> Result<CompleteFile, CdnError> {
    let mut transfer = Transfer::open(job, request, record)?;
    let result = transfer.run();
    if result.is_err() && transfer.length.is_none() {
        // The bytes behind the last finished piece may be half a piece. A file of known length keeps its space.
        let end = transfer.end_of_pieces();
        let _ = transfer.content.set_len(end);
    }
    result
}

/// The state of a fetch.
struct Transfer<'a> {
    job: &'a Job,
    request: &'a Request,
    record: Record,
    content: File,
    content_path: PathBuf,
    piece_file: PieceFile,
    digests: Digests,
    /// Length of the content, once it is known.
    length: Option<u64>,
    expected_sha256: Option<[u8; 32]>,
    whole: FileHasher,
    /// The piece that is being fetched.
    piece: Option<Piece>,
    /// Whether the event loop knows that bytes come.
    is_started: bool,
}

/// A piece of which bytes have come.
struct Piece {
    number: u32,
    /// Length of the content in bytes; that of a full piece while the length of the file is unknown.
    len: u64,
    hasher: PieceHasher,
    /// The hash of the file before this piece.
    before: FileHasher,
}

/// Why an attempt has ended.
enum Stop {
    /// Another attempt may succeed.
    Cut { error: CdnError, status: u16, demanded: Duration },
    /// No attempt can.
    Final(CdnError),
}

impl From<CdnError> for Stop {
    fn from(error: CdnError) -> Self {
        Stop::Final(error)
    }
}

impl<'a> Transfer<'a> {
    fn open(job: &'a Job, request: &'a Request, record: Record) -> Result<Self, CdnError> {
        let (content_path, pieces_path) = (job.dir.content(), job.dir.pieces());
        let content = job.dir.open_content().map_err(CdnError::disk("open", &content_path))?;
        let count = job.file.length.map_or(u32::MAX, |length| job.file.pieces.count(length));
        let opened = PieceFile::open(&pieces_path, count);
        let (piece_file, digests) = opened.map_err(CdnError::disk("open", &pieces_path))?;
        let expected_sha256 = job.file.expected_sha256();
        let whole = FileHasher::new(expected_sha256.is_some());
        Ok(Transfer {
            job,
            request,
            record,
            content,
            content_path,
            piece_file,
            digests,
            length: job.file.length,
            expected_sha256,
            whole,
            piece: None,
            is_started: false,
        })
    }

    fn run(&mut self) -> Result<CompleteFile, CdnError> {
        // After a power failure, a digest may be on the disk without its content.
        if self.job.must_verify || !self.record.is_of_boot(self.job.shared.boot_id.as_deref()) {
            self.verify()?;
        }
        if let Some(length) = self.length {
            self.allocate(length)?;
        }
        self.record.boot_id.clone_from(&self.job.shared.boot_id);
        self.record.is_complete = false;
        self.write_record()?;
        for _ in 0..ROUNDS {
            while let Some((first, end)) = self.missing() {
                self.fetch_run(first, end)?;
            }
            if self.hash_the_rest()? {
                return self.finish();
            }
        }
        Err(CdnError::Unstable { path: self.content_path.clone() })
    }

    /// Compares the pieces on the disk with their digests, and announces the good ones.
    fn verify(&mut self) -> Result<(), CdnError> {
        let bad = check::bad_pieces(self.job, &self.content, &self.digests)?;
        self.forget(&bad)?;
        for (number, digest) in check::present(&self.digests) {
            self.job.send(Content::Piece { number, digest: *digest });
        }
        Ok(())
    }

    fn forget(&mut self, numbers: &[u32]) -> Result<(), CdnError> {
        for number in numbers {
            piece_file::insert(&mut self.digests, *number, None);
        }
        self.piece_file.remove(numbers).map_err(CdnError::disk("write to", self.job.dir.pieces()))
    }

    fn allocate(&self, length: u64) -> Result<(), CdnError> {
        allocate(&self.content, length).map_err(CdnError::disk("allocate space for", &self.content_path))
    }

    fn write_record(&self) -> Result<(), CdnError> {
        let path = self.job.dir.record();
        self.record.write(&path).map_err(CdnError::disk("write", &path))
    }

    fn has(&self, number: u32) -> bool {
        self.digests.get(number as usize).is_some_and(Option::is_some)
    }

    /// The first run of missing pieces: its first number, and the number behind its last one. The end is `None` if
    /// the length is unknown and no later piece is on the disk.
    fn missing(&self) -> Option<(u32, Option<u32>)> {
        let count = self.length.map(|length| self.job.file.pieces.count(length));
        let known = u32::try_from(self.digests.len()).unwrap_or(u32::MAX);
        let first = (0..count.unwrap_or(u32::MAX)).find(|number| !self.has(*number))?;
        let end = (first..known).find(|number| self.has(*number));
        Some((first, end.or(count)))
    }

    /// End of the last piece that is on the disk, in bytes.
    fn end_of_pieces(&self) -> u64 {
        let last = check::present(&self.digests).last();
        last.map_or(0, |(number, digest)| {
            self.job.file.pieces.offset(number).saturating_add(u64::from(digest.content_len))
        })
    }

    /// Fetches the pieces from `first` on and before `end`, with as many requests as that takes.
    fn fetch_run(&mut self, first: u32, end: Option<u32>) -> Result<(), CdnError> {
        let mut at = self.job.file.pieces.offset(first);
        let mut waits = Waits::default();
        let mut failed_at = at;
        self.piece = None;
        loop {
            self.job.check_cancelled()?;
            let (error, status, demanded) = match self.attempt(&mut at, end) {
                Ok(()) => return Ok(()),
                Err(Stop::Final(error)) => return Err(error),
                Err(Stop::Cut { error, status, demanded }) => (error, status, demanded),
            };
            if at.saturating_sub(failed_at) >= PROGRESS_BYTES {
                waits = Waits::default();
                failed_at = at;
            }
            let Some(wait) = waits.next(status, demanded) else { return Err(error) };
            log::debug!("task {}: trying again in {wait:?}: {error}", self.job.task);
            (self.job.shared.pause)(&self.job.cancel, wait).map_err(|Cancelled| CdnError::Cancelled)?;
        }
    }

    /// End of the bytes of a run, if it is known.
    fn limit(&self, end: Option<u32>) -> Option<u64> {
        let offset = end.map(|end| self.job.file.pieces.offset(end));
        match (offset, self.length) {
            (Some(offset), Some(length)) => Some(offset.min(length)),
            (offset, length) => offset.or(length),
        }
    }

    /// Sends one request for the bytes from `at` on, and takes what comes.
    fn attempt(&mut self, at: &mut u64, end: Option<u32>) -> Result<(), Stop> {
        let limit = self.limit(end);
        // If the length is unknown, there may be no byte at `at`, and a request for none is an error. So the byte
        // before is fetched, too.
        let from = if self.length.is_none() { at.saturating_sub(1) } else { *at };
        let to = limit.filter(|_| limit != self.length);
        let validators = &self.job.file.validators;
        let (task, file) = (&self.job.task, &self.job.file);
        let fetch = Fetch { task, file, request: self.request, from, to, validators };
        let body = self.job.shared.source.fetch(&fetch, &self.job.cancel).map_err(|error| match error {
            OriginError::Cancelled => Stop::Final(CdnError::Cancelled),
            error if error.is_temporary() => Stop::Cut {
                status: error.status(),
                demanded: error.retry_after().unwrap_or_default(),
                error: CdnError::Origin(error),
            },
            error => Stop::Final(CdnError::Origin(error)),
        })?;
        if body.starts > *at {
            return Err(Stop::Final(CdnError::Origin(OriginError::Answer {
                url: self.request.printable_url(),
                problem: "sends a part that was not requested",
            })));
        }
        self.on_length(body.length, *at)?;
        let takes_no_range = body.starts < from;
        if takes_no_range && let Some(piece) = self.piece.take() {
            // All bytes come again. Those of finished pieces are compared; those of this piece are taken anew.
            *at = self.job.file.pieces.offset(piece.number);
            self.whole = piece.before;
        }
        let skip = at.saturating_sub(body.starts);
        let skipped = Skipped { left: skip, at: 0, compares: body.starts == 0, hasher: None };
        self.take_body(body, at, end, skipped)
    }

    /// Compares the length that an answer states with the one that is known, when the bytes before `at` are there.
    fn on_length(&mut self, stated: Option<u64>, at: u64) -> Result<(), CdnError> {
        if let Some(found) = stated {
            match self.length {
                Some(expected) if expected != found => return Err(CdnError::Length { expected, found }),
                Some(_) => {}
                None if found > LENGTH_MAX => return Err(CdnError::TooLong { max: LENGTH_MAX }),
                None if found < at => return Err(CdnError::Length { expected: at, found }),
                None => {
                    self.allocate(found)?;
                    self.set_length(found);
                    self.write_record()?;
                }
            }
        }
        if !self.is_started {
            self.is_started = true;
            self.job.send(Content::Started { length: self.length });
        }
        Ok(())
    }

    fn set_length(&mut self, length: u64) {
        self.length = Some(length);
        self.record.file.length = Some(length);
        self.job.send(Content::Length { length });
    }

    /// Reads the bytes of an answer up to the end of the run, and stores them.
    fn take_body(
        &mut self,
        body: Body<'_>,
        at: &mut u64,
        end: Option<u32>,
        mut skipped: Skipped,
    ) -> Result<(), Stop> {
        let Body { length: stated, mut reader, .. } = body;
        let mut buffer = vec![0; BUFFER];
        let limit = self.limit(end);
        loop {
            self.job.check_cancelled()?;
            let left = limit.map(|limit| limit.saturating_sub(*at).saturating_add(skipped.left));
            if left == Some(0) {
                break;
            }
            let most = usize::try_from(left.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
            let most = most.min(BUFFER).min(self.job.shared.rate.part());
            let cut = |at: u64, source| Stop::Cut {
                error: CdnError::Cut { at, source },
                status: 0,
                demanded: Duration::ZERO,
            };
            let bytes = match reader.read(buffer.get_mut(..most).unwrap_or_default()) {
                Ok(0) if limit.is_none() && skipped.left == 0 => return Ok(self.on_end(*at)?),
                Ok(0) => return Err(cut(*at, io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => buffer.get(..count).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.job.check_cancelled()?;
                    return Err(cut(*at, error));
                }
            };
            self.job.count_bytes(bytes.len());
            let limited = self.job.shared.rate.take(bytes.len(), &self.job.cancel);
            limited.map_err(|Cancelled| CdnError::Cancelled)?;
            let skip = usize::try_from(skipped.left).unwrap_or(usize::MAX).min(bytes.len());
            let (before, new) = bytes.split_at(skip);
            self.skip(before, &mut skipped)?;
            *at = self.take(*at, new)?;
        }
        if self.length == limit {
            self.expect_end(stated, &mut reader)?;
        }
        if self.length == Some(0) && !self.has(0) {
            self.begin_piece(0, 0);
            self.finish_piece(0)?;
        }
        Ok(())
    }

    /// Fails if more bytes come than the file has. An answer that states its length has been compared already.
    fn expect_end(&self, stated: Option<u64>, reader: &mut dyn Read) -> Result<(), CdnError> {
        let expected = self.length.unwrap_or(0);
        match stated.is_none().then(|| reader.read(&mut [0])) {
            Some(Ok(1..)) => Err(CdnError::Length { expected, found: expected.saturating_add(1) }),
            // All bytes are there. A connection that breaks now does no harm.
            _ => Ok(()),
        }
    }

    /// Passes over bytes that are on the disk already, and compares those of finished pieces.
    fn skip(&mut self, mut bytes: &[u8], skipped: &mut Skipped) -> Result<(), CdnError> {
        let pieces = self.job.file.pieces;
        skipped.left = skipped.left.saturating_sub(bytes.len() as u64);
        while skipped.compares && !bytes.is_empty() {
            let number = u32::try_from(skipped.at / pieces.content()).unwrap_or(u32::MAX);
            let room = pieces.offset(number).saturating_add(pieces.content()).saturating_sub(skipped.at);
            let (part, rest) = bytes.split_at(usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len()));
            let hasher = skipped.hasher.get_or_insert_with(|| PieceHasher::new(pieces, pieces.content()));
            hasher.update(part);
            skipped.at += part.len() as u64;
            bytes = rest;
            if part.len() as u64 == room
                && let Some(hasher) = skipped.hasher.take()
                && let Some(Some(known)) = self.digests.get(number as usize)
                && hasher.finish().sha256 != known.sha256
            {
                let url = self.request.printable_url();
                return Err(CdnError::Origin(OriginError::Changed { url }));
            }
        }
        Ok(())
    }

    /// Writes and hashes bytes of the content at `at`; returns the offset behind them.
    fn take(&mut self, mut at: u64, mut bytes: &[u8]) -> Result<u64, CdnError> {
        let pieces = self.job.file.pieces;
        while !bytes.is_empty() {
            let number = u32::try_from(at / pieces.content()).ok().filter(|_| at < LENGTH_MAX);
            let number = number.ok_or(CdnError::TooLong { max: LENGTH_MAX })?;
            let len = self.length.map_or(pieces.content(), |length| pieces.content_len(number, length));
            let end = pieces.offset(number).saturating_add(len);
            let room = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            if part.is_empty() {
                return Err(CdnError::Length { expected: end, found: at.saturating_add(bytes.len() as u64) });
            }
            let write = self.job.write(&self.content, part, at);
            write.map_err(CdnError::disk("write to", &self.content_path))?;
            self.begin_piece(number, len).hasher.update(part);
            self.whole.update(at, part);
            at += part.len() as u64;
            bytes = rest;
            if at == end {
                self.finish_piece(len)?;
            }
        }
        Ok(at)
    }

    /// The piece `number`, whose bytes come now. It has `len` bytes of content as far as is known.
    fn begin_piece(&mut self, number: u32, len: u64) -> &mut Piece {
        let (pieces, whole) = (self.job.file.pieces, &self.whole);
        self.piece.get_or_insert_with(|| Piece {
            number,
            len,
            hasher: PieceHasher::new(pieces, len),
            before: whole.clone(),
        })
    }

    /// Announces the piece whose bytes have come, which has `len` bytes of content.
    fn finish_piece(&mut self, len: u64) -> Result<(), CdnError> {
        let Some(mut piece) = self.piece.take() else { return Ok(()) };
        let (number, pieces) = (piece.number, self.job.file.pieces);
        if piece.len != len {
            // The last piece of a file whose length was unknown. The head of its wrapping has its length.
            piece.hasher = PieceHasher::new(pieces, len);
            let take = |_, bytes: &[u8]| piece.hasher.update(bytes);
            if !check::read(self.job, &self.content, pieces.offset(number), len, take)? {
                return Err(CdnError::Unstable { path: self.content_path.clone() });
            }
        }
        let digest = piece.hasher.finish();
        let appended = self.piece_file.append(number, &digest);
        appended.map_err(CdnError::disk("write to", self.job.dir.pieces()))?;
        piece_file::insert(&mut self.digests, number, Some(digest));
        self.job.send(Content::Piece { number, digest });
        Ok(())
    }

    /// Records that a file of unknown length ends at `at`.
    fn on_end(&mut self, at: u64) -> Result<(), CdnError> {
        let pieces = self.job.file.pieces;
        self.set_length(at);
        if at == 0 {
            self.begin_piece(0, 0);
        }
        if let Some(piece) = &self.piece {
            let len = pieces.content_len(piece.number, at);
            self.finish_piece(len)?;
        }
        self.content.set_len(at).map_err(CdnError::disk("set the length of", &self.content_path))
    }

    /// Hashes from the disk the pieces that did not come in order. Returns false if one of them is bad: it is
    /// missing then.
    fn hash_the_rest(&mut self) -> Result<bool, CdnError> {
        while self.length.is_some_and(|length| self.whole.at < length) {
            let before = self.whole.at;
            let number = u32::try_from(before / self.job.file.pieces.content()).unwrap_or(u32::MAX);
            let Some(Some(digest)) = self.digests.get(number as usize).copied() else { return Ok(false) };
            if !check::is_good(self.job, &self.content, number, &digest, Some(&mut self.whole))? {
                self.forget(&[number])?;
                return Ok(false);
            }
            if self.whole.at == before {
                return Err(CdnError::Unstable { path: self.content_path.clone() });
            }
        }
        Ok(true)
    }

    /// Verifies the whole file and makes it durable.
    fn finish(&mut self) -> Result<CompleteFile, CdnError> {
        let length = self.length.unwrap_or(0);
        let (md5, sha256) = self.whole.clone().finish();
        if let Some(expected) = self.job.file.md5.filter(|expected| *expected != md5) {
            return Err(CdnError::Md5 { expected, found: md5 });
        }
        if let (Some(expected), Some(found)) = (self.expected_sha256, sha256)
            && expected != found
        {
            return Err(CdnError::Digest { expected, found });
        }
        // The record comes last: it says that the rest is there.
        self.content.sync_data().map_err(CdnError::disk("sync", &self.content_path))?;
        self.piece_file.sync().map_err(CdnError::disk("sync", self.job.dir.pieces()))?;
        self.record.is_complete = true;
        self.record.content_md5 = Some(md5);
        self.write_record()?;
        Ok(CompleteFile { length, md5 })
    }
}

/// Bytes that an origin sends although they are on the disk already.
struct Skipped {
    left: u64,
    /// Offset of the next one, if they are compared.
    at: u64,
    /// Whether the bytes are compared: they begin with the first one of the file.
    compares: bool,
    hasher: Option<PieceHasher>,
}
