//! Unpacks layers as an ordinary user, in a user namespace in which the owners of a layer's files exist.
//!
//! Called by the engine at start and by the store; never called by root, which needs no namespace. A process with
//! several threads cannot enter a user namespace, so this program starts itself again with [`ARGUMENT`] as the first
//! argument. The first such process creates the namespace, which a descriptor keeps alive; another process executes
//! each operation on a layer. Such a process gets its input through arguments and standard input, and reports through
//! standard output. user_namespaces(7), newuidmap(1).

mod subid;

use self::subid::Range;
use crate::compare::{self, Differences};
use crate::implied_dirs;
use crate::tar::TarError;
use crate::unpack::{self, UnpackError, Unpacked};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use sampan_ipc::report;
use sampan_job::cancel::Cancel;
use sampan_os::{remove_tree, syscall, walk_tree};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The first argument of a process that works in the namespace.
pub const ARGUMENT: &str = "--in-namespace";
/// Bytes written to a process at a time.
const BUFFER: usize = 64 << 10;
/// Longest output of a process that is read, in bytes.
const OUTPUT_MAX: u64 = 64 << 10;

/// Why the user namespace cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// No subordinate IDs are assigned to this user.
    #[error("{file} has no range for user {uid}")]
    NoRange {
        /// The file without a range: /etc/subuid or /etc/subgid.
        file: &'static str,
        /// The ID of the user without a range.
        uid: u32,
    },
    /// The kernel or a setting of the host forbids user namespaces.
    #[error("cannot create a user namespace: {0}")]
    Refused(String),
    /// The program that maps IDs is missing or fails.
    #[error("cannot map ids with {program}: {why}")]
    Map {
        /// The program: newuidmap or newgidmap.
        program: &'static str,
        /// The error message of the program, or of its start.
        why: String,
    },
    /// This program cannot start itself again.
    #[error("cannot start a process for the user namespace")]
    Io(#[from] io::Error),
}

/// A user namespace. Its root is mapped to this process's user, and its other IDs to the user's subordinate IDs.
#[derive(Debug)]
pub struct Namespace {
    descriptor: OwnedFd,
}

