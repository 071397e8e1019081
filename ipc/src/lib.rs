//! Protocols and data formats between Sampan's processes. Everything that crosses a process boundary is defined here.
//!
//! - Events: [`event`] is an event, [`announce`] makes the events of each type, [`record`] is the form of an event in
//!   a [`fifo`], [`sender`] writes records. [`frame`] is the form of a message on a [`socket`], [`watch`] is the
//!   protocol of `events.sock`, [`filter`] the grammar of its filters. [`subscription`] reads events over a
//!   [`connection`] and keeps a cursor, [`event_stream`] reads them in an event loop; [`status`] requests monitord's
//!   state.
//! - The engine: [`engine`] is the protocol of `engine.sock`, [`container`] and [`image`] its parts about containers and
//!   images, [`details`] the facts that docker's API shows, [`shim`] the protocol between the engine and a container's
//!   shim; [`replication`] describes replication jobs, [`credential`] the credentials in requests.
//! - Rules that several processes share: [`paths`] of sockets and files, [`trust`] in directories and peers,
//!   [`accounts`] of an installation, [`restart_policy`], the forms of [`time`] and of an [`image_name`], how a
//!   process [`report`]s errors.
//!
//! This crate depends on `sampan-os` and on no other crate of the workspace. Most modules only make and read bytes, and
//! never block. The exceptions: [`subscription`], [`status`] and [`connection`] wait for a peer, [`named_file`] reads
//! and writes files, and `credentials` (a feature) reads credential files and runs credential helpers.
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]
#![warn(clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing))]

pub mod accounts;
pub mod announce;
pub mod connection;
pub mod container;
pub mod credential;
#[cfg(feature = "credentials")]
pub mod credentials;
pub mod details;
pub mod engine;
pub mod event;
#[cfg(feature = "calendar")]
pub mod event_stream;
pub mod fifo;
pub mod filter;
pub mod frame;
pub mod image;
pub mod image_name;
pub mod named_file;
pub mod paging;
pub mod paths;
pub mod pull;
pub mod record;
pub mod replication;
pub mod report;
pub mod restart_policy;
pub mod retry_note;
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
