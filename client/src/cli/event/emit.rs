//! `sampan emit`: writes the event that the arguments describe to the emit FIFO.
//!
//! Checks the whole event before it writes, and exits only when the FIFO has accepted the event. `emit_batch` also
//! uses [`Target`], with the hints for its errors, and [`parse_line`].

use crate::cli::args::event::Emit;
use crate::cli::error::{self, Failure};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use sampan_client::{Emitter, Event, Pairs, Paths, time};
use sampan_ipc::event::FACT_KINDS;
use sampan_ipc::trust;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Default for the seconds that one event waits for monitord.
const TIMEOUT_SECONDS: u32 = 5;
/// Longest time that a FIFO may belong to root's group, while systemd has created it and not changed its group yet.
const GIVEN_TO_GROUP: Duration = Duration::from_secs(1);
/// Pause between two checks of a FIFO of root's group.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// Why events wait if no system call has failed.
pub(crate) const FULL: &str = "the FIFO is full, and monitord does not read it";
/// The problem of a path that is another kind of file.
const NO_FIFO: &str = "it is not a FIFO";

/// Exit status 2 if the event is not allowed, 1 if monitord does not accept the event.
pub(crate) fn run(args: &Emit) -> Result<(), Failure> {
    let target = Target::new(args);
    let event = event(args)?;
    target.check(&event)?;
    // If the FIFO has no reader, monitord is restarting, and the event waits. If the FIFO does not exist, that is an
    // error.
    let there = std::fs::metadata(&target.path).map(drop);
    if let Some(error) = target.obstacle().or(there.err()) {
        return Err(target.failure(&error));
    }
    let emitter = Emitter::new(&target.path);
    emitter.send(event).map_err(|error| invalid_event(error.to_string()))?;
    if emitter.flush(Duration::from_secs(args.timeout.unwrap_or(TIMEOUT_SECONDS).into())) {
        return Ok(());
    }
    let why = emitter.problem().unwrap_or_else(|| FULL.to_owned());
    Err(target.failure(&io::Error::other(why)))
}

/// The FIFO that events are written to.
pub(crate) struct Target {
    /// The FIFO's path.
    pub path: PathBuf,
    /// Whether `--fifo` names the FIFO.
    is_named: bool,
    /// Whether the FIFO may carry facts. False for the emit FIFO, from which monitord accepts none; for other FIFOs,
    /// the file mode decides.
    takes_facts: bool,
}

impl Target {
    /// The FIFO that the arguments or the environment name.
    pub(crate) fn new(args: &Emit) -> Self {
        let emit_fifo = Paths::from_env().emit_fifo();
        let path = args.fifo.clone().unwrap_or_else(|| emit_fifo.clone());
        Target { takes_facts: path != emit_fifo, path, is_named: args.fifo.is_some() }
    }

    /// Checks that the event keeps all rules and may be written to this FIFO. A failure has exit status 2.
    pub(crate) fn check(&self, event: &Event) -> Result<(), Failure> {
        sampan_ipc::record::encode(event).map_err(|error| invalid_event(error.to_string()))?;
        match !self.takes_facts && FACT_KINDS.contains(&event.kind.as_str()) {
            true => Err(fact_refused(&event.kind)),
            false => Ok(()),
        }
    }

