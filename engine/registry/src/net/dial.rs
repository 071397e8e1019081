//! Makes connections to registries: resolves the name, connects by TCP or to a Unix socket, and goes through a proxy.
//!
//! [`Dialer`] is the connector of ureq's agents. Every wait ends when the agent is shut down
//! ([`Agent::shutdown`](ureq::Agent::shutdown)) or the time limit is reached. getaddrinfo(3) cannot be interrupted, so
//! it runs on a thread of its own. Each address is tried a short time after the one before it, and the first
//! connection wins (RFC 8305).

use crate::address::AddressFilter;
use crate::error::Unresolved;
use crate::net::proxy::{Proxies, Proxy};
use crate::net::stream::{AbsoluteForm, Socket, Stream, shutdown_handle};
use crate::net::tls::Tls;
use crate::net::tunnel::{self, HandshakeStep, Tunnel};
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

/// Head start of each address over the next one. RFC 8305, section 5.
const HEAD_START: Duration = Duration::from_millis(250);
/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;
/// Longest answer of a proxy to CONNECT, in bytes.
const PROXY_HEAD_MAX: usize = 16 << 10;
/// Stack size, in bytes, of the thread that resolves a name.
const STACK: usize = 256 << 10;

/// Makes the connections of one agent.
pub(crate) struct Dialer {
    /// An authority, and the Unix socket to which plain HTTP requests for this authority go.
    socket: Option<(String, PathBuf)>,
    proxies: Arc<Proxies>,
    addresses: AddressFilter,
    /// The TLS configuration for proxies, which is read when a proxy with TLS is first used.
    proxy_tls: OnceLock<Arc<ClientConfig>>,
}

impl Dialer {
    pub(crate) fn new(
        socket: Option<(String, PathBuf)>,
        proxies: Arc<Proxies>,
        addresses: AddressFilter,
    ) -> Self {
        Dialer { socket, proxies, addresses, proxy_tls: OnceLock::new() }
    }

    /// Does the TLS handshake with `proxy` on the connected `stream`.
    fn handshake(&self, stream: TcpStream, proxy: &Proxy, wait: &Wait) -> Result<Tunnel, Error> {
        let config = match self.proxy_tls.get() {
            Some(config) => Arc::clone(config),
            None => {
                let config = tunnel::tls_config()?;
                Arc::clone(self.proxy_tls.get_or_init(|| config))
            }
        };
        stream.set_nonblocking(true)?;
        let tunnel = Tunnel::new(stream, &proxy.host, config)?;
        loop {
            let flags = match tunnel.handshake_step()? {
                HandshakeStep::Done => break,
                HandshakeStep::NeedsRead => PollFlags::POLLIN,
                HandshakeStep::NeedsWrite => PollFlags::POLLOUT,
            };
            wait.poll(&[(tunnel.wire().as_fd(), flags)], None)?;
        }
        tunnel.wire().set_nonblocking(false)?;
        // The wire may be readable without a complete TLS record, so the read of the proxy's answer to CONNECT needs a
        // time limit here. Later, the stream sets its own limits.
        tunnel.wire().set_read_timeout(wait.left()?)?;
        Ok(tunnel)
    }

    /// Makes an agent that connects through this dialer. HTTPS connections use `tls`, or ureq's own TLS if `tls` is
    /// `None`.
    pub(crate) fn agent(self, config: Config, tls: Option<Tls>) -> ureq::Agent {
        match tls {
            Some(tls) => ureq::Agent::with_parts(config, self.chain(tls), NoResolver),
            None => ureq::Agent::with_parts(config, self.chain(RustlsConnector::default()), NoResolver),
        }
    }
}

/// The end of all waits of one connection attempt: a time limit, and the shutdown of the agent.
struct Wait {
    /// Becomes readable when the agent is shut down: [`ShutdownSignal`] then shuts down the other end of this pair.
    wire: UnixStream,
    _signal: Arc<ShutdownSignal>,
    until: Option<Instant>,
    timeout: NextTimeout,
}

struct ShutdownSignal(UnixStream);

