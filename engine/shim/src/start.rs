//! Starts the container, in this order: mount, runtime, process ID, state, events, replies. docs/run.md.

use super::console::Console;
use super::event_loop::{Execution, Shim, Stage, TRIM_AFTER};
use super::log::Log;
use super::oom::Oom;
use super::runtime::{Purpose, RuntimeCommand};
use super::{overlay, sd_notify, systemd_unit};
use sampan_ipc::container::{AttachMessage, Control, Phase};
use sampan_ipc::{named_file, time};
use std::path::Path;
use std::time::Instant;

impl Shim {
    /// Begins a start. [`Shim::on_started`] or [`Shim::fail_start`] is called when the start has succeeded or failed.
    pub(super) fn start(&mut self) {
        self.stage = Stage::Starting;
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
            // Check the PID file's path before the start, so that no container runs whose process ID cannot be
            // written.
            let target = named_file::resolve(path).and_then(|target| named_file::look(&target));
            target.map_err(|error| pidfile_error(path, &error))?;
        }
        let pidfile = self.setup.run.join("pid");
        let _ = std::fs::remove_file(&pidfile);
        let bundle = self.setup.bundle.to_string_lossy().into_owned();
        let (pidfile, id) = (pidfile.to_string_lossy().into_owned(), self.setup.identity.id.clone());
        let mut args = vec!["run", "-d", "--bundle", &bundle, "--pid-file", &pidfile];
        let address;
        let mut standard = [None, None, None];
        if self.setup.tty {
            let console = Console::listen(&self.setup.run, "console").map_err(|error| error.to_string())?;
            address = console.address().to_string_lossy().into_owned();
            self.console = Some(console);
            args.extend(["--console-socket", &address]);
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
                args.extend(["--preserve-fds", &preserved]);
            }
        }
        args.push(&id);
        self.spawn_runtime(Purpose::Start, &args, standard)
    }

    /// Handles the end of the runtime's `run`.
    pub(super) fn on_start_command(&mut self, command: &RuntimeCommand, is_done: bool) {
        if !is_done {
            let (status, reason) = command.reason();
            return self.fail_start(status, reason);
        }
        match read_pid(&self.setup.run.join("pid")) {
            Some(pid) => self.on_started(pid),
            None => self.fail_start(125, "the OCI runtime wrote no valid process id".to_owned()),
        }
    }

    fn on_started(&mut self, pid: i32) {
        self.stage = Stage::Alive;
        self.trim_at = Some(Instant::now() + TRIM_AFTER);
        self.receive_terminal();
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
            self.state.error = pidfile_error(path, &error);
            self.save();
        }
        if let Some(socket) = &self.setup.notify {
            sd_notify::send_ready(socket, self.unit.is_some());
        }
        for client in &mut self.stdio.clients {
            client.control.send(&AttachMessage::Started(pid));
        }
        self.announce("start", &[]);
        self.announce_restart();
        self.send_state();
        for reply in std::mem::take(&mut self.replies_to_start) {
            self.reply(reply, Ok(String::new()));
        }
        self.signal_again();
        self.oom = Oom::watch(pid, &self.setup.identity.id, self.group_of_unit());
        if let Some(status) = self.take_unknown_exit(pid) {
            self.on_exit(status);
        }
        self.run_deferred();
    }

    /// Announces `restart`, unless this was the first start. If the restart policy has started the container, the
    /// event has the number of starts by policy.
    fn announce_restart(&mut self) {
        let is_auto = std::mem::take(&mut self.is_auto_restart);
        if std::mem::take(&mut self.is_person_restart) || is_auto {
            let count = self.state.restarts.to_string();
            let facts = [("restartCount", count.as_str())];
            self.announce("restart", if self.state.restarts == 0 { &[] } else { &facts });
        }
    }

    /// Handles a start that failed: reports `reason` to engines and clients, then deletes what the runtime has
    /// created.
    pub(super) fn fail_start(&mut self, status: u8, reason: String) {
        self.stdio.discard_pipes();
        self.console = None;
        if let Some(unit) = &self.unit {
            let reason = format!("cannot start container {}: {reason}", self.setup.identity.name);
            systemd_unit::write_error(unit.stderr(), &reason);
        }
        self.early_signals.clear();
        self.state.phase = if self.state.started == 0 { Phase::Created } else { Phase::Exited };
        self.state.pid = 0;
        self.state.exit_code = i32::from(status);
        self.state.error = reason.clone();
        self.state.finished = time::now();
        self.state.is_announced = true;
        self.save();
        self.send_state();
        for mut client in std::mem::take(&mut self.stdio.clients) {
            client.close_with(AttachMessage::Failed(status, reason.clone()));
            self.leaving_clients.push(client);
        }
        for reply in std::mem::take(&mut self.replies_to_start) {
            self.reply(reply, Err((status, reason.clone())));
        }
        self.stage = Stage::Deleting;
        self.delete();
        self.run_deferred();
    }

    fn receive_terminal(&mut self) {
        if let Some(master) = self.console.as_mut().and_then(Console::receive) {
            let _ = self.stdio.set_terminal(master, self.setup.size);
        }
        self.console = None;
    }

    /// Handles the end of the runtime's `exec`.
    pub(super) fn on_exec_command(&mut self, id: &str, command: &RuntimeCommand, is_done: bool) {
        let Some(at) = self.executions.iter().position(|execution| execution.id == id) else { return };
        let file = |kind: &str| self.setup.run.join(format!("exec.{id}.{kind}"));
        let pid = if is_done { read_pid(&file("pid")) } else { None };
        ["json", "pid"].iter().for_each(|kind| drop(std::fs::remove_file(file(kind))));
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
            client.control.send(&AttachMessage::Started(pid));
        }
        let (id, reply, args) = (execution.id.clone(), execution.reply.take(), execution.args.clone());
        let early_signals = std::mem::take(&mut execution.early_signals);
        self.announce(&format!("exec_start: {args}"), &[("execID", &id)]);
        for signal in early_signals {
            self.on_control(Some(&id), Control::Signal(signal));
        }
        self.reply(reply, Ok(id));
        if let Some(status) = self.take_unknown_exit(pid)
            && let Some(at) = self.executions.iter().position(|execution| execution.pid == pid)
        {
            self.on_execution_exit(at, status);
        }
    }

    /// Handles an execution that could not be started: reports `reason` to its clients.
    pub(super) fn fail_execution(&mut self, mut execution: Execution, status: u8, reason: String) {
        self.announce("exec_die", &[("exitCode", &status.to_string()), ("execID", &execution.id)]);
        self.reply(execution.reply.take(), Err((status, reason.clone())));
        for mut client in std::mem::take(&mut execution.stdio.clients) {
            client.close_with(AttachMessage::Failed(status, reason.clone()));
            self.leaving_clients.push(client);
        }
    }
}

fn pidfile_error(pidfile: &Path, error: &std::io::Error) -> String {
    format!("cannot write the pid file {}: {error}", pidfile.display())
}

fn read_pid(path: &Path) -> Option<i32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok().filter(|pid| *pid > 1)
}
