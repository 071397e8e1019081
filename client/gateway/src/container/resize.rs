//! `POST /containers/NAME/resize`, and the size that `POST /exec/ID/resize` has as well.

use super::failure;
use crate::call::{self, Call, Started};
use crate::engine_call::{EngineCall, Then};
use crate::exchange::{Operation, Shared};
use crate::query::Query;
use crate::refusal::Refusal;
use sampan_client::engine::Request;
use sampan_http::answer::Answer;

/// Starts the operation.
///
/// # Errors
/// The request is not valid.
pub fn start(call: &Call<'_>, name: &str, _: &mut Shared) -> call::Result {
    Ok(Started::Operation(resize(name, "", size(&call.query)?)))
}

/// Resizes the terminal of `execution` in the container `name`; that of process 1 if `execution` is empty.
pub(crate) fn resize(name: &str, execution: &str, (rows, columns): (u16, u16)) -> Box<dyn Operation> {
    let (container, execution) = (name.to_owned(), execution.to_owned());
    let request = Request::Resize { container: container.clone(), execution, rows, columns };
    EngineCall::start_with(
        request,
        Box::new(move |answers, _| match answers {
            Ok(_) => Ok(Then::Answer(Answer::empty(200))),
            Err(error) => Err(failure::refusal(error, &container)),
        }),
    )
}

/// Rows and columns in the parameters `h` and `w`.
///
/// # Errors
/// A parameter is missing, or no number of at most 16 bits.
pub(crate) fn size(query: &Query) -> Result<(u16, u16), Refusal> {
    let of = |key: &str| {
        let value = query.get(key).ok_or_else(|| Refusal::bad(format!("the parameter {key} is missing")))?;
        value.parse().map_err(|_| Refusal::bad(format!("{key}={value:?} is not a number up to 65535")))
    };
    Ok((of("h")?, of("w")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_two_numbers() {
        assert_eq!(size(&Query::parse("h=24&w=80")), Ok((24, 80)));
        for text in ["h=24", "w=80", "h=-1&w=80", "h=24&w=65536", "h=a&w=1"] {
            assert_eq!(size(&Query::parse(text)).map_err(|refusal| refusal.status), Err(400), "{text}");
        }
    }
}
