//! The configuration: the arguments of `sampan-supernode` and the `[supernode]` table of
//! `/etc/sampan/sampan.toml`.
//!
//! Called once, by `main`. An argument overrides the key with its name; a list of arguments replaces the list of
//! the key.

mod host_port;

use crate::access::{Cidr, CidrError};
use crate::cdn::Pattern;
use crate::origin::{AllowedOrigin, AllowedOriginError, parse_allowed};
use crate::server::tls::TlsFiles;
use sampan_ipc::paths::Paths;
use sampan_ipc::{named_file, size};
use sampan_registry::CERTS_DIRS;
use serde::Deserialize;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// The configuration file that is read without `--config`; it may be absent.
const CONFIG_FILE: &str = "/etc/sampan/sampan.toml";
/// Longest configuration file, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Most fetches at a time that can be configured.
const FETCHES_MAX: usize = 64;
/// Shortest time after which the clients of a file can be forgotten. A client asks again within seconds.
const TASK_IDLE_MIN: Duration = Duration::from_secs(1);

// What an error says is expected of the options whose type is not text.
const PORT: &str = "a number from 0 to 65535";
const LISTEN: &str = "an IP address of this host, such as 127.0.0.1";
const ADVERTISE: &str = "the IP address by which clients reach this host, such as 10.0.0.5";
const FETCHES: &str = "a number from 1 to 64";

/// The text of `--help`.
const HELP: &str = "\
Let the hosts of a fleet download files from each other.

Usage: sampan-supernode [OPTIONS]

      --port <PORT>              Serve clients on this port [default: 8002]
      --download-port <PORT>     Serve pieces on this port [default: 8001]
      --listen <ADDRESS>         Listen on this address [default: all addresses]
      --advertise-ip <ADDRESS>   The address by which clients reach this host [default: the one it listens on, or sends from]
      --home-dir <PATH>          Keep files here [default: STATE/supernode]
      --cdn-pattern <PATTERN>    Where clients get pieces that no peer has: local (from this host's disk) or source
                                 (from the origin) [default: local]
      --allow-origin <ORIGIN>    Fetch from this HOST[:PORT] or CIDR although its address is not public (repeatable)
      --allow-peer <CIDR>        Believe peers that name an address in this block, wherever they connect from
                                 (repeatable)
      --admin <CIDR>             Accept preheats and deletions from these addresses [default: this host] (repeatable)
      --secret-file <PATH>       Demand the secret in this file from all clients; Dragonfly's clients cannot give it
      --tls-cert <PATH>          Speak TLS on both ports, with this certificate (PEM)
      --tls-key <PATH>           The key of the certificate (PEM)
      --tls-client-ca <PATH>     Accept only clients with a certificate of this CA (PEM)
      --certs-dir <PATH>         Trust the CAs, and show the client certificates, that are in PATH/HOST[:PORT] for origins
                                 and other supernodes [default: /etc/containers/certs.d and /etc/docker/certs.d]
                                 (repeatable)
      --insecure-origin <HOST>   Do not verify the certificate of this HOST[:PORT] (repeatable)
      --supernode <HOST:PORT>    A supernode of the cluster, this one included (repeatable)
      --max-fetches <N>          Fetch this many files at a time from origins, and as many from other supernodes
                                 [default: 8]
      --limit-rate <SIZE>        Fetch at most this much a second from all origins together [default: 0, no limit]
      --revalidate <TIME>        Ask an origin again whether a file has changed after this time [default: 5s]
      --task-idle <TIME>         Forget the clients of a file after this time without a request [default: 3m]
      --gc-free-young <SIZE>     Delete files that are long unused while less than this is free [default: 100G, at most a
                                 fifth of the disk]
      --gc-free-full <SIZE>      Delete all unused files while less than this is free [default: 5G, at most a twentieth of
                                 the disk]
      --fifo <PATH>              Write events into this FIFO [default: RUN/monitor.fifo]
      --config <PATH>            Read this configuration file [default: /etc/sampan/sampan.toml, if there]
  -h, --help                     Print this help
  -V, --version                  Print the version

A SIZE is bytes, or a number with K, M, G, T or P (1024-based). A TIME is a duration: 500ms, 90s, 1h30m, 7d.
RUN is SAMPAN_RUN_DIR, /run/sampan for root, or $XDG_RUNTIME_DIR/sampan.
STATE is SAMPAN_STATE_DIR, /var/lib/sampan for root, or $XDG_STATE_HOME/sampan.

Signals: SIGTERM and SIGINT stop, SIGUSR1 logs the counters.
Exit status: 0 stopped by a signal, 1 failed, 2 bad arguments, 100 another instance is running.
";

/// The configuration, complete: every default is filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The port for clients.
    pub port: u16,
    /// The port for pieces.
    pub download_port: u16,
    /// The address to listen on; `None` means all.
    pub listen: Option<IpAddr>,
    /// The address by which clients reach this host; `None` means the one it listens on, or else the one it would send
    /// from.
    pub advertise_ip: Option<IpAddr>,
    /// The directory of files.
    pub home: PathBuf,
    /// The source of the pieces that no peer has.
    pub pattern: Pattern,
    /// Origins that are allowed although their addresses are not public.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// Addresses that peers may name wherever they connect from.
    pub allowed_peers: Vec<Cidr>,
    /// Addresses of administrators; empty means this host.
    pub admins: Vec<Cidr>,
    /// The file of the shared secret.
    pub secret_file: Option<PathBuf>,
    /// The files for TLS.
    pub tls: Option<TlsFiles>,
    /// Directories of certificates, in the layout of containers-certs.d(5).
    pub certs_dirs: Vec<PathBuf>,
    /// Hosts whose certificates are not verified.
    pub insecure_origins: Vec<String>,
    /// The supernodes of the cluster.
    pub supernodes: Vec<String>,
    /// Most files that are fetched at a time.
    pub fetches_max: usize,
    /// Most bytes a second from all origins; 0 means no limit.
    pub limit_rate: u64,
    /// After which time an origin is asked again.
    pub revalidate_after: Duration,
    /// After which time the clients of a file are forgotten.
    pub task_idle: Duration,
    /// Free bytes below which unused files are deleted; `None` means the default, which depends on the disk.
    pub free_young: Option<u64>,
    /// Free bytes below which all unused files are deleted; `None` means the default, which depends on the disk.
    pub free_full: Option<u64>,
    /// The monitor FIFO.
    pub fifo: PathBuf,
}

