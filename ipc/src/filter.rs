//! Filters of events: `key=value`, OR within a key and AND across keys.
//!
//! monitord parses the filters when a subscription begins and calls [`FilterSet::matches`] for each event. The command
//! line parses them to report errors before it connects. This module does no I/O: an event holds everything that a
//! filter compares.
//!
//! | filter | matches |
//! |---|---|
//! | `type=WORD` | events of this type |
//! | `event=ACTION` | events with this action or this first word of it: `exec_start` matches `exec_start: sh` |
//! | `container=ID` or `NAME` | events of type `container` whose id begins with this or whose name is this |
//! | `daemon=ID` or `NAME` | events of type `daemon` whose id begins with this or whose name is this |
//! | `image=REFERENCE` | events whose attribute `image` is this reference, and image events whose id or name is this |
//! | `label=KEY`, `label=KEY=VALUE` | events with this label |
//! | `name=NAME` | events whose attribute `name` or id is this, or whose id begins with these 12 or more hex digits |
//! | `id=PREFIX` | events whose id begins with this |
//! | `origin=facts`, `origin=emit` | events from the monitor FIFO, or events from the emit FIFO |
//! | `attr.KEY=VALUE` | events whose attribute KEY is VALUE |
//!
//! Docker matches `container` with the beginning of a name, and on events of any type. Here `container` matches whole
//! names, and only events of type `container`: `container=web` does not match `web-2`. An image reference matches with
//! or without its tag or digest, with or without `docker.io/library/`, and by 12 or more hex digits of the image's ID.
//! Several labels are OR, like several values of any key.

use crate::event::{ACTION_WORD_MAX, EventView, FACT_KINDS, KIND_MAX, Origin, is_key, is_word};
use crate::watch::FILTERS_MAX;

/// All keys, as an error message lists them.
pub const KEYS: &str = "type, event, container, image, label, name, id, daemon, origin, attr.KEY";
/// Value of `origin` for events that came through the monitor FIFO.
const FACTS: &str = "facts";
/// Value of `origin` for events that came through the emit FIFO.
const EMIT: &str = "emit";
/// Fewest hex digits that a filter reads as the beginning of an ID where a name is allowed, too.
const SHORT_ID_MIN: usize = 12;

/// A set of parsed filters. The order in which filters were given does not matter: equal filters make equal sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterSet {
    /// One group per key, all of which must match; the groups that are cheap to compare come first.
    groups: Vec<Group>,
}

/// The values of one key, at least one of which must match.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    key: Key,
    values: Vec<String>,
}

/// The part of an event that a filter compares. The variants are in the order of the cost of comparing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Origin,
    Type,
    Event,
    Id,
    Container,
    Daemon,
    Name,
    Image,
    Attribute(String),
    Label,
}

/// Why a filter is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The filter has no `=`.
    #[error("filter {0:?} is not KEY=VALUE; keys are {KEYS}")]
    NoValue(String),
    /// The value is empty.
    #[error("filter {0:?} has an empty value")]
    EmptyValue(String),
    /// The key is not known.
    #[error("filter key {key:?} is unknown; keys are {KEYS}{}", suggestion(.meant))]
    UnknownKey {
        /// The key as given.
        key: String,
        /// The filters that the person probably meant; empty if unknown.
        meant: Vec<String>,
    },
    /// The value of `origin` is neither `facts` nor `emit`.
    #[error("filter {0:?} has an unknown origin; origins are facts, emit")]
    Origin(String),
    /// The filter cannot match any event that monitord accepts.
    #[error("filter {filter:?} matches no event: {rule}{}", suggestion(.meant))]
    Never {
        /// The filter as given.
        filter: String,
        /// The rule for all events that the filter contradicts.
        rule: &'static str,
        /// The filters that the person probably meant; empty if unknown.
        meant: Vec<String>,
    },
    /// There are more than [`FILTERS_MAX`] filters.
    #[error("{0} filters are too many: at most {FILTERS_MAX}")]
    TooMany(usize),
}

