//! What this process is told: arguments first, then the configuration file, then defaults.
//!
//! One struct, parsed once; an unknown key or option is an error. Read again on SIGHUP.

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

/// The configuration file, if no other is named.
pub const DEFAULT_FILE: &str = "/etc/sampan/sampan.toml";
/// Longest configuration file, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Least size of the ring: two windows of a FIFO.
const RING_BYTES_MIN: u64 = 128 << 10;
const RING_BYTES_MAX: u64 = 1 << 30;
/// Least size of the journal: two of the smallest segments.
const JOURNAL_BYTES_MIN: u64 = 128 << 10;

/// What `--help` prints.
pub const HELP: &str = "\
Take events from two FIFOs, keep them, and fan them out to subscribers

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
      --sync <always|interval|never>     Make events durable before anyone hears of them, in intervals, or when
                                         the kernel does [default: interval]
      --sync-interval <TIME>             Length of the interval [default: 1s]
      --subscribers-max <N>              Serve at most this many subscribers [default: 4096]
      --subscribers-per-uid-max <N>      Serve at most this many of one user [default: 2048]
      --config <PATH>                    Read this configuration file [default: /etc/sampan/sampan.toml, if there]
      --hand-over-fifos                  Give both FIFOs to the service manager, to be passed on, and exit
      --give-back-fifo <PATH>            Give the FIFO to this user and group, so that systemd opens it, and exit
      --fifo-mode <MODE>                 With --give-back-fifo: and this mode [default: 0620]
      --hold-fifo <PATH>                 Hold the FIFO open, so that what is in it is kept, until SIGTERM
  -h, --help                             Print this help
  -V, --version                          Print the version

A SIZE is bytes, or a number with K, M or G (1024-based). A TIME is a duration: 500ms, 90s, 1h30m, 7d, 2w.
RUN is SAMPAN_RUN_DIR, /run/sampan for root, or $XDG_RUNTIME_DIR/sampan.
STATE is SAMPAN_STATE_DIR, /var/lib/sampan for root, or $XDG_STATE_HOME/sampan.

Signals: SIGTERM and SIGINT stop, SIGHUP reads the configuration again, SIGUSR1 logs the counters.
Exit status: 0 stopped as asked, 1 failed, 2 bad arguments, 100 another instance is at work.
";

/// What the arguments ask for.
#[derive(Debug)]
pub enum Asked {
    /// To run.
    Run(Box<Settings>),
    /// To give a FIFO to this process's user and group, with a mode.
    GiveBack(PathBuf, Mode),
    /// To hand the FIFOs over to the service manager.
    HandOver(Box<Settings>),
    /// To hold a FIFO open.
    Hold(PathBuf),
    /// To print a text.
    Print(String),
}

/// All settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The monitor FIFO, of facts.
    pub fifo: PathBuf,
    /// The emit FIFO, of everybody else's events.
    pub emit_fifo: PathBuf,
    /// The events socket.
    pub socket: PathBuf,
    /// The journal's directory; `None` keeps events in memory only.
    pub journal: Option<PathBuf>,
    /// Bytes of the ring.
    pub ring_bytes: usize,
    /// What the journal may hold.
    pub limits: Limits,
    /// When events are made durable.
    pub sync: Policy,
    /// Most subscribers in all.
    pub subscribers_max: usize,
    /// Most subscribers of one user.
    pub subscribers_per_uid_max: usize,
    /// The arguments, to be applied again over a file that is read again.
    arguments: Section,
    config: Option<PathBuf>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// An option is unknown or lacks its value.
    #[error("bad arguments")]
    Arguments(#[from] lexopt::Error),
    /// A value makes no sense.
    #[error("{key} '{value}' is not allowed: {expected}")]
    Value {
        /// Option or key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot read configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is no such configuration.
    #[error("cannot understand configuration file {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
}

/// The file: this process reads its own table and leaves the others to theirs.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    #[serde(default)]
    monitord: Section,
    #[serde(rename = "engine")]
    _engine: Option<serde::de::IgnoredAny>,
}

/// The table `[monitord]`; every key is the option of the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Section {
    /// Path of the monitor FIFO.
    fifo: Option<PathBuf>,
    /// Path of the emit FIFO.
    emit_fifo: Option<PathBuf>,
    /// Path of the socket.
    socket: Option<PathBuf>,
    /// Directory of the journal, or `none`.
    journal_dir: Option<PathBuf>,
    /// Size of the ring.
    ring_bytes: Option<String>,
    /// Size of the journal.
    journal_bytes: Option<String>,
    /// Age of the oldest events.
    journal_age: Option<String>,
    /// `always`, `interval` or `never`.
    sync: Option<String>,
    /// Length of the interval.
    sync_interval: Option<String>,
    /// Most subscribers in all.
    subscribers_max: Option<usize>,
    /// Most subscribers of one user.
    subscribers_per_uid_max: Option<usize>,
}

impl Settings {
    /// Reads the arguments, without the program's name, and the configuration file.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn from_args(args: impl Iterator<Item = OsString>) -> Result<Asked, ConfigError> {
        use lexopt::prelude::*;
        let mut parser = lexopt::Parser::from_args(args);
        let (mut section, mut config) = (Section::default(), None);
        let mut hands_over = false;
        let (mut given_back, mut mode) = (None, Mode::from_bits_truncate(0o620));
        while let Some(arg) = parser.next()? {
            match arg {
                Short('h') | Long("help") => return Ok(Asked::Print(HELP.to_owned())),
                Short('V') | Long("version") => {
                    return Ok(Asked::Print(format!("sampan-monitord {}\n", env!("CARGO_PKG_VERSION"))));
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
                Long("hand-over-fifos") => hands_over = true,
                Long("give-back-fifo") => given_back = Some(PathBuf::from(parser.value()?)),
                Long("fifo-mode") => mode = file_mode(&parser.value()?.string()?)?,
                Long("hold-fifo") => return Ok(Asked::Hold(parser.value()?.into())),
                Long("config") => config = Some(PathBuf::from(parser.value()?)),
                _ => return Err(arg.unexpected().into()),
            }
        }
        if let Some(path) = given_back {
            return Ok(Asked::GiveBack(path, mode));
        }
        let settings = Box::new(Self::resolve(section, config)?);
        Ok(if hands_over { Asked::HandOver(settings) } else { Asked::Run(settings) })
    }

    /// The settings as the same arguments and the file of today give them.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn reread(&self) -> Result<Self, ConfigError> {
        Self::resolve(self.arguments.clone(), self.config.clone())
    }

    /// Which settings of `other` take effect only after a restart, by name.
    pub fn needs_restart(&self, other: &Self) -> Vec<&'static str> {
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
            return Err(bad("emit-fifo", &emit_fifo.to_string_lossy(), "another path than that of 'fifo'"));
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
            Asked::Run(settings) => Ok(*settings),
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
