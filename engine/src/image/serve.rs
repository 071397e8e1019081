//! Serves the store as a read-only registry until the job is cancelled. OCI distribution-spec.
//!
//! One thread serves all connections in one poll loop. Each image is in up to three repositories: by its path
//! (`library/alpine`), with its host (`docker.io/library/alpine`), and in Docker's short form (`alpine`). A tag that
//! names different images on two hosts is found only in the repositories with a host. A repository serves only its own
//! manifests and blobs, no other content of the store.

use ::http::{Request, header};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use sampan_daemon::accept::Accept;
use sampan_http::answer::{Answer, Body};
use sampan_http::connection::{Budget, Connection, Reply, Timeouts, WaitsFor};
use sampan_http::range::Range;
use sampan_http::request::Limits;
use sampan_job::cancel::Cancel;
use sampan_oci as oci;
use sampan_oci::digest::Digest;
use sampan_oci::reference::Reference;
use sampan_store::{Store, images};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
const FIRST: usize = 16;

/// Most connections at a time; further connections wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 256;
/// Time after which a connection is closed whose peer neither completes a request nor takes a byte.
const TIMEOUT: Duration = Duration::from_secs(60);
const TIMEOUTS: Timeouts = Timeouts { idle: TIMEOUT, request: TIMEOUT, send: TIMEOUT };
/// Number of slices of a second; the rate limit is granted slice by slice.
const SLICES: u64 = 20;

/// Why the registry cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be parsed or resolved.
    #[error("cannot listen on {0:?}: expected ADDRESS:PORT")]
    Address(String),
    /// The address cannot be bound.
    #[error("cannot listen on {address:?}")]
    Listen {
        /// The requested address.
        address: String,
        /// Error of the bind.
        source: io::Error,
    },
    /// The poll instance fails.
    #[error("cannot wait for connections")]
    Poll(#[source] io::Error),
}

/// Serves `store` on `listen` until the job is cancelled, and returns the address. Calls `on_listening` with the
/// address when it accepts connections.
///
/// # Errors
/// [`ServeError`]: the address cannot be parsed or bound, or polling fails.
pub fn serve(
    store: &Store,
    listen: &str,
    bytes_per_second: u64,
    cancel: &Cancel,
    on_listening: impl Fn(&str),
) -> Result<String, ServeError> {
    let given = || listen.chars().take(300).collect();
    let failed = |source| ServeError::Listen { address: given(), source };
    let address = resolve(listen).ok_or_else(|| ServeError::Address(given()))?;
    let listener = TcpListener::bind(address).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?.to_string();
    let poll = Poll::new().map_err(ServeError::Poll)?;
    let waker = Waker::new(poll.registry(), WAKER).map_err(ServeError::Poll)?;
    cancel.on_cancel(move || drop(waker.wake()));
    let mut server = Server {
        poll,
        listener,
        connections: HashMap::new(),
        next: FIRST,
        accept: Accept::new(),
        rate: Rate::new(bytes_per_second, Instant::now()),
        catalog: Catalog::default(),
    };
    let registry = server.poll.registry();
    registry.register(&mut server.listener, LISTENER, Interest::READABLE).map_err(ServeError::Poll)?;
    on_listening(&address);
    let mut events = Events::with_capacity(256);
    let mut wait = None;
    while !cancel.is_cancelled() {
        wait = server.turn(store, &mut events, wait).map_err(ServeError::Poll)?;
    }
    Ok(address)
}

fn resolve(listen: &str) -> Option<SocketAddr> {
    // `:5000` means every address of this host, as in tools written in Go.
    let full = if listen.starts_with(':') { format!("[::]{listen}") } else { listen.to_owned() };
    full.to_socket_addrs().ok()?.next()
}

struct Server {
    poll: Poll,
    listener: TcpListener,
    connections: HashMap<usize, Connection>,
    next: usize,
    accept: Accept,
    rate: Rate,
    catalog: Catalog,
}

