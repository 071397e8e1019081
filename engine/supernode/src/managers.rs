//! All managers together: what a registration, a pull and a report of a client change in them.
//!
//! Owned by the event loop, which calls one method for each request and sends what it returns. No method
//! blocks, and none touches a socket. If an origin must be asked, a method returns a
//! [`Probe`](crate::registration::Probe), which the loop runs on a thread and whose result it brings back.
//!
//! ```text
//! begin_registration ──▶ admit ──────────────────────────────────────────────▶ reply
//!       │ the task is new or stale, or the caller has not shown access       ▲
//!       └──▶ Probe ──a thread asks the origin──▶ end_registrations ──▶ admit ┘   each caller that waits for this probe
//! pull ──▶ pieces | finished | wait (the loop parks the connection) ──the task has changed──▶ pull_again
//! ```
//!
//! | module | the methods of |
//! |---|---|
//! | [`register`], [`restore`] | registrations; their journal, and the start |
//! | [`pull`], [`report`] | the requests of clients that download |
//! | [`fetch`] | fetches, and the messages of their threads |
//! | [`own`] | Sampan's own wire |
//! | [`advance`] | preheats |
//! | [`peers`], [`view`] | `/api/v1`, figures, events |
//! | [`collect`] | garbage collection |

pub mod advance;
pub mod collect;
pub mod fetch;
pub mod own;
pub mod peers;
pub mod pull;
pub mod register;
pub mod report;
pub mod restore;
pub mod view;

use crate::access::{Admins, Grants, PeerAddresses, Tickets};
use crate::cdn::{Cdn, CdnStatus};
use crate::cluster_source::OwnedTasks;
use crate::dfget_task::DfgetTasks;
use crate::journal::{Journal, JournalEntry};
use crate::metrics::Metrics;
use crate::parents::Parents;
use crate::peer::Peers;
use crate::piece_error::PieceErrors;
use crate::preheat::{Preheats, Resolver};
use crate::progress::Progress;
use crate::registration::{PendingRegistration, ProbeKey};
use crate::scheduler::Random;
use crate::task::{Task, Tasks};
use crate::task_id::TaskId;
use sampan_ipc::announce::Announcer;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

/// The settings of the managers.
#[derive(Clone, Debug)]
pub struct ManagerSettings {
    /// The address by which this supernode names itself.
    pub advertise_ip: IpAddr,
    /// The port of downloads that clients connect to.
    pub download_port: u16,
    /// Whether pieces come from the origin itself (`source`), not from this supernode's disk.
    pub is_source_pattern: bool,
    /// Whether each download needs a ticket, not only that of a protected file.
    pub demands_tickets: bool,
    /// Age of an origin's confirmation after which it is asked again.
    pub revalidate_after: Duration,
}

/// All managers.
pub struct Managers {
    /// The settings.
    pub settings: ManagerSettings,
    /// Files.
    pub cdn: Cdn,
    /// Tasks.
    pub tasks: Tasks,
    /// Downloads.
    pub downloads: DfgetTasks,
    /// Peers.
    pub peers: Peers,
    /// Swarms.
    pub progress: Progress,
    /// Peers of Sampan's own wire.
    pub parents: Parents,
    /// Reports of bad pieces.
    pub piece_errors: PieceErrors,
    /// Downloads in advance.
    pub preheats: Preheats,
    /// Counters.
    pub metrics: Metrics,
    /// The clients that have shown access, by task.
    pub grants: Grants,
    /// Tickets for downloads.
    pub tickets: Tickets,
    /// The addresses that may send destructive requests.
    pub admins: Admins,
    /// Which addresses peers may register.
    pub addresses: PeerAddresses,
    /// Events.
    pub announcer: Announcer,
    resolver: Resolver,
    journal: Journal,
    /// The clients that the journal knows, until they are restored.
    registered: Vec<JournalEntry>,
    /// The tasks of which other supernodes believe that this one is the owner; shared with the threads of fetches.
    pub owned: OwnedTasks,
    random: Random,
    /// Registrations that preheats need.
    registrations_due: Vec<PendingRegistration>,
    /// Registrations that wait for a probe.
    pending: HashMap<ProbeKey, Vec<PendingRegistration>>,
    /// Tasks in which something has changed that may let a waiting pull succeed.
    changed: BTreeSet<TaskId>,
}

/// What the managers are made of.
pub struct Parts {
    /// Files.
    pub cdn: Cdn,
    /// Asks registries for the blobs of images.
    pub resolver: Resolver,
    /// The journal of registrations.
    pub journal: Journal,
    /// The clients that the journal knows.
    pub registered: Vec<JournalEntry>,
    /// Tickets for downloads.
    pub tickets: Tickets,
    /// The addresses that may send destructive requests.
    pub admins: Admins,
    /// Which addresses peers may register.
    pub addresses: PeerAddresses,
    /// Events.
    pub announcer: Announcer,
    /// The tasks of which other supernodes believe that this one is the owner.
    pub owned: OwnedTasks,
}

impl Managers {
    /// Puts the managers together. Call [`Managers::restore`] next.
    pub fn new(settings: ManagerSettings, parts: Parts) -> Self {
        Managers {
            settings,
            cdn: parts.cdn,
            tasks: Tasks::default(),
            downloads: DfgetTasks::default(),
            peers: Peers::default(),
            progress: Progress::default(),
            parents: Parents::default(),
            piece_errors: PieceErrors::default(),
            preheats: Preheats::default(),
            metrics: Metrics::default(),
            grants: Grants::default(),
            tickets: parts.tickets,
            admins: parts.admins,
            addresses: parts.addresses,
            announcer: parts.announcer,
            resolver: parts.resolver,
            owned: parts.owned,
            journal: parts.journal,
            registered: parts.registered,
            random: Random::new(sampan_ipc::sender::random()),
            registrations_due: Vec::new(),
            pending: HashMap::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Takes the tasks whose waiting pulls are to be tried again.
    pub fn take_changed(&mut self) -> BTreeSet<TaskId> {
        std::mem::take(&mut self.changed)
    }

    /// A ticket with which a client at `remote` may download the present version of a task.
    pub fn issue_ticket(&self, task: &Task, remote: IpAddr, clock: SystemTime) -> String {
        self.tickets.issue(&task.id, &task.ticket_holder(remote), clock)
    }

    /// Whether `ticket` lets a client at `remote` download the present version of a task.
    pub fn is_ticket_valid(&self, ticket: &str, task: &Task, remote: IpAddr, clock: SystemTime) -> bool {
        self.tickets.is_valid(ticket, &task.id, &task.ticket_holder(remote), clock)
    }

    /// The client ID by which the supernode names itself as a holder.
    pub fn own_cid(&self, task: &TaskId) -> String {
        format!("cdnnode:{}~{task}", self.settings.advertise_ip)
    }

    /// Whether all pieces of the task are on this supernode.
    pub fn is_complete(&self, task: &TaskId) -> bool {
        self.settings.is_source_pattern || self.cdn.status(task) == Some(CdnStatus::Success)
    }
}

#[cfg(test)]
mod tests;
