//! Replication in the event loop: requests about executions and policies, and their triggers.
//!
//! Methods of [`Server`]. An execution is a job with a thread of its own; this module starts it, stops it, and makes a
//! policy's further executions wait. It never reads a journal: threads do.

use super::client::Client;
use super::event_loop::{STACK, Server};
use super::executions::{Running, Waiting};
use crate::error;
use crate::outbox::Message;
use crate::replication::triggers::{self, ImageEvent};
use crate::tasks::{self, Begin};
use sampan_ipc::engine::{Answer, Code, Done, Failure};
use sampan_ipc::paths::Paths;
use sampan_ipc::replication::{Execution, ExecutionRequest, Policy as PolicyInfo, Replicate, State, Trigger};
use sampan_ipc::report;
use sampan_job::table::JobEntry;
use sampan_replication::command::Wanted;
use sampan_replication::control::Control;
use sampan_replication::journal::Journal;
use sampan_replication::policy::Policy;
use sampan_replication::policy::file::Overlap;
use sampan_replication::record::Order;
use std::sync::Arc;

impl Server {
    /// Takes up the executions that an earlier engine has left.
    pub fn recover_replications(&mut self, unfinished: Vec<Arc<Journal>>) {
        for journal in unfinished {
            self.admit(journal, false);
        }
        self.watch_events();
    }

    pub(super) fn on_replicate(&mut self, client: &mut Client, asked: Replicate) -> Result<(), Failure> {
        let order = Order {
            source: asked.source,
            destination: asked.destination,
            options: asked.options,
            credentials: asked.credentials,
            ..Order::default()
        };
        Wanted::of(&order).map_err(|error| error::usage(&error))?;
        let id = self.reserve_job_id();
        self.run_execution(id, &order.clone(), Begin::Order(Box::new(order)))?;
        self.follow(client, id, asked.detach);
        Ok(())
    }

    pub(super) fn on_run_policy(
        &mut self,
        client: &mut Client,
        name: &str,
        dry_run: bool,
        detach: bool,
    ) -> Result<(), Failure> {
        let Some(policy) = self.replications.policies.get(name) else {
            let message = format!("there is no replication policy {name}");
            return Err(error::new(Code::NotFound, message, "'sampan replication policies' lists them"));
        };
        let mut order = triggers::order(policy, Trigger::Manual, Vec::new());
        order.options.dry_run |= dry_run;
        let id = self.trigger(order, None)?;
        self.follow(client, id, detach);
        Ok(())
    }

    /// Whether an execution has a job and is not in a journal yet: a thread is writing it there.
    pub(super) fn is_beginning(&self, id: u64) -> bool {
        let runs = |entry: &JobEntry| entry.kind == "replicate" && entry.outcome.is_none();
        self.jobs.get(id).is_some_and(runs) && self.shared.replication.journals.get(id).is_none()
    }

    /// Describes an execution that is not in a journal yet.
    pub(super) fn show_beginning(&self, client: &mut Client, id: u64) {
        let execution =
            Execution { id, state: State::Pending, started: sampan_ipc::time::now(), ..Execution::default() };
        client.send(&Answer::Execution(Box::new(execution)));
        client.send(&Answer::Done(Done::default()));
    }

    pub(super) fn on_execution(
        &mut self,
        client: &mut Client,
        id: u64,
        asked: &ExecutionRequest,
    ) -> Result<(), Failure> {
        match asked {
            ExecutionRequest::Show => Ok(()),
            ExecutionRequest::Stop => self.stop_execution(client, id, State::Stopped),
            ExecutionRequest::Cancel => self.stop_execution(client, id, State::Canceled),
            ExecutionRequest::Resume | ExecutionRequest::Retry => {
                let only_failed = *asked == ExecutionRequest::Retry;
                let new = self.reserve_job_id();
                let order = Order { source: format!("execution {id}"), ..Order::default() };
                self.run_execution(new, &order, Begin::Again { id, only_failed })?;
                self.follow(client, new, true);
                Ok(())
            }
        }
    }

