//! The server's side of one HTTP/1.1 connection, and ranges of bytes.
//!
//! [`connection`] reads requests and writes answers on one socket; [`range`] parses and checks the headers that name
//! a part of a body. Knows neither listeners nor what a path means: that is the caller's.

#![forbid(unsafe_code)]

pub mod connection;
pub mod range;
