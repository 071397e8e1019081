//! Short requests about images: list, inspect, tag, remove, disk usage, prune; announces each change.
//!
//! Each request runs on a thread outside the event loop. The caller passes in the facts about containers, which the
//! image modules do not know.

use crate::context::Shared;
use crate::error;
use crate::image::{prune, resolve};
use sampan_ipc::engine::{Answer, Code, Done, Failure, Prune, Usage};
use sampan_ipc::frame::FRAME_MAX;
use sampan_ipc::paging;
use sampan_oci::digest::Digest;
use sampan_store::{disk_usage, images};

/// Lists all images.
///
/// # Errors
/// [`Failure`]: the store cannot be read.
pub fn list(shared: &Shared) -> Result<Vec<Answer>, Failure> {
    let images = images::list(&shared.store).map_err(error::explain)?;
    let images: Vec<_> = images.iter().map(|image| image.summary(&shared.store)).collect();
    let mut answers: Vec<Answer> =
        paging::parts(images, |image| image).into_iter().map(Answer::Images).collect();
    answers.push(Answer::Done(Done::default()));
    Ok(answers)
}

/// Describes one image as `docker image inspect` does.
///
/// # Errors
/// [`Failure`]: there is no such image, or the image's description is larger than a frame.
pub fn inspect(shared: &Shared, name: &str) -> Result<Vec<Answer>, Failure> {
    let store = &shared.store;
    let json =
        images::inspect(store, &resolve::stored(&shared.config, store, name)).map_err(error::explain)?;
    if json.len() > FRAME_MAX - 64 {
        let message = format!("image {name:?} has a config too large to be shown");
        return Err(error::new(Code::Failed, message, "read it in the store with jq"));
    }
    Ok(vec![Answer::Json(json), Answer::Done(Done::default())])
}

/// Adds a name to an image.
///
/// # Errors
/// [`Failure`]: there is no such image, or the name is not valid. After an error the store is unchanged.
pub fn tag(shared: &Shared, source: &str, target: &str) -> Result<Vec<Answer>, Failure> {
    let named = resolve::stored(&shared.config, &shared.store, source);
    let (image, reference) = images::tag(&shared.store, &named, target).map_err(|error| {
        let failure = error::explain(error);
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

/// Removes an image or one of its names; `users` returns the containers that need the image of a digest.
///
/// # Errors
/// [`Failure`]: there is no such image, or a container needs the image and `force` is false.
pub fn remove(
    shared: &Shared,
    name: &str,
    force: bool,
    users: &dyn Fn(&Digest) -> Vec<String>,
) -> Result<Vec<Answer>, Failure> {
    let named = resolve::stored(&shared.config, &shared.store, name);
    let users = |digest: &Digest| if force { Vec::new() } else { users(digest) };
    let removed = images::remove(&shared.store, &named, force, &users).map_err(|error| {
        let failure = error::explain(error);
        shared.announcer.image("delete-error", name, &[("reason", &failure.message)], None);
        failure
    })?;
    prune::announce_removed(&shared.announcer, &removed, "");
    let reference = removed.untagged.first().cloned().unwrap_or_default();
    let (digest, freed, mut gone) = (removed.digest, removed.freed, removed.untagged);
    gone.extend(removed.deleted.then(|| digest.clone()));
    Ok(vec![Answer::Done(Done { reference, digest, removed: paging::names(gone), freed, ..Done::default() })])
}

/// Reports the disk usage of images and, passed in as `containers`, of containers.
///
/// # Errors
/// [`Failure`]: the store cannot be read.
pub fn usage(shared: &Shared, containers: Usage) -> Result<Vec<Answer>, Failure> {
    let mut report = disk_usage::report(&shared.store).map_err(error::explain)?;
    report.kinds.push(containers);
    let mut answers = vec![Answer::Usage(report.kinds)];
    let parts = paging::parts(report.images, |usage| &mut usage.image);
    answers.extend(parts.into_iter().map(Answer::ImageUsage));
    answers.push(Answer::Done(Done::default()));
    Ok(answers)
}

/// Removes unused images, but none with a label of `without_labels`.
///
/// # Errors
/// [`Failure`]: the store cannot be read or written. Images that were removed before the error stay removed.
pub fn prune(shared: &Shared, request: &Prune, without_labels: &[String]) -> Result<Vec<Answer>, Failure> {
    let done = prune::prune(&shared.store, &shared.announcer, request, without_labels).map_err(|error| {
        let failure = error::explain(error);
        shared.announcer.image("prune-error", "", &[("reason", &failure.message)], None);
        failure
    })?;
    Ok(vec![Answer::Done(Done { removed: paging::names(done.removed), ..done })])
}
