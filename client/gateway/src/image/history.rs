//! `GET /images/NAME/history`.

use super::lookup;
use crate::call::{self, Call, Started};
use crate::engine_call::Then;
use crate::exchange::Shared;
use crate::image::inspect::Platform;
use crate::json;
use crate::refusal::Refusal;
use sampan_client::docker::history::history;
use sampan_client::engine::{Answer, Request};

/// Lists the steps in which an image was built, the newest first.
///
/// # Errors
/// The platform is not valid.
pub fn start(call: &Call<'_>, name: &str, shared: &mut Shared) -> call::Result {
    let _ = shared;
    let platform = Platform::parse(call)?;
    Ok(Started::Operation(lookup::start(name, move |found, _| {
        let request = Request::History { name: found.name.clone() };
        Ok(Then::Call(request, Box::new(move |answers, _| document(answers?, platform, &found.name))))
    })))
}

/// Makes the document of the engine's answers.
fn document(answers: Vec<Answer>, platform: Option<Platform>, name: &str) -> Result<Then, Refusal> {
    let (mut image, mut steps) = (None, Vec::new());
    for answer in answers {
        match answer {
            Answer::Images(mut images) => image = images.pop(),
            Answer::History(part) => steps.extend(part),
            _ => {}
        }
    }
    let image = image.ok_or_else(|| Refusal::new(500, "the engine did not describe the image"))?;
    if let Some(platform) = platform {
        platform.check(name, &image.platform)?;
    }
    Ok(Then::Answer(json::answer(&history(&image, &steps))?))
}
