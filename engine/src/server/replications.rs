//! Replication in the event loop: requests about executions and policies, and their triggers.
//!
//! Methods of [`Server`]. An execution is a job with a thread of its own; this module starts it, stops it, and makes a
//! policy's further executions wait. It never reads a journal: threads do.

use super::client::{Client, State as ClientState};
use super::event_loop::{STACK, Server};
use super::executions::{Running, Waiting};
use crate::error;
use crate::outbox::Message;
use crate::replication::triggers::{self, ImageEvent};
use crate::tasks::{self, Wish};
use sampan_ipc::engine::{Answer, Code, Done, Failure};
use sampan_ipc::paths::Paths;
use sampan_ipc::replication::{ExecutionRequest, Policy as PolicyInfo, Replicate, State, Trigger};
use sampan_ipc::report;
use sampan_replication::command::Wanted;
use sampan_replication::control::Control;
use sampan_replication::journal::Journal;
use sampan_replication::policy::Policy;
use sampan_replication::policy::file::Overlap;
use sampan_replication::record::Order;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

impl Server {
    /// Takes up the executions that an earlier engine has left.
    pub fn recover_replications(&mut self, unfinished: Vec<Arc<Journal>>) {
        for journal in unfinished {
            self.admit(journal, false);
        }
        self.watch_events();
    }

    pub(super) fn on_replicate(
        &mut self,
        token: usize,
        client: &mut Client,
        asked: Replicate,
    ) -> Result<(), Failure> {
        let order = Order {
            source: asked.source,
            destination: asked.destination,
            options: asked.options,
            credentials: asked.credentials,
            ..Order::default()
        };
        Wanted::of(&order).map_err(|error| error::usage(&error))?;
        client.state = ClientState::Waiting;
        self.begin(Wish::Order(Box::new(order)), String::new(), Some((token, asked.detach)), None)
    }

    pub(super) fn on_run_policy(
        &mut self,
        token: usize,
        client: &mut Client,
        name: &str,
        (dry_run, detach): (bool, bool),
    ) -> Result<(), Failure> {
        let Some(policy) = self.replications.policies.get(name) else {
            let message = format!("there is no replication policy {name}");
            return Err(error::new(Code::NotFound, message, "'sampan replication policies' lists them"));
        };
        let mut order = triggers::order(policy, Trigger::Manual, Vec::new());
        order.options.dry_run |= dry_run;
        client.state = ClientState::Waiting;
        self.begin(Wish::Order(Box::new(order)), name.to_owned(), Some((token, detach)), None)
    }

    pub(super) fn on_execution(
        &mut self,
        token: usize,
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
                client.state = ClientState::Waiting;
                self.begin(Wish::Again { id, only_failed }, String::new(), Some((token, true)), None)
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
        // A thread ends it at once, and records that.
        let control = Arc::<Control>::default();
        control.stop(state);
        if let Err(failure) = self.run_execution(waiting.journal, waiting.is_new, control) {
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
            self.trigger(order, None);
        }
    }

