//! What Sampan's processes say to each other.
//!
//! Everything that crosses a process boundary is defined here and nowhere else: the [`event`] and the
//! [`record`] that carries it into a [`fifo`], the [`frame`] that carries it out of a [`socket`], the
//! [`watch`] protocol of `events.sock`, the [`engine`] protocol of `engine.sock` (with what it says of a
//! [`container`]), the [`shim`] protocol of a container's shim, the [`filter`] grammar, the
//! [`time`] forms and the [`paths`] where the processes meet, and how each of them [`report`]s. [`sender`] is the producer's side of the FIFO.
//! [`subscription`] is the reader's side of `events.sock`: an iterator of events with its cursor, over a [`connection`];
//! [`status`] asks monitord for its state. [`trust`] says which directories and peers the processes rely on, [`accounts`]
//! which user and groups an installation has, [`restart_policy`] whether a container that has ended starts again.
//!
//! This crate knows `sampan-os` and no other crate of the workspace. Most of it makes and reads bytes and never blocks.
//! The exceptions are [`subscription`], [`status`] and [`connection`], which wait for a peer; [`named_file`], the files
//! that people name; and, behind a feature, `credentials`, the auth files and helpers that engine and command line both
//! read.
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]
#![warn(clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing))]

pub mod accounts;
pub mod announce;
pub mod connection;
pub mod container;
#[cfg(feature = "credentials")]
pub mod credentials;
pub mod engine;
pub mod event;
pub mod fifo;
pub mod filter;
pub mod frame;
pub mod named_file;
pub mod paging;
pub mod paths;
pub mod record;
pub mod report;
pub mod restart_policy;
pub mod sender;
pub mod shim;
pub mod size;
pub mod socket;
#[cfg(feature = "calendar")]
pub mod status;
#[cfg(feature = "calendar")]
pub mod subscription;
pub mod text;
pub mod time;
pub mod trust;
pub mod watch;

pub use event::{Event, EventView};
