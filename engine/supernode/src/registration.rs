//! A registration on its way: a caller and its file, the probe of the origin that it waits for, and the outcome.
//!
//! Types between the managers, whose module `register` has the rules, and the event loop, which runs the probes
//! and sends the answers. A *caller* is a client, another supernode, an engine or a preheat.

use crate::access::Credential;
use crate::origin::{Request, Validators};
use crate::own_wire::TaskBody;
use crate::reply::Reply;
use crate::task::WantedFile;
use crate::task_id::TaskId;
use crate::v1::Registration;
use std::net::IpAddr;

/// The caller of a registration.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A client of Dragonfly, and the address that it connects from.
    Client(Box<Registration>, IpAddr),
    /// Another supernode or an engine, and the address that it connects from.
    Own(Box<TaskBody>, IpAddr),
    /// A preheat.
    Preheat,
}

impl Caller {
    /// The address that the caller connects from; `None` for a preheat.
    pub fn remote(&self) -> Option<IpAddr> {
        match self {
            Caller::Client(_, remote) | Caller::Own(_, remote) => Some(*remote),
            Caller::Preheat => None,
        }
    }
}

/// A registration that has not ended: a caller and its file.
#[derive(Clone, Debug)]
pub struct PendingRegistration {
    /// The connection to answer; `None` for a preheat.
    pub token: Option<usize>,
    /// The caller.
    pub caller: Caller,
    /// The file.
    pub file: WantedFile,
}

/// The task and the credential that an origin is asked about. Callers with equal keys wait for one probe.
pub type ProbeKey = (TaskId, Option<Credential>);

/// A probe that the event loop must run on a thread: does the origin give this file for this credential?
#[derive(Clone, Debug)]
pub struct Probe {
    /// The task and the credential.
    pub key: ProbeKey,
    /// The request to the origin.
    pub request: Request,
    /// The address of the client whose registration needs the answer first; `None` for a preheat.
    pub remote: Option<IpAddr>,
    /// The version of the file when the origin was last asked; `None` if the origin must send all it knows.
    pub known: Option<Validators>,
}

/// The end of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrationOutcome {
    /// The connection to answer; `None` for a preheat.
    pub token: Option<usize>,
    /// The task.
    pub task: TaskId,
    /// The answer: `Ok` if the caller was admitted, `Err` if it was refused.
    pub result: Result<Reply, Reply>,
}

/// The state of a registration after its beginning.
#[derive(Debug)]
pub enum BeginOutcome {
    /// It has ended.
    Ended(RegistrationOutcome),
    /// It waits for this probe, which the event loop starts now.
    Probe(Probe),
    /// It waits for a probe that another caller's registration has started.
    Waits,
}
