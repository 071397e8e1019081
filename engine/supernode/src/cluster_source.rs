//! Where a fetch of a supernode in a cluster gets bytes from: the supernode that owns the task, or the origin.
//!
//! Called by the threads of fetches; the calls block. The owner is asked by Sampan's own wire, and its pieces are
//! taken as it gets them. If the owner does not answer, this supernode asks it for no task for a while; if it
//! refuses the task, for this task alone. Then the next supernode in the order of the cluster counts as the owner.
//! If that is this supernode, or if another supernode asks this one as the owner, the origin is asked.
//! docs/peers.md, "Several supernodes".

use crate::cdn::{Fetch, Source};
use crate::cluster::Cluster;
use crate::hex;
use crate::origin::{Body, OriginError, Origins, Validators};
use crate::own_wire::TaskBody;
use crate::piece_set::PieceSet;
use crate::task_id::TaskId;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Method, header};
use sampan_job::cancel::Cancel;
use sampan_os::mutex::lock;
use sampan_registry::Access;
use sampan_registry::web::{Reader, Web};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a supernode that failed is not asked.
const DOWN_TIME: Duration = Duration::from_secs(30);
/// How long a supernode that refused a task is not asked for it.
const REFUSAL_TIME: Duration = Duration::from_secs(60);
/// Longest wait for the head of an answer. The owner holds a question for pieces for 4 s.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Longest wait for the next bytes of a piece.
const READ_TIME: Duration = Duration::from_secs(10);
/// How long the owner may have no new piece.
const STALL_TIME: Duration = Duration::from_secs(60);
/// How often a registration is repeated that the owner cannot answer yet: it waits 4 s each time for the origin.
const REGISTRATIONS_MAX: u32 = 4;
/// Longest answer of the control port, in bytes.
const ANSWER_MAX: u64 = 4 << 20;

/// The tasks of which another supernode believes that this one is the owner. They are fetched from their origins,
/// even if this supernode believes that another one is the owner: otherwise two supernodes with different lists
/// would wait for each other.
#[derive(Clone, Debug, Default)]
pub struct OwnedTasks(Arc<Mutex<HashSet<TaskId>>>);

impl OwnedTasks {
    /// Adds a task.
    pub fn insert(&self, task: TaskId) {
        lock(&self.0).insert(task);
    }

    /// Removes a task that is forgotten.
    pub fn remove(&self, task: &TaskId) {
        lock(&self.0).remove(task);
    }

    fn contains(&self, task: &TaskId) -> bool {
        lock(&self.0).contains(task)
    }
}

/// The settings of a cluster.
pub struct ClusterSettings {
    /// The supernodes.
    pub cluster: Cluster,
    /// Certificates for connections to them.
    pub access: Access,
    /// Whether they speak TLS.
    pub is_tls: bool,
    /// The value of the `Authorization` header for them.
    pub authorization: Option<HeaderValue>,
}

/// The source of a supernode in a cluster.
pub struct ClusterSource {
    origins: Arc<Origins>,
    cluster: Cluster,
    web: Web,
    scheme: &'static str,
    authorization: Option<HeaderValue>,
    owned: OwnedTasks,
    /// Until when a supernode is not asked, for one task or for all.
    down: Mutex<HashMap<(String, Option<TaskId>), Instant>>,
}

