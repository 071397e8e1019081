//! Other users of the host, for tests of permissions: runs programs, or parts of the test, as these users.
//!
//! A user is only a number; passwd(5) need not contain it. Needs root.

use nix::unistd::{Gid, Uid, getgroups, setegid, seteuid, setgroups};
use std::path::Path;
use std::process::Command;

/// Longest time that a program of another user may take, in seconds; an argument of timeout(1).
const PATIENCE: &str = "60";

/// A user, with a primary group of the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User ID.
    pub uid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl User {
    /// A user without supplementary groups.
    pub fn new(uid: u32) -> Self {
        User { uid, groups: Vec::new() }
    }

    /// A user with one supplementary group.
    pub fn member(uid: u32, group: u32) -> Self {
        User { uid, groups: vec![group] }
    }

    /// Prepares a command that runs `program` as this user, with only `PATH` in its environment; it is killed after
    /// `PATIENCE`.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("timeout");
        command.arg("--kill-after=1").arg(PATIENCE).args(self.setpriv()).arg(program);
        clear(&mut command);
        command
    }

    /// Prepares a command that runs `program` as this user until it is killed; the command's process itself becomes the
    /// program.
    pub fn daemon(&self, program: &Path) -> Command {
        let mut words = self.setpriv().into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg(program);
        clear(&mut command);
        command
    }

    fn setpriv(&self) -> Vec<String> {
        let groups: Vec<String> = self.groups.iter().map(u32::to_string).collect();
        let groups = match groups.is_empty() {
            true => "--clear-groups".to_owned(),
            false => format!("--groups={}", groups.join(",")),
        };
        let (uid, gid) = (format!("--reuid={}", self.uid), format!("--regid={}", self.uid));
        vec!["setpriv".to_owned(), uid, gid, groups]
    }

    /// Calls `what` as this user. The whole process is that user meanwhile, so only one test may run in it.
    pub fn does<T>(&self, what: impl FnOnce() -> T) -> T {
        /// Becomes root again when it is dropped, even by a panic.
        struct Back(Vec<Gid>);
        impl Drop for Back {
            fn drop(&mut self) {
                seteuid(Uid::from_raw(0)).expect("root is kept as the saved user");
                setegid(Gid::from_raw(0)).expect("root may");
                setgroups(&self.0).expect("root may");
            }
        }
        let back = Back(getgroups().expect("known"));
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups).expect("root may");
        setegid(Gid::from_raw(self.uid)).expect("root may");
        seteuid(Uid::from_raw(self.uid)).expect("root may");
        let result = what();
        drop(back);
        result
    }
}

fn clear(command: &mut Command) {
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.current_dir("/").stdin(std::process::Stdio::null());
}
