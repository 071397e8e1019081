//! Finds an image by what a client of docker calls it: a name of docker first, then whatever the engine knows by it.

use super::name::Name;
use crate::engine_call::{EngineCall, Finish, Then};
use crate::exchange::{Operation, Shared};
use crate::refusal::Refusal;
use sampan_client::EngineError;
use sampan_client::engine::{Answer, Code, Request};
use serde::Deserialize;

/// An image of the store.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Found {
    /// The name by which the engine has found the image.
    #[serde(skip)]
    pub(crate) name: String,
    /// The digest of the config, which is the ID for clients of docker.
    pub(crate) id: String,
    /// The digest of the manifest.
    pub(crate) digest: String,
    /// The engine's document about the image.
    #[serde(skip)]
    pub(crate) document: String,
}

/// Starts an operation on the image that the client calls `typed`: `then` gets the image.
pub(crate) fn start(
    typed: &str,
    then: impl FnOnce(Found, &mut Shared) -> Result<Then, Refusal> + 'static,
) -> Box<dyn Operation> {
    // `sha256:…` and its beginnings are no names of docker.
    let full = Name::parse(typed).ok().filter(|name| name.path != "library/sha256").map(|name| name.full());
    let typed = typed.to_owned();
    let Some(full) = full else { return EngineCall::start_with(inspect(&typed), last(typed, then)) };
    let request = inspect(&full);
    EngineCall::start_with(
        request,
        Box::new(move |result, shared| match result {
            Err(error) if is_absent(&error) => Ok(Then::Call(inspect(&typed), last(typed, then))),
            other => then(found(full, &other?), shared),
        }),
    )
}

fn inspect(name: &str) -> Request {
    Request::Inspect { name: name.to_owned() }
}

/// What follows the last attempt.
fn last(typed: String, then: impl FnOnce(Found, &mut Shared) -> Result<Then, Refusal> + 'static) -> Finish {
    Box::new(move |result, shared| match result {
        // The command line of docker looks for these words.
        Err(error) if is_absent(&error) => Err(Refusal::not_found(format!("No such image: {typed}"))),
        other => then(found(typed, &other?), shared),
    })
}

fn is_absent(error: &EngineError) -> bool {
    // A name that the engine's grammar does not allow is the name of no image.
    matches!(error, EngineError::Failed(failure) if matches!(failure.code, Code::NotFound | Code::Usage))
}

fn found(name: String, answers: &[Answer]) -> Found {
    let json = answers.iter().find_map(|answer| match answer {
        Answer::Json(json) => Some(json),
        _ => None,
    });
    let document = json.cloned().unwrap_or_default();
    Found { name, document: document.clone(), ..serde_json::from_str(&document).unwrap_or_default() }
}