/// Why the owner does not help.
#[derive(Debug, thiserror::Error)]
enum OwnerError {
    #[error("cannot ask it")]
    Web(#[from] sampan_registry::web::WebError),
    #[error("cannot read its answer")]
    Read(#[from] io::Error),
    #[error("it answers with status {0}")]
    Status(u16),
    #[error("cannot parse its answer")]
    Parse(#[from] serde_json::Error),
    #[error("it has another version of the file")]
    Version,
    #[error("it waits for this supernode")]
    Circle,
    #[error("it has no new piece for {} s", STALL_TIME.as_secs())]
    Stall,
}

impl OwnerError {
    /// Whether the supernode answers, and the trouble is with one task.
    fn is_of_task(&self) -> bool {
        match self {
            OwnerError::Web(_) | OwnerError::Read(_) => false,
            // The secret is wrong, or the program is another one: that is so for all tasks.
            OwnerError::Status(status) => *status != 401,
            OwnerError::Parse(_) | OwnerError::Version | OwnerError::Circle | OwnerError::Stall => true,
        }
    }
}

/// The length and the validators of a file, which distinguish its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    length: Option<u64>,
    validators: Validators,
}

impl Version {
    /// Whether `other` is of the same file, as far as both tell. A length may become known.
    fn is_same(&self, other: &Version) -> bool {
        let lengths = self.length.zip(other.length);
        lengths.is_none_or(|(a, b)| a == b) && self.validators == other.validators
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TaskAnswer {
    task: String,
    length: Option<u64>,
    piece_size: u64,
    download_port: u16,
    etag: Option<String>,
    last_modified: Option<String>,
    ticket: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PiecesAnswer {
    version: u64,
    length: Option<u64>,
    complete: bool,
    etag: Option<String>,
    last_modified: Option<String>,
    have: String,
}

impl ClusterSource {
    /// Connects to nothing yet.
    pub fn new(settings: ClusterSettings, origins: Arc<Origins>, owned: OwnedTasks) -> Self {
        ClusterSource {
            origins,
            cluster: settings.cluster,
            web: Web::new(Access { stall: Some(READ_TIME), ..settings.access }),
            scheme: if settings.is_tls { "https" } else { "http" },
            authorization: settings.authorization,
            owned,
            down: Mutex::default(),
        }
    }

    /// The supernode to ask for `task`; `None` if the origin is to be asked.
    fn owner(&self, task: &TaskId) -> Option<String> {
        if self.owned.contains(task) {
            return None;
        }
        let mut down = lock(&self.down);
        down.retain(|_, until| *until > Instant::now());
        let is_up = |member: &str| {
            let is_down = |task| down.contains_key(&(member.to_owned(), task));
            !is_down(None) && !is_down(Some(*task))
        };
        self.cluster.owner(task, &is_up).map(str::to_owned)
    }

    /// Records that `member` did not help with `task`.
    fn mark_down(&self, member: &str, task: &TaskId, error: &OwnerError) {
        let (of, time) = match error.is_of_task() {
            true => (Some(*task), REFUSAL_TIME),
            false => (None, DOWN_TIME),
        };
        lock(&self.down).insert((member.to_owned(), of), Instant::now() + time);
    }

    fn headers(&self) -> HeaderMap {
        let authorization = self.authorization.clone().map(|value| (header::AUTHORIZATION, value));
        let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        [kind].into_iter().chain(authorization).collect()
    }

    /// Sends a request and reads the answer, which must have status 200.
    fn ask<T: for<'a> Deserialize<'a>>(
        &self,
        method: &Method,
        url: &str,
        body: &[u8],
        cancel: &Cancel,
    ) -> Result<T, OwnerError> {
        let until = Some(Instant::now() + ANSWER_TIME);
        let answer = self.web.send_body(method, url, &self.headers(), body, until, cancel)?;
        if answer.status.as_u16() != 200 {
            return Err(OwnerError::Status(answer.status.as_u16()));
        }
        let mut bytes = Vec::new();
        answer.reader.take(ANSWER_MAX).read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Registers for a task, again if the owner does not know the origin's answer yet.
    fn register(&self, url: &str, body: &TaskBody, cancel: &Cancel) -> Result<TaskAnswer, OwnerError> {
        let body = serde_json::to_vec(body)?;
        for _ in 1..REGISTRATIONS_MAX {
            match self.ask(&Method::POST, url, &body, cancel) {
                Err(OwnerError::Status(503)) => {}
                other => return other,
            }
        }
        self.ask(&Method::POST, url, &body, cancel)
    }

    fn fetch_from<'a>(
        &'a self,
        owner: &str,
        fetch: &Fetch<'_>,
        cancel: &'a Cancel,
    ) -> Result<Body<'a>, OwnerError> {
        let base = format!("{}://{owner}", self.scheme);
        let headers = fetch.request.headers.iter().map(|(name, value)| format!("{name}:{value}"));
        let body = TaskBody {
            url: fetch.request.url.clone(),
            task_url: fetch.file.task_url.clone(),
            md5: fetch.file.md5.map(|md5| hex::encode(&md5)).unwrap_or_default(),
            identifier: fetch.file.identifier.clone().unwrap_or_default(),
            headers: headers.collect(),
            as_owner: true,
            ..TaskBody::default()
        };
        let registered = self.register(&format!("{base}/sampan/v1/tasks"), &body, cancel)?;
        let validators = Validators { etag: registered.etag, last_modified: registered.last_modified };
        let is_other = registered.task != fetch.task.to_string() || registered.piece_size == 0;
        if is_other || fetch.validators.is_same(&validators) == Some(false) {
            return Err(OwnerError::Version);
        }
        let (host, _) = owner.rsplit_once(':').unwrap_or((owner, ""));
        let reader = OwnerReader {
            source: self,
            owner: owner.to_owned(),
            task: *fetch.task,
            file: Version { length: registered.length, validators: validators.clone() },
            pieces: format!(
                "{base}/sampan/v1/tasks/{}/pieces?from={}&ticket={}",
                fetch.task,
                u32::MAX,
                registered.ticket
            ),
            content: format!(
                "{}://{host}:{}/content/{}?ticket={}",
                self.scheme, registered.download_port, fetch.task, registered.ticket
            ),
            piece_size: registered.piece_size,
            at: fetch.from,
            end: fetch.to.or(registered.length),
            ready_to: fetch.from,
            version: u64::MAX,
            is_unregistered: false,
            part: None,
            cancel,
        };
        Ok(Body::of_supernode(reader, fetch.from, registered.length, validators))
    }
}

impl Source for ClusterSource {
    fn fetch<'a>(&'a self, fetch: &Fetch<'_>, cancel: &'a Cancel) -> Result<Body<'a>, OriginError> {
        while let Some(owner) = self.owner(fetch.task) {
            match self.fetch_from(&owner, fetch, cancel) {
                Ok(body) => return Ok(body),
                Err(_) if cancel.is_cancelled() => return Err(OriginError::Cancelled),
                Err(error) => {
                    let why = sampan_ipc::report::chain(&error);
                    log::warn!("task {}: supernode {owner} does not help: {why}", fetch.task);
                    self.mark_down(&owner, fetch.task, &error);
                }
            }
        }
        Source::fetch(self.origins.as_ref(), fetch, cancel)
    }

    fn is_near(&self, task: &TaskId) -> bool {
        self.owner(task).is_some()
    }
}

/// The bytes of a task as its owner gets them.
struct OwnerReader<'a> {
    source: &'a ClusterSource,
    owner: String,
    task: TaskId,
    /// The version of the file that is read.
    file: Version,
    /// The URL of the list of pieces that the owner has.
    pieces: String,
    /// The URL of the content.
    content: String,
    piece_size: u64,
    /// Offset of the next byte.
    at: u64,
    /// Offset after the last byte, once it is known.
    end: Option<u64>,
    /// Up to where the owner has all bytes from `at` on.
    ready_to: u64,
    /// The version in the last answer of the owner.
    version: u64,
    /// Whether the owner has forgotten the registration; it knows the task again after the next one.
    is_unregistered: bool,
    /// The body that is being read; it ends at `ready_to`.
    part: Option<Reader<'a>>,
    cancel: &'a Cancel,
}

impl OwnerReader<'_> {
    fn read_some(&mut self, into: &mut [u8]) -> Result<usize, OwnerError> {
        let began = Instant::now();
        loop {
            if let Some(part) = &mut self.part {
                match part.read(into)? {
                    0 if self.at < self.ready_to => {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                    }
                    0 => self.part = None,
                    count => {
                        self.at += count as u64;
                        return Ok(count);
                    }
                }
            }
            if self.end.is_some_and(|end| self.at >= end) || into.is_empty() {
                return Ok(0);
            }
            if self.at < self.ready_to {
                self.open_part()?;
                continue;
            }
            self.look()?;
            if self.at < self.ready_to || self.end.is_some_and(|end| self.at >= end) {
                continue;
            }
            // Two supernodes that take each other for the owner, because their lists differ or one has seen the
            // other fail, would wait for each other.
            if self.source.owned.contains(&self.task) {
                return Err(OwnerError::Circle);
            }
            if began.elapsed() >= STALL_TIME {
                return Err(OwnerError::Stall);
            }
        }
    }

