//! The server's side of one HTTP/1.1 connection, and byte ranges.
//!
//! Called by programs that serve blobs, and by the gateway for docker's clients. [`connection`] reads requests and writes
//! answers on one stream; its functions for streamed answers and bodies are in `stream`. [`request`] bounds and frames a
//! request, [`answer`] is the answer to one, and [`transport`] is the stream.
//! [`range`] parses the `Range` header and checks `Content-Range`. Never listens, and gives paths no meaning:
//! callers do both.

#![forbid(unsafe_code)]
// A peer's bytes must never cause a panic.
#![cfg_attr(not(test), warn(clippy::expect_used, clippy::indexing_slicing))]

pub mod answer;
pub mod connection;
pub mod range;
pub mod request;
mod stream;
pub mod transport;
