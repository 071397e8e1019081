//! Handles the end of the container's process: output, state, `die`, deletion, and the next start. docs/run.md.

use super::dir::remove;
use super::event_loop::{AfterStop, Shim, Stage};
use super::log::Log;
use super::runtime::{Purpose, Reply, RuntimeCommand};
use super::{overlay, restart_policy, runc_leftovers, runtime_commands};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_ipc::container::{AttachMessage, Phase};
use sampan_ipc::shim::ShimMessage;
use sampan_ipc::time;
use sampan_os::{cgroup, remove_tree};
use std::time::{Duration, Instant};

impl Shim {
    /// Handles the end of the container's process. `status` is the exit code.
    pub(super) fn on_exit(&mut self, status: i32) {
        self.stdio.finish(&mut self.log);
        if self.oom.as_mut().is_some_and(|oom| oom.was_missed()) {
            self.on_oom();
        }
        self.oom = None;
        self.trim_at = None;
        (self.early_signals_at, self.early_signals) = (None, Vec::new());
        self.state.finished = time::now();
        self.state.exit_code = status;
        let is_again = restart_policy::starts_again(self.setup.restart, &self.state, self.stopping.is_some());
        self.state.phase = if is_again { Phase::Restarting } else { Phase::Exited };
        let pid = std::mem::take(&mut self.state.pid);
        self.state.is_announced = false;
        self.save();
        let lasted = self.state.finished.saturating_sub(self.state.started).max(0) / 1_000_000_000;
        let facts = [("exitCode", &*status.to_string()), ("execDuration", &*lasted.to_string())];
        self.announcer.container("die", &self.setup.identity, pid, &facts);
        if let Some(stopping) = &self.stopping
            && stopping.then != AfterStop::Remove
        {
            self.announcer.container("stop", &self.setup.identity, 0, &[]);
        }
        self.state.is_announced = self.sender.spooled() == 0;
        self.save();
        self.send_state();
        // Clients get the message last: a client may next ask the engine, which must know the new state by then.
        let message = AttachMessage::Exited(u8::try_from(status).unwrap_or(255));
        for mut client in std::mem::take(&mut self.stdio.clients) {
            client.close_with(message.clone());
            self.leaving_clients.push(client);
        }
        for reply in std::mem::take(&mut self.replies_to_kill) {
            self.reply(reply, Ok(String::new()));
        }
        if self.stopping.as_ref().is_some_and(|stopping| stopping.then == AfterStop::Nothing) {
            self.reply_to_stop();
        }
        self.stage = Stage::Deleting;
        self.delete();
    }

    fn reply_to_stop(&mut self) {
        if let Some(stopping) = &mut self.stopping {
            stopping.kill_at = None;
            for reply in std::mem::take(&mut stopping.replies) {
                self.reply(reply, Ok(String::new()));
            }
        }
    }

    /// Handles a report that the kernel has killed a process for lack of memory.
    pub(super) fn on_oom(&mut self) {
        self.announce("oom", &[]);
        self.state.oom_killed = true;
        self.save();
        self.send_state();
    }

    /// Deletes the runtime's state of the container. Calls [`Shim::on_deleted`] now or when the runtime's `delete` has
    /// ended.
    pub(super) fn delete(&mut self) {
        let id = self.setup.identity.id.clone();
        // Use the runtime's `delete` after a start that failed, and while commands run: only the runtime knows what
        // these have left in the container.
        let is_plain = self.commands.is_empty() && self.state.error.is_empty();
        if is_plain && runc_leftovers::remove(&self.setup.runtime, &id) {
            return self.on_deleted();
        }
        if self.spawn_runtime(Purpose::Delete, &["delete", "--force", &id], [None, None, None]).is_err() {
            self.on_deleted();
        }
    }

    /// Handles the end of the runtime's `delete`. If the command failed or was killed, removes the runtime's leftovers
    /// here.
    pub(super) fn on_delete_command(&mut self, command: &RuntimeCommand, is_done: bool) {
        if !is_done {
            self.remove_leftovers();
            if command.is_killed {
                let (_, reason) = command.reason();
                self.state.error = [self.state.error.as_str(), &format!("delete: {reason}")].join("; ");
                self.state.error = self.state.error.trim_start_matches("; ").to_owned();
            }
        }
        self.on_deleted();
    }

    fn remove_leftovers(&self) {
        let id = &self.setup.identity.id;
        if let Some(root) = self.setup.runtime.iter().skip_while(|word| *word != "--root").nth(1) {
            runtime_commands::remove_state(root.as_ref(), id);
        }
        cgroup::remove_groups(id, self.group_of_unit());
    }

    /// The control group of the systemd unit whose main process is this shim.
    pub(super) fn group_of_unit(&self) -> Option<&str> {
        self.unit.as_ref().map(|unit| unit.group.as_str())
    }

