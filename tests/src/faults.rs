//! A TCP proxy that breaks connections in the ways of a bad network, for tests of clients that must cope.
//!
//! It runs on 127.0.0.1 between a client and a real server, and does not know the protocol. A new connection gets the
//! next fault of a queue ([`Proxy::next`]), or else the fault that is set ([`Proxy::set`]). Faults affect the bytes
//! from the server. The proxy and its connections end when it is dropped.

use crate::acceptor::Acceptor;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

/// Most bytes that are forwarded at a time.
const PIECE: usize = 16 << 10;

/// How often a stalled connection checks whether it must end.
const LOOK: Duration = Duration::from_millis(10);

/// What happens to the server's bytes on one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// All bytes are forwarded.
    #[default]
    None,
    /// The connection is closed before the first byte.
    Refuse,
    /// The connection is closed in order (FIN) after this number of bytes.
    Cut(u64),
    /// The connection is reset (RST) after this number of bytes.
    Reset(u64),
    /// The connection stays open, but nothing is sent after this number of bytes.
    Stall(u64),
    /// This number of bytes is sent per second.
    Slow(u64),
    /// The first byte, and each piece after it, is delayed by this time.
    Latency(Duration),
}

/// A proxy in front of one server.
pub struct Proxy {
    /// `127.0.0.1:PORT`, for clients.
    pub address: String,
    acceptor: Acceptor,
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    fault: Mutex<Fault>,
    queue: Mutex<VecDeque<Fault>>,
    connected: Mutex<Vec<Weak<Connection>>>,
    passed: AtomicU64,
    connections: AtomicUsize,
    faults: AtomicUsize,
}

/// A client's connection and the one to the server.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// True if the connection is to be ended by RST.
    reset: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread of the proxy panics")
}

impl Proxy {
    /// Starts a proxy in front of the server at `server`, which is `127.0.0.1:PORT`.
    pub fn before(server: &str) -> Self {
        let shared = Arc::new(Shared {
            server: server.parse().expect("an address and a port"),
            fault: Mutex::default(),
            queue: Mutex::default(),
            connected: Mutex::default(),
            passed: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            faults: AtomicUsize::new(0),
        });
        let state = Arc::clone(&shared);
        let acceptor = Acceptor::start(move |client| state.on_client(client));
        Proxy { address: acceptor.address().to_owned(), acceptor, shared }
    }

    /// Sets the fault of all new connections.
    pub fn set(&self, fault: Fault) {
        *lock(&self.shared.fault) = fault;
    }

    /// Sets the faults of the next connections, one each; later connections get the fault that is [set](Self::set).
    pub fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.shared.queue).extend(faults);
    }

    /// Number of bytes that were forwarded to clients.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::SeqCst)
    }

    /// Number of connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Number of connections whose fault has happened.
    pub fn faults(&self) -> usize {
        self.shared.faults.load(Ordering::SeqCst)
    }

    /// Resets all open connections.
    pub fn reset_all(&self) {
        for connection in lock(&self.shared.connected).drain(..).filter_map(|weak| weak.upgrade()) {
            connection.reset.store(true, Ordering::SeqCst);
            let _ = connection.server.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.stop();
        self.reset_all();
    }
}

