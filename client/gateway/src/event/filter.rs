//! docker's filters of events, applied to docker's objects. Docker Engine API, "SystemEvents".
//!
//! Values of one key are alternatives, and all keys must match; but of `label`, all values must match. A key that is not
//! known is ignored, as docker does. monitord drops the events that cannot match, as far as its own filters can say that
//! ([`Filter::for_monitord`]); the rest is decided here.

use crate::query::Filters;
use sampan_client::docker::event::Event;
use sampan_ipc::filter::FilterSet;
use sampan_ipc::image_name::repository;

/// Actions that have a text behind a colon. If one of them is wanted, all wanted actions are prefixes.
const WITH_TEXT: [&str; 3] = ["health_status", "exec_create", "exec_start"];
/// Keys whose values are the beginning of the actor's ID or name, whatever the event's type is.
const BY_ACTOR: [&str; 9] =
    ["container", "daemon", "network", "volume", "plugin", "service", "node", "secret", "config"];
/// docker's types of events.
const TYPES: [&str; 11] = [
    "builder",
    "config",
    "container",
    "daemon",
    "image",
    "network",
    "node",
    "plugin",
    "secret",
    "service",
    "volume",
];
/// Most bytes of filters that monitord gets. A request that has more is filtered here alone.
const FOR_MONITORD_MAX: usize = 2 << 10;

/// The filters of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    keys: Vec<(Key, Vec<String>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Type,
    /// Whether the values are prefixes.
    Event {
        is_prefix: bool,
    },
    Scope,
    Actor,
    Image,
    Label,
}

impl Filter {
    /// Takes the keys that docker knows.
    pub fn new(filters: Filters) -> Self {
        let known = |(name, values): (String, Vec<String>)| {
            let key = match name.as_str() {
                "type" => Key::Type,
                "event" => {
                    Key::Event { is_prefix: values.iter().any(|value| WITH_TEXT.contains(&value.as_str())) }
                }
                "scope" => Key::Scope,
                "image" => Key::Image,
                "label" => Key::Label,
                name if BY_ACTOR.contains(&name) => Key::Actor,
                _ => return None,
            };
            (!values.is_empty()).then_some((key, values))
        };
        Filter { keys: filters.into_iter().filter_map(known).collect() }
    }

    /// Whether the event is wanted.
    pub fn matches(&self, event: &Event<'_>) -> bool {
        self.keys.iter().all(|(key, values)| is_match(*key, values, event))
    }

    /// Filters for monitord that every wanted event matches: types and actions, which have the same names there.
    pub fn for_monitord(&self) -> Vec<String> {
        let mut filters = Vec::new();
        for (key, values) in &self.keys {
            let name = match key {
                // Events of many types are docker's type `daemon`.
                Key::Type if values.iter().all(|value| value != "daemon") => "type",
                Key::Event { is_prefix: false } => "event",
                _ => continue,
            };
            let of_key: Vec<String> = values.iter().map(|value| format!("{name}={value}")).collect();
            // A value that monitord refuses matches no event there, but it must not fail the request.
            if FilterSet::parse(&of_key).is_ok() {
                filters.extend(of_key);
            }
        }
        let is_short = filters.iter().map(String::len).sum::<usize>() <= FOR_MONITORD_MAX;
        if is_short && FilterSet::parse(&filters).is_ok() { filters } else { Vec::new() }
    }
}

