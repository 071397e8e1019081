//! What engines and clients ask of a shim, and the answers. All of it may race with the container's end.

use super::attach::Client;
use super::console::Console;
use super::event_loop::{Execution, Life, Shim, Stopping, Then};
use super::runtime::{Purpose, Reply, Running};
use super::stdio::Stdio;
use super::{freezer, pid_file};
use nix::errno::Errno;
use sampan_ipc::container::{Control, Exec, Phase, Streams};
use sampan_ipc::sender;
use sampan_ipc::shim::{Ask, Say, What};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Least time that the runtime gets to make what it makes before a stop, a kill, a removal or a signal ends it.
const GRACE: Duration = Duration::from_secs(3);
/// Signals of a client that are kept for a process that is not there yet.
const EARLY_SIGNALS_MAX: usize = 16;

/// When a signal is tried again that came before the container's program was executed.
const SIGNAL_AGAIN: Duration = Duration::from_millis(1);
/// Name of process 1 before that. runc, libcontainer/nsenter.
const RUNTIME_STILL: &str = "runc:[2:INIT]";
/// How long that may last: a program may choose that name for itself.
const RUNTIME_STILL_MAX: Duration = Duration::from_secs(1);

/// Milliseconds of [`What::Stop`] that stand for the container's own.
const OWN_TIMEOUT: i64 = -2;
/// The connection of an ask that nobody waits for.
const NOBODY: u64 = u64::MAX;

impl Shim {
    /// Does what an engine asks; later, if the container is just starting or ending.
    pub(super) fn on_ask(&mut self, from: u64, ask: Ask, descriptors: Option<Vec<OwnedFd>>) {
        let reply = Some((from, ask.number));
        let Some(descriptors) = descriptors else {
            return self.reply(reply, Err((125, "descriptors are missing".to_owned())));
        };
        match ask.what {
            What::Rename(name) => {
                self.setup.identity.name = name;
                self.reply(reply, Ok(String::new()));
            }
            What::Policy(policy) => {
                self.setup.restart = policy;
                self.reply(reply, Ok(String::new()));
            }
            What::Remove if self.is_just_over() => self.follow(reply, Then::Remove),
            What::Restart(..) if self.is_just_over() => self.follow(reply, Then::Start),
            _ if matches!(self.life, Life::Starting | Life::Deleting) => {
                self.hurry_for(&ask.what);
                self.deferred.push_back((from, ask, descriptors));
            }
            what => self.answer(reply, what, descriptors),
        }
    }

    /// systemd ends the unit whose main process this is: as a person's stop.
    pub(super) fn on_unit_stop(&mut self) {
        if let (Some(unit), Some(time)) = (&self.unit, self.timeout_of_stop(OWN_TIMEOUT)) {
            unit.will_stop_within(time);
        }
        let stop = Ask { number: 0, what: What::Stop(0, OWN_TIMEOUT) };
        self.on_ask(NOBODY, stop, Some(Vec::new()));
    }

    /// True while the runtime takes the container away and nothing has been said of what follows.
    fn is_just_over(&self) -> bool {
        self.life == Life::Deleting && self.stopping.is_none() && self.state.phase != Phase::Restarting
    }

    /// Does not let a start that hangs keep what is to end it.
    fn hurry_for(&mut self, what: &What) {
        let timeout = match *what {
            What::Stop(_, timeout) | What::Restart(_, timeout) => self.timeout_of_stop(timeout),
            What::Kill(libc::SIGKILL) | What::Remove => Some(Duration::ZERO),
            _ => None,
        };
        if let Some(timeout) = timeout
            && self.life == Life::Starting
        {
            self.hurry(timeout, |purpose| matches!(purpose, Purpose::Start));
        }
    }

    fn hurry(&mut self, timeout: Duration, is_meant: impl Fn(&Purpose) -> bool) {
        for command in self.commands.iter_mut().filter(|command| is_meant(&command.purpose)) {
            command.hurry(timeout.max(GRACE));
        }
    }

    /// How long a stop waits before it kills; `None` is for ever.
    fn timeout_of_stop(&self, asked: i64) -> Option<Duration> {
        let timeout = if asked == OWN_TIMEOUT { self.setup.stop_timeout_ms } else { asked };
        u64::try_from(timeout).ok().map(Duration::from_millis)
    }

    fn follow(&mut self, reply: Reply, then: Then) {
        self.stopping = Some(Stopping { replies: vec![reply], kill_at: None, then });
    }

