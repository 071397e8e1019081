//! The supernode: lets the hosts of a fleet download files from each other. docs/peers.md
//!
//! One event loop ([`server`]) owns all managers, so they need no lock. What blocks runs on threads: requests to
//! origins, fetches, and checks of files. Threads send messages to the loop. This crate knows no image store and
//! no container.
//!
//! | module | what it owns |
//! |---|---|
//! | [`server`] | the event loop: ports, connections, routes, long polls |
//! | [`managers`] | all managers together: what a request changes in them |
//! | [`v1`] | the wire of Dragonfly 1: names, codes, envelopes |
//! | [`task_id`], [`piece`], [`piece_set`] | the identity of a task, the arithmetic of its pieces, sets of pieces |
//! | [`cdn`] | fetches from origins, files, digests of pieces |
//! | [`origin`] | requests to origins, and which origins are allowed |
//! | [`access`] | clients that have shown access to a task; tickets, the secret, administrators |
//! | [`task`], [`dfget_task`], [`peer`] | tasks, downloads, peers |
//! | [`own_wire`], [`parents`] | the bodies of Sampan's own wire, and its peers |
//! | [`progress`], [`scheduler`] | which client has or fetches which piece; the choice of pieces and holders |
//! | [`piece_error`], [`preheat`], [`gc`] | repair of bad pieces, downloads in advance, what is forgotten and deleted |
//! | [`registration`], [`reply`] | a registration on its way, and an answer |
//! | [`journal`] | the journal of registrations |
//! | [`cluster`], [`cluster_source`] | which supernode owns a task, and fetches from that supernode |
//! | [`metrics`] | counters for Prometheus |
//! | [`url`], [`hex`] | URLs without filtered parameters, and without what may grant access; hexadecimal digits |
//! | [`config`] | options and the `[supernode]` table |
#![forbid(unsafe_code)]
#![warn(clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing))]

pub mod access;
pub mod cdn;
pub mod cluster;
pub mod cluster_source;
pub mod config;
pub mod dfget_task;
pub mod gc;
pub mod hex;
pub mod journal;
pub mod managers;
pub mod metrics;
pub mod origin;
pub mod own_wire;
pub mod parents;
pub mod peer;
pub mod piece;
pub mod piece_error;
pub mod piece_set;
pub mod preheat;
pub mod progress;
pub mod registration;
pub mod reply;
pub mod scheduler;
pub mod server;
pub mod task;
pub mod task_id;
pub mod url;
pub mod v1;
