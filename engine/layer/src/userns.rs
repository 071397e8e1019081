//! Unpacking as an ordinary user: a user namespace in which the owners of a layer's files exist.
//!
//! A process with threads cannot enter one. So this program starts itself again, with [`ARGUMENT`] before all
//! others: once to make the namespace, which a descriptor then keeps, and once for each layer that is unpacked,
//! settled or removed there. What such a process is told, and says, goes through its standard input and output. Root has no
//! need of this and never calls it. user_namespaces(7), newuidmap(1).

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

/// The first argument of a process that is to work in the namespace.
pub const ARGUMENT: &str = "--in-namespace";
/// Bytes that are handed over at once.
const BUFFER: usize = 64 << 10;
/// Most bytes of a process's last words that are read.
const WORDS_MAX: u64 = 64 << 10;

/// Why there is no namespace.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// No ids are set aside for this user.
    #[error("{file} has no range for user {uid}")]
    NoRange {
        /// Where one is missing.
        file: &'static str,
        /// Whose.
        uid: u32,
    },
    /// The kernel, or this host, does not allow it.
    #[error("cannot make a user namespace: {0}")]
    Refused(String),
    /// A program is not there, or fails.
    #[error("cannot map ids with {program}: {why}")]
    Map {
        /// Which.
        program: &'static str,
        /// What it says.
        why: String,
    },
    /// This program cannot start itself.
    #[error("cannot start a process for the user namespace")]
    Io(#[from] io::Error),
}

/// A namespace whose root is this process's user, and whose other ids are those set aside for it.
#[derive(Debug)]
pub struct Namespace {
    descriptor: OwnedFd,
}

impl Namespace {
    /// Makes the namespace.
    ///
    /// # Errors
    /// [`NamespaceError`] says what is missing.
    pub fn open() -> Result<Self, NamespaceError> {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let range = |file: &'static str| match subid::ranges(file, uid) {
            none if none.is_empty() => Err(NamespaceError::NoRange { file, uid }),
            ranges => Ok(ranges),
        };
        let (uids, gids) = (range("/etc/subuid")?, range("/etc/subgid")?);
        let mut holder = command("hold").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let made = hold(&mut holder, (uid, &uids), (gid, &gids));
        // Its input ends: so does it.
        drop(holder.stdin.take());
        holder.wait()?;
        let namespace = Namespace { descriptor: made? };
        // What cannot be entered is of no use, and better found out now than by each layer.
        let entered =
            namespace.command("enter", None).stdin(Stdio::null()).stdout(Stdio::piped()).output()?;
        match entered.status.success() {
            true => Ok(namespace),
            false => Err(NamespaceError::Refused(String::from_utf8_lossy(&entered.stdout).trim().to_owned())),
        }
    }

    /// Unpacks the tar that `from` gives into the directory `root`; reads all of `from`. See [`unpack::unpack`].
    ///
    /// # Errors
    /// [`UnpackError`], as the process in the namespace told it.
    pub fn unpack(&self, from: &mut impl Read, root: &Path) -> Result<Unpacked, UnpackError> {
        let mut command = self.command("unpack", Some(root));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(lost)?;
        let fed = process.stdin.take().map_or(Ok(()), |to| feed(from, to));
        let words = last_words(&mut process).map_err(lost)?;
        // A source that breaks makes a tar that does: the first is the reason.
        fed.map_err(|error| UnpackError::Tar(TarError::Read(error)))?;
        parse(&words)
    }

    /// Removes `path` and all below it. See [`remove_tree::remove`].
    ///
    /// # Errors
    /// What the process in the namespace met.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let mut process =
            self.command("remove", Some(path)).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        match last_words(&mut process)?.as_str() {
            "done" => Ok(()),
            words => Err(io::Error::other(words.to_owned())),
        }
    }

    /// Compares two trees. See [`compare::compare`].
    ///
    /// # Errors
    /// What the process in the namespace met.
    pub fn compare(&self, expected: &Path, found: &Path, since: SystemTime) -> io::Result<Differences> {
        let since = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut command = self.command("compare", Some(expected));
        let mut process =
            command.arg(found).arg(since.to_string()).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let words = last_words(&mut process)?;
        serde_json::from_str(&words).map_err(|_| io::Error::other(words))
    }

    /// Gives directories of `layer` what the layers `below` say of them. See [`implied_dirs::settle`].
    ///
    /// # Errors
    /// What the process in the namespace met.
    pub fn settle(&self, layer: &Path, below: &[PathBuf]) -> io::Result<()> {
        let mut command = self.command("settle", Some(layer));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let list: Vec<u8> =
            below.iter().flat_map(|path| [path.as_os_str().as_bytes(), &[0]].concat()).collect();
        process.stdin.take().map_or(Ok(()), |to| feed(&mut list.as_slice(), to))?;
        match last_words(&mut process)?.as_str() {
            "done" => Ok(()),
            words => Err(io::Error::other(words.to_owned())),
        }
    }

    /// Bytes that `path` and all below it take on the disk. See [`walk_tree::size_on_disk`].
    ///
    /// # Errors
    /// What the process in the namespace met.
    pub fn size_on_disk(&self, path: &Path) -> io::Result<u64> {
        let mut process =
            self.command("measure", Some(path)).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let words = last_words(&mut process)?;
        words.parse().map_err(|_| io::Error::other(words))
    }

    fn command(&self, verb: &str, path: Option<&Path>) -> Command {
        let mut command = command(verb);
        command.arg(self.descriptor.as_raw_fd().to_string()).args(path);
        syscall::pass_on(&mut command, self.descriptor.as_fd());
        command
    }
}

