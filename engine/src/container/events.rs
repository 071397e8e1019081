//! What shims and threads tell the event loop about containers, and what follows from it.
//!
//! Methods of [`ContainerManager`]: each takes one piece of news, changes the entry, answers who waited for it, and goes on
//! with what waited for the container. Never blocks.

use super::definition::Definition;
use super::entry::{Busy, Entry, PendingRequest, Queued, Wait};
use super::error::{no_container, not_running};
use super::manager::ContainerManager;
use super::outcome::{Outcome, ShimCommand, StartOptions, StartedShim};
use super::{event_history, remove, state};
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
/// Exit status of a command that is not there.
const NO_COMMAND: i32 = 127;

impl ContainerManager {
    /// A thread is done.
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
                error::new(Code::Failed, format!("cannot poll the container's shim: {error}"), "")
            })
        });
        match connected {
            Ok(()) => {
                self.run_urgent_requests(id);
                self.receive(id);
            }
            Err(failure) => self.start_failed(id, failure),
        }
    }

    /// Lets the client that waits for the start become the shim.
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
            // Where the client has left, the descriptor goes, and with it the start.
            self.reply_with(client, vec![Answer::Shim { program, words }, Answer::Done(done)], vec![stdin]);
        }
        Ok(())
    }

    /// The start that is under way came to nothing.
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
        log::warn!("container {}: {}", entry.definition.name, failure.message);
        let state = entry.state.clone();
        if let Err(error) = self.directories.set_state(id, &state) {
            log::error!("{}", sampan_ipc::report::chain(&error));
        }
        if let Some(client) = client {
            self.refuse(client, failure);
        }
        self.run_queued(id);
    }

    /// Takes all that the container's shim says.
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
                // A restart goes through an end.
                Some(Busy::Ending) if !is_over => None,
                other => other,
            };
        }
        self.answer_finished_waits(id);
        self.run_queued(id);
    }

    /// Who waits for the container's end hears of it.
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

    /// The shim has gone: its work is done, or somebody killed it.
    fn on_hang_up(&mut self, id: &str, error: &io::Error) {
        self.disconnect(id);
        log::debug!("container {}: its shim has gone: {error}", self.name(id));
        let name = self.name(id);
        let asked: Vec<u64> =
            self.pending.iter().filter(|(_, a)| a.id == id).map(|(number, _)| *number).collect();
        for number in asked {
            let Some(PendingRequest { client: Some(client), fallback, .. }) = self.pending.remove(&number)
            else {
                continue;
            };
            match (fallback, self.entries.get_mut(id)) {
                (Some(request), Some(entry)) => {
                    entry.queue.push_front(Queued { client, request, descriptors: Vec::new() });
                }
                _ => self.refuse(client, not_running(&name)),
            }
        }
        if !self.directories.replay().has(id) {
            return self.on_shim_gone(id);
        }
        // What follows may be told, and that comes behind.
        let is_free = |entry: &Entry| entry.busy.is_none() || entry.busy == Some(Busy::Connecting);
        if self.entries.get(id).is_some_and(is_free) {
            self.set_busy(id, Busy::Ending);
        }
        self.replay_events(id, Some(false));
    }

    /// Tells what the container's shim has kept for the monitor; [`Outcome::Replayed`] follows, if it is to be `known`.
    pub(super) fn replay_events(&self, id: &str, known: Option<bool>) {
        let (replay, id) = (self.directories.replay().clone(), id.to_owned());
        self.spawn(move |shared| {
            replay.replay(&id, &shared.config.fifo, shared.announcer.sender());
            if let Some(is_start) = known {
                shared.outbox.send(Message::Container(Outcome::Replayed { id, is_start }));
            }
        });
    }

    /// All that the shim has left to say is said.
    fn on_shim_gone(&mut self, id: &str) {
        let name = self.name(id);
        let Some(entry) = self.entries.get_mut(id) else { return };
        if entry.busy == Some(Busy::Removing) {
            if !self.directories.dir(id).exists() {
                return self.on_removed(id, None, Ok(0));
            }
            entry.is_removed = false;
            // It has not come to that; who asked for it waits above all others.
            entry.busy = Some(Busy::Ending);
        }
        let has_ended = matches!(entry.state.phase, Phase::Exited | Phase::Created)
            && entry.state.is_announced
            || entry.state.started == 0 && !entry.state.error.is_empty()
            || entry.state.phase == Phase::Exited && !entry.state.error.is_empty();
        // What an earlier run has left says nothing about a start that has not come to its end. One that still has the
        // shim's id was killed while its runtime took the container away.
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
        log::warn!("container {name}: its shim has died");
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

    /// Forgets the container, and refuses what waits for it.
    pub(super) fn drop_entry(&mut self, id: &str) {
        self.disconnect(id);
        let Some(entry) = self.entries.remove(id) else { return };
        if self.names.get(&entry.definition.name).is_some_and(|owner| owner == id) {
            self.names.remove(&entry.definition.name);
        }
        for queued in entry.queue {
            match queued.request {
                // It waited for the name, or for what has ended.
                Request::Create(_) | Request::PruneContainers { .. } => {
                    self.on_request(queued.client, queued.request, queued.descriptors)
                }
                // It waited for that.
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

    /// A container needs its image no more.
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

    pub(super) fn reconnect(&mut self, id: &str, stream: UnixStream) {
        let name = self.name(id);
        self.set_busy(id, Busy::Connecting);
        match self.connect(id, stream) {
            Ok(()) => log::info!("container {name}: its shim is found again"),
            Err(error) => log::error!("container {name}: its shim cannot be polled: {error}"),
        }
    }

    /// A shim was looked for: it is there, or what it left is mended.
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

    /// What its shim had kept is told; what it left is mended.
    pub(super) fn on_replayed(&mut self, id: &str) {
        self.directories.remove_run(id);
        // What a shim that gave up has written down is of the run that ended.
        if let Some(state) = self.directories.state(id)
            && let Some(entry) = self.entries.get_mut(id)
        {
            entry.state = state;
            entry.busy = None;
        }
        self.repair(id);
        self.run_queued(id);
    }

    /// A container without a shim.
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
        // One that has the shim's id still was killed before all of the run was taken away.
        if was_up || state.shim != 0 || (state.started != 0 && !state.is_announced) {
            self.clean_up(id);
        } else if definition.create.auto_remove && (state.started != 0 || !state.error.is_empty()) {
            self.set_busy(id, Busy::Removing);
            self.remove_files(id, None);
        } else if state.started != 0 && definition.create.restart.starts_with_engine(state.stopped_by_hand) {
            self.begin(id, None, StartOptions { by_policy: true, ..StartOptions::default() });
        }
    }

    /// A container that was made, and nobody may have been told.
    pub(super) fn announce_late(&mut self, id: &str) {
        let Some(entry) = self.entries.get(id) else { return };
        let (definition, directories) = (Arc::clone(&entry.definition), self.directories.clone());
        self.set_busy(id, Busy::CleaningUp);
        self.spawn(move |shared| {
            log::info!("container {}: it was made, and perhaps nobody was told", definition.name);
            match event_history::is_last(&shared.config.fifo, &definition.id, &["create"], "create") {
                true => state::record_announced(&directories, &definition),
                false => state::announce(shared, &directories, &definition),
            }
            let (id, state) = (definition.id.clone(), Box::new(state::announced()));
            shared.outbox.send(Message::Container(Outcome::CleanedUp { id, state }));
        });
    }

    /// Does what waited for the container, until it is busy again.
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

/// How a start failed, as the shim has written it down.
fn start_failure(name: &str, state: &State) -> Failure {
    failed_with(state.exit_code, format!("cannot start container {name:?}: {}", state.error))
}

/// A failure with the exit status that it means for `run` and `exec`.
fn failed_with(status: i32, message: String) -> Failure {
    let code = match status {
        CANNOT_RUN => Code::CannotRun,
        NO_COMMAND => Code::NoCommand,
        _ => Code::Failed,
    };
    error::new(code, message, "")
}
