//! Which artifacts of a repository are copied, and which tags are deleted.
//!
//! Called by tasks and executions. The rules are those of the command or the policy; the filters that need a manifest
//! or a config read it from the source.

use crate::blob::Sides;
use crate::command::Wanted;
use crate::run::{Halt, Run};
use crate::side::{FailureKind, SideError};
use sampan_ipc::replication::Options;
use std::collections::{HashMap, HashSet};

/// What filters know of an artifact.
#[derive(Default)]
struct Facts {
    media_type: String,
    artifact_type: String,
    labels: HashMap<String, String>,
    created: Option<String>,
}

/// Lists the artifacts of a repository, as source and target, in the order of their names.
///
/// # Errors
/// [`Halt`]: the source failed.
pub(crate) fn artifacts(
    run: &Run<'_>,
    wanted: &Wanted,
    sides: &Sides,
) -> Result<Vec<(String, String)>, Halt> {
    let source = &sides.source;
    let about = format!("tags of {}", source.name());
    let mut tags = run.persist(&about, || source.tags())?;
    // A pattern selects what is there; a name that is not there is a mistake.
    if tags.is_empty() && wanted.fixed_repositories().is_some() {
        let why = format!("{} is not at the source, or has no tags", source.name());
        return Err(SideError::new(FailureKind::NotFound, why).into());
    }
    tags.sort();
    tags.dedup();
    let tags: Vec<String> = match wanted.policy() {
        None => tags,
        Some(policy) => {
            let filter = &policy.filter;
            tags.retain(|tag| filter.has_tag(tag));
            let needs_config = !filter.label.is_empty();
            let needs_manifest = !filter.media_type.is_empty() || needs_config;
            let mut known: HashMap<String, Facts> = HashMap::new();
            if needs_manifest {
                for tag in &tags {
                    run.check()?;
                    known.insert(tag.clone(), facts(run, sides, tag, needs_config)?);
                }
                tags.retain(|tag| {
                    known.get(tag).is_some_and(|facts| {
                        let kind = Some(facts.artifact_type.as_str()).filter(|kind| !kind.is_empty());
                        filter.has_media_type(&facts.media_type, kind)
                            && filter.has_labels(|key| facts.labels.get(key).map(String::as_str))
                    })
                });
            }
            let names: Vec<&str> = tags.iter().map(String::as_str).collect();
            if filter.is_newest_by_time(&names) {
                for tag in &tags {
                    run.check()?;
                    if known.get(tag).is_none_or(|facts| facts.created.is_none()) {
                        known.insert(tag.clone(), facts(run, sides, tag, true)?);
                    }
                }
            }
            let created = |tag: &str| known.get(tag).and_then(|facts| facts.created.clone());
            filter.newest(&names, created).into_iter().map(str::to_owned).collect()
        }
    };
    Ok(tags.into_iter().map(|tag| (tag.clone(), tag)).collect())
}

/// Reads what the filters need of an artifact. Of an index, the first image counts.
fn facts(run: &Run<'_>, sides: &Sides, tag: &str, with_config: bool) -> Result<Facts, Halt> {
    let source = &sides.source;
    let about = format!("manifest {tag} of {}", source.name());
    let root = run.persist(&about, || source.manifest(tag))?;
    let mut parts = crate::artifact::parts(&root.bytes).unwrap_or_default();
    let mut facts = Facts {
        media_type: root.media_type.clone(),
        artifact_type: parts.artifact_type.clone(),
        ..Facts::default()
    };
    if !with_config {
        return Ok(facts);
    }
    if let Some(child) = parts.children.first() {
        let target = child.digest.to_string();
        let manifest = run.persist(&about, || source.manifest(&target))?;
        parts = crate::artifact::parts(&manifest.bytes).unwrap_or_default();
    }
    let Some(config) = parts.blobs.first() else { return Ok(facts) };
    if let Some(bytes) = crate::tree::config_bytes(run, source.as_ref(), config, &about)? {
        let config: sampan_oci::Config = serde_json::from_slice(&bytes).unwrap_or_default();
        facts.labels = config.config.labels.into_iter().collect();
        facts.created = config.created.filter(|created| !created.is_empty());
    }
    Ok(facts)
}

/// The tags that a destination has too many: those in `here` that are not in `there`. A policy's tag filter protects
/// the tags that it does not select.
///
/// # Errors
/// Why nothing may be deleted: the source is empty, or too large a share of the tags would go.
pub(crate) fn deletions(
    wanted: &Wanted,
    options: &Options,
    there: &[String],
    here: Vec<String>,
) -> Result<Vec<String>, String> {
    if there.is_empty() {
        return Err("the source has no tags, which may be a failure of the source".to_owned());
    }
    let (all, kept): (usize, HashSet<&String>) = (here.len(), there.iter().collect());
    let is_selected = |tag: &String| wanted.policy().is_none_or(|policy| policy.filter.has_tag(tag));
    // The tags of referrers and of cosign belong to artifacts, and follow them.
    let mut tags: Vec<String> = here
        .into_iter()
        .filter(|tag| !kept.contains(tag) && is_selected(tag) && !is_of_artifact(tag))
        .collect();
    tags.sort();
    let most = usize::from(options.prune_max_percent);
    if tags.len() * 100 > all * most {
        return Err(format!(
            "{} of its {all} tags are not at the source, which is more than {most} percent",
            tags.len()
        ));
    }
    Ok(tags)
}

/// Whether a tag is made from a digest: `sha256-<hex>`, with or without a suffix.
fn is_of_artifact(tag: &str) -> bool {
    let hex = tag.strip_prefix("sha256-").map(|rest| rest.split('.').next().unwrap_or(rest));
    hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Order;

    fn wanted() -> Wanted {
        let order = Order {
            source: "docker://a.example/x".to_owned(),
            destination: "docker://b.example/x".to_owned(),
            options: Options { all_tags: true, ..Options::default() },
            ..Order::default()
        };
        Wanted::of(&order).expect("valid")
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn deletions_are_refused_when_the_source_looks_broken() {
        let options = Options { prune_max_percent: 50, ..Options::default() };
        let chosen =
            |there: &[&str], here: &[&str]| deletions(&wanted(), &options, &names(there), names(here));
        assert_eq!(chosen(&["1", "2"], &["1", "2", "3"]), Ok(names(&["3"])));
        assert_eq!(chosen(&["1"], &["1", "2"]), Ok(names(&["2"])));
        assert!(chosen(&[], &["1"]).is_err(), "an empty source");
        assert!(chosen(&["1"], &["1", "2", "3"]).is_err(), "more than half");
    }

    #[test]
    fn tags_that_belong_to_an_artifact_are_not_deleted() {
        let options = Options { prune_max_percent: 100, ..Options::default() };
        let own = format!("sha256-{}.sig", "0".repeat(64));
        let chosen = deletions(&wanted(), &options, &names(&["1"]), vec![own, "sha256-short".to_owned()]);
        assert_eq!(chosen, Ok(names(&["sha256-short"])));
    }
}
