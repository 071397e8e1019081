//! `DELETE /containers/NAME`.

use crate::exchange::Shared;
use crate::refusal::Refusal;
use crate::route::{self, Call};

/// Starts the operation.
///
/// # Errors
/// The request is not valid.
pub fn start(call: &Call<'_>, name: &str, shared: &mut Shared) -> route::Result {
    let _ = (call, name, shared);
    Err(Refusal::missing("this endpoint"))
}