    /// Returns an error that only a person can mend, so that waiting is useless. A missing FIFO is no such error.
    pub(crate) fn obstacle(&self) -> Option<io::Error> {
        // Check the directory first: in the directory of another user, the file may be anything.
        match trust::directory(trust::parent(&self.path)).map_err(io::Error::from) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return Some(error),
        }
        match std::fs::metadata(&self.path) {
            Ok(meta) if !meta.file_type().is_fifo() => Some(io::Error::other(NO_FIFO)),
            Ok(meta) => match trust::fifo(&self.path, meta.uid()) {
                Ok(()) => self.refusal().map(io::Error::from),
                Err(error) => Some(error.into()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(error),
        }
    }

    /// Returns why this user may not write to the FIFO. Waits a moment if systemd may be about to change its group.
    fn refusal(&self) -> Option<Errno> {
        let is_only_roots =
            || std::fs::metadata(&self.path).is_ok_and(|meta| (meta.uid(), meta.gid()) == (0, 0));
        let deadline = Instant::now() + GIVEN_TO_GROUP;
        loop {
            let was_only_roots = is_only_roots();
            let refused = access(&self.path, AccessFlags::W_OK).err()?;
            // Check the group before and after, since it may have changed in between.
            let may_change = refused == Errno::EACCES && (was_only_roots || is_only_roots());
            if !may_change || Instant::now() >= deadline {
                return Some(refused);
            }
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    /// The failure for a FIFO that cannot be written, with a hint for the cause.
    pub(crate) fn failure(&self, error: &io::Error) -> Failure {
        let path = self.path.display();
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => error::unreachable_hint(error, "monitord", &self.path),
            _ if error.to_string() == NO_FIFO && !self.is_named => {
                format!("remove the file {path}, and start monitord again, which creates its FIFO there")
            }
            _ if error.to_string() == NO_FIFO => {
                "give --fifo the path of the FIFO that monitord reads, or leave out --fifo".to_owned()
            }
            _ if self.is_named => {
                "is the monitord that reads this FIFO running? monitord creates the FIFO when it starts; \
                without --fifo, the event goes to the monitord of SAMPAN_RUN_DIR"
                    .to_owned()
            }
            _ => error::unreachable_hint(&io::ErrorKind::NotFound.into(), "monitord", &self.path),
        };
        Failure::new(format!("cannot write the event into {path}: {error}")).hint(hint)
    }
}

/// Makes the failure for an event that only Sampan's daemons may report.
fn fact_refused(kind: &str) -> Failure {
    let fifo = Paths::from_env().fifo();
    invalid_event(format!(
        "type {kind:?} is not allowed: events of this type are facts, which only Sampan's daemons report"
    ))
    .hint(format!(
        "choose a type of your own; '--fifo {}' takes facts from users who may write there",
        fifo.display()
    ))
}

/// Makes the failure for an event that is not allowed.
pub(crate) fn invalid_event(message: String) -> Failure {
    Failure::new(message).status(error::BAD_EVENT)
}

/// Makes the event that the arguments describe.
fn event(args: &Emit) -> Result<Event, Failure> {
    let word = |word: &Option<String>| word.clone().unwrap_or_default();
    let mut event = Event::new(word(&args.kind), word(&args.action), word(&args.id));
    if let Some(text) = &args.time {
        event.time = time::parse(text, event.time).map_err(|error| invalid_event(error.to_string()))?;
    }
    event.attributes = pairs("attribute", &args.attributes)?;
    event.labels = pairs("label", &args.labels)?;
    Ok(event)
}

fn pairs(map: &str, words: &[String]) -> Result<Pairs, Failure> {
    let mut pairs = Pairs::default();
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            return Err(invalid_event(format!("{map} {word:?} is not allowed: write KEY=VALUE")));
        };
        if pairs.get(key).is_some() {
            return Err(invalid_event(format!("{map} key {key:?} occurs twice")));
        }
        pairs.set(key, value);
    }
    Ok(pairs)
}

/// The kinds of lines in a batch.
#[derive(Debug, PartialEq)]
pub(crate) enum Line {
    /// An event.
    Event(Event),
    /// A notice of `events --format json`, with the key that identifies it.
    Notice(&'static str),
    /// An empty line.
    Blank,
}

/// Parses one line of a batch, without its line feed.
pub(crate) fn parse_line(line: &[u8]) -> Result<Line, Failure> {
    if line.trim_ascii().is_empty() {
        return Ok(Line::Blank);
    }
    let line: JsonEvent = match serde_json::from_slice(line) {
        Ok(line) => line,
        Err(error) => {
            let problem = json_problem(&error);
            return notice(line)
                .map(Line::Notice)
                .ok_or_else(|| invalid_event(format!("bad event: {problem}")));
        }
    };
    let word = |word: Option<String>, name: &str| {
        word.ok_or_else(|| invalid_event(format!("bad event: missing field `{name}`")))
    };
    let (kind, action) = (word(line.kind, "type")?, word(line.action, "action")?);
    let mut event = Event::new(kind, action, word(line.id, "id")?);
    // Programs that store numbers as doubles, such as jq, change `timeNano`. If there are both, `time` counts.
    event.time = match (line.time, line.time_nano) {
        (Some(time), _) => time_of(time, event.time)?,
        (None, Some(nanos)) => nanos_of(nanos)?,
        (None, None) => event.time,
    };
    event.attributes = line.attributes.unwrap_or_default().0;
    event.labels = line.labels.unwrap_or_default().0;
    Ok(Line::Event(event))
}

/// Describes an error in the JSON of a line, with its column.
///
/// The error message of serde_json names line 1, which would contradict the line's number in the batch.
fn json_problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.strip_suffix(&format!(" at line {} column {}", error.line(), error.column())) {
        Some(what) => format!("{what}, at column {}", error.column()),
        None => text,
    }
}

