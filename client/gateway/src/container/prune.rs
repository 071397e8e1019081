//! `POST /containers/prune`.

use crate::call::{self, Call, Started};
use crate::engine_call::{EngineCall, Then};
use crate::exchange::Shared;
use crate::query::Filters;
use crate::refusal::Refusal;
use sampan_client::engine::{self, Request};
use sampan_http::answer::Answer;
use sampan_ipc::time;
use serde_json::json;
use std::rc::Rc;

/// Starts the operation.
///
/// # Errors
/// The request is not valid, or another prune of containers runs.
pub fn start(call: &Call<'_>, shared: &mut Shared) -> call::Result {
    let filters = filters(&call.query.filters()?, time::now())?;
    if shared.container_prune.strong_count() > 0 {
        return Err(Refusal::new(409, "a prune operation is already running"));
    }
    let running = Rc::new(());
    shared.container_prune = Rc::downgrade(&running);
    Ok(Started::Operation(EngineCall::start(Request::PruneContainers { filters }, move |answers, _| {
        drop(running);
        Ok(Then::Answer(answer(&answers)))
    })))
}

/// The engine's form of the filters.
fn filters(asked: &Filters, now: i64) -> Result<Vec<String>, Refusal> {
    let mut filters = Vec::new();
    for (key, values) in asked {
        match key.as_str() {
            "until" => match values.as_slice() {
                [] => {}
                [until] => {
                    let until = time::parse(until, now)
                        .map_err(|error| Refusal::bad(format!("invalid filter until={until:?}: {error}")))?;
                    filters.push(format!("until={until}"));
                }
                _ => return Err(Refusal::bad("more than one until filter specified")),
            },
            "label" => filters.extend(values.iter().map(|value| format!("label={value}"))),
            "label!" => filters.extend(values.iter().map(|value| format!("label!={value}"))),
            other => return Err(Refusal::bad(format!("invalid filter '{other}'"))),
        }
    }
    Ok(filters)
}

fn answer(answers: &[engine::Answer]) -> Answer {
    let (mut removed, mut freed) = (None, 0);
    if let Some(engine::Answer::Done(done)) = answers.last() {
        removed = Some(&done.removed).filter(|removed| !removed.is_empty());
        freed = done.freed;
    }
    let body = json!({"ContainersDeleted": removed, "SpaceReclaimed": freed});
    Answer::new(200, "application/json", body.to_string() + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Query;

    #[test]
    fn filters_of_a_prune_are_those_of_docker() {
        let of = |text: &str| {
            let asked = Query::parse(&format!("filters={text}")).filters().expect("JSON");
            filters(&asked, 10_000_000_000)
        };
        assert_eq!(
            of(r#"{"label":["a=b"],"label!":["c"]}"#),
            Ok(vec!["label=a=b".into(), "label!=c".into()])
        );
        assert_eq!(of(r#"{"until":["1"]}"#), Ok(vec!["until=1000000000".into()]));
        for text in [r#"{"until":["1","2"]}"#, r#"{"until":["never"]}"#, r#"{"name":["a"]}"#] {
            assert_eq!(of(text).map_err(|refusal| refusal.status), Err(400), "{text}");
        }
    }
}
