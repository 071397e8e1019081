//! The server behind engine.sock: the event loop, its client connections and their requests.
//!
//! [`event_loop`] owns all state and is run by `main`; [`client`] is one connection; `requests` handles the requests
//! that start, follow or cancel a job; `replications` has the executions and policies of replication. Requests about containers are passed to [`crate::container`].

pub mod client;
pub mod event_loop;
mod executions;
mod replications;
mod requests;

pub use self::event_loop::{Server, WAKER};
