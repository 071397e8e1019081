//! A registry in memory that follows the specification, even where real registries do not, and fails on request.
//!
//! It accepts uploads, keeps the bytes of an interrupted upload, mounts blobs from other repositories, and issues
//! tokens. It records its requests and their authorization for the test.

use sampan_oci::digest::Digest;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// A recorded request.
#[derive(Clone, Debug, Default)]
pub struct RecordedRequest {
    /// Method, such as GET or HEAD.
    pub method: String,
    /// Path, without the query.
    pub path: String,
    /// Query, without the question mark.
    pub query: String,
    /// Headers; their names are in lower case.
    pub headers: HashMap<String, String>,
    /// The part of the body that arrived.
    pub body: Vec<u8>,
}

impl RecordedRequest {
    /// The value of a header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// `METHOD path`, with the path below `/v2/`.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path.strip_prefix("/v2/").unwrap_or(&self.path))
    }
}

/// A failure of one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Closes the connection after this number of bytes of the body; these bytes are kept.
    Cut(usize),
    /// After this number of bytes of the body, replies, closes the connection, and revokes all tokens.
    Revoke(usize),
    /// Replies with this status and these headers.
    Status(u16, String),
}

/// How the registry authenticates its clients.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// `user:password` in base64, or an identity token, that the realm requires; every client is accepted if empty.
    pub secret: String,
    /// URL of the realm, if it is not the registry itself.
    pub realm: Option<String>,
}

#[derive(Default)]
struct State {
    blobs: HashMap<(String, String), Vec<u8>>,
    manifests: HashMap<(String, String), (String, Vec<u8>)>,
    uploads: HashMap<String, Vec<u8>>,
    /// Number of uploads that were begun.
    begun: usize,
    requests: Vec<RecordedRequest>,
    faults: VecDeque<(String, Fault)>,
    guard: Option<Guard>,
    tokens: HashSet<String>,
    issued: usize,
    redirect: Option<String>,
    wrong_digest: bool,
}

