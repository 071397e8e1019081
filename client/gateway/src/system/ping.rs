//! `GET /_ping`.

use crate::refusal::Refusal;
use crate::route::{self, Call};

/// Starts the operation.
///
/// # Errors
/// The request is not valid.
pub fn start(call: &Call<'_>) -> route::Result {
    let _ = call;
    Err(Refusal::missing("this endpoint"))
}
