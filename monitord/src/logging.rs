//! The log of this process: to stderr, at `info` or as `SAMPAN_LOG` says (error, warn, info, debug).

use sampan_ipc::report::LogTo;
use std::io::Write;

/// Starts logging.
pub fn start() {
    let to = LogTo::stderr("sampan-monitord");
    let level = std::env::var("SAMPAN_LOG").ok().and_then(|word| word.parse().ok());
    env_logger::Builder::new()
        .filter_level(level.unwrap_or(log::LevelFilter::Info))
        .format(move |out, record| writeln!(out, "{}", to.line(record.level(), &record.args().to_string())))
        .init();
}
