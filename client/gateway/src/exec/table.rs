//! The executions that clients have created: their settings, and their exit codes.
//!
//! The table is the one state that ends with the gateway. It keeps the control socket of each execution that runs, and
//! reads the exit code from it when somebody asks: no descriptor is watched, and no client need be connected.

use crate::container::shim_link::{End, ShimLink};
use crate::refusal::Refusal;
use sampan_ipc::container::Exec;
use sampan_ipc::sender;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Most executions in the table. If it is full, the oldest one that does not run makes room.
const EXECUTIONS_MAX: usize = 1_000;
/// Most bytes of arguments and variables of all executions in the table, and of one. Older ones that do not run make room.
const BYTES_MAX: usize = 4 << 20;
/// How long an execution stays in the table after its creation and after its end.
const KEPT: Duration = Duration::from_secs(300);
/// Exit code of an execution whose end nobody has reported, because the container's shim has died.
const UNKNOWN_EXIT: i32 = 137;

/// Where an execution stands.
#[derive(Debug)]
enum Stage {
    Created,
    Running(Rc<RefCell<ShimLink>>),
    Ended(i32),
}

/// An execution.
#[derive(Debug)]
pub struct Execution {
    /// What to run, and in which container.
    pub exec: Exec,
    /// Whether the client's input is attached.
    pub stdin: bool,
    /// Whether the client gets the output.
    pub stdout: bool,
    /// Whether the client gets the error output.
    pub stderr: bool,
    /// Rows and columns that a client has set before the process ran.
    pub size: Option<(u16, u16)>,
    pid: i32,
    stage: Stage,
    /// When the execution was created, or when its end was noticed.
    since: Instant,
    number: u64,
}

impl Execution {
    /// An execution that was not started.
    pub fn new(exec: Exec, stdin: bool, stdout: bool, stderr: bool) -> Self {
        let (size, pid, stage) = (None, 0, Stage::Created);
        Execution { exec, stdin, stdout, stderr, size, pid, stage, since: Instant::now(), number: 0 }
    }

    /// Reads what the shim has sent.
    fn refresh(&mut self) {
        let Stage::Running(link) = &self.stage else { return };
        let mut link = link.borrow_mut();
        let code = match link.receive() {
            None => None,
            Some(End::Exited(code) | End::Failed(code, _)) => Some(i32::from(*code)),
            Some(End::Detached | End::Lost) => Some(UNKNOWN_EXIT),
        };
        self.pid = link.pid();
        drop(link);
        if let Some(code) = code {
            self.end(code);
        }
    }

    fn end(&mut self, code: i32) {
        (self.stage, self.since) = (Stage::Ended(code), Instant::now());
    }

    /// Records that the execution was started. `link` is its control socket.
    pub fn run(&mut self, link: Rc<RefCell<ShimLink>>) {
        if let Some((rows, columns)) = self.size.take() {
            link.borrow_mut().resize(rows, columns);
        }
        self.stage = Stage::Running(link);
    }

    /// Whether the execution was started.
    pub fn was_started(&self) -> bool {
        !matches!(self.stage, Stage::Created)
    }

    /// Whether the process runs, or is being started.
    pub fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running(_))
    }

    /// The exit code; `None` before the end.
    pub fn exit_code(&self) -> Option<i32> {
        match self.stage {
            Stage::Ended(code) => Some(code),
            _ => None,
        }
    }

    /// ID of the process on the host; 0 if it has not started yet.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sets the terminal's size, now or when the process runs.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        match &self.stage {
            Stage::Running(link) => link.borrow_mut().resize(rows, columns),
            Stage::Created | Stage::Ended(_) => self.size = Some((rows, columns)),
        }
    }

    /// Bytes of its arguments and variables.
    fn bytes(&self) -> usize {
        self.exec.command.iter().chain(&self.exec.env).map(|word| word.capacity() + size_of::<String>()).sum()
    }

    fn is_over(&self, now: Instant) -> bool {
        !self.is_running() && now.saturating_duration_since(self.since) >= KEPT
    }
}

/// All executions that clients have created and that are not forgotten yet.
#[derive(Debug, Default)]
pub struct Executions {
    all: HashMap<String, Execution>,
    next_number: u64,
}

