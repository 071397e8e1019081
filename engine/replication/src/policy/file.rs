//! One file of replication.d: parses it and checks each value, and the values against each other.
//!
//! Called by `policy`. An unknown key is an error, so that a misspelt one never widens what is copied. Opens no file; the
//! caller gives the text and the time zones.

use crate::policy::filter::{Filter, Label, VersionRange};
use crate::policy::glob::Glob;
use crate::policy::place_name::PlaceName;
use crate::policy::schedule::{Schedule, ScheduleError, Zone};
use crate::policy::section::{Section, Wrong, boolean, choose, integer, list, one_of, percent, string};
use crate::policy::target::{Target, TargetError};
use sampan_ipc::replication::{Options, Sparse};
use sampan_ipc::size;
use sampan_oci::platform::Platform;
use sampan_oci::reference::Reference;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// The keys outside of tables, and the tables.
const KEYS: [&str; 21] = [
    "source",
    "destination",
    "enabled",
    "trigger",
    "cron",
    "time-zone",
    "on",
    "override",
    "delete",
    "delete-share-max",
    "dry-run",
    "speed",
    "request-rate",
    "executions-max",
    "overlap",
    "referrers",
    "sparse",
    "on-done",
    "verify",
    "filter",
    "target",
];
/// The keys of `[filter]`.
const FILTER_KEYS: [&str; 9] =
    ["name", "exclude-name", "tag", "exclude-tag", "semver", "platform", "label", "media-type", "newest"];
/// The keys of `[target]`.
const TARGET_KEYS: [&str; 2] = ["namespace", "replace-components"];

/// What is copied, where to, and when: one file of replication.d.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The file's name without `.toml`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// The file's contents, so that an execution keeps the policy that it began with.
    pub text: String,
    /// Where images come from.
    pub source: PlaceName,
    /// The repositories of a source that is a registry; `None` for other sources.
    pub source_glob: Option<Glob>,
    /// Where images go to.
    pub destination: PlaceName,
    /// Whether triggers start the policy. A person can start it in any case.
    pub enabled: bool,
    /// Which of the source's images are copied.
    pub filter: Filter,
    /// The names of the copies.
    pub target: Target,
    /// What starts the policy.
    pub trigger: Trigger,
    /// `override`: whether a tag is replaced that the destination has with another digest.
    pub overwrite: bool,
    /// Whether tags are deleted at the destination that the source no longer has.
    pub delete: bool,
    /// `delete-share-max`: the largest share of a repository's tags that one execution may delete.
    pub delete_percent_max: u8,
    /// Whether the policy only tells what it would do.
    pub dry_run: bool,
    /// `speed`: the most bytes per second that the policy transfers.
    pub bytes_per_second_max: Option<u64>,
    /// `request-rate`: the most requests per second to each host.
    pub requests_per_second_max: Option<u32>,
    /// The most executions of this policy at the same time.
    pub executions_max: u32,
    /// What happens to an execution beyond that number.
    pub overlap: Overlap,
    /// Whether signatures, attestations and other referrers are copied.
    pub referrers: bool,
    /// What happens to an index of which the platform filter selects a part.
    pub sparse: Sparse,
    /// The command that receives the report on its standard input, and its arguments; empty if there is none.
    pub on_done: Vec<String>,
    /// Whether the parts of an artifact are looked for although both sides have the same digest.
    pub verify: bool,
}

/// What starts a policy.
#[derive(Clone, Debug, PartialEq)]
pub enum Trigger {
    /// A person.
    Manual,
    /// The time.
    Cron(Schedule),
    /// An event on this host, of one of these kinds.
    Event(Vec<EventKind>),
}

/// An event that starts a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// This host pushed an image.
    Push,
    /// This host pulled an image.
    Pull,
    /// This host loaded an image from an archive.
    Load,
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trigger::Manual => f.write_str("manual"),
            Trigger::Cron(schedule) => write!(f, "cron {schedule}"),
            Trigger::Event(kinds) => {
                let words: Vec<&str> = kinds.iter().map(|kind| kind.word()).collect();
                write!(f, "event {}", words.join(","))
            }
        }
    }
}

