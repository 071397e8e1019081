//! The directory of an OCI image layout. This module opens every file beneath the directory's descriptor.
//!
//! Uses openat2(2) with RESOLVE_BENEATH, so a name or a symbolic link that leads out of a hostile directory is an
//! error. Called by [`crate::image::archive::load`] to read a layout, and by [`crate::image::archive::save`] to write a
//! layout.

use crate::image::archive::source::{ArchiveError, Found, Source, missing};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

/// The directory of an OCI image layout, opened.
pub struct Layout {
    dir: OwnedFd,
}

/// Opens `name` beneath `dir`. Never blocks, not even on a FIFO without a writer.
///
/// # Errors
/// The errno of openat2(2); `EXDEV` if `name` leads out of `dir`.
pub fn open_beneath(dir: impl AsFd, name: &str, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let how = OpenHow::new()
        .flags(flags)
        .mode(mode)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    loop {
        // EAGAIN: a path component was renamed during the lookup; openat2(2) says to try again.
        match openat2(dir.as_fd(), name, how) {
            Err(Errno::EAGAIN) => {}
            other => return other,
        }
    }
}

impl Layout {
    /// Makes a layout of the directory `dir`.
    pub fn new(dir: OwnedFd) -> Self {
        Layout { dir }
    }

    fn open(&self, name: &str) -> Result<Option<(File, u64)>, ArchiveError> {
        let failed = |source: io::Error| ArchiveError::File { name: name.to_owned(), source };
        let file = match open_beneath(&self.dir, name, OFlag::O_RDONLY, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(Errno::EXDEV) => {
                return Err(crate::image::archive::entries::refuse(name, "leads out of the directory").into());
            }
            Err(error) => return Err(failed(error.into())),
        };
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() {
            return Err(crate::image::archive::entries::refuse(name, "is no regular file").into());
        }
        Ok(Some((file, meta.len())))
    }
}

impl Source for Layout {
    fn resolve(&self, name: &str) -> Result<Option<String>, ArchiveError> {
        let name = crate::image::archive::entries::clean(name, "")?;
        Ok(self.open(&name)?.map(|_| name))
    }

    fn document(&mut self, name: &str, max: u64) -> Result<Vec<u8>, ArchiveError> {
        let (file, size) = self.open(name)?.ok_or_else(|| missing(name))?;
        if size > max {
            return Err(ArchiveError::TooLong { name: name.to_owned(), size, max });
        }
        let mut bytes = Vec::new();
        // The file may have grown since fstat(2).
        file.take(max)
            .read_to_end(&mut bytes)
            .map_err(|source| ArchiveError::File { name: name.to_owned(), source })?;
        Ok(bytes)
    }

    fn layer(&mut self, name: &str) -> Result<Found<'_>, ArchiveError> {
        let (file, size) = self.open(name)?.ok_or_else(|| missing(name))?;
        Ok(Found::Reader(Box::new(file), size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_name_and_no_link_leads_out_of_a_layout() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("index.json"), "{}").expect("written");
        std::fs::create_dir(dir.path().join("blobs")).expect("made");
        symlink("/etc", dir.path().join("blobs/sha256")).expect("made");
        symlink("../index.json", dir.path().join("blobs/inside")).expect("made");
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRUSR).expect("made");
        let mut layout = Layout::new(File::open(dir.path()).expect("opened").into());
        assert_eq!(layout.document("blobs/inside", 10).expect("beneath"), b"{}");
        assert!(matches!(layout.document("index.json", 1), Err(ArchiveError::TooLong { size: 2, .. })));
        assert!(layout.resolve("blobs/none").expect("looked for").is_none());
        for (name, why) in [
            ("blobs/sha256/passwd", "leads out"),
            ("../x", "leads out"),
            ("fifo", "no regular file"),
            ("blobs", "no regular file"),
        ] {
            let error = layout.resolve(name).expect_err(name).to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
