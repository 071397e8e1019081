//! The table of all containers: their states, their shims' connections, and the clients that wait.
//!
//! The event loop owns the table, and no thread shares it. [`super::requests`] handles requests of clients, and
//! [`super::events`] handles reports of shims and threads; both are methods of [`ContainerManager`]. Never blocks: a
//! limited number of threads read files and start programs. While a thread works on a container, requests for that
//! container wait.

use super::details;
use super::directory::Directories;
use super::entry::{Busy, Entry, PendingRequest, Pruning, Queued, Reply, Wait, fallback};
use super::error::{ambiguous, no_container, not_running};
use super::image_users::ImageUsers;
use super::outcome::Outcome;
use super::shim_connection::ShimConnection;
use super::thread_pool::ThreadPool;
use crate::context::Shared;
use crate::error;
use crate::outbox::Message;
use mio::event::Event;
use mio::{Interest, Registry, Token};
use sampan_ipc::container::Phase;
use sampan_ipc::engine::{Answer, Code, Done, Failure, Info, Request};
use sampan_ipc::shim;
use sampan_spec::host::Host;
use sampan_spec::runtime::Runtime;
use sampan_spec::security;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Lowest poll token of a shim; clients' tokens count up from a small number and never reach it.
pub const FIRST_SHIM_TOKEN: usize = 1 << 40;
/// Most requests that wait for one container. Further requests are refused.
const QUEUE_MAX: usize = 256;

/// The table of all containers.
pub struct ContainerManager {
    pub(super) shared: Arc<Shared>,
    pub(super) directories: Directories,
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) names: HashMap<String, String>,
    pub(super) connections: HashMap<usize, String>,
    pub(super) pending: HashMap<u64, PendingRequest>,
    pub(super) waits: Vec<Wait>,
    pub(super) prunings: Vec<Pruning>,
    registry: Registry,
    next_token: usize,
    next_number: u64,
    pool: ThreadPool<Shared>,
    /// Threads that clean up after killed shims. This pool is separate, because an OCI runtime that hangs blocks its
    /// threads.
    cleanup_pool: ThreadPool<Shared>,
    /// Threads for work with an OCI runtime whose version is not known yet: the first command of the runtime may hang.
    probe_pool: ThreadPool<Shared>,
    replies: Vec<Reply>,
}

impl ContainerManager {
    /// Makes an empty table; [`super::recover::run`] fills it.
    pub fn open(shared: Arc<Shared>, directories: Directories, registry: Registry) -> Self {
        let containers = ContainerManager {
            shared,
            directories,
            entries: BTreeMap::new(),
            names: HashMap::new(),
            connections: HashMap::new(),
            pending: HashMap::new(),
            waits: Vec::new(),
            prunings: Vec::new(),
            registry,
            next_token: FIRST_SHIM_TOKEN,
            next_number: 1,
            pool: ThreadPool::default(),
            cleanup_pool: ThreadPool::default(),
            probe_pool: ThreadPool::default(),
            replies: Vec::new(),
        };
        if nix::unistd::geteuid().is_root() {
            let settings = &containers.shared.config.settings;
            security::advice(Host::get(), settings).iter().for_each(|advice| log::warn!("{advice}"));
        }
        containers
    }

    /// Returns the number of all containers, of running containers, and of paused containers.
    pub fn count(&self) -> (u64, u64, u64) {
        let of = |phase| self.entries.values().filter(|e| e.state.phase == phase).count() as u64;
        (self.entries.len() as u64, of(Phase::Running), of(Phase::Paused))
    }

    /// Removes and returns the answers that are ready to be sent.
    pub fn take_replies(&mut self) -> Vec<Reply> {
        std::mem::take(&mut self.replies)
    }

    /// Drops the waiting requests of a client that has disconnected.
    pub fn forget(&mut self, client: usize) {
        self.waits.retain(|wait| wait.client != client);
        for entry in self.entries.values_mut() {
            entry.queue.retain(|queued| queued.client != client);
        }
    }

    /// Handles a poll event on a shim's connection.
    pub fn mark(&mut self, token: usize, event: &Event) {
        let entry = self.connections.get(&token).and_then(|id| self.entries.get_mut(id));
        // An unknown token means that the event belongs to a connection that was closed meanwhile.
        if let Some((_, connection)) = entry.and_then(|entry| entry.connection.as_mut()) {
            connection.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            connection.writable |= event.is_writable();
        }
        if let Some(id) = self.connections.get(&token).cloned() {
            self.receive(&id);
        }
    }

