//! `sampan events` and `sampan emit`.

pub(crate) mod ack;
pub(crate) mod emit;
pub(crate) mod emit_batch;
pub(crate) mod exec;
pub(crate) mod format;
pub(crate) mod watch;
