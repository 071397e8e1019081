//! The form of errors and log lines.
//!
//! Used by all processes, so that their log lines have one form. Writes nothing itself.

use log::Level;
use std::error::Error;
use std::os::unix::fs::MetadataExt;

/// Joins an error and its causes to one line, separated by `: `. Skips a cause with which the line already ends.
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

/// The destination of a log, which decides the form of its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTo {
    /// The systemd journal: each line begins with its priority. sd-daemon(3), "Logging".
    Journal,
    /// A terminal, or a supervisor that adds the time: each line begins with the program's name and the level.
    Person(&'static str),
}

impl LogTo {
    /// The journal if the device and inode of stderr are those in `$JOURNAL_STREAM`, otherwise a terminal or
    /// supervisor. systemd.exec(5), "$JOURNAL_STREAM".
    pub fn stderr(program: &'static str) -> Self {
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let is_journal = std::fs::metadata("/dev/stderr")
            .is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()));
        if is_journal { LogTo::Journal } else { LogTo::Person(program) }
    }

    /// Formats a log line, without the line break. Escapes control characters in `text`, so that it stays one line.
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