    /// Stops a running or waiting execution; returns whether there was one. Also called for `sampan cancel`.
    pub(super) fn stop_replication(&mut self, id: u64, state: State) -> bool {
        if let Some(running) = self.replications.running.get(&id) {
            running.control.stop(state);
            return true;
        }
        let Some(at) = self.replications.waiting.iter().position(|waiting| waiting.id == id) else {
            return false;
        };
        let Some(waiting) = self.replications.waiting.remove(at) else { return false };
        // Its thread ends it at once, by its journal.
        let control = Arc::<Control>::default();
        control.stop(state);
        let order = waiting.journal.read(|model| model.order.clone());
        if let Err(failure) = self.run_controlled(id, &order, Begin::Recovered(waiting.journal), control) {
            log::error!("execution {id} cannot be stopped: {}", failure.message);
        }
        true
    }

    fn stop_execution(&mut self, client: &mut Client, id: u64, state: State) -> Result<(), Failure> {
        if !self.stop_replication(id, state) {
            let message = format!("execution {id} does not run");
            return Err(error::new(Code::NotFound, message, "'sampan replication ls' lists executions"));
        }
        log::info!("execution {id}: {state} by client {}", client.description());
        let name = self.jobs.get(id).map(|entry| entry.subject.clone()).unwrap_or_default();
        self.shared.announcer.job("stop", id, "replicate", &name, &[("state", state.word())]);
        client.send(&Answer::Done(Done::default()));
        Ok(())
    }

    pub(super) fn send_policies(&mut self, client: &mut Client) -> Result<(), Failure> {
        let replications = &self.replications;
        let describe = |policy: &Policy| {
            let (last, last_state) = replications.last.get(&policy.name).copied().unwrap_or_default();
            PolicyInfo {
                name: policy.name.clone(),
                file: policy.path.display().to_string(),
                source: policy.source.to_string(),
                destination: policy.destination.to_string(),
                trigger: policy.trigger.to_string(),
                enabled: policy.enabled,
                next: replications.policies.next_of(policy).unwrap_or_default(),
                last,
                last_state,
                error: String::new(),
            }
        };
        let broken = replications.policies.errors().iter().map(|error| PolicyInfo {
            name: error.path().file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            file: error.path().display().to_string(),
            error: report::chain(error),
            ..PolicyInfo::default()
        });
        let all = replications.policies.all().iter().map(describe).chain(broken);
        client.send(&Answer::Policies(all.collect()));
        client.send(&Answer::Done(Done::default()));
        Ok(())
    }

    /// Reads the policies again.
    pub(super) fn reload_policies(&mut self) {
        self.replications.policies.reload(sampan_ipc::time::now());
        log::info!("read {} replication policies", self.replications.policies.all().len());
        self.watch_events();
    }

    /// Starts the policies whose time has come.
    pub(super) fn run_due_policies(&mut self) {
        for order in self.replications.policies.due(sampan_ipc::time::now()) {
            self.trigger_unwatched(order, None);
        }
    }

    /// Starts the policies that an event of an image starts. `seen` is dropped once they are in their journals.
    pub(super) fn on_image_event(&mut self, image: &ImageEvent, seen: &std::sync::mpsc::Sender<()>) {
        for order in self.replications.policies.started_by(image) {
            self.trigger_unwatched(order, Some(seen.clone()));
        }
    }

    fn watch_events(&mut self) {
        let replications = &mut self.replications;
        if replications.watches_events || !replications.policies.wants_events() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let cursor = self.shared.config.replication.join("events.cursor");
        let socket = Paths::from_env().events_socket();
        replications.watches_events = triggers::watch_images(&socket, &cursor, move |image| {
            let (seen, wait) = std::sync::mpsc::channel();
            shared.outbox.send(Message::ImageEvent { image, seen });
            // Ends when every order has dropped its sender.
            while wait.recv().is_ok() {}
        });
    }

    /// Writes the order of a policy into a journal, on a thread; [`Server::on_begun`] follows. Returns the number of the
    /// execution.
    fn trigger(&mut self, order: Order, seen: Option<std::sync::mpsc::Sender<()>>) -> Result<u64, Failure> {
        let id = self.reserve_job_id();
        self.add_job(id, "replicate", subject(&order), None)?;
        self.jobs.detach(id);
        let policy = self.replications.policies.get(&order.policy);
        let skips = policy.is_some_and(|policy| policy.overlap == Overlap::Skip)
            && !self.replications.has_room(&order.policy);
        if !skips {
            self.replications.beginning.push(order.policy.clone());
        }
        let (policy, name) = (order.policy.clone(), order.policy.clone());
        let shared = Arc::clone(&self.shared);
        let begin = move || {
            let begun = tasks::begin_execution(&shared, id, order, skips);
            drop(seen);
            shared.outbox.send(match begun {
                Ok(Some(journal)) => Message::ReplicationBegun(journal),
                Ok(None) => Message::Ended { job: id, outcome: Ok(Done::default()) },
                Err(failure) => Message::ReplicationFailed { job: id, policy: name, failure },
            });
        };
        if let Err(error) = sampan_os::thread::spawn("begin", STACK, begin) {
            let message = format!("cannot start a thread for the execution: {error}");
            let failure = error::new(Code::Failed, message, "");
            self.jobs.end(id, Err(failure.clone()));
            self.replications.forget_beginning(&policy);
            return Err(failure);
        }
        Ok(id)
    }

