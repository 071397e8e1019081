//! `POST /exec/ID/resize`.

use crate::call::{self, Call, Started};
use crate::exchange::Shared;
use crate::refusal::Refusal;
use sampan_http::answer::Answer;

/// Sets the size of an execution's terminal; of one that is being started, when it runs.
///
/// # Errors
/// There is no such execution, it does not run, or the size is not valid.
pub fn start(call: &Call<'_>, name: &str, shared: &mut Shared) -> call::Result {
    let side = |key: &str| {
        let value = call.query.number(key)?.and_then(|value| u16::try_from(value).ok());
        value.ok_or_else(|| Refusal::bad(format!("{key} is missing, or no size of a terminal")))
    };
    let (rows, columns) = (side("h")?, side("w")?);
    let execution = shared.executions.find(name)?;
    if !execution.is_running() {
        return Err(Refusal::new(409, format!("the execution {name} is not running")));
    }
    execution.resize(rows, columns);
    Ok(Started::Answer(Answer::empty(200)))
}
