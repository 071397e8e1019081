//! The settings: arguments override the configuration file, which overrides the defaults.
//!
//! `main` parses the settings once; the event loop reads the file again after SIGHUP. An unknown key or option is an
//! error.

use crate::journal::Limits;
use crate::syncer::Policy;
use nix::sys::stat::Mode;
use sampan_ipc::named_file;
use sampan_ipc::paths::Paths;
use sampan_ipc::size;
use serde::Deserialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The configuration file that is read if `--config` names no other file. It need not exist.
pub(crate) const DEFAULT_FILE: &str = "/etc/sampan/sampan.toml";
/// Longest configuration file, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Smallest size of the ring in bytes: two windows of a FIFO.
const RING_BYTES_MIN: u64 = 128 << 10;
const RING_BYTES_MAX: u64 = 1 << 30;
/// Smallest size of the journal in bytes: two of the smallest segments.
const JOURNAL_BYTES_MIN: u64 = 128 << 10;

/// The text of `--help`.
pub(crate) const HELP: &str = "\
Read events from two FIFOs, keep them, and send them to every subscriber

Usage: sampan-monitord [OPTIONS]

Options:
      --fifo <PATH>                      Read facts from this FIFO [default: RUN/monitor.fifo]
      --emit-fifo <PATH>                 Read everybody else's events from this FIFO, and mark them
                                         [default: RUN/emit.fifo]
      --socket <PATH>                    Serve subscribers on this socket [default: RUN/events.sock]
      --journal-dir <PATH|none>          Keep events in this directory, or in memory only [default: STATE/journal]
      --ring-bytes <SIZE>                Keep this much of the newest events in memory [default: 256K]
      --journal-bytes <SIZE>             Keep at most this much on disk [default: 16M]
      --journal-age <TIME>               Keep events at most this long [default: 7d]
      --sync <always|interval|never>     Sync events to disk before subscribers receive them, in intervals, or leave
                                         it to the kernel [default: interval]
      --sync-interval <TIME>             Length of the interval [default: 1s]
      --subscribers-max <N>              Serve at most this many subscribers [default: 4096]
      --subscribers-per-uid-max <N>      Serve at most this many of one user [default: 2048]
      --config <PATH>                    Read this configuration file [default: /etc/sampan/sampan.toml, if there]
      --hand-over-fifos                  Store both FIFOs with the service manager, which passes them on, and exit
      --give-back-fifo <PATH>            Give the FIFO to this user and group, so that systemd accepts it, and exit
      --fifo-mode <MODE>                 With --give-back-fifo: give the FIFO this mode [default: 0620]
      --hold-fifo <PATH>                 Hold the FIFO open until SIGTERM, so that its content is kept
  -h, --help                             Print this help
  -V, --version                          Print the version

A SIZE is bytes, or a number with K, M, G, T or P (1024-based). A TIME is a duration: 500ms, 90s, 1h30m, 7d, 2w.
RUN is SAMPAN_RUN_DIR, /run/sampan for root, or $XDG_RUNTIME_DIR/sampan.
STATE is SAMPAN_STATE_DIR, /var/lib/sampan for root, or $XDG_STATE_HOME/sampan.

Signals: SIGTERM and SIGINT stop, SIGHUP reads the configuration again, SIGUSR1 logs the counters.
Exit status: 0 stopped by a signal, 1 failed, 2 bad arguments, 100 another instance is running.
";

/// The task that the arguments request.
#[derive(Debug)]
pub(crate) enum Command {
    Run(Box<Settings>),
    /// Gives a FIFO to this process's user and group, and sets its mode.
    GiveBack(PathBuf, Mode),
    /// Stores the FIFOs with the service manager.
    HandOver(Box<Settings>),
    /// Holds a FIFO open.
    Hold(PathBuf),
    /// Prints help or version.
    Print(String),
}

