//! How a connection to a registry comes about: name, address, proxy or socket; every wait ends at a cancel.
//!
//! ureq's connector for [`super::transport`]. Names are resolved on a thread of their own, since getaddrinfo(3)
//! cannot be broken off; addresses are tried one after the other without waiting for the one before to fail
//! (RFC 8305). [`Agent::shutdown`](ureq::Agent::shutdown) wakes whoever waits here.

use crate::error::Unresolved;
use crate::net::proxy::{Proxies, Proxy};
use crate::net::stream::{Absolute, Socket, Stream, handle};
use crate::net::tls::Tls;
use crate::net::tunnel::{self, Tunnel, Waits};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, UnixAddr, connect, socket,
};
use rustls::ClientConfig;
use sampan_os::thread;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};
use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    ConnectionDetails, Connector, LazyBuffers, NextTimeout, RustlsConnector, ShutdownHandle,
};

/// Head start of each address over the next. RFC 8305, section 5.
const HEAD_START: Duration = Duration::from_millis(250);
/// Most addresses of a name that are tried.
const ADDRESSES_MAX: usize = 16;
/// Longest answer of a proxy to CONNECT.
const PROXY_HEAD_MAX: usize = 16 << 10;
/// Stack of the thread that resolves a name.
const STACK: usize = 256 << 10;

/// What connects.
pub(crate) struct Dialer {
    /// Requests for plain HTTP to this authority go to this socket.
    socket: Option<(String, PathBuf)>,
    proxies: Arc<Proxies>,
    /// How a proxy that speaks TLS is known; read when the first one is met.
    trust: OnceLock<Arc<ClientConfig>>,
}

impl Dialer {
    pub(crate) fn new(socket: Option<(String, PathBuf)>, proxies: Arc<Proxies>) -> Self {
        Dialer { socket, proxies, trust: OnceLock::new() }
    }

    /// Speaks TLS to `proxy`, each wait an end of which `wait` knows.
    fn greet(&self, stream: TcpStream, proxy: &Proxy, wait: &Wait) -> Result<Tunnel, Error> {
        let trust = match self.trust.get() {
            Some(trust) => Arc::clone(trust),
            None => {
                let read = tunnel::trust()?;
                Arc::clone(self.trust.get_or_init(|| read))
            }
        };
        stream.set_nonblocking(true)?;
        let tunnel = Tunnel::new(stream, &proxy.host, trust)?;
        loop {
            let flags = match tunnel.greet()? {
                Waits::Done => break,
                Waits::ToRead => PollFlags::POLLIN,
                Waits::ToWrite => PollFlags::POLLOUT,
            };
            wait.poll(&[(tunnel.wire().as_fd(), flags)], None)?;
        }
        tunnel.wire().set_nonblocking(false)?;
        // What comes may be less than an answer; afterwards the stream sets times of its own.
        tunnel.wire().set_read_timeout(wait.left()?)?;
        Ok(tunnel)
    }

    /// An agent whose connections are made here, with TLS above them where that is asked for: `tls`, else ureq's.
    pub(crate) fn agent(self, config: Config, tls: Option<Tls>) -> ureq::Agent {
        match tls {
            Some(tls) => ureq::Agent::with_parts(config, self.chain(tls), NoResolver),
            None => ureq::Agent::with_parts(config, self.chain(RustlsConnector::default()), NoResolver),
        }
    }
}

/// Whether a wait is over: the peer of [`Bell`], which somebody rings.
struct Wait {
    wire: UnixStream,
    _bell: Arc<Bell>,
    until: Option<Instant>,
    timeout: NextTimeout,
}

struct Bell(UnixStream);