    /// Starts a policy that nobody waits for; logs why it cannot run.
    fn trigger_unwatched(&mut self, order: Order, seen: Option<std::sync::mpsc::Sender<()>>) {
        let policy = order.policy.clone();
        if let Err(failure) = self.trigger(order, seen) {
            log::error!("replication policy {policy} cannot run: {}", failure.message);
        }
    }

    /// Ends an execution whose journal cannot be written.
    pub(super) fn on_begin_failed(&mut self, job: u64, policy: &str, failure: Failure) {
        self.replications.forget_beginning(policy);
        self.jobs.end(job, Err(failure));
    }

    pub(super) fn on_begun(&mut self, journal: Arc<Journal>) {
        let policy = journal.read(|model| model.order.policy.clone());
        self.replications.forget_beginning(&policy);
        self.admit(journal, true);
    }

    /// Runs an execution from its journal, or makes it wait for its turn.
    fn admit(&mut self, journal: Arc<Journal>, is_new: bool) {
        let (id, order) = (journal.id(), journal.read(|model| model.order.clone()));
        let has_room = self.replications.has_room(&order.policy);
        if !has_room {
            let policy = order.policy.clone();
            log::info!("execution {id} waits, because policy {policy} is busy");
            if self.jobs.get(id).is_none()
                && let Err(failure) = self.add_job(id, "replicate", subject(&order), None)
            {
                log::warn!("execution {id} waits without a job: {}", failure.message);
            }
            self.jobs.detach(id);
            self.replications.waiting.push_back(Waiting { id, policy, journal });
            return;
        }
        let begin = if is_new { Begin::Begun(journal) } else { Begin::Recovered(journal) };
        if let Err(failure) = self.run_execution(id, &order, begin) {
            log::error!("execution {id} cannot run: {}", failure.message);
        }
    }

    fn run_execution(&mut self, id: u64, order: &Order, begin: Begin) -> Result<(), Failure> {
        self.run_controlled(id, order, begin, Arc::default())
    }

    fn run_controlled(
        &mut self,
        id: u64,
        order: &Order,
        begin: Begin,
        control: Arc<Control>,
    ) -> Result<(), Failure> {
        let subject = subject(order);
        let (name, own) = (subject.clone(), Arc::clone(&control));
        self.start_with_id(id, "replicate", subject, None, move |task| task.replicate(begin, &name, &own))?;
        if let Some(entry) = self.jobs.get(id) {
            tasks::suspend_with(&entry.cancel, &control);
        }
        self.jobs.detach(id);
        let policy = order.policy.clone();
        if !policy.is_empty() {
            self.replications.last.insert(policy.clone(), (id, State::Running));
        }
        self.replications.running.insert(id, Running { policy, control });
        Ok(())
    }

    /// Takes note that a job has ended; starts the next execution of its policy, if it was one.
    pub(super) fn on_replication_end(&mut self, id: u64) {
        let Some(ended) = self.replications.running.remove(&id) else { return };
        if let Some(last) = self.replications.last.get_mut(&ended.policy).filter(|last| last.0 == id) {
            last.1 = match self.jobs.get(id).and_then(|entry| entry.outcome.as_ref()) {
                Some(Err(failure)) if failure.code == Code::Cancelled => State::Stopped,
                Some(Err(_)) => State::Error,
                _ => State::Finished,
            };
        }
        let next = self.replications.waiting.iter().position(|waiting| waiting.policy == ended.policy);
        if let Some(waiting) = next.and_then(|at| self.replications.waiting.remove(at)) {
            self.admit(waiting.journal, true);
        }
    }
}

/// The name of an execution in the list of jobs.
fn subject(order: &Order) -> String {
    match order.destination.is_empty() {
        true => order.source.clone(),
        false => format!("{} to {}", order.source, order.destination),
    }
}