    /// Registers `stream` as the connection to the container's shim.
    pub(super) fn connect(&mut self, id: &str, stream: std::os::unix::net::UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let mut connection = ShimConnection::new(mio::net::UnixStream::from_std(stream));
        let token = self.next_token;
        self.next_token += 1;
        self.registry.register(connection.stream(), Token(token), Interest::READABLE | Interest::WRITABLE)?;
        self.connections.insert(token, id.to_owned());
        if let Some(entry) = self.entries.get_mut(id) {
            entry.connection = Some((token, connection));
        }
        Ok(())
    }

    /// Closes the connection to the container's shim.
    pub(super) fn disconnect(&mut self, id: &str) {
        let connection = self.entries.get_mut(id).and_then(|entry| entry.connection.take());
        if let Some((token, mut connection)) = connection {
            let _ = self.registry.deregister(connection.stream());
            self.connections.remove(&token);
        }
    }

    /// Sends a request to the container's shim. The client gets the shim's reply.
    pub(super) fn request_shim(
        &mut self,
        id: &str,
        client: Option<usize>,
        what: shim::Action,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let Some((_, connection)) = self.entries.get_mut(id).and_then(|entry| entry.connection.as_mut())
        else {
            return Err(self.not_running(id));
        };
        let number = self.next_number;
        let (fallback, is_recent) = (fallback(id, &what), matches!(what, shim::Action::Resize { .. }));
        connection.request(number, what, descriptors).map_err(|error| {
            error::new(Code::Failed, format!("cannot send a request to the container's shim: {error}"), "")
        })?;
        self.next_number += 1;
        self.pending
            .insert(number, PendingRequest { id: id.to_owned(), client, pids: None, is_recent, fallback });
        Ok(())
    }

    /// Runs `work` on a thread. The work sends an [`Outcome`] at its end.
    pub(super) fn spawn(&self, work: impl FnOnce(&Shared) + Send + 'static) {
        self.pool.add(&self.shared, work);
    }

    /// Like [`Self::spawn`], for work with the OCI runtime that a container has `named`. A runtime whose version is
    /// not known may hang when it is started; such work must not delay work with known runtimes.
    pub(super) fn spawn_with(&self, named: Option<&str>, work: impl FnOnce(&Shared) + Send + 'static) {
        match named.is_none() || Runtime::is_known(&self.shared.config.settings, named) {
            true => self.pool.add(&self.shared, work),
            false => self.probe_pool.add(&self.shared, work),
        }
    }

    /// Like [`Self::spawn`], for cleaning up, where an OCI runtime may hang.
    pub(super) fn spawn_cleanup(&self, work: impl FnOnce(&Shared) + Send + 'static) {
        self.cleanup_pool.add(&self.shared, work);
    }

    /// Answers an `info` request on a thread, since finding the OCI runtime may take long. `known` contains the fields
    /// that the event loop has filled in.
    pub fn on_info(&self, client: usize, known: Info) {
        let (count, directories) = (self.count(), self.directories.clone());
        self.spawn(move |shared| {
            let info = Info { containers: count, ..host_info(shared, &directories, known) };
            let answers = vec![Answer::Info(Box::new(info)), Answer::Done(Done::default())];
            shared.outbox.send(Message::Container(Outcome::Answers { client, answers }));
        });
    }

    /// Answers a request for the engine's state and settings on a thread, as [`ContainerManager::on_info`] does.
    pub fn on_details(&self, client: usize, known: Info) {
        let (count, directories) = (self.count(), self.directories.clone());
        let idle = self.entries.values().filter(|entry| !entry.state.phase.is_alive()).count() as u64;
        self.spawn(move |shared| {
            let info = Info { containers: count, ..host_info(shared, &directories, known) };
            let details = details::engine(shared, info, idle);
            let answers = vec![Answer::EngineDetails(Box::new(details)), Answer::Done(Done::default())];
            shared.outbox.send(Message::Container(Outcome::Answers { client, answers }));
        });
    }

    /// Returns a snapshot of the containers and their images; an empty snapshot for a request that does not need one.
    pub fn users(&self, request: &Request) -> ImageUsers {
        let is_asked = matches!(request, Request::Remove { .. } | Request::Usage | Request::ImageDetails);
        let made = self.entries.values().filter(|entry| is_asked && entry.busy != Some(Busy::Creating));
        let all = made.map(|entry| (Arc::clone(&entry.definition), entry.state.phase.is_alive())).collect();
        ImageUsers::new(self.directories.clone(), all)
    }

