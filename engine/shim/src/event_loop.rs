//! The shim's event loop: owns all state, waits for events and deadlines, and calls the handlers. No handler blocks.
//!
//! The event loop calls the `impl Shim` blocks in `start`, `exit` and `requests`. Each turn does the steps of
//! [`Shim::run`] in a fixed order.

use super::attach::Client;
use super::connection::Connection;
use super::console::{self, Console};
use super::dir::event_spool;
use super::dir::state_file::StateFile;
use super::log::Log;
use super::oom::Oom;
use super::overlay;
use super::restart_policy::Backoff;
use super::runtime::{Purpose, Reply, RuntimeCommand, StandardFds};
use super::setup::Begun;
use super::stdio::Stdio;
use super::systemd_unit::Unit;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sampan_ipc::announce::Announcer;
use sampan_ipc::container::{AttachMessage, Control};
use sampan_ipc::sender::FifoSender;
use sampan_ipc::shim::{SOCKET, STATE, Setup, ShimMessage, ShimRequest, State};
use sampan_os::boot_id;
use sampan_os::{memory, syscall};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

/// Most exits of unknown children that the shim remembers while the runtime starts a process.
const UNKNOWN_EXITS_MAX: usize = 256;
/// Longest time that an ending shim waits until the monitor has accepted its events and all peers have read their
/// messages.
const LINGER: Duration = Duration::from_secs(10);
/// Length of a run after which the shim returns the memory that the start needed to the kernel. Shorter runs are over
/// too soon for that to pay.
pub(crate) const TRIM_AFTER: Duration = Duration::from_millis(500);
/// Interval in which an ending shim checks whether events still wait, during [`LINGER`].
const LINGER_STEP: Duration = Duration::from_millis(100);

/// What the shim is doing with its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The runtime is creating the container.
    Starting,
    /// The container's process runs.
    Alive,
    /// The process has ended, and the runtime is deleting the container.
    Deleting,
    /// The restart policy will start the container again at this time.
    Waiting(Instant),
    /// The container needs the shim no longer. The shim ends when all events and messages are delivered, at this time
    /// at the latest.
    Ending(Instant),
}

/// A stop, a restart or a removal that is running.
#[derive(Debug)]
pub(crate) struct Stopping {
    pub(super) replies: Vec<Reply>,
    /// When the shim will send SIGKILL; `None` if the timeout is unlimited or SIGKILL was sent.
    pub(super) kill_at: Option<Instant>,
    pub(super) then: AfterStop,
}

/// What the shim does after a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterStop {
    Nothing,
    Start,
    /// Remove the container.
    Remove,
}

/// An execution: an additional process in the container.
#[derive(Debug)]
pub(crate) struct Execution {
    pub(super) id: String,
    pub(super) args: String,
    /// ID of the process; 0 until the runtime has started the process.
    pub(super) pid: i32,
    pub(super) stdio: Stdio,
    pub(super) console: Option<Console>,
    /// Rows and columns of the execution's terminal.
    pub(super) size: (u16, u16),
    pub(super) reply: Reply,
    /// Signals that the client sent before the process was started.
    pub(super) early_signals: Vec<i32>,
}

/// The shim of one container.
#[derive(Debug)]
pub(crate) struct Shim {
    pub(super) setup: Setup,
    pub(super) state: State,
    /// The state file, which is opened for the first write.
    state_file: Option<StateFile>,
    pub(super) stage: Stage,
    pub(super) sender: FifoSender,
    pub(super) announcer: Announcer,
    pub(super) stdio: Stdio,
    pub(super) console: Option<Console>,
    pub(super) log: Log,
    pub(super) oom: Option<Oom>,
    pub(super) executions: Vec<Execution>,
    pub(super) commands: Vec<RuntimeCommand>,
    pub(super) command_number: u64,
    /// Clients that leave, and still have to get the rest of their output.
    pub(super) leaving_clients: Vec<Client>,
    pub(super) connections: Vec<Connection>,
    listener: Option<UnixListener>,
    connection_number: u64,
    signals: SignalFd,
    /// IDs and exit statuses of children that have exited before the runtime reported their IDs.
    pub(super) unknown_exits: VecDeque<(i32, i32)>,
    pub(super) stopping: Option<Stopping>,
    /// Requests that came while the container was being started or deleted, each with the number of its connection.
    pub(super) deferred: VecDeque<(u64, ShimRequest, Vec<OwnedFd>)>,
    pub(super) backoff: Backoff,
    /// When the shim returns memory to the kernel; `None` if it has done so in this run.
    pub(super) trim_at: Option<Instant>,
    pub(super) is_mounted: bool,
    pub(super) is_person_restart: bool,
    pub(super) is_auto_restart: bool,
    pub(super) replies_to_start: Vec<Reply>,
    pub(super) replies_to_kill: Vec<Reply>,
    /// Signals that arrived before process 1 had executed the container's program.
    pub(super) early_signals: Vec<i32>,
    /// When the shim sends the early signals again.
    pub(super) early_signals_at: Option<Instant>,
    /// The systemd unit whose main process is this shim, if any.
    pub(super) unit: Option<Box<Unit>>,
}

