//! The digests of a task's pieces on the disk: a file to which each finished piece adds a record.
//!
//! Written by the thread of the task's fetch or check, of which there is one at a time; read by the event loop. A
//! record comes after the content that it describes. What a killed process left of a record is cut off at the next
//! start.
//!
//! Layout: records of [`SIZE`] bytes, little-endian: `number: u32`, `content_len: u32`, `md5`, `sha256`, `crc32c:
//! u32`. A later record of a number replaces an earlier one. A length of [`GONE`] says that the piece is bad.

use super::digests::PieceDigest;
use super::record::MODE;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes of a record.
pub(super) const SIZE: usize = 60;
/// The content length in the record of a piece that is bad.
const GONE: u32 = u32::MAX;

/// The digests of a task's pieces, by number.
pub(super) type Digests = Vec<Option<PieceDigest>>;

/// Sets the digest of piece `number`.
pub(super) fn insert(digests: &mut Digests, number: u32, digest: Option<PieceDigest>) {
    let index = number as usize;
    if index >= digests.len() {
        digests.resize(index + 1, None);
    }
    if let Some(entry) = digests.get_mut(index) {
        *entry = digest;
    }
}

/// The open file.
#[derive(Debug)]
pub(super) struct PieceFile {
    file: File,
    len: u64,
}

impl PieceFile {
    /// Opens the file at `path`, makes it if need be, and reads its records. `count_max` bounds the numbers of
    /// pieces.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub(super) fn open(path: &Path, count_max: u32) -> io::Result<(Self, Digests)> {
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).mode(MODE).open(path)?;
        let (digests, len) = load(&file, count_max)?;
        if file.metadata()?.len() > len {
            file.set_len(len)?;
        }
        Ok((PieceFile { file, len }, digests))
    }

    /// Adds a finished piece.
    ///
    /// # Errors
    /// The disk is full or fails; the record is not there.
    pub(super) fn append(&mut self, number: u32, digest: &PieceDigest) -> io::Result<()> {
        self.write(&encode(number, digest))
    }

    /// Records that pieces are bad.
    ///
    /// # Errors
    /// The disk is full or fails; no record is there.
    pub(super) fn remove(&mut self, numbers: &[u32]) -> io::Result<()> {
        let gone = PieceDigest { md5: [0; 16], sha256: [0; 32], content_len: GONE };
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| encode(*number, &gone)).collect();
        self.write(&bytes)
    }

    /// Makes all records durable. fdatasync(2).
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(bytes) {
            // A part of a record would make all later ones unreadable.
            let _ = self.file.set_len(self.len);
            return Err(error);
        }
        self.len += bytes.len() as u64;
        Ok(())
    }
}

/// Reads the records of the file at `path`. A missing file has none.
///
/// # Errors
/// The file cannot be read.
pub(super) fn read(path: &Path, count_max: u32) -> io::Result<Digests> {
    match File::open(path) {
        Ok(file) => Ok(load(&file, count_max)?.0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Digests::new()),
        Err(error) => Err(error),
    }
}

/// Reads records up to the first bad one; returns the length of the good ones, too.
fn load(file: &File, count_max: u32) -> io::Result<(Digests, u64)> {
    let mut bytes = Vec::new();
    let mut file = file;
    file.read_to_end(&mut bytes)?;
    let (mut digests, mut len) = (Digests::new(), 0);
    let (records, _) = bytes.as_chunks::<SIZE>();
    for record in records {
        let Some((number, digest)) = decode(record).filter(|(number, _)| *number < count_max) else { break };
        insert(&mut digests, number, digest);
        len += SIZE as u64;
    }
    Ok((digests, len))
}

fn encode(number: u32, digest: &PieceDigest) -> [u8; SIZE] {
    let mut record = [0; SIZE];
    let mut rest = record.as_mut_slice();
    // Writing into a slice that is long enough does not fail.
    let _ = rest.write_all(&number.to_le_bytes());
    let _ = rest.write_all(&digest.content_len.to_le_bytes());
    let _ = rest.write_all(&digest.md5);
    let _ = rest.write_all(&digest.sha256);
    let (fields, crc) = record.split_at_mut(SIZE - 4);
    crc.copy_from_slice(&crc32c::crc32c(fields).to_le_bytes());
    record
}

fn decode(record: &[u8; SIZE]) -> Option<(u32, Option<PieceDigest>)> {
    let (fields, crc) = record.split_last_chunk::<4>()?;
    if crc32c::crc32c(fields).to_le_bytes() != *crc {
        return None;
    }
    let (number, fields) = fields.split_first_chunk::<4>()?;
    let (content_len, fields) = fields.split_first_chunk::<4>()?;
    let (md5, fields) = fields.split_first_chunk::<16>()?;
    let (sha256, _) = fields.split_first_chunk::<32>()?;
    let content_len = u32::from_le_bytes(*content_len);
    let digest = PieceDigest { md5: *md5, sha256: *sha256, content_len };
    Some((u32::from_le_bytes(*number), (content_len != GONE).then_some(digest)))
}
