//! A registry in memory that follows the specification, even where real registries do not, and fails on request.
//!
//! It accepts uploads, keeps the bytes of an interrupted upload, mounts blobs from other repositories, lists tags,
//! repositories and referrers, deletes, and issues tokens. [`Behaviour`] takes single abilities away, as real registries
//! lack them. It records its requests and their authorization for the test. `state` has the content and the answers.

mod state;

use self::state::State;
use sampan_oci::digest::Digest;
use std::collections::{BTreeMap, HashMap};
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
    /// Revokes all tokens before the request is answered, so that the answer is 401.
    Expire,
    /// Forgets all uploads before the request is answered, so that a request of an upload gets 404.
    Lose,
}

/// What the registry does differently from the specification's wishes. By default it does all that the specification
/// asks or allows for.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// Lists of tags and repositories are in no order, and ignore `n` and `last`, as those of docker-registry 2.8.2.
    pub lists_unsorted: bool,
    /// Longest page of a list, if a request does not ask for a shorter one.
    pub page_max: Option<usize>,
    /// Pages have no `Link` header.
    pub omits_links: bool,
    /// Requests for a page that is longer than `page_max` get 400, as those for repositories from docker-registry.
    pub refuses_long_pages: bool,
    /// The status that a request for the list of repositories gets.
    pub catalog_status: Option<u16>,
    /// There is no referrers API: requests get 404, and a manifest with a subject gets no `OCI-Subject`.
    pub has_no_referrers: bool,
    /// Referrers are not filtered by the type of the artifact.
    pub ignores_filters: bool,
    /// Deletions of manifests get this status.
    pub delete_status: Option<u16>,
    /// Deletions of tags get 400, as from docker-registry 2.8.2.
    pub refuses_tag_deletes: bool,
    /// A request to mount a blob starts an upload: 202.
    pub refuses_mounts: bool,
    /// An upload whose request breaks off is forgotten, as by docker-registry 2.8.2.
    pub loses_cut_uploads: bool,
    /// Answers to manifests have no `Docker-Content-Digest`.
    pub states_no_digest: bool,
    /// The smallest part of a blob, announced when an upload begins.
    pub chunk_min: Option<u64>,
    /// Every answer warns with this text.
    pub warning: Option<String>,
    /// The `Content-Type` of all manifests.
    pub content_type: Option<String>,
    /// A token is good only for the scopes that it was requested for.
    pub checks_scopes: bool,
    /// A scope for which the realm issues no token, alone or among others.
    pub refused_scope: Option<String>,
}

/// How the registry authenticates its clients.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// `user:password` in base64, or an identity token, that the realm requires; every client is accepted if empty.
    pub secret: String,
    /// URL of the realm, if it is not the registry itself.
    pub realm: Option<String>,
}

/// The registry, and its realm.
#[derive(Clone)]
pub struct MemoryRegistry {
    /// `127.0.0.1:PORT`.
    pub address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn of(status: u16) -> Self {
        Answer { status, ..Answer::default() }
    }

    /// An error in the form of the specification.
    fn error(status: u16, code: &str) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{code} here"}}]}}"#);
        Answer { body: body.into_bytes(), ..Answer::of(status) }
    }

    fn json(value: &serde_json::Value) -> Self {
        let answer = Answer { body: value.to_string().into_bytes(), ..Answer::of(200) };
        answer.with("Content-Type", "application/json")
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

    /// Number of requests so far, by method.
    pub fn methods(&self) -> BTreeMap<String, usize> {
        let mut methods = BTreeMap::new();
        for request in self.requests() {
            *methods.entry(request.method).or_default() += 1;
        }
        methods
    }

    /// Number of uploads that were begun and have not ended.
    pub fn uploads(&self) -> usize {
        self.state().uploads.len()
    }

    /// Forgets all uploads, as a registry whose disk was cleaned.
    pub fn lose_uploads(&self) {
        self.state().uploads.clear();
    }

    /// Changes what the registry does from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.state().behaviour = behaviour;
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

    /// Stores a blob.
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        self.state().put_blob(repository, bytes);
        Digest::of(bytes)
    }

    /// Stores a manifest under its digest, and as `tag` if that is not empty. Its blobs may be missing.
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let name = if tag.is_empty() { digest.to_string() } else { tag.to_owned() };
        self.state().put_manifest(repository, &name, media_type, bytes);
        digest
    }

    /// Removes a blob of a repository.
    pub fn remove_blob(&self, repository: &str, digest: &Digest) {
        self.state().blobs.remove(&(repository.to_owned(), digest.to_string()));
    }

    /// Names of all manifests of a repository, tags and digests, sorted.
    pub fn names(&self, repository: &str) -> Vec<String> {
        let state = self.state();
        let own = state.manifests.keys().filter(|(of, _)| of == repository);
        let mut names: Vec<String> = own.map(|(_, name)| name.clone()).collect();
        names.sort();
        names
    }

    /// Stores an image.
    pub fn publish(&self, repository: &str, tag: &str, media_type: &str, image: &crate::registry::Image) {
        let mut state = self.state();
        for (_, bytes) in &image.blobs {
            state.put_blob(repository, bytes);
        }
        state.put_manifest(repository, tag, media_type, &image.manifest);
    }

    fn converse(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
        let mut stream = stream;
        while let Some((request, fault, whole)) = self.read(&mut reader) {
            {
                let mut state = self.state();
                state.requests.push(request.clone());
                match fault {
                    Some(Fault::Expire) => state.tokens.clear(),
                    Some(Fault::Lose) => state.uploads.clear(),
                    _ => {}
                }
            }
            let mut answer = match &fault {
                Some(Fault::Status(status, headers)) => {
                    let mut answer = Answer::of(*status);
                    answer.headers.extend(headers.lines().filter_map(|line| {
                        line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()))
                    }));
                    answer
                }
                _ => self.answer(&request, whole),
            };
            answer.headers.push(("Docker-Distribution-Api-Version".to_owned(), "registry/2.0".to_owned()));
            if let Some(text) = &self.state().behaviour.warning {
                answer.headers.push(("Warning".to_owned(), format!("299 - \"{text}\"")));
            }
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

    fn answer(&self, request: &RecordedRequest, whole: bool) -> Answer {
        let mut state = self.state();
        if request.path == "/token" {
            return state.token(request);
        }
        if let Some(refusal) = state.refuse(request, &self.address) {
            return refusal;
        }
        state.answer(request, whole)
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