/// This program again.
fn command(verb: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("sampan-engine").args([ARGUMENT, verb]);
    command
}

/// Maps ids in the namespace that `holder` has made; gives what keeps it.
fn hold(holder: &mut Child, uids: (u32, &[Range]), gids: (u32, &[Range])) -> Result<OwnedFd, NamespaceError> {
    let mut word = String::new();
    if let Some(said) = &mut holder.stdout {
        let mut byte = [0; 1];
        while word != "made" && word.len() < 500 && said.read(&mut byte)? == 1 {
            word.push(char::from(byte[0]));
        }
    }
    if word != "made" {
        return Err(NamespaceError::Refused(word.trim().to_owned()));
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

/// Hands over all of `from`, or as much as is taken.
fn feed(from: &mut impl Read, mut to: ChildStdin) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        // One that takes no more says why in its last words.
        if to.write_all(buffer.get(..len).unwrap_or_default()).is_err() {
            return Ok(());
        }
    }
}

/// What a process says before it ends; or how it ended, if it said nothing.
fn last_words(process: &mut Child) -> io::Result<String> {
    let mut words = Vec::new();
    if let Some(said) = &mut process.stdout {
        said.take(WORDS_MAX).read_to_end(&mut words)?;
    }
    let status = process.wait()?;
    match words.is_empty() {
        true => Ok(format!("the process in the user namespace ended with {status}")),
        false => Ok(String::from_utf8_lossy(&words).into_owned()),
    }
}

fn lost(error: io::Error) -> UnpackError {
    UnpackError::Elsewhere(format!("cannot start a process in the user namespace: {error}"))
}

/// Last words about an unpacking, said by [`say`].
fn parse(words: &str) -> Result<Unpacked, UnpackError> {
    let (word, rest) = words.split_once(' ').unwrap_or((words, ""));
    let number = |nth| rest.split(' ').nth(nth).and_then(|number| number.parse().ok());
    match (word, number(0), number(1)) {
        ("done", Some(entries), Some(skipped)) => Ok(Unpacked { entries, skipped }),
        ("truncated", ..) => Err(UnpackError::Tar(TarError::Truncated)),
        ("malformed", ..) => Err(UnpackError::Tar(TarError::Malformed(rest.to_owned()))),
        ("failed", ..) => Err(UnpackError::Elsewhere(rest.to_owned())),
        _ => Err(UnpackError::Elsewhere(words.to_owned())),
    }
}

fn say(result: &Result<Unpacked, UnpackError>) -> String {
    match result {
        Ok(Unpacked { entries, skipped }) => format!("done {entries} {skipped}"),
        Err(UnpackError::Tar(TarError::Truncated)) => "truncated".to_owned(),
        Err(UnpackError::Tar(TarError::Malformed(what))) => format!("malformed {what}"),
        Err(error) => format!("failed {}", report::chain(error)),
    }
}

