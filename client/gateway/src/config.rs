//! The options of the program.

use sampan_ipc::paths::Paths;
use sampan_ipc::time;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How long the gateway waits for another client before it ends, if systemd would start it again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

const HELP: &str = "\
Serve the Docker Engine API over the sockets of sampan-engine and sampan-monitord

Usage: sampan-docker-api [OPTIONS]

Options:
      --socket <PATH>        Listen on this socket [default: RUN/docker.sock]
      --idle-timeout <TIME>  End when no client was connected for this long; 0 means never. A TIME is a duration: 90s, 1h
                             [default: 30s with a socket from systemd, else 0]
  -h, --help                 Print help
  -V, --version              Print the version

RUN is SAMPAN_RUN_DIR: /run/sampan for root, else $XDG_RUNTIME_DIR/sampan. The sockets of the daemons are RUN/engine.sock
and RUN/events.sock. With a socket from systemd (LISTEN_FDS, named 'docker'), --socket has no effect.
";

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Serve.
    Run(Config),
    /// Print a text.
    Print(String),
}

/// The settings of the gateway.
#[derive(Debug)]
pub struct Config {
    /// Path of the socket, if systemd passes none.
    pub socket: PathBuf,
    /// The sockets of the daemons.
    pub paths: Paths,
    /// How long without clients the gateway waits before it ends; `None` if no option says so.
    pub idle_timeout: Option<Duration>,
}

impl Config {
    /// How long without clients the gateway waits before it ends; `None` means for ever. Without a socket of systemd
    /// (`is_passed`), nobody would start the gateway again, so it stays by default.
    pub fn idle_timeout(&self, is_passed: bool) -> Option<Duration> {
        let default = if is_passed { IDLE_TIMEOUT } else { Duration::ZERO };
        Some(self.idle_timeout.unwrap_or(default)).filter(|timeout| !timeout.is_zero())
    }
}

/// A command line that is not valid.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// An argument is unknown, or lacks its value.
    #[error(transparent)]
    Argument(#[from] lexopt::Error),
    /// The value of `--idle-timeout` is no duration.
    #[error("--idle-timeout {0:?} is not a duration such as 90s or 1h")]
    IdleTimeout(String),
}

/// Parses the arguments without the program's name.
///
/// # Errors
/// An argument is unknown or not valid.
pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    use lexopt::Arg::{Long, Short};
    let paths = Paths::from_env();
    let mut config = Config { socket: paths.docker_socket(), paths, idle_timeout: None };
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("socket") => config.socket = parser.value()?.into(),
            Long("idle-timeout") => {
                let text = parser.value()?.to_string_lossy().into_owned();
                config.idle_timeout = Some(span(&text).ok_or(UsageError::IdleTimeout(text))?);
            }
            Long("help") | Short('h') => return Ok(Invocation::Print(HELP.to_owned())),
            Long("version") | Short('V') => {
                return Ok(Invocation::Print(format!("sampan-docker-api {}\n", env!("CARGO_PKG_VERSION"))));
            }
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Invocation::Run(config))
}

/// A duration that is not negative; 0 needs no unit.
fn span(text: &str) -> Option<Duration> {
    let nanos = if text == "0" { 0 } else { time::duration(text)? };
    Some(Duration::from_nanos(u64::try_from(nanos).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, UsageError> {
        match from_args(args.iter().map(OsString::from))? {
            Invocation::Run(config) => Ok(config),
            Invocation::Print(text) => panic!("{text}"),
        }
    }

    #[test]
    fn a_gateway_ends_when_idle_only_if_systemd_starts_it_again() {
        let of = |args: &[&str], is_passed| config(args).expect("valid").idle_timeout(is_passed);
        assert_eq!(of(&[], true), Some(IDLE_TIMEOUT));
        assert_eq!(of(&[], false), None);
        assert_eq!(of(&["--idle-timeout", "0"], true), None);
        assert_eq!(of(&["--idle-timeout=1m30s"], false), Some(Duration::from_secs(90)));
        for bad in ["-1s", "x", "", "99999999999999h"] {
            assert!(config(&["--idle-timeout", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn help_and_version_print_and_an_unknown_option_is_refused() {
        let text = |arg: &str| match from_args([OsString::from(arg)]) {
            Ok(Invocation::Print(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(text("-h").contains("--idle-timeout") && text("--version").starts_with("sampan-docker-api "));
        assert!(config(&["--port", "1"]).is_err() && config(&["word"]).is_err());
    }
}
