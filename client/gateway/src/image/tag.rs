//! `POST /images/NAME/tag`.

use super::lookup;
use super::name::Name;
use crate::call::{self, Call, Started};
use crate::engine_call::Then;
use crate::exchange::Shared;
use crate::refusal::Refusal;
use sampan_client::engine::Request;
use sampan_http::answer::Answer;

/// Starts the operation.
///
/// # Errors
/// The request is not valid.
pub fn start(call: &Call<'_>, name: &str, _: &mut Shared) -> call::Result {
    let Some(repository) = call.query.get("repo") else {
        return Err(Refusal::bad("the new name (repo) of the image is missing"));
    };
    let mut target = Name::parse(repository)?;
    if target.digest.is_some() {
        return Err(Refusal::bad("refusing to create a tag with a digest reference"));
    }
    if let Some(tag) = call.query.get("tag") {
        target.tag = Some(tag.to_owned());
    }
    let target = target.full();
    let operation = lookup::start(name, move |found, _| {
        let request = Request::Tag { source: found.name, target };
        let finish = |result: Result<_, _>| result.map(|_| Then::Answer(Answer::empty(201)));
        Ok(Then::Call(request, Box::new(move |result, _| Ok(finish(result)?))))
    });
    Ok(Started::Operation(operation))
}