/// What `main` is to do, by the command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Run the supernode.
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
    #[error("cannot read configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the read.
        source: std::io::Error,
    },
    /// The file is no TOML, or has an unknown key or a value of the wrong type.
    #[error("cannot parse configuration file {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Position and reason.
        source: Box<toml::de::Error>,
    },
    /// A value is not valid.
    #[error("--{key} '{value}' is not allowed: expected {expected}")]
    Value {
        /// The option or key, without dashes.
        key: &'static str,
        /// The value.
        value: String,
        /// What is expected.
        expected: &'static str,
    },
    /// An option has no effect without another one.
    #[error("--{key} needs {others}, too")]
    Alone {
        /// The option or key, without dashes.
        key: &'static str,
        /// The options that are missing, in words.
        others: &'static str,
    },
    /// Both ports are the same.
    #[error("--download-port {0} is the control port: give another one")]
    SamePort(u16),
    /// The marks of free space are in the wrong order.
    #[error(
        "--gc-free-full {} is more than --gc-free-young {}: give a smaller one",
        size::format(*full),
        size::format(*young)
    )]
    MarksOrder {
        /// The lower mark, in bytes.
        full: u64,
        /// The upper mark, in bytes.
        young: u64,
    },
    /// An origin is not valid.
    #[error("--allow-origin is not valid")]
    Origin(#[from] AllowedOriginError),
    /// A block of addresses is not valid.
    #[error("--{key} is not valid")]
    Block {
        /// The option or key, without dashes.
        key: &'static str,
        /// Why.
        source: CidrError,
    },
}

/// The whole file. Each process checks only its own table.
#[derive(Default, Deserialize)]
struct File {
    #[serde(default)]
    supernode: Table,
}

/// The table `[supernode]`. Each key has the name and the format of an option: see [`HELP`]. Options that can be
/// repeated are lists.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Table {
    port: Option<u16>,
    download_port: Option<u16>,
    listen: Option<IpAddr>,
    advertise_ip: Option<IpAddr>,
    home_dir: Option<PathBuf>,
    cdn_pattern: Option<String>,
    allow_origin: Vec<String>,
    allow_peer: Vec<String>,
    admin: Vec<String>,
    secret_file: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_client_ca: Option<PathBuf>,
    certs_dir: Vec<PathBuf>,
    insecure_origin: Vec<String>,
    supernodes: Vec<String>,
    max_fetches: Option<usize>,
    limit_rate: Option<String>,
    revalidate: Option<String>,
    task_idle: Option<String>,
    gc_free_young: Option<String>,
    gc_free_full: Option<String>,
    fifo: Option<PathBuf>,
}

