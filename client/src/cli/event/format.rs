//! Events as text: for people, as JSON lines, and as logfmt.
//!
//! Called by `watch`; `emit --batch` can read the JSON form. Every form is one line per event.

use crate::cli::error::{Failure, USAGE};
use crate::cli::format;
use crate::cli::json;
use sampan_client::docker::event::{self as docker, Frame, Journal};
use sampan_client::template::{Data, Template};
use sampan_client::{Event, Origin, Pairs, time};
use sampan_ipc::event::is_hidden;
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::fmt::Write as _;

/// The version of docker's API, `1.N`, whose events a template gets: the newest with the fields `status`, `id` and
/// `from`.
const MINOR: u32 = 50;
/// Fields that docker's events leave out for some types.
const OPTIONAL: [&str; 3] = ["status", "id", "from"];

/// A form of events that this program knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum EventFormat {
    /// TIME TYPE ACTION ID (KEY=VALUE, …)
    #[default]
    Line,
    /// One JSON object per line, with Sampan's keys, as `emit --batch` reads them.
    Json,
    /// KEY=VALUE words
    Logfmt,
}

/// The value of `--format`.
#[derive(Debug)]
pub(crate) enum Format {
    Known(EventFormat),
    /// A template, which gets docker's object.
    Template(Template),
}

impl Format {
    /// Parses the value of `--format`.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, Failure> {
        Ok(Format::Known(match text {
            None | Some("line" | "") => EventFormat::Line,
            Some("json") => EventFormat::Json,
            Some("logfmt") => EventFormat::Logfmt,
            Some(text) if !text.contains("{{") => {
                return Err(Failure::new(format!("there is no format {text:?}"))
                    .hint("write line, json, logfmt, or a template of Go, such as '{{.Actor.ID}}'")
                    .status(USAGE));
            }
            Some(text) => return Ok(Format::Template(format::template(text)?)),
        }))
    }

    /// Whether events are lines for people, beside which notices are printed.
    pub(crate) fn is_line(&self) -> bool {
        matches!(self, Format::Known(EventFormat::Line))
    }

    /// Appends `event` and a line feed. `journal` is the ID of its journal.
    pub(crate) fn event(&self, out: &mut String, told: &Event, journal: u64) -> Result<(), Failure> {
        match self {
            Format::Known(format) => event(out, told, *format),
            Format::Template(template) => {
                let frame = Frame { seq: told.seq, journal: Journal(journal), minor: MINOR };
                execute(out, template, &docker::Event::of_event(told, frame))?;
            }
        }
        Ok(())
    }

    /// Appends a notice of lost events; returns false for a format that has no such notice.
    pub(crate) fn lost(
        &self,
        out: &mut String,
        first: u64,
        last: u64,
        journal: u64,
    ) -> Result<bool, Failure> {
        match self {
            Format::Known(format) => Ok(lost(out, first, last, *format)),
            Format::Template(template) => {
                let frame = Frame { seq: last, journal: Journal(journal), minor: MINOR };
                execute(out, template, &docker::Event::lost(first, time::now(), frame))?;
                Ok(true)
            }
        }
    }

    /// Appends a notice that monitord has another journal; returns false for a format that has no such notice.
    pub(crate) fn replaced(&self, out: &mut String) -> bool {
        match self {
            Format::Known(format) => replaced(out, *format),
            Format::Template(_) => false,
        }
    }
}

/// Appends what a template prints for an event in docker's form.
fn execute(out: &mut String, template: &Template, event: &docker::Event<'_>) -> Result<(), Failure> {
    let object = serde_json::to_value(event)
        .map_err(|error| Failure::new(format!("cannot describe an event in docker's form: {error}")))?;
    let text = format::execute(template, &Data::object(&object).with_optional(&OPTIONAL))?;
    out.push_str(&format::for_output(&text));
    out.push('\n');
    Ok(())
}

/// Appends `event` and a line feed.
pub(crate) fn event(out: &mut String, event: &Event, format: EventFormat) {
    match format {
        EventFormat::Line => out.push_str(&event.line()),
        EventFormat::Json => out.push_str(&json::line(&JsonEvent(event))),
        EventFormat::Logfmt => logfmt(out, event),
    }
    out.push('\n');
}

/// Appends a notice of lost events; returns false for a format that has no such notice.
pub(crate) fn lost(out: &mut String, first: u64, last: u64, format: EventFormat) -> bool {
    let _ = match format {
        EventFormat::Line => return false,
        EventFormat::Json => writeln!(out, r#"{{"lost":{{"first":{first},"last":{last}}}}}"#),
        EventFormat::Logfmt => writeln!(out, "lost.first={first} lost.last={last}"),
    };
    true
}

/// Appends a notice that monitord has another journal; returns false for a format that has no such notice.
fn replaced(out: &mut String, format: EventFormat) -> bool {
    out.push_str(match format {
        EventFormat::Line => return false,
        EventFormat::Json => "{\"journal\":{\"replaced\":true}}\n",
        EventFormat::Logfmt => "journal.replaced=true\n",
    });
    true
}

struct JsonEvent<'a>(&'a Event);

impl Serialize for JsonEvent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("seq", &event.seq)?;
        map.serialize_entry("time", &time::local(event.time))?;
        map.serialize_entry("timeNano", &event.time)?;
        map.serialize_entry("type", &event.kind)?;
        map.serialize_entry("action", &event.action)?;
        map.serialize_entry("id", &event.id)?;
        if event.origin == Origin::Emit {
            map.serialize_entry("origin", "emit")?;
        }
        map.serialize_entry("attributes", &JsonPairs(&event.attributes))?;
        map.serialize_entry("labels", &JsonPairs(&event.labels))?;
        if event.lost > 0 {
            map.serialize_entry("writerLost", &event.lost)?;
        }
        map.end()
    }
}

