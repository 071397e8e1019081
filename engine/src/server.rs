//! The server behind engine.sock: the event loop, its client connections and their requests.
//!
//! [`event_loop`] owns all state and is run by `main`; [`client`] is one connection; `requests` handles the requests
//! that start, follow or cancel a job; `jobs` has their numbers and threads, `replications` the executions and policies of replication. Requests about containers are passed to [`crate::container`].

pub mod client;
pub mod event_loop;
mod executions;
mod jobs;
mod replications;
mod requests;

pub use self::event_loop::{Server, WAKER};
