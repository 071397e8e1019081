//! `sampan emit`: writes events into the monitor FIFO, from the arguments or from JSON lines.
//!
//! An event is checked whole before anything of it is written, and the command ends only when monitord's FIFO
//! has taken it.

use crate::cli::args::Emit;
use crate::cli::failure::{self, Failure};
use sampan_client::{Emitter, Event, Pairs, Paths, time};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use std::io::{self, BufRead};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::Duration;

/// So many events may wait before the next line is read: far from filling the spool, which would drop some.
const WAITING_MAX: usize = 64;
/// Longest line of a batch: the JSON of the largest event, every byte of it escaped, with room to spare.
const LINE_MAX: u64 = 64 << 10;

/// Runs the command.
///
/// # Errors
/// Status 2: an event is not allowed. Status 1: monitord does not take it.
pub fn run(args: &Emit) -> Result<(), Failure> {
    let fifo = args.fifo.clone().unwrap_or_else(|| Paths::from_env().fifo());
    let writer =
        Writer { emitter: Emitter::new(&fifo), fifo, timeout: Duration::from_secs(args.timeout.into()) };
    if args.batch {
        writer.check()?;
        return batch(&writer, &mut io::stdin().lock());
    }
    let event = event(args)?;
    writer.write(event)?;
    writer.finish()
}

struct Writer {
    emitter: Emitter,
    fifo: PathBuf,
    timeout: Duration,
}

impl Writer {
    /// Checks that there is a FIFO at all. One that nobody reads at present is monitord restarting.
    fn check(&self) -> Result<(), Failure> {
        let wrong = match std::fs::metadata(&self.fifo) {
            Ok(meta) if meta.file_type().is_fifo() => return Ok(()),
            Ok(_) => io::Error::other("it is not a FIFO"),
            Err(error) => error,
        };
        Err(self.failure(&wrong.to_string()))
    }

    fn write(&self, event: Event) -> Result<(), Failure> {
        sampan_ipc::record::encode(&event).map_err(|error| bad(error.to_string()))?;
        self.check()?;
        if self.emitter.spooled() >= WAITING_MAX {
            self.finish()?;
        }
        self.emitter.send(event).map_err(|error| bad(error.to_string()))
    }

    fn finish(&self) -> Result<(), Failure> {
        if self.emitter.flush(Duration::ZERO) {
            return Ok(());
        }
        // What only a person can change is not waited for.
        let given_up = nix::unistd::access(&self.fifo, nix::unistd::AccessFlags::W_OK);
        if let Err(errno) = given_up {
            return Err(self.failure(errno.desc()));
        }
        if self.emitter.flush(self.timeout) {
            return Ok(());
        }
        let problem = self.emitter.problem();
        Err(self.failure(problem.as_deref().unwrap_or("it is full, and monitord does not read it")))
    }

    fn failure(&self, why: &str) -> Failure {
        Failure::new(format!("cannot write the event into {}: {why}", self.fifo.display()))
            .hint(failure::absent_hint(&io::ErrorKind::NotFound.into(), "monitord"))
    }
}

fn bad(message: String) -> Failure {
    Failure::new(message).status(failure::BAD_EVENT)
}

/// The event that the arguments describe.
fn event(args: &Emit) -> Result<Event, Failure> {
    let word = |word: &Option<String>| word.clone().unwrap_or_default();
    let mut event = Event::new(word(&args.kind), word(&args.action), word(&args.id));
    if let Some(text) = &args.time {
        event.time = time::parse(text, event.time).map_err(|error| bad(error.to_string()))?;
    }
    event.attributes = pairs("attribute", &args.attributes)?;
    event.labels = pairs("label", &args.labels)?;
    Ok(event)
}

fn pairs(map: &str, words: &[String]) -> Result<Pairs, Failure> {
    let mut pairs = Pairs::default();
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            return Err(bad(format!("{map} {word:?} is not allowed: write KEY=VALUE")));
        };
        if pairs.get(key).is_some() {
            return Err(bad(format!("{map} key {key:?} stands twice")));
        }
        pairs.set(key, value);
    }
    Ok(pairs)
}

