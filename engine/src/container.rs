//! Containers: what they are, where they are kept, and who looks after them.
//!
//! From above to below: [`manager`] is what the event loop knows of all containers, [`requests`] what clients may ask
//! of it and [`events`] what shims and threads tell it; [`create`], [`start`], [`remove`] and [`recover`] are what
//! its threads do, [`thread_pool`] the threads; [`list`] and [`inspect`] describe containers. [`shim_connection`] is a connection
//! to a shim, [`directory`] the directories of a container, [`etc_files`] and [`log_driver`] its files, [`definition`] how it was made.
//!
//! [`spec`] turns what a person asked for into the runtime's `config.json`. Below it: [`process`], [`mounts`],
//! [`devices`], [`resources`], [`seccomp`], [`security`] and [`capabilities`] make its parts, [`relabel`] labels files of the host, [`user`] and [`lookup`] read the
//! root file system, [`host`] and [`runtime`] say what this host can do, and [`document`] is the file itself.
//! [`systemd_unit`] says what of a bundle is a unit's of systemd. [`rootfs`] chooses between overlayfs and [`rootfs::copy`]. [`options`], [`names`] and [`signals`] judge what people type. The shim itself is in [`sampan_shim`].

pub mod context;
pub mod create;
pub mod definition;
pub mod directory;
pub mod entry;
pub mod error;
pub mod etc_files;
mod event_history;
mod event_replay;
pub mod events;
pub mod image_users;
pub mod inspect;
pub mod list;
pub mod log_driver;
pub mod manager;
pub mod outcome;
pub mod recover;
pub mod remove;
pub mod requests;
pub mod rootfs;
pub mod shim_connection;
pub mod start;
pub mod state;
pub mod systemd_unit;
pub mod thread_pool;
