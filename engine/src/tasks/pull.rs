//! The thread of a pull job: pulls one image, or all tags of a repository, and announces each pulled image.

use crate::error;
use crate::image::pull::pipeline::LayerError;
use crate::image::pull::{self, PullError, PullRequest};
use crate::image::resolve;
use crate::tasks::task::Task;
use sampan_ipc::engine::{Code, Done, Failure};
use sampan_layer::unpack::UnpackError;
use sampan_oci::OciError;
use sampan_oci::reference::Reference;
use sampan_os::io_error;
use sampan_registry::RegistryError;
use sampan_store::partial_blob;

/// Most tags that a failure message names; more tags would make the message unreadable.
const LISTED_MAX: usize = 10;

/// A pull job, as the event loop hands it over.
pub struct PullTask {
    /// The image or repository to pull; its reference is the first candidate.
    pub request: PullRequest,
    /// The references that the requested name may stand for, in the order of trying.
    pub candidates: Vec<Reference>,
    /// The name of the job in announcements and listings.
    pub subject: String,
    /// Whether to pull all tags of the repository.
    pub all_tags: bool,
}

impl Task {
    /// Runs the pull job; call it on a thread of its own.
    pub fn pull(self, pull: PullTask) {
        let subject = pull.subject.clone();
        self.shared.announcer.job("start", self.job, "pull", &subject, &[]);
        let outcome = match pull.all_tags {
            true => self.pull_tags(pull),
            false => self.pull_first(pull),
        };
        partial_blob::collect(&self.shared.store, self.shared.config.partial_age);
        self.end("pull", &subject, outcome);
    }

    /// Pulls the first candidate that exists.
    fn pull_first(&self, pull: PullTask) -> Result<Done, Failure> {
        match resolve::find_first(&pull.candidates, &pull.request.access, &self.cancel, &|note| {
            self.note(note)
        }) {
            Ok(reference) => self.pull_one(&PullRequest { reference, ..pull.request }),
            Err(error) => Err(self.pull_failed(&pull.subject, &error)),
        }
    }

    /// Pulls one tag after another. If a tag fails, goes on with the next tag.
    fn pull_tags(&self, pull: PullTask) -> Result<Done, Failure> {
        let repository = &pull.request.reference;
        let tags = resolve::tags(repository, &pull.request.access, &self.cancel, &|note| self.note(note))
            .map_err(|error| self.pull_failed(&pull.subject, &error))?;
        let mut done = Done { reference: pull.subject, unchanged: true, ..Done::default() };
        let (mut failed, mut names, count) = (Vec::new(), Vec::new(), tags.len());
        for reference in tags {
            let tag = reference.tag().unwrap_or_default().to_owned();
            match self.pull_one(&PullRequest { reference, ..pull.request.clone() }) {
                Ok(one) => {
                    done.unchanged &= one.unchanged;
                    done.references.push(format!("{}@{}", one.reference, one.digest));
                }
                Err(failure) if failure.code == Code::Cancelled => return Err(failure),
                Err(failure) => {
                    failed.push(failure);
                    names.push(tag);
                }
            }
        }
        let Some(last) = failed.pop() else {
            return Ok(done);
        };
        let message = format!(
            "cannot pull {} of the {count} tags of {}: {}; the last: {}",
            names.len(),
            done.reference,
            listed(&names),
            last.message
        );
        Err(Failure { message: error::crop(message), ..last })
    }

    fn pull_one(&self, request: &PullRequest) -> Result<Done, Failure> {
        let (store, limits) = (&self.shared.store, &self.shared.limits);
        let name = request.reference.to_string();
        let pulled = pull::pull(store, limits, request, &self.progress, &self.cancel)
            .map_err(|error| self.pull_failed(&name, &error))?;
        let digest = pulled.digest.to_string();
        let (id, size) = (pulled.id.to_string(), pulled.size.to_string());
        let unchanged = if pulled.unchanged { "true" } else { "" };
        let facts =
            [("digest", digest.as_str()), ("imageId", &id), ("size", &size), ("unchanged", unchanged)];
        self.shared.announcer.image("pull", &name, &facts, Some(&pulled.labels));
        Ok(Done { reference: name, digest, unchanged: pulled.unchanged, ..Done::default() })
    }

    /// Reports a note that belongs to no progress row to the log and to the clients that follow the job.
    fn note(&self, note: &str) {
        log::info!("{note}");
        self.progress.note(note);
    }

    fn pull_failed(&self, name: &str, error: &PullError) -> Failure {
        let failure = pull_failure(name, error);
        if let PullError::Registry(error) = error
            && let Some(status) = error.last().status()
        {
            self.progress.set_registry_status(status);
        }
        self.announce_failure("pull-error", name, &failure);
        failure
    }
}

/// Joins the first [`LISTED_MAX`] of `words` with commas, and adds the number of further words.
fn listed(words: &[String]) -> String {
    let shown = words.iter().take(LISTED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match words.len().saturating_sub(LISTED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn pull_failure(name: &str, error: &PullError) -> Failure {
    let message = format!("cannot pull {name}: {}", sampan_ipc::report::chain(error));
    let (code, hint) = match error {
        PullError::Cancelled(_) => (Code::Cancelled, ""),
        PullError::Registry(error) => registry_hint(error.last()),
        PullError::DiskSpace(_) => (Code::Failed, error::FULL_DISK_HINT),
        full if io_error::is_full(full) => (Code::Failed, error::FULL_DISK_HINT),
        // The fault is on this host: a broken disk, or no file descriptors left.
        PullError::Layer(LayerError::Unpack { source: UnpackError::File { .. }, .. }) => (Code::Failed, ""),
        PullError::Layer(_) | PullError::ConfigDigest { .. } | PullError::Size { .. } => {
            (Code::Failed, WRONG_DATA)
        }
        PullError::Platform { .. } => (Code::Failed, "to pull it for another platform, use --platform"),
        PullError::Oci(OciError::Platform { there, .. }) if !there.is_empty() => {
            (Code::Failed, "give one of these with --platform")
        }
        PullError::Policy(_) => {
            (Code::Failed, "see [[engine.policy]] in the engine's configuration; nothing was stored")
        }
        _ => (Code::Failed, ""),
    };
    error::new(code, message, hint)
}

const WRONG_DATA: &str = "the registry, or a proxy on the way to it, sends wrong data; nothing was stored";

fn registry_hint(error: &RegistryError) -> (Code, &'static str) {
    match error {
        RegistryError::NotFound { .. } => {
            (Code::NotFound, "check the name and the tag; a private repository may also look absent")
        }
        RegistryError::Denied { .. } => {
            (Code::Failed, "the repository is private or does not exist; 'sampan login' stores a credential")
        }
        RegistryError::Transport { source, .. } => (Code::Failed, source.hint()),
        RegistryError::Digest { .. } => (Code::Failed, WRONG_DATA),
        RegistryError::Proxy { .. } => (
            Code::Failed,
            "the proxy is set in the engine's environment: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY",
        ),
        RegistryError::Registries(why) => (Code::Failed, why.hint()),
        _ => (Code::Failed, ""),
    }
}
