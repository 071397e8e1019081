//! Removes unused images and content that no image needs, and announces each removal.
//!
//! Answers `sampan image prune`, and announces what `sampan rmi` and [`crate::image::disk_space`] remove.
//! [`images::is_in_use`] decides under the commit lock, for each image, whether it may be removed.

use sampan_ipc::announce::Announcer;
use sampan_ipc::engine::{Done, Prune};
use sampan_store::Store;
use sampan_store::images::{self, ImageError, Loaded, Removed};

/// Most digests and references in an answer; every removal is announced.
const NAMES_MAX: usize = 5000;

/// Removes the images that `prune` selects and that have none of the labels `without_labels`.
///
/// # Errors
/// [`ImageError::Unreadable`]: an image's manifest or config cannot be read, so it is not known which content the image
/// needs. After this error nothing was removed.
pub fn prune(
    store: &Store,
    announcer: &Announcer,
    prune: &Prune,
    without_labels: &[String],
) -> Result<Done, ImageError> {
    images::used(store)?;
    let (mut names, mut freed) = store.collect_garbage();
    for image in images::all(store)? {
        let Ok(image) = image else { continue };
        if !is_asked_for(&image, prune) || without_labels.iter().any(|label| has_label(&image, label)) {
            continue;
        }
        if let Some(removed) = images::remove_unused(store, &image.entry.digest)? {
            announce_removed(announcer, &removed, "prune");
            freed += removed.freed;
            names.extend(removed.untagged);
            names.push(removed.digest);
        }
    }
    announce_reclaimed(announcer, freed, "prune");
    names.truncate(NAMES_MAX);
    Ok(Done { removed: names, freed, ..Done::default() })
}

fn is_asked_for(image: &Loaded, prune: &Prune) -> bool {
    let has = |wanted: &String| has_label(image, wanted);
    // An image without a creation time does not count as older than `until`.
    let old = |until| image.config.created_nanos().is_some_and(|created| created < until);
    (prune.all || image.references.is_empty()) && prune.until.is_none_or(old) && prune.labels.iter().all(has)
}

/// Whether the image has the label `KEY` or `KEY=VALUE`.
fn has_label(image: &Loaded, wanted: &str) -> bool {
    let labels = &image.config.config.labels;
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
        None => labels.contains_key(wanted),
    }
}

/// Announces that an image or its references were removed; `why` names the cause, empty if a user named the image.
pub fn announce_removed(announcer: &Announcer, removed: &Removed, why: &str) {
    let Removed { digest, id, untagged, labels, .. } = removed;
    for reference in untagged {
        let facts = [("digest", digest.as_str()), ("imageId", id), ("by", why)];
        announcer.image("untag", reference, &facts, Some(labels));
    }
    if removed.deleted {
        let freed = removed.freed.to_string();
        announcer.image(
            "delete",
            digest,
            &[("digest", digest), ("imageId", id), ("reclaimed", &freed), ("by", why)],
            Some(labels),
        );
    }
}

/// Announces the end of a prune. The event names no image, like docker's event.
pub fn announce_reclaimed(announcer: &Announcer, freed: u64, why: &str) {
    announcer.image("prune", "", &[("reclaimed", &freed.to_string()), ("by", why)], None);
}