/// The registry, and its realm.
#[derive(Clone)]
pub struct MemoryRegistry {
    /// `127.0.0.1:PORT`.
    pub address: String,
    state: Arc<Mutex<State>>,
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn of(status: u16) -> Self {
        Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

impl MemoryRegistry {
    /// Starts an empty registry.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let registry = MemoryRegistry { address, state: Arc::default() };
        let serving = registry.clone();
        // This thread ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                std::thread::spawn(move || serving.converse(stream));
            }
        });
        registry
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.state().requests.clone()
    }

    /// Number of requests that begin with `line`, in the form of [`RecordedRequest::line`].
    pub fn count(&self, line: &str) -> usize {
        self.requests().iter().filter(|request| request.line().starts_with(line)).count()
    }

    /// Forgets all requests so far.
    pub fn forget(&self) {
        self.state().requests.clear();
    }

    /// Makes the next request that begins with `line` fail by `fault`. `line` may contain `?` and the query. Several
    /// faults apply in order.
    pub fn fail(&self, line: &str, fault: Fault) {
        self.state().faults.push_back((line.to_owned(), fault));
    }

    /// Requires tokens from now on.
    pub fn guard(&self, guard: Guard) {
        self.state().guard = Some(guard);
    }

    /// Revokes all tokens.
    pub fn revoke(&self) {
        self.state().tokens.clear();
    }

    /// Redirects requests for blobs to `address` from now on.
    pub fn redirect(&self, address: &str) {
        self.state().redirect = Some(address.to_owned());
    }

    /// Reports a wrong digest for every upload from now on.
    pub fn lie_about_digests(&self) {
        self.state().wrong_digest = true;
    }

    /// A blob of a repository.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Vec<u8>> {
        self.state().blobs.get(&(repository.to_owned(), digest.to_string())).cloned()
    }

    /// A manifest and its media type.
    pub fn manifest(&self, repository: &str, name: &str) -> Option<(String, Vec<u8>)> {
        self.state().manifests.get(&(repository.to_owned(), name.to_owned())).cloned()
    }

    /// Stores an image.
    pub fn publish(&self, repository: &str, tag: &str, media_type: &str, image: &crate::registry::Image) {
        let mut state = self.state();
        for (digest, bytes) in &image.blobs {
            state.blobs.insert((repository.to_owned(), digest.to_string()), bytes.clone());
        }
        for name in [tag.to_owned(), image.digest().to_string()] {
            let manifest = (media_type.to_owned(), image.manifest.clone());
            state.manifests.insert((repository.to_owned(), name), manifest);
        }
    }

    fn converse(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
        let mut stream = stream;
        while let Some((request, fault, whole)) = self.read(&mut reader) {
            self.state().requests.push(request.clone());
            let answer = match &fault {
                Some(Fault::Status(status, headers)) => {
                    let mut answer = Answer::of(*status);
                    answer.headers.extend(headers.lines().filter_map(|line| {
                        line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()))
                    }));
                    answer
                }
                _ => self.answer(&request),
            };
            if let Some(Fault::Revoke(at)) = fault {
                let _ = write(&mut stream, &request, &answer, at);
                self.revoke();
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return;
            }
            if !whole || write(&mut stream, &request, &answer, usize::MAX).is_err() {
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    }

    /// Reads a request; returns it, the fault that applies to it, and whether its body arrived completely.
    fn read(&self, reader: &mut BufReader<TcpStream>) -> Option<(RecordedRequest, Option<Fault>, bool)> {
        let mut line = String::new();
        // Closes the connection of a client that does not speak HTTP, such as one that begins with a TLS greeting.
        reader.read_line(&mut line).ok().filter(|len| *len > 0)?;
        let mut words = line.split(' ');
        let method = words.next()?.to_owned();
        let (path, query) = words.next().map(|target| target.split_once('?').unwrap_or((target, "")))?;
        let mut request =
            RecordedRequest { method, path: path.into(), query: query.into(), ..RecordedRequest::default() };
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok().filter(|len| *len > 0)?;
            let Some((name, value)) = header.trim_end().split_once(':') else { break };
            request.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let fault = {
            let mut state = self.state();
            let line = format!("{}?{}", request.line(), request.query);
            let at = state.faults.iter().position(|(begins, _)| line.starts_with(begins));
            at.and_then(|at| state.faults.remove(at)).map(|(_, fault)| fault)
        };
        let length: u64 = request.header("content-length").parse().unwrap_or(0);
        let most = match fault {
            Some(Fault::Cut(at)) => length.min(at as u64),
            _ => length,
        };
        reader.take(most).read_to_end(&mut request.body).ok()?;
        Some((request, fault, most == length))
    }

    fn answer(&self, request: &RecordedRequest) -> Answer {
        let mut state = self.state();
        if request.path == "/token" {
            return state.token(request);
        }
        if let Some(guard) = &state.guard {
            let word = request.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
            if !state.tokens.contains(word) {
                let realm = guard.realm.clone().unwrap_or_else(|| format!("http://{}/token", self.address));
                return Answer::of(401)
                    .with("WWW-Authenticate", "Negotiate abc==, Digest realm=\"a, b\"")
                    .with("WWW-Authenticate", format!("Bearer realm=\"{realm}\", service=\"a, test\""));
            }
        }
        let path = request.path.strip_prefix("/v2/").unwrap_or_default();
        match path.split_once("/blobs/").or(path.split_once("/manifests/")) {
            _ if path.is_empty() => Answer::of(200),
            Some((repository, name)) if path.contains("/manifests/") => {
                state.manifests(request, repository, name)
            }
            Some((repository, name)) => match name.strip_prefix("uploads/") {
                Some("") => state.begin(request, repository),
                Some(id) => state.upload(request, repository, id),
                None => state.blobs(request, repository, name),
            },
            None => Answer::of(404),
        }
    }
}

/// Writes a reply, with at most `most` bytes of its body.
fn write(
    stream: &mut TcpStream,
    request: &RecordedRequest,
    answer: &Answer,
    most: usize,
) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Status\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", answer.body.len()));
    stream.write_all(head.as_bytes())?;
    let body = if request.method == "HEAD" { &[][..] } else { &answer.body };
    stream.write_all(&body[..body.len().min(most)])
}