impl Server {
    /// Waits for events, but at most `wait`, and then serves each connection; returns the longest time that the next
    /// call may wait.
    fn turn(
        &mut self,
        store: &Store,
        events: &mut Events,
        wait: Option<Duration>,
    ) -> io::Result<Option<Duration>> {
        match self.poll.poll(events, wait) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(wait),
            other => other?,
        }
        for event in events.iter() {
            match event.token() {
                LISTENER => self.accept.mark_ready(),
                WAKER => {}
                Token(token) => {
                    if let Some(connection) = self.connections.get_mut(&token) {
                        connection.mark(event);
                    }
                }
            }
        }
        self.accept();
        Ok(self.serve(store))
    }

    fn accept(&mut self) {
        while self.accept.is_ready(Instant::now()) && self.connections.len() < CONNECTIONS_MAX {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    self.accept.record_success();
                    let mut connection = Connection::new(stream, Limits::READ_ONLY);
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    if self.poll.registry().register(connection.stream(), Token(self.next), interest).is_ok()
                    {
                        self.connections.insert(self.next, connection);
                        self.next += 1;
                    }
                }
                Err(error) => {
                    if self.accept.record_failure(&error, Instant::now()) {
                        log::warn!("cannot accept a connection: {error}");
                    }
                }
            }
        }
    }

    fn serve(&mut self, store: &Store) -> Option<Duration> {
        let now = Instant::now();
        self.rate.refill(now);
        let mut wait: Option<Duration> = None;
        let mut sooner = |at: Duration| wait = Some(wait.map_or(at, |w| w.min(at)));
        self.accept.next_attempt().iter().for_each(|at| sooner(at.saturating_duration_since(now)));
        let (rate, catalog) = (&mut self.rate, &mut self.catalog);
        let full = self.connections.len() >= CONNECTIONS_MAX;
        // The map's order is random, so no connection is always the first to use the limited rate.
        self.connections.retain(|_, connection| {
            match connection.step(rate, &mut |request| Reply::Now(catalog.answer(store, request))) {
                Err(_) => return false,
                Ok(WaitsFor::Turn) => sooner(Duration::ZERO),
                Ok(WaitsFor::Budget) => sooner(rate.wait()),
                Ok(WaitsFor::Peer | WaitsFor::Answer) => {
                    if let Some(deadline) = connection.deadline(&TIMEOUTS) {
                        if deadline <= now {
                            return false;
                        }
                        sooner(deadline.saturating_duration_since(now));
                    }
                }
            }
            true
        });
        if full && self.accept.is_ready(now) && self.connections.len() < CONNECTIONS_MAX {
            return Some(Duration::ZERO);
        }
        wait
    }
}

/// A token bucket that all connections share; it holds at most two slices.
struct Rate {
    /// Bytes per second; 0 means no limit.
    per_second: u64,
    /// Number of bytes that may be sent now; negative after small bodies, which are sent without waiting for the rate.
    left: i64,
    filled: Instant,
}

impl Rate {
    fn new(per_second: u64, now: Instant) -> Self {
        Rate { per_second, left: 0, filled: now }
    }

    fn slice(&self) -> u64 {
        (self.per_second / SLICES).max(1)
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled).min(Duration::from_secs(1));
        let earned = u128::from(self.per_second) * elapsed.as_nanos() / 1_000_000_000;
        if earned > 0 {
            let most = i64::try_from(self.slice() * 2).unwrap_or(i64::MAX);
            self.left = self.left.saturating_add(i64::try_from(earned).unwrap_or(i64::MAX)).min(most);
            self.filled = now;
        }
    }

    /// Time until the bucket holds a slice.
    fn wait(&self) -> Duration {
        let missing = i64::try_from(self.slice()).unwrap_or(i64::MAX).saturating_sub(self.left).max(1);
        let nanos = u128::from(missing.unsigned_abs()) * 1_000_000_000 / u128::from(self.per_second.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            .clamp(Duration::from_millis(1), Duration::from_secs(5))
    }
}