/// Reads the command line and the configuration file. `args` lacks the program's name.
///
/// # Errors
/// [`ConfigError`]: an argument, the file, or a value is not valid.
pub fn from_args(args: impl Iterator<Item = OsString>) -> Result<Invocation, ConfigError> {
    use lexopt::prelude::*;
    let (mut cli, mut file) = (Table::default(), None);
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Invocation::Print(HELP.to_owned())),
            Short('V') | Long("version") => {
                return Ok(Invocation::Print(format!("sampan-supernode {}\n", env!("CARGO_PKG_VERSION"))));
            }
            Long("port") => cli.port = Some(value(&mut parser, "port", PORT)?),
            Long("download-port") => cli.download_port = Some(value(&mut parser, "download-port", PORT)?),
            Long("listen") => cli.listen = Some(value(&mut parser, "listen", LISTEN)?),
            Long("advertise-ip") => cli.advertise_ip = Some(value(&mut parser, "advertise-ip", ADVERTISE)?),
            Long("home-dir") => cli.home_dir = Some(parser.value()?.into()),
            Long("cdn-pattern") => cli.cdn_pattern = Some(parser.value()?.string()?),
            Long("allow-origin") => cli.allow_origin.push(parser.value()?.string()?),
            Long("allow-peer") => cli.allow_peer.push(parser.value()?.string()?),
            Long("admin") => cli.admin.push(parser.value()?.string()?),
            Long("secret-file") => cli.secret_file = Some(parser.value()?.into()),
            Long("tls-cert") => cli.tls_cert = Some(parser.value()?.into()),
            Long("tls-key") => cli.tls_key = Some(parser.value()?.into()),
            Long("tls-client-ca") => cli.tls_client_ca = Some(parser.value()?.into()),
            Long("certs-dir") => cli.certs_dir.push(parser.value()?.into()),
            Long("insecure-origin") => cli.insecure_origin.push(parser.value()?.string()?),
            Long("supernode") => cli.supernodes.push(parser.value()?.string()?),
            Long("max-fetches") => cli.max_fetches = Some(value(&mut parser, "max-fetches", FETCHES)?),
            Long("limit-rate") => cli.limit_rate = Some(parser.value()?.string()?),
            Long("revalidate") => cli.revalidate = Some(parser.value()?.string()?),
            Long("task-idle") => cli.task_idle = Some(parser.value()?.string()?),
            Long("gc-free-young") => cli.gc_free_young = Some(parser.value()?.string()?),
            Long("gc-free-full") => cli.gc_free_full = Some(parser.value()?.string()?),
            Long("fifo") => cli.fifo = Some(parser.value()?.into()),
            Long("config") => file = Some(PathBuf::from(parser.value()?)),
            other => return Err(other.unexpected().into()),
        }
    }
    let table = read(file.as_deref())?;
    resolve(cli, table).map(|config| Invocation::Run(Box::new(config)))
}

/// Parses the value of the option `key`.
fn value<T: FromStr>(
    parser: &mut lexopt::Parser,
    key: &'static str,
    expected: &'static str,
) -> Result<T, ConfigError> {
    let value = parser.value()?;
    let value = value.to_string_lossy();
    value.parse().map_err(|_| bad(key, &value, expected))
}

fn read(named: Option<&Path>) -> Result<Table, ConfigError> {
    let path = named.unwrap_or(Path::new(CONFIG_FILE));
    let text = match named_file::read_text(path, FILE_MAX) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Table::default());
        }
        Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
    };
    let parsed: Result<File, _> = toml::from_str(&text);
    let failed = |source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) };
    parsed.map(|file| file.supernode).map_err(failed)
}

