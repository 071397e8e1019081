//! The shim's loop: owns all there is, waits, and calls what is due. Nothing in it blocks.

use super::attach::Client;
use super::connection::Connection;
use super::console::{self, Console};
use super::dir::event_spool;
use super::dir::state_file::StateFile;
use super::log::Log;
use super::oom::Oom;
use super::overlay;
use super::restart_policy::Backoff;
use super::runtime::{Purpose, Reply, Running, Standard};
use super::stdio::Stdio;
use super::systemd_unit::Unit;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sampan_ipc::announce::Announcer;
use sampan_ipc::container::{Control, Streams, Told};
use sampan_ipc::sender::FifoSender;
use sampan_ipc::shim::{Ask, SOCKET, STATE, Say, Setup, State};
use sampan_os::boot_id;
use sampan_os::{memory, syscall};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

/// Most processes of others whose end is kept in mind while one of ours starts.
const STRANGERS_MAX: usize = 256;
/// Longest that events may wait for the monitor before the shim ends without them.
const LINGER: Duration = Duration::from_secs(10);
/// How long a run lasts before the shim gives back the memory that starting needed: a short one is not worth it.
pub const TRIM_AFTER: Duration = Duration::from_millis(500);
/// How often it is looked whether they still wait.
const LINGER_STEP: Duration = Duration::from_millis(100);

/// Where the container stands, as the shim sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The runtime makes it.
    Starting,
    /// It has a process.
    Alive,
    /// It has ended, and the runtime takes it away.
    Deleting,
    /// It starts again then.
    Waiting(Instant),
    /// All is done; what has been said is still on its way, until then at most.
    Ending(Instant),
}

/// A `stop`, `restart` or removal under way.
#[derive(Debug)]
pub struct Stopping {
    pub(super) replies: Vec<Reply>,
    /// When it is killed, unless that was done.
    pub(super) kill_at: Option<Instant>,
    pub(super) then: Then,
}

/// What follows a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// A start.
    Start,
    /// The removal of all there is.
    Remove,
}

/// One more process in the container.
#[derive(Debug)]
pub struct Execution {
    pub(super) id: String,
    pub(super) words: String,
    pub(super) pid: i32,
    pub(super) stdio: Stdio,
    pub(super) console: Option<Console>,
    pub(super) size: (u16, u16),
    pub(super) reply: Reply,
    /// Signals of its client that came before there was a process.
    pub(super) early_signals: Vec<i32>,
}

/// The shim of one container.
#[derive(Debug)]
pub struct Shim {
    pub(super) setup: Setup,
    pub(super) state: State,
    /// Where it is written down; opened when that happens for the first time.
    state_file: Option<StateFile>,
    pub(super) life: Life,
    pub(super) sender: FifoSender,
    pub(super) announcer: Announcer,
    pub(super) stdio: Stdio,
    pub(super) console: Option<Console>,
    pub(super) log: Log,
    pub(super) oom: Option<Oom>,
    pub(super) executions: Vec<Execution>,
    pub(super) commands: Vec<Running>,
    pub(super) command_number: u64,
    pub(super) leaving: Vec<Client>,
    pub(super) connections: Vec<Connection>,
    listener: Option<UnixListener>,
    connection_number: u64,
    signals: SignalFd,
    pub(super) strangers: VecDeque<(i32, i32)>,
    pub(super) stopping: Option<Stopping>,
    pub(super) deferred: VecDeque<(u64, Ask, Vec<OwnedFd>)>,
    pub(super) backoff: Backoff,
    /// When memory is given back, once a run.
    pub(super) trim_at: Option<Instant>,
    pub(super) is_mounted: bool,
    pub(super) is_person_restart: bool,
    pub(super) is_auto_restart: bool,
    pub(super) replies_to_start: Vec<Reply>,
    pub(super) replies_to_kill: Vec<Reply>,
    /// Signals of a client that came before there was a process.
    pub(super) early_signals: Vec<i32>,
    /// When they are tried again.
    pub(super) early_at: Option<Instant>,
    /// The unit of systemd's whose main process this is.
    pub(super) unit: Option<Box<Unit>>,
}

