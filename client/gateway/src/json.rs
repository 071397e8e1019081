//! Answers that are one JSON document.

use crate::refusal::Refusal;
use sampan_http::answer::Answer;
use serde::Serialize;

/// Answers 200 with `value` as JSON.
///
/// # Errors
/// The value has a shape that JSON cannot hold.
pub fn answer(value: &impl Serialize) -> Result<Answer, Refusal> {
    let mut body = serde_json::to_vec(value)
        .map_err(|error| Refusal::new(500, format!("cannot write the answer: {error}")))?;
    body.push(b'\n');
    Ok(Answer::new(200, "application/json", body))
}
