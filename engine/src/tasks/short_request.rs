//! Requests that are not jobs: a login, and short requests about images. Each function runs on a thread and sends the
//! request's answers.

use crate::container::image_users::ImageUsers;
use crate::context::Shared;
use crate::error;
use crate::image::{login, queries};
use crate::outbox::Message;
use sampan_ipc::engine::{Answer, Code, Failure, Login, Request};
use sampan_job::cancel::Cancel;

/// Checks a login at its registry and sends the answer; call it on a thread of its own.
pub fn log_in(shared: &Shared, client: usize, login: &Login, cancel: &Cancel) {
    let answer = login::login(&shared.config, login, cancel).map_or_else(Answer::Error, Answer::Done);
    shared.outbox.send(Message::Answers { client, answers: vec![answer] });
}

/// Answers a short request about images; call it on a thread outside the event loop.
pub fn answer(shared: &Shared, client: usize, request: &Request, users: &ImageUsers) {
    let answers = match answers(shared, request, users) {
        Ok(answers) => answers,
        Err(failure) => vec![Answer::Error(failure)],
    };
    shared.outbox.send(Message::Answers { client, answers });
}

fn answers(shared: &Shared, request: &Request, users: &ImageUsers) -> Result<Vec<Answer>, Failure> {
    match request {
        Request::Images => queries::list(shared),
        Request::Inspect { name } => queries::inspect(shared, name),
        Request::Tag { source, target } => queries::tag(shared, source, target),
        Request::Remove { name, force } => queries::remove(shared, name, *force, &|digest| users.of(digest)),
        Request::Usage => queries::usage(shared, users.usage()),
        Request::Prune(request) => queries::prune(shared, request),
        _ => Err(error::new(Code::Failed, "this request is not a short request about images", "")),
    }
}
