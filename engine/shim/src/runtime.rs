//! Runs the OCI runtime beside the loop: one child a command, ended if it takes too long, and its reason read from
//! its log. Reaping is the loop's.

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

/// Longest that the runtime may take to make a container, or a process in one: it may have to wait for disks.
const MAKE_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest that it may take for anything else, which is a few system calls.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of the end of the runtime's log is looked at.
const LOG_TAIL: u64 = 64 << 10;
/// Longest reason that is told.
const REASON_MAX: usize = 1000;

/// The runtime's environment. One that is written in Go lives a few milliseconds, in which threads for more processors
/// cost more than they do; runc hands it on to what it starts, and takes it away before the container's own program.
const ENVIRONMENT: [&CStr; 1] = [c"GOMAXPROCS=1"];

/// Whom an answer goes to: a connection's number, and the number of its ask.
pub type Reply = Option<(u64, u64)>;

/// What a command is for.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// The container's start.
    Start,
    /// What is left of a container goes.
    Delete,
    /// Freeze.
    Pause(Reply),
    /// Thaw.
    Resume(Reply),
    /// The process of an execution.
    Exec(String),
    /// Process ids.
    Pids(Reply),
}

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    pub(super) pid: i32,
    pub(super) purpose: Purpose,
    pub(super) deadline: Instant,
    pub(super) is_killed: bool,
    begun: Instant,
    log: PathBuf,
    output: Option<PathBuf>,
}

/// What the command's standard descriptors are; `/dev/null` where there is none.
pub type Standard = [Option<OwnedFd>; 3];

impl Running {
    /// Starts `runtime ARGUMENTS`, with `number` to tell its files from others', and with the descriptors `kept`.
    pub fn spawn(
        setup: &Setup,
        number: u64,
        purpose: Purpose,
        arguments: Vec<OsString>,
        mut standard: Standard,
        kept: &[OwnedFd],
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
            standard[1] = Some(File::options().write(true).create_new(true).mode(0o600).open(&path)?.into());
            output = Some(path);
        }
        let standard = standard.each_ref().map(|end| end.as_ref().map_or(null.as_fd(), OwnedFd::as_fd));
        let path = words.first().ok_or(io::ErrorKind::InvalidInput)?;
        // It leads a group: a runtime that hangs goes with all that it has started.
        let program_of = Program {
            path,
            args: &words,
            environment: &ENVIRONMENT,
            standard,
            inherited: kept,
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
        Ok(Running { pid, purpose, deadline: begun + timeout, is_killed: false, begun, log, output })
    }

    /// Lets it take no longer than `timeout` from now.
    pub fn hurry(&mut self, timeout: Duration) {
        let deadline = Instant::now().checked_add(timeout).unwrap_or(self.deadline);
        self.deadline = self.deadline.min(deadline);
    }

    /// Kills it and all that it has started in its process group; that it has ended is heard as ever.
    pub fn kill(&mut self) {
        self.is_killed = true;
        // Not reaped yet, so the group is still its own.
        let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
    }

    /// What it wrote, up to some bytes.
    pub fn output(&self) -> String {
        let read = |path| {
            let mut text = String::new();
            File::open(path)?.take(1 << 20).read_to_string(&mut text)?;
            Ok::<_, io::Error>(text)
        };
        self.output.as_ref().and_then(|path| read(path).ok()).unwrap_or_default()
    }

    /// Why it failed, and the exit status that podman-run(1) has for that.
    pub fn reason(&self) -> (u8, String) {
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

impl Drop for Running {
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

/// The exit status for a reason: 127 not found, 126 not to be run, 125 anything else.
fn status_of(reason: &str) -> u8 {
    let lower = reason.to_ascii_lowercase();
    // Only what is said of the program itself: a mount whose source is missing is no missing command.
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

/// The string behind `"msg":` in a line of JSON.
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
        // crun's, for a file without the right to be run and for a directory.
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
