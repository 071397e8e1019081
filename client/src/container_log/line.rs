//! The lines of docker's json-file log: parses them, and leaves out those of another time.

use sampan_ipc::time;
use serde::Deserialize;
use std::borrow::Cow;
use std::io;
use std::os::fd::BorrowedFd;

/// Something that the reader of a log should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogNote {
    /// This number of damaged lines was skipped.
    Damaged(u64),
    /// The log was rotated faster than the stream has read it: lines are missing.
    Missing,
}

/// Takes the lines of a log.
pub trait LogSink {
    /// Takes the next line.
    fn line(&mut self, line: &Line<'_>);
    /// Takes a note.
    fn note(&mut self, note: LogNote);
    /// Whether the sink takes more lines now. The lines of a block that was read still come.
    fn has_room(&self) -> bool {
        true
    }
    /// Is told of each descriptor that the stream opens: when it is readable, the stream can go on.
    ///
    /// # Errors
    /// The descriptor cannot be watched; the stream fails.
    fn watch(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let _ = fd;
        Ok(())
    }
}

/// A line of a container's output, or a part of a long line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// What the container has written. It ends with a line feed, unless another part of the line follows.
    pub text: &'a str,
    /// Whether the container wrote it to standard error.
    pub is_stderr: bool,
    /// When the container wrote it: RFC 3339 in UTC, with up to nine digits of a second.
    pub time: &'a str,
    /// Whether the last line of the same stream had no line feed, so that this is another part of it.
    pub is_continuation: bool,
}

/// A line as docker's json-file driver writes it.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, default)]
    log: Cow<'a, str>,
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(borrow, default)]
    time: Cow<'a, str>,
}

/// Selects lines by their time.
pub(super) struct Lines {
    since: Option<i64>,
    until: Option<i64>,
    /// Whether the last line of standard output and of standard error had no line feed.
    is_within: [bool; 2],
    damaged: u64,
    /// Whether all further lines are later than `until`.
    pub(super) is_over: bool,
}

impl Lines {
    pub(super) fn new(since: Option<i64>, until: Option<i64>) -> Self {
        Lines { since, until, is_within: [false; 2], damaged: 0, is_over: false }
    }

    /// Takes a line of a file, without its line feed.
    pub(super) fn take(&mut self, line: &[u8], sink: &mut dyn LogSink) {
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let Ok(entry) = serde_json::from_slice::<Entry<'_>>(line) else {
            return self.count_damaged();
        };
        let Ok(at) = time::parse(&entry.time, 0) else {
            return self.count_damaged();
        };
        if self.until.is_some_and(|until| at > until) {
            self.is_over = true;
        }
        if self.is_over || self.since.is_some_and(|since| at < since) {
            return;
        }
        let is_stderr = entry.stream == "stderr";
        let [out_within, err_within] = &mut self.is_within;
        let within = if is_stderr { err_within } else { out_within };
        let is_continuation = std::mem::replace(within, !entry.log.ends_with('\n'));
        sink.line(&Line { text: &entry.log, is_stderr, time: &entry.time, is_continuation });
    }

    pub(super) fn count_damaged(&mut self) {
        self.damaged += 1;
    }

    /// Tells the sink how many lines were damaged since the last call.
    pub(super) fn note_damaged(&mut self, sink: &mut dyn LogSink) {
        match std::mem::take(&mut self.damaged) {
            0 => {}
            count => sink.note(LogNote::Damaged(count)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The lines that were taken.
    #[derive(Default)]
    pub(in super::super) struct Taken {
        pub(in super::super) text: String,
        pub(in super::super) damaged: u64,
    }

    impl LogSink for Taken {
        fn line(&mut self, line: &Line<'_>) {
            self.text.push_str(line.text);
        }

        fn note(&mut self, note: LogNote) {
            if let LogNote::Damaged(count) = note {
                self.damaged += count;
            }
        }
    }

    #[test]
    fn lines_are_taken_in_their_time_and_damaged_ones_left_out() {
        let (mut lines, mut taken) = (Lines::new(Some(1_000_000_000), None), Taken::default());
        for line in [
            r#"{"log":"early\n","stream":"stdout","time":"1970-01-01T00:00:00Z"}"#,
            r#"{"log":"lo","stream":"stdout","time":"1970-01-01T00:00:02Z"}"#,
            r#"{"log":"ng\n","stream":"stdout","time":"1970-01-01T00:00:03Z"}"#,
            r#"{"log":"x\n","stream":"stdout","time":"never"}"#,
            r#"{"log":"cut"#,
            "",
        ] {
            lines.take(line.as_bytes(), &mut taken);
        }
        lines.note_damaged(&mut taken);
        assert_eq!((taken.text.as_str(), taken.damaged), ("long\n", 2));
    }

    #[test]
    fn the_first_line_after_until_ends_the_log() {
        let (mut lines, mut taken) = (Lines::new(None, Some(2_000_000_000)), Taken::default());
        for second in 1..4 {
            let line = format!(r#"{{"log":"{second}\n","time":"1970-01-01T00:00:0{second}Z"}}"#);
            lines.take(line.as_bytes(), &mut taken);
        }
        assert!(lines.is_over && taken.text == "1\n2\n");
    }
}
