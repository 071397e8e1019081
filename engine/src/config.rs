//! The engine's configuration: the `[engine]` table of `/etc/sampan/sampan.toml`, overridden by the command line.
//!
//! Called once, by `main`. Never changes after that.

use crate::image::disk_space::{Amount, Marks};
use crate::image::policy::{self, Policies, RuleError};
use lexopt::prelude::{Long, Short, ValueExt};
use sampan_ipc::container::Network;
use sampan_ipc::named_file;
use sampan_ipc::paths::Paths;
use sampan_job::limits::Bounds;
use sampan_registry::config;
use sampan_spec::error::SpecError;
use sampan_spec::settings::Form;
use sampan_spec::settings::{Manager, Settings, Ulimit};
use sampan_spec::words;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The configuration file that is read without `--config`; it may be absent.
pub const CONFIG_FILE: &str = "/etc/sampan/sampan.toml";
/// The directory of root's replication policies.
const REPLICATION_POLICIES: &str = "/etc/sampan/replication.d";
/// Highest value of `max-downloads`.
const DOWNLOADS_MAX: u64 = 64;
/// Highest value of `max-cpus`.
const CPUS_MAX: u64 = 1024;
/// Longest configuration file, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Default of `client-timeout`, in seconds.
const CLIENT_TIMEOUT: u64 = 60;
/// Default of `partial-days`.
const PARTIAL_DAYS: u64 = 7;

/// The engine's configuration, complete: every default is filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Path of engine.sock.
    pub socket: PathBuf,
    /// The data directory; by default, the store and the containers are in it.
    pub data: PathBuf,
    /// The store's directory.
    pub store: PathBuf,
    /// Path of the monitor FIFO, which the engine writes events into.
    pub fifo: PathBuf,
    /// Path of the emit FIFO, which the engine holds open so that events in it survive a restart of monitord.
    pub emit_fifo: PathBuf,
    /// The directory that holds one directory for each container.
    pub containers: PathBuf,
    /// The directory of the shims' sockets and the OCI runtime's state; its content does not survive a reboot.
    pub run_dir: PathBuf,
    /// The directory of the replication's journals.
    pub replication: PathBuf,
    /// The directory of the replication's policies; it may be absent.
    pub replication_policies: PathBuf,
    /// Limits on parallel downloads, processors and bytes per second.
    pub bounds: Bounds,
    /// Make an image durable before its pull ends (`sync = "before"`). Otherwise it becomes durable soon after, and a
    /// power failure in between removes it.
    pub syncs_first: bool,
    /// Age after which the engine removes a partial blob that no pull has continued.
    pub partial_age: Duration,
    /// Time after which the engine closes the connection of a client that reads nothing of its answer.
    pub client_timeout: Duration,
    /// Unpack layers in a user namespace when the engine does not run as root and the host allows it.
    pub user_namespace: bool,
    /// Hosts (with port) for which plain HTTP, or a certificate that cannot be verified, is accepted.
    pub insecure_registries: Vec<String>,
    /// A credentials file that takes precedence over the files of containers-auth.json(5).
    pub auth_file: Option<PathBuf>,
    /// The files of containers-registries.conf(5): the host's, or the configured one.
    pub registries: config::Files,
    /// A directory laid out as in containers-certs.d(5), used instead of the host's.
    pub certs_dir: Option<PathBuf>,
    /// The marks of free disk space: when pulls are refused, and when unused images are removed.
    pub marks: Marks,
    /// Which images need a signature, and whose.
    pub policies: Arc<Policies>,
    /// Defaults for containers.
    pub settings: Settings,
    /// Where containers' output goes by default: `json-file`, `journald` or `none`.
    pub log_driver: String,
    /// Options of the log driver.
    pub log_options: Vec<(String, String)>,
    /// The default network of containers; never [`Network::Default`].
    pub network: Network,
}

/// What `main` is to do, by the command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Run the engine.
    Run(Box<Config>),
    /// Print this text and exit.
    Print(String),
}

