//! Requests of engines and clients, and the replies. A request may arrive while the container is ending, so each
//! request is matched with the stages in which it is possible.

use super::attach::Client;
use super::console::Console;
use super::event_loop::{AfterStop, Execution, Shim, Stage, Stopping};
use super::runtime::{Purpose, Reply, RuntimeCommand};
use super::stdio::Stdio;
use super::{atomic_file, freezer};
use nix::errno::Errno;
use sampan_ipc::container::{Control, Exec, Phase, Streams};
use sampan_ipc::sender;
use sampan_ipc::shim::{Action, ShimMessage, ShimRequest};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Least time for the runtime to start a container or an execution before a stop, a kill, a removal or a signal ends
/// it.
const RUNTIME_TIME_MIN: Duration = Duration::from_secs(3);
/// Most signals that the shim keeps for a process that has not started yet.
const EARLY_SIGNALS_MAX: usize = 16;

/// Delay after which the shim sends again a signal that came before process 1 had executed the container's program.
const SIGNAL_RETRY_DELAY: Duration = Duration::from_millis(1);
/// Name of process 1 before it has executed the container's program. runc, libcontainer/nsenter.
const RUNC_INIT_NAME: &str = "runc:[2:INIT]";
/// Time after a start in which the shim trusts [`RUNC_INIT_NAME`]. Later, the container's program may have chosen this
/// name.
const RUNC_INIT_TIME_MAX: Duration = Duration::from_secs(1);

/// The timeout in an [`Action::Stop`] that means the container's own stop timeout.
const CONFIGURED_TIMEOUT: i64 = -2;
/// The connection number of a request without a reply.
const NO_CONNECTION: u64 = u64::MAX;

impl Shim {
    /// Runs a request of an engine; defers the request while the container is being started or deleted.
    pub(super) fn on_request(&mut self, from: u64, request: ShimRequest, descriptors: Option<Vec<OwnedFd>>) {
        let reply = Some((from, request.number));
        let Some(descriptors) = descriptors else {
            return self.reply(reply, Err((125, "descriptors are missing".to_owned())));
        };
        match request.action {
            Action::Rename(name) => {
                self.setup.identity.name = name;
                self.reply(reply, Ok(String::new()));
            }
            Action::Policy(policy) => {
                self.setup.restart = policy;
                self.reply(reply, Ok(String::new()));
            }
            Action::Remove if self.is_final_deletion() => self.queue_after_deletion(reply, AfterStop::Remove),
            Action::Restart(..) if self.is_final_deletion() => {
                self.queue_after_deletion(reply, AfterStop::Start)
            }
            _ if matches!(self.stage, Stage::Starting | Stage::Deleting) => {
                self.shorten_start_for(&request.action);
                self.deferred.push_back((from, request, descriptors));
            }
            action => self.run_request(reply, action, descriptors),
        }
    }

    /// Handles a SIGTERM from systemd, which stops the unit whose main process is this shim, like a stop by a person.
    pub(super) fn on_unit_stop(&mut self) {
        if let (Some(unit), Some(time)) = (&self.unit, self.timeout_of_stop(CONFIGURED_TIMEOUT)) {
            unit.extend_stop_timeout(time);
        }
        let stop = ShimRequest { number: 0, action: Action::Stop(0, CONFIGURED_TIMEOUT) };
        self.on_request(NO_CONNECTION, stop, Some(Vec::new()));
    }

    /// Whether the container is being deleted, and neither a request nor the restart policy will start or remove it.
    fn is_final_deletion(&self) -> bool {
        self.stage == Stage::Deleting && self.stopping.is_none() && self.state.phase != Phase::Restarting
    }

    /// Shortens the deadline of a start that may hang, if `action` ends the container.
    fn shorten_start_for(&mut self, action: &Action) {
        let timeout = match *action {
            Action::Stop(_, timeout) | Action::Restart(_, timeout) => self.timeout_of_stop(timeout),
            Action::Kill(libc::SIGKILL) | Action::Remove => Some(Duration::ZERO),
            _ => None,
        };
        if let Some(timeout) = timeout
            && self.stage == Stage::Starting
        {
            self.shorten_commands(timeout, |purpose| matches!(purpose, Purpose::Start));
        }
    }

