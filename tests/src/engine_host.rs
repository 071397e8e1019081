//! An engine in a private directory, and the command line of a user whose home is in that directory.
//!
//! Used by the tests of login and push. Reads no file of the real user. Ends only processes that it started.

use crate::host::{PATIENCE, binary};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;
use tempfile::TempDir;

/// An engine and its user.
pub struct EngineHost {
    dir: TempDir,
    child: Option<Child>,
}

impl Default for EngineHost {
    fn default() -> Self {
        EngineHost::start()
    }
}

impl EngineHost {
    /// Starts an engine, and waits until it serves.
    pub fn start() -> Self {
        EngineHost::start_with("")
    }

    /// Starts an engine with these lines in the `[engine]` table, and waits until it serves.
    pub fn start_with(config: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("sampan-test.").tempdir().expect("a private directory");
        fs::create_dir(dir.path().join("home")).expect("a directory");
        fs::create_dir(dir.path().join("bin")).expect("a directory");
        fs::write(dir.path().join("sampan.toml"), format!("[engine]\n{config}\n")).expect("written");
        let mut host = EngineHost { dir, child: None };
        let mut command = host.command(&binary("sampan-engine"));
        command.arg("--config").arg(host.path("sampan.toml")).env("SAMPAN_LOG", "debug");
        // The engine has another home than its user, as if it were another user.
        command.env("HOME", host.path("engine-home")).env("XDG_RUNTIME_DIR", host.path("engine-home/run"));
        let log = File::options().create(true).append(true).open(host.path("log")).expect("a log");
        host.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().expect("the engine starts"));
        let deadline = Instant::now() + PATIENCE;
        while !host.sampan(&["info"]).status.success() {
            assert!(Instant::now() < deadline, "the engine does not come up\n{}", host.log());
        }
        host
    }

    /// A path in the private directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Path of the file that `sampan login` writes.
    pub fn auth_file(&self) -> PathBuf {
        self.path("home/run/containers/auth.json")
    }

    /// Directory of the engine's store.
    pub fn store(&self) -> PathBuf {
        self.path("data/store")
    }

    /// Returns the engine's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Process ID of the engine.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("started").id()
    }

    /// Prepares a command of this user that runs `program`.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, dir) in [("RUN", "run"), ("STATE", "state"), ("DATA", "data")] {
            command.env(format!("SAMPAN_{name}_DIR"), self.path(dir));
        }
        for name in ["REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME", "NOTIFY_SOCKET", "LISTEN_FDS"]
        {
            command.env_remove(name);
        }
        let mut path = self.path("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        command
            .env("HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("home/run"))
            .env("PATH", path);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a `sampan` command until it ends.
    pub fn sampan(&self, args: &[&str]) -> Output {
        self.command(&binary("sampan")).args(args).output().expect("sampan starts")
    }

    /// Runs a `sampan` command that must succeed; returns its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.sampan(args);
        let text = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "sampan {args:?}: {text}\n{}", self.log());
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Runs a `sampan` command that must fail with `status`; returns its standard error.
    pub fn fails(&self, status: i32, args: &[&str]) -> String {
        let out = self.sampan(args);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(status), "sampan {args:?}: {text}\n{}", self.log());
        text
    }

    /// Waits until `condition` holds; panics with the engine's log if it does not.
    pub fn wait_until(&self, what: &str, condition: impl FnMut() -> bool) {
        crate::host::wait_until(what, || self.log(), condition);
    }

    /// Makes a shell script that user and engine find in their `PATH`.
    pub fn script(&self, name: &str, body: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
    }
}

impl Drop for EngineHost {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}