    /// Does what was asked meanwhile.
    pub(super) fn do_deferred(&mut self) {
        for (from, ask, descriptors) in std::mem::take(&mut self.deferred) {
            self.on_ask(from, ask, Some(descriptors));
        }
    }

    fn answer(&mut self, reply: Reply, what: What, descriptors: Vec<OwnedFd>) {
        let name = &self.setup.identity.name;
        let not_running = match self.life {
            // What was asked waited for a start that came to nothing.
            Life::Ending(_) if !self.state.error.is_empty() => {
                format!("container {name} is not running: {}", self.state.error)
            }
            _ => format!("container {name} is not running"),
        };
        match (self.life, what) {
            (Life::Waiting(_), What::Stop(..)) => self.stop_waiting(reply),
            (Life::Waiting(_), What::Remove) => self.remove(vec![reply]),
            (Life::Waiting(_), What::Restart(..)) => {
                (self.is_person_restart, self.is_auto_restart, self.state.restarts) = (true, false, 0);
                self.replies_to_start.push(reply);
                self.start();
            }
            // The engine does that itself as soon as it hears that the shim has ended, which is in a moment.
            (Life::Ending(_), What::Remove | What::Restart(..)) => {}
            (Life::Ending(_), What::Stop(..)) => {
                if !self.setup.auto_remove {
                    self.state.stopped_by_hand = true;
                    self.save();
                    self.tell();
                }
                self.reply(reply, Ok(String::new()));
            }
            // As docker: who kills hears when it is dead.
            (Life::Alive, What::Kill(libc::SIGKILL)) => {
                self.state.stopped_by_hand = true;
                self.save();
                self.replies_to_kill.push(reply);
                self.kill_for_good();
            }
            (Life::Alive, What::Kill(signal)) => {
                if self.state.phase == Phase::Paused {
                    // What is frozen takes no signal before it goes on.
                    let _ = self.thaw(None);
                }
                if signal == self.setup.stop_signal {
                    self.state.stopped_by_hand = true;
                    self.save();
                }
                let result = self.signal(signal);
                self.reply(reply, result.map(|()| String::new()).map_err(|reason| (125, reason)));
            }
            (Life::Alive, What::Stop(signal, timeout)) => self.stop(reply, signal, timeout, Then::Nothing),
            (Life::Alive, What::Restart(signal, timeout)) => self.stop(reply, signal, timeout, Then::Start),
            (Life::Alive, What::Remove) => self.stop(reply, libc::SIGKILL, -1, Then::Remove),
            (Life::Alive, What::Pause) => self.freeze(reply),
            (Life::Alive, What::Unpause) if self.state.phase != Phase::Paused => {
                let reason = format!("container {name} is not paused");
                self.reply(reply, Err((125, reason)));
            }
            (Life::Alive, What::Unpause) => {
                if let Err(reason) = self.thaw(reply) {
                    self.reply(reply, Err((125, reason)));
                }
            }
            (Life::Alive, What::Attach(streams)) => self.attach(reply, streams, descriptors),
            (Life::Alive, What::Exec(exec, process)) => self.execute(reply, &exec, &process, descriptors),
            (Life::Alive, What::Pids) => {
                let id = self.setup.identity.id.clone();
                let words = ["ps", "--format", "json", &id];
                if let Err(reason) = self.command(Purpose::Pids(reply), &words, [None, None, None]) {
                    self.reply(reply, Err((125, reason)));
                }
            }
            _ => self.reply(reply, Err((125, not_running))),
        }
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
        self.tell();
        self.reply(reply, Ok(String::new()));
        self.end();
    }

    fn stop(&mut self, reply: Reply, signal: i32, timeout: i64, then: Then) {
        let signal = if signal == 0 { self.setup.stop_signal.max(1) } else { signal };
        let wait = self.timeout_of_stop(timeout);
        let kill_at = wait.and_then(|wait| Instant::now().checked_add(wait));
        match &mut self.stopping {
            Some(stopping) => {
                stopping.replies.push(reply);
                stopping.then = if stopping.then == Then::Remove { Then::Remove } else { then };
                stopping.kill_at = [stopping.kill_at, kill_at].into_iter().flatten().min();
            }
            None => self.stopping = Some(Stopping { replies: vec![reply], kill_at, then }),
        }
        self.state.stopped_by_hand = then != Then::Start;
        self.save();
        if signal == libc::SIGKILL {
            return self.kill_for_good();
        }
        let _ = self.signal(signal);
        if self.state.phase == Phase::Paused {
            let _ = self.thaw(None);
        }
    }

