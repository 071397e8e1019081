//! Decides which directories, FIFOs and peers a process of Sampan trusts.
//!
//! Daemons and clients share one rule, which docs/security.md draws. Daemons call [`make`], [`make_own`] and
//! [`make_root`] before they use a directory. Clients call [`connect`] before they send. Writers of a FIFO call
//! [`fifo`]. Decides only by owner, mode and kind of file. Whether this process may open a file is not decided here:
//! the kernel decides that.

use crate::accounts;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, getsockopt, socket, sockopt::PeerCredentials,
};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Mode of directories that only the owner may enter: state, data, and all directories of an ordinary user.
pub const PRIVATE: u32 = 0o700;
/// Mode of directories that others may enter: root's run directory, whose sockets belong to groups.
pub const PASSABLE: u32 = 0o755;
/// Write permissions of group and others. For a file with an access control list, the group's bits are the list's
/// mask. acl(5).
const OTHERS_WRITE: u32 = 0o022;
const EVERYBODY_WRITES: u32 = 0o002;
const STICKY: u32 = 0o1000;
/// Smallest user ID of a person; smaller IDs belong to the system. login.defs(5), SYS_UID_MAX.
const PEOPLE: u32 = 1000;
/// Most symbolic links in a path, as in the kernel. path_resolution(7).
const LINKS_MAX: usize = 40;

/// Why a directory, a FIFO or a peer is not trusted, or cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The path is a symbolic link or a file, not a directory.
    #[error("cannot trust directory {}: it is a symbolic link or a file", .0.display())]
    NotDirectory(PathBuf),
    /// The owner is neither root nor the user of this process.
    #[error("cannot trust {what} {}: it belongs to user {uid}, expected {expected}", path.display())]
    Owner {
        /// Kind of file: `directory` or `FIFO`.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// User ID of the file's owner.
        uid: u32,
        /// The users that are trusted, in words.
        expected: String,
    },
    /// Other users may write to the directory.
    #[error("cannot trust directory {}: its mode {mode:04o} lets group or others write", path.display())]
    Writable {
        /// Path of the directory.
        path: PathBuf,
        /// Mode of the directory.
        mode: u32,
    },
    /// Other users may replace the directory, since a directory above it lets them.
    #[error("cannot trust directory {}: {} above it {why}", path.display(), above.display())]
    Above {
        /// Path of the directory.
        path: PathBuf,
        /// The directory above it that lets other users replace it.
        above: PathBuf,
        /// Why other users may replace the directory, in words.
        why: String,
    },
    /// A process of another user listens on the socket.
    #[error("cannot trust socket {}: a process of user {uid} listens on it, expected {expected}", path.display())]
    Peer {
        /// Path of the socket.
        path: PathBuf,
        /// User ID of the process that listens.
        uid: u32,
        /// The users that are trusted, in words.
        expected: String,
    },
    /// The directory cannot be made.
    #[error("cannot make directory {}", path.display())]
    Make {
        /// Path of the directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A system call failed during the check.
    #[error("cannot look at {}", path.display())]
    Look {
        /// Path of the file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl TrustError {
    /// What a person can do about the error; empty if unknown.
    pub fn hint(&self) -> String {
        match self {
            TrustError::NotDirectory(_) => {
                "set SAMPAN_RUN_DIR, SAMPAN_STATE_DIR or SAMPAN_DATA_DIR to the directory itself".to_owned()
            }
            TrustError::Owner { what: "directory", .. } | TrustError::Above { .. } => {
                "set XDG_RUNTIME_DIR, or SAMPAN_RUN_DIR, SAMPAN_STATE_DIR or SAMPAN_DATA_DIR, to a directory of your own"
                    .to_owned()
            }
            // A directory for all users, such as /tmp: a person who removed its permissions would break other
            // programs.
            TrustError::Writable { mode, .. } if mode & 0o1000 != 0 => {
                "use a directory of your own in there, with mode 0700".to_owned()
            }
            TrustError::Writable { path, .. } => format!(
                "if nobody else has put anything there: chmod go-w {}; else use another directory",
                path.display()
            ),
            TrustError::Owner { .. } | TrustError::Peer { .. } => {
                "nothing was sent; another user may have put it there: see docs/security.md".to_owned()
            }
            TrustError::Make { .. } | TrustError::Look { .. } => String::new(),
        }
    }
}

impl From<TrustError> for io::Error {
    /// Converts to the error of the system call if there is one, otherwise to `PermissionDenied`.
    fn from(error: TrustError) -> io::Error {
        match error {
            TrustError::Make { source, .. } | TrustError::Look { source, .. } => source,
            other => io::Error::new(io::ErrorKind::PermissionDenied, other),
        }
    }
}

/// The [`TrustError`] that `error` contains, if there is one.
pub fn reason(error: &io::Error) -> Option<&TrustError> {
    error.get_ref()?.downcast_ref()
}

/// The daemon that should listen on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// The engine, or a shim; trusted are root and the user of this process.
    Engine,
    /// monitord; trusted is monitord's own user, too.
    Monitord,
}

