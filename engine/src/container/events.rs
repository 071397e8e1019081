//! Handles the reports of shims and threads about containers.
//!
//! Methods of [`ContainerManager`], which the event loop calls. Each method takes one report, changes the container's
//! entry, answers the clients that waited for the report, and runs requests that waited for the container. Never
//! blocks.

use super::definition::Definition;
use super::entry::{Busy, Entry, PendingRequest, Queued, Wait};
use super::error::{no_container, old_shim};
use super::manager::ContainerManager;
use super::outcome::{Outcome, ShimCommand, StartOptions, StartedShim};
use super::start::CANNOT_START;
use super::{event_history, recover, remove, state};
use crate::error;
use crate::outbox::Message;
use sampan_ipc::container::{Condition, Phase};
use sampan_ipc::engine::{Answer, Code, Done, Failure, Request};
use sampan_ipc::shim::{ShimMessage, State};
use sampan_store::Pin;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Exit status of a command that cannot be run. podman-run(1), "Exit Status".
const CANNOT_RUN: i32 = 126;
/// Exit status of a command that does not exist. podman-run(1), "Exit Status".
const NO_COMMAND: i32 = 127;

impl ContainerManager {
    /// Handles the result of a thread's work.
    pub fn on_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Created { id, client, result } => self.on_created(&id, client, result),
            Outcome::ShimStarted { id, result } => self.on_shim_started(&id, result),
            Outcome::Removed { id, client, result } => self.on_removed(&id, client, result),
            Outcome::CleanedUp { id, state } => self.on_cleaned_up(&id, *state),
            Outcome::ShimSearched { id, stream } => self.on_shim_searched(&id, stream),
            Outcome::Replayed { id, is_start: true } => self.on_replayed(&id),
            Outcome::Replayed { id, is_start: false } => self.on_shim_gone(&id),
            Outcome::Answers { client, answers } => self.reply(client, answers),
            Outcome::ExecPrepared { id, client, result, descriptors } => {
                let asked = result.and_then(|(exec, process)| {
                    self.request_shim(
                        &id,
                        Some(client),
                        sampan_ipc::shim::Action::Exec(*exec, process),
                        descriptors,
                    )
                });
                if let Err(failure) = asked {
                    self.refuse(client, failure);
                }
            }
        }
    }

    fn on_created(
        &mut self,
        id: &str,
        client: usize,
        result: Result<(Box<Definition>, Pin, Vec<String>), Failure>,
    ) {
        match result {
            Ok((definition, pin, warnings)) => {
                let name = definition.name.clone();
                if let Some(entry) = self.entries.get_mut(id) {
                    *entry = Entry {
                        queue: std::mem::take(&mut entry.queue),
                        ..Entry::new(*definition, state::announced(), Some(pin))
                    };
                }
                let container = Answer::Container { id: id.to_owned(), name, warnings };
                self.reply(client, vec![container, Answer::Done(Done::default())]);
                self.run_queued(id);
            }
            Err(failure) => {
                self.refuse(client, failure);
                self.drop_entry(id);
            }
        }
    }

    fn on_shim_started(&mut self, id: &str, result: Result<StartedShim, Failure>) {
        let connected = result.and_then(|started| {
            let polled = self.connect(id, started.stream);
            polled.and_then(|()| self.hand_over_shim(id, started.shim)).map_err(|error| {
                error::new(Code::Failed, format!("cannot reach the container's shim: {error}"), "")
            })
        });
        match connected {
            Ok(()) => {
                self.attach_waiting_clients(id);
                self.run_urgent_requests(id);
                self.receive(id);
            }
            Err(failure) => self.start_failed(id, failure),
        }
    }

    /// Sends the clients that have waited for the start to the shim, which attaches them when the process runs.
    fn attach_waiting_clients(&mut self, id: &str) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        for (streams, descriptors) in std::mem::take(&mut entry.waiting_clients) {
            let action = sampan_ipc::shim::Action::Attach(streams);
            if let Err(failure) = self.request_shim(id, None, action, descriptors) {
                log::warn!("container {}: a client is not attached: {}", self.name(id), failure.message);
            }
        }
    }

    /// Sends the shim's program to the client that waits for the start and that will become the shim.
    fn hand_over_shim(&mut self, id: &str, shim: Option<ShimCommand>) -> io::Result<()> {
        let Some(ShimCommand { words, stdin, setup }) = shim else { return Ok(()) };
        let Some(entry) = self.entries.get_mut(id) else { return Ok(()) };
        if let Some((_, connection)) = &mut entry.connection {
            connection.send_setup(setup)?;
        }
        if let Some(Busy::Starting(Some(client))) = entry.busy {
            entry.busy = Some(Busy::Starting(None));
            let program = words.first().cloned().unwrap_or_default();
            let done = Done { reference: id.to_owned(), ..Done::default() };
            // If the client has disconnected, dropping the reply closes the descriptor, which ends the start.
            self.reply_with(client, vec![Answer::Shim { program, words }, Answer::Done(done)], vec![stdin]);
        }
        Ok(())
    }

    /// Records that the start of the container has failed, and answers the client that waited for the start.
    pub(super) fn start_failed(&mut self, id: &str, failure: Failure) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let client = match entry.busy.take() {
            Some(Busy::Starting(client)) => client,
            other => {
                entry.busy = other;
                None
            }
        };
        entry.state.error.clone_from(&failure.message);
        entry.state.exit_code = i32::from(CANNOT_START);
        log::warn!("container {}: {}", entry.definition.name, failure.message);
        let state = entry.state.clone();
        if let Err(error) = self.directories.set_state(id, &state) {
            log::error!("{}", sampan_ipc::report::chain(&error));
        }
        if let Some(client) = client {
            self.refuse(client, failure);
        }
        self.answer_finished_waits(id);
        if self.entries.get(id).is_some_and(|entry| entry.definition.create.auto_remove) {
            self.set_busy(id, Busy::Removing);
            return self.remove_files(id, None);
        }
        self.run_queued(id);
    }

    /// Handles all messages that the container's shim has sent.
    pub(super) fn receive(&mut self, id: &str) {
        loop {
            let Some((_, connection)) = self.entries.get_mut(id).and_then(|entry| entry.connection.as_mut())
            else {
                return;
            };
            match connection.flush().and_then(|()| connection.receive()) {
                Ok(None) => return,
                Ok(Some(ShimMessage::State(state))) => self.on_state(id, state),
                Ok(Some(ShimMessage::Reply { number, result })) => self.on_reply(number, result),
                Ok(Some(ShimMessage::Pids(number, pids))) => {
                    if let Some(asked) = self.pending.get_mut(&number) {
                        asked.pids = Some(pids);
                    }
                }
                Ok(Some(ShimMessage::Starting)) => {
                    self.set_busy(id, Busy::Starting(None));
                    self.run_urgent_requests(id);
                }
                Ok(Some(ShimMessage::Removed)) => {
                    self.mark_removed(id);
                    if let Some(entry) = self.entries.get_mut(id) {
                        entry.busy = Some(Busy::Removing);
                    }
                }
                Err(error) => return self.on_hang_up(id, &error),
            }
        }
    }

    fn mark_removed(&mut self, id: &str) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.is_removed = true;
        }
    }

    fn on_reply(&mut self, number: u64, result: Result<String, (u8, String)>) {
        let Some(asked) = self.pending.remove(&number) else { return };
        if result.is_ok() && matches!(asked.fallback, Some(Request::RemoveContainer { .. })) {
            self.mark_removed(&asked.id);
        }
        let Some(client) = asked.client else { return };
        match result {
            Ok(reference) => {
                let pids = asked.pids.map(Answer::Processes);
                let done = Done { reference, ..Done::default() };
                self.reply(client, pids.into_iter().chain([Answer::Done(done)]).collect());
            }
            Err((status, message)) => self.refuse(client, failed_with(i32::from(status), message)),
        }
    }

    fn on_state(&mut self, id: &str, state: State) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let before = std::mem::replace(&mut entry.state, state);
        if entry.busy == Some(Busy::Connecting) {
            entry.busy = None;
        }
        let state = &entry.state;
        let has_started = state.started > before.started;
        let has_failed = !state.error.is_empty() && !has_started && !state.phase.is_alive();
        if let Some(Busy::Starting(client)) = entry.busy
            && (has_started || has_failed)
        {
            entry.busy = None;
            let answer = match has_started {
                true => Answer::Done(Done { reference: id.to_owned(), ..Done::default() }),
                false => Answer::Error(start_failure(&entry.definition.name, state)),
            };
            if let Some(client) = client {
                self.reply(client, vec![answer]);
            }
        }
        if let Some(entry) = self.entries.get_mut(id) {
            let is_over = matches!(entry.state.phase, Phase::Exited | Phase::Created | Phase::Dead);
            entry.busy = match entry.busy {
                None if is_over => Some(Busy::Ending),
                // The container restarts: a restart passes through the phase `Exited`, and the container does not end.
                Some(Busy::Ending) if !is_over => None,
                other => other,
            };
        }
        self.answer_finished_waits(id);
        self.run_queued(id);
    }

    /// Answers the clients whose wait for the container's end is over.
    pub(super) fn answer_finished_waits(&mut self, id: &str) {
        let Some(entry) = self.entries.get(id) else { return };
        let state = entry.state.clone();
        let has_ended = !state.phase.is_alive() && state.phase != Phase::Restarting;
        let is_over = |wait: &Wait| match wait.condition {
            Condition::NotRunning => has_ended,
            Condition::NextExit => state.finished > wait.finished || (has_ended && !state.error.is_empty()),
            Condition::Removed => false,
        };
        let (over, left) =
            std::mem::take(&mut self.waits).into_iter().partition(|wait| wait.id == id && is_over(wait));
        self.waits = left;
        self.answer_waits(over, &state);
    }

    pub(super) fn answer_waits(&mut self, waits: Vec<Wait>, state: &State) {
        for wait in waits {
            let exit = Answer::Exit { code: state.exit_code, error: state.error.clone() };
            self.reply(wait.client, vec![exit, Answer::Done(Done::default())]);
        }
    }

    /// Handles the end of the connection to a shim that has ended or was killed.
    fn on_hang_up(&mut self, id: &str, error: &io::Error) {
        self.disconnect(id);
        log::debug!("container {}: its shim has disconnected: {error}", self.name(id));
        let failure = self.not_running(id);
        let asked: Vec<u64> =
            self.pending.iter().filter(|(_, a)| a.id == id).map(|(number, _)| *number).collect();
        let mut is_shim_old = false;
        for number in asked {
            let Some(PendingRequest { client, fallback, is_recent, .. }) = self.pending.remove(&number)
            else {
                continue;
            };
            is_shim_old |= is_recent;
            let Some(client) = client else { continue };
            match (fallback, self.entries.get_mut(id)) {
                _ if is_recent => self.refuse(client, old_shim(&self.name(id))),
                (Some(request), Some(entry)) => {
                    entry.queue.push_front(Queued { client, request, descriptors: Vec::new() });
                }
                _ => self.refuse(client, failure.clone()),
            }
        }
        if is_shim_old && let Some(entry) = self.entries.get_mut(id) {
            // An old shim has closed only the connection. If the shim has really ended, the search finds none.
            entry.is_shim_old = true;
            return recover::search_shim(self, id);
        }
        if !self.directories.replay().has(id) {
            return self.on_shim_gone(id);
        }
        // The shim has left events in files, which must reach monitord before any later event of the container.
        // Therefore the container stays busy until these events are replayed.
        let is_free = |entry: &Entry| entry.busy.is_none() || entry.busy == Some(Busy::Connecting);
        if self.entries.get(id).is_some_and(is_free) {
            self.set_busy(id, Busy::Ending);
        }
        self.replay_events(id, Some(false));
    }

    /// Replays the events that the container's shim could not write. [`Outcome::Replayed`] reports the end with the
    /// value of `is_start`, unless `is_start` is `None`.
    pub(super) fn replay_events(&self, id: &str, is_start: Option<bool>) {
        let (replay, id) = (self.directories.replay().clone(), id.to_owned());
        self.spawn(move |shared| {
            replay.replay(&id, &shared.config.fifo, shared.announcer.sender());
            if let Some(is_start) = is_start {
                shared.outbox.send(Message::Container(Outcome::Replayed { id, is_start }));
            }
        });
    }

    /// Handles the end of the container's shim, after all its events were written or replayed.
    fn on_shim_gone(&mut self, id: &str) {
        let name = self.name(id);
        let Some(entry) = self.entries.get_mut(id) else { return };
        if entry.busy == Some(Busy::Removing) {
            if !self.directories.dir(id).exists() {
                return self.on_removed(id, None, Ok(0));
            }
            entry.is_removed = false;
            // The shim ended before it had removed the container. The client's request to remove it is first in the
            // queue.
            entry.busy = Some(Busy::Ending);
        }
        let has_ended = matches!(entry.state.phase, Phase::Exited | Phase::Created)
            && entry.state.is_announced
            || entry.state.started == 0 && !entry.state.error.is_empty()
            || entry.state.phase == Phase::Exited && !entry.state.error.is_empty();
        // If a start is still running, the state is that of an earlier run. If the state still has the shim's ID, the
        // shim was killed while the OCI runtime was deleting the container.
        let is_over = has_ended && entry.state.shim == 0 && !matches!(entry.busy, Some(Busy::Starting(_)));
        if is_over && !entry.definition.create.auto_remove {
            self.directories.remove_run(id);
            if matches!(entry.busy, Some(Busy::Ending | Busy::Connecting)) {
                entry.busy = None;
            }
            return self.run_queued(id);
        }
        if is_over {
            entry.busy = Some(Busy::Removing);
            return self.remove_files(id, None);
        }
        log::warn!("container {name}: its shim has died, what it left is cleaned up");
        self.clean_up(id);
    }

    fn on_cleaned_up(&mut self, id: &str, state: State) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        if let Some(Busy::Starting(Some(client))) = entry.busy {
            let failure = start_failure(&entry.definition.name, &state);
            self.refuse(client, failure);
        }
        let Some(entry) = self.entries.get_mut(id) else { return };
        entry.state = state;
        entry.busy = None;
        let was_up = entry.state.started != 0 || !entry.state.error.is_empty();
        let goes = entry.definition.create.auto_remove && was_up || !self.directories.dir(id).exists();
        let (policy, state) = (entry.definition.create.restart, &entry.state);
        let starts = !goes && policy.starts_again(state.exit_code, state.restarts, state.stopped_by_hand);
        self.answer_finished_waits(id);
        if goes {
            self.set_busy(id, Busy::Removing);
            return self.remove_files(id, None);
        }
        if starts {
            return self.begin(id, None, StartOptions { by_policy: true, ..StartOptions::default() });
        }
        self.run_queued(id);
    }

    pub(super) fn on_removed(&mut self, id: &str, client: Option<usize>, result: Result<u64, Failure>) {
        let freed = match result {
            Ok(freed) => freed,
            Err(failure) => {
                log::error!("{}", failure.message);
                if let Some(entry) = self.entries.get_mut(id) {
                    entry.state.phase = Phase::Dead;
                    entry.state.error.clone_from(&failure.message);
                    entry.busy = None;
                }
                let is_pruned = self.record_pruned(client, id, None);
                if let Some(client) = client.filter(|_| !is_pruned) {
                    self.refuse(client, failure);
                }
                return self.run_queued(id);
            }
        };
        let state = self.entries.get(id).map(|entry| entry.state.clone()).unwrap_or_default();
        let (over, left) = std::mem::take(&mut self.waits).into_iter().partition(|wait| wait.id == id);
        self.waits = left;
        self.answer_waits(over, &state);
        if let Some(client) = client
            && !self.record_pruned(Some(client), id, Some(freed))
        {
            let done = Done { removed: vec![id.to_owned()], freed, ..Done::default() };
            self.reply(client, vec![Answer::Done(done)]);
        }
        self.drop_entry(id);
    }

    /// Removes the container from the table, and answers the requests that waited for it.
    pub(super) fn drop_entry(&mut self, id: &str) {
        self.disconnect(id);
        let Some(entry) = self.entries.remove(id) else { return };
        if self.names.get(&entry.definition.name).is_some_and(|owner| owner == id) {
            self.names.remove(&entry.definition.name);
        }
        for queued in entry.queue {
            match queued.request {
                // A create waited for the container's name, a prune waited for its end. Both go on.
                Request::Create(_) | Request::PruneContainers { .. } => {
                    self.on_request(queued.client, queued.request, queued.descriptors)
                }
                // The container is removed, as this request demands.
                Request::RemoveContainer { .. } => {
                    let done = Done { removed: vec![id.to_owned()], ..Done::default() };
                    self.reply(queued.client, vec![Answer::Done(done)]);
                }
                _ => self.refuse(queued.client, no_container(&entry.definition.name)),
            }
        }
        let (over, left) = std::mem::take(&mut self.waits).into_iter().partition(|wait| wait.id == id);
        self.waits = left;
        self.answer_waits(over, &entry.state);
        if let Some(pin) = entry.pin {
            self.release(&entry.definition, pin);
        }
    }

    /// Releases the image of a removed container, unless another container needs the image.
    fn release(&self, definition: &Arc<Definition>, pin: Pin) {
        let digest = &definition.image.digest;
        if self.entries.values().any(|other| other.definition.image.digest == *digest) {
            return;
        }
        drop(pin);
        if !self.shared.store.has_pinned_garbage() {
            return;
        }
        let definition = Arc::clone(definition);
        self.spawn(move |shared| remove::release(shared, &definition));
    }

    /// Uses `stream` as the connection to a shim that has outlived its engine.
    pub(super) fn reconnect(&mut self, id: &str, stream: UnixStream) {
        let name = self.name(id);
        self.set_busy(id, Busy::Connecting);
        match self.connect(id, stream) {
            Ok(()) => log::info!("container {name}: reconnected to its shim"),
            Err(error) => log::error!("container {name}: cannot poll its shim: {error}"),
        }
    }

    /// Connects to the shim, or cleans up if the search has found no shim.
    pub(super) fn on_shim_searched(&mut self, id: &str, stream: Option<UnixStream>) {
        if let Some(stream) = stream {
            self.reconnect(id, stream);
            return self.receive(id);
        }
        self.set_busy(id, Busy::CleaningUp);
        match self.directories.replay().has(id) {
            true => self.replay_events(id, Some(true)),
            false => self.clean_up(id),
        }
    }

    /// Repairs a container when the engine starts, after the events that its shim left were replayed.
    pub(super) fn on_replayed(&mut self, id: &str) {
        self.directories.remove_run(id);
        // Read the state file again: the shim may have written the end of the run after the engine read the file.
        if let Some(state) = self.directories.state(id)
            && let Some(entry) = self.entries.get_mut(id)
        {
            entry.state = state;
            entry.busy = None;
        }
        self.repair(id);
        self.run_queued(id);
    }

    /// Repairs a container without a shim: announces events that may be missing, cleans up, and removes or starts it.
    pub(super) fn repair(&mut self, id: &str) {
        let Some(entry) = self.entries.get(id) else { return };
        let (state, definition) = (&entry.state, &entry.definition);
        if state.started == 0
            && !state.is_announced
            && state.phase == Phase::Created
            && state.error.is_empty()
        {
            return self.announce_late(id);
        }
        let was_up = state.phase.is_alive() || state.phase == Phase::Restarting;
        // If the state still has the shim's ID, the shim was killed before it had removed the files of the run.
        if was_up || state.shim != 0 || (state.started != 0 && !state.is_announced) {
            self.clean_up(id);
        } else if definition.create.auto_remove && (state.started != 0 || !state.error.is_empty()) {
            self.set_busy(id, Busy::Removing);
            self.remove_files(id, None);
        } else if state.started != 0 && definition.create.restart.starts_with_engine(state.stopped_by_hand) {
            self.begin(id, None, StartOptions { by_policy: true, ..StartOptions::default() });
        }
    }

    /// Announces a container whose `create` event may be missing.
    pub(super) fn announce_late(&mut self, id: &str) {
        let Some(entry) = self.entries.get(id) else { return };
        let (definition, directories) = (Arc::clone(&entry.definition), self.directories.clone());
        self.set_busy(id, Busy::CleaningUp);
        self.spawn(move |shared| {
            log::info!(
                "container {}: its create event may be missing, it is sent if sampan-monitord has none",
                definition.name
            );
            match event_history::is_last(&shared.config.fifo, &definition.id, &["create"], "create") {
                true => state::record_announced(&directories, &definition),
                false => state::announce(shared, &directories, &definition),
            }
            let (id, state) = (definition.id.clone(), Box::new(state::announced()));
            shared.outbox.send(Message::Container(Outcome::CleanedUp { id, state }));
        });
    }

    /// Runs the requests that wait for the container, in order, until one makes the container busy.
    pub(super) fn run_queued(&mut self, id: &str) {
        while let Some(entry) = self.entries.get_mut(id)
            && entry.busy.is_none()
            && let Some(queued) = entry.queue.pop_front()
        {
            self.execute(id, queued);
        }
    }

    pub(super) fn set_busy(&mut self, id: &str, busy: Busy) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.busy = Some(busy);
        }
    }
}

/// Makes the failure of a start from the state that the shim has reported.
fn start_failure(name: &str, state: &State) -> Failure {
    failed_with(state.exit_code, format!("cannot start container {name:?}: {}", state.error))
}

/// Makes a failure whose code gives `run` and `exec` this exit status.
fn failed_with(status: i32, message: String) -> Failure {
    let code = match status {
        CANNOT_RUN => Code::CannotRun,
        NO_COMMAND => Code::NoCommand,
        _ => Code::Failed,
    };
    error::new(code, message, "")
}
