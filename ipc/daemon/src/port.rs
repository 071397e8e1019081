//! The TCP port that a daemon listens on: bound by it, or passed by systemd.
//!
//! Called once for each port, at the start of a daemon. The event loop owns the listener.

use mio::net::TcpListener;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// Most connections that are closed at an exit. A queue has room for 4096 by default. listen(2).
const TURNED_AWAY_MAX: usize = 1 << 16;

/// Why a daemon cannot listen on a port.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct PortError {
    /// The address.
    pub address: SocketAddr,
    /// The error of the system call. `AddrInUse`: another process listens there.
    pub source: io::Error,
}

/// Listens on `port` of the address `ip`; `None` means all addresses of this host, by IPv6 and IPv4. Port 0 lets
/// the kernel choose one.
///
/// # Errors
/// [`PortError`]: the address is in use, or is none of this host's.
pub fn bind(ip: Option<IpAddr>, port: u16) -> Result<TcpListener, PortError> {
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    let first = ip.map_or(any, |ip| SocketAddr::new(ip, port));
    match TcpListener::bind(first) {
        // A kernel without IPv6.
        Err(error) if ip.is_none() && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
            TcpListener::bind(address).map_err(|source| PortError { address, source })
        }
        bound => bound.map_err(|source| PortError { address: first, source }),
    }
}

/// Takes over a listening socket that systemd passed.
///
/// # Errors
/// The socket cannot be made non-blocking.
pub fn adopt(fd: OwnedFd) -> io::Result<TcpListener> {
    let socket = std::net::TcpListener::from(fd);
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket))
}

/// Closes the connections that wait at a listening socket of systemd, for a daemon that exits and would fail again.
///
/// As long as a connection waits, systemd starts the daemon again and again. A client that is turned away learns that
/// nobody serves it.
pub fn turn_away(socket: OwnedFd) {
    let Ok(listener) = adopt(socket) else { return };
    for _ in 0..TURNED_AWAY_MAX {
        if listener.accept().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_port_has_one_listener() {
        let ip = Some(Ipv4Addr::LOCALHOST.into());
        let first = bind(ip, 0).expect("a port");
        let port = first.local_addr().expect("an address").port();
        let error = bind(ip, port).expect_err("in use");
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(error.to_string(), format!("cannot listen on 127.0.0.1:{port}"));
        drop(first);
        bind(ip, port).expect("free again");
    }

    #[test]
    fn without_an_address_a_port_serves_ipv4_and_ipv6() {
        let listener = bind(None, 0).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let ipv4 = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        ipv4.expect("IPv4");
        if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            std::net::TcpStream::connect((Ipv6Addr::LOCALHOST, port)).expect("IPv6");
        }
    }

    #[test]
    fn a_port_of_systemd_keeps_its_address_and_never_blocks() {
        let passed = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = passed.local_addr().expect("an address");
        let adopted = adopt(passed.into()).expect("a socket");
        assert_eq!(adopted.local_addr().expect("an address"), address);
        let nobody = adopted.accept().expect_err("nobody has connected");
        assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn waiting_connections_are_turned_away_and_the_socket_goes_on() {
        let systemds = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = systemds.local_addr().expect("an address");
        let connect = || std::net::TcpStream::connect(address).expect("the queue has room");
        let waiting = [connect(), connect(), connect()];
        turn_away(systemds.try_clone().expect("a descriptor").into());
        for mut client in waiting {
            assert_eq!(client.read(&mut [0]).expect("closed"), 0);
        }
        let _late = connect();
        systemds.accept().expect("it still listens");
    }
}
