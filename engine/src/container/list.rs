//! Selects the containers that a client lists or prunes, and makes the summary of each. docker-ps(1).
//!
//! Called by the manager. Does no I/O, except [`with_sizes`], which reads directories on a thread. Several values of
//! one filter are alternatives; different filters must all match, and so must several labels.

use super::definition::Definition;
use super::directory::Directories;
use super::entry::{Busy, Entry};
use crate::error;
use regex_lite::{Regex, RegexBuilder};
use sampan_ipc::container::{Listing, MountKind, Network, Phase, Summary};
use sampan_ipc::engine::{Code, Failure};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most characters of a command line in a summary.
const COMMAND_MAX: usize = 1000;
/// Largest compiled regular expression, in bytes.
const NAME_PROGRAM_MAX: usize = 32 << 10;
/// All filter keys. `health` is last, and errors do not offer it: there are no health checks.
const KEYS: [&str; 11] =
    ["id", "name", "label", "exited", "status", "ancestor", "before", "since", "volume", "network", "health"];

/// Describes a container for a list.
pub fn summary(entry: &Entry) -> Summary {
    let Entry { definition, state, busy, .. } = entry;
    let create = &definition.create;
    let mounts = create.mounts.iter().map(|mount| match mount.kind {
        MountKind::Bind => format!("{}:{}", mount.source, mount.target),
        MountKind::Tmpfs => format!("tmpfs:{}", mount.target),
    });
    Summary {
        id: definition.id.clone(),
        name: definition.name.clone(),
        image: definition.image.name.clone(),
        image_id: definition.image.id.clone(),
        command: definition.words.join(" ").chars().take(COMMAND_MAX).collect(),
        created: definition.created,
        phase: if *busy == Some(Busy::Removing) { Phase::Removing } else { state.phase },
        pid: state.pid,
        exit_code: state.exit_code,
        started: state.started,
        finished: state.finished,
        restarts: state.restarts,
        labels: definition.labels(),
        mounts: mounts.collect(),
        network: network(create.network).to_owned(),
        size: None,
        error: state.error.clone(),
    }
}

/// Returns docker's word for a network.
pub fn network(network: Network) -> &'static str {
    match network {
        Network::Host => "host",
        Network::None | Network::Default => "none",
    }
}

/// Keeps only the requested containers, and sorts them, newest first.
///
/// # Errors
/// A filter is not valid.
pub fn select(all: &mut Vec<(Arc<Definition>, Summary)>, asked: &Listing) -> Result<(), Failure> {
    let filters = parse(&asked.filters)?;
    let ages = Ages::of(all, &filters)?;
    // A filter on the state includes containers that do not run.
    let any_phase = asked.all
        || asked.last > 0
        || ["status", "exited"].iter().any(|key| filters.values.contains_key(*key));
    all.retain(|(definition, summary)| {
        (any_phase || summary.phase.is_alive() || summary.phase == Phase::Restarting)
            && ages.contain(summary.created)
            && filters.values.iter().all(|(key, values)| matches(key, values, definition, summary))
            && (filters.names.is_empty() || filters.names.iter().any(|name| is_named(name, &summary.name)))
    });
    all.sort_by(|(_, a), (_, b)| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
    if asked.last > 0 {
        all.truncate(asked.last as usize);
    }
    Ok(())
}

/// Values of the filters by key. The values of `name` are regular expressions, as in docker.
#[derive(Default)]
struct Filters {
    values: BTreeMap<String, Vec<String>>,
    names: Vec<Regex>,
}

fn parse(written: &[String]) -> Result<Filters, Failure> {
    let mut filters = Filters::default();
    for filter in written {
        let Some((key, value)) = filter.split_once('=') else {
            let message = format!("filter {filter:?} has no '='");
            return Err(error::new(Code::Usage, message, "filters are KEY=VALUE"));
        };
        if !KEYS.contains(&key) {
            let message = format!("unknown filter {key:?}");
            let offered: Vec<&str> = KEYS.into_iter().filter(|key| *key != "health").collect();
            return Err(error::new(Code::Usage, message, &format!("the filters are {}", offered.join(", "))));
        }
        if key == "name" {
            filters.names.push(name_like(value)?);
        }
        filters.values.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    check(&filters.values)?;
    Ok(filters)
}

/// Compiles a filter on names. Its size is limited, because the event loop matches it.
fn name_like(value: &str) -> Result<Regex, Failure> {
    RegexBuilder::new(value).size_limit(NAME_PROGRAM_MAX).build().map_err(|error| {
        let message = format!("filter name={value:?} is not a regular expression: {error}");
        error::new(
            Code::Usage,
            message,
            "a name or a part of it matches itself; ^NAME$ matches the whole name",
        )
    })
}

fn check(values: &BTreeMap<String, Vec<String>>) -> Result<(), Failure> {
    for status in values.get("status").into_iter().flatten() {
        let phases = ["created", "running", "paused", "restarting", "exited", "removing", "dead"];
        if !phases.contains(&status.as_str()) {
            let message = format!("unknown status {status:?}");
            return Err(error::new(Code::Usage, message, &format!("the states are {}", phases.join(", "))));
        }
    }
    for code in values.get("exited").into_iter().flatten() {
        if code.parse::<i32>().is_err() {
            return Err(error::new(Code::Usage, format!("{code:?} is not an exit code"), ""));
        }
    }
    Ok(())
}

fn matches(key: &str, values: &[String], definition: &Definition, summary: &Summary) -> bool {
    let any = |is: &dyn Fn(&str) -> bool| values.iter().any(|value| is(value));
    match key {
        "id" => any(&|value| summary.id.starts_with(value)),
        "label" => values.iter().all(|value| has_label(&summary.labels, value)),
        "exited" => {
            let has_ended = summary.started != 0 && !summary.phase.is_alive();
            has_ended && any(&|value| value.parse() == Ok(summary.exit_code))
        }
        "status" => any(&|value| summary.phase.word() == value),
        "ancestor" => any(&|value| has_image(definition, value)),
        "volume" => any(&|value| {
            definition.create.mounts.iter().any(|mount| mount.source == value || mount.target == value)
        }),
        "network" => any(&|value| summary.network == value),
        // Health checks do not exist yet: the health of every container is `none`.
        "health" => any(&|value| value == "none"),
        // `select` matches `name` as a regular expression, and `Ages` matches `before` and `since`.
        _ => true,
    }
}

/// Matches a name without and with the leading `/` that docker's API adds.
fn is_named(pattern: &Regex, name: &str) -> bool {
    pattern.is_match(name) || pattern.is_match(&format!("/{name}"))
}

fn has_label(labels: &[(String, String)], wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.iter().any(|(k, v)| k == key && v == value),
        None => labels.iter().any(|(key, _)| key == wanted),
    }
}

/// Whether `value` is the name of the container's image, with or without its tag, or its ID, or the beginning of its
/// ID.
fn has_image(definition: &Definition, value: &str) -> bool {
    let image = &definition.image;
    let hex = |digest: &str| digest.strip_prefix("sha256:").unwrap_or(digest).to_owned();
    let names = [value.to_owned(), format!("docker.io/library/{value}"), format!("docker.io/{value}")];
    let is_named = names.iter().any(|name| {
        image.name == *name
            || image.name.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with(':'))
    });
    let is_id =
        value.len() >= 6 && [&image.id, &image.digest].iter().any(|id| hex(id).starts_with(&hex(value)));
    is_named || is_id
}