fn batch(writer: &Writer, input: &mut impl BufRead) -> Result<(), Failure> {
    let mut number = 0u64;
    loop {
        let mut line = Vec::new();
        let read = io::Read::take(&mut *input, LINE_MAX).read_until(b'\n', &mut line);
        let written = match read {
            Ok(0) => return writer.finish(),
            Ok(_) => {
                number += 1;
                parse_line(&line).and_then(|event| event.map_or(Ok(()), |event| writer.write(event)))
            }
            Err(error) => Err(Failure::new(format!("cannot read standard input: {error}"))),
        };
        if let Err(failure) = written {
            // What came before is written, in truth, and the person is told so.
            let before = writer.finish().map_or(String::new(), |()| match number {
                0 | 1 => String::new(),
                _ => format!(" (the {} lines before it were written)", number - 1),
            });
            return Err(Failure {
                message: format!("line {number}: {}{before}", failure.message),
                ..failure
            });
        }
    }
}

/// One line of a batch; `None` if it is blank.
fn parse_line(line: &[u8]) -> Result<Option<Event>, Failure> {
    if line.len() as u64 >= LINE_MAX && line.last() != Some(&b'\n') {
        return Err(bad(format!("it is longer than {LINE_MAX} bytes, so the event is too large")));
    }
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let line: Line = serde_json::from_slice(line).map_err(|error| bad(format!("bad event: {error}")))?;
    let word = |word: Option<String>, name: &str| {
        word.ok_or_else(|| bad(format!("bad event: missing field `{name}`")))
    };
    let (kind, action) = (word(line.kind, "type")?, word(line.action, "action")?);
    let mut event = Event::new(kind, action, word(line.id, "id")?);
    // Programs that keep numbers as doubles, such as jq, change `timeNano`. So `time` counts where both are there.
    event.time = match (line.time, line.time_nano) {
        (Some(time), _) => time_of(time, event.time)?,
        (None, Some(nanos)) => nanos_of(nanos)?,
        (None, None) => event.time,
    };
    event.attributes = line.attributes.unwrap_or_default().0;
    event.labels = line.labels.unwrap_or_default().0;
    Ok(Some(event))
}

/// The field `time`: text in any form that `--time` takes, or a number of unix seconds.
fn time_of(value: &RawValue, now: i64) -> Result<i64, Failure> {
    let text = scalar(value).ok_or_else(|| bad(format!("time {value} is no string and no number")))?;
    time::parse(&text, now).map_err(|error| bad(error.to_string()))
}

/// The field `timeNano`, digit for digit.
fn nanos_of(value: &RawValue) -> Result<i64, Failure> {
    let wrong = |_| bad(format!("timeNano {value} is not allowed: write whole nanoseconds, or 'time'"));
    value.get().parse().map_err(wrong)
}

/// The text of a string; a number or a boolean as it stands in the line, since no number type here could hold every
/// number that JSON can write. `None` for everything else.
fn scalar(value: &RawValue) -> Option<String> {
    let text = value.get();
    match text.bytes().next()? {
        b'"' => serde_json::from_str(text).ok(),
        b'-' | b'0'..=b'9' | b't' | b'f' => Some(text.to_owned()),
        _ => None,
    }
}

/// An event as JSON; what `events --format json` writes is taken back. A field that is null is absent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
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
    #[serde(rename = "writerLost")]
    _writer_lost: Option<de::IgnoredAny>,
}