impl Namespace {
    /// Creates the namespace and checks that a process can enter it.
    ///
    /// # Errors
    /// [`NamespaceError`] says what the host lacks.
    pub fn open() -> Result<Self, NamespaceError> {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let range = |file: &'static str| match subid::ranges(file, uid) {
            none if none.is_empty() => Err(NamespaceError::NoRange { file, uid }),
            ranges => Ok(ranges),
        };
        let (uids, gids) = (range("/etc/subuid")?, range("/etc/subgid")?);
        let mut holder = command("hold").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let descriptor = map_and_open(&mut holder, (uid, &uids), (gid, &gids));
        // The process that created the namespace exits at the end of its input. The descriptor keeps the namespace
        // alive.
        drop(holder.stdin.take());
        holder.wait()?;
        let namespace = Namespace { descriptor: descriptor? };
        // Some hosts forbid entering the namespace. Try to enter now, so that the error is reported at start rather
        // than for each layer.
        let entered =
            namespace.command("enter", None).stdin(Stdio::null()).stdout(Stdio::piped()).output()?;
        match entered.status.success() {
            true => Ok(namespace),
            false => Err(NamespaceError::Refused(String::from_utf8_lossy(&entered.stdout).trim().to_owned())),
        }
    }

    /// Unpacks the tar `from` into the directory `root`; reads all of `from`. See [`unpack::unpack`].
    ///
    /// # Errors
    /// [`UnpackError`], as the process in the namespace reports it.
    pub fn unpack(&self, from: &mut impl Read, root: &Path) -> Result<Unpacked, UnpackError> {
        let mut command = self.command("unpack", Some(root));
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(cannot_start)?;
        let written = process.stdin.take().map_or(Ok(()), |to| write_input(from, to));
        let output = read_output(&mut process).map_err(cannot_start)?;
        // If the source fails, the process sees a truncated tar, so report the source's error rather than that of the
        // process.
        written.map_err(|error| UnpackError::Tar(TarError::Read(error)))?;
        parse_result(&output)
    }

    /// Removes `path` and everything below it. See [`remove_tree::remove`].
    ///
    /// # Errors
    /// The process in the namespace cannot be started, or reports an error.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let mut process =
            self.command("remove", Some(path)).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        match read_output(&mut process)?.as_str() {
            "done" => Ok(()),
            error => Err(io::Error::other(error.to_owned())),
        }
    }

    /// Compares two trees. See [`compare::compare`].
    ///
    /// # Errors
    /// The process in the namespace cannot be started, or reports an error.
    pub fn compare(&self, expected: &Path, found: &Path, since: SystemTime) -> io::Result<Differences> {
        let since = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut command = self.command("compare", Some(expected));
        let mut process =
            command.arg(found).arg(since.to_string()).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = read_output(&mut process)?;
        serde_json::from_str(&output).map_err(|_| io::Error::other(output))
    }

    /// Gives the implied directories of `layer` the attributes that the layers `below` define. See
    /// [`implied_dirs::settle`].
    ///
    /// # Errors
    /// The process in the namespace cannot be started, or reports an error.
    pub fn settle(&self, layer: &Path, below: &[PathBuf]) -> io::Result<()> {
        let mut command = self.command("settle", Some(layer));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let list: Vec<u8> =
            below.iter().flat_map(|path| [path.as_os_str().as_bytes(), &[0]].concat()).collect();
        process.stdin.take().map_or(Ok(()), |to| write_input(&mut list.as_slice(), to))?;
        match read_output(&mut process)?.as_str() {
            "done" => Ok(()),
            error => Err(io::Error::other(error.to_owned())),
        }
    }

    /// The bytes that `path` and everything below it take on the disk. See [`walk_tree::size_on_disk`].
    ///
    /// # Errors
    /// The process in the namespace cannot be started, or reports an error.
    pub fn size_on_disk(&self, path: &Path) -> io::Result<u64> {
        let mut process =
            self.command("measure", Some(path)).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = read_output(&mut process)?;
        output.parse().map_err(|_| io::Error::other(output))
    }

    fn command(&self, verb: &str, path: Option<&Path>) -> Command {
        let mut command = command(verb);
        command.arg(self.descriptor.as_raw_fd().to_string()).args(path);
        syscall::pass_on(&mut command, self.descriptor.as_fd());
        command
    }
}

/// A command that starts this program again, for the operation `verb`.
fn command(verb: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("sampan-engine").args([ARGUMENT, verb]);
    command
}

/// Maps IDs in the namespace that the process `holder` has created; returns a descriptor of the namespace.
fn map_and_open(
    holder: &mut Child,
    uids: (u32, &[Range]),
    gids: (u32, &[Range]),
) -> Result<OwnedFd, NamespaceError> {
    let mut report = String::new();
    if let Some(output) = &mut holder.stdout {
        let mut byte = 0;
        while report != "made" && report.len() < 500 && output.read(std::slice::from_mut(&mut byte))? == 1 {
            report.push(char::from(byte));
        }
    }
    if report != "made" {
        return Err(NamespaceError::Refused(report.trim().to_owned()));
    }
    let pid = holder.id().to_string();
    for (program, (own, ranges)) in [("newuidmap", uids), ("newgidmap", gids)] {
        let why = match Command::new(program).arg(&pid).args(subid::map(own, ranges)).output() {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        return Err(NamespaceError::Map { program, why });
    }
    Ok(File::open(format!("/proc/{pid}/ns/user"))?.into())
}

/// Copies `from` to a process's standard input until `from` ends or the process stops reading.
fn write_input(from: &mut impl Read, mut to: ChildStdin) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        // A process that stops reading reports the reason in its output.
        if to.write_all(buffer.get(..len).unwrap_or_default()).is_err() {
            return Ok(());
        }
    }
}

