//! The log of a daemon: to stderr, at `info` or as `SAMPAN_LOG` says (error, warn, info, debug).
//!
//! Crates of others write from `warn` on only.

use log::LevelFilter;
use sampan_ipc::report::LogTo;
use std::io::Write;

/// Starts logging as `program`.
pub fn start(program: &'static str) {
    let to = LogTo::stderr(program);
    let level =
        std::env::var("SAMPAN_LOG").ok().and_then(|word| word.parse().ok()).unwrap_or(LevelFilter::Info);
    env_logger::Builder::new()
        .filter_level(LevelFilter::Warn)
        // The filter takes a prefix: it covers all crates of this project.
        .filter_module("sampan", level)
        .format(move |out, record| writeln!(out, "{}", to.line(record.level(), &record.args().to_string())))
        .init();
}
