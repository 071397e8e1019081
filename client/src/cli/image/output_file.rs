//! An output file or directory that is either complete or absent.
//!
//! A file has no name until it is complete (O_TMPFILE), so that not even a signal leaves an incomplete file. On a file
//! system without O_TMPFILE, the file has a temporary name until then. Pipes and devices are written directly, and
//! never replaced.

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::linkat;
use sampan_ipc::named_file;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The output.
#[derive(Debug)]
pub(crate) struct OutputFile {
    fd: OwnedFd,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A device, a FIFO, or an inherited descriptor, which is written directly.
    Plain,
    /// A file without a name, and the path that the complete file gets.
    Nameless(PathBuf),
    /// A file with a temporary path, and the path that the complete file gets. A drop removes the temporary path.
    Named(PathBuf, PathBuf),
    /// A directory, with its path if this process has created it. A drop removes that path.
    Directory(Option<PathBuf>),
}

impl OutputFile {
    /// Makes an output that is written directly.
    pub(crate) fn plain(fd: OwnedFd) -> Self {
        OutputFile { fd, kind: Kind::Plain }
    }

    /// Makes an output that replaces the file `path` when it is complete. An existing pipe or device is written
    /// directly.
    pub(crate) fn file(path: &Path) -> io::Result<Self> {
        // Do not open it by its path: if standard output appends to a file, that would write from the file's
        // beginning.
        let standard = match named_file::descriptor(path) {
            Some(1) => Some(io::stdout().as_fd().try_clone_to_owned()?),
            Some(2) => Some(io::stderr().as_fd().try_clone_to_owned()?),
            _ => None,
        };
        if let Some(fd) = standard {
            return Ok(OutputFile::plain(fd));
        }
        match fs::metadata(path) {
            Ok(meta) if !meta.is_file() => Ok(OutputFile::plain(named_file::open_for_writing(path)?.into())),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            // If the path is a link, the file that it leads to is replaced or created, and the link stays.
            _ => OutputFile::beside(named_file::resolve(path)?),
        }
    }

    fn beside(target: PathBuf) -> io::Result<Self> {
        let replaced = named_file::look(&target)?;
        let dir = target.parent().unwrap_or(&target);
        let mode = Mode::from_bits_truncate(if replaced.is_some() { 0o600 } else { 0o666 });
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let (fd, temporary) = match open(dir, flags | OFlag::O_TMPFILE, mode) {
            Ok(fd) => (fd, None),
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL) => {
                let temporary = named_file::beside(&target);
                (open(&temporary, flags | OFlag::O_CREAT | OFlag::O_EXCL, mode)?, Some(temporary))
            }
            Err(error) => return Err(error.into()),
        };
        let kind = match temporary {
            None => Kind::Nameless(target),
            Some(temporary) => Kind::Named(temporary, target),
        };
        let out = OutputFile { fd, kind };
        if let Some(replaced) = &replaced {
            named_file::keep_owner_and_mode(&File::from(out.fd.try_clone()?), replaced)?;
        }
        Ok(out)
    }

    /// Makes an output of the directory `path`, which is created if it does not exist.
    pub(crate) fn directory(path: &Path) -> io::Result<Self> {
        let made = match fs::create_dir(path) {
            Ok(()) => Some(path.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
            Err(error) => return Err(error),
        };
        let dir = open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(OutputFile { fd: dir, kind: Kind::Directory(made) })
    }

    /// The descriptor for the engine.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Marks the output as complete: gives the file its path.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.kind, Kind::Plain) {
            Kind::Plain | Kind::Directory(_) => Ok(()),
            Kind::Nameless(path) => {
                nix::unistd::fsync(&self.fd)?;
                let temporary = named_file::beside(&path);
                self.link(&temporary)?;
                rename(&temporary, &path)
            }
            Kind::Named(temporary, path) => {
                let synced = nix::unistd::fsync(&self.fd).inspect_err(|_| drop(fs::remove_file(&temporary)));
                synced?;
                rename(&temporary, &path)
            }
        }
    }

    /// Gives `path` to a file without a name.
    fn link(&self, name: &Path) -> io::Result<()> {
        // With /proc, every user may link the file. Without /proc, only root may link the descriptor itself.
        let own = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        match linkat(AT_FDCWD, own.as_str(), AT_FDCWD, name, AtFlags::AT_SYMLINK_FOLLOW) {
            Err(Errno::ENOENT) => Ok(linkat(&self.fd, "", AT_FDCWD, name, AtFlags::AT_EMPTY_PATH)?),
            linked => Ok(linked?),
        }
    }

    /// Whether this is the same file as standard output, so that nothing else may be printed there.
    pub(crate) fn is_stdout(&self) -> bool {
        let (Ok(own), Ok(stdout)) = (fstat(&self.fd), fstat(io::stdout())) else { return false };
        matches!(self.kind, Kind::Plain) && (own.st_dev, own.st_ino) == (stdout.st_dev, stdout.st_ino)
    }
}

fn rename(temporary: &Path, path: &Path) -> io::Result<()> {
    // Check again: a device may have taken the path meanwhile.
    let renamed = named_file::look(path).and_then(|_| fs::rename(temporary, path));
    renamed.inspect_err(|_| drop(fs::remove_file(temporary)))?;
    named_file::sync_directory(path);
    Ok(())
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        let _ = match &self.kind {
            Kind::Named(temporary, _) => fs::remove_file(temporary),
            // The engine has removed its files, so only empty directories are left.
            Kind::Directory(Some(made)) => fs::remove_dir_all(made),
            _ => Ok(()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_when_it_is_whole_and_stays_when_it_never_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("out.tar");
        fs::write(&path, "old").expect("written");
        let write = |out: &OutputFile| {
            let mut file = File::from(out.fd().try_clone_to_owned().expect("a descriptor"));
            file.write_all(b"new").expect("written");
        };
        let out = OutputFile::file(&path).expect("opened");
        write(&out);
        drop(out);
        assert_eq!(fs::read(&path).expect("read"), b"old");
        let out = OutputFile::file(&path).expect("opened");
        write(&out);
        out.finish().expect("renamed");
        assert_eq!(fs::read(&path).expect("read"), b"new");
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
        assert!(OutputFile::file(dir.path()).is_err());
        // A link stays a link, even if its target does not exist. The target keeps its owner and mode.
        let (link, lost) = (dir.path().join("link"), dir.path().join("lost"));
        std::os::unix::fs::symlink("out.tar", &link).expect("made");
        std::os::unix::fs::symlink("new.tar", &lost).expect("made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).expect("set");
        for link in [&link, &lost] {
            let out = OutputFile::file(link).expect("opened");
            write(&out);
            out.finish().expect("renamed");
            assert!(fs::symlink_metadata(link).expect("there").is_symlink());
            assert_eq!(fs::read(link).expect("read"), b"new");
        }
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o604);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 4);
        let layout = dir.path().join("layout");
        drop(OutputFile::directory(&layout).expect("made"));
        assert!(!layout.exists());
        OutputFile::directory(&layout).expect("made").finish().expect("kept");
        assert!(layout.is_dir());
    }
}
