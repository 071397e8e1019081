//! The event loop: ports, connections, routes, long polls.
//!
//! Run by `main`; owns all managers. Events only mark readiness; the work follows in a fixed order. Never blocks.
//!
//! | module | what it owns |
//! |---|---|
//! | [`event_loop`] | the loop, its deadlines, its connections |
//! | [`core`] | the managers, requests that wait for an answer, threads that probe origins |
//! | [`control`] | the routes of the control port |
//! | [`download`] | the routes of the download port |
//! | [`waiters`] | requests that wait for a piece or a newer version |
//! | [`message`] | the messages of threads to the loop |
//! | [`tls`] | the stream of an encrypted connection |

pub mod control;
pub mod core;
pub mod download;
pub mod event_loop;
pub mod message;
pub mod tls;
pub mod waiters;

pub use event_loop::Server;
