//! `POST /images/prune`.

use super::remove;
use crate::call::{self, Call, Started};
use crate::engine_call::{EngineCall, Then};
use crate::exchange::Shared;
use crate::query::Filters;
use crate::refusal::Refusal;
use sampan_client::engine::{self, Request};
use sampan_http::answer::Answer;
use sampan_ipc::pull::PruneImages;
use sampan_ipc::{report, time};
use serde_json::{Value, json};
use std::collections::HashMap;

/// Starts the operation.
///
/// # Errors
/// A filter is not valid.
pub fn start(call: &Call<'_>, _: &mut Shared) -> call::Result {
    let request = Request::PruneImages(parse(call.query.filters()?)?);
    let operation = EngineCall::start(Request::Images, move |answers, _| {
        let images = answers.into_iter().filter_map(|answer| match answer {
            engine::Answer::Images(images) => Some(images),
            _ => None,
        });
        let ids = images.flatten().map(|image| (image.digest, image.id)).collect();
        Ok(Then::Call(request, Box::new(move |result, _| Ok(Then::Answer(answer(&result?, &ids))))))
    });
    Ok(Started::Operation(operation))
}

fn answer(answers: &[engine::Answer], ids: &HashMap<String, String>) -> Answer {
    let removed = remove::removed(answers, ids);
    let freed: u64 = answers
        .iter()
        .map(|answer| match answer {
            engine::Answer::Done(done) => done.freed,
            _ => 0,
        })
        .sum();
    let removed = if removed.is_empty() { Value::Null } else { json!(removed) };
    let body = json!({"ImagesDeleted": removed, "SpaceReclaimed": freed});
    Answer::new(200, "application/json", body.to_string())
}

fn parse(filters: Filters) -> Result<PruneImages, Refusal> {
    let mut request = PruneImages::default();
    for (key, values) in filters {
        match key.as_str() {
            "dangling" => request.prune.all = !is_true(&values)?,
            "label" => request.prune.labels = values,
            "label!" => request.without_labels = values,
            "until" => request.prune.until = Some(until(&values)?),
            other => return Err(Refusal::bad(format!("invalid filter '{other}'"))),
        }
    }
    Ok(request)
}

fn is_true(values: &[String]) -> Result<bool, Refusal> {
    match values {
        [value] if matches!(value.as_str(), "true" | "1") => Ok(true),
        [value] if matches!(value.as_str(), "false" | "0") => Ok(false),
        other => Err(Refusal::bad(format!("invalid filter 'dangling={}'", other.join(",")))),
    }
}

fn until(values: &[String]) -> Result<i64, Refusal> {
    let [value] = values else {
        return Err(Refusal::bad("more than one until filter specified"));
    };
    time::parse(value, time::now())
        .map_err(|error| Refusal::bad(format!("invalid filter 'until': {}", report::chain(&error))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(key: &str, values: &[&str]) -> Filters {
        Filters::from([(key.to_owned(), values.iter().map(|value| (*value).to_owned()).collect())])
    }

    #[test]
    fn dangling_images_are_meant_unless_the_filter_is_false() {
        let all = |values: &[&str]| parse(filters("dangling", values)).map(|request| request.prune.all);
        assert!(!parse(Filters::new()).expect("valid").prune.all);
        assert_eq!((all(&["true"]), all(&["false"]), all(&["0"])), (Ok(false), Ok(true), Ok(true)));
        assert_eq!(all(&["maybe"]).expect_err("no boolean").status, 400);
        assert_eq!(parse(filters("before", &["x"])).expect_err("unknown").status, 400);
        assert_eq!(parse(filters("until", &["1", "2"])).expect_err("two").status, 400);
        assert_eq!(parse(filters("until", &["7"])).expect("a time").prune.until, Some(7_000_000_000));
    }
}