    /// Whether a thread is working. An engine that is stopping waits for its threads.
    pub fn is_working(&self) -> bool {
        [&self.pool, &self.cleanup_pool, &self.probe_pool].iter().any(|pool| pool.is_busy())
    }

    /// Queues all answers to the client's request.
    pub(super) fn reply(&mut self, client: usize, answers: Vec<Answer>) {
        self.replies.push(Reply { client, answers, descriptors: Vec::new() });
    }

    /// Queues all answers to the client's request, and descriptors that are sent with the first answer.
    pub(super) fn reply_with(&mut self, client: usize, answers: Vec<Answer>, descriptors: Vec<OwnedFd>) {
        self.replies.push(Reply { client, answers, descriptors });
    }

    /// Answers the client's request with a failure.
    pub(super) fn refuse(&mut self, client: usize, failure: Failure) {
        self.reply(client, vec![Answer::Error(failure)]);
    }

    /// Returns the container's name, or its id if it is not in the table any more.
    pub(super) fn name(&self, id: &str) -> String {
        self.entries.get(id).map_or_else(|| id.to_owned(), |entry| entry.definition.name.clone())
    }

    /// Makes the failure of a request that needs the container to run.
    pub(super) fn not_running(&self, id: &str) -> Failure {
        let phase = self.entries.get(id).map_or(Phase::Exited, |entry| entry.state.phase);
        not_running(&self.name(id), phase)
    }

    /// Finds a container by its name, its id or the first digits of its id, and returns its id.
    ///
    /// # Errors
    /// No container matches, or several containers match.
    pub(super) fn find(&self, typed: &str) -> Result<String, Failure> {
        // Docker's API writes a name with a leading slash.
        let typed = typed.strip_prefix('/').unwrap_or(typed);
        let exists = |id: &&String| self.entries.get(*id).is_some_and(|entry| !entry.is_removed);
        if let Some(id) = Some(&typed.to_owned()).filter(exists).or(self.names.get(typed).filter(exists)) {
            return Ok(id.clone());
        }
        let range = self.entries.range(typed.to_owned()..);
        let meant: Vec<&Entry> = range
            .take_while(|(id, _)| id.starts_with(typed))
            .map(|(_, e)| e)
            .filter(|e| !e.is_removed)
            .collect();
        match meant.as_slice() {
            [one] if !typed.is_empty() => Ok(one.definition.id.clone()),
            [_, _, ..] if !typed.is_empty() => Err(ambiguous(typed, &meant)),
            _ => Err(no_container(typed)),
        }
    }

    /// Queues a request until the container is free.
    pub(super) fn enqueue(&mut self, id: &str, queued: Queued) {
        let client = queued.client;
        match self.entries.get_mut(id) {
            Some(entry) if entry.queue.len() < QUEUE_MAX => entry.queue.push_back(queued),
            Some(_) => {
                let message = format!("{QUEUE_MAX} requests wait for container {:?}", self.name(id));
                self.refuse(client, error::new(Code::Conflict, message, "try again later"));
            }
            None => self.refuse(client, no_container(id)),
        }
    }
}

/// Adds the OCI runtime and the host's features to `known`.
fn host_info(shared: &Shared, directories: &Directories, known: Info) -> Info {
    let config = &shared.config;
    let host = Host::now();
    let (runtime, systemd) = match Runtime::find(&config.settings, None) {
        Ok(runtime) => {
            (format!("{} {} ({})", runtime.name, runtime.version, runtime.path.display()), runtime.systemd)
        }
        Err(error) => (format!("none: {}", sampan_ipc::report::chain(&error)), false),
    };
    let driver = if systemd { "systemd" } else { "cgroupfs" };
    let word = |name: &str, is_on: bool| is_on.then(|| name.to_owned());
    let features = word("seccomp", host.seccomp)
        .into_iter()
        .chain(security::describe(&host, &config.settings))
        .chain(word("cgroupns", host.cgroup_namespaces));
    Info {
        runtime,
        cgroup: (host.cgroups.word().to_owned(), driver.to_owned()),
        rootfs: shared.rootfs.describe(config, &shared.store, directories),
        log_driver: config.log_driver.clone(),
        security: features.collect(),
        ..known
    }
}
