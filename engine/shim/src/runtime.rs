//! Runs commands of the OCI runtime beside the event loop, each as a child.
//!
//! Kills a command that takes too long. If a command fails, reads the reason from the command's log file. The event
//! loop reaps the child and enforces the deadline.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use sampan_ipc::shim::Setup;
use sampan_os::spawn::{Program, Relation, spawn};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest time for the runtime to create a container, or a process in a container; a slow disk may delay both.
const MAKE_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest time for any other command. Such a command makes only a few system calls.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Number of bytes at the end of the runtime's log that the shim reads.
const LOG_TAIL: u64 = 64 << 10;
/// Longest reason in a report, in characters.
const REASON_MAX: usize = 1000;

/// The runtime's environment. runc is written in Go, and runs for a few milliseconds: threads for more processors
/// would cost more time than they save. runc does not pass the variable on to the container's program.
const ENVIRONMENT: [&CStr; 1] = [c"GOMAXPROCS=1"];

/// The destination of a reply: the number of a connection, and the number of the request. `None` for a request without
/// a reply.
pub(crate) type Reply = Option<(u64, u64)>;

/// The purpose of a command, with the data that its end needs.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    /// Starts the container.
    Start,
    /// Deletes the runtime's state of the container.
    Delete,
    /// Freezes the container.
    Pause(Reply),
    /// Thaws the container.
    Resume(Reply),
    /// Starts the process of the execution with this ID.
    Exec(String),
    /// Lists the IDs of the container's processes.
    Pids(Reply),
}

/// A running command of the runtime.
#[derive(Debug)]
pub(crate) struct RuntimeCommand {
    pub(super) pid: i32,
    pub(super) purpose: Purpose,
    pub(super) deadline: Instant,
    pub(super) is_killed: bool,
    begun: Instant,
    log: PathBuf,
    output: Option<PathBuf>,
}

/// A command's stdin, stdout and stderr; `None` means `/dev/null`.
pub(crate) type StandardFds = [Option<OwnedFd>; 3];

impl RuntimeCommand {
    /// Starts `runtime ARGUMENTS`. `number` makes the names of the command's log and output files unique. The command
    /// inherits the descriptors `inherited` with their present numbers.
    pub(crate) fn spawn(
        setup: &Setup,
        number: u64,
        purpose: Purpose,
        arguments: Vec<OsString>,
        mut standard: StandardFds,
        inherited: &[OwnedFd],
    ) -> io::Result<Self> {
        let [program, globals @ ..] = setup.runtime.as_slice() else {
            return Err(io::Error::other("no OCI runtime is configured"));
        };
        let log = setup.run.join(format!("log.{number}"));
        let own = ["--log".as_ref(), log.as_os_str(), "--log-format".as_ref(), "json".as_ref()];
        let words = [program].into_iter().chain(globals).map(|word| word.as_bytes());
        let words = words
            .chain(own.into_iter().chain(arguments.iter().map(OsString::as_os_str)).map(OsStr::as_bytes));
        let words = words.map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let mut output = None;
        if matches!(purpose, Purpose::Pids(_)) {
            let path = setup.run.join(format!("output.{number}"));
            let [_, stdout, _] = &mut standard;
            *stdout = Some(File::options().write(true).create_new(true).mode(0o600).open(&path)?.into());
            output = Some(path);
        }
        let standard = standard.each_ref().map(|end| end.as_ref().map_or(null.as_fd(), OwnedFd::as_fd));
        let path = words.first().ok_or(io::ErrorKind::InvalidInput)?;
        // The child leads a process group, so that a kill of a runtime that hangs also ends the processes that it has
        // started.
        let program_of = Program {
            path,
            args: &words,
            environment: &ENVIRONMENT,
            standard,
            inherited,
            relation: Relation::Child,
        };
        let started = spawn(&program_of);
        let pid = started
            .map_err(|error| io::Error::new(error.kind(), format!("cannot run {program}: {error}")))?;
        let timeout = match purpose {
            Purpose::Start | Purpose::Exec(_) => MAKE_TIMEOUT,
            _ => COMMAND_TIMEOUT,
        };
        let begun = Instant::now();
        Ok(RuntimeCommand { pid, purpose, deadline: begun + timeout, is_killed: false, begun, log, output })
    }