/// The range of creation times that the filters `before` and `since` allow.
struct Ages {
    after: i64,
    before: i64,
}

impl Ages {
    fn of(all: &[(Arc<Definition>, Summary)], filters: &Filters) -> Result<Self, Failure> {
        let created = |value: &String| {
            let found = all.iter().find(|(_, s)| s.name == *value || s.id.starts_with(value.as_str()));
            found.map(|(_, summary)| summary.created).ok_or_else(|| super::error::no_container(value))
        };
        let times = |key: &str| -> Result<Vec<i64>, Failure> {
            filters.values.get(key).into_iter().flatten().map(created).collect()
        };
        let (since, before) = (times("since")?, times("before")?);
        Ok(Ages {
            after: since.into_iter().max().unwrap_or(i64::MIN),
            before: before.into_iter().min().unwrap_or(i64::MAX),
        })
    }

    fn contain(&self, created: i64) -> bool {
        self.after < created && created < self.before
    }
}

/// Adds the bytes that each container has written.
pub fn with_sizes(all: Vec<(Arc<Definition>, Summary)>, directories: &Directories) -> Vec<Summary> {
    let sized = all.into_iter().map(|(definition, summary)| Summary {
        size: directories.written_bytes(&definition).ok(),
        ..summary
    });
    sized.collect()
}

/// The filters that select the containers of a prune.
pub struct PruneFilter {
    until: Option<i64>,
    labels: Vec<String>,
    not_labels: Vec<String>,
}

impl PruneFilter {
    /// Parses `until=NANOSECONDS`, `label=KEY[=VALUE]` and `label!=KEY[=VALUE]`. The client has converted the times
    /// that people type to nanoseconds since the epoch.
    ///
    /// # Errors
    /// A filter is not valid.
    pub fn parse(written: &[String]) -> Result<Self, Failure> {
        let mut filter = PruneFilter { until: None, labels: Vec::new(), not_labels: Vec::new() };
        for one in written {
            let invalid = || {
                error::new(
                    Code::Usage,
                    format!("filter {one:?} is not valid"),
                    "the filters are until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE]",
                )
            };
            match one.split_once('=').ok_or_else(invalid)? {
                ("until", time) => filter.until = Some(time.parse().map_err(|_| invalid())?),
                ("label", label) => filter.labels.push(label.to_owned()),
                ("label!", label) => filter.not_labels.push(label.to_owned()),
                _ => return Err(invalid()),
            }
        }
        Ok(filter)
    }

    /// Whether the prune removes the container.
    pub fn matches(&self, definition: &Definition) -> bool {
        let labels = definition.labels();
        self.until.is_none_or(|until| definition.created < until)
            && self.labels.iter().all(|label| has_label(&labels, label))
            && !self.not_labels.iter().any(|label| has_label(&labels, label))
    }
}