    fn shorten_commands(&mut self, timeout: Duration, is_meant: impl Fn(&Purpose) -> bool) {
        for command in self.commands.iter_mut().filter(|command| is_meant(&command.purpose)) {
            command.shorten_deadline(timeout.max(RUNTIME_TIME_MIN));
        }
    }

    /// How long a stop waits before it sends SIGKILL; `None` means without limit. `requested` is the timeout in
    /// [`Action::Stop`].
    fn timeout_of_stop(&self, requested: i64) -> Option<Duration> {
        let timeout = if requested == CONFIGURED_TIMEOUT { self.setup.stop_timeout_ms } else { requested };
        u64::try_from(timeout).ok().map(Duration::from_millis)
    }

    fn queue_after_deletion(&mut self, reply: Reply, then: AfterStop) {
        self.stopping = Some(Stopping { replies: vec![reply], kill_at: None, then });
    }

    /// Runs the requests that were deferred during the start or the deletion.
    pub(super) fn run_deferred(&mut self) {
        for (from, request, descriptors) in std::mem::take(&mut self.deferred) {
            self.on_request(from, request, Some(descriptors));
        }
    }

    fn run_request(&mut self, reply: Reply, action: Action, descriptors: Vec<OwnedFd>) {
        let name = &self.setup.identity.name;
        let not_running = match self.stage {
            // The request was deferred during a start, and the start failed.
            Stage::Ending(_) if !self.state.error.is_empty() => {
                format!("container {name} is not running: {}", self.state.error)
            }
            _ => format!("container {name} is not running"),
        };
        match (self.stage, action) {
            (Stage::Waiting(_), Action::Stop(..)) => self.stop_waiting(reply),
            (Stage::Waiting(_), Action::Remove) => self.remove(vec![reply]),
            (Stage::Waiting(_), Action::Restart(..)) => {
                (self.is_person_restart, self.is_auto_restart, self.state.restarts) = (true, false, 0);
                self.replies_to_start.push(reply);
                self.start();
            }
            // Do not reply: the shim ends soon, and the engine then runs the request itself.
            (Stage::Ending(_), Action::Remove | Action::Restart(..)) => {}
            (Stage::Ending(_), Action::Stop(..)) => {
                if !self.setup.auto_remove {
                    self.state.stopped_by_hand = true;
                    self.save();
                    self.send_state();
                }
                self.reply(reply, Ok(String::new()));
            }
            // The reply to SIGKILL comes when the container has ended, as in docker.
            (Stage::Alive, Action::Kill(libc::SIGKILL)) => {
                self.state.stopped_by_hand = true;
                self.save();
                self.replies_to_kill.push(reply);
                self.kill_even_if_frozen();
            }
            (Stage::Alive, Action::Kill(signal)) => {
                if self.state.phase == Phase::Paused {
                    // A frozen process handles a signal only when it is thawed.
                    let _ = self.thaw(None);
                }
                if signal == self.setup.stop_signal {
                    self.state.stopped_by_hand = true;
                    self.save();
                }
                let result = self.signal(signal);
                self.reply(reply, result.map(|()| String::new()).map_err(|reason| (125, reason)));
            }
            (Stage::Alive, Action::Stop(signal, timeout)) => {
                self.stop(reply, signal, timeout, AfterStop::Nothing)
            }
            (Stage::Alive, Action::Restart(signal, timeout)) => {
                self.stop(reply, signal, timeout, AfterStop::Start)
            }
            (Stage::Alive, Action::Remove) => self.stop(reply, libc::SIGKILL, -1, AfterStop::Remove),
            (Stage::Alive, Action::Pause) => self.freeze(reply),
            (Stage::Alive, Action::Unpause) if self.state.phase != Phase::Paused => {
                let reason = format!("container {name} is not paused");
                self.reply(reply, Err((125, reason)));
            }
            (Stage::Alive, Action::Unpause) => {
                if let Err(reason) = self.thaw(reply) {
                    self.reply(reply, Err((125, reason)));
                }
            }
            (Stage::Alive, Action::Attach(streams)) => self.attach(reply, streams, descriptors),
            (Stage::Alive, Action::Exec(exec, process)) => self.execute(reply, &exec, &process, descriptors),
            (Stage::Alive, Action::Pids) => {
                let id = self.setup.identity.id.clone();
                let args = ["ps", "--format", "json", &id];
                if let Err(reason) = self.spawn_runtime(Purpose::Pids(reply), &args, [None, None, None]) {
                    self.reply(reply, Err((125, reason)));
                }
            }
            (Stage::Alive, Action::Resize { execution, rows, columns }) => {
                let result = self.resize(&execution, rows, columns);
                self.reply(reply, result.map(|()| String::new()).map_err(|reason| (125, reason)));
            }
            _ => self.reply(reply, Err((125, not_running))),
        }
    }