/// Does what the command line asks of a process in the namespace; `None` if it asks for none.
///
/// To be called first thing: the process must have one thread.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let args: Vec<OsString> = args.into_iter().collect();
    let args: Vec<&OsStr> = args.iter().map(OsString::as_os_str).skip(1).collect();
    let [first, rest @ ..] = args.as_slice() else { return None };
    if *first != ARGUMENT {
        return None;
    }
    let (is_done, words) = match obey(rest) {
        Ok(words) => (true, words),
        Err(why) => (false, why),
    };
    let told = io::stdout().write_all(words.as_bytes()).is_ok();
    Some(if is_done && told { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn obey(args: &[&OsStr]) -> Result<String, String> {
    let verb = args.first().and_then(|verb| verb.to_str()).unwrap_or_default();
    if verb == "hold" {
        return make();
    }
    let descriptor = args.get(1).and_then(|text| text.to_str()?.parse::<RawFd>().ok());
    let descriptor = descriptor.and_then(syscall::adopt).ok_or("no user namespace was handed over")?;
    setns(descriptor, CloneFlags::CLONE_NEWUSER)
        .map_err(|errno| format!("cannot enter the user namespace: {}", errno.desc()))?;
    match (verb, args.get(2)) {
        ("enter", None) => Ok("done".to_owned()),
        ("unpack", Some(root)) => Ok(say(&unpack_input(Path::new(root)))),
        ("remove", Some(path)) => remove_tree::remove(Path::new(path))
            .map(|()| "done".to_owned())
            .map_err(|error| format!("cannot remove it in the user namespace: {error}")),
        ("settle", Some(layer)) => settle_layer(Path::new(layer))
            .map(|()| "done".to_owned())
            .map_err(|error| format!("cannot look at layers in the user namespace: {error}")),
        ("compare", Some(expected)) => compare_trees(Path::new(expected), args.get(3), args.get(4)),
        ("measure", Some(path)) => walk_tree::size_on_disk(Path::new(path))
            .map(|bytes| bytes.to_string())
            .map_err(|error| format!("cannot look at it in the user namespace: {error}")),
        _ => Err("the request is none that is known in a user namespace".to_owned()),
    }
}

/// Makes a namespace, and stays until the input ends, so that it can be mapped and taken over.
fn make() -> Result<String, String> {
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

/// The layers below come by the input, each with a NUL behind it.
fn settle_layer(layer: &Path) -> io::Result<()> {
    let below = io::stdin().lock().split(0).map(|path| path.map(|path| OsString::from_vec(path).into()));
    let below = below.collect::<io::Result<Vec<PathBuf>>>()?;
    implied_dirs::settle(layer, &below, &Cancel::default())
}

/// Why the kernel makes no namespace, and what decides that. user_namespaces(7), namespaces(7).
fn refusal(errno: Errno) -> String {
    let setting = match errno {
        Errno::ENOSPC => "; see user.max_user_namespaces in sysctl",
        Errno::EPERM => {
            "; ordinary users may not, by a setting of the kernel's, or of AppArmor's or a container's"
        }
        _ => "",
    };
    format!("{}{setting}", errno.desc())
}

fn unpack_input(root: &Path) -> Result<Unpacked, UnpackError> {
    let (unpacked, mut rest) = unpack::unpack(BufReader::with_capacity(BUFFER, io::stdin().lock()), root)?;
    // The sender hands over all that there is, whatever stands behind the tar's end.
    io::copy(&mut rest, &mut io::sink()).map_err(|error| UnpackError::Tar(TarError::Read(error)))?;
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_understood_and_nonsense_is_a_failure() {
        let good = Unpacked { entries: 7, skipped: 2 };
        assert_eq!(parse(&say(&Ok(good))).expect("done"), good);
        for error in [TarError::Truncated, TarError::Malformed("header \"x y\"".to_owned())] {
            let text = error.to_string();
            let told = parse(&say(&Err(error.into()))).expect_err("failed");
            assert!(matches!(told, UnpackError::Tar(_)) && told.to_string() == text);
        }
        for words in ["", "done", "done x y", "done 1", "failed a b", "ended with signal: 9"] {
            assert!(matches!(parse(words), Err(UnpackError::Elsewhere(_))), "{words:?}");
        }
    }

    #[test]
    fn only_the_hidden_argument_makes_a_process_of_the_namespace() {
        let ask = |args: &[&str]| run(args.iter().map(OsString::from)).is_some();
        assert!(!ask(&[]) && !ask(&["engine"]) && !ask(&["engine", "--socket", ARGUMENT]));
        // Nothing was handed over: it fails before it does anything.
        assert!(obey(&[OsStr::new("remove"), OsStr::new("1"), OsStr::new("/nonexistent")]).is_err());
        assert!(obey(&[]).is_err());
    }
}
