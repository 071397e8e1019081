//! The socket that a daemon listens on: bound under a lock, or passed by systemd.
//!
//! Owned by the event loop. The lock proves that no other instance lives: a socket left by a dead process is replaced, and
//! one of a living process never is. Unlinks the socket that it bound when it is dropped, and no other; the lock file stays.

use mio::net::{UnixListener, UnixStream};
use nix::fcntl::Flock;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Gid, chown};
use sampan_os::file_lock;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest path of a socket: `sun_path` and its end. unix(7).
const SOCKET_PATH_MAX: usize = 107;

/// Why the socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens there.
    #[error("socket {} is in use by another {program}", path.display())]
    Busy {
        /// The path.
        path: PathBuf,
        /// What it is called.
        program: &'static str,
    },
    /// The path does not fit.
    #[error("cannot listen on {}: the path has {len} bytes, a socket's path at most {SOCKET_PATH_MAX}", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        len: usize,
    },
    /// The file system refuses.
    #[error("cannot listen on {}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The process at the other end. SO_PEERCRED, unix(7).
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its process id.
    pub pid: i32,
}

/// The listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    /// What to take away in the end; nothing if systemd made the socket.
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Listener {
    /// Listens at `path` as the one `program`, for its owner alone (0600), or for the members of `group` as well (0660).
    ///
    /// Waits at most `patience` for the lock of another instance that is just ending.
    ///
    /// # Errors
    /// [`ListenError::Busy`] if another instance listens there; else what the file system refuses.
    pub fn bind(
        path: &Path,
        program: &'static str,
        group: Option<Gid>,
        patience: Duration,
    ) -> Result<Self, ListenError> {
        let context = |source: io::Error| ListenError::Io { path: path.to_owned(), source };
        let len = path.as_os_str().len();
        if len > SOCKET_PATH_MAX {
            return Err(ListenError::TooLong { path: path.to_owned(), len });
        }
        let busy = || ListenError::Busy { path: path.to_owned(), program };
        let lock = match lock(path, patience) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(busy()),
            lock => lock.map_err(context)?,
        };
        // An instance whose socket systemd made holds no lock here; neither does systemd while it waits for a client.
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(busy());
        }
        if fs::symlink_metadata(path).is_ok_and(|meta| !meta.file_type().is_socket()) {
            return Err(context(io::Error::other("something that is no socket is there")));
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(context(error)),
            _ => {}
        }
        // Nobody may connect before the mode is right.
        let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        nix::sys::stat::umask(before);
        let socket = bound.map_err(context)?;
        if let Some(group) = group {
            // The group first: never does another one than that may write.
            match chown(path, None, Some(group)) {
                Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(context)?,
                Err(errno) => log::warn!(
                    "cannot give {} to group {group}, so only its owner may connect: {errno}",
                    path.display()
                ),
            }
        }
        Ok(Listener { socket, own: Some(Own { path: path.to_owned(), _lock: lock }) })
    }

    /// Takes a listening socket that systemd passed.
    ///
    /// # Errors
    /// It cannot be made non-blocking.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixListener::from(fd);
        socket.set_nonblocking(true)?;
        Ok(Listener { socket: UnixListener::from_std(socket), own: None })
    }

    /// True if systemd made the socket.
    pub fn is_passed(&self) -> bool {
        self.own.is_none()
    }

    /// The socket, to be polled.
    pub fn source(&mut self) -> &mut UnixListener {
        &mut self.socket
    }

    /// The next connection.
    ///
    /// # Errors
    /// `WouldBlock` when there is none at present; or accept(2) failed, as for want of descriptors.
    pub fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        loop {
            match self.socket.accept() {
                Ok((stream, _)) => {
                    let peer = match getsockopt(&stream, PeerCredentials) {
                        Ok(peer) => Peer { uid: peer.uid(), pid: peer.pid() },
                        Err(errno) => return Err(errno.into()),
                    };
                    return Ok((stream, peer));
                }
                // The peer went away before it was its turn.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(own) = &self.own
            && let Err(error) = fs::remove_file(&own.path)
        {
            log::debug!("cannot remove {}: {error}", own.path.display());
        }
    }
}

/// Locks the name of the socket for this process. The lock file stays: to remove it would let two have it.
fn lock(socket: &Path, patience: Duration) -> io::Result<Flock<File>> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    Ok(file_lock::take_within(file, patience)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(path: &Path) -> Result<Listener, ListenError> {
        Listener::bind(path, "test", None, Duration::ZERO)
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("test.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let listening = listen(&path).expect("stale, so replaced");
        assert!(matches!(listen(&path), Err(ListenError::Busy { .. })));
        drop(listening);
        assert!(!path.exists());
        let _of_systemd = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        assert!(
            matches!(listen(&path), Err(ListenError::Busy { .. })),
            "nobody holds the lock, and somebody listens"
        );
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "a file").expect("written");
        assert!(matches!(listen(&path), Err(ListenError::Io { .. })));
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(listen(&long), Err(ListenError::TooLong { .. })));
    }
}
