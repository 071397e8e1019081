//! `POST /containers/create`.

use super::create_body::{self, Parsed};
use super::lifecycle;
use crate::call::{self, Call, Started};
use crate::engine_call::{EngineCall, Then};
use crate::exchange::Shared;
use crate::refusal::Refusal;
use sampan_client::EngineError;
use sampan_client::engine::{self, Code, Failure, Request};
use sampan_http::answer::Answer;
use serde_json::json;

/// What the answer needs to know about the request.
struct Asked {
    name: Option<String>,
    image: String,
    has_platform: bool,
    warnings: Vec<String>,
}

/// Starts the operation.
///
/// # Errors
/// The request is not valid.
pub fn start(call: &Call<'_>, _: &mut Shared) -> call::Result {
    let (name, platform) = (call.query.get("name"), call.query.get("platform"));
    let Parsed { create, warnings } = create_body::parse(call.request.body(), name, platform)?;
    let asked = Asked {
        name: create.name.clone(),
        image: create.image.clone(),
        has_platform: platform.is_some(),
        warnings,
    };
    Ok(Started::Operation(EngineCall::start_with(
        Request::Create(Box::new(create)),
        Box::new(move |answers, _| match answers {
            Ok(answers) => Ok(Then::Answer(answer(answers, asked.warnings))),
            Err(EngineError::Failed(failure)) => failed(failure, asked),
            Err(error) => Err(error.into()),
        }),
    )))
}

fn answer(answers: Vec<engine::Answer>, mut warnings: Vec<String>) -> Answer {
    let mut new = String::new();
    for answer in answers {
        if let engine::Answer::Container { id, warnings: more, .. } = answer {
            new = id;
            warnings.extend(more);
        }
    }
    Answer::new(201, "application/json", body(&new, &warnings))
}

fn body(id: &str, warnings: &[String]) -> String {
    json!({"Id": id, "Warnings": warnings}).to_string() + "\n"
}

/// Docker's form of the failure. At status 404 docker's command line pulls the image, and tries again.
fn failed(failure: Failure, asked: Asked) -> Result<Then, Refusal> {
    match failure.code {
        Code::NotFound => Err(Refusal::not_found(format!("No such image: {}", tagged(&asked.image)))),
        Code::Conflict => {
            // The name is free, so the image is for another platform, is not complete, or its name is ambiguous.
            let otherwise = match asked.has_platform {
                true => Refusal::not_found(failure.message),
                false => failure.into(),
            };
            match asked.name {
                Some(name) => Ok(lifecycle::name_conflict(name, otherwise)),
                None => Err(otherwise),
            }
        }
        _ => Err(failure.into()),
    }
}

/// The reference with its tag, as docker names a missing image.
fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.contains([':', '@']) {
        true => image.to_owned(),
        false => format!("{image}:latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_docker_s_bytes() {
        assert_eq!(body("7a78", &[]), "{\"Id\":\"7a78\",\"Warnings\":[]}\n");
        assert_eq!(body("7a78", &["a".to_owned()]), "{\"Id\":\"7a78\",\"Warnings\":[\"a\"]}\n");
    }

    #[test]
    fn a_missing_image_is_named_with_its_tag() {
        assert_eq!(tagged("busybox"), "busybox:latest");
        assert_eq!(tagged("localhost:5000/busybox"), "localhost:5000/busybox:latest");
        assert_eq!(tagged("busybox:1"), "busybox:1");
        assert_eq!(tagged("busybox@sha256:00"), "busybox@sha256:00");
    }
}
