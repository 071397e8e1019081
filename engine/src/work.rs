//! What the engine's threads do, and what they announce: between the event loop and the modules that know how.

pub mod archives;
mod pulling;
mod pushing;

pub use self::pulling::PullTask;
use crate::config::Config;
use crate::container::news::Outcome;
use crate::container::rootfs;
use crate::container::users::Users;
use crate::failure;
use crate::import::{self, ImportError, ImportRequest};
use crate::login;
use crate::prune;
use crate::reach;
use crate::room::Room;
use crate::serve::{self, ServeError};
use crate::verify::{self, Verify, VerifyError};
use mio::Waker;
use sampan_ipc::announce::Announcer;
use sampan_ipc::engine::{Answer, Code, Done, Failure, Login, Prune, Request};
use sampan_ipc::paging;
use sampan_job::cancel::Cancel;
use sampan_job::limits::Limits;
use sampan_job::progress::Progress;
use sampan_oci::digest::Digest;
use sampan_store::{Store, disk_usage, images};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long the disk is not asked yet to take what a job brought: whoever has its answer may have something to do first,
/// and jobs that end together are brought to the disk together. Then, how long until it is asked again, if a list could not be written; what it has lost it is not asked again.
const SETTLE_AFTER: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60)];

/// What a thread tells the event loop.
pub enum Message {
    /// A job is over.
    Ended {
        /// Its number.
        job: u64,
        /// What came of it.
        outcome: Result<Done, Failure>,
    },
    /// A registry listens.
    Serving {
        /// Its job's number.
        job: u64,
        /// Where.
        address: String,
    },
    /// A task has its answers; the last one ends the stream.
    Answers {
        /// The client's token.
        client: usize,
        /// The answers.
        answers: Vec<Answer>,
    },
    /// Something was done about a container.
    Container(Outcome),
}

/// What all threads share.
pub struct Shared {
    /// The images.
    pub store: Store,
    /// Engine-wide limits.
    pub limits: Limits,
    /// The way to the monitor FIFO.
    pub announcer: Announcer,
    /// What must stay free on the disk.
    pub room: Room,
    /// The configuration.
    pub config: Config,
    /// The way to the event loop.
    pub outbox: Outbox,
    /// What the first job that unpacks something tells a person.
    pub advice: Mutex<Option<String>>,
    /// How containers get their root file systems.
    pub rootfs: rootfs::Choice,
}

/// Sends messages to the event loop and wakes it.
pub struct Outbox {
    sender: Sender<Message>,
    waker: Waker,
}

impl Outbox {
    /// Messages go into `sender`; `waker` tells of them.
    pub fn new(sender: Sender<Message>, waker: Waker) -> Self {
        Outbox { sender, waker }
    }

    /// Sends it.
    pub fn send(&self, message: Message) {
        // It fails only when the event loop is gone, and then nobody asks any more.
        let _ = self.sender.send(message);
        let _ = self.waker.wake();
    }
}

/// A job's thread: its number, kind and subject for announcements.
pub struct Task {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// The job's number.
    pub job: u64,
    /// Its progress.
    pub progress: Arc<Progress>,
    /// Ends it.
    pub cancel: Arc<Cancel>,
}

/// A progress map whose milestones are announced.
pub fn progress(announcer: &Announcer, job: u64, kind: &'static str, subject: &str) -> Arc<Progress> {
    let (announcer, subject) = (announcer.clone(), subject.to_owned());
    Arc::new(Progress::new(Box::new(move |percent| {
        announcer.job("progress", job, kind, &subject, &[("percent", &percent.to_string())]);
    })))
}

impl Task {
    /// Imports; to be called on a thread of its own.
    pub fn import(self, request: ImportRequest) {
        let name = request.reference.to_string();
        let announcer = &self.shared.announcer;
        announcer.job("start", self.job, "import", &name, &[]);
        let labels = request.run.labels.clone();
        let outcome = match import::import(
            &self.shared.store,
            &self.shared.limits,
            request,
            &self.progress,
            &self.cancel,
        ) {
            Ok(imported) => {
                let (digest, id) = (imported.digest.to_string(), imported.id.to_string());
                announcer.image("import", &name, &[("digest", &digest), ("imageId", &id)], Some(&labels));
                Ok(Done { reference: name.clone(), digest, unchanged: imported.unchanged, ..Done::default() })
            }
            Err(error) => {
                let failure = import_failure(&name, &error);
                self.announce_failure("import-error", &name, &failure);
                Err(failure)
            }
        };
        self.end("import", &name, outcome);
    }