impl Budget for Rate {
    fn allow(&mut self, wanted: u64) -> u64 {
        match self.per_second {
            0 => wanted,
            _ => wanted.min(u64::try_from(self.left).unwrap_or(0)),
        }
    }

    fn spend(&mut self, bytes: u64) {
        if self.per_second > 0 {
            self.left = self.left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }
}

/// The images to serve, from one version of `index.json`.
#[derive(Default)]
struct Catalog {
    /// Inode, modification time and length of `index.json`. A new version of the file differs in at least one of them,
    /// because `index.json` is always replaced as a whole.
    version: Option<(u64, i64, i64, u64)>,
    repositories: BTreeMap<String, Repository>,
}

/// The names of an image's repositories: its path, its path with its host, and its path without Docker's `library/`.
fn names(reference: &Reference) -> Vec<String> {
    let short = reference.path().strip_prefix("library/").map(str::to_owned);
    [reference.path().to_owned(), reference.name()].into_iter().chain(short).collect()
}

#[derive(Default)]
struct Repository {
    /// The digest of each tag's manifest; `None` if the tag names several images.
    tags: BTreeMap<String, Option<Digest>>,
    manifests: HashMap<Digest, String>,
    blobs: HashSet<Digest>,
}

impl Catalog {
    fn refresh(&mut self, store: &Store) {
        let meta = std::fs::metadata(store.root().join("index.json"));
        let version = meta.ok().map(|m| (m.ino(), m.mtime(), m.mtime_nsec(), m.size()));
        if version == self.version {
            return;
        }
        let images = images::list(store).unwrap_or_else(|error| {
            log::error!("cannot list images: {}", sampan_ipc::report::chain(&error));
            Vec::new()
        });
        self.version = version;
        self.repositories.clear();
        for image in &images {
            for reference in image.references.iter().filter_map(|r| Reference::parse(r).ok()) {
                for name in names(&reference) {
                    self.repositories.entry(name).or_default().add(&reference, image);
                }
            }
        }
    }

    fn answer(&mut self, store: &Store, request: &Request<&[u8]>) -> Answer {
        self.refresh(store);
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or_default();
        let Some(rest) = path.strip_prefix("/v2/") else {
            return not_found("UNSUPPORTED", "no such endpoint");
        };
        if rest.is_empty() {
            return json(200, "{}".to_owned());
        }
        if rest == "_catalog" {
            let names = page(self.repositories.keys(), query);
            return json(200, serde_json::json!({ "repositories": names }).to_string());
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return match self.repositories.get(name) {
                Some(repository) => {
                    let tags =
                        page(repository.tags.iter().filter(|(_, d)| d.is_some()).map(|(tag, _)| tag), query);
                    json(200, serde_json::json!({ "name": name, "tags": tags }).to_string())
                }
                None => not_found("NAME_UNKNOWN", "no such repository"),
            };
        }
        if let Some((name, reference)) = rest.rsplit_once("/manifests/") {
            return self.manifest(store, name, reference);
        }
        if let Some((name, digest)) = rest.rsplit_once("/blobs/") {
            return self.blob(store, name, digest, request);
        }
        not_found("UNSUPPORTED", "no such endpoint")
    }

    fn manifest(&self, store: &Store, name: &str, reference: &str) -> Answer {
        let Some(repository) = self.repositories.get(name) else {
            return not_found("NAME_UNKNOWN", "no such repository");
        };
        let digest = match Digest::parse(reference) {
            Ok(digest) => Some(digest),
            Err(_) => match repository.tags.get(reference) {
                Some(None) => {
                    return not_found(
                        "MANIFEST_UNKNOWN",
                        "several images have this tag: put the host into the repository name",
                    );
                }
                found => found.cloned().flatten(),
            },
        };
        let known = digest.and_then(|d| repository.manifests.get(&d).map(|kind| (kind.clone(), d)));
        let Some((media_type, digest)) = known else {
            return not_found("MANIFEST_UNKNOWN", "no such manifest");
        };
        match store.read_blob(&digest, oci::MANIFEST_MAX) {
            Ok(bytes) => Answer {
                status: 200,
                headers: vec![("content-type", media_type), ("docker-content-digest", digest.to_string())],
                body: bytes.into(),
            },
            Err(error) => broken(&error),
        }
    }