impl ShutdownHandle for ShutdownSignal {
    fn shutdown(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Wait {
    fn new(details: &ConnectionDetails<'_>) -> Result<Self, Error> {
        let (signal, wire) = UnixStream::pair()?;
        let signal = Arc::new(ShutdownSignal(signal));
        (details.register_shutdown)(Arc::downgrade(&signal) as Weak<dyn ShutdownHandle>)?;
        let until = details.timeout.not_zero().map(|after| Instant::now() + *after);
        Ok(Wait { wire, _signal: signal, until, timeout: details.timeout })
    }

    /// The time left; `None` if there is no time limit.
    ///
    /// # Errors
    /// [`Error::Timeout`] if no time is left.
    fn left(&self) -> Result<Option<Duration>, Error> {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Error::Timeout(self.timeout.reason));
        }
        Ok(left)
    }

    /// Waits until one of `fds` is ready, for at most `most`. Returns the descriptors that are ready.
    ///
    /// # Errors
    /// [`Error::Timeout`] at the time limit, [`Error::Io`] when the agent is shut down.
    fn poll(&self, fds: &[(BorrowedFd<'_>, PollFlags)], most: Option<Duration>) -> Result<Vec<bool>, Error> {
        let left = self.left()?;
        let wait = [left, most].into_iter().flatten().min();
        let mut polled = vec![PollFd::new(self.wire.as_fd(), PollFlags::POLLIN)];
        polled.extend(fds.iter().map(|(fd, flags)| PollFd::new(*fd, *flags)));
        // Round up: poll(2) counts in milliseconds, and with a timeout of 0 the loop would spin until the time limit.
        let wait = wait.map(|wait| wait + Duration::from_millis(1));
        let wait = wait.map_or(PollTimeout::NONE, |w| PollTimeout::try_from(w).unwrap_or(PollTimeout::MAX));
        match poll(&mut polled, wait) {
            Err(Errno::EINTR) => return Ok(vec![false; fds.len()]),
            other => other.map_err(io::Error::from)?,
        };
        let mut ready = polled.iter().map(|fd| fd.any().unwrap_or(true));
        match ready.next() {
            Some(true) => Err(shutdown_error()),
            _ => Ok(ready.collect()),
        }
    }
}

fn shutdown_error() -> Error {
    Error::Io(io::Error::new(io::ErrorKind::NotConnected, "the request was cancelled"))
}

impl Connector for Dialer {
    type Out = Stream;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Stream>, Error> {
        let wait = Wait::new(details)?;
        let (uri, is_https) = (details.uri, details.needs_tls());
        let bad_uri = || Error::BadUri(uri.to_string());
        let authority = uri.authority().ok_or_else(bad_uri)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let buffers =
            || LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        if let Some((of, path)) = &self.socket
            && of == authority.as_str()
            && !is_https
        {
            let socket = Arc::new(Socket::Unix(connect_unix(path)?));
            (details.register_shutdown)(shutdown_handle(&socket))?;
            return Ok(Some(Stream::new(socket, buffers(), None)));
        }
        let proxy = self.proxies.find(is_https, host, port).map_err(Error::ConnectProxyFailed)?;
        let stream = match &proxy {
            None => connect_tcp(host, port, &self.addresses, &wait)?,
            Some(proxy) => {
                if self.addresses.is_set() {
                    // A name that only the proxy can resolve has no address here.
                    let mut addresses = addresses_of(host, port, &wait).unwrap_or_default();
                    filter(&self.addresses, host, &mut addresses)?;
                }
                connect_tcp(&proxy.host, proxy.port, &AddressFilter::default(), &wait)
                    .map_err(|error| proxy_error(error, proxy))?
            }
        };
        stream.set_nodelay(true)?;
        let socket = match proxy.as_ref().filter(|proxy| proxy.is_tls) {
            Some(proxy) => {
                let tunnel = self.handshake(stream, proxy, &wait).map_err(|e| proxy_error(e, proxy))?;
                Socket::Tls(Box::new(tunnel))
            }
            None => Socket::Tcp(stream),
        };
        let socket = Arc::new(socket);
        (details.register_shutdown)(shutdown_handle(&socket))?;
        let absolute = match proxy {
            Some(proxy) if is_https => {
                send_connect(&socket, host, port, &proxy, &wait)?;
                None
            }
            Some(proxy) => {
                let origin = format!("http://{authority}");
                Some(AbsoluteForm { origin, authorization: proxy.authorization })
            }
            None => None,
        };
        Ok(Some(Stream::new(socket, buffers(), absolute)))
    }
}

/// Adds to an error that the proxy could not be connected to, and not the registry.
fn proxy_error(error: Error, proxy: &Proxy) -> Error {
    match error {
        Error::Io(error) if error.kind() != io::ErrorKind::NotConnected => Error::Io(io::Error::new(
            error.kind(),
            format!("cannot connect to proxy {}: {error}", proxy.host_and_port()),
        )),
        other => other,
    }
}

fn connect_tcp(host: &str, port: u16, permitted: &AddressFilter, wait: &Wait) -> Result<TcpStream, Error> {
    let mut addresses = addresses_of(host, port, wait)?;
    filter(permitted, host, &mut addresses)?;
    race(&addresses, wait)
}

fn addresses_of(host: &str, port: u16, wait: &Wait) -> Result<Vec<SocketAddr>, Error> {
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(vec![SocketAddr::new(address, port)]),
        Err(_) => resolve(host, port, wait),
    }
}

fn filter(permitted: &AddressFilter, host: &str, addresses: &mut Vec<SocketAddr>) -> Result<(), Error> {
    permitted.retain(host, addresses).map_err(|refused| Error::Other(Box::new(refused)))
}

/// Resolves a name with getaddrinfo(3), on a new thread. If the wait ends first, the thread ends later by itself.
fn resolve(host: &str, port: u16, wait: &Wait) -> Result<Vec<SocketAddr>, Error> {
    let (sender, answer): (_, Receiver<io::Result<Vec<SocketAddr>>>) = mpsc::channel();
    let (done, ready) = UnixStream::pair()?;
    let name = host.to_owned();
    thread::spawn("resolve", STACK, move || {
        let found = (name.as_str(), port).to_socket_addrs();
        let _ = sender.send(found.map(|found| found.take(ADDRESSES_MAX).collect()));
        // Closing this end of the pair wakes the waiting thread, unless its wait has ended.
        drop(done);
    })?;
    loop {
        if wait.poll(&[(ready.as_fd(), PollFlags::POLLIN)], None)?.contains(&true) {
            let found = answer.recv().map_err(|_| Error::HostNotFound)?;
            let found = found.map_err(|error| resolve_error(host, &error))?;
            return if found.is_empty() { Err(Error::HostNotFound) } else { Ok(found) };
        }
    }
}

/// Adds the host to the resolver's message, which does not name it.
fn resolve_error(host: &str, error: &io::Error) -> io::Error {
    let message = error.to_string();
    let message = message.strip_prefix("failed to lookup address information: ").unwrap_or(&message);
    io::Error::new(error.kind(), Unresolved(format!("cannot resolve {host}: {message}")))
}

/// Connects to the address that answers first. Each address is tried [`HEAD_START`] after the one before it, or at
/// once if that one fails.
fn race(addresses: &[SocketAddr], wait: &Wait) -> Result<TcpStream, Error> {
    let mut waiting = addresses.iter();
    let mut pending: Vec<(SocketAddr, OwnedFd)> = Vec::new();
    let mut next = Instant::now();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        if pending.is_empty() || Instant::now() >= next {
            match waiting.next() {
                Some(address) => match start_connect(*address) {
                    Ok(fd) => {
                        pending.push((*address, fd));
                        next = Instant::now() + HEAD_START;
                    }
                    Err(error) => {
                        last = address_error(address, error.into());
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
                    last = address_error(&address, error);
                    next = Instant::now();
                }
            }
        }
    }
}

fn address_error(address: &SocketAddr, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{address}: {error}"))
}

/// Starts to connect a non-blocking socket. The socket becomes writable when it is connected, or has failed.
/// connect(2).
fn start_connect(address: SocketAddr) -> Result<OwnedFd, Errno> {
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

/// Connects to a Unix socket without waiting: fails with EAGAIN if the server's backlog is full. unix(7).
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

/// Asks the proxy to open a connection to `host:port`, with the CONNECT method. RFC 9110, section 9.3.6.
fn send_connect(socket: &Socket, host: &str, port: u16, proxy: &Proxy, wait: &Wait) -> Result<(), Error> {
    let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let agent = concat!("sampan/", env!("CARGO_PKG_VERSION"));
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: {agent}\r\n");
    if let Some(authorization) = &proxy.authorization {
        request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
    }
    request.push_str("\r\n");
    let mut writer = socket;
    writer.write_all(request.as_bytes())?;
    let failed = |why: String| Error::ConnectProxyFailed(format!("proxy {} {why}", proxy.host_and_port()));
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= PROXY_HEAD_MAX {
            return Err(failed(format!("sends an answer with a head of more than {PROXY_HEAD_MAX} bytes")));
        }
        if !socket.has_input() && !wait.poll(&[(socket.as_fd(), PollFlags::POLLIN)], None)?.contains(&true) {
            continue;
        }
        // Read single bytes, because the bytes after the answer's head come from the registry and belong to ureq.
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
            let line: String = line.chars().filter(|c| !c.is_control()).take(100).collect();
            Err(failed(format!("answers {line:?} to CONNECT {target}")))
        }
    }
}

