//! A host that replicates: monitord, an engine that knows a pair's certificates and credentials, and the command line.
//!
//! The files of an engine that was killed stay, so that the next engine continues. The engine and the commands have one
//! home directory. It has the credentials, as if `sampan login` had written them, so an engine continues without a
//! client.

use super::client::basic;
use super::pair::{PASSWORD, Pair, Side, USERNAME};
use super::report::Report;
use crate::command_line;
use crate::host::{Host, PATIENCE, binary};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use sampan_ipc::engine::{Answer, Failure, Opening, Request, VERSION};
use sampan_ipc::frame::{self, Decoder, FRAME_MAX};
use sampan_ipc::replication::{Execution, ExecutionRequest, Listing, Policy, State};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

/// A host that replicates.
pub struct Replicator {
    engine: Option<Child>,
    /// The host's directory and its monitord.
    pub host: Host,
}

impl Replicator {
    /// Starts a host that trusts a pair's certificates and is logged in at its destination.
    pub fn start(pair: &Pair) -> Self {
        Replicator::with_table(pair, "")
    }

    /// Starts a host with additional lines in the `[engine]` table.
    pub fn with_table(pair: &Pair, table: &str) -> Self {
        Replicator::on(Host::with_monitord(&[]), &[&pair.source, &pair.destination], table)
    }

    /// Starts an engine on a host that exists already.
    pub fn on(host: Host, sides: &[&Side], table: &str) -> Self {
        let mut replicator = Replicator { engine: None, host };
        for dir in ["home/run", "replication.d", "certs.d"] {
            fs::create_dir_all(replicator.host.path(dir)).expect("a directory");
        }
        fs::write(replicator.host.path("registries.conf"), "").expect("written");
        for side in sides {
            replicator.trust(side);
        }
        replicator.log_in(sides);
        replicator.configure(table);
        replicator.start_engine();
        replicator
    }

    /// Writes the engine's configuration with these additional lines; it takes effect with the next start.
    pub fn configure(&self, table: &str) {
        let text = format!(
            "[engine]\ncerts-dir = '{}'\nregistries-conf = '{}'\nreplication-policies = '{}'\n{table}\n",
            self.host.path("certs.d").display(),
            self.host.path("registries.conf").display(),
            self.policies().display(),
        );
        fs::write(self.host.path("sampan.toml"), text).expect("written");
    }

    fn trust(&self, side: &Side) {
        if let Some(certificate) = &side.certificate {
            let dir = self.host.path("certs.d").join(&side.address);
            fs::create_dir_all(&dir).expect("a directory");
            fs::copy(certificate, dir.join("ca.crt")).expect("copied");
        }
    }

    fn log_in(&self, sides: &[&Side]) {
        let secret = basic(USERNAME, PASSWORD);
        let secret = secret.trim_start_matches("Basic ");
        let auths: serde_json::Map<String, Value> =
            sides.iter().map(|side| (side.address.clone(), json!({"auth": secret}))).collect();
        let file = self.host.path("home/run/containers/auth.json");
        fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
        fs::write(file, json!({"auths": auths}).to_string()).expect("written");
    }

    /// Directory of the policies.
    pub fn policies(&self) -> PathBuf {
        self.host.path("replication.d")
    }

    /// Writes a policy; a running engine reads it after [`Replicator::reload`].
    pub fn write_policy(&self, name: &str, text: &str) {
        fs::write(self.policies().join(format!("{name}.toml")), text).expect("written");
    }

    /// Sends SIGHUP to the engine.
    pub fn reload(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// Starts the engine and waits until it replies. It must not run.
    pub fn start_engine(&mut self) {
        self.spawn_engine();
        let engine = Pid::from_raw(self.pid().cast_signed());
        // WNOWAIT leaves the status for the later wait of `Child`.
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        self.wait_until("the engine to serve", || {
            let status = waitid(Id::Pid(engine), flags).expect("ours");
            assert_eq!(status, WaitStatus::StillAlive, "the engine has ended\n{}", self.log());
            self.is_serving()
        });
    }

    /// Starts the engine without waiting. It must not run.
    pub fn spawn_engine(&mut self) {
        assert!(self.engine.is_none(), "one engine at a time");
        let log = File::options().create(true).append(true).open(self.host.path("engine.log"));
        let mut command = self.command_of("sampan-engine");
        command.arg("--config").arg(self.host.path("sampan.toml")).env("SAMPAN_LOG", "debug");
        command.stdout(Stdio::null()).stderr(log.expect("a log"));
        self.engine = Some(command.spawn().expect("sampan-engine starts"));
    }

    fn is_serving(&self) -> bool {
        UnixStream::connect(self.socket()).is_ok()
            && matches!(self.try_ask(&Request::Info).as_deref(), Ok([Answer::Info(_), ..]))
    }

    /// Process ID of the engine.
    pub fn pid(&self) -> u32 {
        self.engine.as_ref().expect("the engine runs").id()
    }

    /// Sends a signal to the engine.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("the engine runs");
    }

    /// Kills the engine by SIGKILL; its files stay. It may have ended already.
    pub fn kill9(&mut self) {
        let mut engine = self.engine.take().expect("the engine runs");
        let _ = engine.kill();
        engine.wait().expect("ours");
    }

    /// Sends SIGTERM to the engine and waits for its end.
    pub fn term(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.engine.take().expect("the engine runs").wait().expect("ours")
    }

    /// Waits until the engine ends by a signal that somebody else sends, such as a recorder in the middle of a request.
    pub fn await_engine_end(&mut self) -> ExitStatus {
        self.engine.take().expect("the engine runs").wait().expect("ours")
    }

