//! A registration on its way: who wants which file, what must be asked at its origin, and the outcome.
//!
//! Types between the managers and the event loop. `managers::register` has the rules.

use crate::access::Credential;
use crate::origin::{Request, Validators};
use crate::own_wire::TaskBody;
use crate::reply::Reply;
use crate::task::WantedFile;
use crate::task_id::TaskId;
use crate::v1::Registration;
use std::net::IpAddr;

/// Who wants the file.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A client of Dragonfly, and the address it comes from.
    Client(Box<Registration>, IpAddr),
    /// Another supernode or an engine, and the address it comes from.
    Own(Box<TaskBody>, IpAddr),
    /// A preheat.
    Preheat,
}

/// A caller and its file.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The connection to answer; `None` for a preheat.
    pub token: Option<usize>,
    /// The caller.
    pub caller: Caller,
    /// The file.
    pub file: WantedFile,
}

/// What a question to an origin is about: callers with the same key need the same answer.
pub type AskKey = (TaskId, Option<Credential>);

/// A question to an origin.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What it is about.
    pub key: AskKey,
    /// The request.
    pub request: Request,
    /// What the file was when the origin was last asked.
    pub known: Option<Validators>,
}

/// What a caller gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The connection to answer; `None` for a preheat.
    pub token: Option<usize>,
    /// The task.
    pub task: TaskId,
    /// The answer. The caller was admitted if it has code 200.
    pub result: Result<Reply, Reply>,
}

/// The outcome of the beginning of a registration.
#[derive(Debug)]
pub enum Begun {
    /// It has ended.
    Ended(Outcome),
    /// It waits for this question, which is to be asked now.
    Ask(Ask),
    /// It waits for a question that was asked before.
    Waits,
}