/// Returns the key that makes an object without `type` a notice of `events --format json`.
fn notice(line: &[u8]) -> Option<&'static str> {
    #[derive(Deserialize)]
    struct Notice {
        #[serde(rename = "type")]
        kind: Option<de::IgnoredAny>,
        lost: Option<de::IgnoredAny>,
        journal: Option<de::IgnoredAny>,
    }
    let notice: Notice = serde_json::from_slice(line).ok()?;
    match (notice.kind, notice.lost, notice.journal) {
        (None, Some(_), _) => Some("lost"),
        (None, None, Some(_)) => Some("journal"),
        _ => None,
    }
}

/// Parses the field `time`: text in any form that `--time` accepts, or a number of Unix seconds.
fn time_of(value: &RawValue, now: i64) -> Result<i64, Failure> {
    let text = scalar(value)
        .ok_or_else(|| invalid_event(format!("time {value} is neither a string nor a number")))?;
    time::parse(&text, now).map_err(|error| invalid_event(error.to_string()))
}

/// Parses the field `timeNano`: whole nanoseconds.
fn nanos_of(value: &RawValue) -> Result<i64, Failure> {
    let wrong =
        |_| invalid_event(format!("timeNano {value} is not allowed: write whole nanoseconds, or 'time'"));
    value.get().parse().map_err(wrong)
}

/// Returns the text of a string, number or boolean; `None` for other values. Numbers stay text, since no number type
/// can represent every JSON number.
fn scalar(value: &RawValue) -> Option<String> {
    let text = value.get();
    match text.bytes().next()? {
        b'"' => serde_json::from_str(text).ok(),
        b'-' | b'0'..=b'9' | b't' | b'f' => Some(text.to_owned()),
        _ => None,
    }
}

/// An event in the form that `events --format json` prints. A field with the value null counts as absent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonEvent<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    action: Option<String>,
    id: Option<String>,
    #[serde(borrow)]
    time: Option<&'a RawValue>,
    #[serde(rename = "timeNano", borrow)]
    time_nano: Option<&'a RawValue>,
    attributes: Option<JsonPairs>,
    labels: Option<JsonPairs>,
    #[serde(rename = "seq")]
    _seq: Option<de::IgnoredAny>,
    #[serde(rename = "origin")]
    _origin: Option<de::IgnoredAny>,
    #[serde(rename = "writerLost")]
    _writer_lost: Option<de::IgnoredAny>,
}

/// An object whose values are strings, numbers and booleans, in the order of the text. A key with the value null
/// counts as absent.
#[derive(Default)]
struct JsonPairs(Pairs);