fn resolve(cli: Table, file: Table) -> Result<Config, ConfigError> {
    let paths = Paths::from_env();
    let list = |cli: Vec<String>, file: Vec<String>| if cli.is_empty() { file } else { cli };
    let pattern = match cli.cdn_pattern.or(file.cdn_pattern).as_deref() {
        None | Some("local") => Pattern::Local,
        Some("source") => Pattern::Source,
        Some(other) => return Err(bad("cdn-pattern", other, "local or source")),
    };
    let origins = list(cli.allow_origin, file.allow_origin);
    let config = Config {
        port: cli.port.or(file.port).unwrap_or(8002),
        download_port: cli.download_port.or(file.download_port).unwrap_or(8001),
        listen: cli.listen.or(file.listen),
        advertise_ip: cli.advertise_ip.or(file.advertise_ip),
        home: cli.home_dir.or(file.home_dir).unwrap_or_else(|| paths.state.join("supernode")),
        pattern,
        allowed_origins: origins.iter().map(|text| parse_allowed(text)).collect::<Result<_, _>>()?,
        allowed_peers: blocks("allow-peer", &list(cli.allow_peer, file.allow_peer))?,
        admins: blocks("admin", &list(cli.admin, file.admin))?,
        secret_file: cli.secret_file.or(file.secret_file),
        tls: tls(
            cli.tls_cert.or(file.tls_cert),
            cli.tls_key.or(file.tls_key),
            cli.tls_client_ca.or(file.tls_client_ca),
        )?,
        certs_dirs: match [cli.certs_dir, file.certs_dir].into_iter().find(|dirs| !dirs.is_empty()) {
            Some(dirs) => dirs,
            None => CERTS_DIRS.map(PathBuf::from).to_vec(),
        },
        insecure_origins: list(cli.insecure_origin, file.insecure_origin),
        supernodes: list(cli.supernodes, file.supernodes),
        fetches_max: cli.max_fetches.or(file.max_fetches).unwrap_or(8),
        limit_rate: bytes("limit-rate", cli.limit_rate.or(file.limit_rate), "0")?,
        revalidate_after: time("revalidate", cli.revalidate.or(file.revalidate), "5s")?,
        task_idle: idle(cli.task_idle.or(file.task_idle))?,
        free_young: mark("gc-free-young", cli.gc_free_young.or(file.gc_free_young))?,
        free_full: mark("gc-free-full", cli.gc_free_full.or(file.gc_free_full))?,
        fifo: cli.fifo.or(file.fifo).unwrap_or_else(|| paths.fifo()),
    };
    check(&config)?;
    Ok(config)
}

/// Refuses values that have the right type and make no sense.
fn check(config: &Config) -> Result<(), ConfigError> {
    if !(1..=FETCHES_MAX).contains(&config.fetches_max) {
        return Err(bad("max-fetches", &config.fetches_max.to_string(), FETCHES));
    }
    if config.port == config.download_port && config.port != 0 {
        return Err(ConfigError::SamePort(config.port));
    }
    if let Some(ip) = config.advertise_ip.filter(|ip| ip.is_unspecified() || ip.is_multicast()) {
        return Err(bad("advertise-ip", &ip.to_string(), ADVERTISE));
    }
    if let Some(host) = config.insecure_origins.iter().find(|text| host_port::parse(text).is_none()) {
        return Err(bad("insecure-origin", host, "HOST[:PORT]"));
    }
    let is_node = |text: &str| matches!(host_port::parse(text), Some((_, Some(_))));
    if let Some(node) = config.supernodes.iter().find(|text| !is_node(text)) {
        let expected = "one HOST:PORT; give the option once for each supernode";
        return Err(bad("supernode", node, expected));
    }
    match (config.free_full, config.free_young) {
        (Some(full), Some(young)) if full > young => Err(ConfigError::MarksOrder { full, young }),
        _ => Ok(()),
    }
}

fn tls(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
) -> Result<Option<TlsFiles>, ConfigError> {
    match (cert, key, client_ca) {
        (Some(cert), Some(key), client_ca) => Ok(Some(TlsFiles { cert, key, client_ca })),
        (None, None, None) => Ok(None),
        (Some(_), None, _) => Err(ConfigError::Alone { key: "tls-cert", others: "--tls-key" }),
        (None, Some(_), _) => Err(ConfigError::Alone { key: "tls-key", others: "--tls-cert" }),
        (None, None, Some(_)) => {
            Err(ConfigError::Alone { key: "tls-client-ca", others: "--tls-cert and --tls-key" })
        }
    }
}

fn blocks(key: &'static str, texts: &[String]) -> Result<Vec<Cidr>, ConfigError> {
    texts.iter().map(|text| text.parse().map_err(|source| ConfigError::Block { key, source })).collect()
}

fn bad(key: &'static str, value: &str, expected: &'static str) -> ConfigError {
    ConfigError::Value { key, value: value.to_owned(), expected }
}

fn bytes(key: &'static str, text: Option<String>, default: &str) -> Result<u64, ConfigError> {
    let text = text.as_deref().unwrap_or(default);
    size::parse(text).ok_or_else(|| bad(key, text, "a size, such as 500M or 5G"))
}

fn mark(key: &'static str, text: Option<String>) -> Result<Option<u64>, ConfigError> {
    text.map(|text| bytes(key, Some(text), "0")).transpose()
}

