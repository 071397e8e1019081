//! The event loop and its clients: what comes in by engine.sock, and who answers it.
//!
//! [`event_loop`] owns all of it and is run by `main`; [`client`] is one connection; `requests` are those that start a job.

pub mod client;
pub mod event_loop;
mod requests;

pub use self::event_loop::{Server, WAKER};
