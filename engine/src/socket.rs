//! Where engine.sock comes from: systemd, or this process under a lock.
//!
//! A path is unlinked here alone, and only while the lock proves that no other engine lives.

use mio::net::UnixListener;
use nix::fcntl::Flock;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, umask};
use nix::unistd::{Gid, chown};
use sampan_ipc::accounts;
use sampan_ipc::trust::{self, TrustError};
use sampan_os::{file_lock, syscall};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Longest path of a Unix socket, in bytes, without the zero behind it. unix(7).
const SOCKET_PATH_MAX: usize = 107;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another engine listens there.
    #[error("another engine listens on {}", .0.display())]
    InUse(PathBuf),
    /// The path does not fit a socket address.
    #[error("socket path {} has {} bytes, at most {SOCKET_PATH_MAX} are possible", .0.display(), .0.as_os_str().len())]
    TooLong(PathBuf),
    /// Its directory is not trusted, or cannot be made.
    #[error(transparent)]
    Directory(#[from] TrustError),
    /// The system refuses.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn failed(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::File { doing, path: path.clone(), source }
}

/// The listening socket; unlinked when dropped, if this process made it.
pub struct Listening {
    /// What accepts clients.
    pub listener: UnixListener,
    own: Option<(PathBuf, Flock<File>)>,
}

impl Listening {
    /// True if systemd made the socket and handed it over: it makes the FIFOs then, too.
    pub fn is_passed(&self) -> bool {
        self.own.is_none()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some((path, _lock)) = &self.own {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Takes the socket from systemd (`LISTEN_FDS`), or makes it at `path`: for its owner alone, and for the group
/// `sampan-admin` if root makes it and there is one.
///
/// # Errors
/// [`SocketError::InUse`] if another engine has it.
pub fn listen(path: &Path) -> Result<Listening, SocketError> {
    if let Some(fd) = from_systemd() {
        let listener = std::os::unix::net::UnixListener::from(fd);
        listener.set_nonblocking(true).map_err(failed("use the socket given for", path))?;
        return Ok(Listening { listener: UnixListener::from_std(listener), own: None });
    }
    if path.as_os_str().as_bytes().len() > SOCKET_PATH_MAX {
        return Err(SocketError::TooLong(path.to_owned()));
    }
    make_parent(path)?;
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock_path = PathBuf::from(lock_path);
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
    let lock = lock.map_err(failed("open", &lock_path))?;
    let lock = file_lock::take(lock).map_err(|_| SocketError::InUse(path.to_owned()))?;
    match std::fs::symlink_metadata(path) {
        // Nobody holds the lock, so nobody listens: it is what a killed engine left.
        Ok(meta) if meta.file_type().is_socket() => {
            std::fs::remove_file(path).map_err(failed("replace", path))?
        }
        Ok(_) => {
            return Err(failed("listen on", path)(io::Error::other("something that is no socket is there")));
        }
        Err(_) => {}
    }
    // Nobody else may connect before it has its group.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.map_err(failed("listen on", path))?;
    permit(path, accounts::ADMIN_GROUP, 0o660).map_err(failed("set the mode of", path))?;
    Ok(Listening { listener, own: Some((path.to_owned(), lock)) })
}

/// The first descriptor that systemd hands over. sd_listen_fds(3).
fn from_systemd() -> Option<OwnedFd> {
    let mut given = sd_notify::listen_fds_with_names().ok()?.collect::<Vec<_>>();
    let at = given.iter().position(|(_, name)| name == "engine").unwrap_or(0);
    (!given.is_empty()).then(|| given.swap_remove(at)).and_then(|(fd, _)| syscall::adopt(fd))
}

/// Makes the directory of `path` if it is not there, and checks it.
///
/// # Errors
/// It cannot be made, or is not trusted.
pub(crate) fn make_parent(path: &Path) -> Result<(), TrustError> {
    trust::make(trust::parent(path), run_mode())
}

/// The mode of the run directory: the members of groups pass through root's, nobody through that of another user.
pub(crate) fn run_mode() -> u32 {
    if nix::unistd::geteuid().is_root() { trust::PASSABLE } else { trust::PRIVATE }
}

/// Lets the members of `group` in, if root made the file and the host has that group.
fn permit(path: &Path, group: &str, mode: u32) -> io::Result<()> {
    let is_root = nix::unistd::geteuid().is_root();
    let Some(gid) = is_root.then(|| accounts::group_id(group)).flatten() else { return Ok(()) };
    // The group first: never does another one than that get in.
    if let Err(errno) = chown(path, None, Some(Gid::from_raw(gid))) {
        log::warn!("cannot give {} to group {group}, so it is root's alone: {errno}", path.display());
        return Ok(());
    }
    let mode = Mode::from_bits_truncate(mode);
    Ok(fchmodat(nix::fcntl::AT_FDCWD, path, mode, FchmodatFlags::FollowSymlink)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("run/engine.sock");
        std::fs::create_dir(dir.path().join("run")).expect("made");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let listening = listen(&path).expect("stale, so replaced");
        assert!(matches!(listen(&path), Err(SocketError::InUse(_))));
        drop(listening);
        assert!(!path.exists());
        std::fs::write(&path, "a file").expect("written");
        assert!(matches!(listen(&path), Err(SocketError::File { .. })));
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(listen(&long), Err(SocketError::TooLong(_))));
    }
}
