//! A credential helper: the program `docker-credential-NAME` of the docker-credential-helpers protocol.
//!
//! The name is checked; run time and output are limited. The output of a helper that fails is never shown, because it
//! may contain a secret.

use crate::engine::Credential;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest run time of a helper. A person may have to unlock a key ring meanwhile.
pub const TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes of a helper's output.
const ANSWER_MAX: usize = 64 << 10;
/// Most bytes of input. A pipe takes this number of bytes without a reader, so that writing never blocks. pipe(7).
const INPUT_MAX: usize = 32 << 10;
/// Longest name of a helper, in bytes.
const NAME_MAX: usize = 64;
/// The beginning of a helper's output if it has no credential for a server.
const NOT_FOUND: &[u8] = b"credentials not found";
/// User name with which a helper marks the secret as an identity token.
const TOKEN_USER: &str = "<token>";
/// Interval in which `is_over` is checked.
const CANCEL_POLL: Duration = Duration::from_millis(100);
/// Interval in which a helper that has closed its output is checked for its end.
const EXIT_POLL: Duration = Duration::from_millis(5);

/// Why a helper could not be used.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// The name is not allowed.
    #[error("{0:?} is not a valid name of a credential helper")]
    Name(String),
    /// The helper cannot be run, or exceeded a limit.
    #[error("cannot run {program}")]
    Run {
        /// Name of the program.
        program: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The helper ended with an error.
    #[error("{program} {action} failed with {status}")]
    Failed {
        /// Name of the program.
        program: String,
        /// The subcommand of the helper: `get`, `store`, `erase` or `list`.
        action: &'static str,
        /// The exit status.
        status: ExitStatus,
    },
    /// The output does not follow the protocol.
    #[error("cannot parse the output of {program} {action}")]
    Answer {
        /// Name of the program.
        program: String,
        /// The subcommand of the helper: `get`, `store`, `erase` or `list`.
        action: &'static str,
    },
}

/// A credential helper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helper {
    program: String,
    timeout: Duration,
    /// The search path for the program, instead of `$PATH`. Set by tests.
    path: Option<OsString>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "ServerURL", default)]
    server: String,
    username: String,
    secret: String,
}

impl Helper {
    /// Makes the helper with this name in a configuration file. Its program is `docker-credential-NAME`.
    ///
    /// # Errors
    /// [`HelperError::Name`] if the name does not match `[A-Za-z0-9][A-Za-z0-9._-]*`, or is longer than 64 bytes.
    pub fn new(name: &str) -> Result<Self, HelperError> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if !first || name.len() > NAME_MAX || !name.bytes().all(good) {
            return Err(HelperError::Name(name.chars().take(NAME_MAX).collect()));
        }
        Ok(Helper { program: format!("docker-credential-{name}"), timeout: TIMEOUT, path: None })
    }

    /// Gets the credential for `server`; `None` if the helper has none.
    ///
    /// # Errors
    /// [`HelperError`] if the helper cannot be run, fails, or violates the protocol.
    pub fn get(&self, server: &str) -> Result<Option<Credential>, HelperError> {
        self.get_unless(server, &|| false)
    }

    /// Like [`Helper::get`], but kills the helper when `is_over` returns true.
    ///
    /// # Errors
    /// The errors of [`Helper::get`]; [`HelperError::Run`] if the helper was killed.
    pub fn get_unless(
        &self,
        server: &str,
        is_over: &dyn Fn() -> bool,
    ) -> Result<Option<Credential>, HelperError> {
        let action = "get";
        let (status, answer) = self.run(action, server.as_bytes(), is_over)?;
        if !status.success() {
            return match answer.starts_with(NOT_FOUND) {
                true => Ok(None),
                false => Err(self.failed(action, status)),
            };
        }
        let unreadable = |_| HelperError::Answer { program: self.program.clone(), action };
        let Entry { username, secret, .. } = serde_json::from_slice(&answer).map_err(unreadable)?;
        let registry = server.to_owned();
        Ok(match (username.as_str(), secret.is_empty()) {
            (_, true) => None,
            (TOKEN_USER, false) => {
                Some(Credential { registry, identity_token: secret, ..Credential::default() })
            }
            _ => Some(Credential { registry, username, password: secret, ..Credential::default() }),
        })
    }

    /// Stores `credential` for `server` in the helper.
    ///
    /// # Errors
    /// [`HelperError`] if the helper cannot be run or fails.
    #[expect(clippy::expect_used, reason = "serde_json refuses only maps whose keys are no strings")]
    pub fn store(&self, server: &str, credential: &Credential) -> Result<(), HelperError> {
        let (username, secret) = match credential.identity_token.as_str() {
            "" => (credential.username.clone(), credential.password.clone()),
            token => (TOKEN_USER.to_owned(), token.to_owned()),
        };
        let entry = Entry { server: server.to_owned(), username, secret };
        let input = serde_json::to_vec(&entry).expect("strings have no shape that JSON cannot hold");
        self.run_successfully("store", &input)
    }

    /// Removes the credential for `server` from the helper.
    ///
    /// # Errors
    /// [`HelperError`] if the helper cannot be run or fails.
    pub fn erase(&self, server: &str) -> Result<(), HelperError> {
        self.run_successfully("erase", server.as_bytes())
    }

    /// Lists the servers for which the helper has a credential, in alphabetical order.
    ///
    /// # Errors
    /// [`HelperError`] if the helper cannot be run, fails, or violates the protocol.
    pub fn list(&self) -> Result<Vec<String>, HelperError> {
        let action = "list";
        let (status, answer) = self.run(action, &[], &|| false)?;
        if !status.success() {
            return Err(self.failed(action, status));
        }
        let unreadable = |_| HelperError::Answer { program: self.program.clone(), action };
        let known: BTreeMap<String, String> = serde_json::from_slice(&answer).map_err(unreadable)?;
        Ok(known.into_keys().collect())
    }

    fn run_successfully(&self, action: &'static str, input: &[u8]) -> Result<(), HelperError> {
        let (status, _) = self.run(action, input, &|| false)?;
        if status.success() { Ok(()) } else { Err(self.failed(action, status)) }
    }

    fn failed(&self, action: &'static str, status: ExitStatus) -> HelperError {
        HelperError::Failed { program: self.program.clone(), action, status }
    }

    fn run(
        &self,
        action: &str,
        input: &[u8],
        is_over: &dyn Fn() -> bool,
    ) -> Result<(ExitStatus, Vec<u8>), HelperError> {
        let failed = |source| HelperError::Run { program: self.program.clone(), source };
        if input.len() > INPUT_MAX {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "its input is too long")));
        }
        let mut command = Command::new(&self.program);
        command.arg(action).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.envs(self.path.iter().map(|path| ("PATH", path)));
        let mut child = command.spawn().map_err(failed)?;
        let exchanged = exchange(&mut child, input, Instant::now() + self.timeout, is_over);
        if exchanged.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        exchanged.map_err(failed)
    }
}

