//! `GET /containers/NAME/json`. The engine makes the document.

use crate::call::{self, Call, Started};
use crate::container::failure;
use crate::engine_call::{EngineCall, Finish, Then};
use crate::exchange::Shared;
use crate::image::inspect::document;
use sampan_client::engine::Request;
use sampan_http::answer::Answer;

/// Describes a container.
///
/// # Errors
/// None.
pub fn start(call: &Call<'_>, name: &str, shared: &mut Shared) -> call::Result {
    let _ = shared;
    let request = Request::InspectContainer { container: name.to_owned(), size: call.query.is_set("size") };
    let name = name.to_owned();
    let finish: Finish = Box::new(move |answers, _| {
        let text = document(answers.map_err(|error| failure::refusal(error, &name))?)?;
        // The engine answers with a list of one container, as docker's command line prints it.
        let one = text.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&text);
        Ok(Then::Answer(Answer::new(200, "application/json", format!("{one}\n"))))
    });
    Ok(Started::Operation(EngineCall::start_with(request, finish)))
}
