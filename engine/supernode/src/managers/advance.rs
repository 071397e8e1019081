//! Downloads in advance: connects the preheats with registrations, fetches and registries.
//!
//! Called by the routes of `/preheats`, by the event loop with answers of registries, and by `fetch` and
//! `collect`. [`crate::preheat`] decides; this module carries out its [`Action`]s.

use super::Managers;
use crate::origin::Request;
use crate::preheat::{Action, PreheatError, PreheatRequest, Resolution, TaskFailure, TaskRequest};
use crate::registration::{Caller, PendingRegistration, RegistrationOutcome};
use crate::reply::Reply;
use crate::task::WantedFile;
use crate::task_id::TaskId;
use crate::v1::code;
use sampan_ipc::report;
use serde_json::json;
use std::collections::VecDeque;
use std::time::SystemTime;

impl Managers {
    /// Begins a preheat. `POST /preheats`.
    pub fn create_preheat(&mut self, body: &[u8], clock: SystemTime) -> Reply {
        let begun = PreheatRequest::parse(body).and_then(|request| self.preheats.create(request, clock));
        match begun {
            Ok((id, actions)) => {
                self.act(actions, clock);
                Reply { status: 201, body: json!({ "ID": id.to_string() }).to_string().into_bytes() }
            }
            Err(error) => refusal(&error),
        }
    }

    /// All preheats. `GET /preheats`.
    pub fn list_preheats(&mut self, clock: SystemTime) -> Reply {
        Reply::ok(serde_json::to_vec(&self.preheats.list(clock)).unwrap_or_default())
    }

    /// One preheat. `GET /preheats/ID`.
    pub fn get_preheat(&mut self, id: &str, clock: SystemTime) -> Reply {
        match self.preheats.get(id, clock) {
            Ok(info) => Reply::ok(serde_json::to_vec(&info).unwrap_or_default()),
            Err(error) => refusal(&error),
        }
    }

    /// Removes a preheat. Files that it has fetched stay. `DELETE /preheats/ID`.
    pub fn delete_preheat(&mut self, id: &str, clock: SystemTime) -> Reply {
        match self.preheats.delete(id, clock) {
            Ok(actions) => {
                self.act(actions, clock);
                Reply { status: 200, body: b"true".to_vec() }
            }
            Err(error) => refusal(&error),
        }
    }

    /// Records the answer of a registry: the blobs of an image.
    pub fn on_resolution(&mut self, resolution: Resolution, clock: SystemTime) {
        self.resolver.on_resolution(resolution.run);
        let actions = self.preheats.on_resolved(resolution.run, resolution.result, clock);
        self.act(actions, clock);
    }

    /// Records the end of a registration that a preheat needed. A fetch that it began reports its own end.
    pub fn on_preheat_registered(&mut self, outcome: &RegistrationOutcome, clock: SystemTime) {
        let result = match &outcome.result {
            Err(reply) => {
                let answer: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
                let text = ["msg", "message"].into_iter().find_map(|key| answer.get(key)?.as_str());
                let is_denied = answer.get("code").is_some_and(|told| *told == code::NEED_AUTH);
                Err(TaskFailure { why: text.unwrap_or("the task is refused").to_owned(), is_denied })
            }
            Ok(_) if self.is_complete(&outcome.task) => Ok(()),
            Ok(_) => return,
        };
        let actions = self.preheats.on_task_ended(&outcome.task, result, clock);
        self.act(actions, clock);
    }

    /// Records the end of a fetch. `failure` says why it failed; `None` means success.
    pub(super) fn on_fetched(
        &mut self,
        id: &TaskId,
        failure: Option<String>,
        is_denied: bool,
        clock: SystemTime,
    ) {
        let result = failure.map_or(Ok(()), |why| Err(TaskFailure { why, is_denied }));
        let actions = self.preheats.on_task_ended(id, result, clock);
        self.act(actions, clock);
    }

    /// Records that a file was deleted.
    pub(super) fn on_file_deleted(&mut self, id: &TaskId, clock: SystemTime) {
        let actions = self.preheats.on_file_deleted(id, clock);
        self.act(actions, clock);
    }

    fn act(&mut self, actions: Vec<Action>, clock: SystemTime) {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Resolve { run, request } => self.resolver.start(run, request),
                Action::CancelResolve { run } => self.resolver.cancel(run),
                Action::StartTask(task) => match registration(&task) {
                    Ok(pending) => self.registrations_due.push(pending),
                    Err(why) => {
                        let failure = Err(TaskFailure { why, is_denied: false });
                        actions.extend(self.preheats.on_task_ended(&task.id, failure, clock));
                    }
                },
            }
        }
    }

    /// Takes the registrations that preheats need; the caller begins each.
    pub fn take_registrations(&mut self) -> Vec<PendingRegistration> {
        std::mem::take(&mut self.registrations_due)
    }
}

/// The registration of a file, or why its URL or headers are not valid.
fn registration(task: &TaskRequest) -> Result<PendingRegistration, String> {
    let headers = task.request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let file = WantedFile {
        request: Request::new(&task.request.url, headers).map_err(|error| report::chain(&error))?,
        task_url: task.request.task_url(),
        sign: task.request.identifier.clone(),
        is_md5: false,
    };
    Ok(PendingRegistration { token: None, caller: Caller::Preheat, file })
}

fn refusal(error: &PreheatError) -> Reply {
    Reply::error(error.status(), &error.to_string())
}
