//! `POST /containers/NAME/start`, `stop`, `restart`, `kill`, `pause`, `unpause`, `rename`.

use super::failure;
use crate::call::{self, Call, Started};
use crate::engine_call::{EngineCall, Then};
use crate::exchange::Shared;
use crate::query::Query;
use crate::refusal::Refusal;
use sampan_client::EngineError;
use sampan_client::engine::{self, Answer, Code, Request, Start, Stop};
use sampan_http::answer::Answer as HttpAnswer;

/// Starts the operation.
///
/// # Errors
/// The request is not valid.
pub fn start(call: &Call<'_>, name: &str, verb: &str, _: &mut Shared) -> call::Result {
    let request = request(&call.query, name, verb)?;
    let renamed = call.query.get("name").unwrap_or_default().to_owned();
    let name = name.to_owned();
    Ok(Started::Operation(EngineCall::start_with(
        request,
        Box::new(move |answers, _| match answers {
            Ok(answers) => Ok(Then::Answer(HttpAnswer::empty(status(&answers)))),
            Err(error) => conflict(error, &name, renamed),
        }),
    )))
}

fn request(query: &Query, name: &str, verb: &str) -> Result<Request, Refusal> {
    let container = name.to_owned();
    let stop = || -> Result<Stop, Refusal> {
        let signal = query.get("signal").map(str::to_owned);
        Ok(Stop { container: name.to_owned(), timeout: query.number("t")?, signal })
    };
    Ok(match verb {
        "start" if query.get("checkpoint").is_some() => return Err(Refusal::missing("checkpoint")),
        "start" => Request::Start(Start { container, ..Start::default() }),
        "stop" => Request::Stop(stop()?),
        "restart" => Request::Restart(stop()?),
        "kill" => Request::Kill { container, signal: query.get("signal").unwrap_or_default().to_owned() },
        "pause" => Request::Pause { container },
        "unpause" => Request::Unpause { container },
        "rename" => match query.get("name").map(|name| name.trim_start_matches('/')) {
            None | Some("") => return Err(Refusal::bad("New container name cannot be empty")),
            Some(name) => Request::Rename { container, name: name.to_owned() },
        },
        _ => return Err(Refusal::not_found(format!("page not found: POST /containers/{name}/{verb}"))),
    })
}

/// 304 if the container was in the wanted state already.
fn status(answers: &[Answer]) -> u16 {
    match answers.last() {
        Some(Answer::Done(done)) if done.unchanged => 304,
        _ => 204,
    }
}

/// Docker's form of the failure. If `wanted` is a name that another container has, the answer names that container.
fn conflict(error: EngineError, name: &str, wanted: String) -> Result<Then, Refusal> {
    match error {
        EngineError::Failed(failure) if failure.code == Code::Conflict && !wanted.is_empty() => {
            Ok(name_conflict(wanted, failure.into()))
        }
        other => Err(failure::refusal(other, name)),
    }
}

/// Asks which container has the name `wanted`, and refuses with docker's words; refuses with `otherwise` if none has.
pub(super) fn name_conflict(wanted: String, otherwise: Refusal) -> Then {
    let wanted = wanted.trim_start_matches('/').to_owned();
    let request = Request::InspectContainer { container: wanted.clone(), size: false };
    let finish = move |answers: Result<Vec<engine::Answer>, EngineError>, _: &mut Shared| {
        let owner = answers.unwrap_or_default().into_iter().find_map(|answer| match answer {
            Answer::Json(json) => id_of_named(&json, &wanted),
            _ => None,
        });
        Err(match owner {
            None => otherwise,
            Some(id) => Refusal::new(
                409,
                format!(
                    "Conflict. The container name \"/{wanted}\" is already in use by container \"{id}\". You have to \
                     remove (or rename) that container to be able to reuse that name."
                ),
            ),
        })
    };
    Then::Call(request, Box::new(finish))
}

/// The ID in the engine's description of a container, a list of one, if the container's name is `name`.
fn id_of_named(json: &str, name: &str) -> Option<String> {
    let list: serde_json::Value = serde_json::from_str(json).ok()?;
    let read = list.get(0)?;
    let has_name =
        read.get("Name").and_then(|of| of.as_str()).map(|of| of.trim_start_matches('/')) == Some(name);
    read.get("Id").and_then(|id| id.as_str()).filter(|_| has_name).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_client::engine::Done;

    #[test]
    fn parameters_become_requests_of_the_engine() {
        let of = |query: &str, verb: &str| request(&Query::parse(query), "c", verb);
        let stop = |timeout, signal: Option<&str>| Stop {
            container: "c".to_owned(),
            timeout,
            signal: signal.map(str::to_owned),
        };
        assert_eq!(of("t=3&signal=INT", "stop"), Ok(Request::Stop(stop(Some(3), Some("INT")))));
        assert_eq!(of("t=-1", "restart"), Ok(Request::Restart(stop(Some(-1), None))));
        assert_eq!(of("t=x", "stop").map_err(|refusal| refusal.status), Err(400));
        let kill = Request::Kill { container: "c".to_owned(), signal: String::new() };
        assert_eq!(of("", "kill"), Ok(kill));
        let rename = Request::Rename { container: "c".to_owned(), name: "d".to_owned() };
        assert_eq!(of("name=/d", "rename"), Ok(rename));
        assert_eq!(of("", "rename").map_err(|refusal| refusal.status), Err(400));
        assert_eq!(of("checkpoint=a", "start").map_err(|refusal| refusal.status), Err(501));
    }

    #[test]
    fn a_container_in_the_wanted_state_is_not_modified() {
        let done = |unchanged| [Answer::Done(Done { unchanged, ..Done::default() })];
        assert_eq!((status(&done(true)), status(&done(false))), (304, 204));
    }

    #[test]
    fn only_the_owner_of_the_name_is_named() {
        assert_eq!(id_of_named(r#"[{"Id":"a1","Name":"/web"}]"#, "web"), Some("a1".to_owned()));
        assert_eq!(id_of_named(r#"[{"Id":"web1","Name":"/other"}]"#, "web"), None);
        assert_eq!(id_of_named("x", "web"), None);
    }
}
