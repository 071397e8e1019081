//! All containers, as the event loop knows them: who they are, where they stand, who waits for what.
//!
//! Owned by the event loop; shared with no thread. What clients ask is in [`super::requests`], what shims and
//! threads tell in [`super::events`]: both are methods of [`ContainerManager`]. Never blocks: files are read and programs
//! started on threads, a bounded number at a time. While one works on a container, requests to that one wait.

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

/// Tokens of shims begin here; clients' never come so far.
pub const FIRST_SHIM_TOKEN: usize = 1 << 40;
/// Most requests that wait for one container.
const QUEUE_MAX: usize = 256;
/// All containers.
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
    /// Apart from the others: a runtime that hangs holds one of these up.
    cleanup_pool: ThreadPool<Shared>,
    /// The same, for runtimes that are named for one container and have not been asked yet what they are.
    probe_pool: ThreadPool<Shared>,
    replies: Vec<Reply>,
}

impl ContainerManager {
    /// None yet: [`super::recover::run`] finds those that are there.
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

    /// How many there are; how many run, and are paused.
    pub fn count(&self) -> (u64, u64, u64) {
        let of = |phase| self.entries.values().filter(|e| e.state.phase == phase).count() as u64;
        (self.entries.len() as u64, of(Phase::Running), of(Phase::Paused))
    }

    /// Answers that are ready.
    pub fn take_replies(&mut self) -> Vec<Reply> {
        std::mem::take(&mut self.replies)
    }

    /// A client has gone: it waits for nothing any more.
    pub fn forget(&mut self, client: usize) {
        self.waits.retain(|wait| wait.client != client);
        for entry in self.entries.values_mut() {
            entry.queue.retain(|queued| queued.client != client);
        }
    }

    /// Something happened on a shim's connection.
    pub fn mark(&mut self, token: usize, event: &Event) {
        let entry = self.connections.get(&token).and_then(|id| self.entries.get_mut(id));
        // One no longer known: a stale event, ignored.
        if let Some((_, connection)) = entry.and_then(|entry| entry.connection.as_mut()) {
            connection.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            connection.writable |= event.is_writable();
        }
        if let Some(id) = self.connections.get(&token).cloned() {
            self.receive(&id);
        }
    }

    /// From now on `stream` is the way to the container's shim.
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

    /// The connection to the container's shim is over.
    pub(super) fn disconnect(&mut self, id: &str) {
        let connection = self.entries.get_mut(id).and_then(|entry| entry.connection.take());
        if let Some((token, mut connection)) = connection {
            let _ = self.registry.deregister(connection.stream());
            self.connections.remove(&token);
        }
    }

    /// Asks the container's shim; the client hears its reply.
    pub(super) fn request_shim(
        &mut self,
        id: &str,
        client: Option<usize>,
        what: shim::Action,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let Some((_, connection)) = self.entries.get_mut(id).and_then(|entry| entry.connection.as_mut())
        else {
            return Err(not_running(&self.name(id)));
        };
        let number = self.next_number;
        let fallback = fallback(id, &what);
        connection.request(number, what, descriptors).map_err(|error| {
            error::new(Code::Failed, format!("cannot ask the container's shim: {error}"), "")
        })?;
        self.next_number += 1;
        self.pending.insert(number, PendingRequest { id: id.to_owned(), client, pids: None, fallback });
        Ok(())
    }

    /// Does `work` on a thread; it sends a [`Outcome`] when it is done.
    pub(super) fn spawn(&self, work: impl FnOnce(&Shared) + Send + 'static) {
        self.pool.add(&self.shared, work);
    }

    /// The same for what needs the runtime `named` for a container: one that hangs when it is asked what it is keeps
    /// none that is known already.
    pub(super) fn spawn_with(&self, named: Option<&str>, work: impl FnOnce(&Shared) + Send + 'static) {
        match named.is_none() || Runtime::is_known(&self.shared.config.settings, named) {
            true => self.pool.add(&self.shared, work),
            false => self.probe_pool.add(&self.shared, work),
        }
    }

    /// The same for what may have to wait for a runtime that hangs.
    pub(super) fn spawn_cleanup(&self, work: impl FnOnce(&Shared) + Send + 'static) {
        self.cleanup_pool.add(&self.shared, work);
    }

    /// Answers `info`: `known` is what the rest of the engine knows. The runtime may have to be looked for first.
    pub fn on_info(&self, client: usize, known: Info) {
        let (count, directories) = (self.count(), self.directories.clone());
        self.spawn(move |shared| {
            let info = Info { containers: count, ..host_info(shared, &directories, known) };
            let answers = vec![Answer::Info(Box::new(info)), Answer::Done(Done::default())];
            shared.outbox.send(Message::Container(Outcome::Answers { client, answers }));
        });
    }

    /// All containers that are made, as they are now; none where the request has nothing to do with them.
    pub fn users(&self, request: &Request) -> ImageUsers {
        let is_asked = matches!(request, Request::Remove { .. } | Request::Usage);
        let made = self.entries.values().filter(|entry| is_asked && entry.busy != Some(Busy::Creating));
        let all = made.map(|entry| (Arc::clone(&entry.definition), entry.state.phase.is_alive())).collect();
        ImageUsers::new(self.directories.clone(), all)
    }

    /// True while something is done that an engine that stops should wait for.
    pub fn is_working(&self) -> bool {
        [&self.pool, &self.cleanup_pool, &self.probe_pool].iter().any(|pool| pool.is_busy())
    }

    /// The client gets this, and no more.
    pub(super) fn reply(&mut self, client: usize, answers: Vec<Answer>) {
        self.replies.push(Reply { client, answers, descriptors: Vec::new() });
    }

    /// As [`ContainerManager::reply`], with descriptors.
    pub(super) fn reply_with(&mut self, client: usize, answers: Vec<Answer>, descriptors: Vec<OwnedFd>) {
        self.replies.push(Reply { client, answers, descriptors });
    }

    /// The client's request failed.
    pub(super) fn refuse(&mut self, client: usize, failure: Failure) {
        self.reply(client, vec![Answer::Error(failure)]);
    }

    /// The container's name; its id if it has none any more.
    pub(super) fn name(&self, id: &str) -> String {
        self.entries.get(id).map_or_else(|| id.to_owned(), |entry| entry.definition.name.clone())
    }

    /// The id of the container that is meant: its name, its id, or the first digits of its id.
    ///
    /// # Errors
    /// None is meant, or several are.
    pub(super) fn find(&self, typed: &str) -> Result<String, Failure> {
        // Docker's API writes names with a slash.
        let typed = typed.strip_prefix('/').unwrap_or(typed);
        let is_there = |id: &&String| self.entries.get(*id).is_some_and(|entry| !entry.is_removed);
        if let Some(id) = Some(&typed.to_owned()).filter(is_there).or(self.names.get(typed).filter(is_there))
        {
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

    /// Puts a request behind what is done to the container just now.
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

/// What this host runs containers with.
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