/// Whether `uid` is root or the user of this process.
fn is_own(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

fn is_monitord(uid: u32) -> bool {
    accounts::user_id(accounts::MONITORD_USER) == Some(uid)
}

/// The users that are trusted, in words.
fn expected(monitord: bool) -> String {
    let own = nix::unistd::geteuid();
    let users = if own.is_root() { "root".to_owned() } else { format!("root or user {own}") };
    if monitord { format!("{users} or the user {}", accounts::MONITORD_USER) } else { users }
}

/// Decides whether a directory with this owner and mode may be used. Reads nothing but this process's user ID.
fn judge(path: &Path, uid: u32, mode: u32) -> Result<(), TrustError> {
    let path = path.to_owned();
    match (is_own(uid), mode & OTHERS_WRITE) {
        (false, _) => Err(TrustError::Owner { what: "directory", path, uid, expected: expected(false) }),
        (true, 0) => Ok(()),
        (true, _) => Err(TrustError::Writable { path, mode: mode & 0o7777 }),
    }
}

/// Checks that `path` is a directory and not a link; that it belongs to root or this process's user; that others may
/// not write to it; and that others may not replace it.
///
/// # Errors
/// [`TrustError`] if a check fails; [`TrustError::Look`] if the directory does not exist.
pub fn directory(path: &Path) -> Result<(), TrustError> {
    let (_, stat) = open_plain(path, OFlag::O_PATH)?;
    judge(path, stat.st_uid, stat.st_mode)?;
    above(path, &plain(path), false)
}

/// Opens the directory; fails if `path` is a link.
fn open_plain(path: &Path, how: OFlag) -> Result<(OwnedFd, FileStat), TrustError> {
    let plain = plain(path);
    let look = |errno: Errno| match errno {
        Errno::ENOTDIR | Errno::ELOOP => TrustError::NotDirectory(plain.clone()),
        errno => TrustError::Look { path: plain.clone(), source: errno.into() },
    };
    let flags = how | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = open(&plain, flags, Mode::empty()).map_err(look)?;
    let stat = fstat(&dir).map_err(look)?;
    Ok((dir, stat))
}

/// Removes slashes and dots at the end, because of which the kernel would follow a link. open(2), O_NOFOLLOW.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

/// Checks that no other user can replace `path`, by renaming a directory above `from` or by changing a link on the
/// way. With `is_above`, also checks `from` itself.
fn above(path: &Path, from: &Path, is_above: bool) -> Result<(), TrustError> {
    let look = |source| TrustError::Look { path: path.to_owned(), source };
    let refuse = |above: &Path, why: String| {
        Err(TrustError::Above { path: path.to_owned(), above: above.to_owned(), why })
    };
    let from = std::path::absolute(from).map_err(look)?;
    // The names that are not resolved yet; the next name is the last in the list.
    let mut names: Vec<OsString> = from.components().rev().map(|name| name.as_os_str().to_owned()).collect();
    let (mut at, mut links) = (PathBuf::new(), 0);
    while let Some(name) = names.pop() {
        match name.to_str() {
            Some(".") => continue,
            Some("..") => {
                at.pop();
                continue;
            }
            _ => {}
        }
        let next = at.join(&name);
        let meta = next.symlink_metadata().map_err(look)?;
        if meta.is_symlink() {
            links += 1;
            if links > LINKS_MAX {
                return Err(look(Errno::ELOOP.into()));
            }
            if !is_own(meta.uid()) {
                return refuse(&next, format!("is a symbolic link of user {}", meta.uid()));
            }
            // A link of procfs leads directly to a file, which may not be at the path that the link shows. Only
            // processes of the link's owner can change where it leads. proc(5), /proc/PID/root.
            if statfs(&at).is_ok_and(|fs| fs.filesystem_type() == PROC_SUPER_MAGIC) {
                at = next;
                match fs::metadata(&at).map_err(look)? {
                    meta if !is_own(meta.uid()) => {
                        return refuse(&at, format!("belongs to user {}", meta.uid()));
                    }
                    meta if meta.mode() & EVERYBODY_WRITES != 0 && meta.mode() & STICKY == 0 => {
                        return refuse(&at, "is writable for everybody and has no sticky bit".to_owned());
                    }
                    _ => continue,
                }
            }
            let target = fs::read_link(&next).map_err(look)?;
            names.extend(target.components().rev().map(|name| name.as_os_str().to_owned()));
            // An absolute target starts again at the root, which the next turn takes from the list.
            continue;
        }
        at = next;
        if names.is_empty() && !is_above {
            break;
        }
        match meta.mode() {
            _ if !is_own(meta.uid()) => return refuse(&at, format!("belongs to user {}", meta.uid())),
            mode if mode & EVERYBODY_WRITES != 0 && mode & STICKY == 0 => {
                return refuse(&at, "is writable for everybody and has no sticky bit".to_owned());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Creates the directory `path`, unless it exists, and missing directories above it, all with this mode.
fn create(path: &Path, mode: u32) -> Result<(), TrustError> {
    let there = path.ancestors().find(|path| path.symlink_metadata().is_ok());
    if there == Some(path) {
        return Ok(());
    }
    // Checks the existing directory first: nothing is created in a directory that another user may change.
    let there = there.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    above(path, there, there.is_dir())?;
    match DirBuilder::new().recursive(true).mode(mode).create(path) {
        // Another process has created the directory meanwhile; the caller checks it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(|source| TrustError::Make { path: path.to_owned(), source }),
    }
}

/// Creates the directory `path`, unless it exists, and missing directories above it, all with this mode. Then checks
/// it.
///
/// # Errors
/// [`TrustError`] if the directory cannot be created or a check fails.
pub fn make(path: &Path, mode: u32) -> Result<(), TrustError> {
    create(path, mode)?;
    directory(path)
}

/// Like [`make`], for a directory that contains only files of Sampan. If this user owns the directory, removes read
/// permissions beyond `mode`. If the directory is also empty, removes write permissions of others.
///
/// # Errors
/// [`TrustError`], as for [`make`]. A mode that cannot be changed, as on a read-only file system, is logged and is no
/// error.
pub fn make_own(path: &Path, mode: u32) -> Result<(), TrustError> {
    create(path, mode)?;
    match directory(path) {
        Err(TrustError::Writable { .. }) if close_empty(path, mode) => directory(path)?,
        checked => checked?,
    }
    tighten(path, mode);
    Ok(())
}

/// Sets the mode of an empty directory of this user to which others may write; then returns true. Otherwise changes
/// nothing and returns false. Such a directory may be a new tmpfs, or come from mkdir(1) with a umask that lets the
/// group write.
fn close_empty(path: &Path, mode: u32) -> bool {
    let Ok((dir, stat)) = open_plain(path, OFlag::O_RDONLY) else { return false };
    let set = |mode: u32| fchmod(&dir, Mode::from_bits_truncate(mode)).is_ok();
    if stat.st_uid != nix::unistd::geteuid().as_raw() || !set(mode) {
        return false;
    }
    // Change the mode before looking for entries, so that nobody can add a file between the two steps.
    let is_empty = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    let before = stat.st_mode & 0o7777;
    if is_empty {
        log_closed(path, before, mode);
    } else {
        set(before);
    }
    is_empty
}

/// Like [`make_own`], for a root directory, whose subdirectories have checks of their own. Removes write permissions
/// of others even from a directory that is not empty, and fails only if that is not possible.
///
/// # Errors
/// [`TrustError`] if the directory cannot be created or a check fails.
pub fn make_root(path: &Path, mode: u32) -> Result<(), TrustError> {
    create(path, mode)?;
    if matches!(directory(path), Err(TrustError::Writable { .. })) {
        tighten(path, mode);
    }
    make_own(path, mode)
}

/// Removes permissions beyond `mode` from the directory, if this user owns it.
fn tighten(path: &Path, mode: u32) {
    let tightened = open_plain(path, OFlag::O_RDONLY).map_err(io::Error::from).and_then(|(dir, stat)| {
        let (before, after) = (stat.st_mode & 0o7777, stat.st_mode & 0o7777 & !(0o777 & !mode));
        let is_wider = stat.st_uid == nix::unistd::geteuid().as_raw() && before != after;
        if is_wider {
            fchmod(&dir, Mode::from_bits_truncate(after))?;
        }
        Ok(is_wider.then_some((before, after)))
    });
    match tightened {
        Ok(None) => {}
        Ok(Some((before, after))) => log_closed(path, before, after),
        Err(error) => log::warn!("cannot close {} to other users: {error}", path.display()),
    }
}

fn log_closed(path: &Path, before: u32, after: u32) {
    let path = path.display();
    log::info!("mode of {path} changed from {before:04o} to {after:04o}: it is not for other users");
}

/// Checks the directory of the socket `path`, connects, and checks the user of the process that listens. Sends
/// nothing.
///
/// # Errors
/// A [`TrustError`], which [`reason`] finds in the error; or the error of connect(2).
pub fn connect(path: &Path, server: Server) -> io::Result<UnixStream> {
    directory(parent(path))?;
    let stream = UnixStream::connect(path)?;
    peer(&stream, path, server)?;
    Ok(stream)
}

/// Like [`connect`], but never waits. The stream is non-blocking.
///
/// # Errors
/// The errors of [`connect`], and `WouldBlock` if too many clients wait to be accepted.
pub fn connect_now(path: &Path, server: Server) -> io::Result<UnixStream> {
    directory(parent(path))?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(socket);
    peer(&stream, path, server)?;
    Ok(stream)
}

/// Checks the user of the process that listens on the socket `path`.
fn peer(stream: &UnixStream, path: &Path, server: Server) -> io::Result<()> {
    // The user of the process that called listen(2). For a socket that systemd has created, that is systemd. unix(7),
    // SO_PEERCRED.
    let uid = getsockopt(stream, PeerCredentials)?.uid();
    let monitord = server == Server::Monitord;
    match is_own(uid) || monitord && is_monitord(uid) {
        true => Ok(()),
        false => Err(TrustError::Peer { path: path.to_owned(), uid, expected: expected(monitord) }.into()),
    }
}

/// Checks an open FIFO that is at `path` and belongs to the user `uid`: that user can read all that is written to it.
///
/// # Errors
/// [`TrustError`] if the owner or a directory above the FIFO is not trusted.
pub fn fifo(path: &Path, uid: u32) -> Result<(), TrustError> {
    directory(parent(path))?;
    // A container into which the FIFO is mounted has another /etc/passwd, without monitord's user. Only root can have
    // put the FIFO into root's directory.
    let is_nameless = || uid < PEOPLE && accounts::user_id(accounts::MONITORD_USER).is_none();
    match is_own(uid) || is_monitord(uid) || is_nameless() {
        true => Ok(()),
        false => {
            Err(TrustError::Owner { what: "FIFO", path: path.to_owned(), uid, expected: expected(true) })
        }
    }
}

/// The directory that contains `path`.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").mode() & 0o7777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("ours");
    }

    #[test]
    fn owner_and_mode_decide() {
        let own = nix::unistd::geteuid().as_raw();
        let stranger = own + 1;
        for (uid, mode, wanted) in [
            (own, 0o40700, "trusted"),
            (0, 0o40755, "trusted"),
            (0, 0o41777, "Writable"),
            (own, 0o40770, "Writable"),
            (own, 0o40702, "Writable"),
            (stranger, 0o40700, "Owner"),
            (stranger, 0o40777, "Owner"),
        ] {
            let judged = judge(Path::new("/d"), uid, mode);
            let said = judged.map_or_else(|error| format!("{error:?}"), |()| "trusted".to_owned());
            assert!(said.starts_with(wanted), "{uid} {mode:o}: {said}");
        }
    }

    #[test]
    fn a_link_and_a_file_are_no_directory_however_the_path_is_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let (real, link, file) = (dir.path().join("real"), dir.path().join("link"), dir.path().join("file"));
        fs::create_dir(&real).expect("made");
        symlink(&real, &link).expect("made");
        fs::write(&file, "").expect("made");
        directory(&real).expect("trusted");
        for path in [&link, &link.join(""), &link.join("."), &file] {
            let error = directory(path).expect_err("refused");
            assert!(matches!(error, TrustError::NotDirectory(_)), "{}: {error}", path.display());
            assert!(matches!(make(path, PRIVATE), Err(TrustError::NotDirectory(_))));
        }
        symlink("nowhere", dir.path().join("dangling")).expect("made");
        assert!(matches!(make(&dir.path().join("dangling"), PRIVATE), Err(TrustError::NotDirectory(_))));
        assert!(matches!(directory(&dir.path().join("none")), Err(TrustError::Look { .. })));
        // A link of this user on the way is trusted wherever it leads: the check continues at its target.
        fs::create_dir(real.join("below")).expect("made");
        directory(&link.join("below")).expect("trusted");
        symlink("./../real/./", real.join("back")).expect("made");
        directory(&real.join("back/below")).expect("trusted");
        fs::create_dir(dir.path().join("open")).expect("made");
        fs::create_dir(dir.path().join("open/own")).expect("made");
        set(&dir.path().join("open"), 0o777);
        symlink(dir.path().join("open"), dir.path().join("leads")).expect("made");
        assert!(matches!(directory(&dir.path().join("leads/own")), Err(TrustError::Above { .. })));
        symlink("round", dir.path().join("round")).expect("made");
        assert!(matches!(make(&dir.path().join("round/x"), PRIVATE), Err(TrustError::Look { .. })));
    }

    #[test]
    fn what_everybody_may_replace_is_refused_unless_the_sticky_bit_forbids_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (open, own) = (dir.path().join("open"), dir.path().join("open/own"));
        fs::create_dir_all(&own).expect("made");
        set(&open, 0o777);
        let error = directory(&own).expect_err("refused");
        assert!(matches!(&error, TrustError::Above { above, .. } if above.ends_with("open")), "{error}");
        assert!(matches!(make(&open.join("new"), PRIVATE), Err(TrustError::Above { .. })));
        assert!(!open.join("new").exists(), "nothing is made in it");
        set(&open, 0o1777);
        directory(&own).expect("trusted");
        make(&open.join("new"), PRIVATE).expect("made");
    }

    #[test]
    fn a_directory_is_made_private_with_those_above_it_and_a_wider_one_is_tightened() {
        let dir = tempfile::tempdir().expect("a directory");
        let (above, path) = (dir.path().join("a"), dir.path().join("a/b"));
        make(&path, PRIVATE).expect("made");
        assert_eq!((mode(&above), mode(&path)), (0o700, 0o700));
        set(&path, 0o2755);
        make(&path, PRIVATE).expect("it may hold other things");
        make_own(&path, PASSABLE).expect("kept");
        assert_eq!(mode(&path), 0o2755);
        make_own(&path, PRIVATE).expect("tightened");
        assert_eq!(mode(&path), 0o2700);
        set(&path, 0o1777);
        make_own(&path, PRIVATE).expect("nothing is in it");
        assert_eq!(mode(&path), 0o700);
        set(&path, 0o770);
        fs::write(path.join("planted"), "").expect("written");
        let error = make_own(&path, PRIVATE).expect_err("somebody may have been there");
        assert_eq!(mode(&path), 0o770);
        assert!(error.to_string().contains("0770") && error.hint().contains("chmod go-w"), "{error}");
        make_root(&path, PRIVATE).expect("what is in it is checked itself");
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn a_socket_of_ours_is_connected_to_and_one_in_an_open_directory_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).expect("bound");
        listener.set_nonblocking(true).expect("set");
        connect(&path, Server::Engine).expect("ours");
        listener.accept().expect("connected");
        set(dir.path(), 0o777);
        let error = connect(&path, Server::Monitord).expect_err("refused");
        assert!(matches!(reason(&error), Some(TrustError::Writable { .. })), "{error}");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(listener.accept().is_err(), "nobody has connected");
        let error = connect(&dir.path().join("none/s"), Server::Engine).expect_err("not there");
        assert_eq!((error.kind(), reason(&error).is_none()), (io::ErrorKind::NotFound, true));
    }
}