fn is_match(key: Key, values: &[String], event: &Event<'_>) -> bool {
    let (actor, attributes) = (event.actor.id.as_ref(), &event.actor.attributes);
    let has = |text: &str| values.iter().any(|value| value == text);
    let begins = |text: &str| values.iter().any(|value| text.starts_with(value.as_str()));
    match key {
        // A type that only Sampan has is an attribute of a daemon's event.
        Key::Type => {
            has(event.kind)
                || event.kind == "daemon"
                    && attributes.get("type").is_some_and(|own| !TYPES.contains(&own) && has(own))
        }
        Key::Event { is_prefix: true } => begins(&event.action),
        Key::Event { is_prefix: false } => has(&event.action),
        Key::Scope => has(event.scope),
        Key::Actor => begins(actor) || begins(attributes.get("name").unwrap_or_default()),
        Key::Image => {
            let name = attributes.get(if event.kind == "image" { "name" } else { "image" });
            let name = name.unwrap_or_default();
            has(actor) || has(name) || has(repository(actor)) || has(repository(name))
        }
        Key::Label => values.iter().all(|label| match label.split_once('=') {
            Some((key, value)) => attributes.get(key) == Some(value),
            None => attributes.get(label).is_some(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Query;
    use sampan_client::docker::event::{Frame, Journal};
    use sampan_ipc::event::Origin;

    fn filter(json: &str) -> Filter {
        Filter::new(Query::parse(&format!("filters={json}")).filters().expect("valid"))
    }

    fn passes(json: &str, event: &sampan_ipc::Event) -> bool {
        let frame = Frame { seq: 1, journal: Journal(1), minor: 50 };
        filter(json).matches(&Event::of_event(event, frame))
    }

    fn container() -> sampan_ipc::Event {
        sampan_ipc::Event::new("container", "exec_start: sh -c true", "3277ec2e")
            .with("image", "docker.io/library/busybox:1.36")
            .with("name", "web-2")
            .with("exitCode", 1)
            .label("tier", "front")
            .label("team", "")
    }

    #[test]
    fn filters_are_docker_s() {
        let yes = [
            "{}",
            r#"{"type":["container"]}"#,
            r#"{"type":{"image":true,"container":true}}"#,
            r#"{"event":["exec_start"]}"#,
            r#"{"event":["exec_start: sh -c true"]}"#,
            r#"{"event":["exec","health_status"]}"#,
            r#"{"container":["32"]}"#,
            r#"{"container":["web"]}"#,
            r#"{"container":["no","web-2"]}"#,
            r#"{"daemon":["web"]}"#,
            r#"{"image":["busybox"]}"#,
            r#"{"image":["busybox:1.36"]}"#,
            r#"{"label":["tier=front","team"]}"#,
            r#"{"label":["exitCode=1"]}"#,
            r#"{"scope":["local"]}"#,
            r#"{"unknown":["x"]}"#,
            r#"{"type":[]}"#,
        ];
        let no = [
            r#"{"type":["image"]}"#,
            r#"{"type":["contain"]}"#,
            r#"{"type":["container"],"event":["die"]}"#,
            r#"{"event":["exec"]}"#,
            r#"{"container":["eb-2"]}"#,
            r#"{"image":["busy"]}"#,
            r#"{"image":["busybox:1"]}"#,
            r#"{"label":["tier=front","color"]}"#,
            r#"{"label":["tier=back"]}"#,
            r#"{"scope":["swarm"]}"#,
        ];
        for json in yes {
            assert!(passes(json, &container()), "{json}");
        }
        for json in no {
            assert!(!passes(json, &container()), "{json}");
        }
        let pull = sampan_ipc::Event::new("image", "pull", "docker.io/library/a:1");
        assert!(passes(r#"{"image":["a"]}"#, &pull) && passes(r#"{"image":["a:1"]}"#, &pull));
    }

    #[test]
    fn sampan_s_own_types_are_found_and_never_pass_for_docker_s() {
        let job = sampan_ipc::Event::new("job", "start", "1");
        assert!(passes(r#"{"type":["job"]}"#, &job) && passes(r#"{"type":["daemon"]}"#, &job));
        let node =
            sampan_ipc::Event { origin: Origin::Emit, ..sampan_ipc::Event::new("node", "create", "1") };
        assert!(!passes(r#"{"type":["node"]}"#, &node) && passes(r#"{"type":["daemon"]}"#, &node));
    }

    #[test]
    fn monitord_gets_only_filters_that_drop_no_wanted_event() {
        let of = |json: &str| filter(json).for_monitord();
        assert_eq!(of(r#"{"type":["container"],"event":["die"]}"#), ["event=die", "type=container"]);
        assert!(of(r#"{"type":["container","daemon"]}"#).is_empty());
        assert!(of(r#"{"event":["exec_start","die"]}"#).is_empty());
        assert!(of(r#"{"event":["die"],"event":["Die!"]}"#).is_empty(), "monitord would refuse it");
        assert!(of(r#"{"container":["a"],"label":["b"],"image":["c"]}"#).is_empty());
        let many: Vec<String> = (0..300).map(|nth| format!("\"t{nth}\"")).collect();
        assert!(of(&format!("{{\"type\":[{}]}}", many.join(","))).is_empty());
    }
}
