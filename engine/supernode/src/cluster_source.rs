//! Where a fetch of a supernode in a cluster gets bytes from: the supernode that owns the task, or the origin.
//!
//! Called by the threads of fetches; the calls block. The owner is asked by Sampan's own wire, and its pieces are taken as
//! it gets them. If the owner does not answer, or has another version of the file, the fetch continues at the origin, and
//! that supernode is not asked for a while. docs/peers.md, "Several supernodes".

use crate::cdn::{Fetch, Source, hex};
use crate::cluster::Cluster;
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
const DOWN_TIME: Duration = Duration::from_secs(10);
/// Longest wait for the head of an answer. The owner holds a question for pieces for 4 s.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How long the owner may have no new piece.
const STALL_TIME: Duration = Duration::from_secs(60);
/// Longest answer of the control port, in bytes.
const ANSWER_MAX: u64 = 4 << 20;

/// The tasks that other supernodes take this one for the owner of. They are fetched from their origins, also if this
/// supernode takes another one for the owner: otherwise two supernodes with different lists would wait for each other.
#[derive(Clone, Debug, Default)]
pub struct Owned(Arc<Mutex<HashSet<TaskId>>>);

impl Owned {
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
    owned: Owned,
    down: Mutex<HashMap<String, Instant>>,
}

/// Why the owner is of no use.
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
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registered {
    length: Option<u64>,
    piece_size: u64,
    download_port: u16,
    etag: Option<String>,
    last_modified: Option<String>,
    ticket: String,
}

#[derive(Deserialize)]
struct Pieces {
    version: u64,
    length: Option<u64>,
    complete: bool,
    have: String,
}

impl ClusterSource {
    /// Connects to nothing yet.
    pub fn new(settings: ClusterSettings, origins: Arc<Origins>, owned: Owned) -> Self {
        ClusterSource {
            origins,
            cluster: settings.cluster,
            web: Web::new(settings.access),
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
        self.cluster.owner(task, &|member| !down.contains_key(member)).map(str::to_owned)
    }

    fn mark_down(&self, member: &str) {
        lock(&self.down).insert(member.to_owned(), Instant::now() + DOWN_TIME);
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
            md5: fetch.file.md5.map(|md5| hex(&md5)).unwrap_or_default(),
            identifier: fetch.file.identifier.clone().unwrap_or_default(),
            headers: headers.collect(),
            as_owner: true,
            ..TaskBody::default()
        };
        let registered: Registered =
            self.ask(&Method::POST, &format!("{base}/sampan/v1/tasks"), &serde_json::to_vec(&body)?, cancel)?;
        let validators = Validators { etag: registered.etag, last_modified: registered.last_modified };
        if fetch.validators.is_same(&validators) == Some(false) || registered.piece_size == 0 {
            return Err(OwnerError::Version);
        }
        let (host, _) = owner.rsplit_once(':').unwrap_or((owner, ""));
        let reader = OwnerReader {
            source: self,
            owner: owner.to_owned(),
            pieces: format!("{base}/sampan/v1/tasks/{}/pieces?ticket={}", fetch.task, registered.ticket),
            content: format!(
                "{}://{host}:{}/content/{}?ticket={}",
                self.scheme, registered.download_port, fetch.task, registered.ticket
            ),
            piece_size: registered.piece_size,
            at: fetch.from,
            end: fetch.to.or(registered.length),
            ready_to: fetch.from,
            version: u64::MAX,
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
                    self.mark_down(&owner);
                }
            }
        }
        Source::fetch(self.origins.as_ref(), fetch, cancel)
    }
}

/// The bytes of a task as its owner gets them.
struct OwnerReader<'a> {
    source: &'a ClusterSource,
    owner: String,
    /// The URL that tells which pieces are there.
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
    /// The last version that the owner has told.
    version: u64,
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
            } else if began.elapsed() >= STALL_TIME {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            } else {
                self.look()?;
            }
        }
    }

    /// Asks which pieces are there. The owner holds the question until there is a new one.
    fn look(&mut self) -> Result<(), OwnerError> {
        let url = format!("{}&version={}", self.pieces, self.version);
        let told: Pieces = self.source.ask(&Method::GET, &url, b"", self.cancel)?;
        self.version = told.version;
        self.end = self.end.or(told.length.filter(|_| told.complete));
        let have = STANDARD.decode(&told.have).unwrap_or_default();
        let have = PieceSet::from_bytes(&have, u32::MAX);
        let mut piece = u32::try_from(self.at / self.piece_size).unwrap_or(u32::MAX);
        while have.contains(piece) {
            piece += 1;
        }
        let ready = u64::from(piece) * self.piece_size;
        let end = told.length.or(self.end).unwrap_or(u64::MAX);
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
            self.source.web.send(&Method::GET, &self.content, &headers, &|_| false, None, self.cancel)?;
        if answer.status.as_u16() != 206 || answer.body_length != Some(self.ready_to - self.at) {
            return Err(OwnerError::Status(answer.status.as_u16()));
        }
        self.part = Some(answer.reader);
        Ok(())
    }
}

impl Read for OwnerReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.read_some(into).map_err(|error| {
            if !self.cancel.is_cancelled() {
                // The next attempt is made at the origin.
                self.source.mark_down(&self.owner);
            }
            io::Error::other(error)
        })
    }
}
