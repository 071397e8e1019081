//! The log on stderr: `<N>` priorities for the journal, time and level for people.

use log::{Level, LevelFilter};
use std::io::Write;
use std::os::fd::AsFd;

/// Sets the log up; level from `SAMPAN_LOG` (error, warn, info, debug), by default info.
pub fn init() {
    let level =
        std::env::var("SAMPAN_LOG").ok().and_then(|word| word.parse().ok()).unwrap_or(LevelFilter::Info);
    let journal = stderr_is_journal();
    env_logger::Builder::new()
        .filter_level(LevelFilter::Warn)
        .filter_module("sampan_engine", level)
        .filter_module("sampan_ipc", level)
        .format(move |out, record| {
            // One line a record, whatever a peer put into a name.
            let mut text = String::new();
            sampan_ipc::event::escape(&mut text, &record.args().to_string());
            if journal {
                writeln!(out, "<{}>{text}", priority(record.level()))
            } else {
                writeln!(out, "{} {:5} {text}", crate::stamp::format(sampan_ipc::time::now()), record.level())
            }
        })
        .init();
}

/// sd-daemon(3), "Logging".
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// True if stderr is the stream that `JOURNAL_STREAM` names. systemd.exec(5).
fn stderr_is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    nix::sys::stat::fstat(std::io::stderr().as_fd())
        .is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}