impl FilterSet {
    /// Parses filters as a person types them. An empty set matches every event.
    ///
    /// # Errors
    /// The [`FilterError`] of the first invalid filter.
    pub fn parse(filters: &[String]) -> Result<Self, FilterError> {
        if filters.len() > FILTERS_MAX {
            return Err(FilterError::TooMany(filters.len()));
        }
        let mut groups: Vec<Group> = Vec::new();
        for filter in filters {
            let (key, value) = parse_one(filter)?;
            match groups.iter_mut().find(|group| group.key == key) {
                Some(group) => group.values.push(value),
                None => groups.push(Group { key, values: vec![value] }),
            }
        }
        groups.sort_by(|a, b| a.key.cmp(&b.key));
        for group in &mut groups {
            group.values.sort();
            group.values.dedup();
        }
        Ok(FilterSet { groups })
    }

    /// Whether `event` matches every key. Does not allocate.
    pub fn matches(&self, event: &EventView<'_>) -> bool {
        self.groups.iter().all(|group| group.matches(event))
    }

    /// Whether there is no filter, so that every event matches.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

fn parse_one(filter: &str) -> Result<(Key, String), FilterError> {
    let Some((name, value)) = filter.split_once('=') else {
        return Err(FilterError::NoValue(filter.to_owned()));
    };
    let key = match name {
        "type" => Key::Type,
        "event" => Key::Event,
        "container" => Key::Container,
        "image" => Key::Image,
        "label" => Key::Label,
        "name" => Key::Name,
        "id" => Key::Id,
        "daemon" => Key::Daemon,
        "origin" => Key::Origin,
        _ => match name.strip_prefix("attr.").filter(|key| !key.is_empty()) {
            // The value of an attribute may be empty, so a filter may have an empty value.
            Some(key) => {
                let attribute = Key::Attribute(key.to_owned());
                return match broken_rule(&attribute, value) {
                    Some(rule) => {
                        Err(FilterError::Never { filter: filter.to_owned(), rule, meant: Vec::new() })
                    }
                    None => Ok((attribute, value.to_owned())),
                };
            }
            None => {
                // A person who knows `container=ID` tries `task=ID`, too.
                let is_type = FACT_KINDS.contains(&name) && !value.is_empty();
                let meant = if is_type { vec![format!("id={value}")] } else { Vec::new() };
                return Err(FilterError::UnknownKey { key: name.to_owned(), meant });
            }
        },
    };
    let value = if key == Key::Image { familiar(value) } else { value };
    if value.is_empty() {
        return Err(FilterError::EmptyValue(filter.to_owned()));
    }
    if key == Key::Origin && ![FACTS, EMIT].contains(&value) {
        return Err(FilterError::Origin(filter.to_owned()));
    }
    if let Some(rule) = broken_rule(&key, value) {
        return Err(FilterError::Never { filter: filter.to_owned(), rule, meant: meant_by(name, value) });
    }
    Ok((key, value.to_owned()))
}

/// The rule of [`crate::Event::check`] because of which the filter cannot match any event; `None` if it can.
fn broken_rule(key: &Key, value: &str) -> Option<&'static str> {
    let first_word = value.split_once(": ").map_or(value, |(word, _)| word);
    let label_key = value.split_once('=').map_or(value, |(key, _)| key);
    match key {
        Key::Type if !is_word(value.as_bytes(), KIND_MAX) => Some("a type is one word [a-z0-9][a-z0-9_.-]*"),
        Key::Event if !is_word(first_word.as_bytes(), ACTION_WORD_MAX) => {
            Some("an action is one word [a-z0-9][a-z0-9_.-]*, then nothing or ': ' and text")
        }
        Key::Label if !is_key(label_key) => Some(KEY_RULE),
        Key::Attribute(name) if !is_key(name) => Some(KEY_RULE),
        _ => None,
    }
}

const KEY_RULE: &str = "a key is not empty and has no control character";

