//! Finds all containers when the engine starts, and cleans up after shims that were killed.
//!
//! The event loop calls [`run`] once; the manager calls [`clean_up`] on threads. A shim that lives reports its state.
//! If a container's state file says that the container runs but no shim answers, the shim was killed, or the host has
//! restarted (another boot ID): the engine then kills the container's processes and announces its end. Never replaces
//! an exit code that the shim has recorded.

use super::definition::Definition;
use super::directory::{Directories, DirectoryError};
use super::entry::{Busy, Entry};
use super::event_history;
use super::manager::ContainerManager;
use super::outcome::Outcome;
use super::start;
use super::state::now;
use crate::context::Shared;
use crate::outbox::Message;
use sampan_ipc::container::Phase;
use sampan_ipc::report::chain;
use sampan_ipc::shim::{SOCKET, State};
use sampan_ipc::trust::{self, Server};
use sampan_os::boot_id;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest time that a shim may need to listen after its start, or to end after its container's removal.
const SHIM_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two checks whether a shim listens, or whether it has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Exit code of a process that was killed with SIGKILL.
const KILLED: i32 = 137;
/// Exit code of a container that was running when the host stopped, as in docker.
const UNKNOWN: i32 = 255;

/// Reads all containers, connects to the shims that live, and begins to repair the other containers.
pub fn run(containers: &mut ContainerManager) {
    let (ids, incomplete) = match containers.directories.list() {
        Ok(listed) => listed,
        Err(error) => {
            return log::error!("cannot find containers, the engine starts without them: {}", chain(&error));
        }
    };
    let all: Vec<String> = ids.iter().chain(&incomplete).cloned().collect();
    containers.directories.clear_runs(&all, |run| connect(&run.join(SOCKET)).is_ok());
    let mut replay = containers.directories.replay().ids();
    replay.retain(|id| !ids.contains(id));
    replay.iter().for_each(|id| containers.replay_events(id, None));
    for id in incomplete {
        let directories = containers.directories.clone();
        containers.spawn(move |shared| remove_incomplete(shared, &directories, &id));
    }
    for id in ids {
        let definition = match containers.directories.definition(&id) {
            Ok(definition) => definition,
            Err(DirectoryError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
                log::warn!("container {id} has no {}: its directory is removed", super::definition::FILE);
                let directories = containers.directories.clone();
                containers.spawn(move |_| drop(directories.remove(&id, || ())));
                continue;
            }
            Err(error) => {
                log::error!("container {id} is ignored: {}", chain(&error));
                continue;
            }
        };
        let state = containers.directories.state(&id).unwrap_or_else(|| {
            log::warn!("container {}: cannot read its state, it is treated as killed", definition.name);
            State { phase: Phase::Running, started: definition.created, ..State::default() }
        });
        add(containers, definition, state);
    }
}

/// Connects to the shim that listens at `socket`.
fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    trust::connect(socket, Server::Engine)
}

fn add(containers: &mut ContainerManager, definition: Definition, state: State) {
    let (id, name) = (definition.id.clone(), definition.name.clone());
    if let Some(other) = containers.names.insert(name.clone(), id.clone()) {
        log::error!("containers {id} and {other} both have the name {name}; rename one");
    }
    let pin = containers.shared.store.pin(definition.needs());
    containers.entries.insert(id.clone(), Entry::new(definition, state, Some(pin)));
    let run = containers.directories.run(&id);
    match connect(&run.join(SOCKET)) {
        Ok(stream) => containers.reconnect(&id, stream),
        Err(_) if run.exists() => search_shim(containers, &id),
        Err(_) if containers.directories.replay().has(&id) => {
            containers.set_busy(&id, Busy::CleaningUp);
            containers.replay_events(&id, Some(true));
        }
        Err(_) => containers.repair(&id),
    }
}

/// Starts a thread that waits for a shim which may have been started but does not listen yet.
pub(super) fn search_shim(containers: &mut ContainerManager, id: &str) {
    containers.set_busy(id, Busy::Connecting);
    let (dir, run, id) = (containers.directories.dir(id), containers.directories.run(id), id.to_owned());
    containers.spawn(move |shared| {
        let stream = await_shim(&dir, &run.join(SOCKET));
        shared.outbox.send(Message::Container(Outcome::ShimSearched { id, stream }));
    });
}

/// Connects to the shim of the container in `dir` when it listens; `None` if no such process runs.
fn await_shim(dir: &Path, socket: &Path) -> Option<UnixStream> {
    let deadline = Instant::now() + SHIM_TIMEOUT;
    loop {
        // Check before connecting: a refused connection means that there is no shim only if none was running before.
        let lives = is_shim_running(dir) && Instant::now() < deadline;
        match connect(socket) {
            Ok(stream) => return Some(stream),
            Err(_) if lives => std::thread::sleep(POLL_INTERVAL),
            Err(_) => return None,
        }
    }
}

