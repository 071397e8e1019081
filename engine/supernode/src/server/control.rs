//! The routes of the control port. docs/peers.md, "Wire 1".
//!
//! Called by the event loop for each request: [`Core::control`] finds the route, one method for each route parses
//! the request, and the managers make the answer. This module gives no piece and no task a meaning.
//!
//! Each route also works behind a version: `/v1.0.6/peer/registry`. Where Dragonfly has a route both under
//! `/api/v1` and without it, one method answers both.

use super::core::{Core, POLL_TIME, json};
use super::waiters::{Need, Waiter};
use crate::managers::peers::PeerBody;
use crate::managers::pull::PullRequest;
use crate::origin::Request;
use crate::own_wire::{self, TaskBody, Watch};
use crate::registration::{Caller, PendingRegistration};
use crate::reply::Reply;
use crate::task::WantedFile;
use crate::task_id::TaskId;
use crate::url::is_filtered_from;
use crate::v1::{self, PieceResult, Registration, code};
use ::http::{Method, header};
use sampan_http::answer::Answer;
use sampan_http::request::Limits;
use sampan_ipc::report;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

/// Longest body of a request, in bytes. Registrations may carry certificates.
const BODY_MAX: usize = 256 << 10;
/// The limits of a request to the control port.
pub const LIMITS: Limits = Limits::with_bodies(BODY_MAX);

/// The routes that `GET /` lists.
const LEGACY: &[&str] = &[
    "/peer/registry",
    "/peer/task",
    "/peer/piece/suc",
    "/peer/piece/error",
    "/peer/service/down",
    "/peer/network",
    "/peer/heartbeat",
    "/preheats",
    "/preheats/{id}",
    "/task/metrics",
    "/metrics",
    "/_ping",
    "/version",
];
/// The routes that `GET /api/v1/` lists, without that prefix.
const V1: &[&str] = &[
    "/peers",
    "/peers/{id}",
    "/tasks/{id}",
    "/tasks/{id}/pieces/{range}/error",
    "/preheats",
    "/preheats/{id}",
    "/peer/network",
    "/peer/heartbeat",
];

/// A request to the control port.
pub struct ControlRequest<'a> {
    /// The number of the connection.
    pub token: usize,
    /// The address that the request comes from.
    pub remote: IpAddr,
    /// The request.
    pub request: &'a ::http::Request<&'a [u8]>,
    /// When the request arrived.
    pub now: Instant,
    /// The time of the clock when the request arrived.
    pub clock: SystemTime,
}

/// The body of `POST /task/metrics`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct TaskMetrics {
    duration: f64,
    #[serde(rename = "filelength")]
    file_length: i64,
    success: bool,
    #[serde(rename = "backsourcereason")]
    reason: Option<serde_json::Value>,
}

/// The answer of a route.
enum RouteAnswer {
    Now(Reply),
    /// A text of this media type, with status 200.
    Text(&'static str, String),
    /// The answer comes later.
    Later,
}

impl ControlRequest<'_> {
    fn content_type(&self) -> &str {
        let value = self.request.headers().get(header::CONTENT_TYPE);
        value.and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn body<T: for<'b> Deserialize<'b>>(&self) -> Result<T, Reply> {
        v1::parse_body(self.request.body(), self.content_type()).map_err(|why| Reply::error(400, &why))
    }

    fn query(&self) -> HashMap<String, String> {
        v1::parse_query(self.request.uri().query().unwrap_or_default())
    }
}

impl Core {
    /// Answers a request to the control port; `None` if the answer comes later.
    pub fn control(&mut self, request: &ControlRequest<'_>) -> Option<Answer> {
        let request_bytes = request.request.body().len() as u64;
        let path = without_version(request.request.uri().path());
        let (handler, routed) = self.route(request, path);
        let (kind, status, body) = match routed {
            RouteAnswer::Later => {
                self.set_later(request.token, handler, request_bytes, request.now);
                return None;
            }
            RouteAnswer::Now(reply) => ("application/json", reply.status, reply.body),
            RouteAnswer::Text(kind, text) => (kind, 200, text.into_bytes()),
        };
        let took = request.now.elapsed();
        self.managers.metrics.record_request(handler, status, took, request_bytes, body.len() as u64);
        Some(if kind == "application/json" {
            json(Reply { status, body })
        } else {
            Answer::new(status, kind, body)
        })
    }