    /// Sends process 1 SIGKILL, which it gets even if it is frozen and the runtime does not thaw it.
    pub(super) fn kill_for_good(&mut self) {
        // Those that still wait would have reached it an instant before its end.
        self.early_at = None;
        for signal in std::mem::take(&mut self.early_signals) {
            self.announce("kill", &[("signal", &signal.to_string())]);
        }
        let _ = self.signal(libc::SIGKILL);
        if self.is_frozen() {
            // One that is still at it would freeze it again.
            self.commands.iter_mut().filter(|command| is_freezing(command)).for_each(Running::kill);
            freezer::thaw(self.state.pid);
        }
    }

    /// True if it is frozen, or may be in a moment.
    fn is_frozen(&self) -> bool {
        self.state.phase == Phase::Paused || self.commands.iter().any(is_freezing)
    }

    fn signal(&mut self, signal: i32) -> Result<(), String> {
        if self.state.pid <= 0 {
            return Err(format!("container {} is not running", self.setup.identity.name));
        }
        if signal != libc::SIGKILL && self.is_runtime_still() {
            if self.early_signals.len() == EARLY_SIGNALS_MAX {
                return Err(format!("{EARLY_SIGNALS_MAX} signals wait for the process already"));
            }
            self.early_signals.push(signal);
            self.early_at = Some(Instant::now() + SIGNAL_AGAIN);
            return Ok(());
        }
        // Not reaped yet, so the id is still its own.
        sampan_os::syscall::send_signal(self.state.pid, signal)
            .map_err(|errno: Errno| format!("cannot send signal {signal}: {errno}"))?;
        self.announce("kill", &[("signal", &signal.to_string())]);
        Ok(())
    }

    /// Sends the signals that came too early.
    pub(super) fn signal_again(&mut self) {
        for signal in std::mem::take(&mut self.early_signals) {
            let _ = self.signal(signal);
        }
    }

    /// True for the moment after a start in which process 1 has not executed the container's program yet. runc's own,
    /// written in Go, would take a signal for its end and exit with 2.
    fn is_runtime_still(&self) -> bool {
        let age = sampan_ipc::time::now().saturating_sub(self.state.started);
        let is_young = age < i64::try_from(RUNTIME_STILL_MAX.as_nanos()).unwrap_or(i64::MAX);
        is_young
            && std::fs::read_to_string(format!("/proc/{}/comm", self.state.pid))
                .is_ok_and(|name| name.trim_end() == RUNTIME_STILL)
    }

    fn freeze(&mut self, reply: Reply) {
        if self.state.phase == Phase::Paused {
            let reason = format!("container {} is already paused", self.setup.identity.name);
            return self.reply(reply, Err((125, reason)));
        }
        let id = self.setup.identity.id.clone();
        if let Err(reason) = self.command(Purpose::Pause(reply), &["pause", &id], [None, None, None]) {
            self.reply(reply, Err((125, reason)));
        }
    }

    fn thaw(&mut self, reply: Reply) -> Result<(), String> {
        let id = self.setup.identity.id.clone();
        self.command(Purpose::Resume(reply), &["resume", &id], [None, None, None])
    }

    /// The runtime has frozen or thawed the container, or has not.
    pub(super) fn on_frozen(&mut self, reply: Reply, is_paused: bool, problem: Option<(u8, String)>) {
        if let Some((_, reason)) = problem {
            // One that was killed may have left it frozen, or have frozen half of it.
            if self.life == Life::Alive && self.state.phase == Phase::Running {
                freezer::thaw(self.state.pid);
            }
            return self.reply(reply, Err((125, reason)));
        }
        if self.life == Life::Alive {
            self.state.phase = if is_paused { Phase::Paused } else { Phase::Running };
            self.save();
            self.announce(if is_paused { "pause" } else { "unpause" }, &[]);
            self.tell();
        }
        self.reply(reply, Ok(String::new()));
        if is_paused && self.stopping.is_some() {
            let _ = self.thaw(None);
        }
    }