impl EventKind {
    /// All kinds.
    pub const ALL: [EventKind; 3] = [EventKind::Push, EventKind::Pull, EventKind::Load];

    /// The kind's word in policies.
    pub fn word(self) -> &'static str {
        match self {
            EventKind::Push => "push",
            EventKind::Pull => "pull",
            EventKind::Load => "load",
        }
    }
}

/// What happens to an execution that starts while the policy has as many as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// It waits.
    Queue,
    /// It is recorded as skipped.
    Skip,
}

/// Why a policy cannot be used. The other policies can.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file or the directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The file's name is not that of a policy.
    #[error("cannot use {}: {why}", path.display())]
    Name {
        /// The file or directory.
        path: PathBuf,
        /// The rule that the name breaks.
        why: &'static str,
    },
    /// The file is not valid.
    #[error("cannot use {}, line {line}{}: {why}", path.display(), of_key(key))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line number, counted from 1.
        line: usize,
        /// The key with its table, such as `filter.tag`; empty if the line has none.
        key: String,
        /// What is wrong with it.
        why: String,
    },
}

impl PolicyError {
    /// The file or directory that the error is about.
    pub fn path(&self) -> &Path {
        match self {
            PolicyError::Read { path, .. }
            | PolicyError::Name { path, .. }
            | PolicyError::Invalid { path, .. } => path,
        }
    }
}

fn of_key(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!(", key {key}") }
}

