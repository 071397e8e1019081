//! An archive in a seekable file: an uncompressed tar.
//!
//! Reads all headers first and skips the files' contents. Later reads only the needed documents and layers, from their
//! offsets. Called by [`crate::image::archive::load`]; [`crate::image::archive::streamed`] reads all other archives.

use crate::image::archive::entries::{Entries, refuse};
use crate::image::archive::source::{ArchiveError, Found, START, Source, begins_layer, fill, missing};
use sampan_layer::decompress::Format;
use sampan_layer::tar::{TarError, TarReader, begins_tar};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::FileExt;

/// Size of the buffer for reading headers, in bytes. A larger buffer would read content that is skipped.
const LOOK: usize = 4096;

/// An uncompressed tar in a file, with the offsets of its entries.
pub struct Seekable<'a> {
    file: &'a File,
    /// Offset and length of each entry's content, in bytes.
    members: Entries<(u64, u64)>,
}

impl<'a> Seekable<'a> {
    /// Reads all headers of `file` from its current offset; returns `None` if `file` is a pipe or compressed.
    ///
    /// # Errors
    /// [`ArchiveError`]: the file is a damaged tar, or a name in the tar is refused.
    pub fn open(file: &'a File) -> Result<Option<Self>, ArchiveError> {
        let meta = file.metadata().map_err(ArchiveError::Read)?;
        if !meta.is_file() {
            return Ok(None);
        }
        let mut from = file;
        let at = from.stream_position().map_err(ArchiveError::Read)?;
        let mut start = [0; START];
        let len = fill(&mut from, &mut start).map_err(ArchiveError::Read)?;
        from.seek(io::SeekFrom::Start(at)).map_err(ArchiveError::Read)?;
        let start = start.get(..len).unwrap_or_default();
        if Format::of(start) != Format::Plain || !begins_tar(start) {
            return Ok(None);
        }
        let mut members = Entries::default();
        let mut tarball = TarReader::new(BufReader::with_capacity(LOOK, file));
        while let Some(entry) = tarball.next_entry()? {
            let (offset, len) = tarball.pass_content()?;
            if offset.checked_add(len).is_none_or(|end| end > meta.len()) {
                return Err(TarError::Truncated.into());
            }
            if let Some(name) = members.admit(&entry)? {
                members.put(name, (offset, len));
            }
        }
        Ok(Some(Seekable { file, members }))
    }

    fn find(&self, name: &str) -> Result<(u64, u64), ArchiveError> {
        self.members.get(name).copied().ok_or_else(|| missing(name))
    }
}

impl Source for Seekable<'_> {
    fn resolve(&self, name: &str) -> Result<Option<String>, ArchiveError> {
        Ok(self.members.resolve(name)?)
    }

    fn document(&mut self, name: &str, max: u64) -> Result<Vec<u8>, ArchiveError> {
        let (offset, size) = self.find(name)?;
        if size > max {
            return Err(ArchiveError::TooLong { name: name.to_owned(), size, max });
        }
        let mut bytes = Vec::new();
        let mut range = Range { file: self.file, at: offset, left: size };
        let failed = |source| ArchiveError::File { name: name.to_owned(), source };
        range.read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    fn layer(&mut self, name: &str) -> Result<Found<'_>, ArchiveError> {
        let (offset, size) = self.find(name)?;
        let failed = |source| ArchiveError::File { name: name.to_owned(), source };
        let mut start = [0; START];
        let mut range = Range { file: self.file, at: offset, left: size };
        let len = fill(&mut range, &mut start).map_err(failed)?;
        if !begins_layer(start.get(..len).unwrap_or_default()) {
            return Err(refuse(name, "is listed as a layer and is no tar").into());
        }
        Ok(Found::Reader(Box::new(Range { file: self.file, at: offset, left: size }), size))
    }
}

/// A reader of one range of a file; it does not move the file's offset.
struct Range<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Range<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let into = into.get_mut(..want).unwrap_or_default();
        if into.is_empty() {
            return Ok(0);
        }
        match self.file.read_at(into, self.at)? {
            // The file became shorter during the read.
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            len => {
                self.at += len as u64;
                self.left -= len as u64;
                Ok(len)
            }
        }
    }
}