/// Why the configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line cannot be parsed.
    #[error(transparent)]
    Arguments(#[from] lexopt::Error),
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the read.
        source: std::io::Error,
    },
    /// The file is no TOML, or has an unknown key or a value of the wrong type.
    #[error("cannot use {}", path.display())]
    Parse {
        /// Path of the file.
        path: PathBuf,
        /// Position and reason.
        source: toml::de::Error,
    },
    /// A setting for containers is not valid.
    #[error(transparent)]
    Container(#[from] SpecError),
    /// A policy is not valid.
    #[error(transparent)]
    Policy(#[from] RuleError),
    /// The low mark is above the high mark.
    #[error("gc-free-high is {high}, expected more than gc-free-low, which is {low}")]
    Marks {
        /// The low mark.
        low: String,
        /// The high mark.
        high: String,
    },
    /// The high mark is set without the low mark.
    #[error("gc-free-high is set, and gc-free-low, below which images are removed, is not")]
    NoLowMark,
    /// A number is out of its range.
    #[error("{key} is {value}, expected {least} to {most}")]
    Range {
        /// Key in the file.
        key: &'static str,
        /// The configured value.
        value: u64,
        /// The lowest value allowed.
        least: u64,
        /// The highest value allowed.
        most: u64,
    },
}

/// The whole file. Each process checks only its own table.
#[derive(Default, Deserialize)]
struct File {
    #[serde(default)]
    engine: Table,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Table {
    socket: Option<PathBuf>,
    store: Option<PathBuf>,
    fifo: Option<PathBuf>,
    emit_fifo: Option<PathBuf>,
    containers: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    replication: Option<PathBuf>,
    replication_policies: Option<PathBuf>,
    max_downloads: Option<u64>,
    max_cpus: Option<u64>,
    limit_rate: Option<u64>,
    zstd_window_mib: Option<u64>,
    stall_seconds: Option<u64>,
    stall_bytes: Option<u64>,
    partial_days: Option<u64>,
    client_timeout: Option<u64>,
    sync: Option<Sync>,
    user_namespace: Option<bool>,
    #[serde(default)]
    insecure_registries: Vec<String>,
    auth_file: Option<PathBuf>,
    registries_conf: Option<PathBuf>,
    certs_dir: Option<PathBuf>,
    min_free: Option<Amount>,
    gc_free_low: Option<Amount>,
    gc_free_high: Option<Amount>,
    #[serde(default)]
    policy: Vec<policy::Written>,
    runtime: Option<String>,
    #[serde(default)]
    runtimes: BTreeMap<String, Programs>,
    cgroup_manager: Option<Manager>,
    seccomp_profile: Option<PathBuf>,
    apparmor_profile: Option<String>,
    selinux: Option<bool>,
    init_path: Option<PathBuf>,
    #[serde(default)]
    log_driver: Driver,
    #[serde(default)]
    log_options: BTreeMap<String, String>,
    stop_timeout: Option<u64>,
    #[serde(default)]
    default_ulimits: BTreeMap<String, Ulimit>,
    #[serde(default)]
    network: Net,
    rootfs: Option<Form>,
}

/// One program, or several of which the first that exists is used, as in containers.conf(5).
#[derive(Deserialize)]
#[serde(untagged)]
enum Programs {
    One(PathBuf),
    Several(Vec<PathBuf>),
}

impl Programs {
    fn all(&self) -> Vec<PathBuf> {
        match self {
            Programs::One(path) => vec![path.clone()],
            Programs::Several(paths) => paths.clone(),
        }
    }
}

/// The log driver of containers.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Driver {
    #[default]
    JsonFile,
    Journald,
    None,
}

/// The default network of containers.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Net {
    #[default]
    None,
    Host,
}

/// When a pulled image is made durable.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Sync {
    /// Before the pull ends.
    Before,
    /// Soon after the pull has ended.
    After,
}

