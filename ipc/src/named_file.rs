//! Files at paths that a person chooses: ID files, PID files, credentials, archives, configuration files.
//!
//! Used by the command line, the engine, shims and monitord. Follows symbolic links, also to a file that does not exist
//! yet, and never replaces a link. Refuses to write to a path that is not a regular file. Replaces a file atomically: a
//! reader sees the complete old file or the complete new one. Not used for the store or the journal, since other users
//! cannot write to their directories.

use crate::sender::random;
use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Gid, Uid, fchown};
use std::fs::{self, File, FileType, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// Most symbolic links to follow, as in the kernel. path_resolution(7).
const LINKS_MAX: usize = 40;
/// Longest time to wait until another process opens the other end of a FIFO.
const FIFO_TIMEOUT: Duration = Duration::from_secs(5);
/// Most attempts to find an unused name.
const NAMES_MAX: usize = 8;

/// The kind of file, in words; `None` for a regular file.
pub fn other_kind(kind: &FileType) -> Option<&'static str> {
    Some(match kind {
        _ if kind.is_file() => return None,
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_socket() => "a socket",
        _ if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "no file",
    })
}

/// The path at the end of a chain of symbolic links.
enum End {
    /// A path that is not a symbolic link. It need not exist.
    Name(PathBuf),
    /// The link of an open descriptor, which paths such as /dev/stdout and /dev/fd/3 lead to. proc(5).
    Descriptor(PathBuf),
}

/// Follows the symbolic links at `path` to a path that is not a link. The file need not exist, but its directory must.
///
/// # Errors
/// A directory does not exist, the links form a loop, or `path` names a descriptor.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    match follow(path)? {
        End::Name(path) => Ok(path),
        End::Descriptor(_) => Err(io::Error::other("it names a descriptor and no file")),
    }
}

/// The descriptor of this process that `path` names, as /dev/stdout does; `None` if `path` names something else.
pub fn descriptor(path: &Path) -> Option<i32> {
    let Ok(End::Descriptor(path)) = follow(path) else { return None };
    let is_own = path.parent() == fs::canonicalize("/proc/self/fd").ok().as_deref();
    path.file_name().filter(|_| is_own)?.to_str()?.parse().ok()
}

fn follow(path: &Path) -> io::Result<End> {
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let dir = fs::canonicalize(dir)?;
        // The links in /proc/PID/fd refer to open files directly; another file may have taken the path that such a
        // link shows.
        let here = dir.join(name);
        if dir.starts_with("/proc") && dir.ends_with("fd") {
            return Ok(End::Descriptor(here));
        }
        match fs::read_link(&here) {
            Ok(target) => path = dir.join(target),
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => return Ok(End::Name(here)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(End::Name(here)),
            Err(error) => return Err(error),
        }
    }
    Err(Errno::ELOOP.into())
}

/// The metadata of the resolved path `target`; `None` if it does not exist.
///
/// # Errors
/// `target` is not a regular file, or lstat(2) fails.
pub fn look(target: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(meta) => match other_kind(&meta.file_type()) {
            None => Ok(Some(meta)),
            Some(kind) => Err(io::Error::other(format!("it is {kind}"))),
        },
    }
}

/// A path in the directory of `target` with a random name, which other users cannot guess.
pub fn beside(target: &Path) -> PathBuf {
    // The new name does not contain the file's own name, which may already have the maximum length.
    target.with_file_name(format!(".sampan-{:016x}", random()))
}

