//! A request as operations see it, and what a request leads to.
//!
//! Used by `route`, which makes the call, and by the operations.

use crate::api_version::Version;
use crate::exchange::Operation;
use crate::query::Query;
use crate::refusal::Refusal;
use http::Request;
use sampan_http::answer::Answer;

/// What a request leads to.
pub enum Started {
    /// The answer.
    Answer(Answer),
    /// An operation that answers later.
    Operation(Box<dyn Operation>),
}

impl From<Refusal> for Started {
    fn from(refusal: Refusal) -> Self {
        Started::Answer(refusal.answer())
    }
}

/// A request as operations see it.
pub struct Call<'a> {
    /// The version in the path.
    pub version: Version,
    /// The parameters.
    pub query: Query,
    /// The method, the headers and the body.
    pub request: &'a Request<&'a [u8]>,
}

/// What an endpoint does. `name` is the object in the path; empty if there is none.
pub type Result = std::result::Result<Started, Refusal>;
