//! The program `sampan-supernode`: reads its arguments, opens its directory and its ports, runs the event loop.
#![forbid(unsafe_code)]

use sampan_daemon::logging;
use sampan_daemon::port::{self, PortError};
use sampan_daemon::systemd::{self, NotifyState};
use sampan_ipc::announce::Announcer;
use sampan_ipc::paths::unwritable_hint;
use sampan_ipc::sender::FifoSender;
use sampan_ipc::trust::{self, TrustError};
use sampan_ipc::{fifo, report};
use sampan_os::memory::{self, HeapBounds};
use sampan_registry::Access;
use sampan_registry::credentials::Credentials;
use sampan_supernode::access::{Admins, PeerAddresses, Secret, Tickets};
use sampan_supernode::cdn::eviction::Marks;
use sampan_supernode::cdn::{Cdn, CdnError, CdnSettings, Source};
use sampan_supernode::cluster::Cluster;
use sampan_supernode::cluster_source::{ClusterSettings, ClusterSource, OwnedTasks};
use sampan_supernode::config::{self, Config, Invocation};
use sampan_supernode::gc::{Gc, GcSettings};
use sampan_supernode::journal::Journal;
use sampan_supernode::managers::{ManagerSettings, Managers, Parts};
use sampan_supernode::origin::{OriginSettings, Origins, address_filter};
use sampan_supernode::preheat::Resolver;
use sampan_supernode::server::core::Core;
use sampan_supernode::server::event_loop::WAKER;
use sampan_supernode::server::message::{Message, Outbox};
use sampan_supernode::server::{Server, tls};
use std::error::Error;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

/// Exit status of a bad command line or configuration.
const USAGE: u8 = 2;
/// Exit status when another supernode has the directory or a port.
const IN_USE: u8 = 100;
/// Longest wait, at the end, for events to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
/// An address that nobody has (RFC 5737). The kernel's route to it shows the address from which this host would
/// send.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

fn main() -> ExitCode {
    memory::bound_heap(HeapBounds { arenas: 1, mmap_threshold: 1 << 20, trim_threshold: 8 << 20 });
    let passed = systemd::passed();
    let config = match config::from_args(std::env::args_os().skip(1)) {
        Ok(Invocation::Run(config)) => *config,
        Ok(Invocation::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {}", report::chain(&error));
            eprintln!("hint: see 'sampan-supernode --help'");
            turn_away(passed);
            return ExitCode::from(USAGE);
        }
    };
    logging::start("sampan-supernode");
    match run(&config, &passed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", report::chain(error.as_ref()));
            if let Some(hint) = hint(error.as_ref(), &config) {
                log::error!("hint: {hint}");
            }
            let is_taken = |error: &PortError| error.source.kind() == ErrorKind::AddrInUse;
            let in_use = matches!(error.downcast_ref(), Some(CdnError::InUse(_)))
                || error.downcast_ref().is_some_and(is_taken);
            if !in_use {
                return ExitCode::FAILURE;
            }
            turn_away(passed);
            ExitCode::from(IN_USE)
        }
    }
}

/// Closes the connections that wait at the ports of systemd. Called before an exit after which a new start would fail,
/// too.
fn turn_away(passed: Vec<(String, OwnedFd)>) {
    passed.into_iter().for_each(|(_, socket)| port::turn_away(socket));
}

