//! Handles the requests of clients about containers.
//!
//! Methods of [`ContainerManager`], which the event loop calls. Each method answers a request, passes the request to
//! the container's shim or to a thread, or queues it while the container is busy. The results arrive in
//! [`super::events`]. Never blocks.

use super::definition::{Definition, short};
use super::entry::{Busy, Entry, Pruning, Queued, WAITING_CLIENTS_MAX, Wait};
use super::error::old_shim;
use super::manager::ContainerManager;
use super::outcome::{Outcome, StartOptions};
use super::{context, create, details, inspect, list, log_driver, recover, remove, start};
use crate::error;
use crate::outbox::Message;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sampan_ipc::container::{Condition, Exec, Listing, Phase, Restart, Streams, Summary};
use sampan_ipc::engine::{Answer, Code, Done, Failure, Request, Start, StartUnit, Stop};
use sampan_ipc::shim::{Action, State};
use sampan_spec::host::Host;
use sampan_spec::{names, security, signals};
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Value of the timeout in [`Action::Stop`] that means the container's own timeout.
const OWN_TIMEOUT: i64 = -2;
/// Most containers in one frame.
const CONTAINERS_PER_FRAME: usize = 200;

impl ContainerManager {
    /// Handles one request. The caller gets the answers from [`ContainerManager::take_replies`].
    pub fn on_request(&mut self, client: usize, request: Request, descriptors: Vec<OwnedFd>) {
        let result = match request {
            Request::Create(create) => match self.name_being_freed(create.name.as_deref()) {
                // Wait: a container with this name is being removed, and the name will be free.
                Some(id) => {
                    let request = Request::Create(create);
                    self.enqueue(&id, Queued { client, request, descriptors });
                    Ok(())
                }
                None => self.on_create(client, *create),
            },
            Request::Containers(asked) => self.on_listing(client, &asked),
            Request::ContainerDetails(asked) => self.on_details_listing(client, &asked),
            Request::PruneContainers { filters } => self.on_prune(client, filters),
            other => self.on_one(client, other, descriptors),
        };
        if let Err(failure) = result {
            self.refuse(client, failure);
        }
    }

    /// Handles a request about one container; queues the request if the container is busy.
    fn on_one(&mut self, client: usize, request: Request, descriptors: Vec<OwnedFd>) -> Result<(), Failure> {
        let id = self.find(subject(&request))?;
        let queued = Queued { client, request, descriptors };
        let is_busy = self.entries.get(&id).is_some_and(|entry| entry.busy.is_some());
        let goes = needs_no_queue(&queued.request) || self.is_starting(&id) && may_end_start(&queued.request);
        match is_busy && !goes {
            true => self.enqueue(&id, queued),
            false => self.execute(&id, queued),
        }
        Ok(())
    }

    /// Whether a shim is starting the container, and accepts requests.
    fn is_starting(&self, id: &str) -> bool {
        let entry = self.entries.get(id);
        entry.is_some_and(|entry| matches!(entry.busy, Some(Busy::Starting(_))) && entry.connection.is_some())
    }

