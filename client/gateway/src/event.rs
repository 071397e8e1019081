//! The stream of events.

pub mod stream;
