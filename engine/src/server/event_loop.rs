//! The event loop: signals, clients of engine.sock, the job table, containers' shims.
//!
//! Run by `main`; owns all of these. Events only mark readiness; the work follows in a fixed order. Never blocks: long
//! work runs on threads ([`crate::tasks`]), which send a message when they are done. While a client follows a running
//! job, the loop wakes every 100 ms to send changed progress rows; otherwise it sleeps until an event.

use super::client::{Client, State};
use super::executions::Replications;
use crate::container::directory::Directories;
use crate::container::manager::{self, ContainerManager};
use crate::container::recover;
use crate::context::Shared;
use crate::error;
use crate::fifos::Fifos;
use crate::image::resolve;
use crate::job_ids::JobIds;
use crate::outbox::Message;
use crate::tasks;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use sampan_daemon::accept::Accept;
use sampan_daemon::listen::Listener;
use sampan_daemon::signals::{self, SIGHUP, SIGINT, SIGTERM, Signals};
use sampan_daemon::systemd::{self, NotifyState, Watchdog};
use sampan_ipc::engine::{self, Answer, Code, Done, Failure, Info, Request};
use sampan_ipc::replication::ExecutionRequest;
use sampan_job::cancel::Cancel;
use sampan_job::table::JobTable;
use sampan_os::memory;
use sampan_spec::runtime;
use sampan_store::images;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

const SIGNALS: Token = Token(0);
const LISTENER: Token = Token(1);
/// The token of the [`mio::Waker`] by which threads wake the loop.
pub const WAKER: Token = Token(2);
const FIFOS: Token = Token(3);
const FIRST_CLIENT: usize = 16;

/// How often progress rows are sent to clients that follow a running job.
const TICK: Duration = Duration::from_millis(100);
/// Most clients at a time; further connections are closed at once.
const CLIENTS_MAX: usize = 512;
/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Factor on `client_timeout` for clients that follow a job: a person may have stopped the terminal's output.
const WATCHER_TIMEOUT_FACTOR: u32 = 10;
/// Most threads that answer short requests; further requests wait in a queue.
const TASKS_MAX: usize = 4;
/// Stack size of a job's thread, in bytes.
pub(super) const STACK: usize = 1 << 20;
/// Most characters of a request in the log.
const OUTLINE_MAX: usize = 2000;
/// How long the loop must be idle before free memory returns to the kernel; requests in quick succession reuse it.
const TRIM_DELAY: Duration = Duration::from_secs(1);
/// How long to wait for jobs to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the event loop failed; the engine ends.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A system call of the loop failed.
    #[error("cannot {doing}")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// The cause.
        source: io::Error,
    },
}

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> ServerError {
    move |source| ServerError::Io { doing, source }
}

/// The event loop with all that it owns.
pub struct Server {
    poll: Poll,
    signals: Signals,
    listener: Listener,
    fifos: Fifos,
    inbox: Receiver<Message>,
    pub(super) shared: Arc<Shared>,
    pub(super) clients: HashMap<usize, Client>,
    next_client: usize,
    pub(super) jobs: JobTable,
    pub(super) job_ids: JobIds,
    containers: ContainerManager,
    pub(super) replications: Replications,
    tasks: usize,
    waiting_tasks: VecDeque<(usize, Request)>,
    /// Running logins, by client token.
    pub(super) logins: HashMap<usize, Arc<Cancel>>,
    accept: Accept,
    pub(super) stop: bool,
    started: Instant,
    next_tick: Instant,
    watchdog: Watchdog,
    /// When to return free memory to the kernel: once after the last event, so that an idle engine never wakes up for
    /// it.
    trim_at: Option<Instant>,
}

