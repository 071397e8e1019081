//! A client of Sampan's own wire: registers for a file, waits for its pieces, and reads the raw content.
//!
//! Used by the tests of the supernode. Talks in clear text, or in TLS with the certificates of a directory.

use crate::host::PATIENCE;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use sampan_job::cancel::Cancel;
use sampan_oci::digest::Digest;
use sampan_registry::Access;
use sampan_registry::web::Web;
use serde_json::{Value, json};
use std::io::{self, Read};
use std::net::SocketAddrV4;
use std::path::Path;
use std::time::Instant;

/// An answer.
#[derive(Debug)]
pub struct Told {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Told {
    /// The body as JSON; panics if it is not.
    pub fn json(&self) -> Value {
        let body = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error} in {} '{body}'", self.status))
    }
}

/// A client of one supernode, at 127.0.0.1.
pub struct OwnClient {
    web: Web,
    control: String,
    download: String,
    authorization: Option<String>,
}

/// A task for which the client has registered.
#[derive(Clone, Debug)]
pub struct OwnTask {
    /// The whole answer.
    pub told: Value,
    /// The ID.
    pub id: String,
    /// The ticket.
    pub ticket: String,
}

/// The value of `key`, which is text.
pub fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}")).to_owned()
}

/// The numbers of the pieces in the field `have` of an answer.
pub fn have(state: &Value) -> Vec<usize> {
    let bytes = STANDARD.decode(text(state, "have")).expect("base64");
    (0..bytes.len() * 8).filter(|piece| bytes[piece / 8] & 1 << (piece % 8) != 0).collect()
}

impl OwnClient {
    /// A client of the supernode with these ports.
    pub fn new(control: SocketAddrV4, download: SocketAddrV4) -> Self {
        OwnClient {
            web: Web::new(Access::default()),
            control: format!("http://{control}"),
            download: format!("http://{download}"),
            authorization: None,
        }
    }

    /// Talks TLS, with the certificates in `certs`, which has the layout of containers-certs.d(5).
    pub fn with_tls(mut self, certs: &Path) -> Self {
        self.web = Web::new(Access { certs: [certs.to_owned()].into(), ..Access::default() });
        for url in [&mut self.control, &mut self.download] {
            *url = url.replace("http:", "https:");
        }
        self
    }

    /// Sends a secret.
    pub fn with_secret(mut self, secret: &str) -> Self {
        self.authorization = Some(format!("Bearer {secret}"));
        self
    }

    fn send(&self, method: &Method, url: &str, range: Option<&str>, body: &[u8]) -> io::Result<Told> {
        let mut headers = HeaderMap::new();
        let mut add = |name: &'static str, value: &str| {
            let value = HeaderValue::from_str(value).expect("a header");
            headers.insert(HeaderName::from_static(name), value);
        };
        add("content-type", "application/json");
        range.inspect(|range| add("range", range));
        self.authorization.as_deref().inspect(|secret| add("authorization", secret));
        let cancel = Cancel::default();
        let answer =
            self.web.send_body(method, url, &headers, body, Some(Instant::now() + PATIENCE), &cancel);
        let answer = answer.map_err(|error| io::Error::other(sampan_ipc::report::chain(&error)))?;
        let (status, headers, mut reader, mut body) =
            (answer.status.as_u16(), answer.headers, answer.reader, Vec::new());
        reader.read_to_end(&mut body)?;
        Ok(Told { status, headers, body })
    }

    /// Sends a request to the control port.
    ///
    /// # Errors
    /// There is no answer.
    pub fn control(&self, method: &Method, path: &str, body: &[u8]) -> io::Result<Told> {
        self.send(method, &format!("{}{path}", self.control), None, body)
    }

    /// Sends a GET for `range` to the download port.
    ///
    /// # Errors
    /// There is no answer.
    pub fn download(&self, path: &str, range: Option<&str>) -> io::Result<Told> {
        self.send(&Method::GET, &format!("{}{path}", self.download), range, b"")
    }

    /// Sends the body of a registration.
    pub fn try_register(&self, body: &Value) -> Told {
        self.control(&Method::POST, "/sampan/v1/tasks", body.to_string().as_bytes()).expect("an answer")
    }

    /// Registers, which must succeed.
    pub fn register(&self, body: &Value) -> OwnTask {
        let answer = self.try_register(body);
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        let told = answer.json();
        let (id, ticket) = (text(&told, "task"), text(&told, "ticket"));
        OwnTask { told, id, ticket }
    }

    /// Asks which pieces there are. `query` is more of the query, and begins with `&` unless it is empty.
    pub fn pieces(&self, task: &OwnTask, query: &str) -> Told {
        let path = format!("/sampan/v1/tasks/{}/pieces?ticket={}{query}", task.id, task.ticket);
        self.control(&Method::GET, &path, b"").expect("an answer")
    }

    /// Reads raw bytes.
    pub fn content(&self, task: &OwnTask, range: Option<&str>) -> Told {
        let path = format!("/content/{}?ticket={}", task.id, task.ticket);
        self.download(&path, range).expect("an answer")
    }

    /// Waits until the supernode has the whole file; returns all answers.
    pub fn wait(&self, task: &OwnTask) -> Vec<Value> {
        let (deadline, mut answers, mut version) = (Instant::now() + PATIENCE, Vec::new(), String::new());
        loop {
            let answer = self.pieces(task, &version);
            assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
            answers.push(answer.json());
            let state = answers.last().expect("just pushed");
            if state["complete"] == true {
                return answers;
            }
            version = format!("&version={}", state["version"]);
            assert!(Instant::now() < deadline, "the supernode does not finish: {state}");
        }
    }

    /// Registers for the file at `url`, waits for all of it, and returns its content. The digests must be right.
    pub fn fetch(&self, url: &str) -> Vec<u8> {
        let task = self.register(&json!({ "url": url }));
        let last = self.wait(&task).pop().expect("an answer");
        let answer = self.content(&task, None);
        assert_eq!(answer.status, 200);
        let size = usize::try_from(task.told["pieceSize"].as_u64().expect("a number")).expect("it fits");
        assert_eq!(last["digests"], json!(digests(&answer.body, size)));
        answer.body
    }
}

/// The SHA-256 of each piece of `size` bytes.
pub fn digests(content: &[u8], size: usize) -> Vec<String> {
    let digest = |piece| Digest::of(piece).to_string().replace("sha256:", "");
    if content.is_empty() { vec![digest(b"")] } else { content.chunks(size).map(digest).collect() }
}
