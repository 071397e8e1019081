//! What every daemon needs around its event loop.
//!
//! [`listen`] binds a socket under a lock, or takes one that systemd passed, and accepts; [`accept`] says when to accept
//! again after a failure; [`systemd`] speaks with the service manager; [`signals`] makes signals a source of events;
//! [`logging`] writes the log. Knows no protocol: what comes over a connection is the daemon's own.

#![forbid(unsafe_code)]

pub mod accept;
pub mod listen;
pub mod logging;
pub mod signals;
pub mod systemd;