/// Reads the command line and the configuration file.
///
/// # Errors
/// [`ConfigError`]: an argument, the file, or a value is not valid.
pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, ConfigError> {
    let (mut cli, mut file) = (Table::default(), None);
    let mut parser = lexopt::Parser::from_iter(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("socket") => cli.socket = Some(parser.value()?.into()),
            Long("store") => cli.store = Some(parser.value()?.into()),
            Long("fifo") => cli.fifo = Some(parser.value()?.into()),
            Long("emit-fifo") => cli.emit_fifo = Some(parser.value()?.into()),
            Long("config") => file = Some(PathBuf::from(parser.value()?)),
            Long("max-downloads") => cli.max_downloads = Some(parser.value()?.parse()?),
            Long("max-cpus") => cli.max_cpus = Some(parser.value()?.parse()?),
            Long("limit-rate") => cli.limit_rate = Some(parser.value()?.parse()?),
            Short('h') | Long("help") => return Ok(Invocation::Print(help())),
            Short('V') | Long("version") => {
                return Ok(Invocation::Print(format!("sampan-engine {}\n", env!("CARGO_PKG_VERSION"))));
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let table = match file {
        Some(path) => read(&path)?,
        None if Path::new(CONFIG_FILE).exists() => read(Path::new(CONFIG_FILE))?,
        None => Table::default(),
    };
    let paths = Paths::from_env();
    let client_timeout =
        within("client-timeout", table.client_timeout, 1..=86_400)?.unwrap_or(CLIENT_TIMEOUT);
    let partial_days = within("partial-days", table.partial_days, 0..=36_500)?.unwrap_or(PARTIAL_DAYS);
    let bounds = bounds(&cli, &table)?;
    let marks = marks(&table)?;
    let settings = settings(&table)?;
    Ok(Invocation::Run(Box::new(Config {
        socket: cli.socket.or(table.socket).unwrap_or_else(|| paths.engine_socket()),
        data: paths.data.clone(),
        store: cli.store.or(table.store).unwrap_or_else(|| paths.store()),
        fifo: cli.fifo.or(table.fifo).unwrap_or_else(|| paths.fifo()),
        emit_fifo: cli.emit_fifo.or(table.emit_fifo).unwrap_or_else(|| paths.emit_fifo()),
        containers: table.containers.unwrap_or_else(|| paths.containers()),
        run_dir: table.run_dir.unwrap_or_else(|| paths.run.clone()),
        replication: table.replication.unwrap_or_else(|| paths.replication()),
        replication_policies: table.replication_policies.unwrap_or_else(replication_policies),
        bounds,
        syncs_first: table.sync == Some(Sync::Before),
        client_timeout: Duration::from_secs(client_timeout),
        partial_age: Duration::from_secs(partial_days * 86_400),
        user_namespace: table.user_namespace.unwrap_or(true),
        insecure_registries: table.insecure_registries,
        auth_file: table.auth_file,
        registries: config::Files::new(table.registries_conf),
        certs_dir: table.certs_dir,
        marks,
        policies: Arc::new(Policies::new(table.policy)?),
        settings,
        log_driver: match table.log_driver {
            Driver::JsonFile => "json-file",
            Driver::Journald => "journald",
            Driver::None => "none",
        }
        .to_owned(),
        log_options: table.log_options.into_iter().collect(),
        network: match table.network {
            Net::None => Network::None,
            Net::Host => Network::Host,
        },
    })))
}

/// The directory of the replication's policies: of the host for root, of the user for others.
fn replication_policies() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from(REPLICATION_POLICIES);
    }
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = var("XDG_CONFIG_HOME").or_else(|| var("HOME").map(|home| home.join(".config")));
    config.map_or_else(|| PathBuf::from(REPLICATION_POLICIES), |dir| dir.join("sampan/replication.d"))
}