/// Writes the input, reads the output, and waits for the end of the helper.
fn exchange(
    child: &mut Child,
    input: &[u8],
    deadline: Instant,
    is_over: &dyn Fn() -> bool,
) -> io::Result<(ExitStatus, Vec<u8>)> {
    let left = || if is_over() { Err(io::ErrorKind::ConnectionAborted.into()) } else { time_left(deadline) };
    let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    match stdin.write_all(input) {
        // A helper may answer without reading its input.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other?,
    }
    drop(stdin);
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
        let wait = PollTimeout::try_from(left()?.min(CANCEL_POLL)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, wait) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
            other => other?,
        };
        match stdout.read(&mut part)? {
            0 => break,
            len => answer.extend_from_slice(part.get(..len).unwrap_or_default()),
        }
        if answer.len() > ANSWER_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer is too long"));
        }
    }
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, answer));
        }
        left()?;
        std::thread::sleep(EXIT_POLL);
    }
}

fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    /// A helper that is a shell script.
    fn script(body: &str) -> (TempDir, Helper) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("docker-credential-test");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
        let mut search = dir.path().as_os_str().to_owned();
        search.push(":/usr/bin:/bin");
        let helper = Helper::new("test").expect("good");
        (dir, Helper { program: path.display().to_string(), path: Some(search), ..helper })
    }

    #[test]
    fn a_name_is_no_path_and_no_option() {
        for bad in ["", "../x", "a/b", "-x", ".x", "a b", "é", &"a".repeat(65)] {
            assert!(matches!(Helper::new(bad), Err(HelperError::Name(_))), "{bad:?}");
        }
        assert!(Helper::new("ecr-login").is_ok());
    }

    #[test]
    fn answers_are_read_as_the_protocol_says() {
        let (_dir, helper) =
            script(r#"read -r s; printf '{"ServerURL":"%s","Username":"%s","Secret":"pw"}' "$s" "$1""#);
        let found = helper.get("r.example").expect("an answer").expect("a credential");
        assert_eq!((found.username.as_str(), found.password.as_str()), ("get", "pw"));
        let (_dir, helper) = script(r#"printf '{"Username":"<token>","Secret":"t"}'"#);
        let found = helper.get("r.example").expect("an answer").expect("a credential");
        assert_eq!((found.username.as_str(), found.identity_token.as_str()), ("", "t"));
        let (_dir, helper) = script("echo credentials not found in native keychain; exit 1");
        assert_eq!(helper.get("r.example").expect("an answer"), None);
        let (_dir, helper) = script(r#"[ "$1" = list ] && echo '{"r.example":"ann","b":"bob"}'"#);
        assert_eq!(helper.list().expect("an answer"), ["b", "r.example"]);
    }

    #[test]
    fn what_a_broken_helper_prints_is_in_no_error() {
        for body in ["echo hunter2; exit 1", "echo hunter2", r#"echo '{"Secret":"hunter2"}'"#] {
            let (_dir, helper) = script(body);
            let error = helper.get("r.example").expect_err("broken");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn a_helper_that_talks_or_waits_too_long_is_ended() {
        let (_dir, helper) = script("exec yes");
        assert!(matches!(helper.get("r.example"), Err(HelperError::Run { .. })));
        let (_dir, helper) = script("exec sleep 600");
        let helper = Helper { timeout: Duration::from_millis(100), ..helper };
        assert!(matches!(helper.get("r.example"), Err(HelperError::Run { .. })));
        let (_dir, helper) = script("exec >/dev/null; exec sleep 600");
        let helper = Helper { timeout: Duration::from_millis(100), ..helper };
        assert!(matches!(helper.get("r.example"), Err(HelperError::Run { .. })));
    }
}
