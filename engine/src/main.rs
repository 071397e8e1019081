//! The program `sampan-engine`: reads its arguments, opens the store, the FIFOs and the socket, runs the event loop.
#![forbid(unsafe_code)]

use sampan_daemon::listen::{ListenError, Listener};
use sampan_daemon::logging;
use sampan_daemon::systemd::{self, NotifyState};
use sampan_engine::config::{self, Config, Invocation};
use sampan_engine::container::directory::Directories;
use sampan_engine::container::{rootfs, start};
use sampan_engine::context::Shared;
use sampan_engine::fifos::Fifos;
use sampan_engine::image::disk_space::DiskSpace;
use sampan_engine::job_ids::JobIds;
use sampan_engine::outbox::Outbox;
use sampan_engine::replication::state::ReplicationState;
use sampan_engine::server::{Server, WAKER};
use sampan_engine::{roots, tasks};
use sampan_ipc::accounts;
use sampan_ipc::announce::Announcer;
use sampan_ipc::paths::unwritable_hint;
use sampan_ipc::report;
use sampan_ipc::sender::FifoSender;
use sampan_ipc::trust::TrustError;
use sampan_job::limits::Limits;
use sampan_layer::userns::{self, Namespace};
use sampan_os::file_lock;
use sampan_os::thread;
use sampan_replication::journal::JournalError;
use sampan_store::{Store, StoreError, partial_blob};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Exit status of a bad command line or configuration.
const USAGE: u8 = 2;
/// Exit status when another engine has the socket or the store.
const IN_USE: u8 = 100;
/// Longest wait, at the end, for events to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    sampan_engine::limit_memory();
    // Directories that a layer does not name get mode 0755, whatever the caller's umask.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    if let Some(status) = userns::run(std::env::args_os()) {
        return status;
    }
    let config = match config::from_args(std::env::args_os()) {
        Ok(Invocation::Run(config)) => *config,
        Ok(Invocation::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {}", report::chain(&error));
            eprintln!("hint: sampan-engine --help");
            return ExitCode::from(USAGE);
        }
    };
    logging::start("sampan-engine");
    let (store, containers, socket) =
        (config.store.clone(), config.containers.clone(), config.socket.clone());
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let data = "SAMPAN_DATA_DIR";
            let places = [(data, store.as_path()), (data, &containers), ("SAMPAN_RUN_DIR", &socket)];
            let distrust = error.downcast_ref().map(TrustError::hint).filter(|hint| !hint.is_empty());
            log::error!("{}", report::chain(error.as_ref()));
            if let Some(hint) = distrust.or_else(|| unwritable_hint(&places)) {
                log::error!("hint: {hint}");
            }
            let in_use = matches!(error.downcast_ref(), Some(StoreError::Locked(_)))
                || matches!(error.downcast_ref(), Some(JournalError::Locked(_)))
                || matches!(error.downcast_ref(), Some(ListenError::Busy { .. }));
            ExitCode::from(if in_use { IN_USE } else { 1 })
        }
    }
}

/// Takes the socket from systemd, or binds it at `path`. Only the engine's user may connect; if that is root, also the
/// members of the administrators' group, if the group exists.
fn listen(path: &Path) -> Result<Listener, Box<dyn Error>> {
    let mut passed = systemd::passed();
    let named = passed.iter().position(|(name, _)| name == "engine").unwrap_or(0);
    if !passed.is_empty() {
        return Ok(Listener::adopt(passed.swap_remove(named).1)?);
    }
    roots::make_parent(path)?;
    let is_root = nix::unistd::geteuid().is_root();
    let group = is_root.then(|| accounts::group_id(accounts::ADMIN_GROUP)).flatten();
    Ok(Listener::bind(path, "sampan-engine", group.map(nix::unistd::Gid::from_raw), file_lock::WAIT_MAX)?)
}