    /// Starts the policies that an event of an image starts. `seen` is dropped once they are in their journals.
    pub(super) fn on_image_event(&mut self, image: &ImageEvent, seen: &Sender<()>) {
        for order in self.replications.policies.started_by(image) {
            self.trigger(order, Some(seen.clone()));
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
            let (seen, wait) = mpsc::channel();
            shared.outbox.send(Message::ImageEvent { image, seen });
            // Ends when every order has dropped its sender.
            while wait.recv().is_ok() {}
        });
    }

    /// Has an execution written into a journal, on a thread; [`Server::on_begun`] follows, and answers the client. `seen`
    /// is dropped once the execution is in its journal.
    fn begin(
        &mut self,
        wish: Wish,
        policy: String,
        client: Option<(usize, bool)>,
        seen: Option<Sender<()>>,
    ) -> Result<(), Failure> {
        if self.stop {
            return Err(error::new(Code::Failed, "the engine is stopping", "try again when it is back"));
        }
        if self.replications.is_full() {
            let message = "too many executions wait for their turn";
            return Err(error::new(Code::Conflict, message, "'sampan replication ls' lists them"));
        }
        let id = self.reserve_job_id();
        let skips = self.replications.policies.get(&policy).is_some_and(|p| p.overlap == Overlap::Skip);
        let is_skipped = skips && !self.replications.has_room(&policy);
        if !is_skipped {
            self.replications.beginning.push(policy.clone());
        }
        let (shared, name) = (Arc::clone(&self.shared), policy.clone());
        let begin = move || {
            let begun = tasks::begin_execution(&shared, id, wish, is_skipped);
            drop(seen);
            shared.outbox.send(Message::ExecutionBegun { id, policy: name, begun, client });
        };
        sampan_os::thread::spawn("begin", STACK, begin).map(|_| ()).map_err(|error| {
            self.replications.forget_beginning(&policy);
            let message = format!("cannot start a thread for the execution: {error}");
            error::new(Code::Failed, message, "")
        })
    }

    /// Starts a policy that nobody waits for; logs why it cannot run.
    fn trigger(&mut self, order: Order, seen: Option<Sender<()>>) {
        let policy = order.policy.clone();
        if let Err(failure) = self.begin(Wish::Order(Box::new(order)), policy.clone(), None, seen) {
            log::error!("replication policy {policy} cannot run: {}", failure.message);
        }
    }

    /// Runs an execution that is in its journal now, and answers the client that has waited for that.
    pub(super) fn on_begun(
        &mut self,
        id: u64,
        policy: &str,
        begun: Result<Option<Arc<Journal>>, Failure>,
        client: Option<(usize, bool)>,
    ) {
        self.replications.forget_beginning(policy);
        let begun = begun.map(|journal| match journal {
            Some(journal) => self.admit(journal, true),
            None => {
                self.add_job(id, "replicate", policy.to_owned(), None);
                self.jobs.end(id, Ok(Done::default()));
            }
        });
        let Some((token, detach)) = client else {
            if let Err(failure) = begun {
                log::error!("replication policy {policy} cannot run: {}", failure.message);
            }
            return;
        };
        let Some(mut client) = self.clients.remove(&token) else { return };
        client.state = ClientState::Closing;
        match begun {
            Ok(()) => self.follow(&mut client, id, detach),
            Err(failure) => client.send(&Answer::Error(failure)),
        }
        self.clients.insert(token, client);
    }

    /// Makes a job of an execution, and runs it when its turn comes.
    fn admit(&mut self, journal: Arc<Journal>, is_new: bool) {
        let (id, order) = (journal.id(), journal.read(|model| model.order.clone()));
        self.add_job(id, "replicate", subject(&order), None);
        self.jobs.detach(id);
        self.replications.waiting.push_back(Waiting { id, policy: order.policy, journal, is_new });
        self.run_waiting();
    }

    /// Ends the jobs of executions that wait, when the engine ends: the next engine takes the executions up.
    pub(super) fn leave_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.replications.waiting) {
            let failure = error::new(Code::Cancelled, "the engine is stopping", tasks::RESUMES);
            self.jobs.end(waiting.id, Err(failure));
        }
    }

    /// Runs the executions whose turn has come.
    fn run_waiting(&mut self) {
        while let Some(waiting) = self.replications.take_next() {
            let (id, journal) = (waiting.id, Arc::clone(&waiting.journal));
            if let Err(failure) = self.run_execution(journal, waiting.is_new, Arc::default()) {
                log::error!("execution {id} waits, because it cannot run: {}", failure.message);
                self.replications.waiting.push_front(waiting);
                return;
            }
        }
    }

    fn run_execution(
        &mut self,
        journal: Arc<Journal>,
        is_new: bool,
        control: Arc<Control>,
    ) -> Result<(), Failure> {
        let (id, order) = (journal.id(), journal.read(|model| model.order.clone()));
        let (name, own) = (subject(&order), Arc::clone(&control));
        let cancel = self.start_thread(id, move |task| task.replicate(&journal, is_new, &name, &own))?;
        tasks::suspend_with(&cancel, &control);
        let policy = order.policy;
        if !policy.is_empty() {
            self.replications.last.insert(policy.clone(), (id, State::Running));
        }
        self.replications.running.insert(id, Running { policy, control });
        Ok(())
    }

    /// Takes note that a job has ended; runs the executions whose turn has come by that.
    pub(super) fn on_replication_end(&mut self, id: u64) {
        let Some(ended) = self.replications.running.remove(&id) else { return };
        if let Some(last) = self.replications.last.get_mut(&ended.policy).filter(|last| last.0 == id) {
            let outcome = self.jobs.get(id).and_then(|entry| entry.outcome.as_ref());
            let own = if outcome.is_some_and(Result::is_err) { State::Error } else { State::Finished };
            last.1 = ended.control.wanted().unwrap_or(own);
        }
        self.run_waiting();
    }
}

/// The name of an execution in the list of jobs.
fn subject(order: &Order) -> String {
    match order.destination.is_empty() {
        true => order.source.clone(),
        false => format!("{} to {}", order.source, order.destination),
    }
}