/// The defaults for containers, checked.
fn settings(table: &Table) -> Result<Settings, ConfigError> {
    let default = Settings::default();
    let timeout = within("stop-timeout", table.stop_timeout, 0..=u64::from(u32::MAX))?;
    let settings = Settings {
        runtime: table.runtime.clone(),
        runtimes: table.runtimes.iter().map(|(name, programs)| (name.clone(), programs.all())).collect(),
        cgroup_manager: table.cgroup_manager,
        seccomp_profile: table.seccomp_profile.clone(),
        apparmor_profile: table.apparmor_profile.clone(),
        selinux: table.selinux.unwrap_or(default.selinux),
        init_path: table.init_path.clone(),
        stop_timeout: timeout.and_then(|t| u32::try_from(t).ok()).unwrap_or(default.stop_timeout),
        default_ulimits: table.default_ulimits.clone(),
        rootfs: table.rootfs,
    };
    settings.check()?;
    for (key, value) in &table.log_options {
        words::printable("log-options", key)?;
        words::printable("log-options", value)?;
    }
    Ok(settings)
}

/// The engine's limits: a value from the command line wins over one from the file, which wins over the default.
fn bounds(cli: &Table, table: &Table) -> Result<Bounds, ConfigError> {
    let default = Bounds::default();
    let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let downloads = within("max-downloads", cli.max_downloads.or(table.max_downloads), 1..=DOWNLOADS_MAX)?;
    let cpus = within("max-cpus", cli.max_cpus.or(table.max_cpus), 1..=CPUS_MAX)?;
    let window = within("zstd-window-mib", table.zstd_window_mib, 1..=2048)?;
    let stall = within("stall-seconds", table.stall_seconds, 1..=3600)?;
    Ok(Bounds {
        downloads: downloads.map_or(default.downloads, count),
        cpus: cpus.map_or(default.cpus, count),
        bytes_per_second: cli.limit_rate.or(table.limit_rate).unwrap_or_default(),
        zstd_window_log: window.map_or(default.zstd_window_log, |mib| 20 + mib.ilog2()),
        stall_time: stall.map_or(default.stall_time, Duration::from_secs),
        stall_bytes: table.stall_bytes.unwrap_or(default.stall_bytes),
    })
}

/// The marks of free space. Without the low mark the engine never removes images by itself.
fn marks(table: &Table) -> Result<Marks, ConfigError> {
    let min_free = table.min_free.unwrap_or(Marks::default().min_free);
    let low = table.gc_free_low.unwrap_or(Amount::Bytes(0));
    let high = table.gc_free_high.unwrap_or(low);
    // A percentage and a number of bytes can be compared only once the size of the disk is known.
    let crossed = match (low, high) {
        (Amount::Bytes(low), Amount::Bytes(high)) => high < low,
        (Amount::Percent(low), Amount::Percent(high)) => high < low,
        _ => false,
    };
    if table.gc_free_low.is_none() && table.gc_free_high.is_some() {
        return Err(ConfigError::NoLowMark);
    }
    if crossed {
        return Err(ConfigError::Marks { low: low.to_string(), high: high.to_string() });
    }
    Ok(Marks { min_free, collect: table.gc_free_low.map(|low| (low, high)) })
}

fn within(
    key: &'static str,
    value: Option<u64>,
    range: RangeInclusive<u64>,
) -> Result<Option<u64>, ConfigError> {
    match value {
        Some(value) if !range.contains(&value) => {
            Err(ConfigError::Range { key, value, least: *range.start(), most: *range.end() })
        }
        fine => Ok(fine),
    }
}

fn read(path: &Path) -> Result<Table, ConfigError> {
    let text = named_file::read_text(path, FILE_MAX)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let file: File =
        toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
    Ok(file.engine)
}

