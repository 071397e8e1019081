//! Short requests about images: list, inspect, tag, remove, disk usage, prune; announces each change.
//!
//! Each request runs on a thread outside the event loop. The caller passes in the facts about containers, which the
//! image modules do not know.

use crate::context::Shared;
use crate::error;
use crate::image::{prune, resolve};
use sampan_ipc::details::{ImageDetail, Step};
use sampan_ipc::engine::{Answer, Code, Done, Failure, Prune, Usage};
use sampan_ipc::frame::FRAME_MAX;
use sampan_ipc::paging;
use sampan_oci::digest::Digest;
use sampan_store::{disk_usage, images, inspect};
use std::collections::BTreeMap;

/// Most bytes of an image's labels in a list.
const LABELS_MAX: usize = 64 << 10;
/// Most steps of one frame.
const STEPS_PER_FRAME: usize = 500;
/// Most bytes of a step's command, and of its comment, in a history.
const STEP_TEXT_MAX: usize = 2 << 10;

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

/// Lists all images with their labels; `users` returns the containers that need the image of a digest.
///
/// # Errors
/// [`Failure`]: the store cannot be read.
pub fn details(shared: &Shared, users: &dyn Fn(&Digest) -> Vec<String>) -> Result<Vec<Answer>, Failure> {
    let images = images::list(&shared.store).map_err(error::explain)?;
    let details: Vec<ImageDetail> = images
        .iter()
        .map(|image| ImageDetail {
            image: image.summary(&shared.store),
            index: images::index_of(&image.entry).map(|digest| digest.to_string()),
            labels: some_labels(&image.config.config.labels),
            containers: u32::try_from(users(&image.entry.digest).len()).unwrap_or(u32::MAX),
        })
        .collect();
    // Images without long labels share a frame; the pages leave room for labels of one image in each.
    let parts = paging::parts(details, |detail| &mut detail.image);
    let mut answers = Vec::new();
    for part in parts {
        answers.extend(pages_by_labels(part).into_iter().map(Answer::ImageDetails));
    }
    answers.push(Answer::Done(Done::default()));
    Ok(answers)
}

/// The first labels that have at most [`LABELS_MAX`] bytes together.
fn some_labels(labels: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut bytes = 0;
    let fits = |(key, value): &(&String, &String)| {
        bytes += key.len() + value.len() + 8;
        bytes <= LABELS_MAX
    };
    labels.iter().take_while(fits).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Splits a part again where its labels do not fit into half a frame.
fn pages_by_labels(part: Vec<ImageDetail>) -> Vec<Vec<ImageDetail>> {
    let mut pages = vec![Vec::new()];
    let mut bytes = 0;
    for detail in part {
        let cost: usize = detail.labels.iter().map(|(key, value)| key.len() + value.len() + 8).sum();
        bytes += cost;
        if bytes > FRAME_MAX / 4 {
            pages.push(Vec::new());
            bytes = cost;
        }
        if let Some(page) = pages.last_mut() {
            page.push(detail);
        }
    }
    pages
}

/// Describes the steps in which an image was built, the newest first.
///
/// # Errors
/// [`Failure`]: there is no such image, or it cannot be read.
pub fn history(shared: &Shared, name: &str) -> Result<Vec<Answer>, Failure> {
    let store = &shared.store;
    let image = images::find(store, &resolve::stored(&shared.config, store, name)).map_err(error::explain)?;
    let mut steps = inspect::steps(store, &image);
    for Step { created_by, comment, .. } in &mut steps {
        for text in [created_by, comment] {
            *text = crop(text);
        }
    }
    let mut answers: Vec<Answer> =
        paging::parts(vec![image.summary(store)], |image| image).into_iter().map(Answer::Images).collect();
    answers.extend(steps.chunks(STEPS_PER_FRAME).map(|part| Answer::History(part.to_vec())));
    answers.push(Answer::Done(Done::default()));
    Ok(answers)
}

/// The beginning of `text` that has at most [`STEP_TEXT_MAX`] bytes.
fn crop(text: &str) -> String {
    let end = (0..=STEP_TEXT_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

/// Describes one image as `docker image inspect` does.
///
/// # Errors
/// [`Failure`]: there is no such image, or the image's description is larger than a frame.
pub fn inspect(shared: &Shared, name: &str) -> Result<Vec<Answer>, Failure> {
    let store = &shared.store;
    let named = resolve::stored(&shared.config, store, name);
    let json = inspect::document(store, &named).map_err(error::explain)?;
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