    fn blob(&self, store: &Store, name: &str, digest: &str, request: &Request<&[u8]>) -> Answer {
        let digest = Digest::parse(digest).ok();
        let known = self.repositories.get(name).zip(digest).filter(|(r, d)| r.blobs.contains(d));
        let Some((_, digest)) = known else {
            return not_found("BLOB_UNKNOWN", "no such blob");
        };
        let opened = File::open(store.blob_path(&digest))
            .and_then(|file| Ok((file.metadata()?.len(), Arc::new(file))));
        let (size, file) = match opened {
            Ok(opened) => opened,
            Err(error) => return broken(&error),
        };
        let mut headers = vec![
            ("content-type", "application/octet-stream".to_owned()),
            ("docker-content-digest", digest.to_string()),
            ("accept-ranges", "bytes".to_owned()),
            ("etag", format!("\"{digest}\"")),
        ];
        let range = request.headers().get(header::RANGE).and_then(|v| v.to_str().ok());
        match range.map_or(Range::All, |text| Range::parse(text, size)) {
            Range::All => Answer { status: 200, headers, body: Body::file(file, 0, size) },
            Range::Part(first, last) => {
                headers.push(("content-range", format!("bytes {first}-{last}/{size}")));
                Answer { status: 206, headers, body: Body::file(file, first, last - first + 1) }
            }
            Range::Outside => {
                let headers = vec![("content-range", format!("bytes */{size}"))];
                Answer { status: 416, headers, body: Body::default() }
            }
        }
    }
}

impl Repository {
    fn add(&mut self, reference: &Reference, image: &images::Loaded) {
        let digest = &image.entry.digest;
        if let Some(tag) = reference.tag() {
            let slot = self.tags.entry(tag.to_owned()).or_insert_with(|| Some(digest.clone()));
            if slot.as_ref() != Some(digest) {
                *slot = None;
            }
        }
        self.manifests.insert(digest.clone(), image.entry.media_type.clone());
        self.blobs.insert(digest.clone());
        self.blobs.insert(image.manifest.config.digest.clone());
        self.blobs.extend(image.manifest.layers.iter().map(|l| l.digest.clone()));
    }
}

/// The page of a list that the query parameters `n` and `last` select. OCI distribution-spec, "Listing Tags".
fn page<'a>(names: impl Iterator<Item = &'a String>, query: &str) -> Vec<&'a String> {
    let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    let last = value("last").unwrap_or_default();
    let count = value("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    names.filter(|name| last.is_empty() || name.as_str() > last).take(count).collect()
}

fn json(status: u16, text: String) -> Answer {
    let headers = vec![
        ("content-type", "application/json".to_owned()),
        ("docker-distribution-api-version", "registry/2.0".to_owned()),
    ];
    Answer { status, headers, body: text.into() }
}

fn not_found(code: &str, message: &str) -> Answer {
    json(404, serde_json::json!({"errors": [{"code": code, "message": message}]}).to_string())
}

fn broken(error: &dyn std::error::Error) -> Answer {
    log::error!("cannot read the store, answered with status 500: {}", sampan_ipc::report::chain(error));
    json(500, r#"{"errors":[{"code":"UNKNOWN","message":"the store cannot be read"}]}"#.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_gives_what_it_promises_and_no_more() {
        let start = Instant::now();
        let mut rate = Rate::new(1000, start);
        let mut sent = 0;
        for ms in 0..=2000 {
            rate.refill(start + Duration::from_millis(ms));
            let allowed = rate.allow(u64::MAX);
            rate.spend(allowed);
            sent += allowed;
        }
        assert_eq!(sent, 2000);
        assert_eq!(Rate::new(0, start).allow(7), 7);
    }
}