    /// Serves the store as a registry until cancelled; to be called on a thread of its own.
    pub fn serve(self, listen: String, bytes_per_second: u64) {
        let announcer = &self.shared.announcer;
        let tell = |address: &str| {
            announcer.job("start", self.job, "serve", address, &[]);
            self.shared.outbox.send(Message::Serving { job: self.job, address: address.to_owned() });
        };
        let result = serve::serve(&self.shared.store, &listen, bytes_per_second, &self.cancel, tell);
        let outcome = match result {
            Ok(address) => Ok(Done { reference: address, ..Done::default() }),
            Err(error) => {
                let hint = "give --listen ADDRESS:PORT of this host; port 0 lets the kernel choose";
                let code = if matches!(error, ServeError::Address(_)) { Code::Usage } else { Code::Failed };
                Err(failure::new(code, sampan_ipc::report::chain(&error), hint))
            }
        };
        self.end("serve", &listen, outcome);
    }

    /// Verifies the store; to be called on a thread of its own.
    pub fn verify(self, deep: bool) {
        let Task { shared, progress, cancel, .. } = &self;
        let subject = shared.store.root().display().to_string();
        shared.announcer.job("start", self.job, "verify", &subject, &[]);
        let window_log = shared.limits.bounds.zstd_window_log;
        let outcome = match (Verify { store: &shared.store, window_log, deep, progress, cancel }).run() {
            Ok(report) => {
                verify::announce(&shared.announcer, &report);
                report.failure().map_or_else(|| Ok(Done::default()), Err)
            }
            Err(VerifyError::Cancelled(_)) => Err(failure::new(Code::Cancelled, "cancelled", "")),
            Err(error) => {
                let message = format!("cannot verify the store: {}", sampan_ipc::report::chain(&error));
                Err(failure::new(Code::Failed, message, ""))
            }
        };
        self.end("verify", &subject, outcome);
    }

    /// Says that something failed, and why.
    pub(crate) fn announce_failure(&self, action: &str, name: &str, failure: &Failure) {
        self.shared.announcer.image(action, name, &[("reason", &failure.message)], None);
    }

    /// The job is over.
    pub(crate) fn end(self, kind: &'static str, subject: &str, outcome: Result<Done, Failure>) {
        let announcer = &self.shared.announcer;
        match &outcome {
            Ok(done) => announcer.job("done", self.job, kind, subject, &[("digest", &done.digest)]),
            Err(failure) if failure.code == Code::Cancelled => {
                announcer.job("cancelled", self.job, kind, subject, &[]);
            }
            Err(failure) => {
                log::error!("job {}: {}", self.job, failure.message);
                announcer.job("failed", self.job, kind, subject, &[("reason", &failure.message)]);
            }
        }
        let (shared, job) = (Arc::clone(&self.shared), self.job);
        drop(self);
        shared.outbox.send(Message::Ended { job, outcome });
        // Nobody waits for the disk any more.
        settle(&shared.store);
    }
}

/// Brings to the disk, in a moment, what is not there for sure.
pub fn settle(store: &Store) {
    for wait in SETTLE_AFTER {
        if !store.is_unsettled() {
            return;
        }
        std::thread::sleep(wait);
        if store.settle() {
            return;
        }
    }
}

fn import_failure(name: &str, error: &ImportError) -> Failure {
    let code = if error.is_cancelled() { Code::Cancelled } else { Code::Failed };
    let message = format!("cannot import {name}: {}", sampan_ipc::report::chain(error));
    failure::new(
        code,
        message,
        "a layer is a tar of a root file system, plain or compressed with gzip or zstd",
    )
}

/// Tries a login; to be called on a thread of its own.
pub fn log_in(shared: &Shared, client: usize, login: &Login, cancel: &Cancel) {
    let answer = login::login(&shared.config, login, cancel).map_or_else(Answer::Error, Answer::Done);
    shared.outbox.send(Message::Answers { client, answers: vec![answer] });
}

