//! An answer to a request of the control port: a status and a body in JSON.
//!
//! Made by the managers, and sent by the event loop. Knows no connection.

use crate::v1;

/// An answer in JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// An answer with HTTP status 200.
    pub fn ok(body: Vec<u8>) -> Self {
        Reply { status: 200, body }
    }

    /// An answer with HTTP status 200 and a code of Dragonfly.
    pub fn code(code: u16, message: &str) -> Self {
        Reply::ok(v1::message(code, message))
    }

    /// An answer that is an error by its HTTP status.
    pub fn error(status: u16, message: &str) -> Self {
        Reply { status, body: v1::error(status, message) }
    }
}
