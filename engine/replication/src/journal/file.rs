//! The file of a journal: a mark of the format, then frames. Appends, cuts off what an append left incomplete, rewrites.
//!
//! Called by [`super::writer`], [`super::replay`] and the directory of the journals. Knows no model.
//!
//! Layout: `magic "SMPREPL\x01"`, then one frame of [`sampan_ipc::frame`] for each [`Record`].

use crate::record::Record;
use sampan_ipc::frame;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The first bytes of the file; the last of them is the version.
pub(super) const MAGIC: [u8; 8] = *b"SMPREPL\x01";
/// Mode of all files: journals hold credentials.
pub(super) const MODE: u32 = 0o600;
/// Fewest bytes of a file that is rewritten.
const REWRITE_MIN: u64 = 4 << 20;
/// Bytes of one write when a file is rewritten.
const PIECE: usize = 256 << 10;

/// The open file of a journal.
#[derive(Debug)]
pub(super) struct JournalFile {
    file: File,
    path: PathBuf,
    /// Length of the complete frames.
    len: u64,
    /// Length after the last rewrite.
    base: u64,
    /// The file may hold less than was reported as written, or a frame whose writer was told of an error. It must be
    /// rewritten before the next append.
    is_doubtful: bool,
    /// Bytes that the file still takes.
    #[cfg(test)]
    pub(super) space: u64,
    /// Number of calls of fdatasync(2).
    #[cfg(test)]
    pub(super) syncs: u64,
    /// Whether fdatasync(2) fails.
    #[cfg(test)]
    pub(super) fails_to_sync: bool,
}

impl JournalFile {
    /// Makes a file with these records under `path`, atomically; replaces an existing one. The file and its name are
    /// on the disk when this function returns.
    pub(super) fn write(path: &Path, records: &[Record]) -> io::Result<Self> {
        let draft = draft(path);
        let made = fill(&draft, records).and_then(|made| fs::rename(&draft, path).map(|()| made));
        let (file, len) = made.inspect_err(|_| drop(fs::remove_file(&draft)))?;
        let mut made = JournalFile::adopt(file, path.to_owned(), len);
        made.base = len;
        made.is_doubtful = sync_directory(path).is_err();
        if made.is_doubtful {
            let why = "its directory cannot be synced";
            log::warn!("{}: {why}", path.display());
        }
        Ok(made)
    }

    /// Takes an open file whose first `len` bytes are complete frames.
    pub(super) fn adopt(file: File, path: PathBuf, len: u64) -> Self {
        JournalFile {
            file,
            path,
            len,
            base: 0,
            is_doubtful: false,
            #[cfg(test)]
            space: u64::MAX,
            #[cfg(test)]
            syncs: 0,
            #[cfg(test)]
            fails_to_sync: false,
        }
    }

    /// Whether the file must be rewritten before the next append.
    pub(super) fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }

    /// Whether a rewrite would make the file much smaller.
    pub(super) fn is_large(&self) -> bool {
        self.len > REWRITE_MIN && self.len > self.base.saturating_mul(2)
    }

    /// Appends complete frames; with `durable`, they are on the disk when this function returns.
    ///
    /// # Errors
    /// The disk is full or fails. No frame remains, or the file is doubtful from then on.
    pub(super) fn append(&mut self, frames: &[u8], durable: bool) -> io::Result<()> {
        if let Err(error) = self.write_all(frames) {
            self.is_doubtful = self.file.set_len(self.len).is_err();
            return Err(error);
        }
        if durable && let Err(error) = self.sync() {
            // After a failed fdatasync(2), the kernel forgets which pages it could not write; the next one would
            // succeed without them. fsync(2), NOTES.
            self.is_doubtful = true;
            let _ = self.file.set_len(self.len);
            return Err(error);
        }
        self.len += frames.len() as u64;
        Ok(())
    }

    #[cfg(not(test))]
    fn write_all(&mut self, frames: &[u8]) -> io::Result<()> {
        self.file.write_all_at(frames, self.len)
    }

    #[cfg(test)]
    fn write_all(&mut self, frames: &[u8]) -> io::Result<()> {
        let fits = usize::try_from(self.space).unwrap_or(usize::MAX).min(frames.len());
        self.file.write_all_at(&frames[..fits], self.len)?;
        if fits < frames.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.space -= fits as u64;
        Ok(())
    }

    #[cfg(not(test))]
    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    #[cfg(test)]
    fn sync(&mut self) -> io::Result<()> {
        self.syncs += 1;
        if self.fails_to_sync { Err(io::Error::from_raw_os_error(5)) } else { self.file.sync_data() }
    }

    /// Replaces the file by one with these records.
    ///
    /// # Errors
    /// The disk is full or fails; the file is as before.
    pub(super) fn rewrite(&mut self, records: &[Record]) -> io::Result<()> {
        let new = JournalFile::write(&self.path, records)?;
        (self.file, self.len, self.base) = (new.file, new.len, new.base);
        self.is_doubtful = new.is_doubtful;
        if self.is_doubtful { Err(io::Error::other("the directory cannot be synced")) } else { Ok(()) }
    }

    /// Puts off the next rewrite until the file is twice as long, after a rewrite has failed.
    pub(super) fn put_off_rewrite(&mut self) {
        self.base = self.len;
    }
}

/// Writes a file with these records under a temporary name, and syncs it. Returns it with its length.
fn fill(path: &Path, records: &[Record]) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).mode(MODE).open(path)?;
    let (mut bytes, mut len) = (MAGIC.to_vec(), 0);
    for record in records {
        bytes.extend(frame::encode(record).map_err(io::Error::other)?);
        if bytes.len() >= PIECE {
            (&file).write_all(&bytes)?;
            len += bytes.len() as u64;
            bytes.clear();
        }
    }
    (&file).write_all(&bytes)?;
    file.sync_all()?;
    Ok((file, len + bytes.len() as u64))
}

/// The temporary name for a file that replaces `path`. A start of the engine removes such files.
fn draft(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Makes the names in the directory of `path` durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}
