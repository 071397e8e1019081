//! A container's log on the way to a client: frames or raw bytes, with timestamps and details.
//!
//! Used by `logs`, and by `attach` with `logs=1`.

use super::frame::{self, Stream};
use super::settings::Settings;
use crate::exchange::{Exchange, Progress};
use crate::refusal::Refusal;
use mio::Interest;
use sampan_client::container_log::{Line, LogError, LogNote, LogQuery, LogSink, LogStep, LogStream};
use sampan_ipc::report;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

/// How lines are shown.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Whether the client gets lines of standard output.
    pub stdout: bool,
    /// Whether the client gets lines of standard error.
    pub stderr: bool,
    /// Whether each line begins with its time.
    pub timestamps: bool,
    /// Labels and variables that each line begins with, and a blank; `None` without `details`.
    pub details: Option<String>,
    /// Whether the container has a terminal, so that the stream has no frames.
    pub is_terminal: bool,
}

/// A log that is being sent.
pub struct LogLines {
    stream: LogStream,
    shown: Shown,
    waits_for_room: bool,
}

/// Collects the lines of a step, which the client gets as one chunk.
struct Sender<'a, 'b> {
    exchange: &'a mut Exchange<'b>,
    shown: &'a Shown,
    bytes: Vec<u8>,
}

impl LogLines {
    /// Requests the log from the engine.
    ///
    /// # Errors
    /// No engine listens.
    pub fn open(exchange: &mut Exchange<'_>, query: LogQuery, shown: Shown) -> Result<Self, Refusal> {
        let engine = exchange.shared.engine.clone();
        let mut sender = Sender { exchange, shown: &shown, bytes: Vec::new() };
        let stream = LogStream::open(&engine, query, &mut sender).map_err(refusal)?;
        Ok(LogLines { stream, shown, waits_for_room: false })
    }

    /// Whether the engine has sent the files of the log: an answer can begin. No line comes before.
    pub fn has_opened(&self) -> bool {
        self.stream.has_opened()
    }

    /// Sends the lines that can be sent now. The answer must have begun once [`LogLines::has_opened`].
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn step(&mut self, exchange: &mut Exchange<'_>) -> Result<Progress, Refusal> {
        let mut sender = Sender { exchange, shown: &self.shown, bytes: Vec::new() };
        let step = self.stream.step(&mut sender);
        let bytes = sender.bytes;
        exchange.send(&bytes);
        let step = step.map_err(refusal)?;
        self.waits_for_room = exchange.room() == 0;
        Ok(match step {
            LogStep::Again => Progress::Again,
            LogStep::Waits => Progress::Waits,
            LogStep::Ended => Progress::Ended,
        })
    }

    /// When to step, even if nothing is ready.
    pub fn deadline(&self) -> Option<Instant> {
        self.stream.deadline().filter(|_| !self.waits_for_room)
    }
}

impl LogSink for Sender<'_, '_> {
    fn line(&mut self, line: &Line<'_>) {
        let (stream, is_wanted) = match line.is_stderr {
            true => (Stream::Stderr, self.shown.stderr),
            false => (Stream::Stdout, self.shown.stdout),
        };
        if !is_wanted {
            return;
        }
        let bytes = render(line, self.shown);
        if !self.shown.is_terminal {
            self.bytes.extend_from_slice(&frame::header(stream, bytes.len()));
        }
        self.bytes.extend_from_slice(&bytes);
    }

    fn note(&mut self, note: LogNote) {
        match note {
            LogNote::Damaged(count) => log::warn!("{count} damaged lines of a log were skipped"),
            LogNote::Missing => {
                log::warn!("a log was rotated faster than its client reads: the client lacks lines");
            }
        }
    }

    fn has_room(&self) -> bool {
        self.exchange.room() > self.bytes.len()
    }

    fn watch(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.exchange.watch(&fd, Interest::READABLE)
    }
}

fn render(line: &Line<'_>, shown: &Shown) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(line.text.len() + 32);
    if shown.timestamps && !line.is_continuation {
        bytes.extend_from_slice(nine_digits(line.time).as_bytes());
        bytes.push(b' ');
    }
    if let Some(details) = shown.details.as_ref().filter(|_| !line.is_continuation) {
        bytes.extend_from_slice(details.as_bytes());
        bytes.push(b' ');
    }
    bytes.extend_from_slice(line.text.as_bytes());
    bytes
}

/// Gives a time in UTC nine digits of a second: log files leave out zeros at the end.
fn nine_digits(time: &str) -> String {
    let time = time.trim_end_matches('Z');
    let (seconds, fraction) = time.split_once('.').unwrap_or((time, ""));
    format!("{seconds}.{fraction:0<9}Z")
}

/// The details of a container's lines: the labels and variables that the options `labels` and `env` of its log driver
/// name, as `KEY=VALUE,…` in the encoding of a query.
pub fn details(settings: &Settings) -> String {
    let option = |name: &str| {
        let value = settings.log_options.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        value.unwrap_or_default().split(',').map(str::trim).filter(|key| !key.is_empty())
    };
    let labels =
        option("labels").filter_map(|wanted| settings.labels.iter().find(|(key, _)| key == wanted).cloned());
    let variables = option("env").filter_map(|wanted| {
        let pairs = settings.environment.iter().filter_map(|pair| pair.split_once('='));
        pairs
            .filter(|(key, _)| *key == wanted)
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .next_back()
    });
    let mut all: Vec<(String, String)> = labels.chain(variables).collect();
    all.sort();
    let pairs = all.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value)));
    pairs.collect::<Vec<_>>().join(",")
}

/// Encodes a text for a query: a blank as `+`.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

fn refusal(error: LogError) -> Refusal {
    match error {
        LogError::Engine(error) => error.into(),
        LogError::Driver { driver, .. } => Refusal::new(
            501,
            format!("configured logging driver does not support reading (the driver is {driver:?})"),
        ),
        error => Refusal::new(500, report::chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_nine_digits_of_a_second() {
        assert_eq!(nine_digits("2026-12-01T09:00:00.12Z"), "2026-12-01T09:00:00.120000000Z");
        assert_eq!(nine_digits("2026-12-01T09:00:00Z"), "2026-12-01T09:00:00.000000000Z");
    }

    #[test]
    fn a_line_begins_with_its_time_and_its_details() {
        let line =
            Line { text: "a\n", is_stderr: false, time: "2026-12-01T09:00:00Z", is_continuation: false };
        let settings = Settings {
            labels: vec![("app".into(), "x y".into()), ("other".into(), "z".into())],
            environment: vec!["A=1".into(), "B=2,3".into()],
            log_options: vec![("labels".into(), "app,none".into()), ("env".into(), "B".into())],
            ..Settings::default()
        };
        let shown = Shown { timestamps: true, details: Some(details(&settings)), ..Shown::default() };
        let expected = "2026-12-01T09:00:00.000000000Z B=2%2C3,app=x+y a\n";
        assert_eq!(String::from_utf8_lossy(&render(&line, &shown)), expected);
    }
}