    /// Sets the size of the terminal of process 1, or of the execution `execution` if it is not empty.
    fn resize(&mut self, execution: &str, rows: u16, columns: u16) -> Result<(), String> {
        if !execution.is_empty() {
            let name = &self.setup.identity.name;
            let of = self.executions.iter_mut().find(|other| other.id == execution);
            let of = of.ok_or_else(|| format!("container {name} has no running execution {execution}"))?;
            // The runtime may not have handed over the terminal yet.
            of.size = (rows, columns);
            return match of.console {
                Some(_) => Ok(()),
                None => of.stdio.resize(rows, columns).map(drop).map_err(|error| error.to_string()),
            };
        }
        if self.stdio.resize(rows, columns).map_err(|error| error.to_string())? {
            let facts = [("height", &*rows.to_string()), ("width", &*columns.to_string())];
            self.announce("resize", &facts);
        }
        Ok(())
    }

    fn stop_waiting(&mut self, reply: Reply) {
        self.state.phase = Phase::Exited;
        self.state.stopped_by_hand = true;
        self.announce("stop", &[]);
        if self.setup.auto_remove {
            return self.remove(vec![reply]);
        }
        self.state.shim = 0;
        self.save();
        self.send_state();
        self.reply(reply, Ok(String::new()));
        self.end();
    }

    fn stop(&mut self, reply: Reply, signal: i32, timeout: i64, then: AfterStop) {
        let signal = if signal == 0 { self.setup.stop_signal.max(1) } else { signal };
        let wait = self.timeout_of_stop(timeout);
        let kill_at = wait.and_then(|wait| Instant::now().checked_add(wait));
        match &mut self.stopping {
            Some(stopping) => {
                stopping.replies.push(reply);
                stopping.then = if stopping.then == AfterStop::Remove { AfterStop::Remove } else { then };
                stopping.kill_at = [stopping.kill_at, kill_at].into_iter().flatten().min();
            }
            None => self.stopping = Some(Stopping { replies: vec![reply], kill_at, then }),
        }
        self.state.stopped_by_hand = then != AfterStop::Start;
        self.save();
        if signal == libc::SIGKILL {
            return self.kill_even_if_frozen();
        }
        let _ = self.signal(signal);
        if self.state.phase == Phase::Paused {
            let _ = self.thaw(None);
        }
    }

    /// Sends SIGKILL to process 1. Thaws the process without the runtime if it is frozen.
    pub(super) fn kill_even_if_frozen(&mut self) {
        // Do not send early signals any more. They are announced as sent, since process 1 could have got them just
        // before its end.
        self.early_signals_at = None;
        for signal in std::mem::take(&mut self.early_signals) {
            self.announce("kill", &[("signal", &signal.to_string())]);
        }
        let _ = self.signal(libc::SIGKILL);
        if self.is_frozen() {
            // Kill running commands that could freeze the container again.
            self.commands.iter_mut().filter(|command| is_freezing(command)).for_each(RuntimeCommand::kill);
            freezer::thaw(self.state.pid);
        }
    }

    /// Whether the container is frozen, or a running command may freeze it.
    fn is_frozen(&self) -> bool {
        self.state.phase == Phase::Paused || self.commands.iter().any(is_freezing)
    }

    fn signal(&mut self, signal: i32) -> Result<(), String> {
        if self.state.pid <= 0 {
            return Err(format!("container {} is not running", self.setup.identity.name));
        }
        if signal != libc::SIGKILL && self.is_runtime_init() {
            if self.early_signals.len() == EARLY_SIGNALS_MAX {
                return Err(format!(
                    "cannot send signal {signal}: {EARLY_SIGNALS_MAX} signals wait for the process already"
                ));
            }
            self.early_signals.push(signal);
            self.early_signals_at = Some(Instant::now() + SIGNAL_RETRY_DELAY);
            return Ok(());
        }
        // The process is not reaped yet, so no other process can have its ID.
        sampan_os::syscall::send_signal(self.state.pid, signal)
            .map_err(|errno: Errno| format!("cannot send signal {signal}: {errno}"))?;
        self.announce("kill", &[("signal", &signal.to_string())]);
        Ok(())
    }