    /// Moves the deadline to `timeout` from now, if the present deadline is later.
    pub(crate) fn shorten_deadline(&mut self, timeout: Duration) {
        let deadline = Instant::now().checked_add(timeout).unwrap_or(self.deadline);
        self.deadline = self.deadline.min(deadline);
    }

    /// Kills the command and all processes of its process group. The event loop still has to reap the command.
    pub(crate) fn kill(&mut self) {
        self.is_killed = true;
        // The child is not reaped yet, so no other process group can have its ID.
        let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
    }

    /// The first MiB of the command's output.
    pub(crate) fn output(&self) -> String {
        let read = |path| {
            let mut text = String::new();
            File::open(path)?.take(1 << 20).read_to_string(&mut text)?;
            Ok::<_, io::Error>(text)
        };
        self.output.as_ref().and_then(|path| read(path).ok()).unwrap_or_default()
    }

    /// Why the command failed, and the exit status for that reason: 125, 126 or 127. podman-run(1), "Exit Status".
    pub(crate) fn reason(&self) -> (u8, String) {
        if self.is_killed {
            let seconds = self.begun.elapsed().as_secs_f32();
            return (125, format!("the OCI runtime did not finish in {seconds:.1} s and was killed"));
        }
        let text = tail(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let last = text.lines().rev().filter(|line| line.contains("\"level\":\"error\"")).find_map(message);
        let reason = last.unwrap_or_else(|| "the OCI runtime failed and did not say why".to_owned());
        (status_of(&reason), reason.chars().take(REASON_MAX).collect())
    }
}

impl Drop for RuntimeCommand {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.log);
        if let Some(output) = &self.output {
            let _ = std::fs::remove_file(output);
        }
    }
}

fn tail(path: &PathBuf) -> io::Result<Vec<u8>> {
    let mut file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The exit status for a reason: 127 if the program is not found, 126 if it cannot be executed, 125 for any other
/// reason.
fn status_of(reason: &str) -> u8 {
    let lower = reason.to_ascii_lowercase();
    // Check only messages about the program itself: a mount whose source is missing is not a missing program. The
    // texts are those of runc 1.1.5 and crun 1.8.1.
    const OF_PROGRAM: [&str; 4] = ["exec:", "executable file", "exec container process", "open executable"];
    let of_program = OF_PROGRAM.iter().any(|word| lower.contains(word));
    let has = |words: &[&str]| of_program && words.iter().any(|word| lower.contains(word));
    if has(&["executable file not found", "no such file or directory", "executable file `"]) {
        127
    } else if has(&["permission denied", "operation not permitted", "is a directory", "exec format error"]) {
        126
    } else {
        125
    }
}

/// The string after `"msg":` in a line of JSON.
fn message(line: &str) -> Option<String> {
    let mut letters = line.split_once("\"msg\":")?.1.trim_start().strip_prefix('"')?.chars();
    let mut text = String::new();
    loop {
        match letters.next()? {
            '"' => return Some(text),
            '\\' => match letters.next()? {
                'n' | 'r' | 't' => text.push(' '),
                'u' => {
                    let digits: String = letters.by_ref().take(4).collect();
                    text.push(
                        u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32).unwrap_or('\u{fffd}'),
                    );
                }
                other => text.push(other),
            },
            letter if letter.is_control() => text.push(' '),
            letter => text.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_last_message_and_decides_the_exit_status() {
        let line =
            r#"{"level":"error","msg":"exec: \"nope\": executable file not found in $PATH\n","time":"x"}"#;
        let reason = message(line).expect("a message");
        assert_eq!(reason, "exec: \"nope\": executable file not found in $PATH ");
        assert_eq!(status_of(&reason), 127);
        assert_eq!(status_of("exec: \"/etc\": permission denied"), 126);
        // crun's messages for a file that is not executable, and for a directory.
        assert_eq!(status_of("open executable: Permission denied"), 126);
        assert_eq!(status_of("open executable: Operation not permitted"), 126);
        assert_eq!(
            status_of("executable file `/no/such` not found in $PATH: No such file or directory"),
            127
        );
        assert_eq!(status_of("error closing exec fds: open /proc/self/fd: no such file or directory"), 125);
        assert_eq!(status_of("error mounting \"/x\": no such file or directory"), 125);
        assert_eq!(message(r#"{"msg":"cut sho"#), None);
        assert_eq!(message(r#"{"msg":"\u00"#), None);
    }
}