impl Server {
    /// Registers everything with `poll`, except the threads' waker, which is already registered as [`WAKER`].
    ///
    /// # Errors
    /// [`ServerError::Io`]: something cannot be registered; the engine must not start.
    pub fn new(
        poll: Poll,
        mut listener: Listener,
        fifos: Fifos,
        inbox: Receiver<Message>,
        shared: Arc<Shared>,
        directories: Directories,
        job_ids: JobIds,
    ) -> Result<Self, ServerError> {
        let signals = signals::register(poll.registry(), SIGNALS, &[SIGTERM, SIGINT, SIGHUP]);
        let signals = signals.map_err(failed("take signals"))?;
        poll.registry()
            .register(listener.source(), LISTENER, Interest::READABLE)
            .map_err(failed("poll the socket"))?;
        if let Some(changes) = fifos.changes() {
            poll.registry()
                .register(&mut SourceFd(&changes.as_raw_fd()), FIFOS, Interest::READABLE)
                .map_err(failed("poll for changes of the FIFOs"))?;
        }
        let now = Instant::now();
        let registry = poll.registry().try_clone().map_err(failed("poll shims"))?;
        let mut containers = ContainerManager::open(Arc::clone(&shared), directories, registry);
        recover::run(&mut containers);
        let replications = Replications::new(&shared.config);
        Ok(Server {
            poll,
            signals,
            listener,
            fifos,
            inbox,
            shared,
            clients: HashMap::new(),
            next_client: FIRST_CLIENT,
            jobs: JobTable::starting_at(job_ids.first()),
            job_ids,
            containers,
            replications,
            tasks: 0,
            waiting_tasks: VecDeque::new(),
            logins: HashMap::new(),
            accept: Accept::new(),
            stop: false,
            started: now,
            next_tick: now,
            watchdog: Watchdog::from_env(),
            trim_at: None,
        })
    }

    /// Serves until SIGTERM or SIGINT, then cancels all jobs and answers their clients.
    ///
    /// # Errors
    /// [`ServerError::Io`]: the loop cannot wait for events.
    pub fn run(mut self) -> Result<(), ServerError> {
        let mut events = Events::with_capacity(256);
        while !self.stop {
            self.run_once(&mut events)?;
        }
        systemd::notify(&[NotifyState::Stopping]);
        self.jobs.cancel_all();
        self.leave_waiting();
        let deadline = Instant::now() + STOP_TIMEOUT;
        while (self.jobs.running() > 0 || self.containers.is_working()) && Instant::now() < deadline {
            self.run_once(&mut events)?;
        }
        self.job_ids.release(self.jobs.next_id());
        Ok(())
    }

    fn run_once(&mut self, events: &mut Events) -> Result<(), ServerError> {
        match self.poll.poll(events, self.timeout()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other.map_err(failed("wait for events"))?,
        }
        if !events.is_empty() {
            self.trim_at = Some(Instant::now() + TRIM_DELAY);
        }
        for event in events.iter() {
            match event.token() {
                SIGNALS => self.take_signals(),
                LISTENER => self.accept.mark_ready(),
                WAKER => {}
                FIFOS => self.fifos.on_change(),
                Token(shim) if shim >= manager::FIRST_SHIM_TOKEN => self.containers.mark(shim, event),
                Token(client) => self.mark(client, event),
            }
        }
        self.run_due_policies();
        self.accept_clients();
        self.take_messages();
        self.serve_clients();
        self.watchdog.feed();
        self.trim_memory();
        Ok(())
    }

    fn take_signals(&mut self) {
        let signals: Vec<i32> = self.signals.pending().collect();
        self.stop |= signals.iter().any(|signal| *signal != SIGHUP);
        if signals.contains(&SIGHUP) {
            self.reload_policies();
        }
    }

    /// Returns free memory to the kernel after an idle moment. Work that still runs on threads ends with a message,
    /// which schedules this again.
    fn trim_memory(&mut self) {
        if self.trim_at.take_if(|at| *at <= Instant::now()).is_some() {
            memory::trim();
        }
    }