/// Reads a process's output and waits for the end of the process. If the output is empty, returns a description of the
/// exit status.
fn read_output(process: &mut Child) -> io::Result<String> {
    let mut output = Vec::new();
    if let Some(stdout) = &mut process.stdout {
        stdout.take(OUTPUT_MAX).read_to_end(&mut output)?;
    }
    let status = process.wait()?;
    match output.is_empty() {
        true => Ok(format!("the process in the user namespace ended with {status}")),
        false => Ok(String::from_utf8_lossy(&output).into_owned()),
    }
}

fn cannot_start(error: io::Error) -> UnpackError {
    UnpackError::InNamespace(format!("cannot start a process in the user namespace: {error}"))
}

/// Parses the result of unpacking that [`format_result`] wrote.
fn parse_result(output: &str) -> Result<Unpacked, UnpackError> {
    let (word, rest) = output.split_once(' ').unwrap_or((output, ""));
    let number = |nth| rest.split(' ').nth(nth).and_then(|number| number.parse().ok());
    match (word, number(0), number(1)) {
        ("done", Some(entries), Some(skipped)) => Ok(Unpacked { entries, skipped }),
        ("truncated", ..) => Err(UnpackError::Tar(TarError::Truncated)),
        ("malformed", ..) => Err(UnpackError::Tar(TarError::Malformed(rest.to_owned()))),
        ("failed", ..) => Err(UnpackError::InNamespace(rest.to_owned())),
        _ => Err(UnpackError::InNamespace(output.to_owned())),
    }
}

/// Formats the result of unpacking for the parent process.
fn format_result(result: &Result<Unpacked, UnpackError>) -> String {
    match result {
        Ok(Unpacked { entries, skipped }) => format!("done {entries} {skipped}"),
        Err(UnpackError::Tar(TarError::Truncated)) => "truncated".to_owned(),
        Err(UnpackError::Tar(TarError::Malformed(what))) => format!("malformed {what}"),
        Err(error) => format!("failed {}", report::chain(error)),
    }
}

