//! The options of the program.

use sampan_ipc::paths::Paths;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

/// How long the gateway waits for another client before it ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

const HELP: &str = "\
The Docker Engine API over Sampan's sockets

Usage: sampan-docker-api [OPTIONS]

Options:
  --socket PATH          listen at PATH [default: docker.sock in the directory of engine.sock]
  --idle-timeout TIME    end when no client was connected for TIME; 0 means never [default: 30s]
  --help                 print this help
  --version              print the version
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
    /// How long without clients the gateway waits before it ends; `None` means for ever.
    pub idle_timeout: Option<Duration>,
}

/// A command line that is not valid.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

/// Parses the arguments without the program's name.
///
/// # Errors
/// An argument is unknown or not valid.
pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    use lexopt::Arg::Long;
    let error = |error: lexopt::Error| UsageError(error.to_string());
    let paths = Paths::from_env();
    let socket = paths.engine_socket().with_file_name("docker.sock");
    let mut config = Config { socket, paths, idle_timeout: Some(IDLE_TIMEOUT) };
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next().map_err(error)? {
        match arg {
            Long("socket") => config.socket = parser.value().map_err(error)?.into(),
            Long("idle-timeout") => {
                config.idle_timeout = parse_idle_timeout(&parser.value().map_err(error)?)?
            }
            Long("help") => return Ok(Invocation::Print(HELP.to_owned())),
            Long("version") => {
                return Ok(Invocation::Print(format!("sampan-docker-api {}\n", env!("CARGO_PKG_VERSION"))));
            }
            other => return Err(error(other.unexpected())),
        }
    }
    Ok(Invocation::Run(config))
}

/// Parses the time without clients after which the gateway ends; `None` for 0, which means never.
fn parse_idle_timeout(value: &OsStr) -> Result<Option<Duration>, UsageError> {
    let text = value.to_string_lossy();
    if text == "0" {
        return Ok(None);
    }
    let nanos = sampan_ipc::time::duration(&text).and_then(|nanos| u64::try_from(nanos).ok());
    let time = nanos.map(Duration::from_nanos).filter(|time| !time.is_zero());
    let expected = "a time such as 500ms, 30s or 5m, or 0, which means never";
    time.map(Some).ok_or_else(|| UsageError(format!("--idle-timeout cannot be '{text}': {expected}")))
}
