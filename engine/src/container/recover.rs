//! What the engine does when it starts, and when a shim was killed: containers are found again, and what is broken is
//! mended and told.
//!
//! A container whose shim lives is asked nothing: its state comes by itself. One whose file says that it runs, and
//! whose shim does not answer, has lost its shim, or the host has restarted (another boot id); what is left of it is
//! ended, and its end announced. Never guesses an exit code that is on the disk.

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

/// Longest that a shim may take from its start until it listens, or from the removal of its container to its end.
const SHIM_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Exit code of a process that was killed with SIGKILL.
const KILLED: i32 = 137;
/// Exit code of a container that was running when the host stopped, as docker has it.
const UNKNOWN: i32 = 255;

/// Reads all containers, connects to the shims that live, and begins to repair the rest.
pub fn run(containers: &mut ContainerManager) {
    let (ids, incomplete) = match containers.directories.list() {
        Ok(listed) => listed,
        Err(error) => return log::error!("containers cannot be found: {}", chain(&error)),
    };
    let all: Vec<String> = ids.iter().chain(&incomplete).cloned().collect();
    containers.directories.clear_runs(&all, |run| shim(&run.join(SOCKET)).is_ok());
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
                log::warn!("container {id} has no {}: what is there goes", super::definition::FILE);
                let directories = containers.directories.clone();
                containers.spawn(move |_| drop(directories.remove(&id, || ())));
                continue;
            }
            Err(error) => {
                log::error!("container {id} is left alone: {}", chain(&error));
                continue;
            }
        };
        let state = containers.directories.state(&id).unwrap_or_else(|| {
            log::warn!("container {}: its state cannot be read, it counts as killed", definition.name);
            State { phase: Phase::Running, started: definition.created, ..State::default() }
        });
        add(containers, definition, state);
    }
}

/// A connection to the shim that listens at `socket`.
fn shim(socket: &Path) -> std::io::Result<UnixStream> {
    trust::connect(socket, Server::Engine)
}

fn add(containers: &mut ContainerManager, definition: Definition, state: State) {
    let (id, name) = (definition.id.clone(), definition.name.clone());
    if let Some(other) = containers.names.insert(name.clone(), id.clone()) {
        log::error!("containers {id} and {other} are both called {name}");
    }
    let pin = containers.shared.store.pin(definition.needs());
    containers.entries.insert(id.clone(), Entry::new(definition, state, Some(pin)));
    let run = containers.directories.run(&id);
    match shim(&run.join(SOCKET)) {
        Ok(stream) => containers.reconnect(&id, stream),
        Err(_) if run.exists() => look_for(containers, &id),
        Err(_) if containers.directories.replay().has(&id) => {
            containers.set_busy(&id, Busy::CleaningUp);
            containers.replay_events(&id, Some(true));
        }
        Err(_) => containers.repair(&id),
    }
}

/// A start was begun: there may be a shim that does not listen yet.
fn look_for(containers: &mut ContainerManager, id: &str) {
    containers.set_busy(id, Busy::Connecting);
    let (dir, run, id) = (containers.directories.dir(id), containers.directories.run(id), id.to_owned());
    containers.spawn(move |shared| {
        let stream = await_shim(&dir, &run.join(SOCKET));
        shared.outbox.send(Message::Container(Outcome::ShimSearched { id, stream }));
    });
}

/// The way to the shim of the container in `dir`, as soon as it listens; `None` if there is no such process.
fn await_shim(dir: &Path, socket: &Path) -> Option<UnixStream> {
    let deadline = Instant::now() + SHIM_PATIENCE;
    loop {
        // In this order: one that has just ended is no reason to look again.
        let lives = is_shim_running(dir) && Instant::now() < deadline;
        match shim(socket) {
            Ok(stream) => return Some(stream),
            Err(_) if lives => std::thread::sleep(LOOK_AGAIN),
            Err(_) => return None,
        }
    }
}

/// True if there is a process that was started as the shim of the container in `dir`.
fn is_shim_running(dir: &Path) -> bool {
    let is_shim = |entry: std::fs::DirEntry| {
        let words = std::fs::read(entry.path().join("cmdline")).ok()?;
        let mut words = words.split(|byte| *byte == 0);
        let program = Path::new(OsStr::from_bytes(words.next()?)).file_name()?;
        (program == "sampan-shim" && words.next()? == dir.as_os_str().as_bytes()).then_some(())
    };
    std::fs::read_dir("/proc").into_iter().flatten().flatten().any(|entry| is_shim(entry).is_some())
}

/// Ends what was half made, or half gone. On a thread.
fn remove_incomplete(shared: &Shared, directories: &Directories, id: &str) {
    // A shim that lives does it itself.
    let deadline = Instant::now() + SHIM_PATIENCE;
    while is_shim_running(&directories.dir(id)) && Instant::now() < deadline {
        std::thread::sleep(LOOK_AGAIN);
    }
    log::info!("container {id} was half made, or half removed: it goes");
    if let Some(definition) = directories.removed_definition(id)
        && !event_history::is_last(&shared.config.fifo, id, &["destroy"], "destroy")
        && let Err(failure) = super::remove::remove(shared, directories, &definition)
    {
        log::warn!("{}", failure.message);
    }
    directories.clear(id);
}

/// Ends what is left of a container whose shim is gone, announces its end, and gives where it stands then. On a
/// thread.
pub fn clean_up(
    shared: &Shared,
    directories: &Directories,
    definition: &Definition,
    mut state: State,
    was_starting: bool,
) -> State {
    // The file is newer than what the engine last heard.
    match directories.state(&definition.id) {
        Some(written) => state = written,
        // Its shim has removed it in the meantime, and said so.
        None if !directories.dir(&definition.id).exists() => {
            return State { phase: Phase::Exited, pid: 0, is_announced: true, ..state };
        }
        None => {}
    }
    // A shim may have been killed between what it kept and the note that all is said.
    let kept = directories.replay().replay(&definition.id, &shared.config.fifo, shared.announcer.sender());
    state.is_announced |= kept.iter().any(|action| action == "die");
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
        // A container between two runs has ended properly.
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
        // One that had ended had said so, if it came so far.
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

/// True if the monitor knows that the last thing said of a running container is not its start: its shim was killed
/// between the state and the event.
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
