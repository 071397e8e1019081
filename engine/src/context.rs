//! The state that all threads of the engine share.
//!
//! Made once, in `main`. Only those parts change that have locks of their own.

use crate::config::Config;
use crate::container::rootfs;
use crate::image::disk_space::DiskSpace;
use crate::outbox::Outbox;
use crate::replication::state::ReplicationState;
use sampan_ipc::announce::Announcer;
use sampan_job::limits::Limits;
use sampan_store::Store;
use std::sync::Mutex;

/// The state that all threads share.
pub struct Shared {
    /// The image store.
    pub store: Store,
    /// Engine-wide limits.
    pub limits: Limits,
    /// Writes events into the monitor FIFO.
    pub announcer: Announcer,
    /// Claims on free disk space.
    pub room: DiskSpace,
    /// The configuration.
    pub config: Config,
    /// The channel to the event loop.
    pub outbox: Outbox,
    /// A warning for the user about this host. The first job that unpacks layers takes it and shows it.
    pub advice: Mutex<Option<String>>,
    /// What all replications share.
    pub replication: ReplicationState,
    /// How containers get their root file systems on this host.
    pub rootfs: rootfs::RootfsChoice,
}
