//! A container's start: mount, runtime, process id, state, and who is told, in that order. docs/run.md.

use super::console::Console;
use super::event_loop::{Execution, Life, Shim, TRIM_AFTER};
use super::log::Log;
use super::oom::Oom;
use super::runtime::{Purpose, Running};
use super::{overlay, sd_notify, systemd_unit};
use sampan_ipc::container::{Control, Phase, Told};
use sampan_ipc::{named_file, time};
use std::path::Path;
use std::time::Instant;

impl Shim {
    /// Begins a start; [`Shim::on_started`] or [`Shim::fail_start`] follows.
    pub(super) fn start(&mut self) {
        self.life = Life::Starting;
        if let Err(reason) = self.try_start() {
            self.fail_start(125, reason);
        }
    }

    fn try_start(&mut self) -> Result<(), String> {
        if !self.is_mounted {
            overlay::set_up(&self.setup.rootfs)?;
            self.is_mounted = true;
        }
        overlay::check(&self.setup.rootfs)?;
        if self.log.is_none() {
            self.log = Log::open(&self.setup.log, &self.setup.identity)
                .map_err(|error| format!("cannot open the log: {error}"))?;
        }
        if let Some(path) = &self.setup.pidfile {
            // Before there is a process whose id could not be told.
            let target = named_file::resolve(path).and_then(|target| named_file::look(&target));
            target.map_err(|error| unwritable(path, &error))?;
        }
        let pidfile = self.setup.run.join("pid");
        let _ = std::fs::remove_file(&pidfile);
        let bundle = self.setup.bundle.to_string_lossy().into_owned();
        let (pidfile, id) = (pidfile.to_string_lossy().into_owned(), self.setup.identity.id.clone());
        let mut words = vec!["run", "-d", "--bundle", &bundle, "--pid-file", &pidfile];
        let address;
        let mut standard = [None, None, None];
        if self.setup.tty {
            let console = Console::listen(&self.setup.run, "console").map_err(|error| error.to_string())?;
            address = console.address().to_string_lossy().into_owned();
            self.console = Some(console);
            words.extend(["--console-socket", &address]);
        } else {
            let with_stdin =
                self.setup.open_stdin || self.stdio.clients.iter().any(|client| client.stdin.is_some());
            standard = self
                .stdio
                .make_pipes(with_stdin, true)
                .map_err(|error| format!("cannot make pipes: {error}"))?;
        }
        let preserved;
        if let Some(unit) = &self.unit {
            self.stdio.clients.extend(unit.client().map_err(|error| error.to_string())?);
            if !unit.listen.is_empty() {
                preserved = unit.listen.len().to_string();
                words.extend(["--preserve-fds", &preserved]);
            }
        }
        words.push(&id);
        self.command(Purpose::Start, &words, standard)
    }

    /// The runtime has made the container, or has not.
    pub(super) fn on_start_command(&mut self, command: &Running, is_done: bool) {
        if !is_done {
            let (status, reason) = command.reason();
            return self.fail_start(status, reason);
        }
        match read_pid(&self.setup.run.join("pid")) {
            Some(pid) => self.on_started(pid),
            None => self.fail_start(125, "the OCI runtime wrote no process id".to_owned()),
        }
    }

    fn on_started(&mut self, pid: i32) {
        self.life = Life::Alive;
        self.trim_at = Some(Instant::now() + TRIM_AFTER);
        self.take_terminal();
        self.state.phase = Phase::Running;
        self.state.pid = pid;
        self.state.started = time::now();
        self.state.error.clear();
        self.state.oom_killed = false;
        self.state.is_announced = false;
        if self.is_auto_restart {
            self.state.restarts += 1;
        }
        self.save();
        if let Some(path) = &self.setup.pidfile
            && let Err(error) = named_file::replace(path, format!("{pid}\n").as_bytes(), 0o644)
        {
            self.state.error = unwritable(path, &error);
            self.save();
        }
        if let Some(socket) = &self.setup.notify {
            sd_notify::ready(socket, self.unit.is_some());
        }
        for client in &mut self.stdio.clients {
            client.control.say(&Told::Started(pid));
        }
        self.announce("start", &[]);
        self.announce_restart();
        self.tell();
        for reply in std::mem::take(&mut self.replies_to_start) {
            self.reply(reply, Ok(String::new()));
        }
        self.signal_again();
        self.oom = Oom::watch(pid, &self.setup.identity.id, self.group_of_unit());
        if let Some(status) = self.take_stranger(pid) {
            self.on_exit(status);
        }
        self.do_deferred();
    }