    /// Runs the queued requests that can end a start, since a start may hang.
    pub(super) fn run_urgent_requests(&mut self, id: &str) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let (ends, waits) =
            std::mem::take(&mut entry.queue).into_iter().partition(|queued| may_end_start(&queued.request));
        entry.queue = waits;
        let ends: VecDeque<Queued> = ends;
        for queued in ends {
            self.execute(id, queued);
        }
    }

    /// Executes a request about a container that is not busy.
    pub(super) fn execute(&mut self, id: &str, queued: Queued) {
        let Queued { client, request, descriptors } = queued;
        let result = match request {
            Request::Start(start) => self.on_start(id, client, &start, descriptors),
            Request::StartUnit(asked) => self.on_start_unit(id, client, asked),
            Request::Stop(stop) => self.on_stop(id, client, &stop, false),
            Request::Restart(stop) => self.on_stop(id, client, &stop, true),
            Request::Kill { signal, .. } => self.on_kill(id, client, &signal),
            Request::Pause { .. } => self.on_pause(id, client, true),
            Request::Unpause { .. } => self.on_pause(id, client, false),
            Request::Wait { condition, .. } => self.on_wait(id, client, condition),
            Request::AwaitExit { condition, .. } => {
                self.reply(client, vec![Answer::Waiting]);
                self.on_wait(id, client, condition)
            }
            Request::Resize { execution, rows, columns, .. } => {
                self.on_resize(id, client, Action::Resize { execution, rows, columns })
            }
            Request::RemoveContainer { force, .. } => self.on_remove(id, client, force),
            Request::InspectContainer { size, .. } => self.on_inspect(id, client, size),
            Request::Logs { .. } => self.on_logs(id, client),
            Request::Exec(exec) => self.on_exec(id, client, *exec, descriptors),
            Request::Attach { streams, .. } => self.on_attach(id, client, streams, descriptors),
            Request::AttachAtStart { streams, .. } => {
                self.on_attach_at_start(id, client, streams, descriptors)
            }
            Request::Rename { name, .. } => self.on_rename(id, client, &name),
            Request::Top { .. } => self.request_if_running(id, client, Action::Pids, Vec::new()),
            // These requests waited for a name or for a container's end. Both are checked again.
            request @ (Request::Create(_) | Request::PruneContainers { .. }) => {
                self.on_request(client, request, descriptors);
                Ok(())
            }
            _ => Err(error::new(Code::Usage, "the request is not about a container", "")),
        };
        if let Err(failure) = result {
            self.refuse(client, failure);
        }
    }

    fn on_create(&mut self, client: usize, create: sampan_ipc::container::Create) -> Result<(), Failure> {
        let id = names::id().map_err(error::explain)?;
        let is_used =
            |level: &str| self.entries.values().any(|e| e.definition.selinux.level() == Some(level));
        let labels = security::labels(&create, Host::get(), &self.shared.config.settings, is_used)
            .map_err(error::explain)?;
        let name = self.reserve(&id, create.name.as_deref())?;
        // The entry reserves the name and the SELinux labels until the container is created.
        let half = Definition {
            id: id.clone(),
            name: name.clone(),
            selinux: labels.clone(),
            ..Definition::default()
        };
        let mut entry = Entry::new(half, State::default(), None);
        entry.busy = Some(Busy::Creating);
        self.entries.insert(id.clone(), entry);
        let (directories, runtime) = (self.directories.clone(), create.runtime.clone());
        self.spawn_with(runtime.as_deref(), move |shared| {
            let result = create::create(shared, &directories, &id, (name, labels), create);
            shared.outbox.send(Message::Container(Outcome::Created { id, client, result }));
        });
        Ok(())
    }

    /// Returns the container that is being removed and has the name `wanted`.
    fn name_being_freed(&self, wanted: Option<&str>) -> Option<String> {
        let id = self.names.get(wanted?)?;
        let entry = self.entries.get(id)?;
        let goes = match entry.busy {
            Some(Busy::Removing) => true,
            Some(Busy::Ending | Busy::CleaningUp) => entry.definition.create.auto_remove,
            _ => entry.is_removed,
        };
        goes.then(|| id.clone())
    }

    /// Reserves a name for the container: the name `wanted`, or a generated name.
    fn reserve(&mut self, id: &str, wanted: Option<&str>) -> Result<String, Failure> {
        let name = match wanted {
            Some(name) => {
                let name = name.strip_prefix('/').unwrap_or(name);
                names::check(name).map_err(error::explain)?;
                if let Some(owner) = self.names.get(name) {
                    let message = format!("the name {name:?} belongs to container {}", short(owner));
                    let hint = "'sampan rm' removes that container, 'sampan rename' renames it";
                    return Err(error::new(Code::Conflict, message, hint));
                }
                name.to_owned()
            }
            None => names::generate(|name| self.names.contains_key(name)).map_err(error::explain)?,
        };
        self.names.insert(name.clone(), id.to_owned());
        Ok(name)
    }

    fn on_start(
        &mut self,
        id: &str,
        client: usize,
        asked: &Start,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let Some(entry) = self.entries.get(id) else { return Ok(()) };
        let attach = check_streams(asked.attach, descriptors)?;
        if entry.state.phase == Phase::Paused {
            return Err(paused(&entry.definition.name));
        }
        if entry.connection.is_some()
            && (entry.state.phase.is_alive() || entry.state.phase == Phase::Restarting)
        {
            return match attach {
                Some((streams, descriptors)) => {
                    self.request_shim(id, Some(client), Action::Attach(streams), descriptors)
                }
                None => {
                    let done = Done { reference: id.to_owned(), unchanged: true, ..Done::default() };
                    self.reply(client, vec![Answer::Done(done)]);
                    Ok(())
                }
            };
        }
        self.begin(id, Some(client), StartOptions { attach, size: asked.size, ..StartOptions::default() });
        Ok(())
    }

    /// Starts a container for a systemd unit, whose main process becomes the shim.
    fn on_start_unit(&mut self, id: &str, client: usize, asked: Box<StartUnit>) -> Result<(), Failure> {
        let Some(entry) = self.entries.get(id) else { return Ok(()) };
        let name = &entry.definition.name;
        if entry.connection.is_some() || entry.state.phase.is_alive() {
            let message = format!("container {name:?} is already running");
            let hint = "it was started by hand or by another unit: 'sampan stop' stops it";
            return Err(error::new(Code::Conflict, message, hint));
        }
        if entry.definition.create.restart != Restart::No {
            let message = format!(
                "container {name:?} has a restart policy of its own, which would compete with the unit's"
            );
            let hint = "create it without --restart; Restart= in the unit starts it again";
            return Err(error::new(Code::Conflict, message, hint));
        }
        self.begin(id, Some(client), StartOptions { unit: Some(asked), ..StartOptions::default() });
        Ok(())
    }

    /// Starts a container that has no shim.
    pub(super) fn begin(&mut self, id: &str, client: Option<usize>, mut options: StartOptions) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        // The process of a systemd unit gets its setup from the client, which passes on no descriptors:
        // `on_shim_started` attaches these clients.
        if options.unit.is_none() {
            options.clients = std::mem::take(&mut entry.waiting_clients);
        }
        entry.busy = Some(Busy::Starting(client));
        entry.is_shim_old = false;
        entry.state.error.clear();
        entry.state.stopped_by_hand = false;
        entry.state.restarts = if options.by_policy { entry.state.restarts + 1 } else { 0 };
        let (definition, state, directories) =
            (Arc::clone(&entry.definition), entry.state.clone(), self.directories.clone());
        let runtime = definition.create.runtime.clone();
        self.spawn_with(runtime.as_deref(), move |shared| {
            let id = definition.id.clone();
            let result = start::start(shared, &directories, &definition, state, options);
            shared.outbox.send(Message::Container(Outcome::ShimStarted { id, result }));
        });
    }

    fn on_stop(&mut self, id: &str, client: usize, asked: &Stop, again: bool) -> Result<(), Failure> {
        let Some(entry) = self.entries.get(id) else { return Ok(()) };
        let signal = match asked.signal.as_deref() {
            Some(signal) => signals::parse(signal).map_err(error::explain)?,
            None => 0,
        };
        let wait = match asked.timeout {
            Some(seconds) if seconds < 0 => -1,
            Some(seconds) => seconds.saturating_mul(1000),
            None => OWN_TIMEOUT,
        };
        let has_shim = entry.connection.is_some();
        match (has_shim, again) {
            (true, false) => self.request_shim(id, Some(client), Action::Stop(signal, wait), Vec::new()),
            (true, true) => self.request_shim(id, Some(client), Action::Restart(signal, wait), Vec::new()),
            (false, true) => {
                self.begin(id, Some(client), StartOptions { is_restart: true, ..StartOptions::default() });
                Ok(())
            }
            (false, false) => {
                let done = Done { reference: id.to_owned(), unchanged: true, ..Done::default() };
                self.reply(client, vec![Answer::Done(done)]);
                Ok(())
            }
        }
    }

    fn on_kill(&mut self, id: &str, client: usize, signal: &str) -> Result<(), Failure> {
        let signal = if signal.is_empty() { "KILL" } else { signal };
        let signal = signals::parse(signal).map_err(error::explain)?;
        if self.is_starting(id) {
            return self.request_shim(id, Some(client), Action::Kill(signal), Vec::new());
        }
        self.request_if_running(id, client, Action::Kill(signal), Vec::new())
    }

    fn on_pause(&mut self, id: &str, client: usize, pauses: bool) -> Result<(), Failure> {
        let Some(entry) = self.entries.get(id) else { return Ok(()) };
        let (name, phase) = (&entry.definition.name, entry.state.phase);
        match (pauses, phase) {
            (true, Phase::Paused) => {
                Err(error::new(Code::Conflict, format!("container {name} is already paused"), ""))
            }
            (false, Phase::Running) => {
                Err(error::new(Code::Conflict, format!("container {name} is not paused"), ""))
            }
            (true, _) => self.request_if_running(id, client, Action::Pause, Vec::new()),
            (false, _) => self.request_if_running(id, client, Action::Unpause, Vec::new()),
        }
    }

    fn request_if_running(
        &mut self,
        id: &str,
        client: usize,
        what: Action,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        match self.entries.get(id) {
            Some(entry) if entry.state.phase.is_alive() => {
                self.request_shim(id, Some(client), what, descriptors)
            }
            _ => Err(self.not_running(id)),
        }
    }

    fn on_resize(&mut self, id: &str, client: usize, action: Action) -> Result<(), Failure> {
        match self.entries.get(id).is_some_and(|entry| entry.is_shim_old) {
            true => Err(old_shim(&self.name(id))),
            false => self.request_if_running(id, client, action, Vec::new()),
        }
    }

    fn on_wait(&mut self, id: &str, client: usize, condition: Condition) -> Result<(), Failure> {
        let Some(entry) = self.entries.get(id) else { return Ok(()) };
        let finished = entry.state.finished;
        self.waits.push(Wait { id: id.to_owned(), client, condition, finished });
        if condition == Condition::NotRunning {
            self.answer_finished_waits(id);
        }
        Ok(())
    }

    fn on_remove(&mut self, id: &str, client: usize, force: bool) -> Result<(), Failure> {
        let Some(entry) = self.entries.get_mut(id) else { return Ok(()) };
        let is_up = entry.state.phase.is_alive() || entry.state.phase == Phase::Restarting;
        if is_up && !force {
            let message = format!("container {:?} is {}", entry.definition.name, entry.state.phase.word());
            return Err(error::new(Code::Conflict, message, "stop it first, or use --force"));
        }
        // If a start is running, it stays marked: its client still needs the answer.
        if !matches!(entry.busy, Some(Busy::Starting(_))) {
            entry.busy = Some(Busy::Removing);
        }
        if entry.connection.is_some() {
            return self.request_shim(id, Some(client), Action::Remove, Vec::new());
        }
        self.remove_files(id, Some(client));
        Ok(())
    }

    /// Removes a container that has no shim.
    pub(super) fn remove_files(&mut self, id: &str, client: Option<usize>) {
        let Some(entry) = self.entries.get(id) else { return };
        let (definition, directories) = (Arc::clone(&entry.definition), self.directories.clone());
        self.spawn(move |shared| {
            let id = definition.id.clone();
            let result = remove::remove(shared, &directories, &definition);
            shared.outbox.send(Message::Container(Outcome::Removed { id, client, result }));
        });
    }

    /// Cleans up after a shim that was killed.
    pub(super) fn clean_up(&mut self, id: &str) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let was_starting = matches!(entry.busy, Some(Busy::Starting(_)));
        if !was_starting {
            entry.busy = Some(Busy::CleaningUp);
        }
        let (definition, state, directories) =
            (Arc::clone(&entry.definition), entry.state.clone(), self.directories.clone());
        self.spawn_cleanup(move |shared| {
            let id = definition.id.clone();
            let state = Box::new(recover::clean_up(shared, &directories, &definition, state, was_starting));
            shared.outbox.send(Message::Container(Outcome::CleanedUp { id, state }));
        });
    }

    /// Returns the requested containers.
    fn selected(&self, asked: &Listing) -> Result<Vec<(Arc<Definition>, Summary)>, Failure> {
        let made = self.entries.values().filter(|e| e.busy != Some(Busy::Creating) && !e.is_removed);
        let mut all: Vec<_> =
            made.map(|entry| (Arc::clone(&entry.definition), list::summary(entry))).collect();
        list::select(&mut all, asked)?;
        Ok(all)
    }

    fn on_details_listing(&mut self, client: usize, asked: &Listing) -> Result<(), Failure> {
        let (all, directories, size) = (self.selected(asked)?, self.directories.clone(), asked.size);
        self.spawn(move |shared| {
            let details = details::containers(&shared.store, &directories, all, size);
            let answers = pages(&details, Answer::ContainerDetails);
            shared.outbox.send(Message::Container(Outcome::Answers { client, answers }));
        });
        Ok(())
    }

    fn on_listing(&mut self, client: usize, asked: &Listing) -> Result<(), Failure> {
        let all = self.selected(asked)?;
        if asked.size {
            let directories = self.directories.clone();
            self.spawn(move |shared| {
                let answers = pages(&list::with_sizes(all, &directories), Answer::Containers);
                shared.outbox.send(Message::Container(Outcome::Answers { client, answers }));
            });
        } else {
            let all: Vec<Summary> = all.into_iter().map(|(_, summary)| summary).collect();
            self.reply(client, pages(&all, Answer::Containers));
        }
        Ok(())
    }

    fn on_inspect(&mut self, id: &str, client: usize, size: bool) -> Result<(), Failure> {
        let Some(entry) = self.entries.get(id) else { return Ok(()) };
        let (definition, state, directories) =
            (Arc::clone(&entry.definition), entry.state.clone(), self.directories.clone());
        self.spawn(move |shared| {
            let json = inspect::json(shared, &definition, &state, &directories, size);
            let answers = vec![Answer::Json(json), Answer::Done(Done::default())];
            shared.outbox.send(Message::Container(Outcome::Answers { client, answers }));
        });
        Ok(())
    }

    fn on_logs(&mut self, id: &str, client: usize) -> Result<(), Failure> {
        let Some(entry) = self.entries.get(id) else { return Ok(()) };
        let is_open = entry.state.phase.is_alive() || entry.state.phase == Phase::Restarting;
        let (driver, files) = log_driver::files(&self.shared.config, &self.directories, &entry.definition);
        let files: Vec<OwnedFd> =
            files.iter().filter_map(|path| File::open(path).ok()).map(OwnedFd::from).collect();
        let count = u32::try_from(files.len()).unwrap_or(u32::MAX);
        let log = Answer::Log { driver, files: count, is_open };
        self.reply_with(client, vec![log, Answer::Done(Done::default())], files);
        Ok(())
    }

    fn on_exec(
        &mut self,
        id: &str,
        client: usize,
        exec: Exec,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let Some(entry) = self.entries.get(id) else { return Ok(()) };
        match entry.state.phase {
            Phase::Running => {}
            Phase::Paused => return Err(paused(&entry.definition.name)),
            _ => return Err(self.not_running(id)),
        }
        let asked = (!exec.detach).then_some(exec.streams);
        let descriptors = check_streams(asked, descriptors)?.map(|(_, d)| d).unwrap_or_default();
        let (definition, directories) = (Arc::clone(&entry.definition), self.directories.clone());
        let runtime = definition.create.runtime.clone();
        self.spawn_with(runtime.as_deref(), move |shared| {
            let id = definition.id.clone();
            let result = context::describe(shared, &directories, &definition, exec);
            shared.outbox.send(Message::Container(Outcome::ExecPrepared { id, client, result, descriptors }));
        });
        Ok(())
    }

    fn on_attach(
        &mut self,
        id: &str,
        client: usize,
        streams: Streams,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let descriptors = check_streams(Some(streams), descriptors)?.map(|(_, d)| d).unwrap_or_default();
        self.request_if_running(id, client, Action::Attach(streams), descriptors)
    }

    /// Attaches a client to a container that runs, or keeps its descriptors for the container's next start.
    fn on_attach_at_start(
        &mut self,
        id: &str,
        client: usize,
        streams: Streams,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let Some(entry) = self.entries.get_mut(id) else { return Ok(()) };
        let name = &entry.definition.name;
        match entry.state.phase {
            Phase::Running => return self.on_attach(id, client, streams, descriptors),
            Phase::Paused => return Err(paused(name)),
            Phase::Restarting => {
                let message = format!("container {name:?} is restarting");
                return Err(error::new(Code::Conflict, message, "attach to it when it runs"));
            }
            Phase::Removing | Phase::Dead => {
                let message = format!("container {name:?} is {}", entry.state.phase.word());
                return Err(error::new(Code::Conflict, message, ""));
            }
            Phase::Created | Phase::Exited => {}
        }
        if let Some(kept) = check_streams(Some(streams), descriptors)? {
            entry.waiting_clients.retain(|(_, descriptors)| descriptors.first().is_some_and(is_connected));
            if entry.waiting_clients.len() == WAITING_CLIENTS_MAX {
                let message =
                    format!("{WAITING_CLIENTS_MAX} clients wait for the start of container {name:?}");
                return Err(error::new(Code::Conflict, message, ""));
            }
            entry.waiting_clients.push(kept);
        }
        self.reply(client, vec![Answer::Done(Done { reference: id.to_owned(), ..Done::default() })]);
        Ok(())
    }

    fn on_rename(&mut self, id: &str, client: usize, name: &str) -> Result<(), Failure> {
        let name = name.strip_prefix('/').unwrap_or(name);
        let old = self.name(id);
        if old == name {
            let message = format!("container {name:?} already has that name");
            return Err(error::new(Code::Conflict, message, ""));
        }
        self.reserve(id, Some(name))?;
        let Some(entry) = self.entries.get_mut(id) else { return Ok(()) };
        let definition = Definition { name: name.to_owned(), ..Definition::clone(&entry.definition) };
        if let Err(error) = self.directories.redefine(&definition) {
            self.names.remove(name);
            return Err(error::new(Code::Failed, sampan_ipc::report::chain(&error), ""));
        }
        self.names.remove(&old);
        let identity = definition.identity();
        entry.definition = Arc::new(definition);
        let pid = entry.state.pid;
        self.shared.announcer.container("rename", &identity, pid, &[("oldName", &old)]);
        if entry.connection.is_some() {
            return self.request_shim(id, Some(client), Action::Rename(name.to_owned()), Vec::new());
        }
        self.reply(client, vec![Answer::Done(Done { reference: id.to_owned(), ..Done::default() })]);
        Ok(())
    }

    fn on_prune(&mut self, client: usize, filters: Vec<String>) -> Result<(), Failure> {
        let filter = list::PruneFilter::parse(&filters)?;
        let is_ending = |entry: &Entry| {
            entry.busy == Some(Busy::Ending)
                && matches!(entry.state.phase, Phase::Exited | Phase::Dead)
                && filter.matches(&entry.definition)
        };
        // A container that has exited counts as stopped, although its shim still works. The prune waits until that
        // shim has ended.
        let ending = self.entries.iter().find(|(_, entry)| is_ending(entry)).map(|(id, _)| id.clone());
        if let Some(id) = ending {
            let request = Request::PruneContainers { filters };
            self.enqueue(&id, Queued { client, request, descriptors: Vec::new() });
            return Ok(());
        }
        let goes = |entry: &Entry| {
            entry.busy.is_none()
                && entry.connection.is_none()
                && matches!(entry.state.phase, Phase::Created | Phase::Exited | Phase::Dead)
                && filter.matches(&entry.definition)
        };
        let ids: Vec<String> =
            self.entries.iter().filter(|(_, entry)| goes(entry)).map(|(id, _)| id.clone()).collect();
        self.prunings.push(Pruning { client, left: ids.len(), removed: Vec::new(), freed: 0 });
        for id in &ids {
            self.set_busy(id, Busy::Removing);
            self.remove_files(id, Some(client));
        }
        self.finish_prunings();
        Ok(())
    }

    /// Records the end of a removal. Returns whether the removal belonged to a prune.
    pub(super) fn record_pruned(&mut self, client: Option<usize>, id: &str, freed: Option<u64>) -> bool {
        let Some(pruning) = self.prunings.iter_mut().find(|pruning| Some(pruning.client) == client) else {
            return false;
        };
        pruning.left -= 1;
        if let Some(freed) = freed {
            pruning.removed.push(id.to_owned());
            pruning.freed += freed;
        }
        self.finish_prunings();
        true
    }

    fn finish_prunings(&mut self) {
        let (over, left) = std::mem::take(&mut self.prunings).into_iter().partition(|p| p.left == 0);
        self.prunings = left;
        let over: Vec<Pruning> = over;
        for Pruning { client, removed, freed, .. } in over {
            self.shared.announcer.pruned_containers(freed);
            self.reply(client, vec![Answer::Done(Done { removed, freed, ..Done::default() })]);
        }
    }
}