    /// Returns the time until the earliest deadline; `None` if there is none.
    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let watched = |c: &Client| match c.state {
            State::Watching { job, .. } => self.jobs.get(job).is_some_and(|j| j.outcome.is_none()),
            _ => false,
        };
        let mut deadline = self.watchdog.deadline();
        let mut consider = |at: Instant| deadline = Some(deadline.map_or(at, |d| d.min(at)));
        for client in self.clients.values() {
            self.reads_until(client).inspect(|until| consider(*until));
            match client.state {
                State::ReadingRequest(until) => consider(until),
                // A client with unread output gets no new rows.
                _ if watched(client) && client.is_drained() => consider(self.next_tick),
                _ => {}
            }
        }
        if self.stop {
            consider(now + TICK);
        }
        let policy_at = self.replications.next_at();
        self.trim_at.into_iter().chain(self.accept.next_attempt()).chain(policy_at).for_each(&mut consider);
        deadline.map(|at| at.saturating_duration_since(now))
    }

    /// When the client is disconnected unless it reads some of its output before.
    fn reads_until(&self, client: &Client) -> Option<Instant> {
        let patience = match client.state {
            State::Watching { .. } | State::Serving(_) => WATCHER_TIMEOUT_FACTOR,
            _ => 1,
        };
        client.unread_since().map(|since| since + self.shared.config.client_timeout * patience)
    }

    fn mark(&mut self, client: usize, event: &Event) {
        // An unknown token is a stale event of a closed connection.
        if let Some(client) = self.clients.get_mut(&client) {
            client.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            client.writable |= event.is_writable();
        }
    }

    fn accept_clients(&mut self) {
        while self.accept.is_ready(Instant::now()) {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    self.accept.record_success();
                    if self.clients.len() >= CLIENTS_MAX {
                        log::warn!("refusing a client: {CLIENTS_MAX} are connected, the maximum");
                        continue;
                    }
                    let token = self.next_client;
                    self.next_client += 1;
                    let mut client = Client::new(stream, Instant::now() + REQUEST_TIMEOUT);
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    match self.poll.registry().register(client.stream(), Token(token), interest) {
                        Ok(()) => drop(self.clients.insert(token, client)),
                        Err(error) => log::warn!("closing a new connection: cannot poll it: {error}"),
                    }
                }
                Err(error) => {
                    if self.accept.record_failure(&error, Instant::now()) {
                        log::warn!("cannot accept a client: {error}");
                    }
                }
            }
        }
    }

    fn take_messages(&mut self) {
        loop {
            match self.inbox.try_recv() {
                Ok(Message::Ended { job, outcome }) => {
                    self.jobs.end(job, outcome);
                    self.on_replication_end(job);
                }
                Ok(Message::Serving { job, address }) => {
                    let serving = |c: &&mut Client| matches!(c.state, State::Serving(id) if id == job);
                    if let Some(client) = self.clients.values_mut().find(serving) {
                        client.send(&Answer::Serving { address });
                    }
                }
                Ok(Message::ExecutionBegun { id, policy, begun, client }) => {
                    self.on_begun(id, &policy, begun, client);
                }
                Ok(Message::ImageEvent { image, seen }) => self.on_image_event(&image, &seen),
                Ok(Message::Container(outcome)) => self.containers.on_outcome(outcome),
                Ok(Message::Answers { client, answers }) => {
                    // A login has its own thread, which does not count as a task.
                    if self.logins.remove(&client).is_none() {
                        self.tasks -= 1;
                    }
                    if let Some(client) = self.clients.get_mut(&client) {
                        answers.iter().for_each(|answer| client.send(answer));
                        client.state = State::Closing;
                    }
                    self.start_waiting_tasks();
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    fn serve_clients(&mut self) {
        let now = Instant::now();
        let tick = now >= self.next_tick;
        if tick {
            self.next_tick = now + TICK;
        }
        let tokens: Vec<usize> = self.clients.keys().copied().collect();
        for token in tokens {
            self.serve(token, now, tick);
        }
        for reply in self.containers.take_replies() {
            if let Some(client) = self.clients.get_mut(&reply.client) {
                client.attach_descriptors(reply.descriptors);
                reply.answers.iter().for_each(|answer| client.send(answer));
                if matches!(reply.answers.last(), Some(Answer::Done(_) | Answer::Error(_))) {
                    client.state = State::Closing;
                }
                self.serve(reply.client, now, false);
            }
        }
    }

    fn serve(&mut self, token: usize, now: Instant, tick: bool) {
        let Some(mut client) = self.clients.remove(&token) else { return };
        match self.serve_client(token, &mut client, now, tick) {
            Ok(true) => drop(self.clients.insert(token, client)),
            Ok(false) => self.forget(token, &client),
            Err(error) => {
                log::debug!("client {} is gone: {error}", client.description());
                self.forget(token, &client);
            }
        }
    }

    /// Ends the work that only this client, which is gone, was waiting for.
    fn forget(&mut self, token: usize, client: &Client) {
        match client.state {
            // Otherwise a client that repeatedly sends a request and disconnects would make the queue grow.
            State::Waiting => {
                self.waiting_tasks.retain(|(waiting, _)| *waiting != token);
                self.logins.get(&token).inspect(|login| login.cancel());
                self.containers.forget(token);
            }
            // The client has ended, but those for whom it asked may ask again.
            State::Watching { job, is_kept: true, .. } if !client.has_released => {
                self.jobs.unwatch_and_keep(job);
            }
            State::Watching { job, .. } | State::Serving(job) => self.jobs.unwatch(job),
            _ => {}
        }
    }

    /// Reads, executes and writes for one client; returns false once it has received everything.
    fn serve_client(
        &mut self,
        token: usize,
        client: &mut Client,
        now: Instant,
        tick: bool,
    ) -> io::Result<bool> {
        let request = match client.read() {
            Err(error)
                if error.kind() == io::ErrorKind::Other
                    && matches!(client.state, State::ReadingRequest(_)) =>
            {
                let message = format!("cannot read the request: {error}");
                client.send(&Answer::Error(error::new(Code::Usage, message, "")));
                client.flush()?;
                return Err(error);
            }
            other => other?,
        };
        if let Some(body) = request {
            let descriptors = client.take_descriptors();
            self.on_request(token, client, &body, descriptors);
            // The client may have disconnected right after sending the request.
            client.read()?;
        }
        if matches!(client.state, State::ReadingRequest(until) if now >= until) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        client.flush()?;
        if client.is_drained() {
            self.send_progress(client, tick);
            client.flush()?;
        }
        if self.reads_until(client).is_some_and(|until| now >= until) {
            log::warn!("disconnecting client {}: it does not read its answer", client.description());
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(!(client.is_drained() && matches!(client.state, State::Closing)))
    }

    /// Queues new progress, and the outcome of an ended job, for a client that has read everything before.
    fn send_progress(&mut self, client: &mut Client, tick: bool) {
        let (State::Watching { job, .. } | State::Serving(job)) = client.state else {
            return;
        };
        let Some(entry) = self.jobs.get(job) else {
            client.send(&Answer::Error(error::no_job(job)));
            client.state = State::Closing;
            return;
        };
        let mut registry_status = None;
        if let State::Watching { version: seen, is_kept, .. } = client.state
            && (tick || entry.outcome.is_some())
        {
            let (rows, version) = entry.progress.since(seen);
            for note in entry.progress.notes(seen, version) {
                client.send(&Answer::Note(note));
            }
            client.state = State::Watching { job, version, is_kept };
            if !rows.is_empty() {
                client.send(&Answer::Rows { job, rows });
            }
            if is_kept {
                let images = entry.progress.images(seen, version);
                images.into_iter().for_each(|image| client.send(&Answer::PulledImage(image)));
                registry_status = entry.progress.registry_status();
            }
        }
        if let Some(outcome) = &entry.outcome {
            match outcome {
                Ok(done) => client.send(&Answer::Done(done.clone())),
                Err(failure) => {
                    registry_status.inspect(|status| client.send(&Answer::RegistryStatus(*status)));
                    client.send(&Answer::Error(failure.clone()));
                }
            }
            self.jobs.unwatch(job);
            client.state = State::Closing;
        }
    }

    fn on_request(&mut self, token: usize, client: &mut Client, body: &[u8], descriptors: Vec<OwnedFd>) {
        client.state = State::Closing;
        let request = match open(body) {
            Ok(request) => request,
            Err(failure) => return client.send(&Answer::Error(failure)),
        };
        log::debug!("client {} requests {}", client.description(), outline(&request));
        let result = match request {
            Request::Info => {
                client.state = State::Waiting;
                self.containers.on_info(token, self.info());
                Ok(())
            }
            Request::Jobs => {
                self.send_jobs(client);
                Ok(())
            }
            Request::CredentialHelpers => self.send_credential_helpers(client),
            Request::Pull(pull) => self.on_pull(client, pull, false),
            Request::PullKept(pull) => self.on_pull(client, pull, true),
            Request::Import(import) => self.on_import(client, import, descriptors),
            Request::Serve(serve) => self.on_serve(client, serve),
            Request::Watch { job } => self.on_watch(client, job),
            Request::Cancel { job } => self.on_cancel(client, job),
            Request::Load(load) => self.on_load(client, load, descriptors),
            Request::Save(save) => self.on_save(client, save, descriptors),
            Request::Push(push) => self.on_push(client, push),
            Request::Login(login) => self.on_login(token, client, login, false),
            Request::LoginWithStatus(login) => self.on_login(token, client, login, true),
            Request::Verify(verify) => self.on_verify(client, verify),
            Request::Replicate(replicate) => self.on_replicate(token, client, *replicate),
            Request::RunPolicy { name, dry_run, detach } => {
                self.on_run_policy(token, client, &name, (dry_run, detach))
            }
            Request::Execution { id, request: asked } if asked != ExecutionRequest::Show => {
                self.on_execution(token, client, id, &asked)
            }
            Request::Policies => self.send_policies(client),
            Request::ReplicationGraph => {
                client.send(&Answer::Text(sampan_replication::table::graph()));
                client.send(&Answer::Done(Done::default()));
                Ok(())
            }
            Request::EngineDetails => {
                client.state = State::Waiting;
                self.containers.on_details(token, self.info());
                Ok(())
            }
            Request::Images
            | Request::ImageDetails
            | Request::History { .. }
            | Request::Inspect { .. }
            | Request::Tag { .. }
            | Request::Remove { .. }
            | Request::Usage
            | Request::Executions(_)
            | Request::Execution { .. }
            | Request::Prune(_)
            | Request::PruneImages(_) => {
                client.state = State::Waiting;
                self.waiting_tasks.push_back((token, request));
                self.start_waiting_tasks();
                Ok(())
            }
            Request::StartUnit(asked) => self.on_start_unit(token, client, asked),
            about_containers => self.check_runtime(client, &about_containers).map(|()| {
                client.state = State::Waiting;
                self.containers.on_request(token, about_containers, descriptors);
            }),
        };
        if let Err(failure) = result {
            client.send(&Answer::Error(failure));
        }
    }

    /// Checks whether the client may choose this OCI runtime: the engine runs it as root.
    fn check_runtime(&self, client: &Client, request: &Request) -> Result<(), Failure> {
        let Request::Create(create) = request else { return Ok(()) };
        let own = nix::unistd::geteuid().as_raw();
        let is_trusted = client.uid().is_some_and(|uid| uid == 0 || uid == own);
        runtime::check_requested(&self.shared.config.settings, create.runtime.as_deref(), is_trusted)
            .map_err(error::explain)
    }

    /// Lets the client, the main process of a systemd unit, become a container's shim. A shim must run as root.
    fn on_start_unit(
        &mut self,
        token: usize,
        client: &mut Client,
        mut asked: Box<engine::StartUnit>,
    ) -> Result<(), Failure> {
        let Some((0, pid)) = client.peer() else {
            let hint =
                "leave User= and DynamicUser= out of the unit; --user is for the container's processes";
            return Err(error::new(Code::Usage, "a unit that runs a container must be run by root", hint));
        };
        asked.pid = pid;
        client.state = State::Waiting;
        self.containers.on_request(token, Request::StartUnit(asked), Vec::new());
        Ok(())
    }

    fn info(&self) -> Info {
        let (events_spooled, events_lost) = self.shared.announcer.backlog();
        Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            store: self.shared.store.root().display().to_string(),
            images: images::count(&self.shared.store) as u64,
            jobs: self.jobs.running() as u64,
            events_spooled,
            events_lost,
            ..Info::default()
        }
    }

    fn send_credential_helpers(&self, client: &mut Client) -> Result<(), Failure> {
        client.send(&Answer::CredentialHelpers(
            resolve::credential_helpers(&self.shared.config).map_err(error::explain)?,
        ));
        client.send(&Answer::Done(Done::default()));
        Ok(())
    }

    fn start_waiting_tasks(&mut self) {
        while self.tasks < TASKS_MAX {
            let Some((client, request)) = self.waiting_tasks.pop_front() else {
                return;
            };
            let shared = Arc::clone(&self.shared);
            let users = self.containers.users(&request);
            // Counted also if it cannot start: its answer then is the error, and ends it like any other.
            self.tasks += 1;
            if let Err(error) = sampan_os::thread::spawn("task", STACK, move || {
                tasks::answer(&shared, client, &request, &users)
            }) {
                let message = format!("cannot start a thread for the request: {error}");
                let failure = error::new(Code::Failed, message, "try again when the host has less to do");
                self.shared.outbox.send(Message::Answers { client, answers: vec![Answer::Error(failure)] });
            }
        }
    }
}

/// Formats a request for the log, without environment variables, which may hold secrets.
fn outline(request: &Request) -> String {
    match request {
        Request::Create(create) => format!("Create {:?} of {:?}", create.name, create.image),
        Request::Exec(exec) => format!("Exec in {:?}", exec.container),
        other => format!("{other:?}").chars().take(OUTLINE_MAX).collect(),
    }
}

/// Parses the body of a client's request frame.
fn open(body: &[u8]) -> Result<Request, Failure> {
    sampan_ipc::watch::open::<Request>(body, engine::VERSION).map_err(|refusal| {
        let code = match refusal.reason {
            sampan_ipc::watch::Reason::Version => Code::Version,
            _ => Code::Usage,
        };
        let versions: Vec<String> = refusal.versions.iter().map(u16::to_string).collect();
        error::new(code, refusal.message, &format!("supported protocol versions: {}", versions.join(", ")))
    })
}
