//! An event in docker's form: `events.Message` of the Docker Engine API, "SystemEvents".
//!
//! Used by the gateway for `GET /events`, and by `events` of the command line. Translates names and forms; docs/events.md
//! has Sampan's own. Borrows from the event that it describes, and makes no document: serde writes the fields as they
//! are.
//!
//! | event | docker's `Type` | docker's `Actor.ID`, and `name` |
//! |---|---|---|
//! | of a container, network, volume, daemon | the same | the same |
//! | image `pull`, `push`, and their errors | `image` | `repository:tag`; the repository |
//! | image `tag` | `image` | the image's ID; the new reference |
//! | image `untag`, `delete`, `import`, `load`, `save` | `image` | the image's ID; the image's ID again |
//! | of any other type, and every emitted one | `daemon` | the same; the attributes `type` and `origin` say what it is |
//!
//! docker's clients know a closed list of types, and bollard ends a stream at a type that is not in the list.

use sampan_ipc::event::{EventView, Origin};
use sampan_ipc::image_name::{familiar, repository};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::borrow::Cow;

/// The API version from which on events have no `status`, `id` and `from`.
const WITHOUT_LEGACY: u32 = 52;
/// The actor of events that say what happened to the stream itself.
const MONITORD: &str = "sampan-monitord";
/// Nanoseconds in a second.
const SECOND: i64 = 1_000_000_000;
/// Sampan's types that are docker's, too, if the event is a fact.
const SHARED_TYPES: [&str; 5] = ["container", "image", "network", "volume", "daemon"];

/// An event in docker's form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event<'a> {
    /// The action, for old clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Cow<'a, str>>,
    /// The actor's ID, for old clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, str>>,
    /// The image of a container, for old clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Cow<'a, str>>,
    /// The type of the object.
    #[serde(rename = "Type")]
    pub kind: &'a str,
    /// What happened.
    #[serde(rename = "Action")]
    pub action: Cow<'a, str>,
    /// The object.
    #[serde(rename = "Actor")]
    pub actor: Actor<'a>,
    /// Where the event is known: always on this host.
    pub scope: &'static str,
    /// The time in seconds since the epoch.
    pub time: i64,
    /// The time in nanoseconds since the epoch; not to be added to `time`.
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
    /// The sequence number. docker has no such key.
    pub seq: u64,
    /// The journal to which the sequence number belongs. docker has no such key.
    pub journal: Journal,
}

/// The object of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Actor<'a> {
    /// The object's ID.
    #[serde(rename = "ID")]
    pub id: Cow<'a, str>,
    /// Attributes and labels.
    #[serde(rename = "Attributes")]
    pub attributes: Attributes<'a>,
}

/// Attributes, sorted by their keys, which are unique.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a>(Vec<(&'a str, Cow<'a, str>)>);

/// The ID of a journal, which clients see as 16 hexadecimal digits: a number of 64 bits would lose digits in a client
/// that reads every number as a float.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Journal(pub u64);

/// Where an event is in a journal, and for which version of the API it is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The sequence number.
    pub seq: u64,
    /// The journal to which the sequence number belongs.
    pub journal: Journal,
    /// `N` of the API version `1.N`.
    pub minor: u32,
}

impl std::fmt::Display for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for Journal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Attributes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'a> Attributes<'a> {
    /// Merges attributes and labels. An attribute hides a label with its key, as in docker.
    fn merge(
        attributes: impl Iterator<Item = (&'a str, &'a str)>,
        labels: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let mut all: Vec<_> = attributes.map(|(key, value)| (key, Cow::Borrowed(value))).collect();
        let own = all.len();
        for (key, value) in labels {
            if !all.iter().take(own).any(|(attribute, _)| *attribute == key) {
                all.push((key, Cow::Borrowed(value)));
            }
        }
        all.sort_unstable_by_key(|(key, _)| *key);
        Attributes(all)
    }

