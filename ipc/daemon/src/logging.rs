//! The log of a daemon, on stderr. `SAMPAN_LOG` sets the level (error, warn, info, debug); the default is `info`.
//!
//! Called once, at the start of a daemon. Other people's crates may log only warnings and errors.

use log::LevelFilter;
use sampan_ipc::report::LogTo;
use std::io::Write;

/// Starts logging under the name `program`.
pub fn start(program: &'static str) {
    let to = LogTo::stderr(program);
    let level =
        std::env::var("SAMPAN_LOG").ok().and_then(|word| word.parse().ok()).unwrap_or(LevelFilter::Info);
    env_logger::Builder::new()
        .filter_level(LevelFilter::Warn)
        // The filter matches by prefix, so it covers all crates of this project.
        .filter_module("sampan", level)
        .format(move |out, record| writeln!(out, "{}", to.line(record.level(), &record.args().to_string())))
        .init();
}