/// Guesses the filters that a person meant by an invalid value: in lower case, and one filter for each value of a list.
fn meant_by(name: &str, value: &str) -> Vec<String> {
    let one = |word: &str| {
        let (first, rest) = match word.trim().split_once(':') {
            Some((first, rest)) if name == "event" => (first.to_lowercase(), rest.trim()),
            _ => (word.trim().to_lowercase(), ""),
        };
        let text = if rest.is_empty() { String::new() } else { format!(": {rest}") };
        is_word(first.as_bytes(), KIND_MAX.min(ACTION_WORD_MAX)).then(|| format!("{name}={first}{text}"))
    };
    match name {
        "type" | "event" => value.split([',', '|']).map(one).collect::<Option<_>>().unwrap_or_default(),
        _ => Vec::new(),
    }
}

fn suggestion(filters: &[String]) -> String {
    match filters {
        [] => String::new(),
        [one] => format!("; write {one}"),
        [first @ .., last] => {
            let first = first.join(", ");
            format!("; write {first} and {last} as separate filters: values of one key are OR")
        }
    }
}

impl Group {
    fn matches(&self, event: &EventView<'_>) -> bool {
        match &self.key {
            Key::Origin => {
                let origin = if event.origin == Origin::Emit { EMIT } else { FACTS };
                self.any(|value| value == origin)
            }
            Key::Type => self.any(|value| event.kind == value),
            Key::Event => self.any(|value| is_action(event.action, value)),
            Key::Id => self.any(|value| event.id.starts_with(value)),
            Key::Container => event.kind == "container" && self.is_id_or_name(event),
            Key::Daemon => event.kind == "daemon" && self.is_id_or_name(event),
            Key::Name => {
                let name = event.attributes.get("name");
                self.any(|value| name == Some(value) || event.id == value || is_short_id(event.id, value))
            }
            Key::Image => self.is_image(event),
            Key::Attribute(key) => match event.attributes.get(key) {
                Some(attribute) => self.any(|value| attribute == value),
                None => false,
            },
            Key::Label => event.labels().iter().any(|label| self.any(|value| is_label(label, value))),
        }
    }

    fn any(&self, mut matches: impl FnMut(&str) -> bool) -> bool {
        self.values.iter().any(|value| matches(value))
    }

    fn is_id_or_name(&self, event: &EventView<'_>) -> bool {
        self.any(|value| event.id.starts_with(value)) || {
            let name = event.attributes.get("name");
            name.is_some_and(|name| self.any(|value| name == value))
        }
    }

    fn is_image(&self, event: &EventView<'_>) -> bool {
        let is = |reference: &str| self.any(|value| is_reference(reference, value));
        event.attributes.get("image").is_some_and(is)
            || event.kind == "image"
                && (is(event.id)
                    || event.attributes.get("name").is_some_and(is)
                    || self.any(|value| is_short_id(event.id, value)))
    }
}

fn is_action(action: &str, value: &str) -> bool {
    match action.strip_prefix(value) {
        Some(rest) => rest.is_empty() || rest.starts_with(": "),
        None => false,
    }
}

fn is_label((key, word): (&str, &str), value: &str) -> bool {
    match value.split_once('=') {
        Some((wanted_key, wanted_word)) => key == wanted_key && word == wanted_word,
        None => key == value,
    }
}

/// Whether `value` is the beginning of `id`, and has so many hex digits that it is hardly a name.
fn is_short_id(id: &str, value: &str) -> bool {
    let digits = value.strip_prefix("sha256:").unwrap_or(value);
    digits.len() >= SHORT_ID_MIN
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        && id.strip_prefix("sha256:").unwrap_or(id).starts_with(digits)
}

/// Whether `reference` equals `value`: in full, without its digest, or without digest and tag.
fn is_reference(reference: &str, value: &str) -> bool {
    let reference = familiar(reference);
    let without_digest = reference.split_once('@').map_or(reference, |(name, _)| name);
    reference == value || without_digest == value || without_tag(without_digest) == value
}

/// The reference in docker's familiar form: without the default registry and `library/`.
fn familiar(reference: &str) -> &str {
    match reference.strip_prefix("docker.io/") {
        Some(rest) => rest.strip_prefix("library/").unwrap_or(rest),
        None => reference,
    }
}

