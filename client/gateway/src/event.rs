//! The stream of events.
//!
//! | module | owns |
//! |---|---|
//! | [`stream`] | the operation: from monitord's events to the client's messages |
//! | [`request`] | what a request asks for: where the stream begins and ends |
//! | [`filter`] | docker's filters, applied to docker's objects |
//! | [`mod@format`] | media types: how a message is framed |

pub mod filter;
pub mod format;
pub mod request;
pub mod stream;
