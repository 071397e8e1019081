//! `GET /images/json`.

use crate::api_version::Version;
use crate::call::{self, Call, Started};
use crate::engine_call::{EngineCall, Then};
use crate::exchange::Shared;
use crate::json;
use crate::refusal::Refusal;
use sampan_client::docker::image_row::ImageRow;
use sampan_client::engine::{self, ImageDetail, ImageUsage, Request};
use sampan_http::answer::Answer;

use super::selection::Selection;

/// The first version of the API whose clients know an image without a name by its empty list of names.
const EMPTY_NAMES: Version = Version { minor: 43 };
/// The first version of the API without the size of an image under a second key.
const ONE_SIZE: Version = Version { minor: 44 };

/// Lists the images that the filters select. `all` changes nothing: all images of the store are whole images.
///
/// # Errors
/// A filter is not valid.
pub fn start(call: &Call<'_>, shared: &mut Shared) -> call::Result {
    let _ = shared;
    let selection = Selection::parse(&call.query)?;
    let (version, counts) = (call.version, call.query.is_set("shared-size"));
    Ok(Started::Operation(EngineCall::start(Request::ImageDetails, move |answers, _| {
        let mut details = details(answers);
        selection.apply(&mut details)?;
        if !counts {
            return rows(details.iter().map(ImageRow::new).collect(), version).map(Then::Answer);
        }
        let finish = move |answers: Result<Vec<engine::Answer>, _>, _: &mut Shared| {
            let usage = usage(answers?);
            rows(details.iter().map(|detail| counted(detail, &usage)).collect(), version).map(Then::Answer)
        };
        Ok(Then::Call(Request::Usage, Box::new(finish)))
    })))
}

/// The images in the engine's answers.
pub fn details(answers: Vec<engine::Answer>) -> Vec<ImageDetail> {
    let details = answers.into_iter().filter_map(|answer| match answer {
        engine::Answer::ImageDetails(part) => Some(part),
        _ => None,
    });
    details.flatten().collect()
}

/// The disk usage of images in the engine's answers.
pub fn usage(answers: Vec<engine::Answer>) -> Vec<ImageUsage> {
    let usage = answers.into_iter().filter_map(|answer| match answer {
        engine::Answer::ImageUsage(part) => Some(part),
        _ => None,
    });
    usage.flatten().collect()
}

/// Describes an image with the bytes that it shares. An image that came after the measurement is not counted.
pub fn counted(detail: &ImageDetail, usage: &[ImageUsage]) -> ImageRow {
    match usage.iter().find(|one| one.image.digest == detail.image.digest) {
        Some(usage) => ImageRow::with_usage(detail, usage.size, usage.unique),
        None => ImageRow::new(detail),
    }
}

/// Answers with the rows in the form that clients of `version` know.
fn rows(mut rows: Vec<ImageRow>, version: Version) -> Result<Answer, Refusal> {
    if version < EMPTY_NAMES {
        for row in rows.iter_mut().filter(|row| row.repo_tags.is_empty() && row.repo_digests.is_empty()) {
            row.repo_tags.push("<none>:<none>".to_owned());
            row.repo_digests.push("<none>@<none>".to_owned());
        }
    }
    for row in rows.iter_mut().filter(|_| version < ONE_SIZE) {
        row.virtual_size = Some(row.size);
    }
    json::answer(&rows)
}