    /// Asks which pieces the owner has. The owner answers when it has a new one, or after 4 s.
    fn look(&mut self) -> Result<(), OwnerError> {
        let url = format!("{}&version={}", self.pieces, self.version);
        let answer: Result<PiecesAnswer, _> = self.source.ask(&Method::GET, &url, b"", self.cancel);
        // The owner has been restarted, or its clients were forgotten.
        self.is_unregistered = matches!(answer, Err(OwnerError::Status(403 | 404)));
        let answer = answer?;
        let validators = Validators { etag: answer.etag, last_modified: answer.last_modified };
        let file = Version { length: answer.length, validators };
        if !self.file.is_same(&file) {
            return Err(OwnerError::Version);
        }
        self.file.length = self.file.length.or(file.length);
        self.version = answer.version;
        self.end = self.end.or(answer.length.filter(|_| answer.complete));
        let have = STANDARD.decode(&answer.have).unwrap_or_default();
        let have = PieceSet::from_bytes(&have, u32::MAX);
        let mut piece = u32::try_from(self.at / self.piece_size).unwrap_or(u32::MAX);
        while have.contains(piece) {
            piece += 1;
        }
        let ready = u64::from(piece) * self.piece_size;
        let end = answer.length.or(self.end).unwrap_or(u64::MAX);
        self.ready_to = ready.min(end).min(self.end.unwrap_or(u64::MAX)).max(self.at);
        Ok(())
    }