    /// Says that this was not the first start; how often a policy was the reason, unless a person was.
    fn announce_restart(&mut self) {
        let is_auto = std::mem::take(&mut self.is_auto_restart);
        if std::mem::take(&mut self.is_person_restart) || is_auto {
            let count = self.state.restarts.to_string();
            let facts = [("restartCount", count.as_str())];
            self.announce("restart", if self.state.restarts == 0 { &[] } else { &facts });
        }
    }

    /// A start has failed: told to all, and what the runtime has made of it goes.
    pub(super) fn fail_start(&mut self, status: u8, reason: String) {
        self.stdio.abandon();
        self.console = None;
        if let Some(unit) = &self.unit {
            let reason = format!("cannot start container {}: {reason}", self.setup.identity.name);
            systemd_unit::complain(unit.stderr(), &reason);
        }
        self.early_signals.clear();
        self.state.phase = if self.state.started == 0 { Phase::Created } else { Phase::Exited };
        self.state.pid = 0;
        self.state.exit_code = i32::from(status);
        self.state.error = reason.clone();
        self.state.finished = time::now();
        self.state.is_announced = true;
        self.save();
        self.tell();
        for mut client in std::mem::take(&mut self.stdio.clients) {
            client.leave(Told::Failed(status, reason.clone()));
            self.leaving.push(client);
        }
        for reply in std::mem::take(&mut self.replies_to_start) {
            self.reply(reply, Err((status, reason.clone())));
        }
        self.life = Life::Deleting;
        self.delete();
        self.do_deferred();
    }

    fn take_terminal(&mut self) {
        if let Some(master) = self.console.as_mut().and_then(Console::receive) {
            let _ = self.stdio.set_terminal(master, self.setup.size);
        }
        self.console = None;
    }

    /// The runtime has started an execution, or has not.
    pub(super) fn on_exec_command(&mut self, id: &str, command: &Running, is_done: bool) {
        let Some(at) = self.executions.iter().position(|execution| execution.id == id) else { return };
        let files = ["json", "pid"].map(|kind| self.setup.run.join(format!("exec.{id}.{kind}")));
        let pid = if is_done { read_pid(&files[1]) } else { None };
        files.iter().for_each(|file| drop(std::fs::remove_file(file)));
        match pid {
            Some(pid) => self.on_execution_started(at, pid),
            None => {
                let (status, reason) = command.reason();
                let execution = self.executions.remove(at);
                self.fail_execution(execution, status, reason);
            }
        }
    }

    fn on_execution_started(&mut self, at: usize, pid: i32) {
        let Some(execution) = self.executions.get_mut(at) else { return };
        execution.pid = pid;
        if let Some(master) = execution.console.as_mut().and_then(Console::receive) {
            let _ = execution.stdio.set_terminal(master, execution.size);
        }
        execution.console = None;
        for client in &mut execution.stdio.clients {
            client.control.say(&Told::Started(pid));
        }
        let (id, reply, words) = (execution.id.clone(), execution.reply.take(), execution.words.clone());
        let early_signals = std::mem::take(&mut execution.early_signals);
        self.announce(&format!("exec_start: {words}"), &[("execID", &id)]);
        for signal in early_signals {
            self.on_control(Some(&id), Control::Signal(signal));
        }
        self.reply(reply, Ok(id));
        if let Some(status) = self.take_stranger(pid)
            && let Some(at) = self.executions.iter().position(|execution| execution.pid == pid)
        {
            self.on_execution_exit(at, status);
        }
    }

    /// An execution could not be started.
    pub(super) fn fail_execution(&mut self, mut execution: Execution, status: u8, reason: String) {
        self.announce("exec_die", &[("exitCode", &status.to_string()), ("execID", &execution.id)]);
        self.reply(execution.reply.take(), Err((status, reason.clone())));
        for mut client in std::mem::take(&mut execution.stdio.clients) {
            client.leave(Told::Failed(status, reason.clone()));
            self.leaving.push(client);
        }
    }
}

fn unwritable(pidfile: &Path, error: &std::io::Error) -> String {
    format!("cannot write the pid file {}: {error}", pidfile.display())
}

fn read_pid(path: &Path) -> Option<i32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok().filter(|pid| *pid > 1)
}
