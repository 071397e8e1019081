//! The surroundings of a daemon's event loop: its socket, signals, service manager and log.
//!
//! Called by every daemon. [`listen`] binds a socket under a lock, or adopts one from systemd, and accepts connections;
//! [`port`] binds or adopts a TCP port; [`accept`] decides when to accept again after a failure; [`systemd`] talks to the
//! service manager; [`signals`] turns signals into events; [`logging`] writes the log; [`descriptors`] raises the limit
//! of descriptors. Knows no protocol: each daemon
//! defines what a connection carries.

#![forbid(unsafe_code)]

pub mod accept;
pub mod descriptors;
pub mod listen;
pub mod logging;
pub mod port;
pub mod signals;
pub mod systemd;