    fn route(&mut self, request: &ControlRequest<'_>, path: &str) -> (&'static str, RouteAnswer) {
        if !self.has_secret(request) {
            let why = "this supernode demands its secret: Authorization: Bearer SECRET";
            return ("unauthorized", RouteAnswer::Now(Reply::error(401, why)));
        }
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let parts = parts.as_slice();
        let (is_v1, parts) = match parts {
            ["api", "v1", rest @ ..] => (true, rest),
            parts => (false, parts),
        };
        let get = request.request.method() == Method::GET;
        let post = request.request.method() == Method::POST;
        let delete = request.request.method() == Method::DELETE;
        let now = |reply| RouteAnswer::Now(reply);
        match parts {
            ["peer", "registry"] if post => ("/peer/registry", self.on_registry(request)),
            ["peer", "task"] if get => ("/peer/task", self.on_pull(request)),
            ["peer", "piece", "suc"] if get => ("/peer/piece/suc", now(self.on_stored(request))),
            ["peer", "piece", "error"] if get => ("/peer/piece/error", self.on_piece_error(request)),
            ["peer", "service", "down"] if get => ("/peer/service/down", now(self.on_down(request))),
            ["peer", "network"] if post => ("/peer/network", now(Reply::ok(br#"{"nodes":null}"#.to_vec()))),
            ["peer", "heartbeat"] if post => {
                ("/peer/heartbeat", now(Reply::ok(br#"{"seedTaskIDs":null}"#.to_vec())))
            }
            ["task", "metrics"] if post => ("/task/metrics", now(self.on_task_metrics(request))),
            ["_ping"] if get => ("/_ping", RouteAnswer::Text("text/plain; charset=utf-8", "OK".to_owned())),
            ["version"] if get => ("/version", now(version())),
            ["metrics"] if get => {
                let gauges = self.managers.gauges(self.waiters.len(), self.open.len());
                let text = self.managers.metrics.render(&gauges);
                ("/metrics", RouteAnswer::Text("text/plain; version=0.0.4; charset=utf-8", text))
            }
            ["preheats", rest @ ..] => ("/preheats", now(self.on_preheats(request, rest))),
            ["peers"] if is_v1 && post => ("/peers", now(self.on_create_peer(request))),
            ["peers"] if is_v1 && get => ("/peers", now(self.on_list_peers(request))),
            ["peers", id] if is_v1 && get => {
                ("/peers/{id}", now(view_or_not_found(self.managers.peer_view(id), "peer")))
            }
            ["peers", id] if is_v1 && delete => ("/peers/{id}", now(self.on_delete_peer(request, id))),
            ["tasks", id] if is_v1 && get => {
                let view = TaskId::parse(id).and_then(|id| self.managers.task_view(&id));
                ("/tasks/{id}", now(view_or_not_found(view, "task")))
            }
            ["tasks", id] if is_v1 && delete => ("/tasks/{id}", now(self.on_delete_task(request, id))),
            ["tasks", id, "pieces", range, "error"] if is_v1 && get => {
                ("/tasks/{id}/pieces/{range}/error", self.on_piece_error_of(request, id, range))
            }
            ["sampan", "v1", "tasks"] if post => (own_wire::TASKS, self.on_own_task(request)),
            ["sampan", "v1", "tasks", id, rest @ ..] => {
                ("/sampan/v1/tasks/{id}", self.on_own(request, id, rest))
            }
            [""] if get && is_v1 => ("/", now(list("/api/v1", V1))),
            [""] if get => ("/", now(list("", LEGACY))),
            ["api", "ext", ""] if get => ("/", now(list("/api/ext", &[]))),
            _ => ("unknown", now(Reply::error(404, "no such route"))),
        }
    }

    fn has_secret(&self, request: &ControlRequest<'_>) -> bool {
        let Some(secret) = &self.secret else { return true };
        let given = request.request.headers().get(header::AUTHORIZATION);
        secret.is_given(given.and_then(|given| given.to_str().ok()))
    }

    /// The answer to a caller that is no administrator; `None` if it is one.
    fn refusal(&self, request: &ControlRequest<'_>) -> Option<Reply> {
        let is_admin = self.secret.is_some() || self.managers.admins.contains(request.remote);
        let why = "only administrators may do this; --admin lists their addresses";
        (!is_admin).then(|| Reply::error(403, why))
    }

    fn on_registry(&mut self, request: &ControlRequest<'_>) -> RouteAnswer {
        let registration: Registration = match request.body() {
            Ok(registration) => registration,
            Err(reply) => return RouteAnswer::Now(reply),
        };
        let Registration { raw_url, task_url, md5, identifier, headers, .. } = &registration;
        let file = match wanted_file(raw_url, task_url, md5, identifier, headers) {
            Ok(file) => file,
            Err(reply) => return RouteAnswer::Now(reply),
        };
        let caller = Caller::Client(Box::new(registration), request.remote);
        let pending = PendingRegistration { token: Some(request.token), caller, file };
        self.register(pending, request.now, request.clock).map_or(RouteAnswer::Later, RouteAnswer::Now)
    }

    fn on_pull(&mut self, request: &ControlRequest<'_>) -> RouteAnswer {
        let mut query = request.query();
        let mut take = |key: &str| query.remove(key).unwrap_or_default();
        let Some(task) = TaskId::parse(&take("taskId")) else {
            return RouteAnswer::Now(Reply::code(code::PARAM_ERROR, "taskId is no task ID"));
        };
        let status = take("status");
        let pull = PullRequest {
            task,
            cid: take("srcCid"),
            range: take("range"),
            result: PieceResult::parse(&take("result")),
            holder: take("dstCid"),
            begins: status == "700",
            ends: status == "702",
        };
        let pulled = self.managers.pull(&pull, request.remote, request.now, request.clock);
        let reply = self.pull_or_wait(pulled, task, &pull.cid, request.token, request.now);
        reply.map_or(RouteAnswer::Later, RouteAnswer::Now)
    }

    fn on_stored(&mut self, request: &ControlRequest<'_>) -> Reply {
        let query = request.query();
        let value = |key: &str| query.get(key).map(String::as_str).unwrap_or_default();
        match TaskId::parse(value("taskId")) {
            Some(task) => {
                let (cid, range) = (value("cid"), value("pieceRange"));
                self.managers.on_piece_stored(&task, cid, range, request.remote, request.now)
            }
            None => Reply::error(400, "taskId is no task ID"),
        }
    }

    fn on_down(&mut self, request: &ControlRequest<'_>) -> Reply {
        let query = request.query();
        let value = |key: &str| query.get(key).map(String::as_str).unwrap_or_default();
        match TaskId::parse(value("taskId")) {
            Some(task) => self.managers.on_service_down(&task, value("cid"), request.remote, request.now),
            None => Reply::error(400, "taskId is no task ID"),
        }
    }

    fn on_own_task(&mut self, request: &ControlRequest<'_>) -> RouteAnswer {
        let body: TaskBody = match request.body() {
            Ok(body) => body,
            Err(reply) => return RouteAnswer::Now(reply),
        };
        let TaskBody { url, task_url, md5, identifier, headers, .. } = &body;
        let file = match wanted_file(url, task_url, md5, identifier, headers) {
            Ok(file) => file,
            Err(reply) => return RouteAnswer::Now(reply),
        };
        let caller = Caller::Own(Box::new(body), request.remote);
        let pending = PendingRegistration { token: Some(request.token), caller, file };
        let reply = self.register(pending, request.now, request.clock).map(own_wire::with_status);
        reply.map_or(RouteAnswer::Later, RouteAnswer::Now)
    }

    fn on_own(&mut self, request: &ControlRequest<'_>, id: &str, rest: &[&str]) -> RouteAnswer {
        let query = request.query();
        let value = |key: &str| query.get(key).map(String::as_str).unwrap_or_default();
        let found = TaskId::parse(id).and_then(|id| self.managers.tasks.get(&id));
        let Some(found) = found else { return RouteAnswer::Now(Reply::error(404, "no such task")) };
        let task = found.id;
        let body: HashMap<String, String> = match request.request.body().is_empty() {
            true => HashMap::new(),
            false => match request.body() {
                Ok(body) => body,
                Err(reply) => return RouteAnswer::Now(reply),
            },
        };
        let field = |key: &str| body.get(key).map(String::as_str).unwrap_or_default();
        let ticket = if value("ticket").is_empty() { field("ticket") } else { value("ticket") };
        if !self.managers.is_ticket_valid(ticket, found, request.remote, request.clock) {
            return RouteAnswer::Now(Reply::error(403, "the ticket is not valid: register for the task"));
        }
        match (rest, request.request.method().as_str()) {
            (["pieces"], "GET") => {
                let watch = Watch {
                    version: value("version").parse().unwrap_or(u64::MAX),
                    from: value("from").parse().unwrap_or(0),
                    peer: value("peer").to_owned(),
                };
                self.managers.touch_own(&task, &watch.peer, request.remote, request.now);
                match self.managers.own_pieces(&task, &watch) {
                    Some(reply) => RouteAnswer::Now(reply),
                    None => {
                        let waiter = Waiter { token: request.token, need: Need::Version(watch) };
                        self.waiters.park(task, waiter, request.now + POLL_TIME);
                        RouteAnswer::Later
                    }
                }
            }
            (["have"], "POST") => {
                let (peer, have) = (field("peer"), field("have"));
                RouteAnswer::Now(self.managers.set_own_have(&task, peer, have, request.remote, request.now))
            }
            (["peers", peer], "DELETE") => {
                RouteAnswer::Now(self.managers.remove_own_peer(&task, peer, request.remote))
            }
            _ => RouteAnswer::Now(Reply::error(404, "no such route")),
        }
    }

    fn on_piece_error(&mut self, request: &ControlRequest<'_>) -> RouteAnswer {
        let query = request.query();
        let value = |key: &str| query.get(key).map(String::as_str).unwrap_or_default();
        if let Some(task) = TaskId::parse(value("taskId")) {
            self.managers.on_piece_error(&task, &query, request.remote, request.now);
        }
        RouteAnswer::Text("application/json", String::new())
    }

    fn on_piece_error_of(&mut self, request: &ControlRequest<'_>, id: &str, range: &str) -> RouteAnswer {
        let mut fields: HashMap<String, String> = request.body().unwrap_or_default();
        fields.extend(request.query());
        // `request.body` makes the keys of the body lower case; those of the query are as `dfget` writes them.
        for key in ["errorType", "srcCid", "dstCid", "dstIp", "realMd5", "expectedMd5"] {
            if let Some(value) = fields.remove(&key.to_ascii_lowercase()) {
                fields.insert(key.to_owned(), value);
            }
        }
        fields.insert("range".to_owned(), range.to_owned());
        if let Some(task) = TaskId::parse(id) {
            self.managers.on_piece_error(&task, &fields, request.remote, request.now);
        }
        RouteAnswer::Text("application/json", String::new())
    }

    fn on_task_metrics(&mut self, request: &ControlRequest<'_>) -> Reply {
        match request.body::<TaskMetrics>() {
            Ok(figures) => {
                let reason = match figures.reason {
                    Some(serde_json::Value::Number(number)) => number.as_i64().unwrap_or(0),
                    Some(serde_json::Value::String(text)) => text.parse().unwrap_or(0),
                    _ => 0,
                };
                self.managers.metrics.record_download(
                    figures.success,
                    figures.duration,
                    figures.file_length,
                    reason,
                );
                // With any other code, `dfget` sends the same figures once more.
                Reply::code(1, "success")
            }
            Err(reply) => reply,
        }
    }

    fn on_create_peer(&mut self, request: &ControlRequest<'_>) -> Reply {
        match request.body::<PeerBody>() {
            Ok(body) => {
                self.gc.on_use(request.now);
                self.managers.create_peer(&body, request.remote, request.now, request.clock)
            }
            Err(reply) => reply,
        }
    }

    fn on_list_peers(&mut self, request: &ControlRequest<'_>) -> Reply {
        let query = request.query();
        let number = |key: &str| query.get(key).and_then(|text| text.parse().ok()).unwrap_or(0);
        let descending =
            query.get("sortDirect").is_some_and(|direction| direction.eq_ignore_ascii_case("desc"));
        let list = self.managers.peer_list(number("pageNum"), number("pageSize"), descending);
        Reply::ok(list.to_string().into_bytes())
    }

    fn on_delete_peer(&mut self, request: &ControlRequest<'_>, id: &str) -> Reply {
        if let Some(refusal) = self.refusal(request) {
            return refusal;
        }
        match self.managers.delete_peer(id, "an administrator removed it") {
            true => Reply { status: 200, body: Vec::new() },
            false => Reply::error(404, "no such peer"),
        }
    }

    fn on_delete_task(&mut self, request: &ControlRequest<'_>, id: &str) -> Reply {
        if let Some(refusal) = self.refusal(request) {
            return refusal;
        }
        let with_file = request.query().get("full").is_some_and(|full| full == "true");
        match TaskId::parse(id).filter(|id| self.managers.tasks.get(id).is_some()) {
            Some(id) => {
                self.managers.forget_task(&id, with_file, "an administrator removed it");
                Reply { status: 200, body: Vec::new() }
            }
            None => Reply::error(404, "no such task"),
        }
    }

    fn on_preheats(&mut self, request: &ControlRequest<'_>, rest: &[&str]) -> Reply {
        let method = request.request.method();
        if method != Method::GET
            && let Some(refusal) = self.refusal(request)
        {
            return refusal;
        }
        match (rest, method.as_str()) {
            ([] | [""], "POST") => self.managers.create_preheat(request.request.body(), request.clock),
            ([] | [""], "GET") => self.managers.list_preheats(request.clock),
            ([id], "GET") => self.managers.get_preheat(id, request.clock),
            ([id], "DELETE") => self.managers.delete_preheat(id, request.clock),
            _ => Reply::error(404, "no such route"),
        }
    }
}

/// The file that the fields of a registration describe; an answer with status 400 if the URL or a header is not
/// valid.
fn wanted_file(
    url: &str,
    task_url: &str,
    md5: &str,
    identifier: &str,
    headers: &[String],
) -> Result<WantedFile, Reply> {
    let pairs = headers.iter().filter_map(|line| Request::split_header(line));
    let request = Request::new(url, pairs).map_err(|error| Reply::error(400, &report::chain(&error)))?;
    if !task_url.is_empty() && !is_filtered_from(task_url, url) {
        let why =
            "the URL of the task must be that of the file, or that one without some of its query parameters";
        return Err(Reply::error(400, why));
    }
    let is_md5 = !md5.is_empty();
    Ok(WantedFile {
        request,
        task_url: if task_url.is_empty() { url } else { task_url }.to_owned(),
        sign: if is_md5 { md5 } else { identifier }.to_owned(),
        is_md5,
    })
}

/// A view as an answer, or status 404.
fn view_or_not_found(view: Option<serde_json::Value>, what: &str) -> Reply {
    match view {
        Some(view) => Reply::ok(view.to_string().into_bytes()),
        None => Reply::error(404, &format!("no such {what}")),
    }
}

fn version() -> Reply {
    let version = env!("CARGO_PKG_VERSION");
    Reply::ok(
        json!({ "Version": version, "Arch": std::env::consts::ARCH, "OS": "linux" }).to_string().into_bytes(),
    )
}

fn list(prefix: &str, routes: &[&str]) -> Reply {
    let routes: Vec<String> = routes.iter().map(|route| format!("{prefix}{route}")).collect();
    Reply::ok(json!(routes).to_string().into_bytes())
}

/// The path without a leading `/v1.0.6`.
fn without_version(path: &str) -> &str {
    let Some(rest) = path.strip_prefix("/v") else { return path };
    let end = rest.find('/').unwrap_or(rest.len());
    let (version, tail) = rest.split_at(end);
    let is_version = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_version { tail } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_before_the_route_is_skipped() {
        for (path, rest) in [
            ("/v1.0.6/peer/task", "/peer/task"),
            ("/v2/x", "/x"),
            ("/version", "/version"),
            ("/peer/task", "/peer/task"),
            ("/v/x", "/v/x"),
            ("/v1", ""),
        ] {
            assert_eq!(without_version(path), rest);
        }
    }
}
