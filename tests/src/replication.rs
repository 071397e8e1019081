//! The test rig of replication: two registries with a recorder in front of each, faults by rule, odd content, an engine
//! that replicates, and the comparison of what arrived.
//!
//! ```text
//!  sampan replicate ─▶ Replicator's engine ─▶ Recorder ─▶ Registry   source: no login, plain HTTP
//!                               └─▶ tls::front ─▶ Recorder ─▶ Registry   destination: login, TLS
//! ```
//!
//! Used by the end-to-end tests of replication and by its benchmark. Registries are Debian's docker-registry. All
//! servers listen on 127.0.0.1 and keep their files in the test's directory.

pub mod client;
pub mod compare;
pub mod corpus;
mod exchange;
pub mod fault;
pub mod faults;
pub mod message;
pub mod pair;
pub mod recorder;
pub mod registry;
pub mod replicator;
pub mod report;
