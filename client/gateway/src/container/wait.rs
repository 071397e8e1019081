//! `POST /containers/NAME/wait`.
//!
//! The headers are sent when the engine has registered the wait: a client that starts the container after it has read
//! them does not miss its end, however short the container lives.

use super::failure;
use crate::call::{self, Call, Started};
use crate::exchange::{Exchange, Operation, Progress, Shared};
use crate::refusal::Refusal;
use mio::Interest;
use sampan_client::engine::{self, Answers, Next, Request};
use sampan_http::answer::Answer;
use sampan_ipc::container::Condition;
use serde_json::json;
use std::time::Duration;

/// Starts the operation.
///
/// # Errors
/// The request is not valid.
pub fn start(call: &Call<'_>, name: &str, _: &mut Shared) -> call::Result {
    let condition = condition(call.query.get("condition"))?;
    Ok(Started::Operation(Box::new(Wait { name: name.to_owned(), condition, answers: None })))
}

fn condition(word: Option<&str>) -> Result<Condition, Refusal> {
    match word.unwrap_or("not-running") {
        "not-running" => Ok(Condition::NotRunning),
        "next-exit" => Ok(Condition::NextExit),
        "removed" => Ok(Condition::Removed),
        other => Err(Refusal::bad(format!("invalid condition: {other:?}"))),
    }
}

struct Wait {
    name: String,
    condition: Condition,
    answers: Option<Answers>,
}

impl Operation for Wait {
    fn step(&mut self, exchange: &mut Exchange<'_>) -> Result<Progress, Refusal> {
        let answers = match &mut self.answers {
            Some(answers) => answers,
            none => {
                let request = Request::AwaitExit { container: self.name.clone(), condition: self.condition };
                let answers = exchange.shared.engine.request(request, &[])?;
                exchange.watch(&answers, Interest::READABLE)?;
                none.insert(answers)
            }
        };
        loop {
            let next = answers.next_within(Duration::ZERO);
            match next.map_err(|error| failure::refusal(error, &self.name))? {
                Next::Nothing => return Ok(Progress::Waits),
                Next::Answer(engine::Answer::Waiting) => {
                    exchange.begin(&Answer::new(200, "application/json", ""));
                }
                Next::Answer(engine::Answer::Exit { code, error }) => {
                    exchange.send(&body(code, &error));
                }
                Next::Answer(_) | Next::End => return Ok(exchange.finish()),
            }
        }
    }
}

/// One line of JSON: the exit code, and why the container could not be started, if it could not.
fn body(code: i32, error: &str) -> Vec<u8> {
    let mut body = match error {
        "" => json!({"StatusCode": code}),
        error => json!({"StatusCode": code, "Error": {"Message": error}}),
    }
    .to_string();
    body.push('\n');
    body.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_conditions_are_docker_s() {
        assert_eq!(condition(None), Ok(Condition::NotRunning));
        assert_eq!(condition(Some("next-exit")), Ok(Condition::NextExit));
        assert_eq!(condition(Some("removed")), Ok(Condition::Removed));
        assert_eq!(condition(Some("soon")).map_err(|refusal| refusal.status), Err(400));
    }

    #[test]
    fn the_body_is_one_line() {
        assert_eq!(body(0, ""), b"{\"StatusCode\":0}\n");
        let failed = String::from_utf8(body(127, "no \"x\"")).expect("text");
        assert_eq!(failed, "{\"Error\":{\"Message\":\"no \\\"x\\\"\"},\"StatusCode\":127}\n");
    }
}