struct JsonPairs<'a>(&'a Pairs);

impl Serialize for JsonPairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}

fn logfmt(out: &mut String, event: &Event) {
    let _ = write!(out, "time={} seq={}", time::local(event.time), event.seq);
    for (key, value) in [("type", &event.kind), ("action", &event.action), ("id", &event.id)] {
        word(out, "", key, value);
    }
    if event.origin == Origin::Emit {
        out.push_str(" origin=emit");
    }
    for (key, value) in event.attributes.iter() {
        word(out, "attr.", key, value);
    }
    for (key, value) in event.labels.iter() {
        word(out, "label.", key, value);
    }
    if event.lost > 0 {
        let _ = write!(out, " writerLost={}", event.lost);
    }
}

/// Appends ` KEY=VALUE`. The value is a JSON string if it contains characters that need quotes in logfmt.
fn word(out: &mut String, prefix: &str, key: &str, value: &str) {
    out.push(' ');
    out.push_str(prefix);
    // logfmt has no quotes for keys, so replace the characters that need quotes.
    for c in key.chars() {
        out.push(if c.is_whitespace() || is_hidden(c) || c == '"' { '_' } else { c });
    }
    out.push('=');
    let is_plain = |c: char| !(c.is_whitespace() || is_hidden(c) || matches!(c, '"' | '=' | '\\'));
    if !value.is_empty() && value.chars().all(is_plain) {
        out.push_str(value);
    } else {
        out.push_str(&json::line(&value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Event {
        let mut event = Event::new("container", "exec_start: sh -c 'x'", "3277")
            .with("name", "web")
            .with("note", "a \"b\"\n\\")
            .with("empty", "")
            .label("tier", "front=1");
        (event.seq, event.time) = (7, 1_000_000_001);
        event
    }

    fn text(format: EventFormat) -> String {
        let mut out = String::new();
        event(&mut out, &sample(), format);
        out
    }

    #[test]
    fn json_keeps_order_and_every_digit() {
        let (line, time) = (text(EventFormat::Json), time::local(1_000_000_001));
        let expected = format!(
            r#"{{"seq":7,"time":"{time}","timeNano":1000000001,"type":"container","action":"exec_start: sh -c 'x'","#
        ) + r#""id":"3277","attributes":{"name":"web","note":"a \"b\"\n\\","empty":""},"labels":{"tier":"front=1"}}"#
            + "\n";
        assert_eq!(line, expected);
    }

    #[test]
    fn logfmt_quotes_what_would_break_it() {
        let line = text(EventFormat::Logfmt);
        let expected = r#" seq=7 type=container action="exec_start: sh -c 'x'" id=3277 attr.name=web attr.note="a \"b\"\n\\" attr.empty="" label.tier="front=1""#;
        assert!(line.trim_end().ends_with(expected), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn an_emitted_event_is_marked_where_no_attribute_can_stand() {
        let marked = |format| {
            let mut out = String::new();
            event(&mut out, &Event { origin: Origin::Emit, ..sample().with("origin", "facts") }, format);
            out
        };
        assert!(marked(EventFormat::Json).contains(r#","id":"3277","origin":"emit","attributes":{"name":"#));
        assert!(marked(EventFormat::Logfmt).contains(" id=3277 origin=emit attr.name=web "));
        assert!(marked(EventFormat::Line).contains(" 3277 (origin=emit, name=web, "));
        for format in [EventFormat::Json, EventFormat::Logfmt, EventFormat::Line] {
            assert!(!text(format).contains("origin"), "a fact needs no mark");
        }
    }

    #[test]
    fn what_a_terminal_acts_on_is_escaped_as_json_does_in_both_forms() {
        let hidden: Vec<char> = ('\0'..=char::MAX).filter(|c| is_hidden(*c)).collect();
        assert_eq!(hidden.len(), 32 + 33 + 2 + 7 + 4);
        for c in hidden {
            let mut told =
                Event::new("test", format!("tick: {c}"), format!("{c}x")).with("k", format!("v{c}"));
            told.labels.set(format!("l\u{202e}{c}"), "");
            for format in [EventFormat::Json, EventFormat::Logfmt] {
                let mut line = String::new();
                event(&mut line, &told, format);
                let line = line.strip_suffix('\n').expect("a line");
                assert!(!line.contains(is_hidden) && !line.contains("u{"), "{line:?}");
                // A parser of JSON strings returns the original text.
                let quoted = match format {
                    EventFormat::Logfmt => {
                        line.split("attr.k=").nth(1).and_then(|rest| rest.split(' ').next())
                    }
                    _ => line.split(r#"{"k":"#).nth(1).and_then(|rest| rest.split('}').next()),
                };
                let value: String = serde_json::from_str(quoted.expect("there")).expect("a JSON string");
                assert_eq!(value, format!("v{c}"));
            }
        }
        let mut line = String::new();
        word(&mut line, "", "k", "\u{1b}[2J\u{9b}\u{7f}\n");
        assert_eq!(line, r#" k="\u001b[2J\u009b\u007f\n""#);
        assert_eq!(json::pretty(&["\u{85}"]), "[\n  \"\\u0085\"\n]");
        assert_eq!(json::line(&"\u{e9}\u{1f600}"), "\"\u{e9}\u{1f600}\"");
    }

    #[test]
    fn lost_events_are_told_in_the_stream_or_beside_it() {
        let mut out = String::new();
        assert!(!lost(&mut out, 1, 2, EventFormat::Line) && out.is_empty());
        assert!(lost(&mut out, 1, 2, EventFormat::Json));
        assert_eq!(out, "{\"lost\":{\"first\":1,\"last\":2}}\n");
    }
}