/// What a person can do about an error of the start; `None` if unknown.
fn hint(error: &(dyn Error + 'static), config: &Config) -> Option<String> {
    if let Some(error) = error.downcast_ref::<PortError>() {
        let option = if error.address.port() == config.port { "--port" } else { "--download-port" };
        return match error.source.kind() {
            ErrorKind::AddrInUse => Some(format!(
                "'ss -ltnp' shows the process that listens there; {option} sets another port, --listen another address"
            )),
            ErrorKind::AddrNotAvailable => {
                Some("--listen needs an address of this host; 'ip address' lists them".to_owned())
            }
            ErrorKind::PermissionDenied => Some(format!("{option} sets a port of 1024 or more")),
            _ => None,
        };
    }
    if let Some(fifo::OpenError::NotFifo { .. }) = error.downcast_ref() {
        return Some("--fifo needs the path of the FIFO that sampan-monitord reads".to_owned());
    }
    match error.downcast_ref::<TrustError>()? {
        TrustError::NotDirectory(_) | TrustError::Owner { .. } | TrustError::Above { .. } => {
            Some("set --home-dir to a directory of this user that no other user can replace".to_owned())
        }
        TrustError::Make { .. } | TrustError::Look { .. } => {
            unwritable_hint(&[("--home-dir", config.home.as_path())])
        }
        other => Some(other.hint()),
    }
}

fn run(config: &Config, passed: &[(String, OwnedFd)]) -> Result<(), Box<dyn Error>> {
    trust::make_own(&config.home, trust::PRIVATE)?;
    fifo::check(&config.fifo)?;
    let listen = |name: &str, port: u16| -> Result<mio::net::TcpListener, Box<dyn Error>> {
        match passed.iter().find(|(of, _)| of == name) {
            Some((_, socket)) => Ok(port::adopt(socket.try_clone()?)?),
            None => Ok(port::bind(config.listen, port)?),
        }
    };
    let (control, download) = (listen("control", config.port)?, listen("download", config.download_port)?);
    let tls = config.tls.as_ref().map(tls::load).transpose()?;
    let secret = config.secret_file.as_deref().map(Secret::open).transpose()?;
    let poll = mio::Poll::new()?;
    let waker = Arc::new(mio::Waker::new(poll.registry(), WAKER)?);
    let (sender, inbox) = mpsc::channel();
    let outbox = Outbox::new(sender, waker);
    let announcer = Announcer::new(FifoSender::new(&config.fifo));
    let origins = Arc::new(origins(config));
    let now = Instant::now();
    let port = download.local_addr()?.port();
    let managers = managers(config, &outbox, &origins, announcer.clone(), port)?;
    let gc = Gc::new(GcSettings { task_idle: config.task_idle, ..GcSettings::default() }, now);
    let mut core = Core::new(managers, gc, secret, outbox, origins);
    core.managers.restore(Instant::now(), SystemTime::now());
    let at = [control.local_addr()?, download.local_addr()?];
    log::info!("listening on {} and {}, files in {}", at[0], at[1], config.home.display());
    let server = Server::new(poll, control, download, tls, core, inbox)?;
    announcer.daemon("start", "sampan-supernode");
    systemd::notify(&[NotifyState::Ready]);
    memory::trim();
    let result = server.run();
    announcer.daemon("stop", "sampan-supernode");
    announcer.flush(FLUSH_TIMEOUT);
    Ok(result?)
}

fn origins(config: &Config) -> Origins {
    Origins::new(OriginSettings {
        allowed: config.allowed_origins.clone(),
        certs: config.certs_dirs.clone(),
        insecure_hosts: config.insecure_origins.clone(),
        ..OriginSettings::default()
    })
}

fn managers(
    config: &Config,
    outbox: &Outbox,
    origins: &Arc<Origins>,
    announcer: Announcer,
    download_port: u16,
) -> Result<Managers, Box<dyn Error>> {
    let to_loop = outbox.clone();
    let settings = CdnSettings {
        pattern: config.pattern,
        fetches_max: config.fetches_max,
        bytes_per_second: config.limit_rate,
        marks: Marks { young: config.free_young, full: config.free_full },
    };
    let owned = OwnedTasks::default();
    let source = source(config, origins, &owned)?;
    let cdn = Cdn::open(&config.home, source, move |message| to_loop.send(Message::Cdn(message)), settings)?;
    let to_loop = outbox.clone();
    let access = Access {
        insecure_hosts: config.insecure_origins.clone().into(),
        certs: config.certs_dirs.clone().into(),
        credentials: Credentials::new(Vec::new(), None, &[]),
        addresses: address_filter(config.allowed_origins.clone()),
        ..Access::default()
    };
    let (journal, registered) = Journal::open(&config.home);
    Ok(Managers::new(
        ManagerSettings {
            advertise_ip: advertised_address(config),
            download_port,
            is_source_pattern: config.pattern == sampan_supernode::cdn::Pattern::Source,
            demands_tickets: config.secret_file.is_some(),
            revalidate_after: config.revalidate_after,
        },
        Parts {
            cdn,
            resolver: Resolver::new(access, move |resolution| to_loop.send(Message::Preheat(resolution))),
            journal,
            registered,
            tickets: Tickets::open(&config.home)?,
            admins: Admins::new(config.admins.clone(), &own_addresses(config)),
            addresses: PeerAddresses::new(config.allowed_peers.clone()),
            announcer,
            owned,
        },
    ))
}

/// Where fetches get bytes from: origins, and in a cluster other supernodes, too.
fn source(
    config: &Config,
    origins: &Arc<Origins>,
    owned: &OwnedTasks,
) -> Result<Arc<dyn Source>, Box<dyn Error>> {
    if config.supernodes.is_empty() {
        return Ok(Arc::<Origins>::clone(origins));
    }
    let own = SocketAddr::new(advertised_address(config), config.port).to_string();
    let cluster = Cluster::new(&config.supernodes, &own);
    if !cluster.has_self() {
        log::warn!(
            "{own} is not among the supernodes of the cluster, so this supernode owns no task: set --advertise-ip to its address in the list"
        );
    }
    let settings = ClusterSettings {
        cluster,
        access: Access { certs: config.certs_dirs.clone().into(), ..Access::default() },
        is_tls: config.tls.is_some(),
        authorization: config.secret_file.as_deref().map(Secret::authorization).transpose()?,
    };
    Ok(Arc::new(ClusterSource::new(settings, Arc::clone(origins), owned.clone())))
}

/// The address by which clients reach this host: the configured one, or else the one that the supernode listens
/// on.
fn advertised_address(config: &Config) -> IpAddr {
    let listens_on = config.listen.filter(|ip| !ip.is_unspecified());
    config.advertise_ip.or(listens_on).unwrap_or_else(own_address)
}

/// Addresses of this host. Packets from them come from this host alone: the kernel drops others (RFC 1812, 5.3.7).
fn own_addresses(config: &Config) -> Vec<IpAddr> {
    config.listen.into_iter().chain([own_address()]).filter(|ip| !ip.is_unspecified()).collect()
}

/// The address from which this host would send to the internet. No packet is sent.
fn own_address() -> IpAddr {
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect(ANYWHERE)?;
        Ok(socket.local_addr()?.ip())
    });
    found.ok().filter(|ip| !ip.is_unspecified()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}
