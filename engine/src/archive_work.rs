//! Loads and saves as jobs: from the request to the thread, what is announced, and what failures are called.
//!
//! Between [`crate::server`], which starts them, and [`crate::load`] and [`crate::save`], which know how.

use crate::failure;
use crate::load::{self, LoadError, LoadRequest, LoadedImage};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::work::Task;
use sampan_ipc::engine::{self, Code, Container, Done, Failure};
use std::os::fd::OwnedFd;

/// Reads a request and the descriptor that came with it.
///
/// # Errors
/// [`Failure`] of a request that makes no sense.
pub fn load_request(load: engine::Load, descriptors: Vec<OwnedFd>) -> Result<LoadRequest, Failure> {
    let from = only(descriptors)?;
    let reference =
        load.reference.as_deref().map(Reference::parse).transpose().map_err(|e| failure::usage(&e))?;
    if reference.as_ref().is_some_and(|reference| reference.digest().is_some()) {
        return Err(failure::new(Code::Usage, "a loaded image cannot be named by digest", "give NAME:TAG"));
    }
    let platform =
        load.platform.as_deref().map(Platform::parse).transpose().map_err(|e| failure::usage(&e))?;
    let is_layout = load.source == Container::OciLayout;
    Ok(LoadRequest { from, is_layout, select: load.select, reference, platform, unpack: !load.no_unpack })
}

/// The one descriptor that a load or a save is of.
fn only(descriptors: Vec<OwnedFd>) -> Result<OwnedFd, Failure> {
    let count = descriptors.len();
    match <[OwnedFd; 1]>::try_from(descriptors) {
        Ok([fd]) => Ok(fd),
        Err(_) => {
            let message = format!("the request needs one descriptor and brings {count}");
            Err(failure::new(Code::Usage, message, ""))
        }
    }
}

/// What a load is about, before it is known what is in it.
pub fn load_subject(request: &LoadRequest) -> String {
    match (&request.reference, &request.select) {
        (Some(reference), _) => reference.to_string(),
        (None, Some(select)) => select.chars().take(300).collect(),
        (None, None) => "archive".to_owned(),
    }
}

impl Task {
    /// Loads; to be called on a thread of its own.
    pub fn load(self, request: LoadRequest) {
        let subject = load_subject(&request);
        let shared = &self.shared;
        shared.announcer.job("start", self.job, "load", &subject, &[]);
        let loaded = load::load(&shared.store, &shared.limits, request, &self.progress, &self.cancel);
        let outcome = match loaded {
            Ok(images) => {
                images.iter().for_each(|image| self.announce_loaded(image));
                Ok(loaded_done(&images))
            }
            Err(error) => {
                let failure = load_failure(&error);
                self.announce_failure("load-error", &subject, &failure);
                Err(failure)
            }
        };
        self.end("load", &subject, outcome);
    }

    fn announce_loaded(&self, image: &LoadedImage) {
        let (digest, id, size) = (image.digest.to_string(), image.id.to_string(), image.size.to_string());
        let unchanged = if image.unchanged { "true" } else { "" };
        let facts =
            [("digest", digest.as_str()), ("imageId", &id), ("size", &size), ("unchanged", unchanged)];
        for name in names(image) {
            self.shared.announcer.image("load", &name, &facts, &image.labels);
        }
    }
}

/// References of an image, or its id if it has none.
fn names(image: &LoadedImage) -> Vec<String> {
    match image.references.is_empty() {
        true => vec![image.id.to_string()],
        false => image.references.iter().map(Reference::to_string).collect(),
    }
}

fn loaded_done(images: &[LoadedImage]) -> Done {
    let references: Vec<String> = images.iter().flat_map(names).collect();
    let unchanged = images.iter().all(|image| image.unchanged);
    match images {
        // One image: its digest reference can be told.
        [image] => {
            let reference = image.references.first().map(Reference::to_string).unwrap_or_default();
            Done { reference, digest: image.digest.to_string(), unchanged, references, ..Done::default() }
        }
        _ => Done { unchanged, references, ..Done::default() },
    }
}

fn load_failure(error: &LoadError) -> Failure {
    let message = format!("cannot load the archive: {}", sampan_ipc::report::chain(error));
    let (code, hint) = match error {
        LoadError::Cancelled(_) => (Code::Cancelled, ""),
        LoadError::Platform { .. } => (Code::Failed, "see --platform for other platforms"),
        LoadError::Several(_) => {
            (Code::Usage, "say which one: docker-archive:FILE:REF, oci-archive:FILE:REF, oci:DIR:REF")
        }
        LoadError::Store(_) => (Code::Failed, ""),
        LoadError::Archive(_) | LoadError::Bundle(_) | LoadError::Wrong { .. } => (
            Code::Failed,
            "it must be what 'docker save' or 'podman save' writes, whole; nothing of it was kept",
        ),
    };
    failure::new(code, message, hint)
}