    /// The value of `key`; `None` if there is no such key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by_key(&key, |(key, _)| key).ok()?;
        self.0.get(at).map(|(_, value)| value.as_ref())
    }

    /// Iterates over the attributes in the order of their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (*key, value.as_ref()))
    }

    fn set(&mut self, key: &'a str, value: impl Into<Cow<'a, str>>) {
        let value = value.into();
        match self.0.binary_search_by_key(&key, |(key, _)| key) {
            Ok(at) => self.0.iter_mut().skip(at).take(1).for_each(|entry| entry.1 = value.clone()),
            Err(at) => self.0.insert(at, (key, value)),
        }
    }
}

impl<'a> Event<'a> {
    /// Describes an event that is read in place.
    pub fn of_view(view: &EventView<'a>, frame: Frame) -> Self {
        let attributes = Attributes::merge(view.attributes.iter(), view.labels().iter());
        let head = Head { time: view.time, kind: view.kind, action: view.action, id: view.id };
        head.describe(view.origin, attributes, frame)
    }

    /// Describes an event of a subscription.
    pub fn of_event(event: &'a sampan_ipc::Event, frame: Frame) -> Self {
        let attributes = Attributes::merge(event.attributes.iter(), event.labels.iter());
        let head = Head { time: event.time, kind: &event.kind, action: &event.action, id: &event.id };
        head.describe(event.origin, attributes, frame)
    }

    /// Says that the events from `first` to `frame.seq`, including both, are lost.
    pub fn lost(first: u64, time: i64, frame: Frame) -> Self {
        let count = frame.seq.saturating_sub(first).saturating_add(1);
        let facts =
            [("count", count.to_string()), ("first", first.to_string()), ("last", frame.seq.to_string())];
        Self::notice("lost", time, facts, frame)
    }

    /// Says that the numbers of the journal `previous` end here, and that all events of another journal follow.
    pub fn replaced(previous: Journal, time: i64, frame: Frame) -> Self {
        let facts = [("journal", frame.journal.to_string()), ("previous", previous.to_string())];
        Self::notice("journal-replaced", time, facts, frame)
    }

