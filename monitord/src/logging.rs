//! How this process writes its log.

use std::error::Error;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

/// Starts logging to stderr, at `info` or as `RUST_LOG` says.
///
/// When stderr is the journal, a line begins with its priority (`<4>`), sd-daemon(3); otherwise with its level.
pub fn start() {
    let journal = stderr_is_journal();
    let env = env_logger::Env::default().default_filter_or("info");
    let format = move |out: &mut env_logger::fmt::Formatter, record: &log::Record<'_>| {
        if journal {
            let priority = match record.level() {
                log::Level::Error => 3,
                log::Level::Warn => 4,
                log::Level::Info => 6,
                log::Level::Debug | log::Level::Trace => 7,
            };
            return writeln!(out, "<{priority}>{}", record.args());
        }
        writeln!(out, "sampan-monitord: {}: {}", record.level().as_str().to_lowercase(), record.args())
    };
    env_logger::Builder::from_env(env).format(format).init();
}

/// True if the device and inode of `$JOURNAL_STREAM` are those of stderr. systemd.exec(5), "JOURNAL_STREAM".
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    std::fs::metadata("/dev/stderr").is_ok_and(|meta| stream == format!("{}:{}", meta.dev(), meta.ino()))
}

/// An error and its causes in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}
