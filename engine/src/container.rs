//! Containers: what they are, where they are kept, and who looks after them.
//!
//! From above to below: [`table`] is what the event loop knows of all containers, [`requests`] what clients may ask
//! of it and [`news`] what shims and threads tell it; [`create`], [`start`], [`removal`] and [`recovery`] are what
//! its threads do, [`workers`] the threads; [`listing`] and [`inspect`] describe containers. [`link`] is a connection
//! to a shim, [`home`] the directories of a container, [`etc`] and [`logs`] its files, [`definition`] how it was made.
//!
//! [`spec`] turns what a person asked for into the runtime's `config.json`. Below it: [`process`], [`mounts`],
//! [`devices`], [`resources`], [`seccomp`], [`security`] and [`capabilities`] make its parts, [`relabel`] labels files of the host, [`user`] and [`lookup`] read the
//! root file system, [`host`] and [`runtime`] say what this host can do, and [`document`] is the file itself.
//! [`mod@unit`] says what of a bundle is a unit's of systemd. [`rootfs`] chooses between overlayfs and [`copy`]. [`options`], [`names`] and [`signals`] judge what people type. The shim itself is in [`sampan_shim`].

pub mod context;
pub mod copy;
pub mod create;
pub mod definition;
pub mod entry;
pub mod error;
pub mod etc;
mod event_history;
mod event_replay;
pub mod home;
pub mod inspect;
pub mod link;
pub mod listing;
pub mod logs;
pub mod news;
pub mod outcome;
pub mod recovery;
pub mod removal;
pub mod requests;
pub mod rootfs;
pub mod start;
pub mod state;
pub mod table;
pub mod unit;
pub mod users;
pub mod workers;