impl Shim {
    /// A shim with the engine's first connection; begins the start.
    pub fn new(setup: Setup, mut connection: Connection, unit: Option<Unit>) -> Result<Self, String> {
        let mask: SigSet =
            [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
        // Blocked, not ignored: the runtime would inherit what is ignored.
        mask.thread_block().map_err(|errno| errno.to_string())?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&mask, flags).map_err(|errno| errno.to_string())?;
        std::fs::create_dir_all(&setup.run).map_err(|error| error.to_string())?;
        let dir = std::fs::File::open(&setup.run).map_err(|error| error.to_string())?;
        let listener =
            console::listen(&dir.into(), &setup.run.join(SOCKET)).map_err(|error| error.to_string())?;
        let sender = FifoSender::new(setup.fifo.clone());
        let attach: Option<(Streams, Vec<OwnedFd>)> =
            setup.attach.and_then(|streams| Some((streams, connection.take(streams.count())?)));
        let state = State {
            shim: std::process::id().cast_signed(),
            boot: boot_id::read().unwrap_or_default(),
            ..setup.state.clone()
        };
        let mut shim = Shim {
            state,
            state_file: None,
            life: Life::Starting,
            announcer: Announcer::new(sender.clone()),
            sender,
            stdio: Stdio::default(),
            console: None,
            log: Log::none(),
            oom: None,
            executions: Vec::new(),
            commands: Vec::new(),
            command_number: 0,
            leaving: Vec::new(),
            connections: vec![connection],
            listener: Some(listener),
            connection_number: 1,
            signals,
            strangers: VecDeque::new(),
            stopping: None,
            deferred: VecDeque::new(),
            backoff: Backoff::new(),
            trim_at: None,
            is_mounted: false,
            is_person_restart: setup.is_restart,
            is_auto_restart: false,
            replies_to_start: Vec::new(),
            replies_to_kill: Vec::new(),
            early_signals: Vec::new(),
            early_at: None,
            unit: unit.map(Box::new),
            setup,
        };
        // What an earlier run left is not of this one.
        shim.state.pid = 0;
        let namespace = overlay::enter_namespace();
        if let Some((streams, descriptors)) = attach {
            match Client::new(streams, shim.setup.tty, descriptors, true) {
                Ok(client) => {
                    shim.stdio.clients.push(client);
                    shim.announce("attach", &[]);
                }
                Err(reason) => {
                    shim.fail_start(125, reason);
                    return Ok(shim);
                }
            }
        }
        match namespace {
            Ok(()) => shim.start(),
            Err(reason) => shim.fail_start(125, reason),
        }
        Ok(shim)
    }

    /// Goes on to the end; gives the container's exit code.
    pub fn run(mut self) -> u8 {
        while !self.is_over() {
            self.wait();
            self.reap();
            self.accept();
            self.hear_engines();
            self.take_terminals();
            self.pump();
            if self.oom.as_mut().is_some_and(|oom| oom.has_killed()) {
                self.on_oom();
            }
            self.expire(Instant::now());
            self.remove_when_told();
            self.connections.iter_mut().for_each(Connection::flush);
            self.connections.retain(|connection| connection.is_open);
        }
        self.close();
        u8::try_from(self.state.exit_code).unwrap_or(255)
    }

    fn is_over(&self) -> bool {
        match self.life {
            Life::Ending(until) => {
                let is_said =
                    self.sender.spooled() == 0 && self.connections.iter().all(Connection::is_drained);
                is_said || Instant::now() >= until
            }
            _ => false,
        }
    }

    /// All is done; the loop ends when what was said has been heard.
    pub(super) fn end(&mut self) {
        self.life = Life::Ending(Instant::now() + LINGER);
    }

    /// The engine may start another shim now; clients that have not read all yet are still served.
    fn close(&mut self) {
        let is_said = self.sender.spooled() == 0 || self.keep_unsaid();
        if !self.state.is_announced && is_said && self.setup.dir.exists() {
            self.state.is_announced = true;
            self.save();
            self.tell();
        }
        let _ = overlay::tear_down(&self.setup.rootfs);
        let _ = std::fs::remove_file(self.setup.run.join(SOCKET));
        self.listener = None;
        self.connections.clear();
        while !self.leaving.is_empty() {
            self.wait();
            self.reap();
            self.leaving.retain_mut(|client| !client.see_off());
            if let Some(unit) = &mut self.unit {
                unit.expire(Instant::now());
            }
        }
    }

    /// Leaves what the monitor has not taken to an engine; true if that could be written down.
    fn keep_unsaid(&mut self) -> bool {
        let records = self.sender.take_spool();
        let kept = records.is_empty() || event_spool::keep(&self.setup.dir, &records).is_ok();
        if !kept {
            self.state.is_announced = false;
        }
        kept
    }