    fn open_part(&mut self) -> Result<(), OwnerError> {
        let mut headers = self.source.headers();
        let range = format!("bytes={}-{}", self.at, self.ready_to - 1);
        if let Ok(range) = HeaderValue::from_str(&range) {
            headers.insert(header::RANGE, range);
        }
        let answer =
            self.source.web.send_body(&Method::GET, &self.content, &headers, b"", None, self.cancel)?;
        if answer.status.as_u16() != 206 || answer.body_length != Some(self.ready_to - self.at) {
            return Err(OwnerError::Status(answer.status.as_u16()));
        }
        // The file may have changed since the owner said which pieces it has.
        let text = |name| answer.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let validators = Validators { etag: text(header::ETAG), last_modified: text(header::LAST_MODIFIED) };
        if validators != self.file.validators {
            return Err(OwnerError::Version);
        }
        self.part = Some(answer.reader);
        Ok(())
    }
}

impl Read for OwnerReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.read_some(into).map_err(|error| {
            if !self.cancel.is_cancelled() && !self.is_unregistered {
                log::warn!(
                    "task {}: supernode {} does not help any more: {}",
                    self.task,
                    self.owner,
                    sampan_ipc::report::chain(&error)
                );
                // The next attempt is made at another one, or at the origin.
                self.source.mark_down(&self.owner, &self.task, &error);
            }
            io::Error::other(error)
        })
    }
}