impl Policy {
    /// Parses the file `path` with the contents `text`. `zone` returns the zone of a name, or the host's.
    ///
    /// # Errors
    /// [`PolicyError::Invalid`] for the first thing that is wrong.
    pub fn parse(
        name: &str,
        path: &Path,
        text: &str,
        zone: impl Fn(Option<&str>) -> Result<Zone, ScheduleError>,
    ) -> Result<Self, PolicyError> {
        let invalid = |span: std::ops::Range<usize>, key: String, why: String| {
            let before = text.as_bytes().get(..span.start.min(text.len())).unwrap_or_default();
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            PolicyError::Invalid { path: path.to_owned(), line, key, why }
        };
        let top = DeTable::parse(text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            let start = text.get(..span.start).map_or(0, |before| before.rfind('\n').map_or(0, |at| at + 1));
            let line = text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
            let key = line.split_once('=').map_or("", |(key, _)| key.trim());
            invalid(span, key.to_owned(), error.message().to_owned())
        })?;
        Section::top(top.get_ref(), &KEYS)
            .and_then(|top| Policy::read(name, path, &top, zone))
            .map(|policy| Policy { text: text.to_owned(), ..policy })
            .map_err(|Wrong { span, key, why }| invalid(span, key, why))
    }

    fn read(
        name: &str,
        path: &Path,
        top: &Section<'_>,
        zone: impl Fn(Option<&str>) -> Result<Zone, ScheduleError>,
    ) -> Result<Self, Wrong> {
        let (filter, target) = (top.section("filter", &FILTER_KEYS)?, top.section("target", &TARGET_KEYS)?);
        let policy = Policy {
            name: name.to_owned(),
            path: path.to_owned(),
            text: String::new(),
            source: top.required("source", place)?,
            source_glob: None,
            destination: top.required("destination", place)?,
            enabled: top.read("enabled", boolean)?.unwrap_or(true),
            filter: filter_of(&filter)?,
            target: target_of(&target)?,
            trigger: trigger_of(top, zone)?,
            overwrite: top.read("override", boolean)?.unwrap_or(true),
            delete: top.read("delete", boolean)?.unwrap_or(false),
            delete_percent_max: top.read("delete-share-max", percent)?.unwrap_or(30),
            dry_run: top.read("dry-run", boolean)?.unwrap_or(false),
            bytes_per_second_max: top.read("speed", bytes)?,
            requests_per_second_max: top.read("request-rate", |v| integer(v, 1, 1000))?,
            executions_max: top.read("executions-max", |v| integer(v, 1, 100))?.unwrap_or(1),
            overlap: top
                .read("overlap", |v| one_of(v, &[("queue", Overlap::Queue), ("skip", Overlap::Skip)]))?
                .unwrap_or(Overlap::Queue),
            referrers: top.read("referrers", boolean)?.unwrap_or(false),
            sparse: top
                .read("sparse", |v| one_of(v, &[("rewrite", Sparse::Rewrite), ("keep", Sparse::Keep)]))?
                .unwrap_or_default(),
            on_done: top.read("on-done", command)?.unwrap_or_default(),
            verify: top.read("verify", boolean)?.unwrap_or(false),
        };
        policy.check().map_err(|(key, why)| top.wrong(key, why))
    }

    /// The options of each execution of the policy.
    pub fn options(&self) -> Options {
        Options {
            all_tags: true,
            platforms: self.filter.platform.iter().map(Platform::to_string).collect(),
            sparse: self.sparse,
            referrers: self.referrers,
            keep_existing: !self.overwrite,
            prune: self.delete,
            prune_max_percent: self.delete_percent_max,
            verify: self.verify,
            dry_run: self.dry_run,
            bytes_per_second: self.bytes_per_second_max.unwrap_or(0),
            requests_per_second: self.requests_per_second_max.unwrap_or(0),
            insecure_source: false,
            insecure_destination: false,
        }
    }

    /// Whether the policy copies from the repository: a path at a registry; with its host in other places.
    pub fn has_repository(&self, repository: &str) -> bool {
        self.source_glob.as_ref().is_none_or(|glob| glob.is_match(repository))
            && self.filter.has_name(repository)
    }

    /// Returns the path at the destination for a repository's path at the source.
    ///
    /// # Errors
    /// [`TargetError`]; among them, that the policy would copy the copy again at its next run.
    pub fn destination_repository(&self, repository: &str) -> Result<String, TargetError> {
        let destination = self.target.repository(repository)?;
        let is_one_host = match (&self.source, &self.destination) {
            (PlaceName::Registry { host, .. }, PlaceName::Registry { host: other, .. }) => host == other,
            _ => false,
        };
        match is_one_host && self.has_repository(&destination) {
            true => Err(TargetError::Loop { repository: repository.to_owned(), destination }),
            false => Ok(destination),
        }
    }

    /// Checks the values against each other, and sets those that follow from others; an error has its key first.
    fn check(mut self) -> Result<Self, (&'static str, String)> {
        if let PlaceName::Registry { pattern, .. } = &self.source {
            if pattern.is_empty() {
                return Err((
                    "source",
                    format!("{:?} has no path: write /** for all repositories", self.source.to_string()),
                ));
            }
            self.source_glob = Some(Glob::parse(pattern).map_err(|error| ("source", error.to_string()))?);
        }
        if let PlaceName::Registry { pattern, .. } = &self.destination {
            if !pattern.is_empty() && !is_namespace(pattern) {
                return Err(("destination", format!("{pattern:?} is not the path of a repository")));
            }
            self.target.base.clone_from(pattern);
        }
        if self.source == self.destination && !matches!(self.source, PlaceName::Registry { .. }) {
            return Err(("destination", "it is the source".to_owned()));
        }
        Ok(self)
    }
}

fn filter_of(section: &Section<'_>) -> Result<Filter, Wrong> {
    let globs =
        |value: &DeValue<'_>| list(value, |text| Glob::parse(text).map_err(|error| error.to_string()));
    Ok(Filter {
        name: section.read("name", globs)?.unwrap_or_default(),
        exclude_name: section.read("exclude-name", globs)?.unwrap_or_default(),
        tag: section.read("tag", globs)?.unwrap_or_default(),
        exclude_tag: section.read("exclude-tag", globs)?.unwrap_or_default(),
        semver: section
            .read("semver", |value| VersionRange::parse(string(value)?).map_err(|error| error.to_string()))?,
        platform: section
            .read("platform", |value| {
                list(value, |text| Platform::parse(text).map_err(|error| error.to_string()))
            })?
            .unwrap_or_default(),
        label: section
            .read("label", |value| {
                list(value, |text| Label::parse(text).ok_or(format!("{text:?} has no key")))
            })?
            .unwrap_or_default(),
        media_type: section.read("media-type", globs)?.unwrap_or_default(),
        newest: section.read("newest", |value| integer(value, 1, 1_000_000))?,
    })
}