/// All settings, from arguments, file and defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The monitor FIFO, which carries facts.
    pub(crate) fifo: PathBuf,
    /// The emit FIFO, which carries the events of all other programs.
    pub(crate) emit_fifo: PathBuf,
    pub(crate) socket: PathBuf,
    /// The journal's directory; `None` means that events are stored in memory only.
    pub(crate) journal: Option<PathBuf>,
    pub(crate) ring_bytes: usize,
    /// Limits of the journal's size and age.
    pub(crate) limits: Limits,
    pub(crate) sync: Policy,
    pub(crate) subscribers_max: usize,
    pub(crate) subscribers_per_uid_max: usize,
    /// The arguments, which override the file again after SIGHUP.
    arguments: Section,
    config: Option<PathBuf>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// An option is unknown or lacks its value.
    #[error("bad arguments")]
    Arguments(#[from] lexopt::Error),
    /// The value of an option or key is invalid.
    #[error("{key} '{value}' is not allowed: {expected}")]
    Value { key: &'static str, value: String, expected: &'static str },
    #[error("cannot read configuration file {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// The file is not TOML, or has an unknown key or a value of the wrong type.
    #[error("cannot parse configuration file {}", path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
}

/// The configuration file. This process reads only its own table; other daemons read the others.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    #[serde(default)]
    monitord: Section,
    #[serde(rename = "engine")]
    _engine: Option<serde::de::IgnoredAny>,
    #[serde(rename = "supernode")]
    _supernode: Option<serde::de::IgnoredAny>,
}

/// The table `[monitord]`. Each key has the name and the format of a command line option: see [`HELP`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Section {
    fifo: Option<PathBuf>,
    emit_fifo: Option<PathBuf>,
    socket: Option<PathBuf>,
    journal_dir: Option<PathBuf>,
    ring_bytes: Option<String>,
    journal_bytes: Option<String>,
    journal_age: Option<String>,
    sync: Option<String>,
    sync_interval: Option<String>,
    subscribers_max: Option<usize>,
    subscribers_per_uid_max: Option<usize>,
}

impl Settings {
    /// Parses `args`, which lack the program's name, and the configuration file.
    ///
    /// # Errors
    /// An argument, the file or a value in it is invalid, see [`ConfigError`].
    pub(crate) fn from_args(args: impl Iterator<Item = OsString>) -> Result<Command, ConfigError> {
        use lexopt::prelude::*;
        let mut parser = lexopt::Parser::from_args(args);
        let (mut section, mut config) = (Section::default(), None);
        let mut hand_over = false;
        let (mut give_back, mut mode) = (None, Mode::from_bits_truncate(0o620));
        while let Some(arg) = parser.next()? {
            match arg {
                Short('h') | Long("help") => return Ok(Command::Print(HELP.to_owned())),
                Short('V') | Long("version") => {
                    return Ok(Command::Print(format!("sampan-monitord {}\n", env!("CARGO_PKG_VERSION"))));
                }
                Long("fifo") => section.fifo = Some(parser.value()?.into()),
                Long("emit-fifo") => section.emit_fifo = Some(parser.value()?.into()),
                Long("socket") => section.socket = Some(parser.value()?.into()),
                Long("journal-dir") => section.journal_dir = Some(parser.value()?.into()),
                Long("ring-bytes") => section.ring_bytes = Some(parser.value()?.string()?),
                Long("journal-bytes") => section.journal_bytes = Some(parser.value()?.string()?),
                Long("journal-age") => section.journal_age = Some(parser.value()?.string()?),
                Long("sync") => section.sync = Some(parser.value()?.string()?),
                Long("sync-interval") => section.sync_interval = Some(parser.value()?.string()?),
                Long("subscribers-max") => section.subscribers_max = Some(parser.value()?.parse()?),
                Long("subscribers-per-uid-max") => {
                    section.subscribers_per_uid_max = Some(parser.value()?.parse()?)
                }
                Long("hand-over-fifos") => hand_over = true,
                Long("give-back-fifo") => give_back = Some(PathBuf::from(parser.value()?)),
                Long("fifo-mode") => mode = file_mode(&parser.value()?.string()?)?,
                Long("hold-fifo") => return Ok(Command::Hold(parser.value()?.into())),
                Long("config") => config = Some(PathBuf::from(parser.value()?)),
                _ => return Err(arg.unexpected().into()),
            }
        }
        if let Some(path) = give_back {
            return Ok(Command::GiveBack(path, mode));
        }
        let settings = Box::new(Self::resolve(section, config)?);
        Ok(if hand_over { Command::HandOver(settings) } else { Command::Run(settings) })
    }

