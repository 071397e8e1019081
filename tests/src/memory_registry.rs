//! A registry in memory that follows the specification, even where real registries do not, and fails on request.
//!
//! It accepts uploads, keeps the bytes of an interrupted upload, mounts blobs from other repositories, lists tags,
//! repositories and referrers, deletes, and issues tokens. [`Behaviour`] takes single abilities away, as real registries
//! lack them. It records its requests and their authorization for the test. `exchange` has what a test asks for
//! and gets; `state` has the content and the answers.

mod exchange;
mod state;

pub use self::exchange::{Behaviour, Fault, Guard, RecordedRequest};

use self::exchange::Answer;
use self::state::State;
use sampan_oci::digest::Digest;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// The registry, and its realm.
#[derive(Clone)]
pub struct MemoryRegistry {
    /// `127.0.0.1:PORT`.
    pub address: String,
    state: Arc<Mutex<State>>,
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
