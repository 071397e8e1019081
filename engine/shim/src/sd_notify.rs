//! Sends messages about the container's status to the service manager. sd_notify(3).
//!
//! Never waits, and ignores errors: a service manager that has gone does not need the message.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// Sends `READY=1`. If the shim is not the unit's main process (`is_main`), also asks systemd to treat the shim as the
/// main process: it exits when the container does, with the container's exit code.
pub(crate) fn send_ready(socket: &Path, is_main: bool) {
    match is_main {
        true => send(socket, "READY=1\n"),
        false => send(socket, &format!("MAINPID={}\nREADY=1\n", std::process::id())),
    }
}

/// Sends `text`, which consists of lines `NAME=value`.
pub(crate) fn send(socket: &Path, text: &str) {
    let address = match socket.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(socket),
    };
    if let (Ok(address), Ok(from)) = (address, UnixDatagram::unbound()) {
        let _ = from.set_nonblocking(true);
        let _ = from.send_to_addr(text.as_bytes(), &address);
    }
}
