//! The socket on which the OCI runtime hands over a terminal. runtime-spec, "terminal"; runc, docs/terminals.md.

use super::connection::Connection;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Longest path in the address of a Unix socket, in bytes. unix(7), `sun_path`.
const PATH_MAX: usize = 107;

/// A socket on which the shim waits for one terminal. A drop removes the socket's file.
#[derive(Debug)]
pub(crate) struct Console {
    listener: UnixListener,
    dir: OwnedFd,
    path: PathBuf,
    peer: Option<Connection>,
}

impl Console {
    /// Makes the socket `name` in `dir` and listens on it.
    pub(crate) fn listen(dir: &Path, name: &str) -> io::Result<Self> {
        let (path, handle) = (dir.join(name), OwnedFd::from(std::fs::File::open(dir)?));
        let listener = listen(&handle, &path)?;
        Ok(Console { listener, dir: handle, path, peer: None })
    }

    /// The path to give to the runtime. If the socket's own path is too long for an address, this path leads through
    /// /proc.
    pub(crate) fn address(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default();
        match self.path.as_os_str().len() {
            0..=PATH_MAX => self.path.clone(),
            _ => Path::new(&format!("/proc/{}/fd/{}", std::process::id(), self.dir.as_raw_fd())).join(name),
        }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.peer.as_ref().map_or(self.listener.as_fd(), |peer| peer.interest().0)
    }

    /// The terminal, after the runtime has sent it; `None` before that. Never blocks.
    pub(crate) fn receive(&mut self) -> Option<OwnedFd> {
        if self.peer.is_none()
            && let Ok((stream, _)) = self.listener.accept()
        {
            self.peer = Some(Connection::new(stream, 0));
        }
        let peer = self.peer.as_mut()?;
        peer.receive();
        peer.take(1)?.pop()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens at `path`, which is in the directory `dir`. Only the owner may connect; accept(2) never blocks.
pub(crate) fn listen(dir: &OwnedFd, path: &Path) -> io::Result<UnixListener> {
    // The path through /proc is short: the full path may be too long for an address.
    let short =
        Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(path.file_name().unwrap_or_default());
    let _ = std::fs::remove_file(path);
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(&short);
    nix::sys::stat::umask(before);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
