//! What all threads of the engine share. Made once, in `main`; only the parts that have locks of their own change.

use crate::config::Config;
use crate::container::rootfs;
use crate::image::disk_space::Room;
use crate::outbox::Outbox;
use sampan_ipc::announce::Announcer;
use sampan_job::limits::Limits;
use sampan_store::Store;
use std::sync::Mutex;

/// What all threads share.
pub struct Shared {
    /// The images.
    pub store: Store,
    /// Engine-wide limits.
    pub limits: Limits,
    /// The way to the monitor FIFO.
    pub announcer: Announcer,
    /// What must stay free on the disk.
    pub room: Room,
    /// The configuration.
    pub config: Config,
    /// The way to the event loop.
    pub outbox: Outbox,
    /// What the first job that unpacks something tells a person.
    pub advice: Mutex<Option<String>>,
    /// How containers get their root file systems.
    pub rootfs: rootfs::RootfsChoice,
}