fn target_of(section: &Section<'_>) -> Result<Target, Wrong> {
    let namespace = section.read("namespace", |value| match string(value)? {
        text if is_namespace(text) => Ok(text.to_owned()),
        text => Err(format!("{text:?} is not the path of a repository")),
    })?;
    let components: Option<i64> = section.read("replace-components", |value| integer(value, -1, 127))?;
    if components.is_some() && namespace.is_none() {
        return Err(section.wrong("replace-components", "it needs namespace"));
    }
    let replaced = components.and_then(|count| usize::try_from(count).ok());
    Ok(Target { base: String::new(), namespace, replaced })
}

fn trigger_of(
    top: &Section<'_>,
    zone: impl Fn(Option<&str>) -> Result<Zone, ScheduleError>,
) -> Result<Trigger, Wrong> {
    let kinds = [("manual", 0), ("cron", 1), ("event", 2)];
    let kind = top.read("trigger", |value| one_of(value, &kinds))?.unwrap_or(0);
    let cron = top.read("cron", |value| string(value).map(str::to_owned))?;
    let zone_name = top.read("time-zone", |value| string(value).map(str::to_owned))?;
    let on = top.read("on", |value| {
        let kinds = EventKind::ALL.map(|kind| (kind.word(), kind));
        list(value, |text| choose(text, &kinds))
    })?;
    for (key, is_given, needed) in
        [("cron", cron.is_some(), 1), ("time-zone", zone_name.is_some(), 1), ("on", on.is_some(), 2)]
    {
        if is_given && kind != needed {
            let trigger = if needed == 1 { "cron" } else { "event" };
            return Err(top.wrong(key, format!("it needs trigger = {trigger:?}")));
        }
    }
    match kind {
        0 => Ok(Trigger::Manual),
        1 => {
            let cron = cron.ok_or_else(|| top.wrong("cron", "it is missing"))?;
            let zone =
                zone(zone_name.as_deref()).map_err(|error| top.wrong("time-zone", error.to_string()))?;
            let schedule =
                Schedule::parse(&cron, zone).map_err(|error| top.wrong("cron", error.to_string()))?;
            Ok(Trigger::Cron(schedule))
        }
        _ => match on.filter(|kinds| !kinds.is_empty()) {
            Some(kinds) => Ok(Trigger::Event(kinds)),
            None => Err(top.wrong("on", "it must name at least one of push, pull and load")),
        },
    }
}

fn is_namespace(text: &str) -> bool {
    Reference::parse(&format!("localhost/{text}/x")).is_ok_and(|name| name.path() == format!("{text}/x"))
}

fn place(value: &DeValue<'_>) -> Result<PlaceName, String> {
    PlaceName::parse(string(value)?).map_err(|error| error.to_string())
}

fn bytes(value: &DeValue<'_>) -> Result<u64, String> {
    let text = string(value)?;
    let size = size::parse(text).filter(|bytes| *bytes > 0);
    size.ok_or_else(|| format!("{text:?} is not a size such as \"10MiB\" (of each second)"))
}