impl Shared {
    fn on_client(self: &Arc<Self>, client: TcpStream) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let fault = lock(&self.queue).pop_front().unwrap_or_else(|| *lock(&self.fault));
        let state = Arc::clone(self);
        std::thread::spawn(move || {
            // An error ends only this connection; the client reports it.
            let _ = state.converse(client, fault);
        });
    }

    fn converse(&self, client: TcpStream, fault: Fault) -> io::Result<()> {
        if fault == Fault::Refuse {
            self.faults.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        let server = TcpStream::connect(self.server)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let connection = Arc::new(Connection { client, server, reset: AtomicBool::new(false) });
        lock(&self.connected).push(Arc::downgrade(&connection));
        let there = Arc::clone(&connection);
        let requests = std::thread::spawn(move || {
            let _ = io::copy(&mut &there.client, &mut &there.server);
            let _ = there.server.shutdown(Shutdown::Write);
        });
        if self.pass(&connection, fault).unwrap_or(false) {
            // Reads until the client closes, or `reset_all` shuts the server's side down.
            let _ = io::copy(&mut &connection.server, &mut io::sink());
            while !requests.is_finished() && !connection.reset.load(Ordering::SeqCst) {
                std::thread::sleep(LOOK);
            }
        }
        // SO_LINGER with a time of 0 makes close(2) send RST instead of FIN. It takes effect at the last descriptor,
        // and only if the connection was not shut down before. The client does not notice that reading stops.
        // socket(7).
        let end = if connection.reset.load(Ordering::SeqCst) {
            setsockopt(&connection.client, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
            Shutdown::Read
        } else {
            Shutdown::Both
        };
        let _ = connection.server.shutdown(Shutdown::Both);
        let _ = connection.client.shutdown(end);
        let _ = requests.join();
        Ok(())
    }

    /// Forwards the server's bytes to the end, or until the fault happens; true if the connection stalls from now on.
    fn pass(&self, connection: &Connection, fault: Fault) -> io::Result<bool> {
        let (mut server, mut client) = (&connection.server, &connection.client);
        let limit = match fault {
            Fault::Cut(after) | Fault::Reset(after) | Fault::Stall(after) => after,
            _ => u64::MAX,
        };
        let (start, mut sent, mut piece) = (Instant::now(), 0_u64, vec![0; PIECE]);
        while sent < limit {
            let room = usize::try_from(limit - sent).unwrap_or(usize::MAX).min(PIECE);
            let len = match server.read(&mut piece[..room]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                len => len?,
            };
            if len == 0 {
                return Ok(false);
            }
            match fault {
                // The delay is the fault itself; no test waits for it.
                Fault::Latency(time) => std::thread::sleep(time),
                Fault::Slow(rate) => {
                    let due = Duration::from_secs_f64((sent + len as u64) as f64 / rate.max(1) as f64);
                    std::thread::sleep(due.saturating_sub(start.elapsed()));
                }
                _ => {}
            }
            client.write_all(&piece[..len])?;
            sent += len as u64;
            self.passed.fetch_add(len as u64, Ordering::SeqCst);
        }
        self.faults.fetch_add(1, Ordering::SeqCst);
        connection.reset.fetch_or(matches!(fault, Fault::Reset(_)), Ordering::SeqCst);
        Ok(matches!(fault, Fault::Stall(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Starts a server that sends `len` bytes to each client, and waits for the client to close.
    fn server(len: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let _ = stream.write_all(&vec![7; len]);
                    let _ = stream.shutdown(Shutdown::Write);
                    let _ = io::copy(&mut stream, &mut io::sink());
                });
            }
        });
        address
    }

    /// Returns how many bytes arrive, and which error ends them.
    fn read_all(proxy: &Proxy) -> (usize, Option<ErrorKind>) {
        let mut stream = TcpStream::connect(&proxy.address).expect("connected");
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes).err().map(|error| error.kind());
        (bytes.len(), end)
    }

    #[test]
    fn each_fault_is_what_its_name_says() {
        let proxy = Proxy::before(&server(100_000));
        proxy.next([Fault::None, Fault::Refuse, Fault::Cut(40_000), Fault::Stall(50_000)]);
        assert_eq!(read_all(&proxy), (100_000, None));
        assert_eq!(read_all(&proxy).0, 0);
        assert_eq!(read_all(&proxy), (40_000, None));
        assert_eq!(read_all(&proxy), (50_000, Some(ErrorKind::WouldBlock)));
        proxy.set(Fault::Reset(30_000));
        let (len, end) = read_all(&proxy);
        // A reset discards bytes that the client has not read.
        assert!(len <= 30_000, "{len}");
        assert_eq!(end, Some(ErrorKind::ConnectionReset));
        assert_eq!(proxy.faults(), 4);
        assert_eq!(proxy.connections(), 5);
        assert_eq!(proxy.passed(), 100_000 + 40_000 + 50_000 + 30_000);
    }

    #[test]
    fn slowness_and_latency_take_their_time() {
        let proxy = Proxy::before(&server(20_000));
        for fault in [Fault::Slow(100_000), Fault::Latency(Duration::from_millis(100))] {
            proxy.set(fault);
            let start = Instant::now();
            assert_eq!(read_all(&proxy), (20_000, None));
            assert!(start.elapsed() >= Duration::from_millis(190), "{fault:?}: {:?}", start.elapsed());
        }
    }

    #[test]
    fn all_connections_can_be_reset_at_once() {
        let proxy = Proxy::before(&server(10));
        proxy.set(Fault::Stall(5));
        let mut streams: Vec<TcpStream> =
            (0..3).map(|_| TcpStream::connect(&proxy.address).expect("connected")).collect();
        for stream in &mut streams {
            stream.read_exact(&mut [0; 5]).expect("five bytes come");
        }
        proxy.reset_all();
        for stream in &mut streams {
            let error = stream.read(&mut [0; 5]).expect_err("reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    }
}