/// Returns the name or id of the container that a request is about.
fn subject(request: &Request) -> &str {
    match request {
        Request::Start(start) => &start.container,
        Request::StartUnit(asked) => &asked.container,
        Request::Stop(stop) | Request::Restart(stop) => &stop.container,
        Request::Exec(exec) => &exec.container,
        Request::Kill { container, .. }
        | Request::Pause { container }
        | Request::Unpause { container }
        | Request::Wait { container, .. }
        | Request::AwaitExit { container, .. }
        | Request::Resize { container, .. }
        | Request::RemoveContainer { container, .. }
        | Request::InspectContainer { container, .. }
        | Request::Logs { container }
        | Request::Attach { container, .. }
        | Request::AttachAtStart { container, .. }
        | Request::Rename { container, .. }
        | Request::Top { container, .. } => container,
        _ => "",
    }
}

/// Whether the request can be served while the container is busy.
fn needs_no_queue(request: &Request) -> bool {
    matches!(
        request,
        Request::Wait { .. }
            | Request::AwaitExit { .. }
            | Request::InspectContainer { .. }
            | Request::Logs { .. }
    )
}

/// Whether the request can end a start, so that it must not wait for a start that hangs.
fn may_end_start(request: &Request) -> bool {
    matches!(
        request,
        Request::Stop(_)
            | Request::Restart(_)
            | Request::Kill { .. }
            | Request::RemoveContainer { force: true, .. }
    )
}

