//! `DELETE /images/NAME`.

use super::lookup;
use super::name::familiar;
use crate::call::{self, Call, Started};
use crate::engine_call::Then;
use crate::exchange::Shared;
use sampan_client::engine::{self, Request};
use sampan_http::answer::Answer;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Starts the operation. `noprune` keeps parents of an image, which images of the engine do not have.
///
/// # Errors
/// The request is not valid.
pub fn start(call: &Call<'_>, name: &str, _: &mut Shared) -> call::Result {
    let force = call.query.is_set("force");
    let operation = lookup::start(name, move |found, _| {
        let ids = HashMap::from([(found.digest, found.id)]);
        let request = Request::Remove { name: found.name, force };
        let finish = move |result: Result<Vec<engine::Answer>, _>, _: &mut Shared| {
            let removed = json!(removed(&result?, &ids)).to_string();
            Ok(Then::Answer(Answer::new(200, "application/json", removed)))
        };
        Ok(Then::Call(request, Box::new(finish)))
    });
    Ok(Started::Operation(operation))
}

/// What the engine has removed, as docker reports it: names first, then images by their IDs. `ids` has the IDs by the
/// digests of the manifests.
pub(super) fn removed(answers: &[engine::Answer], ids: &HashMap<String, String>) -> Vec<Value> {
    let removed = answers.iter().filter_map(|answer| match answer {
        engine::Answer::Done(done) => Some(&done.removed),
        _ => None,
    });
    let entry = |name: &String| match ids.get(name) {
        Some(id) => json!({"Deleted": id}),
        None if name.starts_with("sha256:") => json!({"Deleted": name}),
        None => json!({"Untagged": familiar(name)}),
    };
    removed.flatten().map(entry).collect()
}