impl ShutdownHandle for Bell {
    fn shutdown(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Wait {
    fn new(details: &ConnectionDetails<'_>) -> Result<Self, Error> {
        let (bell, wire) = UnixStream::pair()?;
        let bell = Arc::new(Bell(bell));
        (details.register_shutdown)(Arc::downgrade(&bell) as Weak<dyn ShutdownHandle>)?;
        let until = details.timeout.not_zero().map(|after| Instant::now() + *after);
        Ok(Wait { wire, _bell: bell, until, timeout: details.timeout })
    }

    /// Time left, if there is an end to it.
    fn left(&self) -> Result<Option<Duration>, Error> {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Error::Timeout(self.timeout.reason));
        }
        Ok(left)
    }

    /// Waits until one of `fds` is ready, or for `most`; the ready ones are true.
    fn poll(&self, fds: &[(BorrowedFd<'_>, PollFlags)], most: Option<Duration>) -> Result<Vec<bool>, Error> {
        let left = self.left()?;
        let wait = [left, most].into_iter().flatten().min();
        let mut polled = vec![PollFd::new(self.wire.as_fd(), PollFlags::POLLIN)];
        polled.extend(fds.iter().map(|(fd, flags)| PollFd::new(*fd, *flags)));
        // Rounded up: else it would turn idly through the last millisecond.
        let wait = wait.map(|wait| wait + Duration::from_millis(1));
        let wait = wait.map_or(PollTimeout::NONE, |w| PollTimeout::try_from(w).unwrap_or(PollTimeout::MAX));
        match poll(&mut polled, wait) {
            Err(Errno::EINTR) => return Ok(vec![false; fds.len()]),
            other => other.map_err(io::Error::from)?,
        };
        let mut ready = polled.iter().map(|fd| fd.any().unwrap_or(true));
        match ready.next() {
            Some(true) => Err(interrupted()),
            _ => Ok(ready.collect()),
        }
    }
}

fn interrupted() -> Error {
    Error::Io(io::Error::new(io::ErrorKind::NotConnected, "broken off"))
}

impl Connector for Dialer {
    type Out = Stream;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Stream>, Error> {
        let wait = Wait::new(details)?;
        let (uri, is_https) = (details.uri, details.needs_tls());
        let bad = || Error::BadUri(uri.to_string());
        let authority = uri.authority().ok_or_else(bad)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let buffers =
            || LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        if let Some((of, path)) = &self.socket
            && of == authority.as_str()
            && !is_https
        {
            let socket = Arc::new(Socket::Unix(connect_unix(path)?));
            (details.register_shutdown)(handle(&socket))?;
            return Ok(Some(Stream::new(socket, buffers(), None)));
        }
        let proxy = self.proxies.find(is_https, host, port).map_err(Error::ConnectProxyFailed)?;
        let stream = match &proxy {
            None => reach(host, port, &wait)?,
            Some(proxy) => reach(&proxy.host, proxy.port, &wait).map_err(|error| of_proxy(error, proxy))?,
        };
        stream.set_nodelay(true)?;
        let socket = match proxy.as_ref().filter(|proxy| proxy.is_tls) {
            Some(proxy) => {
                Socket::Tls(Box::new(self.greet(stream, proxy, &wait).map_err(|e| of_proxy(e, proxy))?))
            }
            None => Socket::Tcp(stream),
        };
        let socket = Arc::new(socket);
        (details.register_shutdown)(handle(&socket))?;
        let absolute = match proxy {
            Some(proxy) if is_https => {
                tunnel(&socket, host, port, &proxy, &wait)?;
                None
            }
            Some(proxy) => {
                let origin = format!("http://{authority}");
                Some(Absolute { origin, authorization: proxy.authorization })
            }
            None => None,
        };
        Ok(Some(Stream::new(socket, buffers(), absolute)))
    }
}

/// Says that it was the proxy that could not be reached.
fn of_proxy(error: Error, proxy: &Proxy) -> Error {
    match error {
        Error::Io(error) if error.kind() != io::ErrorKind::NotConnected => Error::Io(io::Error::new(
            error.kind(),
            format!("cannot connect to proxy {}: {error}", proxy.place()),
        )),
        other => other,
    }
}

fn reach(host: &str, port: u16, wait: &Wait) -> Result<TcpStream, Error> {
    let addresses = match host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => resolve(host, port, wait)?,
    };
    race(&addresses, wait)
}

/// Asks the host's resolver, on a thread that is left behind if it takes too long.
fn resolve(host: &str, port: u16, wait: &Wait) -> Result<Vec<SocketAddr>, Error> {
    let (sender, answer): (_, Receiver<io::Result<Vec<SocketAddr>>>) = mpsc::channel();
    let (done, ready) = UnixStream::pair()?;
    let name = host.to_owned();
    thread::spawn("resolve", STACK, move || {
        let found = (name.as_str(), port).to_socket_addrs();
        let _ = sender.send(found.map(|found| found.take(ADDRESSES_MAX).collect()));
        // Hangs up on whoever waits; it may be gone.
        drop(done);
    })?;
    loop {
        if wait.poll(&[(ready.as_fd(), PollFlags::POLLIN)], None)?.contains(&true) {
            let found = answer.recv().map_err(|_| Error::HostNotFound)?;
            let found = found.map_err(|error| named(host, &error))?;
            return if found.is_empty() { Err(Error::HostNotFound) } else { Ok(found) };
        }
    }
}

/// The resolver's words, which do not name the host.
fn named(host: &str, error: &io::Error) -> io::Error {
    let words = error.to_string();
    let words = words.strip_prefix("failed to lookup address information: ").unwrap_or(&words);
    io::Error::new(error.kind(), Unresolved(format!("cannot resolve {host}: {words}")))
}

/// Connects to the first address that answers, each with a head start over the next.
fn race(addresses: &[SocketAddr], wait: &Wait) -> Result<TcpStream, Error> {
    let mut waiting = addresses.iter();
    let mut pending: Vec<(SocketAddr, OwnedFd)> = Vec::new();
    let mut next = Instant::now();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        if pending.is_empty() || Instant::now() >= next {
            match waiting.next() {
                Some(address) => match begin(*address) {
                    Ok(fd) => {
                        pending.push((*address, fd));
                        next = Instant::now() + HEAD_START;
                    }
                    Err(error) => {
                        last = of_address(address, error.into());
                        continue;
                    }
                },
                None if pending.is_empty() => return Err(Error::Io(last)),
                None => {}
            }
        }
        let fds: Vec<_> = pending.iter().map(|(_, fd)| (fd.as_fd(), PollFlags::POLLOUT)).collect();
        let most = (waiting.len() > 0).then(|| next.saturating_duration_since(Instant::now()));
        let ready = wait.poll(&fds, most)?;
        let (over, still): (Vec<_>, Vec<_>) = pending.into_iter().zip(ready).partition(|(_, ready)| *ready);
        pending = still.into_iter().map(|(one, _)| one).collect();
        for ((address, fd), _) in over {
            let stream = TcpStream::from(fd);
            match stream.take_error()? {
                None => {
                    stream.set_nonblocking(false)?;
                    return Ok(stream);
                }
                Some(error) => {
                    last = of_address(&address, error);
                    next = Instant::now();
                }
            }
        }
    }
}