/// Whether a process runs that was started as the shim of the container in `dir`.
fn is_shim_running(dir: &Path) -> bool {
    let is_shim = |entry: std::fs::DirEntry| {
        let words = std::fs::read(entry.path().join("cmdline")).ok()?;
        let mut words = words.split(|byte| *byte == 0);
        let program = Path::new(OsStr::from_bytes(words.next()?)).file_name()?;
        (program == "sampan-shim" && words.next()? == dir.as_os_str().as_bytes()).then_some(())
    };
    std::fs::read_dir("/proc").into_iter().flatten().flatten().any(|entry| is_shim(entry).is_some())
}

/// Removes a container whose creation or removal was interrupted. Runs on a thread.
fn remove_incomplete(shared: &Shared, directories: &Directories, id: &str) {
    // If the shim lives, it completes the removal itself.
    let deadline = Instant::now() + SHIM_TIMEOUT;
    while is_shim_running(&directories.dir(id)) && Instant::now() < deadline {
        std::thread::sleep(POLL_INTERVAL);
    }
    log::info!("container {id}: its creation or removal was interrupted, it is removed");
    if let Some(definition) = directories.removed_definition(id)
        && !event_history::is_last(&shared.config.fifo, id, &["destroy"], "destroy")
        && let Err(failure) = super::remove::remove(shared, directories, &definition)
    {
        log::warn!("{}", failure.message);
    }
    directories.clear(id);
}

/// Kills the processes of a container whose shim was killed, announces the end, and returns the new state. Runs on a
/// thread.
pub fn clean_up(
    shared: &Shared,
    directories: &Directories,
    definition: &Definition,
    mut state: State,
    was_starting: bool,
) -> State {
    // The state file is newer than the state that the engine last received.
    match directories.state(&definition.id) {
        Some(written) => state = written,
        // The shim has removed the container meanwhile, and has announced the removal.
        None if !directories.dir(&definition.id).exists() => {
            return State { phase: Phase::Exited, pid: 0, is_announced: true, ..state };
        }
        None => {}
    }
    // The shim may have been killed after it had saved its `die` event and before it had recorded that in the state
    // file.
    let replayed =
        directories.replay().replay(&definition.id, &shared.config.fifo, shared.announcer.sender());
    state.is_announced |= replayed.iter().any(|action| action == "die");
    let boot = boot_id::read().unwrap_or_default();
    let same_boot = state.boot == boot;
    let problem = start::delete_by_force(shared, directories, definition).err();
    directories.remove_run(&definition.id);
    let was_up = state.phase.is_alive() || state.phase == Phase::Restarting;
    if was_up {
        let (code, why) = match same_boot {
            true => (KILLED, "its shim was killed"),
            false => (UNKNOWN, "the host restarted"),
        };
        // If the container waited for its restart, its shim has already announced its end.
        if state.phase.is_alive() {
            if is_start_missing(shared, definition) {
                shared.announcer.container("start", &definition.identity(), state.pid, &[]);
            }
            (state.exit_code, state.finished, state.is_announced) = (code, now(), false);
        }
        state.error = why.to_owned();
    }
    if !was_up && state.error.is_empty() && (state.started == 0 || was_starting) {
        state.error = "its shim was killed while it was being started".to_owned();
        state.exit_code = i32::from(start::CANNOT_START);
    }
    state.phase = if state.started == 0 { Phase::Created } else { Phase::Exited };
    (state.pid, state.shim, state.boot) = (0, 0, boot);
    if let Some(problem) = problem {
        state.phase = Phase::Dead;
        state.error = format!("{}; {problem}", state.error);
    }
    if !state.error.is_empty() {
        log::warn!("container {}: {}", definition.name, state.error);
    }
    if state.started != 0 && !state.is_announced {
        // If the container had ended, its shim may have announced the end just before it was killed.
        if was_up || !event_history::is_last(&shared.config.fifo, &definition.id, &["start", "die"], "die") {
            announce(shared, definition, &state);
        }
        state.is_announced = true;
    }
    if let Err(error) = directories.set_state(&definition.id, &state) {
        log::error!("{}", chain(&error));
    }
    state
}

/// Whether the `start` event is missing: the state file says that the container runs, but its newest event in monitord
/// is `create` or `die`. The shim was killed after it had written the state and before it had sent the event.
fn is_start_missing(shared: &Shared, definition: &Definition) -> bool {
    let actions = ["create", "start", "die"];
    let is_last = |wanted| event_history::is_last(&shared.config.fifo, &definition.id, &actions, wanted);
    is_last("die") || is_last("create")
}

fn announce(shared: &Shared, definition: &Definition, state: &State) {
    let ran = u64::try_from(state.finished.saturating_sub(state.started)).unwrap_or(0);
    let (code, seconds) = (state.exit_code.to_string(), Duration::from_nanos(ran).as_secs().to_string());
    let facts = [("exitCode", code.as_str()), ("execDuration", &seconds), ("reason", &state.error)];
    shared.announcer.container("die", &definition.identity(), 0, &facts);
}
