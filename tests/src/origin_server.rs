//! An origin: a web server whose files, and whose faults, the test chooses. It counts what it sends.
//!
//! Listens on 127.0.0.1, with a thread for each connection. Used by the tests and the benchmark of the supernode.

use crate::acceptor::Acceptor;
use crate::random::Random;
use std::collections::{HashMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Bytes that are sent at a time.
const CHUNK: usize = 64 << 10;

/// The bytes of a file.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Bytes(Arc<Vec<u8>>),
    /// This number of zero bytes, which need no memory.
    Zeros(u64),
}

impl Content {
    fn len(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Zeros(len) => *len,
        }
    }
}

/// A file of the origin, and how the origin serves it.
#[derive(Clone, Debug)]
pub struct Resource {
    /// The file's bytes.
    pub content: Content,
    /// Value of `ETag`, with its quotation marks.
    pub etag: Option<String>,
    /// Value of `Last-Modified`.
    pub last_modified: Option<String>,
    /// Whether the origin answers to `Range`.
    pub takes_ranges: bool,
    /// Whether the origin tells the length; otherwise it sends chunks.
    pub tells_length: bool,
    /// Whether the origin answers to HEAD; otherwise it says 405.
    pub takes_head: bool,
    /// The bearer token without which the origin says 401.
    pub token: Option<String>,
    /// Most bytes a second on each connection.
    pub rate: Option<u64>,
}

impl Resource {
    /// A file of these bytes, with ranges, a length and an ETag.
    pub fn of(bytes: Vec<u8>) -> Self {
        Self::with(Content::Bytes(Arc::new(bytes)))
    }

    /// A file of `len` zero bytes, with ranges, a length and an ETag.
    pub fn zeros(len: u64) -> Self {
        Self::with(Content::Zeros(len))
    }

    fn with(content: Content) -> Self {
        Resource {
            content,
            etag: Some("\"1\"".to_owned()),
            last_modified: None,
            takes_ranges: true,
            tells_length: true,
            takes_head: true,
            token: None,
            rate: None,
        }
    }
}

/// What happens to the answer to one GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This status, without a body.
    Status(u16),
    /// A redirect to this URL.
    Redirect(String),
    /// The connection is closed after this number of bytes of the body.
    Cut(u64),
    /// Nothing is sent after this number of bytes of the body, until the origin ends or the client closes.
    Stall(u64),
}

/// What the origin has answered for one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Number of GETs.
    pub gets: u64,
    /// Number of GETs that asked for a range.
    pub ranges: u64,
    /// Number of HEADs.
    pub heads: u64,
    /// Bytes of bodies that were sent.
    pub bytes: u64,
}

#[derive(Default)]
struct State {
    resources: HashMap<String, Resource>,
    faults: HashMap<String, VecDeque<Fault>>,
    served: HashMap<String, Served>,
}

/// A running origin; it ends when it is dropped.
pub struct Origin {
    acceptor: Acceptor,
    state: Arc<Mutex<State>>,
    is_ended: Arc<AtomicBool>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no thread of the origin panics")
}

impl Default for Origin {
    fn default() -> Self {
        Self::start()
    }
}

impl Origin {
    /// Starts an origin without files.
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let is_ended = Arc::new(AtomicBool::new(false));
        let (shared, ended) = (Arc::clone(&state), Arc::clone(&is_ended));
        let acceptor = Acceptor::start(move |client| {
            let (state, ended) = (Arc::clone(&shared), Arc::clone(&ended));
            std::thread::spawn(move || {
                // An error ends only this connection; the client notices it.
                let _ = serve(&client, &state, &ended);
            });
        });
        Origin { acceptor, state, is_ended }
    }

    /// Starts an origin with the file `/file` of `len` bytes, made from a fixed seed; returns its content too.
    pub fn with_file(len: usize) -> (Self, Vec<u8>) {
        let (origin, content) = (Origin::start(), Random::new(17).bytes(len));
        origin.put("/file", Resource::of(content.clone()));
        (origin, content)
    }

    /// The address of the origin.
    pub fn address(&self) -> SocketAddrV4 {
        self.acceptor.address().parse().expect("an address and a port")
    }

    /// The URL of the file at `path`, which begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.acceptor.address())
    }

    /// Puts a file at `path`, without a query; an earlier one is replaced.
    pub fn put(&self, path: &str, resource: Resource) {
        lock(&self.state).resources.insert(path.to_owned(), resource);
    }

    /// Removes the file at `path`.
    pub fn remove(&self, path: &str) {
        lock(&self.state).resources.remove(path);
    }

    /// Sets the faults of the next GETs of `path`, one each.
    pub fn fail(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.state).faults.entry(path.to_owned()).or_default().extend(faults);
    }

    /// What was answered for `path` so far.
    pub fn served(&self, path: &str) -> Served {
        lock(&self.state).served.get(path).copied().unwrap_or_default()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::SeqCst);
        self.acceptor.stop();
    }
}

struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let (method, path) = (method.to_owned(), path.to_owned());
    let mut headers = HashMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Ok(Some(Request { method, path, headers }))
}

fn serve(client: &TcpStream, state: &Mutex<State>, ended: &AtomicBool) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client);
    while let Some(request) = read_request(&mut reader)? {
        let (resource, fault) = {
            let mut state = lock(state);
            let served = state.served.entry(request.path.clone()).or_default();
            match request.method.as_str() {
                "HEAD" => served.heads += 1,
                _ => served.gets += 1,
            }
            if request.headers.contains_key("range") {
                served.ranges += 1;
            }
            let faults = state.faults.get_mut(&request.path);
            let fault = faults.filter(|_| request.method == "GET").and_then(VecDeque::pop_front);
            (state.resources.get(&request.path).cloned(), fault)
        };
        if !answer(client, &request, resource, fault, state, ended)? {
            return Ok(());
        }
    }
    Ok(())
}

fn empty(mut client: &TcpStream, status: u16, more: &str) -> io::Result<bool> {
    write!(client, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\n{more}\r\n")?;
    Ok(true)
}

/// Answers a request; tells whether the connection stays open.
fn answer(
    mut client: &TcpStream,
    request: &Request,
    resource: Option<Resource>,
    fault: Option<Fault>,
    state: &Mutex<State>,
    ended: &AtomicBool,
) -> io::Result<bool> {
    match &fault {
        Some(Fault::Status(status)) => return empty(client, *status, ""),
        Some(Fault::Redirect(url)) => return empty(client, 302, &format!("Location: {url}\r\n")),
        _ => {}
    }
    let Some(resource) = resource else { return empty(client, 404, "") };
    let authorization = request.headers.get("authorization");
    if let Some(token) = &resource.token
        && authorization != Some(&format!("Bearer {token}"))
    {
        return empty(client, 401, "WWW-Authenticate: Bearer realm=\"none\"\r\n");
    }
    let is_head = request.method == "HEAD";
    if is_head && !resource.takes_head {
        return empty(client, 405, "");
    }
    let same = |name: &str, value: &Option<String>| {
        request.headers.get(name).filter(|asked| value.as_ref() == Some(asked)).is_some()
    };
    if same("if-none-match", &resource.etag) {
        return empty(client, 304, "");
    }
    let mut head = String::new();
    for (name, value) in [("ETag", &resource.etag), ("Last-Modified", &resource.last_modified)] {
        if let Some(value) = value {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    if resource.takes_ranges {
        head.push_str("Accept-Ranges: bytes\r\n");
    }
    let length = resource.content.len();
    let is_same = request
        .headers
        .get("if-range")
        .is_none_or(|_| same("if-range", &resource.etag) || same("if-range", &resource.last_modified));
    if request.headers.contains_key("if-match") && !same("if-match", &resource.etag) {
        return empty(client, 412, "");
    }
    let range = request.headers.get("range").filter(|_| resource.takes_ranges && is_same);
    let (from, to) = match range.map(|text| parse_range(text, length)) {
        None => (0, length),
        Some(Some(range)) => range,
        Some(None) => return empty(client, 416, &format!("Content-Range: bytes */{length}\r\n")),
    };
    if range.is_some() {
        head.push_str(&format!("Content-Range: bytes {from}-{}/{length}\r\n", to.saturating_sub(1)));
    }
    let status = if range.is_some() { 206 } else { 200 };
    let framing = if resource.tells_length {
        format!("Content-Length: {}\r\n", to - from)
    } else {
        "Transfer-Encoding: chunked\r\n".to_owned()
    };
    write!(client, "HTTP/1.1 {status} X\r\n{head}{framing}\r\n")?;
    if is_head {
        return Ok(true);
    }
    let (start, mut at, zeros) = (Instant::now(), from, vec![0; CHUNK]);
    while at < to {
        let mut end = to.min(at + CHUNK as u64);
        if let Some(Fault::Cut(after) | Fault::Stall(after)) = fault {
            end = end.min(from + after);
        }
        let bytes = match &resource.content {
            Content::Bytes(bytes) => &bytes[at as usize..end as usize],
            Content::Zeros(_) => &zeros[..(end - at) as usize],
        };
        if !bytes.is_empty() {
            if !resource.tells_length {
                write!(client, "{:x}\r\n", bytes.len())?;
            }
            client.write_all(bytes)?;
            if !resource.tells_length {
                client.write_all(b"\r\n")?;
            }
            lock(state).served.entry(request.path.clone()).or_default().bytes += bytes.len() as u64;
        }
        at = end;
        match fault {
            Some(Fault::Cut(after)) if at - from >= after => return Ok(false),
            Some(Fault::Stall(after)) if at - from >= after => {
                stall(client, ended)?;
                return Ok(false);
            }
            _ => {}
        }
        if let Some(rate) = resource.rate {
            // The slowness is the fault itself; no test waits for it.
            let due = Duration::from_secs_f64((at - from) as f64 / rate.max(1) as f64);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    if !resource.tells_length {
        client.write_all(b"0\r\n\r\n")?;
    }
    Ok(true)
}

/// Waits until the client closes, or the origin ends.
fn stall(mut client: &TcpStream, ended: &AtomicBool) -> io::Result<()> {
    client.set_read_timeout(Some(Duration::from_millis(50)))?;
    while !ended.load(Ordering::SeqCst) {
        match client.read(&mut [0; 16]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// Parses `bytes=A-B` or `bytes=A-`; the end is exclusive.
fn parse_range(text: &str, length: u64) -> Option<(u64, u64)> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    let from: u64 = from.parse().ok()?;
    let to = if to.is_empty() { length } else { to.parse::<u64>().ok()?.saturating_add(1).min(length) };
    (from < to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http_client::HttpClient;

    #[test]
    fn an_origin_serves_files_ranges_and_faults() {
        let origin = Origin::start();
        let content: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        origin.put("/a", Resource::of(content.clone()));
        origin.put("/b", Resource { tells_length: false, ..Resource::of(content.clone()) });
        origin.put("/c", Resource { token: Some("t".to_owned()), ..Resource::of(content.clone()) });
        let mut client = HttpClient::new(origin.address());
        assert_eq!(client.get("/a?x=1").expect("an answer").body, content);
        assert_eq!(client.get("/b").expect("an answer").body, content);
        assert_eq!(client.get("/none").expect("an answer").status, 404);
        assert_eq!(client.get("/c").expect("an answer").status, 401);
        let token = client.request("GET", "/c", &[("Authorization", "Bearer t")], b"");
        assert_eq!(token.expect("an answer").status, 200);
        let part = client.request("GET", "/a", &[("Range", "bytes=100000-")], b"").expect("an answer");
        assert_eq!((part.status, part.body.as_slice()), (206, &content[100_000..]));
        let part = client.request("GET", "/a", &[("Range", "bytes=0-0"), ("If-Range", "\"2\"")], b"");
        assert_eq!(part.expect("an answer").status, 200);
        let head = client.request("HEAD", "/a", &[], b"").expect("an answer");
        assert_eq!(head.header("content-length"), Some("200000"));
        let unchanged = client.request("GET", "/a", &[("If-None-Match", "\"1\"")], b"");
        assert_eq!(unchanged.expect("an answer").status, 304);
        origin.fail("/a", [Fault::Status(500), Fault::Cut(1000)]);
        assert_eq!(client.get("/a").expect("an answer").status, 500);
        let before = origin.served("/a").bytes;
        client.get("/a").expect_err("the connection is cut");
        assert_eq!(origin.served("/a").bytes - before, 1000);
    }
}
