//! The log of this process: to stderr, at `info` or as `SAMPAN_LOG` says (error, warn, info, debug).
//!
//! Other crates are heard from `warn` on only.

use log::LevelFilter;
use sampan_ipc::report::LogTo;
use std::io::Write;

/// Starts logging.
pub fn init() {
    let to = LogTo::stderr("sampan-engine");
    let level =
        std::env::var("SAMPAN_LOG").ok().and_then(|word| word.parse().ok()).unwrap_or(LevelFilter::Info);
    env_logger::Builder::new()
        .filter_level(LevelFilter::Warn)
        .filter_module("sampan_engine", level)
        .filter_module("sampan_ipc", level)
        .format(move |out, record| writeln!(out, "{}", to.line(record.level(), &record.args().to_string())))
        .init();
}