    /// Sleeps until something can be done.
    fn wait(&mut self) {
        let is_at_rest = self.trim_at.take_if(|at| *at <= Instant::now()).is_some();
        let mut polls = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let mut want = |fd, flags| polls.push(PollFd::new(fd, flags));
        let none = PollFlags::POLLIN;
        self.listener.iter().for_each(|listener| want(listener.as_fd(), none));
        self.oom.iter().for_each(|oom| want(oom.as_fd(), none));
        self.console.iter().for_each(|console| want(console.as_fd(), none));
        let mut is_busy = false;
        for connection in &self.connections {
            let (fd, flags) = connection.interest();
            want(fd, flags);
            is_busy |= connection.has_more();
        }
        for client in &self.leaving {
            let (fd, flags) = client.control.interest();
            want(fd, flags);
            for sink in client.sinks.iter().flatten().filter(|sink| !sink.is_empty()) {
                want(sink.as_fd(), PollFlags::POLLOUT);
            }
        }
        // Before there is a process, only what its clients say matters.
        if self.life != Life::Starting {
            self.stdio.interest(&self.log, &mut want);
        } else {
            hear(&self.stdio, &mut want);
        }
        let nothing = Log::none();
        for execution in &self.executions {
            execution.console.iter().for_each(|console| want(console.as_fd(), none));
            if execution.pid > 0 {
                execution.stdio.interest(&nothing, &mut want);
            } else {
                hear(&execution.stdio, &mut want);
            }
        }
        let timeout = match self.deadline() {
            _ if is_busy => PollTimeout::ZERO,
            None => PollTimeout::NONE,
            Some(at) => {
                // Rounded up, or the last millisecond would be spent turning.
                let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        match is_at_rest {
            true => memory::trim_and_poll(&mut polls, timeout),
            false => drop(poll(&mut polls, timeout)),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let commands =
            self.commands.iter().filter(|command| !command.is_killed).map(|command| command.deadline);
        let life = match self.life {
            Life::Waiting(at) => Some(at),
            Life::Ending(_) if self.listener.is_some() => Some(Instant::now() + LINGER_STEP),
            _ => None,
        };
        commands
            .chain(life)
            .chain(self.trim_at)
            .chain(self.early_at)
            .chain(self.unit.as_ref().and_then(|unit| unit.deadline()))
            .chain(self.stopping.as_ref().and_then(|stopping| stopping.kill_at))
            .min()
    }

    /// Takes note of every process that has ended, and of systemd's wish to end the unit.
    fn reap(&mut self) {
        let mut is_stopped = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let is_end = [Signal::SIGTERM, Signal::SIGINT].iter().any(|end| *end as u32 == signal.ssi_signo);
            is_stopped |= is_end && self.unit.is_some();
        }
        while let Some((pid, status)) = syscall::reap() {
            self.on_end_of(pid, status);
        }
        // Once it is closed, the state is another shim's to write.
        if is_stopped && self.listener.is_some() {
            self.on_unit_stop();
        }
    }

    fn on_end_of(&mut self, pid: i32, status: i32) {
        if let Some(at) = self.commands.iter().position(|command| command.pid == pid) {
            let command = self.commands.swap_remove(at);
            self.on_command(command, status == 0);
        } else if pid == self.state.pid {
            self.on_exit(status);
        } else if let Some(at) = self.executions.iter().position(|execution| execution.pid == pid) {
            self.on_execution_exit(at, status);
        } else {
            // It may be one whose id the runtime has not told yet.
            self.strangers.push_back((pid, status));
            if self.strangers.len() > STRANGERS_MAX || self.commands.is_empty() {
                self.strangers.pop_front();
            }
        }
    }

    /// The exit of a process that ended before it was known.
    pub(super) fn take_stranger(&mut self, pid: i32) -> Option<i32> {
        let at = self.strangers.iter().position(|(stranger, _)| *stranger == pid)?;
        self.strangers.remove(at).map(|(_, status)| status)
    }

    fn accept(&mut self) {
        while let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) {
            let mut connection = Connection::new(stream, self.connection_number);
            self.connection_number += 1;
            connection.say(&Say::State(self.state.clone()));
            if self.life == Life::Starting {
                connection.say(&Say::Starting);
            }
            self.connections.push(connection);
        }
    }

    fn hear_engines(&mut self) {
        for nth in 0..self.connections.len() {
            let Some(connection) = self.connections.get_mut(nth) else { return };
            connection.receive();
            let number = connection.number;
            while let Some(connection) = self.connections.get_mut(nth) {
                let Ok(Some(ask)) = connection.next::<Ask>() else { break };
                let descriptors = connection.take(ask.descriptors());
                self.on_ask(number, ask, descriptors);
            }
        }
    }

    fn take_terminals(&mut self) {
        let receive = |console: &mut Option<Console>| {
            let master = console.as_mut()?.receive()?;
            *console = None;
            Some(master)
        };
        if let Some(master) = receive(&mut self.console) {
            let _ = self.stdio.set_terminal(master, self.setup.size);
        }
        for execution in &mut self.executions {
            if let Some(master) = receive(&mut execution.console) {
                let _ = execution.stdio.set_terminal(master, execution.size);
            }
        }
    }

    /// Hears the clients, moves bytes, and lets go of who leaves, in this order: the size that a client says comes before
    /// what it types after that, and what it has typed before it leaves arrives.
    fn pump(&mut self) {
        let mut heard = Vec::new();
        for (execution, stdio) in self.all_stdio() {
            for client in &mut stdio.clients {
                client.hear(|control| heard.push((execution.map(str::to_owned), control)));
            }
        }
        for (execution, control) in heard {
            self.on_control(execution.as_deref(), control);
        }
        if self.life != Life::Starting {
            self.stdio.pump(&mut self.log, self.setup.open_stdin);
        }
        for execution in self.executions.iter_mut().filter(|execution| execution.pid > 0) {
            execution.stdio.pump(&mut Log::none(), false);
        }
        let mut left = Vec::new();
        for (execution, stdio) in self.all_stdio() {
            let leaving: Vec<Client> = stdio.clients.extract_if(.., |client| client.is_leaving).collect();
            for client in leaving {
                if client.is_first && client.stdin.is_some() && !client.control.is_open {
                    stdio.close_stdin();
                }
                left.push((execution.map(str::to_owned), client));
            }
        }
        for (execution, mut client) in left {
            client.leave(Told::Detached);
            self.leaving.push(client);
            self.on_control(execution.as_deref(), Control::Detach);
        }
        self.leaving.retain_mut(|client| !client.see_off());
    }

    /// The streams of the container itself, and of each execution by its id.
    fn all_stdio(&mut self) -> impl Iterator<Item = (Option<&str>, &mut Stdio)> {
        let executions = self.executions.iter_mut().map(|e| (Some(e.id.as_str()), &mut e.stdio));
        std::iter::once((None, &mut self.stdio)).chain(executions)
    }

    fn expire(&mut self, now: Instant) {
        for command in
            self.commands.iter_mut().filter(|command| !command.is_killed && command.deadline <= now)
        {
            command.kill();
        }
        if let Some(stopping) = &mut self.stopping
            && stopping.kill_at.is_some_and(|at| at <= now)
        {
            stopping.kill_at = None;
            self.kill_for_good();
        }
        if self.early_at.take_if(|at| *at <= now).is_some() {
            self.signal_again();
        }
        if matches!(self.life, Life::Waiting(at) if at <= now) {
            self.start();
        }
        if let Some(unit) = &mut self.unit {
            unit.expire(now);
        }
    }

    /// Says what happened to the container.
    pub(super) fn announce(&self, action: &str, facts: &[(&str, &str)]) {
        self.announcer.container(action, &self.setup.identity, self.state.pid, facts);
    }

    /// Writes the state down, and tells it to all.
    pub(super) fn save(&mut self) {
        if let Err(error) = self.write_state()
            && self.state.error.is_empty()
        {
            self.state.error = format!("cannot write the state in {}: {error}", self.setup.dir.display());
        }
    }

    fn write_state(&mut self) -> std::io::Result<()> {
        match &mut self.state_file {
            Some(file) => file.write(&self.state),
            none => none.insert(StateFile::open(&self.setup.dir.join(STATE))?).write(&self.state),
        }
    }

    /// Tells the state to all who are connected.
    pub(super) fn tell(&mut self) {
        for connection in &mut self.connections {
            connection.say(&Say::State(self.state.clone()));
        }
    }

    /// Answers an ask.
    pub(super) fn reply(&mut self, reply: Reply, result: Result<String, (u8, String)>) {
        let Some((to, number)) = reply else { return };
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.number == to) {
            connection.say(&Say::Reply { number, result });
        }
    }

    /// Runs a command of the runtime.
    pub(super) fn command(
        &mut self,
        purpose: Purpose,
        words: &[&str],
        standard: Standard,
    ) -> Result<(), String> {
        let words = words.iter().map(OsString::from).collect();
        self.command_number += 1;
        let kept = match (&purpose, &self.unit) {
            (Purpose::Start, Some(unit)) => unit.listen.as_slice(),
            _ => &[],
        };
        let command = Running::spawn(&self.setup, self.command_number, purpose, words, standard, kept);
        self.commands.push(command.map_err(|error| error.to_string())?);
        Ok(())
    }
}

/// Waits for what the clients say.
fn hear<'a>(stdio: &'a Stdio, want: &mut impl FnMut(BorrowedFd<'a>, PollFlags)) {
    for (fd, flags) in stdio.clients.iter().map(|client| client.control.interest()) {
        want(fd, flags);
    }
}