fn of_address(address: &SocketAddr, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{address}: {error}"))
}

/// Begins to connect, without waiting.
fn begin(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    let begun = match address {
        SocketAddr::V4(address) => connect(fd.as_raw_fd(), &SockaddrIn::from(address)),
        SocketAddr::V6(address) => connect(fd.as_raw_fd(), &SockaddrIn6::from(address)),
    };
    match begun {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
        Err(errno) => Err(errno),
    }
}

/// Connects to a socket of this host: at once or not at all. unix(7): a full backlog is EAGAIN.
fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let cannot = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let address = UnixAddr::new(path).map_err(|errno| cannot(errno.into()))?;
    connect(fd.as_raw_fd(), &address).map_err(|errno| cannot(errno.into()))?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Has the proxy connect us through. RFC 9110, section 9.3.6.
fn tunnel(socket: &Socket, host: &str, port: u16, proxy: &Proxy, wait: &Wait) -> Result<(), Error> {
    let place = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let agent = concat!("sampan/", env!("CARGO_PKG_VERSION"));
    let mut ask = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\nUser-Agent: {agent}\r\n");
    if let Some(authorization) = &proxy.authorization {
        ask.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
    }
    ask.push_str("\r\n");
    let mut writer = socket;
    writer.write_all(ask.as_bytes())?;
    let failed = |why: String| Error::ConnectProxyFailed(format!("proxy {} {why}", proxy.place()));
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= PROXY_HEAD_MAX {
            return Err(failed("gives an answer without end".to_owned()));
        }
        if !socket.has_input() && !wait.poll(&[(socket.as_fd(), PollFlags::POLLIN)], None)?.contains(&true) {
            continue;
        }
        // One by one: what comes behind the answer is the registry's.
        let mut byte = [0];
        let mut reader = socket;
        match reader.read(&mut byte) {
            Ok(0) => return Err(failed("hangs up".to_owned())),
            Ok(_) => head.extend_from_slice(&byte),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Error::Timeout(wait.timeout.reason));
            }
            Err(error) => return Err(Error::Io(error)),
        }
    }
    let line = String::from_utf8_lossy(&head);
    let line = line.lines().next().unwrap_or_default();
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).unwrap_or_default();
    match status.len() == 3 && status.starts_with('2') {
        true => Ok(()),
        false => {
            let words: String = line.chars().filter(|c| !c.is_control()).take(100).collect();
            Err(failed(format!("answers {words:?} to CONNECT {place}")))
        }
    }
}