    /// The runtime has told the process ids.
    pub(super) fn on_pids(&mut self, reply: Reply, command: &Running, is_done: bool) {
        if !is_done {
            return self.reply(reply, Err((125, command.reason().1)));
        }
        let text = command.output();
        let pids = text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
        self.announce("top", &[]);
        if let Some((to, number)) = reply
            && let Some(connection) = self.connections.iter_mut().find(|connection| connection.number == to)
        {
            connection.say(&Say::Pids(number, pids));
        }
        self.reply(reply, Ok(String::new()));
    }

    fn attach(&mut self, reply: Reply, streams: Streams, descriptors: Vec<OwnedFd>) {
        match Client::new(streams, self.setup.tty, descriptors, false) {
            Err(reason) => self.reply(reply, Err((125, reason))),
            Ok(mut client) => {
                client.control.say(&sampan_ipc::container::Told::Started(self.state.pid));
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
        let words = exec.command.join(" ");
        let mut execution = Execution {
            id,
            words,
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
        self.announce(&format!("exec_create: {}", execution.words), &[("execID", &execution.id)]);
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
        pid_file::replace(&file, process.as_bytes(), 0o600)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        let (file, pidfile) = (file.to_string_lossy().into_owned(), pidfile.to_string_lossy().into_owned());
        let id = self.setup.identity.id.clone();
        let mut words = vec!["exec", "-d", "--process", &file, "--pid-file", &pidfile];
        let address;
        let mut standard = [None, None, None];
        if exec.tty {
            let name = format!("c{}", self.command_number);
            let console = Console::listen(&self.setup.run, &name).map_err(|error| error.to_string())?;
            address = console.address().to_string_lossy().into_owned();
            execution.console = Some(console);
            words.extend(["--console-socket", &address]);
        } else if !exec.detach {
            standard =
                execution.stdio.make_pipes(exec.streams.stdin, true).map_err(|error| error.to_string())?;
        }
        words.push(&id);
        self.command(Purpose::Exec(execution.id.clone()), &words, standard)
    }

    /// What a client says on its control socket, of an execution or of the container itself.
    pub(super) fn on_control(&mut self, execution: Option<&str>, control: Control) {
        match (control, execution) {
            (Control::Signal(signal), None) => self.pass_on(signal),
            (Control::Signal(signal), Some(id)) => self.pass_on_to(id, signal),
            (Control::Detach, None) => self.announce("detach", &[]),
            (Control::Detach, Some(id)) => self.announce("exec_detach", &[("execID", id)]),
            (Control::Resize(rows, columns), None) => match self.stdio.resize(rows, columns) {
                Ok(true) => {
                    let facts = [("height", &*rows.to_string()), ("width", &*columns.to_string())];
                    self.announce("resize", &facts);
                }
                Ok(false) => {}
                Err(_) => self.setup.size = (rows, columns),
            },
            (Control::Resize(rows, columns), Some(id)) => {
                if let Some(execution) = self.executions.iter_mut().find(|execution| execution.id == id) {
                    let _ = execution.stdio.resize(rows, columns);
                }
            }
        }
    }

    /// A client's signal goes to process 1, as soon as there is one; one that is to end it ends a start that hangs.
    fn pass_on(&mut self, signal: i32) {
        if self.life != Life::Starting {
            return drop(self.signal(signal));
        }
        if self.early_signals.len() < EARLY_SIGNALS_MAX {
            self.early_signals.push(signal);
        }
        if is_to_end(signal) {
            self.hurry(Duration::ZERO, |purpose| matches!(purpose, Purpose::Start));
        }
    }

    /// The same for an execution.
    fn pass_on_to(&mut self, id: &str, signal: i32) {
        let Some(execution) = self.executions.iter_mut().find(|execution| execution.id == id) else { return };
        if execution.pid > 0 {
            let _ = sampan_os::syscall::send_signal(execution.pid, signal);
            return;
        }
        if execution.early_signals.len() < EARLY_SIGNALS_MAX {
            execution.early_signals.push(signal);
        }
        if is_to_end(signal) {
            self.hurry(Duration::ZERO, |purpose| matches!(purpose, Purpose::Exec(other) if other == id));
        }
    }
}

fn is_freezing(command: &Running) -> bool {
    matches!(command.purpose, Purpose::Pause(_) | Purpose::Resume(_))
}

/// True for signals by which people and supervisors end a process.
fn is_to_end(signal: i32) -> bool {
    matches!(signal, libc::SIGINT | libc::SIGTERM | libc::SIGQUIT | libc::SIGHUP | libc::SIGKILL)
}