    /// Sends the early signals again; keeps the signals for another delay if process 1 still runs runc's program.
    pub(super) fn signal_again(&mut self) {
        for signal in std::mem::take(&mut self.early_signals) {
            let _ = self.signal(signal);
        }
    }

    /// Whether process 1 still runs runc's own program, and has not executed the container's program. Go's signal
    /// handling would end runc's program with status 2 on a signal.
    fn is_runtime_init(&self) -> bool {
        let age = sampan_ipc::time::now().saturating_sub(self.state.started);
        let is_young = age < i64::try_from(RUNC_INIT_TIME_MAX.as_nanos()).unwrap_or(i64::MAX);
        is_young
            && std::fs::read_to_string(format!("/proc/{}/comm", self.state.pid))
                .is_ok_and(|name| name.trim_end() == RUNC_INIT_NAME)
    }

    fn freeze(&mut self, reply: Reply) {
        if self.state.phase == Phase::Paused {
            let reason = format!("container {} is already paused", self.setup.identity.name);
            return self.reply(reply, Err((125, reason)));
        }
        let id = self.setup.identity.id.clone();
        if let Err(reason) = self.spawn_runtime(Purpose::Pause(reply), &["pause", &id], [None, None, None]) {
            self.reply(reply, Err((125, reason)));
        }
    }

    fn thaw(&mut self, reply: Reply) -> Result<(), String> {
        let id = self.setup.identity.id.clone();
        self.spawn_runtime(Purpose::Resume(reply), &["resume", &id], [None, None, None])
    }

    /// Handles the end of the runtime's `pause` or `resume`. `problem` is the reason why the command failed.
    pub(super) fn on_freeze_command(&mut self, reply: Reply, is_paused: bool, problem: Option<(u8, String)>) {
        if let Some((_, reason)) = problem {
            // A command that was killed may have left all or some processes of the container frozen.
            if self.stage == Stage::Alive && self.state.phase == Phase::Running {
                freezer::thaw(self.state.pid);
            }
            return self.reply(reply, Err((125, reason)));
        }
        if self.stage == Stage::Alive {
            self.state.phase = if is_paused { Phase::Paused } else { Phase::Running };
            self.save();
            self.announce(if is_paused { "pause" } else { "unpause" }, &[]);
            self.send_state();
        }
        self.reply(reply, Ok(String::new()));
        if is_paused && self.stopping.is_some() {
            let _ = self.thaw(None);
        }
    }

    /// Handles the end of the runtime's `ps`.
    pub(super) fn on_pids_command(&mut self, reply: Reply, command: &RuntimeCommand, is_done: bool) {
        if !is_done {
            return self.reply(reply, Err((125, command.reason().1)));
        }
        let text = command.output();
        let pids = text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
        self.announce("top", &[]);
        if let Some((to, number)) = reply
            && let Some(connection) = self.connections.iter_mut().find(|connection| connection.number == to)
        {
            connection.send(&ShimMessage::Pids(number, pids));
        }
        self.reply(reply, Ok(String::new()));
    }

    fn attach(&mut self, reply: Reply, streams: Streams, descriptors: Vec<OwnedFd>) {
        match Client::new(streams, self.setup.tty, descriptors, false) {
            Err(reason) => self.reply(reply, Err((125, reason))),
            Ok(mut client) => {
                client.control.send(&sampan_ipc::container::AttachMessage::Started(self.state.pid));
                self.stdio.clients.push(client);
                self.announce("attach", &[]);
                self.reply(reply, Ok(String::new()));
            }
        }
    }