fn without_tag(reference: &str) -> &str {
    match reference.rsplit_once(':') {
        // A colon before the last slash belongs to a port.
        Some((name, tag)) if !tag.contains('/') => name,
        _ => reference,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, record};

    fn set(filters: &[&str]) -> FilterSet {
        parse(filters).expect("good filters")
    }

    fn parse(filters: &[&str]) -> Result<FilterSet, FilterError> {
        FilterSet::parse(&filters.iter().map(|filter| (*filter).to_owned()).collect::<Vec<_>>())
    }

    fn passes(filters: &[&str], event: &Event) -> bool {
        let body = record::body(event).expect("a good event");
        set(filters).matches(&EventView::of_record(&body).expect("a good body"))
    }

    fn container() -> Event {
        Event::new("container", "exec_start: sh -c true", "3277ec2e57cd90ab")
            .with("image", "docker.io/library/busybox:1.36")
            .with("name", "web")
            .with("empty", "")
            .label("tier", "front=1")
            .label("team", "")
    }

    #[test]
    fn values_of_a_key_are_or_and_keys_are_and() {
        let event = container();
        assert!(passes(&[], &event));
        assert!(passes(&["type=image", "type=container"], &event));
        assert!(!passes(&["type=image", "name=web"], &event));
        assert!(passes(&["label=no", "label=team", "event=exec_start"], &event));
        assert!(!passes(&["attr.name=web", "attr.image=x"], &event));
    }

    #[test]
    fn each_key_matches_what_the_table_says() {
        let yes = [
            "event=exec_start",
            "event=exec_start: sh -c true",
            "container=3277",
            "container=web",
            "image=busybox",
            "image=busybox:1.36",
            "image=docker.io/library/busybox",
            "label=tier",
            "label=tier=front=1",
            "label=team=",
            "name=web",
            "name=3277ec2e57cd",
            "id=32",
            "attr.empty=",
            "attr.image=docker.io/library/busybox:1.36",
        ];
        let no = [
            "event=exec",
            "event=exec_start: sh",
            "container=we",
            "container=web2",
            "image=busy",
            "image=busybox:1.37",
            "image=web",
            "label=tie",
            "label=tier=front",
            "label=name",
            "name=we",
            "name=3277",
            "id=77",
            "daemon=web",
            "attr.missing=",
            "attr.tier=front=1",
        ];
        for filter in yes {
            assert!(passes(&[filter], &container()), "{filter}");
        }
        for filter in no {
            assert!(!passes(&[filter], &container()), "{filter}");
        }
    }

    #[test]
    fn an_image_is_found_by_id_name_reference_and_digest() {
        let by_id =
            Event::new("image", "tag", "sha256:0123456789abcdef").with("name", "host:5000/a/b:1@sha256:ff");
        for filter in [
            "image=host:5000/a/b",
            "image=host:5000/a/b:1",
            "image=host:5000/a/b:1@sha256:ff",
            "image=0123456789ab",
        ] {
            assert!(passes(&[filter], &by_id), "{filter}");
        }
        for filter in ["image=host", "image=host:5000", "image=0123456789", "container=sha256"] {
            assert!(!passes(&[filter], &by_id), "{filter}");
        }
        let by_reference = Event::new("image", "pull", "docker.io/library/alpine:latest");
        assert!(passes(&["image=alpine"], &by_reference));
        assert!(!passes(&["image=alpine"], &Event::new("backup", "done", "alpine")));
    }

    #[test]
    fn facts_and_emitted_events_are_told_apart() {
        let body = record::body(&container()).expect("a good event");
        let fact = EventView::of_record(&body).expect("a good body");
        let emitted = EventView { origin: Origin::Emit, ..fact };
        let passing = |filters: &[&str]| (set(filters).matches(&fact), set(filters).matches(&emitted));
        assert_eq!(passing(&["origin=facts"]), (true, false));
        assert_eq!(passing(&["origin=emit"]), (false, true));
        assert_eq!(passing(&["origin=emit", "origin=facts"]), (true, true));
        assert_eq!(passing(&["origin=emit", "type=image"]), (false, false));
        for wrong in ["origin=fact", "origin=Emit", "origin=engine"] {
            let error = parse(&[wrong]).expect_err("no origin").to_string();
            assert!(error.contains(wrong) && error.contains("facts, emit"), "{error}");
        }
        assert!(matches!(parse(&["origin="]), Err(FilterError::EmptyValue(_))));
    }

    #[test]
    fn order_and_repetition_make_no_difference() {
        assert_eq!(set(&["type=a", "event=x", "type=b"]), set(&["type=b", "type=a", "event=x", "type=b"]));
        assert_ne!(set(&["attr.k=a"]), set(&["attr.j=a"]));
        assert!(set(&[]).is_empty());
    }

    #[test]
    fn a_filter_that_can_never_match_is_refused_with_what_was_meant() {
        for (filter, meant) in [
            ("type=Container", "; write type=container"),
            ("type= container", "; write type=container"),
            ("type=a,b", "; write type=a and type=b as separate filters"),
            ("type=a, B|c", "; write type=a, type=b and type=c as separate filters"),
            ("type=container start", "a type is one word [a-z0-9][a-z0-9_.-]*"),
            ("type=\u{e9}", "a type is one word"),
            ("event=Start", "; write event=start"),
            ("event=start,die", "; write event=start and event=die as separate filters"),
            ("event=EXEC_START: Sh", "; write event=exec_start: Sh"),
            ("event=exec_start:sh", "; write event=exec_start: sh"),
            ("event=exec_start:", "; write event=exec_start"),
            ("event=health status", "an action is one word"),
            ("label==x", "a key is not empty"),
            ("label=a\n=x", "a key is not empty"),
            ("attr.a\u{9b}=x", "a key is not empty"),
        ] {
            let error = parse(&[filter]).expect_err(filter).to_string();
            assert!(error.contains(&format!("{filter:?} matches no event: ")), "{error}");
            assert!(error.contains(meant), "{filter}: {error}");
        }
        let long = format!("type={}", "a".repeat(KIND_MAX + 1));
        assert!(matches!(parse(&[&long]), Err(FilterError::Never { meant, .. }) if meant.is_empty()));
        for good in ["event=exec_start: Sh, -c", "container=Web,2", "label=A,B=C", "attr.Key=A,b", "name=A"] {
            assert!(parse(&[good]).is_ok(), "{good}");
        }
    }

    #[test]
    fn every_event_is_matched_by_the_filters_that_its_own_words_make() {
        for (kind, action) in [("a", "b"), ("0-._", "exec_start: X, y: z"), ("container", "health_status: ")]
        {
            let event = Event::new(kind, action, "id").with("K", "v").label("l", "v");
            assert!(event.check().is_ok());
            let filters =
                [format!("type={kind}"), format!("event={action}"), "attr.K=v".into(), "label=l=v".into()];
            for filter in &filters {
                assert!(passes(&[filter], &event), "{filter}");
            }
        }
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_known_ones() {
        let error = parse(&["nme=web"]).expect_err("unknown").to_string();
        assert!(error.contains("\"nme\"") && error.ends_with(KEYS), "{error}");
        let error = parse(&["task=0a1b"]).expect_err("unknown").to_string();
        assert!(error.ends_with("; write id=0a1b"), "{error}");
        assert!(matches!(parse(&["type"]), Err(FilterError::NoValue(_))));
        assert!(matches!(parse(&["type="]), Err(FilterError::EmptyValue(_))));
        assert!(matches!(parse(&["image=docker.io/library/"]), Err(FilterError::EmptyValue(_))));
        assert!(matches!(parse(&["attr.=x"]), Err(FilterError::UnknownKey { .. })));
        assert!(matches!(parse(&["=x"]), Err(FilterError::UnknownKey { .. })));
        assert!(matches!(parse(&vec!["type=a"; FILTERS_MAX + 1]), Err(FilterError::TooMany(257))));
    }
}