/// Gives `file` the owner and the mode of the file that it will replace, as far as this user has the permission.
///
/// # Errors
/// fstat(2) or fchmod(2) fails.
pub fn keep_owner_and_mode(file: &File, replaced: &Metadata) -> io::Result<()> {
    let own = file.metadata()?;
    let mut mode = replaced.mode() & 0o7777;
    if (own.uid(), own.gid()) != (replaced.uid(), replaced.gid()) {
        let (uid, gid) = (Uid::from_raw(replaced.uid()), Gid::from_raw(replaced.gid()));
        // Only root may change the owner. If this user may not set the group either, the file has another group than
        // the old file, and that group must not get the old group's permissions.
        if fchown(file, Some(uid), Some(gid)).is_err() && fchown(file, None, Some(gid)).is_err() {
            mode &= 0o707;
        }
    }
    file.set_permissions(Permissions::from_mode(mode))
}

/// A temporary file in the directory of its target. A drop removes the file, unless the file was renamed.
#[derive(Debug)]
struct Draft {
    target: PathBuf,
    path: PathBuf,
    file: File,
}

impl Draft {
    /// Creates a temporary file for the resolved path `target`. If `target` does not exist, the file's mode is `mode`
    /// less the umask.
    fn beside(target: PathBuf, mode: u32) -> io::Result<Self> {
        let replaced = look(&target)?;
        let mut tried = 0;
        let (path, file) = loop {
            let path = beside(&target);
            let first_mode = if replaced.is_some() { 0o600 } else { mode };
            match OpenOptions::new().write(true).create_new(true).mode(first_mode).open(&path) {
                Ok(file) => break (path, file),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tried < NAMES_MAX => tried += 1,
                Err(error) => return Err(error),
            }
        };
        let draft = Draft { target, path, file };
        if let Some(replaced) = &replaced {
            keep_owner_and_mode(&draft.file, replaced)?;
        }
        Ok(draft)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.file.sync_all()
    }

    /// Replaces the target.
    fn rename(self) -> io::Result<()> {
        // Check again: a device may have replaced the target after the first check.
        look(&self.target)?;
        fs::rename(&self.path, &self.target)?;
        sync_directory(&self.target);
        Ok(())
    }

    /// Gives the file the target's name, unless that name exists.
    fn link(self) -> io::Result<()> {
        match fs::hard_link(&self.path, &self.target) {
            // FAT and some network file systems have no hard links. Only on these may two processes that create the
            // same file both succeed.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP)) => {
                if look(&self.target)?.is_some() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                fs::rename(&self.path, &self.target)?;
            }
            linked => linked?,
        }
        sync_directory(&self.target);
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Fails if the file was renamed, which is no error.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the name of `file` durable by fsync(2) of its directory. Ignores errors: not every file system supports it.
pub fn sync_directory(file: &Path) {
    if let Some(dir) = file.parent() {
        let _ = File::open(dir).and_then(|dir| dir.sync_all());
    }
}

/// Replaces the content of the file at `path`, after following links, and keeps its owner and mode. A new file gets
/// `mode` less the umask.
///
/// # Errors
/// `path` is not a regular file, or a system call fails; the old file is unchanged.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut draft = Draft::beside(resolve(path)?, mode)?;
    draft.write(bytes)?;
    draft.rename()
}

/// Like [`replace`], for a file with secrets: a new file gets mode 0600, and an existing file loses the permissions for
/// others.
///
/// # Errors
/// `path` is not a regular file, or a system call fails; the old file is unchanged.
pub fn replace_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = Draft::beside(resolve(path)?, 0o600)?;
    let mode = draft.file.metadata()?.mode() & 0o770;
    draft.file.set_permissions(Permissions::from_mode(mode))?;
    draft.write(bytes)?;
    draft.rename()
}

/// Creates the file at `path`, after following links. The file must not exist.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if the file exists, or the error of a system call. After a failed system call no
/// file is left.
pub fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let target = resolve(path)?;
    if fs::symlink_metadata(&target).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let mut draft = Draft::beside(target, mode)?;
    draft.write(bytes)?;
    draft.link()
}

/// Opens a regular file, a FIFO or a device for reading.
///
/// # Errors
/// `path` is a directory or a socket; or it is a FIFO that no process opens for writing within five seconds; or
/// open(2) fails.
pub fn open(path: &Path) -> io::Result<File> {
    open_either(path, OpenOptions::new().read(true), "writes into it")
}