/// Resolves nothing: [`Dialer`] resolves names itself, because with a proxy the registry's name must not be resolved.
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

    /// A wait with a time limit of `most`, and the signal that ends it earlier.
    fn wait(most: Duration) -> (Wait, Arc<ShutdownSignal>) {
        let (signal, wire) = UnixStream::pair().expect("a pair");
        let signal = Arc::new(ShutdownSignal(signal));
        let timeout = NextTimeout { reason: ureq::Timeout::Connect, ..NextTimeout::default() };
        (Wait { wire, _signal: Arc::clone(&signal), until: Some(Instant::now() + most), timeout }, signal)
    }

    #[test]
    fn an_address_that_refuses_does_not_keep_the_next_waiting() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let good = listener.local_addr().expect("an address");
        let bad = TcpListener::bind("127.0.0.2:0").and_then(|l| l.local_addr()).expect("a port");
        let (wait, _signal) = wait(Duration::from_secs(30));
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
    fn a_wait_ends_at_the_shutdown_or_at_its_time_limit() {
        let (quiet, _other) = UnixStream::pair().expect("a pair");
        let fds = [(quiet.as_fd(), PollFlags::POLLIN)];
        let (late, _signal) = wait(Duration::from_millis(1));
        let end = loop {
            match late.poll(&fds, None) {
                Ok(ready) => assert_eq!(ready, [false]),
                Err(end) => break end,
            }
        };
        assert!(matches!(end, Error::Timeout(ureq::Timeout::Connect)), "{end}");
        let (aborted, signal) = wait(Duration::from_secs(30));
        signal.shutdown();
        let began = Instant::now();
        assert!(matches!(aborted.poll(&fds, None), Err(Error::Io(_))));
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn addresses_that_are_not_permitted_are_not_asked_for_by_a_proxy() {
        let proxy = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", proxy.local_addr().expect("an address"));
        let filter = AddressFilter::new(|host, address| host == "10.0.0.2" || !address.ip().is_loopback());
        let agent = |filter: &AddressFilter| {
            let proxies = Proxies::from(|name| (name == "HTTP_PROXY").then(|| url.clone()));
            let config = ureq::Agent::config_builder().proxy(None).http_status_as_error(false);
            Dialer::new(None, Arc::new(proxies), filter.clone()).agent(config.build(), None)
        };
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = proxy.accept().expect("a connection");
            let mut head = [0; 4096];
            let count = stream.read(&mut head).expect("a request");
            stream.write_all(b"HTTP/1.1 204 No\r\n\r\n").expect("answered");
            String::from_utf8_lossy(&head[..count]).into_owned()
        });
        let refuse = AddressFilter::new(|_, _| false);
        for (filter, url) in [(&refuse, "http://10.0.0.1/"), (&refuse, "http://[fd00::1]/")] {
            match agent(filter).get(url).call() {
                Err(Error::Other(error)) => assert!(error.is::<crate::address::AddressRefused>(), "{error}"),
                other => panic!("{url}: {other:?}"),
            }
        }
        agent(&filter).get("http://10.0.0.2/").call().expect("answered");
        assert!(serving.join().expect("no panic").starts_with("GET http://10.0.0.2/ "));
    }
}
