//! `sampan emit`: writes events into the emit FIFO, from the arguments or from JSON lines.
//!
//! An event is checked whole before anything of it is written, and the command ends only when monitord's FIFO
//! has taken it.

use crate::cli::args::Emit;
use crate::cli::failure::{self, Failure};
use nix::errno::Errno;
use sampan_client::{Emitter, Event, Pairs, Paths, time};
use sampan_ipc::event::FACT_KINDS;
use sampan_ipc::trust;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use std::fmt;
use std::io::{self, BufRead};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

/// So many events may wait before the next line is read: far from filling the spool, which would drop some.
const WAITING_MAX: usize = 64;
/// Longest time in which a FIFO that systemd has opened is given to its group.
const GIVEN_TO_GROUP: Duration = Duration::from_secs(1);
/// Longest line of a batch: the JSON of the largest event, every byte of it escaped, with room to spare.
const LINE_MAX: u64 = 64 << 10;

/// Runs the command.
///
/// # Errors
/// Status 2: an event is not allowed. Status 1: monitord does not take it.
pub fn run(args: &Emit) -> Result<(), Failure> {
    let emit_fifo = Paths::from_env().emit_fifo();
    let fifo = args.fifo.clone().unwrap_or_else(|| emit_fifo.clone());
    let writer = Writer {
        emitter: Emitter::new(&fifo),
        takes_facts: fifo != emit_fifo,
        fifo,
        timeout: Duration::from_secs(args.timeout.into()),
    };
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
    /// False of the emit FIFO, where monitord would refuse them; of another FIFO its mode decides.
    takes_facts: bool,
    timeout: Duration,
}

impl Writer {
    /// Checks that there is a FIFO at all. One that nobody reads at present is monitord restarting.
    fn check(&self) -> Result<(), Failure> {
        // The directory first: in one of another user's, what looks like a FIFO says nothing.
        let trusted = trust::directory(trust::parent(&self.fifo)).map_err(io::Error::from);
        let wrong = match trusted.and_then(|()| std::fs::metadata(&self.fifo)) {
            Ok(meta) if meta.file_type().is_fifo() => match trust::fifo(&self.fifo, meta.uid()) {
                Ok(()) => return Ok(()),
                Err(error) => error.into(),
            },
            Ok(_) => io::Error::other("it is not a FIFO"),
            Err(error) => error,
        };
        Err(self.failure(&wrong))
    }

    fn write(&self, event: Event) -> Result<(), Failure> {
        sampan_ipc::record::encode(&event).map_err(|error| bad(error.to_string()))?;
        if !self.takes_facts && FACT_KINDS.contains(&event.kind.as_str()) {
            return Err(fact(&event.kind));
        }
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
        let patience = match nix::unistd::access(&self.fifo, nix::unistd::AccessFlags::W_OK) {
            Ok(()) => self.timeout,
            Err(Errno::EACCES) if self.is_only_roots() => self.timeout.min(GIVEN_TO_GROUP),
            // What only a person can change is not waited for.
            Err(errno) => return Err(self.failure(&errno.into())),
        };
        if self.emitter.flush(patience) {
            return Ok(());
        }
        let problem = self.emitter.problem();
        let problem = problem.unwrap_or_else(|| "it is full, and monitord does not read it".to_owned());
        Err(self.failure(&io::Error::other(problem)))
    }

    /// True if the FIFO belongs to root and to root's group: as systemd has it for a moment, whenever it opens one.
    fn is_only_roots(&self) -> bool {
        std::fs::metadata(&self.fifo).is_ok_and(|meta| (meta.uid(), meta.gid()) == (0, 0))
    }

    fn failure(&self, why: &io::Error) -> Failure {
        Failure::new(format!("cannot write the event into {}: {why}", self.fifo.display()))
            .hint(failure::absent_hint(why, "monitord", &self.fifo))
    }
}

fn bad(message: String) -> Failure {
    Failure::new(message).status(failure::BAD_EVENT)
}

/// Only the engine's side tells of such things.
fn fact(kind: &str) -> Failure {
    let fifo = Paths::from_env().fifo();
    bad(format!("type {kind:?} is not allowed: events of this type are facts, which only the engine tells"))
        .hint(format!(
            "choose a type of your own; '--fifo {}' takes facts from those who may write there",
            fifo.display()
        ))
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
    let mut event = Event::new(line.kind, line.action, line.id);
    event.time = match (line.time_nano, line.time) {
        (Some(nanos), _) => nanos,
        (None, Some(text)) => time::parse(&text, event.time).map_err(|error| bad(error.to_string()))?,
        (None, None) => event.time,
    };
    event.attributes = line.attributes.0;
    event.labels = line.labels.0;
    Ok(Some(event))
}

/// An event as JSON; what `events --format json` writes is taken back.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    action: String,
    id: String,
    time: Option<String>,
    #[serde(rename = "timeNano")]
    time_nano: Option<i64>,
    #[serde(default)]
    attributes: JsonPairs,
    #[serde(default)]
    labels: JsonPairs,
    /// Who tells an event decides about its mark, not the line.
    #[serde(rename = "origin")]
    _origin: Option<de::IgnoredAny>,
    #[serde(rename = "seq")]
    _seq: Option<de::IgnoredAny>,
    #[serde(rename = "writerLost")]
    _writer_lost: Option<de::IgnoredAny>,
}

/// An object whose values are strings, numbers or booleans, in its order.
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
                    let value = match map.next_value::<serde_json::Value>()? {
                        serde_json::Value::String(text) => text,
                        value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => {
                            value.to_string()
                        }
                        _ => {
                            return Err(de::Error::custom(format!(
                                "value of {key:?} is no string, number or boolean"
                            )));
                        }
                    };
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
    use sampan_client::Origin;

    #[test]
    fn a_batch_line_is_what_events_prints_as_json() {
        let mut event = Event::new("job", "done", "7").with("z", "1").with("a", "x \"y\"").label("l", "");
        let mut line = String::new();
        (event.seq, event.origin) = (9, Origin::Emit);
        format::event(&mut line, &event, EventFormat::Json);
        (event.seq, event.origin) = (0, Origin::Facts);
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
    fn a_word_without_a_value_and_a_key_that_stands_twice_are_refused() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert!(pairs("label", &words(&["a"])).expect_err("no value").message.contains("label \"a\""));
        assert!(pairs("label", &words(&["a=1", "a=2"])).expect_err("twice").message.contains("stands twice"));
        assert_eq!(pairs("label", &words(&["a=b=c"])).expect("good").get("a"), Some("b=c"));
    }
}
