//! Other users of the host, for tests of who may do what: programs that they run, and what this process does in their
//! name.
//!
//! A user is numbers alone; passwd(5) need not have it. Needs root.

use nix::unistd::{Gid, Uid, getgroups, setegid, seteuid, setgroups};
use std::path::Path;
use std::process::Command;

/// Longest that a program of another user may take, in seconds, as timeout(1) takes it.
const PATIENCE: &str = "60";

/// A user, in a primary group of the same number and perhaps in others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The number.
    pub uid: u32,
    /// Groups beside the primary one.
    pub groups: Vec<u32>,
}

impl User {
    /// One who is in no group but its own.
    pub fn new(uid: u32) -> Self {
        User { uid, groups: Vec::new() }
    }

    /// One who is in one more group.
    pub fn member(uid: u32, group: u32) -> Self {
        User { uid, groups: vec![group] }
    }

    /// A program that this user runs, with nothing in its environment but `PATH`; one that takes too long is killed.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("timeout");
        command.arg("--kill-after=1").arg(PATIENCE).args(self.setpriv()).arg(program);
        clear(&mut command);
        command
    }

    /// The same for a program that runs until it is killed: the process that is started becomes it.
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

    /// Does something as this user. The whole process is that user meanwhile: for a test that is alone in it.
    pub fn does<T>(&self, what: impl FnOnce() -> T) -> T {
        /// Becomes root again, however it ends.
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