impl Shim {
    /// Makes the shim from its setup and the connection to the engine; then begins the container's start.
    pub(crate) fn new(begun: Begun) -> Result<Self, String> {
        let Begun { setup, connection, unit, starter, clients } = begun;
        let mask: SigSet =
            [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
        // Block the signals instead of ignoring them: the runtime would inherit ignored signals.
        mask.thread_block().map_err(|errno| errno.to_string())?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&mask, flags).map_err(|errno| errno.to_string())?;
        std::fs::create_dir_all(&setup.run).map_err(|error| error.to_string())?;
        let dir = std::fs::File::open(&setup.run).map_err(|error| error.to_string())?;
        let listener =
            console::listen(&dir.into(), &setup.run.join(SOCKET)).map_err(|error| error.to_string())?;
        let sender = FifoSender::new(setup.fifo.clone());
        let state = State {
            shim: std::process::id().cast_signed(),
            boot: boot_id::read().unwrap_or_default(),
            ..setup.state.clone()
        };
        let mut shim = Shim {
            state,
            state_file: None,
            stage: Stage::Starting,
            announcer: Announcer::new(sender.clone()),
            sender,
            stdio: Stdio::default(),
            console: None,
            log: Log::none(),
            oom: None,
            executions: Vec::new(),
            commands: Vec::new(),
            command_number: 0,
            leaving_clients: Vec::new(),
            connections: vec![connection],
            listener: Some(listener),
            connection_number: 1,
            signals,
            unknown_exits: VecDeque::new(),
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
            early_signals_at: None,
            unit: unit.map(Box::new),
            setup,
        };
        // An earlier shim wrote this state, and the process in the state has ended.
        shim.state.pid = 0;
        let namespace = overlay::enter_namespace();
        if let Some((streams, descriptors)) = starter {
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
        for (streams, descriptors) in clients {
            // A client with a wrong descriptor sees the end of its control socket.
            if let Ok(client) = Client::new(streams, shim.setup.tty, descriptors, false) {
                shim.stdio.clients.push(client);
                shim.announce("attach", &[]);
            }
        }
        match namespace {
            Ok(()) => shim.start(),
            Err(reason) => shim.fail_start(125, reason),
        }
        Ok(shim)
    }

    /// Runs until the container has ended for good and everything is delivered; returns the container's exit code.
    pub(crate) fn run(mut self) -> u8 {
        while !self.is_over() {
            self.wait();
            self.reap();
            self.accept();
            self.receive_requests();
            self.receive_terminals();
            self.pump();
            if self.oom.as_mut().is_some_and(|oom| oom.has_killed()) {
                self.on_oom();
            }
            self.expire(Instant::now());
            self.remove_once_announced();
            self.connections.iter_mut().for_each(Connection::flush);
            self.connections.retain(|connection| connection.is_open);
        }
        self.close();
        u8::try_from(self.state.exit_code).unwrap_or(255)
    }

    fn is_over(&self) -> bool {
        match self.stage {
            Stage::Ending(until) => {
                let is_sent =
                    self.sender.spooled() == 0 && self.connections.iter().all(Connection::is_drained);
                is_sent || Instant::now() >= until
            }
            _ => false,
        }
    }

    /// Ends the loop when all events and messages are delivered, or after [`LINGER`].
    pub(super) fn end(&mut self) {
        self.stage = Stage::Ending(Instant::now() + LINGER);
    }

    /// Closes the shim's socket; the engine may then start another shim. Afterwards serves the clients that have not
    /// read all their output yet.
    fn close(&mut self) {
        let is_sent = self.sender.spooled() == 0 || self.spool_events();
        if !self.state.is_announced && is_sent && self.setup.dir.exists() {
            self.state.is_announced = true;
            self.save();
            self.send_state();
        }
        let _ = overlay::tear_down(&self.setup.rootfs);
        let _ = std::fs::remove_file(self.setup.run.join(SOCKET));
        self.listener = None;
        self.connections.clear();
        while !self.leaving_clients.is_empty() {
            self.wait();
            self.reap();
            self.leaving_clients.retain_mut(|client| !client.try_close());
            if let Some(unit) = &mut self.unit {
                unit.expire(Instant::now());
            }
        }
    }

    /// Saves the events that the monitor has not accepted, so that the engine writes them later. Returns false if they
    /// are lost.
    fn spool_events(&mut self) -> bool {
        let records = self.sender.take_spool();
        let kept = records.is_empty() || event_spool::save(&self.setup.dir, &records).is_ok();
        if !kept {
            self.state.is_announced = false;
        }
        kept
    }

    /// Waits until a descriptor is ready or a deadline has passed.
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
        for client in &self.leaving_clients {
            let (fd, flags) = client.control.interest();
            want(fd, flags);
            for sink in client.sinks.iter().flatten().filter(|sink| !sink.is_empty()) {
                want(sink.as_fd(), PollFlags::POLLOUT);
            }
        }
        // Before the process is started, only the control messages of its clients matter.
        if self.stage != Stage::Starting {
            self.stdio.interest(&self.log, &mut want);
        } else {
            poll_controls(&self.stdio, &mut want);
        }
        let nothing = Log::none();
        for execution in &self.executions {
            execution.console.iter().for_each(|console| want(console.as_fd(), none));
            if execution.pid > 0 {
                execution.stdio.interest(&nothing, &mut want);
            } else {
                poll_controls(&execution.stdio, &mut want);
            }
        }
        let timeout = match self.deadline() {
            _ if is_busy => PollTimeout::ZERO,
            None => PollTimeout::NONE,
            Some(at) => {
                // Round up: poll(2) counts in milliseconds, and with a timeout of 0 the loop would spin until the
                // deadline.
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
        let stage = match self.stage {
            Stage::Waiting(at) => Some(at),
            Stage::Ending(_) if self.listener.is_some() => Some(Instant::now() + LINGER_STEP),
            _ => None,
        };
        commands
            .chain(stage)
            .chain(self.trim_at)
            .chain(self.early_signals_at)
            .chain(self.oom.as_ref().and_then(Oom::deadline))
            .chain(self.unit.as_ref().and_then(|unit| unit.deadline()))
            .chain(self.stopping.as_ref().and_then(|stopping| stopping.kill_at))
            .min()
    }

    /// Reaps every child that has ended and handles its exit. Also handles SIGTERM, by which systemd stops the unit.
    fn reap(&mut self) {
        let mut is_stopped = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let is_end = [Signal::SIGTERM, Signal::SIGINT].iter().any(|end| *end as u32 == signal.ssi_signo);
            is_stopped |= is_end && self.unit.is_some();
        }
        while let Some((pid, status)) = syscall::reap() {
            self.on_child_exit(pid, status);
        }
        // After the listener is closed, another shim may run and write the state.
        if is_stopped && self.listener.is_some() {
            self.on_unit_stop();
        }
    }

    fn on_child_exit(&mut self, pid: i32, status: i32) {
        if let Some(at) = self.commands.iter().position(|command| command.pid == pid) {
            let command = self.commands.swap_remove(at);
            self.on_command(command, status == 0);
        } else if pid == self.state.pid {
            self.on_exit(status);
        } else if let Some(at) = self.executions.iter().position(|execution| execution.pid == pid) {
            self.on_execution_exit(at, status);
        } else {
            // If the runtime is still starting this process, it has not reported the process's ID yet.
            self.unknown_exits.push_back((pid, status));
            if self.unknown_exits.len() > UNKNOWN_EXITS_MAX || self.commands.is_empty() {
                self.unknown_exits.pop_front();
            }
        }
    }

    /// Removes and returns the exit status of process `pid`, if the process exited before the runtime had reported its
    /// ID.
    pub(super) fn take_unknown_exit(&mut self, pid: i32) -> Option<i32> {
        let at = self.unknown_exits.iter().position(|(exited, _)| *exited == pid)?;
        self.unknown_exits.remove(at).map(|(_, status)| status)
    }

    fn accept(&mut self) {
        while let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) {
            let mut connection = Connection::new(stream, self.connection_number);
            self.connection_number += 1;
            connection.send(&ShimMessage::State(self.state.clone()));
            if self.stage == Stage::Starting {
                connection.send(&ShimMessage::Starting);
            }
            self.connections.push(connection);
        }
    }