/// Answers a short request; to be called on a thread.
pub fn answer(shared: &Shared, client: usize, request: &Request, users: &Users) {
    let answers = match answers(shared, request, users) {
        Ok(answers) => answers,
        Err(failure) => vec![Answer::Error(failure)],
    };
    shared.outbox.send(Message::Answers { client, answers });
}

fn answers(shared: &Shared, request: &Request, users: &Users) -> Result<Vec<Answer>, Failure> {
    let store = &shared.store;
    match request {
        Request::Images => {
            let images: Vec<_> =
                images::list(store).map_err(failure::of)?.iter().map(images::Loaded::summary).collect();
            let mut answers: Vec<Answer> =
                paging::parts(images, |image| image).into_iter().map(Answer::Images).collect();
            answers.push(Answer::Done(Done::default()));
            Ok(answers)
        }
        Request::Inspect { name } => {
            let json =
                images::inspect(store, &reach::stored(&shared.config, store, name)).map_err(failure::of)?;
            if json.len() > sampan_ipc::frame::FRAME_MAX - 64 {
                let message = format!("image {name:?} has a config too large to be shown");
                return Err(failure::new(Code::Failed, message, "read it in the store with jq"));
            }
            Ok(vec![Answer::Json(json), Answer::Done(Done::default())])
        }
        Request::Tag { source, target } => tag(shared, source, target),
        Request::Remove { name, force } => remove(shared, name, *force, users),
        Request::Usage => usage(shared, users),
        Request::Prune(request) => prune(shared, request),
        _ => Err(failure::new(Code::Failed, "the request is none that is answered here", "")),
    }
}

fn tag(shared: &Shared, source: &str, target: &str) -> Result<Vec<Answer>, Failure> {
    let named = reach::stored(&shared.config, &shared.store, source);
    let (image, reference) = images::tag(&shared.store, &named, target).map_err(|error| {
        let failure = failure::of(error);
        shared.announcer.image(
            "tag-error",
            target,
            &[("source", source), ("reason", &failure.message)],
            None,
        );
        failure
    })?;
    let (reference, digest) = (reference.to_string(), image.entry.digest.to_string());
    let id = image.manifest.config.digest.to_string();
    let facts = [("digest", digest.as_str()), ("imageId", &id), ("source", source)];
    shared.announcer.image("tag", &reference, &facts, Some(&image.config.config.labels));
    Ok(vec![Answer::Done(Done { reference, digest, ..Done::default() })])
}

fn remove(shared: &Shared, name: &str, force: bool, users: &Users) -> Result<Vec<Answer>, Failure> {
    let named = reach::stored(&shared.config, &shared.store, name);
    let users = |digest: &Digest| if force { Vec::new() } else { users.of(digest) };
    let removed = images::remove(&shared.store, &named, force, &users).map_err(|error| {
        let failure = failure::of(error);
        shared.announcer.image("delete-error", name, &[("reason", &failure.message)], None);
        failure
    })?;
    prune::announce_removed(&shared.announcer, &removed, "");
    let reference = removed.untagged.first().cloned().unwrap_or_default();
    let (digest, freed, mut gone) = (removed.digest, removed.freed, removed.untagged);
    gone.extend(removed.deleted.then(|| digest.clone()));
    Ok(vec![Answer::Done(Done { reference, digest, removed: paging::names(gone), freed, ..Done::default() })])
}

fn usage(shared: &Shared, users: &Users) -> Result<Vec<Answer>, Failure> {
    let mut report = disk_usage::report(&shared.store).map_err(failure::of)?;
    report.kinds.push(users.usage());
    let mut answers = vec![Answer::Usage(report.kinds)];
    let parts = paging::parts(report.images, |usage| &mut usage.image);
    answers.extend(parts.into_iter().map(Answer::ImageUsage));
    answers.push(Answer::Done(Done::default()));
    Ok(answers)
}

fn prune(shared: &Shared, request: &Prune) -> Result<Vec<Answer>, Failure> {
    let done = prune::prune(&shared.store, &shared.announcer, request).map_err(|error| {
        let failure = failure::of(error);
        shared.announcer.image("prune-error", "", &[("reason", &failure.message)], None);
        failure
    })?;
    Ok(vec![Answer::Done(Done { removed: paging::names(done.removed), ..done })])
}