fn command(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let words = list(value, |word| match word.contains('\0') {
        true => Err("a word has a zero byte".to_owned()),
        false => Ok(word.to_owned()),
    })?;
    match words.first().is_none_or(String::is_empty) {
        true => Err("the command is missing".to_owned()),
        false => Ok(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const PAGE: &str = include_str!("../../../../docs/replication-policies.md");
    const SIDES: &str = "source = \"docker://a.example/team/**\"\ndestination = \"docker://b.example\"\n";

    fn parse(text: &str) -> Result<Policy, PolicyError> {
        let zone = |name: Option<&str>| match name {
            Some("Europe/Berlin") => Zone::from_rule("Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3"),
            None => Ok(Zone::utc()),
            Some(name) => Zone::from_rule(name, ""),
        };
        Policy::parse("nightly", Path::new("/etc/p/nightly.toml"), text, zone)
    }

    /// The first block of code of the page in this language.
    fn block(language: &str) -> &'static str {
        let (_, rest) = PAGE.split_once(&format!("```{language}\n")).expect("a block");
        rest.split_once("```").expect("its end").0
    }

    #[test]
    fn the_example_of_the_page_is_a_policy_with_every_key() {
        let policy = parse(block("toml")).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(policy.source.to_string(), "docker://registry.example/team/**");
        assert_eq!(policy.trigger.to_string(), "cron 0 3 * * * (Europe/Berlin)");
        assert_eq!(policy.bytes_per_second_max, Some(10 << 20));
        assert_eq!(policy.filter.newest, Some(10));
        assert_eq!(policy.destination_repository("team/web/app").expect("a name"), "backup/team/web/app");
    }

    #[test]
    fn the_page_has_every_key_with_its_default() {
        let (_, rest) = PAGE.split_once("## Keys\n").expect("the table");
        let table = rest.split("\n## ").next().unwrap_or_default();
        let rows = table.lines().filter(|line| line.starts_with("| `")).map(|line| line.split(" | "));
        let rows: Vec<Vec<&str>> = rows.map(Iterator::collect).collect();
        let keys = rows.iter().flat_map(|row| row[0].trim_start_matches("| ").split(", "));
        let documented: BTreeSet<String> = keys.map(|key| key.trim_matches('`').to_owned()).collect();
        let mut known = BTreeSet::new();
        for (section, prefix) in [("", ""), ("[filter]\n", "filter."), ("[target]\n", "target.")] {
            let error = parse(&format!("{SIDES}{section}x = 1\n")).expect_err("unknown").to_string();
            let (_, keys) = error.split_once("there are ").expect("the keys");
            known.extend(keys.split(", ").map(|key| format!("{prefix}{key}")));
        }
        known.retain(|key| key != "filter" && key != "target");
        assert_eq!(documented, known);
        // The defaults are written as TOML: a policy that writes them out equals one that leaves them out.
        let default = |key: &str| {
            let row = rows.iter().find(|row| row[0] == format!("| `{key}`")).expect(key);
            format!("{key} = {}\n", row[1].trim_matches('`'))
        };
        let top =
            ["enabled", "override", "delete", "delete-share-max", "dry-run", "executions-max", "overlap"];
        let rest = ["referrers", "sparse", "verify", "trigger"];
        let text: String = top.into_iter().chain(rest).map(default).collect();
        let written = parse(&format!("{SIDES}{text}")).expect("valid");
        assert_eq!(Policy { text: SIDES.to_owned(), ..written }, parse(SIDES).expect("valid"));
        // The example has each key, as TOML or behind a `#`.
        for key in documented {
            let key = key.rsplit('.').next().unwrap_or_default();
            assert!(
                block("toml")
                    .lines()
                    .any(|line| line.trim_start_matches("# ").starts_with(&format!("{key} ="))),
                "{key}"
            );
        }
    }

    #[test]
    fn an_error_names_the_file_the_line_and_the_key() {
        let table = [
            ("speed = \"fast\"", 3, "speed", "is not a size"),
            ("speed = \"0\"", 3, "speed", "is not a size"),
            ("speed = 10", 3, "speed", "is not a string but a TOML integer"),
            ("\nsped = \"1M\"", 4, "sped", "no such key; did you mean speed?"),
            ("[filter]\nx = 1", 4, "filter.x", "no such key"),
            ("filter = 3", 3, "filter", "not a table"),
            ("[other]\nx = 1", 3, "other", "no such key"),
            ("[filter]\ntag = [\"a[\"]", 4, "filter.tag", "\"a[\" is not a glob"),
            ("[filter]\ntag = \"a\"", 4, "filter.tag", "not a list of strings"),
            ("[filter]\nsemver = \"new\"", 4, "filter.semver", "not a range of versions"),
            ("[filter]\nplatform = [\"linux\"]", 4, "filter.platform", "not a platform"),
            ("[filter]\nlabel = [\"=x\"]", 4, "filter.label", "has no key"),
            ("[filter]\nnewest = 0", 4, "filter.newest", "whole number from 1"),
            ("[target]\nnamespace = \"A/b\"", 4, "target.namespace", "not the path"),
            ("[target]\nreplace-components = 1", 4, "target.replace-components", "needs namespace"),
            (
                "[target]\nnamespace = \"n\"\nreplace-components = -2",
                5,
                "target.replace-components",
                "whole number",
            ),
            ("trigger = \"hourly\"", 3, "trigger", "none of manual, cron, event"),
            ("trigger = \"cron\"", 1, "cron", "it is missing"),
            ("trigger = \"cron\"\ncron = \"0 3 * *\"", 4, "cron", "has 4 fields"),
            ("trigger = \"cron\"\ncron = \"0 3 * * *\"\ntime-zone = \"No/Where\"", 5, "time-zone", ""),
            ("cron = \"0 3 * * *\"", 3, "cron", "it needs trigger = \"cron\""),
            ("trigger = \"event\"", 1, "on", "at least one"),
            ("trigger = \"event\"\non = [\"tag\"]", 4, "on", "none of push, pull, load"),
            ("on = [\"push\"]", 3, "on", "it needs trigger = \"event\""),
            ("override = \"no\"", 3, "override", "neither true nor false"),
            ("delete-share-max = 1.5", 3, "delete-share-max", "from 0 to 1"),
            ("delete-share-max = nan", 3, "delete-share-max", "from 0 to 1"),
            ("request-rate = 0", 3, "request-rate", "from 1 to 1000"),
            ("executions-max = 101", 3, "executions-max", "from 1 to 100"),
            ("on-done = []", 3, "on-done", "the command is missing"),
            ("enabled = true\nenabled = true", 4, "enabled", "duplicate key"),
            ("speed = ", 3, "speed", ""),
            // The words are those of the command line.
            ("sparse = \"sparse\"", 3, "sparse", "none of rewrite, keep"),
        ];
        for (text, at, expected, part) in table {
            match parse(&format!("{SIDES}{text}\n")) {
                Err(PolicyError::Invalid { line, key, why, .. }) => {
                    assert_eq!((line, key.as_str()), (at, expected), "{text}: {why}");
                    assert!(why.contains(part), "{text}: {why}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        let error = parse("source = \"store:\"\n").expect_err("no destination").to_string();
        assert_eq!(error, "cannot use /etc/p/nightly.toml, line 1, key destination: it is missing");
        // A misspelt key is the cause of the missing one, and of values that do not fit.
        for text in ["source = \"store:\"\ndestinaton = \"x\"\n", "destinaton = \"x\"\nspeed = 1\n"] {
            let error = parse(text).expect_err("no such key").to_string();
            let why = "key destinaton: there is no such key; did you mean destination?";
            assert!(error.ends_with(why), "{error}");
        }
    }

    #[test]
    fn sides_that_make_no_sense_are_refused() {
        for (source, destination) in [
            ("docker://a.example", "store:"),
            ("docker://a.example/[", "store:"),
            ("docker://a.example/**", "docker://b.example/x/**"),
            ("docker://a.example/**", "docker://b.example/X"),
            ("store:", "store:"),
            ("oci:/a/b", "oci:/a//b/"),
            ("a.example/x", "store:"),
        ] {
            let text = format!("source = {source:?}\ndestination = {destination:?}\n");
            assert!(matches!(parse(&text), Err(PolicyError::Invalid { .. })), "{text}");
        }
    }

    #[test]
    fn a_policy_that_would_copy_its_own_copies_gives_no_name() {
        let policy = |destination: &str, rest: &str| {
            parse(&format!("source = \"docker://a.example/team/**\"\ndestination = {destination:?}\n{rest}"))
                .expect("valid")
        };
        let is_loop = |policy: Policy| {
            matches!(policy.destination_repository("team/app"), Err(TargetError::Loop { .. }))
        };
        assert!(is_loop(policy("docker://a.example", "")), "onto itself");
        assert!(is_loop(policy("docker://a.example/team/mirror", "")));
        assert!(!is_loop(policy("docker://a.example/mirror", "")));
        assert!(!is_loop(policy("docker://b.example", "")));
        assert!(!is_loop(policy(
            "docker://a.example/team/mirror",
            "[filter]\nexclude-name = [\"team/mirror/**\"]\n"
        )));
    }
}
