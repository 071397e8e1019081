//! What every daemon needs around its event loop.
//!
//! [`accept`] says when to accept again after a failure; [`logging`] writes the log. Knows no protocol: what comes over a
//! connection is the daemon's own.

#![forbid(unsafe_code)]

pub mod accept;
pub mod logging;
