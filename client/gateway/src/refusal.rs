//! Why a request fails, as docker's answers say it: a status and `{"message": …}`.

use sampan_client::EngineError;
use sampan_client::engine::{Code, Failure};
use sampan_http::answer::Answer;
use sampan_ipc::report;
use serde_json::json;
use std::io;

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// What was attempted, on what, and why it failed.
    pub message: String,
}

impl Refusal {
    /// A refusal with `status`.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Refusal { status, message: message.into() }
    }

    /// A bad parameter: 400.
    pub fn bad(message: impl Into<String>) -> Self {
        Refusal::new(400, message)
    }

    /// No such object: 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Refusal::new(404, message)
    }

    /// Something that Sampan does not have: 501. `what` is the subject of the sentence.
    pub fn missing(what: &str) -> Self {
        Refusal::new(501, format!("{what} is not supported by sampan"))
    }

    /// A request that the HTTP side refuses with `status`, as its framing or its size is not acceptable.
    pub fn of_http(status: u16) -> Self {
        let why = match status {
            413 => "the body of the request is too large",
            431 => "the head of the request is too large",
            500 => "the answer cannot be sent",
            501 => "the transfer coding of the request is not supported by sampan",
            _ => "the request is not valid HTTP/1.1",
        };
        Refusal::new(status, why)
    }

    /// The answer to the client.
    pub fn answer(&self) -> Answer {
        match self.status {
            304 => Answer::empty(304),
            status => Answer::new(status, "application/json", self.body()),
        }
    }

    /// The body of the answer.
    pub fn body(&self) -> String {
        json!({"message": self.message}).to_string() + "\n"
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let status = match failure.code {
            Code::Usage | Code::CannotRun | Code::NoCommand => 400,
            Code::NotFound => 404,
            Code::Conflict => 409,
            Code::Failed | Code::Cancelled | Code::Version => 500,
        };
        let message = match failure.hint.is_empty() {
            true => failure.message,
            false => format!("{} ({})", failure.message, failure.hint),
        };
        Refusal { status, message }
    }
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Failed(failure) => failure.into(),
            EngineError::Connect { .. } => Refusal::new(503, report::chain(&error)),
            EngineError::TooLarge { .. } | EngineError::Descriptors(_) => Refusal::bad(report::chain(&error)),
            other => Refusal::new(500, report::chain(&other)),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::new(500, report::chain(&error))
    }
}