/// Opens a FIFO or a device for writing.
///
/// # Errors
/// `path` is a directory or a socket; or it is a FIFO that no process opens for reading within five seconds; or
/// open(2) fails.
pub fn open_for_writing(path: &Path) -> io::Result<File> {
    open_either(path, OpenOptions::new().write(true), "reads it")
}

fn open_either(path: &Path, options: &mut OpenOptions, other_end: &str) -> io::Result<File> {
    let kind = fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if kind.is_socket() {
        return Err(io::Error::other("it is a socket"));
    }
    options.custom_flags(libc::O_NOCTTY);
    if !kind.is_fifo() {
        return options.open(path);
    }
    // Without O_NONBLOCK, open(2) of a FIFO waits for the other end, and has no timeout. Therefore a thread calls
    // open(2), and goes on waiting after the timeout. That does no harm, since a caller that cannot open its file is
    // about to exit.
    let (sender, receiver) = mpsc::channel();
    let (path, options) = (path.to_owned(), options.clone());
    let wait = move || sender.send(options.open(path));
    sampan_os::thread::spawn("fifo", 64 << 10, wait)?;
    receiver.recv_timeout(FIFO_TIMEOUT).unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("it is a FIFO, and nobody {other_end}")))
    })
}

/// Opens the file by [`open`] and reads it. The file may have at most `max` bytes.
///
/// # Errors
/// [`io::ErrorKind::FileTooLarge`] if the file has more bytes; otherwise the errors of [`open`] and read(2).
pub fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {max} bytes")));
    }
    Ok(bytes)
}