/// Whether the other end of a client's control socket is open.
fn is_connected(control: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(control.as_fd(), PollFlags::empty())];
    let _ = poll(&mut polled, PollTimeout::ZERO);
    polled.iter().all(|control| control.revents().is_none_or(|events| !events.contains(PollFlags::POLLHUP)))
}

fn paused(name: &str) -> Failure {
    error::new(Code::Conflict, format!("container {name:?} is paused"), "'sampan unpause' resumes it")
}

/// Checks that the request carries one descriptor for each of its streams.
fn check_streams(
    streams: Option<Streams>,
    descriptors: Vec<OwnedFd>,
) -> Result<Option<(Streams, Vec<OwnedFd>)>, Failure> {
    let expected = streams.map_or(0, Streams::count);
    if descriptors.len() != expected {
        let message = format!("the request carries {} descriptors, expected {expected}", descriptors.len());
        return Err(error::new(Code::Usage, message, ""));
    }
    Ok(streams.map(|streams| (streams, descriptors)))
}

fn pages<T: Clone>(all: &[T], answer: impl Fn(Vec<T>) -> Answer) -> Vec<Answer> {
    let mut answers: Vec<Answer> =
        all.chunks(CONTAINERS_PER_FRAME).map(|page| answer(page.to_vec())).collect();
    if answers.is_empty() {
        answers.push(answer(Vec::new()));
    }
    answers.push(Answer::Done(Done::default()));
    answers
}