    fn notice<const N: usize>(
        action: &'a str,
        time: i64,
        facts: [(&'a str, String); N],
        frame: Frame,
    ) -> Self {
        let mut attributes = Attributes::default();
        for (key, value) in facts {
            attributes.set(key, value);
        }
        Head { time, kind: "daemon", action, id: MONITORD }.describe(Origin::Facts, attributes, frame)
    }
}

/// The fields of an event that are texts or numbers.
struct Head<'a> {
    time: i64,
    kind: &'a str,
    action: &'a str,
    id: &'a str,
}

impl<'a> Head<'a> {
    fn describe(self, origin: Origin, mut attributes: Attributes<'a>, frame: Frame) -> Event<'a> {
        let is_shared = origin == Origin::Facts && SHARED_TYPES.contains(&self.kind);
        let mut id = Cow::Borrowed(self.id);
        let kind = match self.kind {
            kind if !is_shared => {
                attributes.set("type", kind);
                attributes.set("origin", if origin == Origin::Emit { "emit" } else { "facts" });
                "daemon"
            }
            "container" => {
                describe_container(self.action, &mut attributes);
                "container"
            }
            "image" => {
                id = describe_image(self.action, self.id, &mut attributes);
                "image"
            }
            "daemon" => {
                if attributes.get("name").is_none() {
                    attributes.set("name", self.id);
                }
                "daemon"
            }
            kind => kind,
        };
        let action = Cow::Borrowed(self.action);
        let mut event = Event {
            status: None,
            id: None,
            from: None,
            kind,
            action,
            actor: Actor { id, attributes },
            scope: "local",
            time: self.time.div_euclid(SECOND),
            time_nano: self.time,
            seq: frame.seq,
            journal: frame.journal,
        };
        if frame.minor < WITHOUT_LEGACY {
            event.add_legacy();
        }
        event
    }
}

impl Event<'_> {
    fn add_legacy(&mut self) {
        if !["container", "image"].contains(&self.kind) {
            return;
        }
        let filled = |text: &Cow<'_, str>| !text.is_empty();
        self.status = Some(self.action.clone());
        self.id = Some(self.actor.id.clone()).filter(filled);
        if self.kind == "container" {
            let image = self.actor.attributes.0.iter().find(|(key, _)| *key == "image");
            self.from = image.map(|(_, image)| image.clone()).filter(filled);
        }
    }
}

fn describe_container(action: &str, attributes: &mut Attributes<'_>) {
    // docker has no such attribute, so the key belongs to the owner's labels.
    attributes.0.retain(|(key, _)| *key != "pid");
    for (key, value) in &mut attributes.0 {
        match (*key, action) {
            ("image", _) => shorten(value, familiar),
            ("oldName", "rename") => *value = Cow::Owned(format!("/{value}")),
            _ => {}
        }
    }
}

/// Changes the attributes to docker's, and returns the actor's ID.
fn describe_image<'a>(action: &str, id: &'a str, attributes: &mut Attributes<'a>) -> Cow<'a, str> {
    match action {
        "pull" | "push" | "pull-error" | "push-error" => {
            attributes.set("name", repository(id));
            familiar(id).into()
        }
        "tag" | "untag" | "delete" | "import" | "load" | "save" => {
            let of = |key: &str| attributes.0.iter().find(|(of, _)| *of == key).map(|(_, id)| id.clone());
            let image = of("imageId").or_else(|| of("digest")).unwrap_or(Cow::Borrowed(id));
            let reference = familiar(id);
            if action == "tag" {
                attributes.set("name", reference);
            } else {
                if !id.starts_with("sha256:") {
                    attributes.set("reference", reference);
                }
                attributes.set("name", image.clone());
            }
            image
        }
        _ => {
            for (_, name) in attributes.0.iter_mut().filter(|(key, _)| *key == "name") {
                shorten(name, familiar);
            }
            familiar(id).into()
        }
    }
}

fn shorten(text: &mut Cow<'_, str>, shortened: impl Fn(&str) -> &str) {
    *text = match text {
        Cow::Borrowed(borrowed) => Cow::Borrowed(shortened(borrowed)),
        Cow::Owned(owned) => Cow::Owned(shortened(owned).to_owned()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const DIGEST: &str = "sha256:11";
    const IMAGE: &str = "sha256:22";

    fn frame(minor: u32) -> Frame {
        Frame { seq: 7, journal: Journal(0xab), minor }
    }

    fn described(event: &sampan_ipc::Event) -> Value {
        serde_json::to_value(Event::of_event(event, frame(50))).expect("an object")
    }

    fn image(action: &str, id: &str) -> sampan_ipc::Event {
        let event = sampan_ipc::Event::new("image", action, id).with("name", id);
        event.with("digest", DIGEST).with("imageId", IMAGE)
    }

    #[test]
    fn a_container_s_event_is_docker_s_object_with_two_keys_more() {
        let mut event = sampan_ipc::Event::new("container", "die", "0634")
            .with("name", "c1")
            .with("image", "docker.io/library/busybox:latest")
            .with("exitCode", 0)
            .label("app", "x")
            .label("image", "a label cannot pass for a fact");
        event.time = 1_795_229_862_422_452_939;
        let text = serde_json::to_string(&Event::of_event(&event, frame(50))).expect("an object");
        assert_eq!(
            text,
            concat!(
                r#"{"status":"die","id":"0634","from":"busybox:latest","Type":"container","Action":"die","#,
                r#""Actor":{"ID":"0634","Attributes":{"app":"x","exitCode":"0","image":"busybox:latest","name":"c1"}},"#,
                r#""scope":"local","time":1795229862,"timeNano":1795229862422452939,"seq":7,"journal":"00000000000000ab"}"#
            )
        );
        let new = serde_json::to_value(Event::of_event(&event, frame(52))).expect("an object");
        assert!(["status", "id", "from"].iter().all(|key| new.get(key).is_none()), "{new}");
        let rename = sampan_ipc::Event::new("container", "rename", "0634").with("oldName", "a");
        assert_eq!(described(&rename)["Actor"]["Attributes"]["oldName"], "/a");
    }

    #[test]
    fn images_have_docker_s_ids_and_names() {
        for (action, id, expected_id, expected_name) in [
            ("pull", "docker.io/library/a:1", "a:1", "a"),
            ("push", "localhost:5000/a/b:1", "localhost:5000/a/b:1", "localhost:5000/a/b"),
            ("pull-error", "docker.io/me/a:1", "me/a:1", "me/a"),
            ("tag", "docker.io/library/a:1", IMAGE, "a:1"),
            ("untag", "docker.io/library/a:1", IMAGE, IMAGE),
            ("delete", DIGEST, IMAGE, IMAGE),
            ("load", "docker.io/library/a:1", IMAGE, IMAGE),
            ("delete-error", "docker.io/library/a:1", "a:1", "a:1"),
        ] {
            let object = described(&image(action, id));
            assert_eq!(object["Actor"]["ID"], expected_id, "{action}");
            assert_eq!(object["Actor"]["Attributes"]["name"], expected_name, "{action}");
            assert_eq!((&object["id"], &object["status"]), (&json!(expected_id), &json!(action)));
            assert_eq!(object.get("from"), None);
        }
        let untag = described(&image("untag", "docker.io/library/a:1"));
        assert_eq!(untag["Actor"]["Attributes"]["reference"], "a:1");
        let prune = described(&sampan_ipc::Event::new("image", "prune", "").with("reclaimed", 5));
        assert_eq!((prune.get("id"), &prune["Actor"]["ID"]), (None, &json!("")));
    }

    #[test]
    fn every_other_event_is_a_daemon_s_and_an_emitted_one_is_marked() {
        let job = sampan_ipc::Event::new("job", "start", "1").with("type", "mine").label("origin", "facts");
        let object = described(&job);
        assert_eq!((&object["Type"], &object["Action"]), (&json!("daemon"), &json!("start")));
        assert_eq!(object["Actor"]["Attributes"], json!({"type": "job", "origin": "facts"}));
        assert_eq!(object.get("status"), None);
        // monitord lets no program emit a container's event; if it did, the event would still be marked.
        let emitted = sampan_ipc::Event {
            origin: Origin::Emit,
            ..sampan_ipc::Event::new("container", "die", "0634").with("origin", "facts").label("type", "x")
        };
        let object = described(&emitted);
        assert_eq!(object["Type"], "daemon");
        assert_eq!(object["Actor"]["Attributes"], json!({"type": "container", "origin": "emit"}));
        let daemon = described(&sampan_ipc::Event::new("daemon", "start", "sampan-engine"));
        assert_eq!(daemon["Actor"]["Attributes"], json!({"name": "sampan-engine"}));
    }

    #[test]
    fn notices_name_the_range_and_the_journals() {
        let lost = serde_json::to_value(Event::lost(3, 0, frame(50))).expect("an object");
        assert_eq!(
            (&lost["Type"], &lost["Action"], &lost["seq"]),
            (&json!("daemon"), &json!("lost"), &json!(7))
        );
        let attributes = &lost["Actor"]["Attributes"];
        assert_eq!(
            (&attributes["first"], &attributes["last"], &attributes["count"]),
            (&json!("3"), &json!("7"), &json!("5"))
        );
        let replaced = serde_json::to_value(Event::replaced(Journal(1), 0, frame(50))).expect("an object");
        assert_eq!(replaced["Actor"]["Attributes"]["previous"], "0000000000000001");
    }
}
