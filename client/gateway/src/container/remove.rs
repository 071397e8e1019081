//! `DELETE /containers/NAME`.

use super::failure;
use crate::call::{self, Call, Started};
use crate::engine_call::{EngineCall, Then};
use crate::exchange::Shared;
use crate::refusal::Refusal;
use sampan_client::EngineError;
use sampan_client::engine::{Code, Request};
use sampan_http::answer::Answer;

/// Starts the operation. The parameter `v` has no effect: no container has anonymous volumes.
///
/// # Errors
/// The request is not valid.
pub fn start(call: &Call<'_>, name: &str, _: &mut Shared) -> call::Result {
    if call.query.is_set("link") {
        return Err(Refusal::missing("removing a link"));
    }
    let request = Request::RemoveContainer { container: name.to_owned(), force: call.query.is_set("force") };
    let name = name.to_owned();
    Ok(Started::Operation(EngineCall::start_with(
        request,
        Box::new(move |answers, _| match answers {
            Ok(_) => Ok(Then::Answer(Answer::empty(204))),
            Err(EngineError::Failed(failure)) if failure.code == Code::Conflict => Err(Refusal::new(
                409,
                format!(
                    "cannot remove container \"/{name}\": {}: stop the container before removing or force remove",
                    failure.message
                ),
            )),
            Err(error) => Err(failure::refusal(error, &name)),
        }),
    )))
}
