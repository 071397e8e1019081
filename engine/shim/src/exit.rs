//! A container's end: output, state, `die`, what is left of it, and what follows. docs/run.md.

use super::dir::remove;
use super::event_loop::{Life, Shim, Then};
use super::log::Log;
use super::runtime::{Purpose, Running};
use super::{overlay, runc_leftovers, runtime_commands};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_ipc::container::{Phase, Told};
use sampan_ipc::shim::Say;
use sampan_ipc::time;
use sampan_os::{cgroup, remove_tree};
use std::time::{Duration, Instant};

impl Shim {
    /// Process 1 has ended.
    pub(super) fn on_exit(&mut self, status: i32) {
        self.stdio.finish(&mut self.log);
        if self.oom.as_mut().is_some_and(|oom| oom.was_missed()) {
            self.on_oom();
        }
        self.oom = None;
        self.trim_at = None;
        (self.early_at, self.early_signals) = (None, Vec::new());
        self.state.finished = time::now();
        self.state.exit_code = status;
        let (policy, by_hand) = (self.setup.restart, self.state.stopped_by_hand);
        let is_again = self.stopping.is_none() && policy.starts_again(status, self.state.restarts, by_hand);
        self.state.phase = if is_again { Phase::Restarting } else { Phase::Exited };
        let pid = std::mem::take(&mut self.state.pid);
        self.state.is_announced = false;
        self.save();
        let lasted = self.state.finished.saturating_sub(self.state.started).max(0) / 1_000_000_000;
        let facts = [("exitCode", &*status.to_string()), ("execDuration", &*lasted.to_string())];
        self.announcer.container("die", &self.setup.identity, pid, &facts);
        if let Some(stopping) = &self.stopping
            && stopping.then != Then::Remove
        {
            self.announcer.container("stop", &self.setup.identity, 0, &[]);
        }
        self.state.is_announced = self.sender.spooled() == 0;
        self.save();
        self.tell();
        // Last: who hears this may ask the engine something that depends on it.
        let told = Told::Exited(u8::try_from(status).unwrap_or(255));
        for mut client in std::mem::take(&mut self.stdio.clients) {
            client.leave(told.clone());
            self.leaving.push(client);
        }
        for reply in std::mem::take(&mut self.replies_to_kill) {
            self.reply(reply, Ok(String::new()));
        }
        if self.stopping.as_ref().is_some_and(|stopping| stopping.then == Then::Nothing) {
            self.answer_stop();
        }
        self.life = Life::Deleting;
        self.delete();
    }

    fn answer_stop(&mut self) {
        if let Some(stopping) = &mut self.stopping {
            stopping.kill_at = None;
            for reply in std::mem::take(&mut stopping.replies) {
                self.reply(reply, Ok(String::new()));
            }
        }
    }

    /// The kernel has killed something in it for memory.
    pub(super) fn on_oom(&mut self) {
        self.announce("oom", &[]);
        self.state.oom_killed = true;
        self.save();
        self.tell();
    }

    /// The runtime takes away what it has of the container.
    pub(super) fn delete(&mut self) {
        let id = self.setup.identity.id.clone();
        // While a command runs, there may be a process of it in the container; what did not start may have left more.
        let is_plain = self.commands.is_empty() && self.state.error.is_empty();
        if is_plain && runc_leftovers::remove(&self.setup.runtime, &id) {
            return self.on_deleted();
        }
        if self.command(Purpose::Delete, &["delete", "--force", &id], [None, None, None]).is_err() {
            self.on_deleted();
        }
    }

    /// The runtime's command has ended; what a runtime that hung, or was killed, has not taken away goes without it.
    pub(super) fn on_delete_command(&mut self, command: &Running, is_done: bool) {
        if !is_done {
            self.take_away_leftovers();
            if command.is_killed {
                let (_, reason) = command.reason();
                self.state.error = [self.state.error.as_str(), &format!("delete: {reason}")].join("; ");
                self.state.error = self.state.error.trim_start_matches("; ").to_owned();
            }
        }
        self.on_deleted();
    }

    fn take_away_leftovers(&self) {
        let id = &self.setup.identity.id;
        if let Some(root) = self.setup.runtime.iter().skip_while(|word| *word != "--root").nth(1) {
            runtime_commands::forget(root.as_ref(), id);
        }
        cgroup::remove_groups(id, self.group_of_unit());
    }

    /// The control group of the unit whose main process this is.
    pub(super) fn group_of_unit(&self) -> Option<&str> {
        self.unit.as_ref().map(|unit| unit.group.as_str())
    }

