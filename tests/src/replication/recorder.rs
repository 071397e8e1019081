//! A proxy that knows HTTP: it stands in front of a registry, records each request, and injects faults by rule.
//!
//! It listens on 127.0.0.1. One thread serves one connection, with a connection of its own to the server, and forwards
//! a request and its answer one after the other. A server that answers before it has read the request is heard. The
//! recorder and its connections end when it is dropped. It never speaks TLS; [`crate::tls::front`] may stand before it.

pub use super::exchange::Request;
use super::exchange::{After, Conversation, Ledger, lock, reset};
use super::fault::Rule;
use super::message::without_host;
use crate::acceptor::Acceptor;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use regex_lite::Regex;
use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

/// A recording proxy.
pub struct Recorder {
    /// `127.0.0.1:PORT`, for clients.
    pub address: String,
    acceptor: Acceptor,
    shared: Arc<Shared>,
}

struct Shared {
    server: String,
    ledger: Ledger,
    connected: Mutex<Vec<Weak<TcpStream>>>,
}

impl Recorder {
    /// Starts a recorder in front of the server at `server`, which is `HOST:PORT` and speaks plain HTTP.
    pub fn before(server: &str) -> Self {
        Recorder::start(server, false)
    }

    /// Starts a recorder as [`Recorder::before`] does, for a proxy that ends TLS.
    pub fn behind_tls(server: &str) -> Self {
        Recorder::start(server, true)
    }

    fn start(server: &str, is_behind_tls: bool) -> Self {
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            ledger: Ledger {
                since: Instant::now(),
                is_behind_tls,
                requests: Mutex::default(),
                rules: Mutex::default(),
                faults: AtomicUsize::new(0),
            },
            connected: Mutex::default(),
        });
        let state = Arc::clone(&shared);
        let acceptor = Acceptor::start(move |client| {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                // An error ends only this connection; the client reports it.
                let _ = state.serve(client);
            });
        });
        Recorder { address: acceptor.address().to_owned(), acceptor, shared }
    }

    /// Adds a rule; earlier rules come first.
    pub fn inject(&self, rule: Rule) {
        lock(&self.shared.ledger.rules).add(rule);
    }

    /// Removes all rules.
    pub fn heal(&self) {
        lock(&self.shared.ledger.rules).clear();
    }

    /// Number of faults that have happened.
    pub fn faults(&self) -> usize {
        self.shared.ledger.faults.load(Ordering::SeqCst)
    }

    /// Number of faults that are still due.
    pub fn due(&self) -> usize {
        lock(&self.shared.ledger.rules).due()
    }

    /// All requests since the beginning, or since [`Recorder::forget`].
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.ledger.requests).clone()
    }

    /// Forgets all requests so far. No request may be under way.
    pub fn forget(&self) {
        lock(&self.shared.ledger.requests).clear();
    }

    /// The requests whose line matches a regular expression.
    pub fn matching(&self, pattern: &str) -> Vec<Request> {
        let pattern = Regex::new(pattern).expect("a regular expression");
        self.requests().into_iter().filter(|request| pattern.is_match(&request.line())).collect()
    }

    /// Number of requests whose line matches a regular expression.
    pub fn count(&self, pattern: &str) -> usize {
        self.matching(pattern).len()
    }

    /// Number of requests by method.
    pub fn by_method(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for request in self.requests() {
            *counts.entry(request.method).or_default() += 1;
        }
        counts
    }

    /// Bytes of all requests' bodies that were forwarded to the server for uploads of blobs.
    pub fn uploaded(&self) -> u64 {
        let requests = lock(&self.shared.ledger.requests);
        let uploads = requests.iter().filter(|request| request.path().contains("/blobs/uploads/"));
        uploads.map(|request| request.body_bytes).sum()
    }

    /// Bytes of all blobs that were forwarded to the client.
    pub fn downloaded(&self) -> u64 {
        let requests = lock(&self.shared.ledger.requests);
        let downloads = requests.iter().filter(|request| request.path().contains("/blobs/sha"));
        downloads.map(|request| request.answer_bytes).sum()
    }

    /// The upload sessions that the server opened and the client heard of, in order.
    pub fn sessions(&self) -> Vec<Session> {
        let mut sessions: Vec<Session> = Vec::new();
        for request in self.requests() {
            let opens = request.method == "POST" && request.status == 202;
            let location = request.answer_headers.get("location").cloned().unwrap_or_default();
            let path = without_host(if opens { &location } else { &request.target });
            let path = path.split('?').next().unwrap_or_default().to_owned();
            if opens {
                sessions.push(Session {
                    path,
                    location,
                    is_over: false,
                    is_forgotten: false,
                    has_bytes: false,
                });
                continue;
            }
            let Some(session) = sessions.iter_mut().find(|session| session.path == path) else { continue };
            session.has_bytes |= request.body_bytes > 0;
            match (request.method.as_str(), request.status) {
                ("PUT", 201) | ("DELETE", 204) => session.is_over = true,
                (_, 404) if !request.is_faulty => session.is_forgotten = true,
                _ if !location.is_empty() => session.location = location,
                _ => {}
            }
        }
        sessions
    }

    /// Resets all open connections.
    pub fn reset_all(&self) {
        for stream in lock(&self.shared.connected).drain(..).filter_map(|weak| weak.upgrade()) {
            reset(&stream);
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// An upload session, as the recorder saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its path, without the query.
    pub path: String,
    /// The last location that the server gave for it.
    pub location: String,
    /// Whether it was committed or deleted.
    pub is_over: bool,
    /// Whether the server has said that it does not know it.
    pub is_forgotten: bool,
    /// Whether bytes were sent to it.
    pub has_bytes: bool,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.acceptor.stop();
        self.reset_all();
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        // A server that is down refuses the client too.
        let server = TcpStream::connect(&self.server).inspect_err(|_| reset(&client))?;
        let (client, server) = (Arc::new(client), Arc::new(server));
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            lock(&self.connected).push(Arc::downgrade(stream));
        }
        let mut conversation = Conversation::new(&self.ledger, &client, &server);
        let after = conversation.converse().unwrap_or(After::Close);
        let _ = server.shutdown(Shutdown::Both);
        match after {
            After::Next | After::Close => {
                // A close(2) with bytes unread would reset the connection, and the client might lose the answer.
                let _ = client.shutdown(Shutdown::Write);
                let _ = io::copy(&mut &*client, &mut io::sink());
            }
            After::Reset => reset(&client),
            After::Stall => {
                // Ends when the client closes or resets its side, or `reset_all` does.
                let mut fds = [PollFd::new(client.as_fd(), PollFlags::from_bits_retain(libc::POLLRDHUP))];
                while poll(&mut fds, PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
            }
        }
        Ok(())
    }
}
