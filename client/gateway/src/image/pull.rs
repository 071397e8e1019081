//! `POST /images/create?fromImage=`.

use super::job_stream::{JobStream, Messages};
use super::name::{Name, familiar};
use super::pull_messages::PullMessages;
use super::registry_auth;
use crate::call::{self, Call, Started};
use crate::exchange::Shared;
use sampan_client::engine::{Answer, Pull, Request};
use std::time::Instant;

/// Starts the operation.
///
/// # Errors
/// The request is not valid.
pub fn start(call: &Call<'_>, _: &mut Shared) -> call::Result {
    let typed = call.query.get("fromImage").unwrap_or_default();
    // `docker pull -a` of old command lines sends a colon without a tag.
    let mut name = Name::parse(typed.strip_suffix(':').unwrap_or(typed))?;
    match call.query.get("tag") {
        Some(digest) if digest.contains(':') => (name.tag, name.digest) = (None, Some(digest.to_owned())),
        Some(tag) => (name.tag, name.digest) = (Some(tag.to_owned()), None),
        None => {}
    }
    let pull = Pull {
        reference: name.full(),
        platform: call.query.get("platform").map(str::to_owned),
        insecure: name.is_on_loopback(),
        all_tags: name.tag.is_none() && name.digest.is_none(),
        credentials: registry_auth::credentials(call.request.headers(), &name.host)?,
        ..Pull::default()
    };
    let messages = PullMessages::new(familiar(&pull.reference).to_owned());
    Ok(Started::Operation(Box::new(JobStream::new(Request::PullKept(pull), messages))))
}

impl Messages for PullMessages {
    fn on_answer(&mut self, answer: Answer, now: Instant) {
        self.on_answer(answer, now);
    }

    fn next(&mut self, now: Instant) -> Option<String> {
        self.next(now)
    }

    fn due(&self) -> Option<Instant> {
        self.due()
    }
}
