//! Tells the service manager how the container is. sd_notify(3).
//!
//! Never waits, and never fails its caller: a manager that is not there has no use for it.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// Says `READY=1`. A shim that is no unit's main process says that it is to be: it exits as the container does.
pub fn ready(socket: &Path, is_main: bool) {
    match is_main {
        true => say(socket, "READY=1\n"),
        false => say(socket, &format!("MAINPID={}\nREADY=1\n", std::process::id())),
    }
}

/// Says `text`, lines of `NAME=value`.
pub fn say(socket: &Path, text: &str) {
    let address = match socket.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(socket),
    };
    if let (Ok(address), Ok(from)) = (address, UnixDatagram::unbound()) {
        let _ = from.set_nonblocking(true);
        let _ = from.send_to_addr(text.as_bytes(), &address);
    }
}