    /// Handles the end of the deletion: cleans up, then removes the container, starts it again, or ends the shim.
    pub(super) fn on_deleted(&mut self) {
        // The container is gone, so a command that is still running hangs.
        self.commands.iter_mut().for_each(RuntimeCommand::kill);
        self.kill_children();
        self.end_executions();
        if !self.state.error.is_empty() {
            // The start failed. The runtime may have been killed before it recorded what it had created.
            self.remove_leftovers();
        }
        if let Some(group) = self.group_of_unit() {
            cgroup::remove_unit_groups(group);
        }
        let stopping = self.stopping.take();
        let then = stopping.as_ref().map_or(AfterStop::Nothing, |stopping| stopping.then);
        let mut replies = stopping.map(|stopping| stopping.replies).unwrap_or_default();
        match then {
            AfterStop::Remove => self.remove(replies),
            AfterStop::Start => {
                self.is_person_restart = true;
                self.state.restarts = 0;
                self.state.stopped_by_hand = false;
                self.replies_to_start.append(&mut replies);
                self.start();
            }
            AfterStop::Nothing if self.state.phase == Phase::Restarting => {
                let lasted = self.state.finished.saturating_sub(self.state.started);
                let lasted = Duration::from_nanos(u64::try_from(lasted).unwrap_or(0));
                self.is_auto_restart = true;
                self.stage = Stage::Waiting(Instant::now() + self.backoff.next_delay(lasted));
                self.run_deferred();
            }
            AfterStop::Nothing if self.setup.auto_remove && self.sender.spooled() == 0 => {
                self.remove(replies)
            }
            AfterStop::Nothing => {
                self.finish();
                for reply in replies {
                    self.reply(reply, Ok(String::new()));
                }
            }
        }
    }

    /// Ends the shim after the last run, and keeps the container.
    fn finish(&mut self) {
        self.state.shim = 0;
        self.save();
        self.send_state();
        self.end();
        self.run_deferred();
    }

    /// Removes a container with `--rm` after the monitor has accepted the event of its end. Until then the container
    /// stays on the disk, so that an engine can announce the end if this shim cannot.
    pub(super) fn remove_once_announced(&mut self) {
        let is_ending = matches!(self.stage, Stage::Ending(_));
        let is_left = self.setup.auto_remove && self.state.phase != Phase::Dead && self.setup.dir.exists();
        if is_ending && is_left && self.sender.spooled() == 0 {
            self.state.is_announced = true;
            self.remove(Vec::new());
        }
    }

    /// Removes the container and ends the shim. If the removal fails, the container stays with the phase `dead`.
    pub(super) fn remove(&mut self, replies: Vec<Reply>) {
        self.log = Log::none();
        match self.remove_files() {
            Ok(()) => {
                for reply in replies {
                    self.reply(reply, Ok(String::new()));
                }
                self.connections.iter_mut().for_each(|connection| connection.send(&ShimMessage::Removed));
                self.end();
                self.run_deferred();
            }
            Err(reason) => {
                let reason = format!("cannot remove the container: {reason}");
                self.state.phase = Phase::Dead;
                self.state.error.clone_from(&reason);
                for reply in replies {
                    self.reply(reply, Err((125, reason.clone())));
                }
                self.finish();
            }
        }
    }

    fn remove_files(&mut self) -> Result<(), String> {
        overlay::tear_down(&self.setup.rootfs)?;
        self.is_mounted = false;
        let remove_dirs = || {
            let left = remove::hide_and_empty(&self.setup.dir)?;
            remove_tree::remove(&self.setup.run)?;
            if let Some(left) = left {
                self.announcer.container("destroy", &self.setup.identity, 0, &[]);
                remove::finish(&left)?;
            }
            Ok(())
        };
        remove_dirs().map_err(|error: std::io::Error| error.to_string())
    }

    /// Kills the processes of the container that have become children of the shim, which is their subreaper. They are
    /// in another PID namespace than the container, so the kernel does not kill them with process 1.
    fn kill_children(&self) {
        let path = format!("/proc/self/task/{}/children", std::process::id());
        for pid in std::fs::read_to_string(path).unwrap_or_default().split_ascii_whitespace() {
            if let Ok(pid) = pid.parse()
                && !self.commands.iter().any(|command| command.pid == pid)
            {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// Ends every execution and announces its end: no execution outlives its container.
    fn end_executions(&mut self) {
        while let Some(execution) = self.executions.first() {
            match execution.pid > 0 {
                true => self.on_execution_exit(0, 128 + Signal::SIGKILL as i32),
                false => {
                    let execution = self.executions.remove(0);
                    self.fail_execution(execution, 125, "the container has ended".to_owned());
                }
            }
        }
    }

    /// Handles the end of a command of the runtime.
    pub(super) fn on_command(&mut self, command: RuntimeCommand, is_done: bool) {
        match command.purpose.clone() {
            Purpose::Start => self.on_start_command(&command, is_done),
            Purpose::Delete => self.on_delete_command(&command, is_done),
            Purpose::Exec(id) => self.on_exec_command(&id, &command, is_done),
            Purpose::Pause(reply) => {
                self.on_freeze_command(reply, true, (!is_done).then(|| command.reason()))
            }
            Purpose::Resume(reply) => {
                self.on_freeze_command(reply, false, (!is_done).then(|| command.reason()))
            }
            Purpose::Pids(reply) => self.on_pids_command(reply, &command, is_done),
        }
        if self.commands.is_empty() {
            self.unknown_exits.clear();
        }
    }

    /// Handles the end of an execution's process.
    pub(super) fn on_execution_exit(&mut self, at: usize, status: i32) {
        let mut execution = self.executions.remove(at);
        execution.stdio.finish(&mut Log::none());
        for mut client in std::mem::take(&mut execution.stdio.clients) {
            client.close_with(AttachMessage::Exited(u8::try_from(status).unwrap_or(255)));
            self.leaving_clients.push(client);
        }
        self.announce("exec_die", &[("exitCode", &status.to_string()), ("execID", &execution.id)]);
    }
}