    /// Computes the settings again, from the same arguments and the present content of the file.
    ///
    /// # Errors
    /// The file cannot be read, or a value in it is invalid.
    pub(crate) fn reread(&self) -> Result<Self, ConfigError> {
        Self::resolve(self.arguments.clone(), self.config.clone())
    }

    /// Names of the settings in `other` that differ from `self` and take effect only after a restart.
    pub(crate) fn needs_restart(&self, other: &Self) -> Vec<&'static str> {
        let same = [
            ("fifo", self.fifo == other.fifo),
            ("emit-fifo", self.emit_fifo == other.emit_fifo),
            ("socket", self.socket == other.socket),
            ("journal-dir", self.journal == other.journal),
            ("ring-bytes", self.ring_bytes == other.ring_bytes),
            ("sync", std::mem::discriminant(&self.sync) == std::mem::discriminant(&other.sync)),
        ];
        same.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }

    fn resolve(arguments: Section, config: Option<PathBuf>) -> Result<Self, ConfigError> {
        let file = read_file(config.as_deref())?;
        let paths = Paths::from_env();
        let pick = |argument: &Option<String>, key: &Option<String>, default: &str| {
            argument.clone().or_else(|| key.clone()).unwrap_or_else(|| default.to_owned())
        };
        let path = |argument: &Option<PathBuf>, key: &Option<PathBuf>, default: PathBuf| {
            argument.clone().or_else(|| key.clone()).unwrap_or(default)
        };
        let journal = path(&arguments.journal_dir, &file.journal_dir, paths.journal());
        let ring_bytes = pick(&arguments.ring_bytes, &file.ring_bytes, "256K");
        let journal_bytes = pick(&arguments.journal_bytes, &file.journal_bytes, "16M");
        let interval = pick(&arguments.sync_interval, &file.sync_interval, "1s");
        let ring = bytes("ring-bytes", &ring_bytes, RING_BYTES_MIN, "a size from 128K to 1G")?;
        if ring > RING_BYTES_MAX {
            return Err(bad("ring-bytes", &ring_bytes, "a size from 128K to 1G"));
        }
        let fifo = path(&arguments.fifo, &file.fifo, paths.fifo());
        let emit_fifo = path(&arguments.emit_fifo, &file.emit_fifo, paths.emit_fifo());
        if fifo == emit_fifo {
            return Err(bad("emit-fifo", &emit_fifo.to_string_lossy(), "a path that differs from 'fifo'"));
        }
        Ok(Settings {
            fifo,
            emit_fifo,
            socket: path(&arguments.socket, &file.socket, paths.events_socket()),
            journal: (journal != Path::new("none")).then_some(journal),
            ring_bytes: ring as usize,
            limits: Limits {
                bytes: bytes("journal-bytes", &journal_bytes, JOURNAL_BYTES_MIN, "a size of 128K or more")?,
                age: time("journal-age", &pick(&arguments.journal_age, &file.journal_age, "7d"))?,
            },
            sync: sync(&pick(&arguments.sync, &file.sync, "interval"), time("sync-interval", &interval)?)?,
            subscribers_max: arguments.subscribers_max.or(file.subscribers_max).unwrap_or(4096),
            subscribers_per_uid_max: arguments
                .subscribers_per_uid_max
                .or(file.subscribers_per_uid_max)
                .unwrap_or(2048),
            arguments,
            config,
        })
    }
}