    fn receive_requests(&mut self) {
        for nth in 0..self.connections.len() {
            let Some(connection) = self.connections.get_mut(nth) else { return };
            connection.receive();
            let number = connection.number;
            while let Some(connection) = self.connections.get_mut(nth) {
                let Some(request) = connection.next_request() else { break };
                let descriptors = connection.take(request.descriptors());
                self.on_request(number, request, descriptors);
            }
        }
    }

    fn receive_terminals(&mut self) {
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

    /// Reads the clients' control messages, moves bytes, and begins to close the clients that leave.
    ///
    /// The order matters: a new terminal size takes effect before the client's next input, and input from before a
    /// detach arrives.
    fn pump(&mut self) {
        let mut controls = Vec::new();
        for (execution, stdio) in self.all_stdio() {
            for client in &mut stdio.clients {
                client.receive_controls(|control| controls.push((execution.map(str::to_owned), control)));
            }
        }
        for (execution, control) in controls {
            self.on_control(execution.as_deref(), control);
        }
        if self.stage != Stage::Starting {
            self.stdio.pump(&mut self.log, self.setup.open_stdin);
        }
        for execution in self.executions.iter_mut().filter(|execution| execution.pid > 0) {
            execution.stdio.pump(&mut Log::none(), false);
        }
        let mut left = Vec::new();
        for (execution, stdio) in self.all_stdio() {
            let leaving: Vec<Client> = stdio.clients.extract_if(.., |client| client.is_leaving).collect();
            for client in leaving {
                if client.ends_stdin && client.stdin.is_some() && !client.control.is_open {
                    stdio.close_stdin();
                }
                left.push((execution.map(str::to_owned), client));
            }
        }
        for (execution, mut client) in left {
            client.close_with(AttachMessage::Detached);
            self.leaving_clients.push(client);
            self.on_control(execution.as_deref(), Control::Detach);
        }
        self.leaving_clients.retain_mut(|client| !client.try_close());
    }

    /// The streams of the container, with `None`, and of each execution, with its ID.
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
            self.kill_even_if_frozen();
        }
        if self.early_signals_at.take_if(|at| *at <= now).is_some() {
            self.signal_again();
        }
        if matches!(self.stage, Stage::Waiting(at) if at <= now) {
            self.start();
        }
        if let Some(unit) = &mut self.unit {
            unit.expire(now);
        }
    }

    /// Writes an event of the container to the monitor FIFO.
    pub(super) fn announce(&self, action: &str, facts: &[(&str, &str)]) {
        self.announcer.container(action, &self.setup.identity, self.state.pid, facts);
    }

    /// Writes the state into the state file. If that fails, records the error in the state that engines get.
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

    /// Sends the state to all connected engines.
    pub(super) fn send_state(&mut self) {
        for connection in &mut self.connections {
            connection.send(&ShimMessage::State(self.state.clone()));
        }
    }

    /// Replies to a request.
    pub(super) fn reply(&mut self, reply: Reply, result: Result<String, (u8, String)>) {
        let Some((to, number)) = reply else { return };
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.number == to) {
            connection.send(&ShimMessage::Reply { number, result });
        }
    }

    /// Starts a command of the runtime. The event loop calls [`Shim::on_command`] when the command has ended.
    pub(super) fn spawn_runtime(
        &mut self,
        purpose: Purpose,
        args: &[&str],
        standard: StandardFds,
    ) -> Result<(), String> {
        let args = args.iter().map(OsString::from).collect();
        self.command_number += 1;
        let inherited = match (&purpose, &self.unit) {
            (Purpose::Start, Some(unit)) => unit.listen.as_slice(),
            _ => &[],
        };
        let command =
            RuntimeCommand::spawn(&self.setup, self.command_number, purpose, args, standard, inherited);
        self.commands.push(command.map_err(|error| error.to_string())?);
        Ok(())
    }
}

/// Calls `want` with each client's control socket.
fn poll_controls<'a>(stdio: &'a Stdio, want: &mut impl FnMut(BorrowedFd<'a>, PollFlags)) {
    for (fd, flags) in stdio.clients.iter().map(|client| client.control.interest()) {
        want(fd, flags);
    }
}
