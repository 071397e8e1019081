//! Reads pieces from the disk and compares them with their digests.
//!
//! Called on the thread of a check, and on that of a fetch, which verifies pieces after a power failure and reads
//! those that it has not hashed.

use super::digests::{FileHasher, PieceDigest, PieceHasher};
use super::error::CdnError;
use super::job::Job;
use super::piece_file::{Digests, PieceFile};
use super::record::Record;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of one read.
pub(super) const BUFFER: usize = 64 << 10;

/// Compares the piece `first` of a task with its digest, and the others if it is bad; without `first`, all. Notes
/// on the disk which are bad, and returns their numbers.
///
/// # Errors
/// The disk fails, or the job was cancelled.
pub(super) fn run(job: &Job, mut record: Record, first: Option<u32>) -> Result<Vec<u32>, CdnError> {
    let (path, pieces) = (job.dir.content(), job.dir.pieces());
    let (mut file, digests) =
        PieceFile::open(&pieces, u32::MAX).map_err(CdnError::disk("open the pieces at", &pieces))?;
    let bad = match File::open(&path) {
        Ok(content) => {
            let named = first.and_then(|number| Some((number, digests.get(number as usize)?.as_ref()?)));
            if let Some((number, digest)) = named
                && is_good(job, &content, number, digest, None)?
            {
                return Ok(Vec::new());
            }
            bad_pieces(job, &content, &digests)?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            present(&digests).map(|(number, _)| number).collect()
        }
        Err(error) => return Err(CdnError::disk("open", &path)(error)),
    };
    if !bad.is_empty() {
        // The record first: a complete file without all of its pieces is what a lost disk looks like.
        record.is_complete = false;
        let path = job.dir.record();
        record.write(&path).map_err(CdnError::disk("write", &path))?;
        file.remove(&bad).map_err(CdnError::disk("write to", &pieces))?;
    }
    Ok(bad)
}

/// The pieces whose content does not have their digest.
///
/// # Errors
/// The disk fails, or the job was cancelled.
pub(super) fn bad_pieces(job: &Job, content: &File, digests: &Digests) -> Result<Vec<u32>, CdnError> {
    let mut bad = Vec::new();
    for (number, digest) in present(digests) {
        if !is_good(job, content, number, digest, None)? {
            bad.push(number);
        }
    }
    Ok(bad)
}

/// Whether the content of piece `number` has its digest. Passes the content to `whole`, too; after a bad piece,
/// `whole` is as before.
///
/// # Errors
/// The disk fails, or the job was cancelled.
pub(super) fn is_good(
    job: &Job,
    content: &File,
    number: u32,
    digest: &PieceDigest,
    mut whole: Option<&mut FileHasher>,
) -> Result<bool, CdnError> {
    let before = whole.as_deref().cloned();
    let pieces = job.file.pieces;
    let mut hasher = PieceHasher::new(pieces, u64::from(digest.content_len));
    let is_read = read(job, content, pieces.offset(number), u64::from(digest.content_len), |at, bytes| {
        hasher.update(bytes);
        if let Some(whole) = &mut whole {
            whole.update(at, bytes);
        }
    })?;
    let is_good = is_read && hasher.finish() == *digest;
    if let (false, Some(whole), Some(before)) = (is_good, whole, before) {
        *whole = before;
    }
    Ok(is_good)
}

/// Passes `len` bytes of the content at `at` to `take`. Returns false if the file ends before, or a sector of the
/// disk cannot be read.
///
/// # Errors
/// [`CdnError::Cancelled`].
pub(super) fn read(
    job: &Job,
    content: &File,
    mut at: u64,
    len: u64,
    mut take: impl FnMut(u64, &[u8]),
) -> Result<bool, CdnError> {
    let end = at.saturating_add(len);
    let mut buffer = vec![0; BUFFER];
    while at < end {
        job.check_cancelled()?;
        let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(BUFFER);
        let Some(part) = buffer.get_mut(..most) else { return Ok(false) };
        // An error here means a bad piece: another fetch of it may succeed, or its write fails and tells why.
        if let Err(error) = content.read_exact_at(part, at) {
            log::warn!("cannot read {} at byte {at}: {error}", job.dir.content().display());
            return Ok(false);
        }
        take(at, part);
        at += part.len() as u64;
    }
    Ok(true)
}

/// The pieces that are there, with their digests.
pub(super) fn present(digests: &Digests) -> impl Iterator<Item = (u32, &PieceDigest)> {
    (0..).zip(digests).filter_map(|(number, digest)| Some((number, digest.as_ref()?)))
}