fn help() -> String {
    let paths = Paths::from_env();
    format!(
        "Usage: sampan-engine [OPTIONS]\n\n\
         Manage images and containers, and announce events about them\n\n\
         Options:\n      \
         --socket <PATH>       Listen on this socket [default: {}]\n      \
         --store <DIR>         Keep images in this directory [default: {}]\n      \
         --fifo <PATH>         Write events into this FIFO [default: {}]\n      \
         --emit-fifo <PATH>    Hold this FIFO open for the events of other programs [default: {}]\n      \
         --config <FILE>       Read this configuration file [default: {CONFIG_FILE}]\n      \
         --max-downloads <N>   Transfer at most this many blobs at a time [default: {downloads}]\n      \
         --max-cpus <N>        Hash and unpack on at most this many processors [default: all]\n      \
         --limit-rate <N>      Transfer at most this many bytes per second, all jobs together [default: no limit]\n  \
         -h, --help                Print help\n  \
         -V, --version             Print version\n",
        paths.engine_socket().display(),
        paths.store().display(),
        paths.fifo().display(),
        paths.emit_fifo().display(),
        downloads = Bounds::default().downloads,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(args: &[&str]) -> Result<Invocation, ConfigError> {
        from_args(["sampan-engine"].iter().chain(args).map(OsString::from))
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_unknown_keys_are_errors() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sampan.toml");
        let file = path.to_str().expect("text");
        std::fs::write(&path, "[monitord]\nx = 1\n[engine]\nmax-downloads = 5\nstore = '/a'\n")
            .expect("written");
        let Ok(Invocation::Run(config)) = ask(&["--config", file, "--store", "/b"]) else {
            panic!("a configuration")
        };
        assert_eq!((config.bounds.downloads, config.store.as_path()), (5, Path::new("/b")));
        std::fs::write(&path, "[engine]\nmaxdownloads = 5\n").expect("written");
        assert!(matches!(ask(&["--config", file]), Err(ConfigError::Parse { .. })));
        assert!(matches!(ask(&["--max-downloads", "0"]), Err(ConfigError::Range { value: 0, .. })));
        assert!(matches!(ask(&["--nonsense"]), Err(ConfigError::Arguments(_))));
        assert!(matches!(ask(&["--help"]), Ok(Invocation::Print(text)) if text.contains("--max-downloads")));
    }

    #[test]
    fn what_holds_for_containers_is_read_and_nonsense_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sampan.toml");
        let read = |text: &str| {
            std::fs::write(&path, format!("[engine]\n{text}\n")).expect("written");
            ask(&["--config", path.to_str().expect("text")])
        };
        let text = "runtime = 'runc'\ncgroup-manager = 'systemd'\nlog-driver = 'journald'\nlog-options = { tag = 'x' }\n\
                    apparmor-profile = 'mine'\nselinux = false\nstop-timeout = 3\nrootfs = 'copy'\nnetwork = 'host'\ndefault-ulimits = { nofile = [10, 20], core = -1 }\n";
        let Ok(Invocation::Run(config)) = read(text) else { panic!("a configuration") };
        assert_eq!((config.log_driver.as_str(), config.network), ("journald", Network::Host));
        assert_eq!(
            (config.settings.stop_timeout, config.settings.cgroup_manager),
            (3, Some(Manager::Systemd))
        );
        assert_eq!(config.settings.rootfs, Some(Form::Copy));
        let text = "[engine.runtimes]\nyouki = '/opt/youki'\nkata = ['/a/kata', '/b/kata']\n";
        let Ok(Invocation::Run(two)) = read(text) else { panic!("a configuration") };
        assert_eq!(two.settings.runtimes["youki"], [Path::new("/opt/youki")]);
        assert_eq!(two.settings.runtimes["kata"], [Path::new("/a/kata"), Path::new("/b/kata")]);
        assert_eq!(
            (config.settings.apparmor_profile.as_deref(), config.settings.selinux),
            (Some("mine"), false)
        );
        assert_eq!(config.settings.default_ulimits.get("nofile").map(|limit| limit.both()), Some((10, 20)));
        for nonsense in [
            "cgroup-manager = 'x'",
            "network = 'bridge'",
            "rootfs = 'vfs'",
            "log-driver = 'syslog'",
            "default-ulimits = { files = 1 }",
            "default-ulimits = { nofile = [20, 10] }",
            "seccomp-profile = 'relative.json'",
            "runtimes = { youki = 'youki' }",
            "runtimes = { youki = [] }",
            "runtimes = { 'a/b' = '/a/b' }",
            "apparmor-profile = ''",
            "apparmor-profile = \"a\\nb\"",
            "selinux = 'yes'",
            "stop-timeout = -1",
        ] {
            assert!(read(nonsense).is_err(), "{nonsense}");
        }
    }
}