/// Executes the operation that the command line names, if its first argument is [`ARGUMENT`]; otherwise returns `None`.
///
/// `main` must call this function before anything else, because the process must have only one thread.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let args: Vec<OsString> = args.into_iter().collect();
    let args: Vec<&OsStr> = args.iter().map(OsString::as_os_str).skip(1).collect();
    let [first, rest @ ..] = args.as_slice() else { return None };
    if *first != ARGUMENT {
        return None;
    }
    let (is_done, output) = match execute(rest) {
        Ok(output) => (true, output),
        Err(why) => (false, why),
    };
    let is_written = io::stdout().write_all(output.as_bytes()).is_ok();
    Some(if is_done && is_written { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Executes one operation; returns the text for standard output.
fn execute(args: &[&OsStr]) -> Result<String, String> {
    let verb = args.first().and_then(|verb| verb.to_str()).unwrap_or_default();
    if verb == "hold" {
        return hold();
    }
    let descriptor = args.get(1).and_then(|text| text.to_str()?.parse::<RawFd>().ok());
    let descriptor =
        descriptor.and_then(syscall::adopt).ok_or("no descriptor of a user namespace was passed")?;
    setns(descriptor, CloneFlags::CLONE_NEWUSER)
        .map_err(|errno| format!("cannot enter the user namespace: {}", errno.desc()))?;
    match (verb, args.get(2)) {
        ("enter", None) => Ok("done".to_owned()),
        ("unpack", Some(root)) => Ok(format_result(&unpack_input(Path::new(root)))),
        ("remove", Some(path)) => remove_tree::remove(Path::new(path))
            .map(|()| "done".to_owned())
            .map_err(|error| format!("cannot remove it in the user namespace: {error}")),
        ("settle", Some(layer)) => settle_layer(Path::new(layer))
            .map(|()| "done".to_owned())
            .map_err(|error| format!("cannot read or change layers in the user namespace: {error}")),
        ("compare", Some(expected)) => compare_trees(Path::new(expected), args.get(3), args.get(4)),
        ("measure", Some(path)) => walk_tree::size_on_disk(Path::new(path))
            .map(|bytes| bytes.to_string())
            .map_err(|error| format!("cannot measure it in the user namespace: {error}")),
        _ => Err("the operation is not known in a user namespace".to_owned()),
    }
}

/// Creates a namespace and lives until the end of its input. Meanwhile the parent maps IDs and opens the namespace.
fn hold() -> Result<String, String> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(refusal)?;
    io::stdout().write_all(b"made").and_then(|()| io::stdout().flush()).map_err(|error| error.to_string())?;
    io::copy(&mut io::stdin(), &mut io::sink()).map_err(|error| error.to_string())?;
    Ok(String::new())
}

fn compare_trees(expected: &Path, found: Option<&&OsStr>, since: Option<&&OsStr>) -> Result<String, String> {
    let since = since.and_then(|text| text.to_str()?.parse().ok());
    let (Some(found), Some(since)) = (found, since.map(Duration::from_secs)) else {
        return Err("two trees and a time are needed".to_owned());
    };
    let compared = compare::compare(expected, Path::new(found), UNIX_EPOCH + since, &Cancel::default());
    let differences =
        compared.map_err(|error| format!("cannot compare it in the user namespace: {error}"))?;
    serde_json::to_string(&differences).map_err(|error| error.to_string())
}

/// Settles the implied directories of `layer`. Standard input has the paths of the layers below, each followed by a
/// NUL.
fn settle_layer(layer: &Path) -> io::Result<()> {
    let below = io::stdin().lock().split(0).map(|path| path.map(|path| OsString::from_vec(path).into()));
    let below = below.collect::<io::Result<Vec<PathBuf>>>()?;
    implied_dirs::settle(layer, &below, &Cancel::default())
}

/// Describes why the kernel refuses a namespace, and names the setting to change. user_namespaces(7), namespaces(7).
fn refusal(errno: Errno) -> String {
    let setting = match errno {
        Errno::ENOSPC => "; see user.max_user_namespaces in sysctl",
        Errno::EPERM => "; a setting of the kernel, AppArmor or a container forbids it to ordinary users",
        _ => "",
    };
    format!("{}{setting}", errno.desc())
}

fn unpack_input(root: &Path) -> Result<Unpacked, UnpackError> {
    let (unpacked, mut rest) = unpack::unpack(BufReader::with_capacity(BUFFER, io::stdin().lock()), root)?;
    // Read the bytes after the end of the tar too: when this process stops reading, the parent stops reading the
    // source, but the parent needs all bytes for the digest.
    io::copy(&mut rest, &mut io::sink()).map_err(|error| UnpackError::Tar(TarError::Read(error)))?;
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_parsed_and_any_other_output_is_a_failure() {
        let good = Unpacked { entries: 7, skipped: 2 };
        assert_eq!(parse_result(&format_result(&Ok(good))).expect("done"), good);
        for error in [TarError::Truncated, TarError::Malformed("header \"x y\"".to_owned())] {
            let text = error.to_string();
            let parsed = parse_result(&format_result(&Err(error.into()))).expect_err("failed");
            assert!(matches!(parsed, UnpackError::Tar(_)) && parsed.to_string() == text);
        }
        for output in ["", "done", "done x y", "done 1", "failed a b", "ended with signal: 9"] {
            assert!(matches!(parse_result(output), Err(UnpackError::InNamespace(_))), "{output:?}");
        }
    }

    #[test]
    fn only_the_hidden_argument_makes_a_process_of_the_namespace() {
        let ask = |args: &[&str]| run(args.iter().map(OsString::from)).is_some();
        assert!(!ask(&[]) && !ask(&["engine"]) && !ask(&["engine", "--socket", ARGUMENT]));
        // No descriptor was passed, so the operation fails before it removes anything.
        assert!(execute(&[OsStr::new("remove"), OsStr::new("1"), OsStr::new("/nonexistent")]).is_err());
        assert!(execute(&[]).is_err());
    }
}
