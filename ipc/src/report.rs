//! How a process tells people what happened to it: an error in one line, a log line.
//!
//! The same in every process, so that a log of several reads as one. Writes nothing itself.

use log::Level;
use std::error::Error;
use std::os::unix::fs::MetadataExt;

/// An error and its causes in one line, joined by `: `. A cause that the line ends with already is not repeated.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let next = cause.to_string();
        if !line.ends_with(&next) {
            line.push_str(": ");
            line.push_str(&next);
        }
        source = cause.source();
    }
    line
}

/// Where a log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTo {
    /// The journal: a line begins with its priority. sd-daemon(3), "Logging".
    Journal,
    /// A person, or a supervisor that stamps lines itself: a line begins with the program's name and the level.
    Person(&'static str),
}

impl LogTo {
    /// The journal if stderr is it, that is if its device and inode are those of `$JOURNAL_STREAM`.
    /// systemd.exec(5), "$JOURNAL_STREAM".
    pub fn stderr(program: &'static str) -> Self {
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let is_journal = std::fs::metadata("/dev/stderr")
            .is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()));
        if is_journal { LogTo::Journal } else { LogTo::Person(program) }
    }

    /// A line of the log, without its end. Whatever a peer put into a name, it stays one line.
    pub fn line(self, level: Level, text: &str) -> String {
        let mut line = match self {
            LogTo::Journal => format!("<{}>", priority(level)),
            LogTo::Person(program) => format!("{program}: {}: ", level_word(level)),
        };
        crate::event::escape(&mut line, text);
        line
    }
}

/// syslog(3), "Values for level".
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

fn level_word(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_stays_one_line_and_names_its_priority() {
        assert_eq!(LogTo::Journal.line(Level::Warn, "a\nb"), "<4>a\\nb");
        let line = LogTo::Person("sampan-x").line(Level::Info, "ok");
        assert_eq!(line, "sampan-x: info: ok");
    }

    #[test]
    fn an_error_is_told_with_its_causes_once() {
        let inner = std::io::Error::other("disk full");
        let outer = crate::frame::FrameError::Checksum;
        assert_eq!(chain(&inner), "disk full");
        assert_eq!(chain(&outer), "frame checksum does not match");
    }
}