impl Executions {
    /// Adds an execution; returns its ID of 64 hexadecimal digits.
    ///
    /// # Errors
    /// Too many executions run, or the execution is larger than the table.
    pub fn add(&mut self, execution: Execution) -> Result<String, Refusal> {
        self.forget(Instant::now());
        let bytes = execution.bytes();
        if bytes > BYTES_MAX {
            let message =
                format!("the command and its variables have {bytes} bytes, at most {BYTES_MAX} are allowed");
            return Err(Refusal::bad(message));
        }
        while self.all.len() >= EXECUTIONS_MAX
            || self.all.values().map(Execution::bytes).sum::<usize>() + bytes > BYTES_MAX
        {
            let idle = self.all.iter().filter(|(_, execution)| !execution.is_running());
            let oldest = idle.min_by_key(|(_, execution)| execution.number).map(|(id, _)| id.clone());
            let oldest = oldest.ok_or_else(|| {
                Refusal::new(503, format!("{} executions run already, and fill the table", self.all.len()))
            })?;
            self.all.remove(&oldest);
        }
        let id: String = (0..4).map(|_| format!("{:016x}", sender::random())).collect();
        self.next_number += 1;
        self.all.insert(id.clone(), Execution { number: self.next_number, ..execution });
        Ok(id)
    }

    /// The execution with this ID, with what the shim has reported up to now.
    ///
    /// # Errors
    /// There is none: 404.
    pub fn find(&mut self, id: &str) -> Result<&mut Execution, Refusal> {
        let execution = self.all.get_mut(id);
        let execution =
            execution.ok_or_else(|| Refusal::not_found(format!("No such exec instance: {id}")))?;
        execution.refresh();
        Ok(execution)
    }

    /// Records the exit code of an execution that could not be started.
    pub fn record_failure(&mut self, id: &str, code: i32) {
        if let Some(execution) = self.all.get_mut(id) {
            execution.end(code);
        }
    }

    /// The IDs of the executions that run in a container, given by its full ID.
    pub fn running_in(&mut self, container: &str) -> Vec<String> {
        self.all.values_mut().for_each(Execution::refresh);
        let of = self
            .all
            .iter()
            .filter(|(_, execution)| execution.is_running() && execution.exec.container == container);
        let mut ids: Vec<String> = of.map(|(id, _)| id.clone()).collect();
        ids.sort();
        ids
    }

    /// Until when the table must not be lost; `None` if it is empty.
    pub fn kept_until(&mut self) -> Option<Instant> {
        let now = Instant::now();
        self.forget(now);
        let until = |execution: &Execution| match execution.is_running() {
            true => now + KEPT,
            false => execution.since + KEPT,
        };
        self.all.values().map(until).max()
    }

    fn forget(&mut self, now: Instant) {
        self.all.values_mut().for_each(Execution::refresh);
        self.all.retain(|_, execution| !execution.is_over(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_ipc::container::AttachMessage;
    use sampan_ipc::frame;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn execution(container: &str) -> Execution {
        let exec = Exec { container: container.to_owned(), ..Exec::default() };
        Execution::new(exec, false, true, true)
    }

    #[test]
    fn large_executions_make_room_for_each_other() {
        let mut table = Executions::default();
        let large = || {
            let mut execution = execution("c");
            execution.exec.env = vec!["A=".to_owned() + &"x".repeat(1 << 20)];
            execution
        };
        let first = table.add(large()).expect("added");
        let others: Vec<String> = (0..3).map(|_| table.add(large()).expect("added")).collect();
        assert!(table.find(&first).is_err(), "the oldest made room");
        assert!(others.iter().all(|id| table.find(id).is_ok()));
        let mut execution = execution("c");
        execution.exec.env = vec!["x".repeat(BYTES_MAX)];
        assert_eq!(table.add(execution).map_err(|refusal| refusal.status), Err(400));
    }

    #[test]
    fn the_exit_code_is_read_when_somebody_asks() {
        let mut table = Executions::default();
        let id = table.add(execution("c")).expect("room");
        let (link, theirs) = ShimLink::open().expect("a pair");
        table.find(&id).expect("added").run(Rc::new(RefCell::new(link)));
        assert_eq!(table.running_in("c"), std::slice::from_ref(&id));
        assert_eq!(table.find(&id).expect("added").exit_code(), None);
        let mut shim = UnixStream::from(theirs);
        for message in [AttachMessage::Started(9), AttachMessage::Exited(4)] {
            shim.write_all(&frame::encode(&message).expect("small")).expect("sent");
        }
        let ended = table.find(&id).expect("added");
        assert_eq!((ended.exit_code(), ended.pid(), ended.is_running()), (Some(4), 9, false));
        assert!(table.running_in("c").is_empty() && table.kept_until().is_some());
        assert_eq!(table.find("none").map(|_| ()).map_err(|refusal| refusal.status), Err(404));
    }

    #[test]
    fn a_full_table_forgets_the_oldest_execution_that_does_not_run() {
        let mut table = Executions::default();
        let first = table.add(execution("a")).expect("room");
        for _ in 1..EXECUTIONS_MAX + 1 {
            table.add(execution("b")).expect("room");
        }
        assert!(table.find(&first).is_err());
        assert_eq!(table.all.len(), EXECUTIONS_MAX);
    }
}