/// Names are resolved in [`Dialer`], which alone knows whether they are to be.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("socket", &self.socket).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A wait of `most`, and what ends it.
    fn wait(most: Duration) -> (Wait, Arc<Bell>) {
        let (bell, wire) = UnixStream::pair().expect("a pair");
        let bell = Arc::new(Bell(bell));
        let timeout = NextTimeout { reason: ureq::Timeout::Connect, ..NextTimeout::default() };
        (Wait { wire, _bell: Arc::clone(&bell), until: Some(Instant::now() + most), timeout }, bell)
    }

    #[test]
    fn an_address_that_refuses_does_not_keep_the_next_waiting() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let good = listener.local_addr().expect("an address");
        let bad = TcpListener::bind("127.0.0.2:0").and_then(|l| l.local_addr()).expect("a port");
        let (wait, _bell) = wait(Duration::from_secs(30));
        let began = Instant::now();
        let stream = race(&[bad, good], &wait).expect("connected");
        assert_eq!(stream.peer_addr().expect("connected"), good);
        assert!(began.elapsed() < HEAD_START, "{:?}", began.elapsed());
        let Err(Error::Io(error)) = race(&[bad], &wait) else { panic!("nobody is there") };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(error.to_string().contains(&bad.to_string()), "{error}");
        assert!(race(&[], &wait).is_err());
    }

    #[test]
    fn a_wait_ends_with_the_bell_or_with_its_time() {
        let (quiet, _other) = UnixStream::pair().expect("a pair");
        let fds = [(quiet.as_fd(), PollFlags::POLLIN)];
        let (late, _bell) = wait(Duration::from_millis(1));
        let end = loop {
            match late.poll(&fds, None) {
                Ok(ready) => assert_eq!(ready, [false]),
                Err(end) => break end,
            }
        };
        assert!(matches!(end, Error::Timeout(ureq::Timeout::Connect)), "{end}");
        let (rung, bell) = wait(Duration::from_secs(30));
        bell.shutdown();
        let began = Instant::now();
        assert!(matches!(rung.poll(&fds, None), Err(Error::Io(_))));
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}
