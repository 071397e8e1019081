//! The socket that a daemon listens on: bound under a lock, or passed by systemd.
//!
//! Owned by the event loop. The lock proves that no other instance runs, so a socket that a dead process left is
//! replaced, and the socket of a running process never is. Dropping a [`Listener`] unlinks the socket that it bound. A
//! socket from systemd is never unlinked, nor is the lock file.

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
use std::time::{Duration, Instant};

/// Longest path of a socket in bytes, without the NUL that ends `sun_path`. unix(7).
const SOCKET_PATH_MAX: usize = 107;

/// Pause between two attempts to connect to a socket that another process may be about to close.
const RETRY_DELAY: Duration = Duration::from_millis(5);

/// Why a daemon cannot listen on its socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens on the socket.
    #[error("socket {} is in use by another {program}", path.display())]
    Busy {
        /// The socket's path.
        path: PathBuf,
        /// The name of the program that was to listen.
        program: &'static str,
    },
    /// The path is too long for a socket.
    #[error("cannot listen on {}: the path has {len} bytes, a socket's path at most {SOCKET_PATH_MAX}", path.display())]
    TooLong {
        /// The socket's path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
    },
    /// The lock file or the socket cannot be created.
    #[error("cannot listen on {}", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
}

/// The process at the other end of a connection. SO_PEERCRED, unix(7).
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The user id.
    pub uid: u32,
    /// The process id.
    pub pid: i32,
}

/// The listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    /// The path to unlink on drop; `None` if systemd bound the socket.
    bound: Option<BoundPath>,
}

#[derive(Debug)]
struct BoundPath {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Listener {
    /// Listens at `path` as the only instance of `program`. Only its owner may connect (mode 0600), or also the members
    /// of `group` (0660).
    ///
    /// Waits at most `wait_max` for the lock, and as long for the socket, in case another instance is about to end.
    ///
    /// # Errors
    /// [`ListenError::Busy`]: another instance listens there. Otherwise the path is too long, or the lock file or the
    /// socket cannot be created.
    pub fn bind(
        path: &Path,
        program: &'static str,
        group: Option<Gid>,
        wait_max: Duration,
    ) -> Result<Self, ListenError> {
        let context = |source: io::Error| ListenError::Io { path: path.to_owned(), source };
        let len = path.as_os_str().len();
        // The kernel would bind an abstract socket, to which every local user may connect. unix(7), "Autobind feature".
        if len == 0 {
            return Err(context(io::Error::other("the path of the socket is empty")));
        }
        if len > SOCKET_PATH_MAX {
            return Err(ListenError::TooLong { path: path.to_owned(), len });
        }
        let busy = || ListenError::Busy { path: path.to_owned(), program };
        let lock = match lock(path, wait_max) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(busy()),
            lock => lock.map_err(context)?,
        };
        // Neither systemd nor an instance that got its socket from systemd holds the lock, so also try to connect. A
        // forked child of an instance that was killed shares the socket until its execve(2), which closes one descriptor
        // after the other: the lock may be free a moment before the socket is.
        let deadline = Instant::now() + wait_max;
        while std::os::unix::net::UnixStream::connect(path).is_ok() {
            if Instant::now() >= deadline {
                return Err(busy());
            }
            // The kernel reports no event when another process closes its listening socket.
            std::thread::sleep(RETRY_DELAY);
        }
        if fs::symlink_metadata(path).is_ok_and(|meta| !meta.file_type().is_socket()) {
            return Err(context(io::Error::other("the path exists and is not a socket")));
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(context(error)),
            _ => {}
        }
        // With this umask the socket has mode 0600 from the start: no one else can connect before the group is set.
        let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        nix::sys::stat::umask(before);
        let socket = bound.map_err(context)?;
        if let Some(group) = group {
            // The group before the mode: otherwise the process's own group could connect for a moment.
            match chown(path, None, Some(group)) {
                Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(context)?,
                Err(errno) => log::warn!(
                    "cannot change the group of socket {} to {group}: {errno}; only the socket's owner may connect",
                    path.display()
                ),
            }
        }
        Ok(Listener { socket, bound: Some(BoundPath { path: path.to_owned(), _lock: lock }) })
    }

    /// Takes over a listening socket that systemd passed.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixListener::from(fd);
        socket.set_nonblocking(true)?;
        Ok(Listener { socket: UnixListener::from_std(socket), bound: None })
    }

    /// Whether systemd passed the socket.
    pub fn is_passed(&self) -> bool {
        self.bound.is_none()
    }

    /// The socket, for registration in a poll.
    pub fn source(&mut self) -> &mut UnixListener {
        &mut self.socket
    }

    /// Accepts the next connection.
    ///
    /// # Errors
    /// `WouldBlock` if no connection waits. Otherwise accept(2) failed, for example with `EMFILE` because this process
    /// has no free descriptor; the connection then stays in the backlog.
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
                // The peer closed the connection while it was in the backlog.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(bound) = &self.bound
            && let Err(error) = fs::remove_file(&bound.path)
        {
            log::debug!("cannot remove socket {}: {error}", bound.path.display());
        }
    }
}

/// Takes the lock for the socket's path. Nothing ever removes the lock file: two processes could then both succeed, one
/// with the removed file and the other with a new file of that name.
fn lock(socket: &Path, wait_max: Duration) -> io::Result<Flock<File>> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    Ok(file_lock::take_within(file, wait_max)?)
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
            "a process listens without holding the lock"
        );
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "a file").expect("written");
        assert!(matches!(listen(&path), Err(ListenError::Io { .. })));
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(listen(&long), Err(ListenError::TooLong { .. })));
        assert!(
            matches!(listen(Path::new("")), Err(ListenError::Io { .. })),
            "the kernel would choose an address"
        );
    }

    #[test]
    fn a_socket_that_is_about_to_be_closed_is_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("test.sock");
        let leftover = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        // As a forked child of a killed instance: it closes the socket a moment after the first attempt to connect.
        let child = std::thread::spawn(move || drop(leftover.accept().expect("an attempt")));
        let listening = Listener::bind(&path, "test", None, Duration::from_secs(30));
        child.join().expect("closed");
        assert!(listening.is_ok(), "{listening:?}");
    }
}