fn idle(text: Option<String>) -> Result<Duration, ConfigError> {
    let text = text.unwrap_or_else(|| "3m".to_owned());
    match time("task-idle", Some(text.clone()), "3m")? {
        short if short < TASK_IDLE_MIN => Err(bad("task-idle", &text, "1s or more, such as 90s or 3m")),
        idle => Ok(idle),
    }
}

fn time(key: &'static str, text: Option<String>, default: &str) -> Result<Duration, ConfigError> {
    let text = text.as_deref().unwrap_or(default);
    let nanos = sampan_ipc::time::duration(text).and_then(|nanos| u64::try_from(nanos).ok());
    nanos.map(Duration::from_nanos).ok_or_else(|| bad(key, text, "a time, such as 500ms, 90s, 1h30m or 7d"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, ConfigError> {
        match from_args(args.iter().map(OsString::from))? {
            Invocation::Run(config) => Ok(*config),
            Invocation::Print(text) => panic!("{text}"),
        }
    }

    #[test]
    fn arguments_go_before_the_file_and_the_file_before_defaults() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sampan.toml");
        let text = "[engine]\nx = 1\n[supernode]\nport = 9002\nallow-origin = [\"10.0.0.0/8\"]\nsupernodes = [\"a:1\"]\n\
                    task-idle = \"1h\"\nlimit-rate = \"10M\"\n";
        std::fs::write(&path, text).expect("written");
        let name = path.to_str().expect("a name");
        let config = config(&["--config", name, "--port", "7002", "--allow-origin=x", "--allow-origin=y"])
            .expect("good");
        assert_eq!((config.port, config.download_port, config.fetches_max), (7002, 8001, 8));
        assert_eq!((config.allowed_origins.len(), config.supernodes.len()), (2, 1));
        assert_eq!((config.task_idle, config.limit_rate), (Duration::from_secs(3600), 10 << 20));
        assert_eq!((config.free_young, config.free_full), (None, None));
        assert_eq!(config.certs_dirs, CERTS_DIRS.map(PathBuf::from));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (args, expected) in [
            (&["--port", "70000"][..], "--port '70000' is not allowed: expected a number"),
            (&["--port", "abc"], "--port 'abc' is not allowed: expected a number"),
            (&["--listen", "localhost"], "--listen 'localhost' is not allowed: expected an IP address"),
            (&["--advertise-ip", "foo"], "--advertise-ip 'foo' is not allowed: expected the IP address"),
            (&["--advertise-ip", "0.0.0.0"], "--advertise-ip '0.0.0.0'"),
            (&["--advertise-ip", "::"], "--advertise-ip '::'"),
            (&["--cdn-pattern", "x"], "--cdn-pattern 'x' is not allowed: expected local or source"),
            (&["--allow-peer", "10.0.0.0/99"], "--allow-peer"),
            (&["--allow-origin", "a b"], "--allow-origin"),
            (&["--tls-cert", "/x"], "--tls-cert needs --tls-key, too"),
            (&["--tls-key", "/x"], "--tls-key needs --tls-cert, too"),
            (&["--tls-client-ca", "/x"], "--tls-client-ca needs --tls-cert and --tls-key, too"),
            (&["--max-fetches", "0"], "--max-fetches '0'"),
            (&["--max-fetches", "few"], "--max-fetches 'few' is not allowed: expected a number"),
            (&["--download-port", "8002"], "--download-port 8002 is the control port"),
            (&["--task-idle", "soon"], "--task-idle 'soon'"),
            (&["--task-idle", "0s"], "--task-idle '0s'"),
            (&["--supernode", "10.0.0.1"], "--supernode '10.0.0.1'"),
            (&["--supernode", "a:8002,b:8002"], "once for each supernode"),
            (&["--supernode", "a:80b"], "--supernode 'a:80b'"),
            (&["--supernode", "::1:8002"], "--supernode '::1:8002'"),
            (&["--insecure-origin", "x y"], "--insecure-origin 'x y'"),
            (&["--insecure-origin", "https://x"], "--insecure-origin 'https://x'"),
            (&["--gc-free-young", "1G", "--gc-free-full", "2G"], "is more than --gc-free-young"),
            (&["--config", "/nonexistent/sampan.toml"], "/nonexistent/sampan.toml"),
            (&["--bogus"], "--bogus"),
        ] {
            let error = config(args).expect_err("refused");
            let error = sampan_ipc::report::chain(&error);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sampan.toml");
        std::fs::write(&path, "[supernode]\nprt = 1\n").expect("written");
        let error = config(&["--config", path.to_str().expect("a name")]).expect_err("refused");
        assert!(sampan_ipc::report::chain(&error).contains("prt"), "{error:?}");
    }
}