    /// The engine's log.
    pub fn log(&self) -> String {
        fs::read(self.host.path("engine.log"))
            .map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into())
    }

    /// Waits until `condition` holds; panics with the engine's log if it does not.
    pub fn wait_until(&self, what: &str, condition: impl FnMut() -> bool) {
        crate::host::wait_until(what, || self.log(), condition);
    }

    fn command_of(&self, name: &str) -> Command {
        let mut command = self.host.command_of(&binary(name));
        for name in ["REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME"] {
            command.env_remove(name);
        }
        command.env("HOME", self.host.path("home")).env("XDG_RUNTIME_DIR", self.host.path("home/run"));
        command
    }

    /// Prepares a `sampan` command.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.command_of("sampan");
        command.args(args);
        command
    }

    /// Runs a `sampan` command until it ends.
    pub fn sampan(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("sampan starts")
    }

    /// Starts a `sampan` command whose output is discarded.
    pub fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("sampan starts")
    }

    /// Runs a command that must succeed; returns its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        command_line::ok(&mut self.command(args), || self.log())
    }

    /// Runs a command that must fail with this status; returns its standard output and standard error.
    pub fn fails(&self, status: i32, args: &[&str]) -> String {
        command_line::fails(&mut self.command(args), status, || self.log())
    }

    /// Runs a command that must succeed and print JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        command_line::json(&mut self.command(args), || self.log())
    }

    /// Runs `sampan replicate` in the background of the engine; the number of the execution.
    pub fn detach(&self, args: &[&str]) -> u64 {
        let text = self.ok(&[&["replicate", "--detach"], args].concat());
        text.trim().parse().unwrap_or_else(|_| panic!("no number of an execution: {text:?}"))
    }

    fn socket(&self) -> PathBuf {
        self.host.path("run/engine.sock")
    }

    fn try_ask(&self, request: &Request) -> std::io::Result<Vec<Answer>> {
        let mut socket = UnixStream::connect(self.socket())?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let opening = Opening { version: VERSION, request: request.clone() };
        socket.write_all(&frame::encode(&opening).expect("small"))?;
        let (mut decoder, mut answers, mut bytes) = (Decoder::new(FRAME_MAX), Vec::new(), [0; 4096]);
        loop {
            match decoder.next_message::<Answer>() {
                Ok(Some(answer)) => answers.push(answer),
                Ok(None) => match socket.read(&mut bytes)? {
                    0 => return Ok(answers),
                    len => decoder.push(&bytes[..len]),
                },
                Err(error) => return Err(std::io::Error::other(error.to_string())),
            }
        }
    }

    /// Sends a request over the engine's socket; all of its answers.
    pub fn ask(&self, request: &Request) -> Vec<Answer> {
        self.try_ask(request).unwrap_or_else(|error| panic!("{request:?}: {error}\n{}", self.log()))
    }

    /// Executions, the newest first.
    pub fn executions(&self) -> Vec<Execution> {
        let mut executions = Vec::new();
        for answer in self.ask(&Request::Executions(Listing::default())) {
            match answer {
                Answer::Executions(part) => executions.extend(part),
                Answer::Error(failure) => panic!("{failure:?}\n{}", self.log()),
                _ => {}
            }
        }
        executions
    }

    /// The newest execution; panics if there is none.
    pub fn newest(&self) -> u64 {
        self.executions().first().expect("an execution").id
    }

    /// What the engine says of an execution.
    pub fn report(&self, id: u64) -> Report {
        let request = Request::Execution { id, request: ExecutionRequest::Show };
        let report = Report::of(self.ask(&request));
        report.unwrap_or_else(|failure| panic!("execution {id}: {failure:?}\n{}", self.log()))
    }

    /// Sends a request for an execution other than [`ExecutionRequest::Show`]. The number of the new execution, if the
    /// request starts one.
    ///
    /// # Errors The engine refuses.
    pub fn order(&self, id: u64, request: ExecutionRequest) -> Result<Option<u64>, Failure> {
        let mut number = None;
        for answer in self.ask(&Request::Execution { id, request }) {
            match answer {
                Answer::Job(job) => number = Some(job.id),
                Answer::Error(failure) => return Err(failure),
                _ => {}
            }
        }
        Ok(number)
    }

    /// Waits until an execution is final; its report.
    pub fn await_end(&self, id: u64) -> Report {
        let mut report = Report::default();
        self.wait_until(&format!("execution {id} to end"), || {
            report = self.report(id);
            report.state().is_final()
        });
        report
    }

    /// Waits until an execution is finished; panics with its report if it ends otherwise.
    pub fn await_finished(&self, id: u64) -> Report {
        let report = self.await_end(id);
        assert_eq!(report.state(), State::Finished, "{report:#?}\n{}", self.log());
        report
    }

    /// The policies, as the engine knows them.
    pub fn known_policies(&self) -> Vec<Policy> {
        let mut policies = Vec::new();
        for answer in self.ask(&Request::Policies) {
            match answer {
                Answer::Policies(part) => policies.extend(part),
                Answer::Error(failure) => panic!("{failure:?}\n{}", self.log()),
                _ => {}
            }
        }
        policies
    }

    /// Events so far that match the filters, as `sampan events --format json` prints them.
    pub fn events(&self, filters: &[&str]) -> Vec<Value> {
        let mut args = vec!["events", "--no-follow", "--format", "json"];
        for filter in filters {
            args.extend(["--filter", filter]);
        }
        let lines = self.ok(&args);
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

impl Drop for Replicator {
    fn drop(&mut self) {
        if let Some(engine) = &mut self.engine {
            let _ = engine.kill();
            let _ = engine.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}
