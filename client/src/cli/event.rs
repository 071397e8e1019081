//! `sampan events` and `sampan emit`.

pub mod ack;
pub mod emit;
pub mod emit_batch;
pub mod exec;
pub mod format;
pub mod watch;
