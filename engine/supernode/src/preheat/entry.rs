//! One preheat: what it is, and in which phase.
//!
//! Owned and changed by `manager`, which has the rules.

use super::request::PreheatRequest;
use crate::task_id::TaskId;
use std::time::SystemTime;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for its turn.
    Queued,
    /// Its registry is being asked.
    Resolving(u64),
    /// Its blobs are being fetched.
    Children,
    /// Its task runs.
    Fetching,
    /// Its task was denied, and its parent gets a new token.
    Held,
    Success,
    Failed,
}

impl Phase {
    pub(super) fn is_ended(self) -> bool {
        matches!(self, Phase::Success | Phase::Failed)
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    /// Without headers once the preheat has ended.
    pub(super) request: PreheatRequest,
    /// Whether an operator asked for it, and not only for an image that contains it.
    pub(super) is_asked: bool,
    pub(super) phase: Phase,
    /// The images that contain this blob. One blob may be in many.
    pub(super) parents: Vec<TaskId>,
    /// The blobs of this image.
    pub(super) children: Vec<TaskId>,
    pub(super) started: SystemTime,
    pub(super) finished: Option<SystemTime>,
    pub(super) error: String,
    /// Image: whether its token is the supernode's own.
    pub(super) is_own_token: bool,
    /// Blob: whether it was given a new token after a denial. A second denial is final.
    pub(super) is_renewed: bool,
}

impl Entry {
    pub(super) fn new(request: PreheatRequest, is_asked: bool, now: SystemTime) -> Self {
        Entry {
            request,
            is_asked,
            phase: Phase::Queued,
            parents: Vec::new(),
            children: Vec::new(),
            started: now,
            finished: None,
            error: String::new(),
            is_own_token: false,
            is_renewed: false,
        }
    }

    pub(super) fn restart(&mut self, request: PreheatRequest, now: SystemTime) {
        let (is_asked, parents) = (self.is_asked, std::mem::take(&mut self.parents));
        let children = std::mem::take(&mut self.children);
        *self = Entry { parents, children, ..Entry::new(request, is_asked, now) };
    }

    pub(super) fn status(&self) -> &'static str {
        match self.phase {
            Phase::Queued if self.children.is_empty() => "WAITING",
            Phase::Success => "SUCCESS",
            Phase::Failed => "FAILED",
            _ => "RUNNING",
        }
    }
}
