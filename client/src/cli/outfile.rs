//! A file or directory that is there whole, or not at all.
//!
//! A file has no name until it is whole (O_TMPFILE), so not even a signal leaves half of one. Where the file system
//! has no nameless files, it has a name of its own until then.

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::linkat;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What is written into.
#[derive(Debug)]
pub struct OutFile {
    fd: OwnedFd,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A device, a FIFO, a descriptor of ours: written as it is.
    Plain,
    /// Without a name; the name that it gets.
    Nameless(PathBuf),
    /// With a name of its own; that, and the one that it gets. Removed when dropped.
    Named(PathBuf, PathBuf),
    /// A directory; its path if it was made here, to be removed when dropped.
    Directory(Option<PathBuf>),
}

impl OutFile {
    /// One that is written as it is.
    pub fn plain(fd: OwnedFd) -> Self {
        OutFile { fd, kind: Kind::Plain }
    }

    /// What becomes the file `path`, in place of one that is there.
    ///
    /// # Errors
    /// What open(2) says.
    pub fn file(path: &Path) -> io::Result<Self> {
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(meta) if !meta.is_file() => {
                return Ok(OutFile::plain(File::options().write(true).open(path)?.into()));
            }
            // A link to a file: that file is replaced, not the link.
            Ok(_) => return OutFile::beside(&fs::canonicalize(path)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        OutFile::beside(path)
    }

    fn beside(path: &Path) -> io::Result<Self> {
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let mode = Mode::from_bits_truncate(0o666);
        match open(dir, OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC, mode) {
            Ok(fd) => return Ok(OutFile { fd, kind: Kind::Nameless(path.to_owned()) }),
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
        let temporary = beside_name(path)?;
        let file = File::options().write(true).create_new(true).open(&temporary)?;
        Ok(OutFile { fd: file.into(), kind: Kind::Named(temporary, path.to_owned()) })
    }

    /// The directory `path`, made if it is not there.
    ///
    /// # Errors
    /// What mkdir(2) and open(2) say.
    pub fn directory(path: &Path) -> io::Result<Self> {
        let made = match fs::create_dir(path) {
            Ok(()) => Some(path.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
            Err(error) => return Err(error),
        };
        let dir = File::open(path)?;
        if !dir.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(OutFile { fd: dir.into(), kind: Kind::Directory(made) })
    }

    /// What is handed to the engine.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// It is whole: gives it its name.
    ///
    /// # Errors
    /// What fsync(2), linkat(2) and rename(2) say.
    pub fn finish(mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.kind, Kind::Plain) {
            Kind::Plain | Kind::Directory(_) => Ok(()),
            Kind::Nameless(path) => {
                nix::unistd::fsync(&self.fd)?;
                let temporary = beside_name(&path)?;
                let own = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
                linkat(AT_FDCWD, own.as_str(), AT_FDCWD, &temporary, AtFlags::AT_SYMLINK_FOLLOW)?;
                fs::rename(&temporary, &path).inspect_err(|_| drop(fs::remove_file(&temporary)))
            }
            Kind::Named(temporary, path) => {
                nix::unistd::fsync(&self.fd)?;
                fs::rename(&temporary, &path).inspect_err(|_| drop(fs::remove_file(&temporary)))
            }
        }
    }
}

/// A name beside `path` that no other process uses.
fn beside_name(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(path.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), std::process::id())))
}

impl Drop for OutFile {
    fn drop(&mut self) {
        let _ = match &self.kind {
            Kind::Named(temporary, _) => fs::remove_file(temporary),
            // The engine has removed what it put there; these are the empty directories.
            Kind::Directory(Some(made)) => fs::remove_dir_all(made),
            _ => Ok(()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_is_replaced_when_it_is_whole_and_stays_when_it_never_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("out.tar");
        fs::write(&path, "old").expect("written");
        let write = |out: &OutFile| {
            let mut file = File::from(out.fd().try_clone_to_owned().expect("a descriptor"));
            file.write_all(b"new").expect("written");
        };
        let out = OutFile::file(&path).expect("opened");
        write(&out);
        drop(out);
        assert_eq!(fs::read(&path).expect("read"), b"old");
        let out = OutFile::file(&path).expect("opened");
        write(&out);
        out.finish().expect("renamed");
        assert_eq!(fs::read(&path).expect("read"), b"new");
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
        assert!(OutFile::file(dir.path()).is_err());
        let layout = dir.path().join("layout");
        drop(OutFile::directory(&layout).expect("made"));
        assert!(!layout.exists());
        OutFile::directory(&layout).expect("made").finish().expect("kept");
        assert!(layout.is_dir());
    }
}
