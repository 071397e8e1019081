//! Requests that are not jobs: a login, and short requests about images. Each function runs on a thread and sends the
//! request's answers.

use crate::container::image_users::ImageUsers;
use crate::context::Shared;
use crate::error;
use crate::image::{login, queries};
use crate::outbox::Message;
use sampan_ipc::engine::{Answer, Code, Done, Failure, Login, Request};
use sampan_ipc::replication::{Blob, Listing, State};
use sampan_job::cancel::Cancel;
use sampan_replication::command::full_name;

/// Checks a login at its registry and sends the answer, before it the registry's status if `with_status`; call it on a
/// thread of its own.
pub fn log_in(shared: &Shared, client: usize, login: &Login, with_status: bool, cancel: &Cancel) {
    let answers = match login::login(&shared.config, login, cancel) {
        Ok(done) => vec![Answer::Done(done)],
        Err(refused) => {
            let status = refused.registry_status.filter(|_| with_status).map(Answer::RegistryStatus);
            status.into_iter().chain([Answer::Error(refused.failure)]).collect()
        }
    };
    shared.outbox.send(Message::Answers { client, answers });
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
        Request::ImageDetails => queries::details(shared, &|digest| users.of(digest)),
        Request::Inspect { name } => queries::inspect(shared, name),
        Request::History { name } => queries::history(shared, name),
        Request::Tag { source, target } => queries::tag(shared, source, target),
        Request::Remove { name, force } => queries::remove(shared, name, *force, &|digest| users.of(digest)),
        Request::Usage => queries::usage(shared, users.usage()),
        Request::Prune(request) => queries::prune(shared, request, &[]),
        Request::PruneImages(request) => queries::prune(shared, &request.prune, &request.without_labels),
        Request::Executions(listing) => Ok(executions(shared, listing)),
        Request::Execution { id, .. } => show_execution(shared, *id),
        _ => Err(error::new(Code::Failed, "this request is not a short request about images", "")),
    }
}

/// Most executions, or artifacts, of one frame.
const PER_FRAME: usize = 500;

fn executions(shared: &Shared, listing: &Listing) -> Vec<Answer> {
    let all = shared.replication.journals.list(listing);
    let frames = all.chunks(PER_FRAME).map(|part| Answer::Executions(part.to_vec()));
    frames.chain([Answer::Done(Done::default())]).collect()
}

fn show_execution(shared: &Shared, id: u64) -> Result<Vec<Answer>, Failure> {
    let Some(found) = shared.replication.journals.find(id) else {
        let message = format!("there is no execution {id}");
        return Err(error::new(Code::NotFound, message, "'sampan replication ls' lists executions"));
    };
    let execution = found.execution;
    let (source, destination) = (execution.source.clone(), execution.destination.clone());
    let mut answers = vec![Answer::Execution(Box::new(execution))];
    let journal = shared.replication.journals.get(id);
    let sessions = journal.map(|journal| journal.read(|model| model.sessions.clone())).unwrap_or_default();
    for (mut task, mut artifacts) in found.tasks {
        let copied = artifacts.iter_mut().find(|artifact| artifact.state == State::TransferBlob);
        if let Some(artifact) = copied {
            // The blobs in flight are not decided, so that only their sessions are known.
            let own = sessions.values().filter(|session| session.repository == task.destination);
            artifact.blobs.extend(own.map(|session| Blob {
                digest: session.digest.clone(),
                size: session.size,
                sent: session.offset,
                attempts: 1,
                ..Blob::default()
            }));
        }
        task.source = full_name(&source, &task.source);
        task.destination = full_name(&destination, &task.destination);
        answers.push(Answer::Task(Box::new(task)));
        answers.extend(artifacts.chunks(PER_FRAME).map(|part| Answer::Artifacts(part.to_vec())));
    }
    answers.push(Answer::Done(Done::default()));
    Ok(answers)
}