impl<'de> Deserialize<'de> for JsonPairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = JsonPairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings, numbers and booleans")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonPairs, A::Error> {
                let mut pairs = Pairs::default();
                while let Some(key) = map.next_key::<String>()? {
                    if pairs.get(&key).is_some() {
                        return Err(de::Error::custom(format!("key {key:?} occurs twice")));
                    }
                    let value = map.next_value::<&RawValue>()?;
                    if value.get() == "null" {
                        continue;
                    }
                    let value = scalar(value).ok_or_else(|| {
                        de::Error::custom(format!("value of {key:?} is not a string, number or boolean"))
                    })?;
                    pairs.set(key, value);
                }
                Ok(JsonPairs(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::event::format::{self, EventFormat};
    use sampan_client::Origin;

    fn good(line: &[u8]) -> Event {
        match parse_line(line) {
            Ok(Line::Event(event)) => event,
            other => panic!("{}: {other:?}", String::from_utf8_lossy(line)),
        }
    }

    #[test]
    fn a_batch_line_is_what_events_prints_as_json() {
        let mut event = Event::new("job", "done", "7").with("z", "1").with("a", "x \"y\"").label("l", "");
        let mut line = String::new();
        (event.seq, event.origin) = (9, Origin::Emit);
        format::event(&mut line, &event, EventFormat::Json);
        (event.seq, event.origin) = (0, Origin::Facts);
        assert_eq!(parse_line(line.as_bytes()).expect("good"), Line::Event(event));
    }

    #[test]
    fn numbers_and_booleans_become_words_and_other_things_an_error() {
        let line = br#"{"type":"a","action":"b","id":"c","attributes":{"n":1,"t":true},"time":"2024-05-06T00:00:00Z"}"#;
        let event = good(line);
        assert_eq!((event.attributes.get("n"), event.attributes.get("t")), (Some("1"), Some("true")));
        assert_eq!(event.time, 1_714_953_600_000_000_000);
        for (line, says) in [
            (r#"{"type":"a","action":"b"}"#, "missing field `id`"),
            (r#"{"type":"a","action":"b","id":"c","attribute":{}}"#, "unknown field `attribute`"),
            (r#"{"type":"a","action":"b","id":"c","labels":{"k":[]}}"#, "value of \"k\""),
            (r#"{"type":"a","action":"b","id":"c","labels":{"k":"1","k":"2"}}"#, "key \"k\" occurs twice"),
            (r#"{"type":"a","action":"b","id":"c","time":"soon"}"#, "time \"soon\""),
            ("{", "bad event"),
        ] {
            let failure = parse_line(line.as_bytes()).expect_err(line);
            assert!(failure.message.contains(says) && failure.status == 2, "{}", failure.message);
            assert!(!failure.message.contains("line"), "the batch numbers its lines: {}", failure.message);
        }
        let failure = parse_line(br#"{"type":1}"#).expect_err("no word");
        assert_eq!(failure.message, "bad event: invalid type: integer `1`, expected a string, at column 9");
        assert_eq!(parse_line(b" \r").expect("blank"), Line::Blank);
    }

    #[test]
    fn what_events_says_beside_events_is_told_from_events_that_are_wrong() {
        let mut lost = String::new();
        assert!(format::lost(&mut lost, 3, 9, EventFormat::Json));
        assert_eq!(parse_line(lost.trim_end().as_bytes()).expect("a notice"), Line::Notice("lost"));
        let journal = br#"{"journal":{"id":"7","kept":1}}"#;
        assert_eq!(parse_line(journal).expect("a notice"), Line::Notice("journal"));
        for wrong in [r#"{"lost":1,"type":"a"}"#, r#"{"lost":null}"#, r#"{"found":1}"#, r#"[{"lost":1}]"#] {
            assert_eq!(parse_line(wrong.as_bytes()).expect_err(wrong).status, 2);
        }
    }

    #[test]
    fn the_text_of_time_wins_over_nanoseconds_that_another_program_has_rounded() {
        let time = |fields: &str| {
            let line = format!(r#"{{"type":"a","action":"b","id":"c",{fields}}}"#);
            match parse_line(line.as_bytes()) {
                Ok(Line::Event(event)) => Ok(event.time),
                Ok(other) => panic!("{other:?}"),
                Err(failure) => Err(failure),
            }
        };
        let exact = r#""time":"2024-05-06T07:04:05.123456789Z""#;
        for rounded in ["1714979045123456800", "1.7149790451234568e+18", "null", "\"soon\"", "[]"] {
            let nanos = time(&format!("{exact},\"timeNano\":{rounded}")).expect("good");
            assert_eq!(nanos, 1_714_979_045_123_456_789, "{rounded}");
        }
        // `time` counts even if it has fewer digits.
        let nanos = time(r#""timeNano":1714979045123456789,"time":"2024-05-06T07:04:05Z""#).expect("good");
        assert_eq!(nanos, 1_714_979_045_000_000_000);
        let nanos = time(r#""timeNano":1714979045123456789,"time":null"#).expect("good");
        assert_eq!(nanos, 1_714_979_045_123_456_789);
        assert_eq!(time(r#""time":1714979045.5"#).expect("good"), 1_714_979_045_500_000_000);
        for wrong in [r#""timeNano":1.7e18"#, r#""timeNano":"1""#, r#""time":true"#, r#""time":{}"#] {
            assert_eq!(time(wrong).expect_err(wrong).status, 2);
        }
    }

    #[test]
    fn numbers_stay_byte_for_byte() {
        for number in [
            "0",
            "-0",
            "-0.0",
            "1E+5",
            "1e400",
            "0.1000000000000000055",
            "18446744073709551616",
            "123456789012345678901234567890.5",
        ] {
            let line = format!(r#"{{"type":"a","action":"b","id":"c","labels":{{"n": {number} }}}}"#);
            let event = good(line.as_bytes());
            assert_eq!(event.labels.get("n"), Some(number));
        }
    }

    #[test]
    fn what_is_null_is_absent() {
        let line = br#"{"type":"a","action":"b","id":"c","attributes":null,"labels":{"x":null,"y":1},"seq":null,"time":null,"timeNano":null,"writerLost":null}"#;
        let event = good(line);
        assert!(event.attributes.is_empty() && event.time != 0);
        assert_eq!(event.labels.iter().collect::<Vec<_>>(), [("y", "1")]);
        let failure = parse_line(br#"{"type":"a","action":"b","id":null}"#).expect_err("no id");
        assert!(failure.message.contains("missing field `id`"), "{}", failure.message);
    }

    #[test]
    fn a_word_without_a_value_and_a_key_that_stands_twice_are_refused() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert!(pairs("label", &words(&["a"])).expect_err("no value").message.contains("label \"a\""));
        assert!(pairs("label", &words(&["a=1", "a=2"])).expect_err("twice").message.contains("occurs twice"));
        assert_eq!(pairs("label", &words(&["a=b=c"])).expect("good").get("a"), Some("b=c"));
    }
}
