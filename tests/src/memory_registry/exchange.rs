//! Requests to a registry in memory and its answers, and the faults and the behaviour that a test asks for.

use std::collections::HashMap;

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

#[derive(Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn of(status: u16) -> Self {
        Answer { status, ..Answer::default() }
    }

    /// An error in the form of the specification.
    pub(super) fn error(status: u16, code: &str) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{code} here"}}]}}"#);
        Answer { body: body.into_bytes(), ..Answer::of(status) }
    }

    pub(super) fn json(value: &serde_json::Value) -> Self {
        let answer = Answer { body: value.to_string().into_bytes(), ..Answer::of(200) };
        answer.with("Content-Type", "application/json")
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}