    fn execute(&mut self, reply: Reply, exec: &Exec, process: &str, descriptors: Vec<OwnedFd>) {
        let id = format!(
            "{:016x}{:016x}{:016x}{:016x}",
            sender::random(),
            sender::random(),
            sender::random(),
            sender::random()
        );
        let args = exec.command.join(" ");
        let mut execution = Execution {
            id,
            args,
            pid: 0,
            stdio: Stdio::default(),
            console: None,
            size: exec.size,
            reply,
            early_signals: Vec::new(),
        };
        if !exec.detach {
            match Client::new(exec.streams, exec.tty, descriptors, true) {
                Ok(client) => execution.stdio.clients.push(client),
                Err(reason) => return self.reply(reply, Err((125, reason))),
            }
        }
        self.announce(&format!("exec_create: {}", execution.args), &[("execID", &execution.id)]);
        match self.begin_execution(&mut execution, exec, process) {
            Ok(()) => self.executions.push(execution),
            Err(reason) => self.fail_execution(execution, 125, reason),
        }
    }

    fn begin_execution(
        &mut self,
        execution: &mut Execution,
        exec: &Exec,
        process: &str,
    ) -> Result<(), String> {
        let name = |kind: &str| self.setup.run.join(format!("exec.{}.{kind}", execution.id));
        let (file, pidfile) = (name("json"), name("pid"));
        atomic_file::replace(&file, process.as_bytes(), 0o600)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        let (file, pidfile) = (file.to_string_lossy().into_owned(), pidfile.to_string_lossy().into_owned());
        let id = self.setup.identity.id.clone();
        let mut args = vec!["exec", "-d", "--process", &file, "--pid-file", &pidfile];
        let address;
        let mut standard = [None, None, None];
        if exec.tty {
            let name = format!("c{}", self.command_number);
            let console = Console::listen(&self.setup.run, &name).map_err(|error| error.to_string())?;
            address = console.address().to_string_lossy().into_owned();
            execution.console = Some(console);
            args.extend(["--console-socket", &address]);
        } else if !exec.detach {
            standard =
                execution.stdio.make_pipes(exec.streams.stdin, true).map_err(|error| error.to_string())?;
        }
        args.push(&id);
        self.spawn_runtime(Purpose::Exec(execution.id.clone()), &args, standard)
    }

    /// Handles a control message of a client of the execution `execution`; of the container if `execution` is `None`.
    pub(super) fn on_control(&mut self, execution: Option<&str>, control: Control) {
        match (control, execution) {
            (Control::Signal(signal), None) => self.forward_signal(signal),
            (Control::Signal(signal), Some(id)) => self.forward_exec_signal(id, signal),
            // `Client` handles this message.
            (Control::StdinOnce, _) => {}
            (Control::Detach, None) => self.announce("detach", &[]),
            (Control::Detach, Some(id)) => self.announce("exec_detach", &[("execID", id)]),
            (Control::Resize(rows, columns), None) => {
                if self.resize("", rows, columns).is_err() {
                    self.setup.size = (rows, columns);
                }
            }
            (Control::Resize(rows, columns), Some(id)) => drop(self.resize(id, rows, columns)),
        }
    }

    /// Forwards a client's signal to process 1 when the process runs. A signal that terminates also ends a start that
    /// hangs.
    fn forward_signal(&mut self, signal: i32) {
        if self.stage != Stage::Starting {
            return drop(self.signal(signal));
        }
        if self.early_signals.len() < EARLY_SIGNALS_MAX {
            self.early_signals.push(signal);
        }
        if is_terminating(signal) {
            self.shorten_commands(Duration::ZERO, |purpose| matches!(purpose, Purpose::Start));
        }
    }

    /// Forwards a client's signal to an execution's process when the process runs. A signal that terminates also ends
    /// a start of the execution that hangs.
    fn forward_exec_signal(&mut self, id: &str, signal: i32) {
        let Some(execution) = self.executions.iter_mut().find(|execution| execution.id == id) else { return };
        if execution.pid > 0 {
            let _ = sampan_os::syscall::send_signal(execution.pid, signal);
            return;
        }
        if execution.early_signals.len() < EARLY_SIGNALS_MAX {
            execution.early_signals.push(signal);
        }
        if is_terminating(signal) {
            self.shorten_commands(
                Duration::ZERO,
                |purpose| matches!(purpose, Purpose::Exec(other) if other == id),
            );
        }
    }
}

fn is_freezing(command: &RuntimeCommand) -> bool {
    matches!(command.purpose, Purpose::Pause(_) | Purpose::Resume(_))
}

/// Whether people and supervisors usually end a process by this signal.
fn is_terminating(signal: i32) -> bool {
    matches!(signal, libc::SIGINT | libc::SIGTERM | libc::SIGQUIT | libc::SIGHUP | libc::SIGKILL)
}
