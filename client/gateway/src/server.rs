//! The event loop and the clients' connections.

pub mod client;
pub mod event_loop;
mod quota;
