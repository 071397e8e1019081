//! Tells the service manager that a container has started. sd_notify(3).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// Says `READY=1`, and which process is the main one: this shim, which exits as the container does.
///
/// Never waits, and never fails its caller: a manager that is not there has no use for it.
pub fn ready(socket: &Path) {
    let text = format!("MAINPID={}\nREADY=1\n", std::process::id());
    let address = match socket.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(socket),
    };
    if let (Ok(address), Ok(from)) = (address, UnixDatagram::unbound()) {
        let _ = from.set_nonblocking(true);
        let _ = from.send_to_addr(text.as_bytes(), &address);
    }
}