fn run(config: Config) -> Result<(), Box<dyn Error>> {
    start::find_shim();
    let listening = listen(&config.socket)?;
    roots::prepare(&config)?;
    let (namespace, advice) = enter(config.user_namespace);
    let directories = Directories::open(&config.containers, &config.run_dir)?;
    let store = Store::open_in(&config.store, namespace, &|| directories.needs())?;
    if config.syncs_first {
        store.set_sync_before_commit();
    }
    let (replication, unfinished) = ReplicationState::open(&config.replication)?;
    partial_blob::collect(&store, config.partial_age);
    // systemd refuses to use a FIFO that another process made: the engine creates none when systemd passes the socket.
    let fifos = Fifos::open(&config.fifo, &config.emit_fifo, !listening.is_passed());
    let announcer = Announcer::new(FifoSender::new(&config.fifo));
    let poll = mio::Poll::new()?;
    let waker = mio::Waker::new(poll.registry(), WAKER)?;
    let (sender, inbox) = std::sync::mpsc::channel();
    let limits = Limits::new(config.bounds.clone());
    let outbox = Outbox::new(sender, waker);
    log::info!("listening on {}, store {}", config.socket.display(), config.store.display());
    let room = DiskSpace::new(config.marks.clone(), announcer.clone());
    let rootfs = rootfs::RootfsChoice::default();
    let shared = Arc::new(Shared {
        advice,
        store,
        room,
        limits,
        announcer: announcer.clone(),
        config,
        outbox,
        replication,
        rootfs,
    });
    settle_in_background(&shared);
    announcer.daemon("start", "sampan-engine");
    let job_ids = JobIds::open(&shared.config.data, shared.replication.journals.newest_id() + 1);
    let mut server = Server::new(poll, listening, fifos, inbox, Arc::clone(&shared), directories, job_ids)?;
    server.recover_replications(unfinished);
    for lost in shared.store.take_lost() {
        let digest = lost.manifest.to_string();
        let name = lost.reference.unwrap_or_else(|| digest.clone());
        announcer.image("delete", &name, &[("digest", &digest), ("reason", "power failed")], None);
    }
    systemd::notify(&[NotifyState::Ready]);
    read_registries(&shared.config);
    sampan_os::memory::trim();
    let result = server.run();
    shared.store.make_durable();
    announcer.daemon("stop", "sampan-engine");
    announcer.flush(FLUSH_TIMEOUT);
    Ok(result?)
}

/// Reads the files of registries early: the first pull is faster, and the log shows an error in them at the start.
/// The engine reads them again only after they change.
fn read_registries(config: &Config) {
    if let Err(error) = config.registries.load() {
        log::warn!("no image can be pulled or pushed until this is corrected: {}", report::chain(&error));
    }
}

/// Makes durable what a killed engine may have left in the page cache, on a thread of its own.
fn settle_in_background(shared: &Arc<Shared>) {
    if !shared.store.needs_sync() {
        return;
    }
    let shared = Arc::clone(shared);
    if let Err(error) = thread::spawn("settle", 1 << 20, move || tasks::settle(&shared.store)) {
        log::warn!("cannot start a thread to sync the store, the next job will sync it: {error}");
    }
}

/// Opens the user namespace in which an ordinary user's engine unpacks layers. Without one, returns `None` and a
/// warning for the user. Root needs none.
fn enter(is_wanted: bool) -> (Option<Namespace>, Mutex<Option<String>>) {
    if nix::unistd::geteuid().is_root() {
        return (None, Mutex::default());
    }
    let why = match is_wanted.then(Namespace::open) {
        Some(Ok(namespace)) => return (Some(namespace), Mutex::default()),
        Some(Err(error)) => report::chain(&error),
        None => "user-namespace is false in the configuration".to_owned(),
    };
    let advice = format!("owners of files are recorded in extended attributes only: {why}");
    log::warn!("{advice}");
    (None, Mutex::new(Some(advice)))
}