impl State {
    fn token(&mut self, request: &RecordedRequest) -> Answer {
        let secret = self.guard.as_ref().map_or("", |guard| &guard.secret);
        let form = String::from_utf8_lossy(&request.body);
        let is_known = secret.is_empty()
            || request.header("authorization") == format!("Basic {secret}")
            || form.split('&').any(|word| word == format!("refresh_token={secret}"));
        if !is_known {
            return Answer::of(401);
        }
        self.issued += 1;
        let token = format!("token-{}", self.issued);
        self.tokens.insert(token.clone());
        let body = format!(r#"{{"token":"{token}","expires_in":300}}"#);
        Answer { body: body.into_bytes(), ..Answer::of(200) }
    }

    fn manifests(&mut self, request: &RecordedRequest, repository: &str, name: &str) -> Answer {
        let key = (repository.to_owned(), name.to_owned());
        if request.method != "PUT" {
            return match self.manifests.get(&key) {
                Some((kind, bytes)) => {
                    let answer = Answer { body: bytes.clone(), ..Answer::of(200) };
                    let digest = Digest::of(bytes).to_string();
                    answer.with("Content-Type", kind).with("Docker-Content-Digest", digest)
                }
                None => Answer::of(404),
            };
        }
        let manifest: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
        let layers = manifest["layers"].as_array().expect("layers").clone();
        for blob in layers.iter().chain([&manifest["config"]]) {
            let digest = blob["digest"].as_str().expect("a digest").to_owned();
            if !self.blobs.contains_key(&(repository.to_owned(), digest)) {
                return Answer::of(400);
            }
        }
        let kind = request.header("content-type").to_owned();
        self.manifests.insert(key, (kind, request.body.clone()));
        Answer::of(201).with("Docker-Content-Digest", self.says(&request.body))
    }

    fn says(&self, bytes: &[u8]) -> String {
        let bytes = if self.wrong_digest { b"something else" } else { bytes };
        Digest::of(bytes).to_string()
    }

    fn blobs(&mut self, request: &RecordedRequest, repository: &str, digest: &str) -> Answer {
        let Some(bytes) = self.blobs.get(&(repository.to_owned(), digest.to_owned())) else {
            return Answer::of(404);
        };
        if let Some(address) = self.redirect.as_ref().filter(|_| request.method == "GET") {
            return Answer::of(307).with("Location", format!("http://{address}{}", request.path));
        }
        let from = request.header("range").strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
        match from.and_then(|from| from.parse::<usize>().ok()) {
            Some(from) if from < bytes.len() => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                Answer { body: bytes[from..].to_vec(), ..Answer::of(206) }.with("Content-Range", range)
            }
            _ => Answer { body: bytes.clone(), ..Answer::of(200) },
        }
    }

    fn begin(&mut self, request: &RecordedRequest, repository: &str) -> Answer {
        let words: HashMap<&str, &str> =
            request.query.split('&').filter_map(|word| word.split_once('=')).collect();
        if let (Some(digest), Some(from)) = (words.get("mount"), words.get("from"))
            && let Some(bytes) = self.blobs.get(&((*from).to_owned(), (*digest).to_owned())).cloned()
        {
            self.blobs.insert((repository.to_owned(), (*digest).to_owned()), bytes);
            return Answer::of(201).with("Docker-Content-Digest", *digest);
        }
        // A counter, not the number of recorded requests: two concurrent uploads are both recorded before either gets a
        // reply.
        self.begun += 1;
        let id = format!("upload-{}", self.begun);
        self.uploads.insert(id.clone(), Vec::new());
        Answer::of(202)
            .with("Location", format!("/v2/{repository}/blobs/uploads/{id}?_state=a"))
            .with("Range", "0-0")
    }

    fn upload(&mut self, request: &RecordedRequest, repository: &str, id: &str) -> Answer {
        let Some(mut bytes) = self.uploads.remove(id) else {
            return Answer::of(404);
        };
        let location = format!("/v2/{repository}/blobs/uploads/{id}?_state={}", self.requests.len());
        let going_on = |state: &mut State, status: u16, bytes: Vec<u8>| {
            let range = format!("0-{}", bytes.len().saturating_sub(1));
            state.uploads.insert(id.to_owned(), bytes);
            Answer::of(status).with("Location", location.clone()).with("Range", range)
        };
        match request.method.as_str() {
            "GET" => going_on(self, 204, bytes),
            "PATCH" => {
                let from = request.header("content-range").split_once('-').map_or("", |(from, _)| from);
                if from.parse() != Ok(bytes.len()) {
                    return going_on(self, 416, bytes);
                }
                bytes.extend(&request.body);
                going_on(self, 202, bytes)
            }
            "PUT" => {
                bytes.extend(&request.body);
                let digest = request.query.split('&').find_map(|word| word.strip_prefix("digest="));
                if digest != Some(Digest::of(&bytes).to_string().as_str()) {
                    return Answer::of(400);
                }
                let says = self.says(&bytes);
                self.blobs.insert((repository.to_owned(), Digest::of(&bytes).to_string()), bytes);
                Answer::of(201).with("Docker-Content-Digest", says)
            }
            _ => Answer::of(405),
        }
    }
}
