//! Containers: the table of all containers, their files, and the work on them.
//!
//! Called by the event loop, which owns the table. From above to below:
//!
//! | module | what it owns |
//! |---|---|
//! | [`manager`], [`entry`] | the table; one container in it |
//! | [`requests`], [`events`] | what clients request; what shims and threads report |
//! | [`outcome`], [`thread_pool`] | the messages of the threads; the threads |
//! | [`create`], [`start`], [`remove`], [`recover`] | the work on threads: one step of a container's life each |
//! | [`list`], [`inspect`], [`image_users`] | descriptions of containers for clients |
//! | [`context`], [`systemd_unit`], [`etc_files`], [`log_driver`] | what a bundle is made from |
//! | [`rootfs`] | overlayfs, or [`rootfs::copy`] where overlayfs does not work |
//! | [`shim_connection`] | the connection to one shim |
//! | [`details`] | facts that only docker's API shows |
//! | [`directory`], [`definition`], [`state`] | the files of a container |
//! | `event_history`, `event_replay` | which events monitord has; events that a shim could not write |
//! | [`error`] | failures that several requests share |
//!
//! `config.json` is made by [`sampan_spec`]; the shim is in [`sampan_shim`]. Nothing here knows [`crate::server`].

pub mod context;
pub mod create;
pub mod definition;
pub mod details;
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