/// Like [`read`], for a text file.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] if the file is not UTF-8, and the errors of [`read`].
pub fn read_text(path: &Path, max: u64) -> io::Result<String> {
    String::from_utf8(read(path, max)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    fn directory() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().canonicalize().expect("a path");
        (dir, path)
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("listed");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("listed").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn links_are_followed_and_stay_links() {
        let (_dir, dir) = directory();
        fs::create_dir(dir.join("sub")).expect("made");
        symlink("sub/target", dir.join("relative")).expect("made");
        symlink(dir.join("relative"), dir.join("absolute")).expect("made");
        symlink("circle", dir.join("circle")).expect("made");
        symlink("nowhere/file", dir.join("lost")).expect("made");
        for (name, text) in [("absolute", "one"), ("relative", "two"), ("sub/../sub/target", "three")] {
            replace(&dir.join(name), text.as_bytes(), 0o644).expect("written");
            assert_eq!(fs::read_to_string(dir.join("sub/target")).expect("there"), text);
        }
        assert!(fs::symlink_metadata(dir.join("absolute")).expect("there").is_symlink());
        assert!(fs::symlink_metadata(dir.join("relative")).expect("there").is_symlink());
        for bad in ["circle", "lost", "sub/", "..", ""] {
            assert!(replace(&dir.join(bad), b"x", 0o644).is_err(), "{bad}");
        }
        assert_eq!(names(&dir.join("sub")), ["target"], "no draft stays");
        assert_eq!(names(&dir), ["absolute", "circle", "lost", "relative", "sub"]);
    }

    #[test]
    fn another_kind_of_file_is_refused_and_unchanged() {
        let (_dir, dir) = directory();
        fs::create_dir(dir.join("directory")).expect("made");
        nix::unistd::mkfifo(&dir.join("fifo"), Mode::S_IRWXU).expect("made");
        let _socket = UnixListener::bind(dir.join("socket")).expect("bound");
        symlink("fifo", dir.join("link")).expect("made");
        for (name, kind) in
            [("directory", "directory"), ("fifo", "FIFO"), ("socket", "socket"), ("link", "FIFO")]
        {
            let before = fs::symlink_metadata(dir.join(name)).expect("there").ino();
            let error = replace(&dir.join(name), b"x", 0o644).expect_err(name).to_string();
            assert!(error.contains(kind), "{name}: {error}");
            assert_eq!(
                create(&dir.join(name), b"x", 0o644).expect_err(name).kind(),
                io::ErrorKind::AlreadyExists
            );
            assert_eq!(fs::symlink_metadata(dir.join(name)).expect("there").ino(), before);
        }
        let error = replace(Path::new("/dev/null"), b"x", 0o644).expect_err("a device").to_string();
        assert!(error.contains("a device"), "{error}");
        for (path, number) in [("/dev/fd/1", Some(1)), ("/proc/self/fd/20", Some(20)), ("/proc/1/fd/0", None)]
        {
            let _ = fs::remove_file(dir.join("link"));
            symlink(path, dir.join("link")).expect("made");
            assert_eq!(descriptor(&dir.join("link")), number);
            assert!(replace(&dir.join("link"), b"x", 0o644).is_err());
            assert!(create(&dir.join("link"), b"x", 0o644).is_err());
        }
        assert_eq!(descriptor(&dir.join("fifo")), None);
        assert_eq!(names(&dir).len(), 4, "no draft stays");
    }

    #[test]
    fn owner_and_mode_stay_and_a_new_file_gets_the_requested_mode() {
        let (_dir, dir) = directory();
        let path = dir.join("file");
        replace(&path, b"1", 0o600).expect("written");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o2755)).expect("set");
        if nix::unistd::geteuid().is_root() {
            nix::unistd::chown(&path, Some(Uid::from_raw(12)), Some(Gid::from_raw(34))).expect("root may");
            fs::set_permissions(&path, Permissions::from_mode(0o2755)).expect("set");
        }
        let before = fs::metadata(&path).expect("there");
        replace(&path, b"2", 0o600).expect("written");
        let after = fs::metadata(&path).expect("there");
        assert_ne!(before.ino(), after.ino());
        assert_eq!((before.mode(), before.uid(), before.gid()), (after.mode(), after.uid(), after.gid()));
    }

    #[test]
    fn create_makes_a_complete_file_and_replaces_nothing() {
        let (_dir, dir) = directory();
        symlink("target", dir.join("link")).expect("made");
        create(&dir.join("link"), b"id", 0o644).expect("made");
        assert_eq!(fs::read(dir.join("target")).expect("there"), b"id");
        for name in ["link", "target"] {
            let error = create(&dir.join(name), b"other", 0o644).expect_err(name);
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        }
        assert_eq!(fs::read(dir.join("target")).expect("there"), b"id");
        assert_eq!(names(&dir), ["link", "target"]);
    }

    #[test]
    fn reading_is_bounded_in_bytes_and_in_time() {
        let (_dir, dir) = directory();
        let (file, fifo) = (dir.join("file"), dir.join("fifo"));
        fs::write(&file, "12345").expect("written");
        assert_eq!(read(&file, 5).expect("fits"), b"12345");
        assert_eq!(read(&file, 4).expect_err("one more").kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(
            read(Path::new("/dev/zero"), 1 << 20).expect_err("endless").kind(),
            io::ErrorKind::FileTooLarge
        );
        assert_eq!(read(Path::new("/dev/null"), 1).expect("empty"), b"");
        assert!(read(&dir, 1).is_err());
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).expect("made");
        assert!(read(&fifo, 9).expect_err("nobody writes").to_string().contains("nobody writes into it"));
        // A second FIFO, since a thread still waits at the first.
        let fifo = dir.join("fifo2");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).expect("made");
        std::thread::scope(|scope| {
            scope.spawn(|| open_for_writing(&fifo).and_then(|mut to| to.write_all(b"late")).expect("read"));
            assert_eq!(read(&fifo, 9).expect("written"), b"late");
        });
    }
}