fn read_file(named: Option<&Path>) -> Result<Section, ConfigError> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    let text = match named_file::read_text(path, FILE_MAX) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Section::default());
        }
        Err(source) => {
            return Err(ConfigError::Read { path: path.to_owned(), source });
        }
    };
    let file: ConfigFile = toml::from_str(&text)
        .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
    Ok(file.monitord)
}

fn bad(key: &'static str, value: &str, expected: &'static str) -> ConfigError {
    ConfigError::Value { key, value: value.to_owned(), expected }
}

fn bytes(key: &'static str, text: &str, min: u64, expected: &'static str) -> Result<u64, ConfigError> {
    size::parse(text).filter(|bytes| *bytes >= min).ok_or_else(|| bad(key, text, expected))
}

fn time(key: &'static str, text: &str) -> Result<Duration, ConfigError> {
    let nanos = sampan_ipc::time::duration(text).and_then(|nanos| u64::try_from(nanos).ok());
    let time = nanos.map(Duration::from_nanos).filter(|time| *time >= Duration::from_millis(1));
    time.ok_or_else(|| bad(key, text, "a time of 1ms or more, such as 500ms, 90s, 1h30m, 7d or 2w"))
}

fn file_mode(text: &str) -> Result<Mode, ConfigError> {
    let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o777);
    bits.map(Mode::from_bits_truncate).ok_or_else(|| bad("fifo-mode", text, "a mode in octal, at most 0777"))
}

fn sync(text: &str, interval: Duration) -> Result<Policy, ConfigError> {
    match text {
        "always" => Ok(Policy::Always),
        "interval" => Ok(Policy::Interval(interval)),
        "never" => Ok(Policy::Never),
        _ => Err(bad("sync", text, "always, interval or never")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str]) -> Result<Settings, ConfigError> {
        match Settings::from_args(args.iter().map(OsString::from))? {
            Command::Run(settings) => Ok(*settings),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_go_before_the_file_and_the_file_before_defaults() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sampan.toml");
        let text = "[monitord]\nring-bytes = \"1M\"\njournal-age = \"2h\"\n[engine]\nanything = 1\n";
        std::fs::write(&path, text).expect("written");
        let name = path.to_str().expect("a name");
        let settings =
            settings(&["--config", name, "--ring-bytes", "512K", "--journal-dir=none"]).expect("good");
        assert_eq!(settings.ring_bytes, 512 << 10);
        assert_eq!(settings.limits.age, Duration::from_secs(7200));
        assert_eq!(settings.limits.bytes, 16 << 20);
        assert_eq!(settings.journal, None);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (args, expected) in [
            (&["--ring-bytes", "1x"][..], "ring-bytes '1x'"),
            (&["--journal-age", "0s"], "journal-age '0s'"),
            (&["--journal-age", "-1d"], "journal-age '-1d'"),
            (&["--journal-age", "7"], "1h30m, 7d or 2w"),
            (&["--sync-interval", "1us"], "a time of 1ms or more"),
            (&["--sync", "often"], "sync 'often'"),
            (&["--emit-fifo", "/x", "--fifo", "/x"], "emit-fifo '/x'"),
            (&["--config", "/nonexistent/sampan.toml"], "/nonexistent/sampan.toml"),
            (&["--bogus"], "bad arguments"),
        ] {
            let error = settings(args).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn times_are_what_since_takes_as_well() {
        for (text, hours) in [("36h", 36), ("1d12h", 36), ("1.5d", 36), ("2w", 336)] {
            let age = settings(&["--journal-age", text]).expect("good").limits.age;
            assert_eq!(age, Duration::from_secs(hours * 3600), "{text}");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sampan.toml");
        std::fs::write(&path, "[monitord]\nring-byte = 1\n").expect("written");
        let error = settings(&["--config", path.to_str().expect("a name")]).expect_err("refused");
        assert!(sampan_ipc::report::chain(&error).contains("ring-byte"), "{error:?}");
    }
}