/// An object whose values are strings, numbers or booleans, in its order. A key whose value is null is absent.
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
                        return Err(de::Error::custom(format!("key {key:?} stands twice")));
                    }
                    let value = map.next_value::<&RawValue>()?;
                    if value.get() == "null" {
                        continue;
                    }
                    let value = scalar(value).ok_or_else(|| {
                        de::Error::custom(format!("value of {key:?} is no string, number or boolean"))
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
    use crate::cli::args::EventFormat;
    use crate::cli::format;

    #[test]
    fn a_batch_line_is_what_events_prints_as_json() {
        let mut event = Event::new("job", "done", "7").with("z", "1").with("a", "x \"y\"").label("l", "");
        let mut line = String::new();
        event.seq = 9;
        format::event(&mut line, &event, EventFormat::Json);
        event.seq = 0;
        assert_eq!(parse_line(line.as_bytes()).expect("good"), Some(event));
    }

    #[test]
    fn numbers_and_booleans_become_words_and_other_things_an_error() {
        let line = br#"{"type":"a","action":"b","id":"c","attributes":{"n":1,"t":true},"time":"2024-05-06T00:00:00Z"}"#;
        let event = parse_line(line).expect("good").expect("an event");
        assert_eq!((event.attributes.get("n"), event.attributes.get("t")), (Some("1"), Some("true")));
        assert_eq!(event.time, 1_714_953_600_000_000_000);
        for (line, says) in [
            (r#"{"type":"a","action":"b"}"#, "missing field `id`"),
            (r#"{"type":"a","action":"b","id":"c","attribute":{}}"#, "unknown field `attribute`"),
            (r#"{"type":"a","action":"b","id":"c","labels":{"k":[]}}"#, "value of \"k\""),
            (r#"{"type":"a","action":"b","id":"c","labels":{"k":"1","k":"2"}}"#, "key \"k\" stands twice"),
            (r#"{"type":"a","action":"b","id":"c","time":"soon"}"#, "time \"soon\""),
            ("{", "bad event"),
        ] {
            let failure = parse_line(line.as_bytes()).expect_err(line);
            assert!(failure.message.contains(says) && failure.status == 2, "{}", failure.message);
        }
        assert!(parse_line(b" \n").expect("blank").is_none());
    }

    #[test]
    fn the_text_of_time_wins_over_nanoseconds_that_another_program_has_rounded() {
        let time = |fields: &str| {
            let line = format!(r#"{{"type":"a","action":"b","id":"c",{fields}}}"#);
            parse_line(line.as_bytes()).map(|event| event.expect("an event").time)
        };
        let exact = r#""time":"2024-05-06T07:04:05.123456789Z""#;
        for rounded in ["1714979045123456800", "1.7149790451234568e+18", "null", "\"soon\"", "[]"] {
            let nanos = time(&format!("{exact},\"timeNano\":{rounded}")).expect("good");
            assert_eq!(nanos, 1_714_979_045_123_456_789, "{rounded}");
        }
        // Even one of fewer digits.
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
            let event = parse_line(line.as_bytes()).expect("good").expect("an event");
            assert_eq!(event.labels.get("n"), Some(number));
        }
    }

    #[test]
    fn what_is_null_is_absent() {
        let line = br#"{"type":"a","action":"b","id":"c","attributes":null,"labels":{"x":null,"y":1},"seq":null,"time":null,"timeNano":null,"writerLost":null}"#;
        let event = parse_line(line).expect("good").expect("an event");
        assert!(event.attributes.is_empty() && event.time != 0);
        assert_eq!(event.labels.iter().collect::<Vec<_>>(), [("y", "1")]);
        let failure = parse_line(br#"{"type":"a","action":"b","id":null}"#).expect_err("no id");
        assert!(failure.message.contains("missing field `id`"), "{}", failure.message);
    }

    #[test]
    fn a_word_without_a_value_and_a_key_that_stands_twice_are_refused() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert!(pairs("label", &words(&["a"])).expect_err("no value").message.contains("label \"a\""));
        assert!(pairs("label", &words(&["a=1", "a=2"])).expect_err("twice").message.contains("stands twice"));
        assert_eq!(pairs("label", &words(&["a=b=c"])).expect("good").get("a"), Some("b=c"));
    }
}