    /// The runtime has nothing more of the container.
    pub(super) fn on_deleted(&mut self) {
        // One that still makes a process in it, freezes it or lists it, hangs.
        self.commands.iter_mut().for_each(Running::kill);
        self.kill_children();
        self.end_executions();
        if !self.state.error.is_empty() {
            // The start failed: the runtime may have been killed before it wrote down what it had made.
            self.take_away_leftovers();
        }
        if let Some(group) = self.group_of_unit() {
            cgroup::remove_unit_groups(group);
        }
        let stopping = self.stopping.take();
        let then = stopping.as_ref().map_or(Then::Nothing, |stopping| stopping.then);
        let mut replies = stopping.map(|stopping| stopping.replies).unwrap_or_default();
        match then {
            Then::Remove => self.remove(replies),
            Then::Start => {
                self.is_person_restart = true;
                self.state.restarts = 0;
                self.state.stopped_by_hand = false;
                self.replies_to_start.append(&mut replies);
                self.start();
            }
            Then::Nothing if self.state.phase == Phase::Restarting => {
                let lasted = self.state.finished.saturating_sub(self.state.started);
                let lasted = Duration::from_nanos(u64::try_from(lasted).unwrap_or(0));
                self.is_auto_restart = true;
                self.life = Life::Waiting(Instant::now() + self.backoff.wait(lasted));
                self.do_deferred();
            }
            Then::Nothing if self.setup.auto_remove && self.sender.spooled() == 0 => self.remove(replies),
            Then::Nothing => {
                self.finish();
                for reply in replies {
                    self.reply(reply, Ok(String::new()));
                }
            }
        }
    }

    /// The last run is over.
    fn finish(&mut self) {
        self.state.shim = 0;
        self.save();
        self.tell();
        self.end();
        self.do_deferred();
    }

    /// Removes a container that has waited for the monitor: its end is told, or, as long as it is not, kept on the
    /// disk, where an engine finds it.
    pub(super) fn remove_when_told(&mut self) {
        let is_ending = matches!(self.life, Life::Ending(_));
        let is_left = self.setup.auto_remove && self.state.phase != Phase::Dead && self.setup.dir.exists();
        if is_ending && is_left && self.sender.spooled() == 0 {
            self.state.is_announced = true;
            self.remove(Vec::new());
        }
    }

    /// Removes all of the container; the shim ends.
    pub(super) fn remove(&mut self, replies: Vec<super::runtime::Reply>) {
        self.log = Log::none();
        match self.take_away() {
            Ok(()) => {
                for reply in replies {
                    self.reply(reply, Ok(String::new()));
                }
                self.connections.iter_mut().for_each(|connection| connection.say(&Say::Removed));
                self.end();
                self.do_deferred();
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

    fn take_away(&mut self) -> Result<(), String> {
        overlay::tear_down(&self.setup.rootfs)?;
        self.is_mounted = false;
        let take = || {
            let left = remove::hollow(&self.setup.dir)?;
            remove_tree::remove(&self.setup.run)?;
            if let Some(left) = left {
                self.announcer.container("destroy", &self.setup.identity, 0, &[]);
                remove::finish(&left)?;
            }
            Ok(())
        };
        take().map_err(|error: std::io::Error| error.to_string())
    }

    /// Ends what the container has left to the shim: only processes that ran beside its own process namespace.
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

    /// No execution outlives its container, and none ends untold.
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

    /// A command of the runtime has ended.
    pub(super) fn on_command(&mut self, command: Running, is_done: bool) {
        match command.purpose.clone() {
            Purpose::Start => self.on_start_command(&command, is_done),
            Purpose::Delete => self.on_delete_command(&command, is_done),
            Purpose::Exec(id) => self.on_exec_command(&id, &command, is_done),
            Purpose::Pause(reply) => self.on_frozen(reply, true, (!is_done).then(|| command.reason())),
            Purpose::Resume(reply) => self.on_frozen(reply, false, (!is_done).then(|| command.reason())),
            Purpose::Pids(reply) => self.on_pids(reply, &command, is_done),
        }
        if self.commands.is_empty() {
            self.strangers.clear();
        }
    }

    /// The process of an execution has ended.
    pub(super) fn on_execution_exit(&mut self, at: usize, status: i32) {
        let mut execution = self.executions.remove(at);
        execution.stdio.finish(&mut Log::none());
        for mut client in std::mem::take(&mut execution.stdio.clients) {
            client.leave(Told::Exited(u8::try_from(status).unwrap_or(255)));
            self.leaving.push(client);
        }
        self.announce("exec_die", &[("exitCode", &status.to_string()), ("execID", &execution.id)]);
    }
}
