//! The commands of replication against an engine that this file plays: the requests that they send, what they print,
//! their exit status, and what signals do.

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe};
use sampan_ipc::engine::{Answer, Code, Done, Failure, Job, JobState, Opening, Phase, Request, Row};
use sampan_ipc::frame::{self, Decoder, FRAME_MAX};
use sampan_ipc::replication::{
    Artifact, Artifacts, Bytes, ErrorClass, Execution, ExecutionRequest, LastError, Listing, Options,
    Outcome, Policy, Replicate, Sparse, State, Task,
};
use sampan_tests::host::{PATIENCE, binary, wait_until};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use tempfile::TempDir;

/// The number of the execution in this file.
const ID: u64 = 7;

/// The requests that clients have sent so far, and a way to wait for one.
#[derive(Clone, Default)]
struct Requests(Arc<(Mutex<Vec<Request>>, Condvar)>);

impl Requests {
    fn push(&self, request: Request) {
        self.0.0.lock().expect("no panic").push(request);
        self.0.1.notify_all();
    }

    fn all(&self) -> Vec<Request> {
        self.0.0.lock().expect("no panic").clone()
    }

    /// Waits until there is a request like this. Returns whether there is one.
    fn await_one(&self, is_meant: impl Fn(&Request) -> bool) -> bool {
        let requests = self.0.0.lock().expect("no panic");
        let is_absent = |requests: &mut Vec<Request>| !requests.iter().any(&is_meant);
        !self.0.1.wait_timeout_while(requests, PATIENCE, is_absent).expect("no panic").1.timed_out()
    }
}

/// A client that waits for answers.
struct Peer {
    stream: UnixStream,
    requests: Requests,
}

impl Peer {
    fn send(&mut self, answer: Answer) {
        // The client may have ended.
        let _ = self.stream.write_all(&frame::encode(&answer).expect("small"));
    }

    fn done(&mut self) {
        self.send(Answer::Done(Done::default()));
    }

    fn fail(&mut self, message: &str) {
        let failure = Failure { code: Code::default(), message: message.into(), hint: String::new() };
        self.send(Answer::Error(failure));
    }

    /// Waits until the client closes the connection.
    fn await_end(&mut self) {
        let _ = self.stream.read(&mut [0]);
    }
}

/// The engine that this file plays.
struct FakeEngine {
    dir: TempDir,
    requests: Requests,
}

impl FakeEngine {
    /// Listens, and answers each request by `answer`.
    fn start(answer: impl Fn(&Request, &mut Peer) + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("run")).expect("a directory");
        let listener = UnixListener::bind(dir.path().join("run/engine.sock")).expect("a socket");
        let (requests, answer) = (Requests::default(), Arc::new(answer));
        let known = requests.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, requests) = (Arc::clone(&answer), known.clone());
                thread::spawn(move || serve(Peer { stream, requests }, &*answer));
            }
        });
        FakeEngine { dir, requests }
    }

    /// Plays an engine with one execution, whose job ends when the client has asked for what `until` says.
    fn with(report: Report, until: fn(&Request) -> bool) -> Self {
        FakeEngine::start(move |request, peer| report.answer(request, peer, until))
    }

    fn sampan(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary("sampan"));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, dir) in [("SAMPAN_RUN_DIR", "run"), ("HOME", "home"), ("XDG_RUNTIME_DIR", "home")] {
            command.env(name, self.dir.path().join(dir));
        }
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.sampan(args).output().expect("built"))
    }

    /// The requests that are about the replication itself.
    fn asked(&self) -> Vec<Request> {
        let is_other = |request: &Request| matches!(request, Request::CredentialHelpers | Request::Jobs);
        self.requests.all().into_iter().filter(|request| !is_other(request)).collect()
    }
}

fn serve(mut peer: Peer, answer: &dyn Fn(&Request, &mut Peer)) {
    let (mut decoder, mut buffer) = (Decoder::new(FRAME_MAX), [0; 4096]);
    let opening = loop {
        if let Some(opening) = decoder.next_message::<Opening>().expect("a frame") {
            break opening;
        }
        match peer.stream.read(&mut buffer) {
            Ok(len @ 1..) => decoder.push(&buffer[..len]),
            _ => return,
        }
    };
    peer.requests.push(opening.request.clone());
    match opening.request {
        Request::CredentialHelpers => peer.done(),
        request => answer(&request, &mut peer),
    }
}

/// What a command printed, and how it ended.
struct Ran {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Ran { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// The one execution of an engine.
#[derive(Clone)]
struct Report {
    execution: Execution,
    task: Task,
    artifacts: Vec<Artifact>,
}

impl Report {
    fn new(state: State, artifacts: Vec<Artifact>) -> Self {
        let (source, destination) = ("docker://a.example/x".into(), "docker://b.example/x".into());
        let execution = Execution { id: ID, source, destination, state, ..Execution::default() };
        let task =
            Task { source: "a.example/x".into(), destination: "b.example/x".into(), ..Task::default() };
        Report { execution, task, artifacts }
    }

    fn answer(&self, request: &Request, peer: &mut Peer, until: fn(&Request) -> bool) {
        match request {
            Request::Replicate(replicate) if replicate.detach => {
                peer.send(Answer::Job(self.job()));
                peer.done();
            }
            Request::Replicate(_) | Request::RunPolicy { .. } | Request::Watch { .. } => {
                peer.send(Answer::Job(self.job()));
                peer.send(Answer::Rows { job: ID, rows: rows() });
                if !peer.requests.clone().await_one(until) {
                    return;
                }
                match self.execution.state {
                    State::Finished => peer.done(),
                    state => peer.fail(&format!("the job is in state {state}")),
                }
            }
            Request::Execution { request: ExecutionRequest::Show, .. } => {
                peer.send(Answer::Execution(Box::new(self.execution.clone())));
                peer.send(Answer::Task(Box::new(self.task.clone())));
                // In several frames, as an engine with many artifacts sends them.
                self.artifacts.iter().for_each(|one| peer.send(Answer::Artifacts(vec![one.clone()])));
                peer.done();
            }
            Request::Execution { request: ExecutionRequest::Resume | ExecutionRequest::Retry, .. } => {
                peer.send(Answer::Job(self.job()));
                peer.done();
            }
            Request::Jobs => {
                peer.send(Answer::Jobs(vec![self.job()]));
                peer.done();
            }
            Request::Execution { .. } => peer.done(),
            other => panic!("unexpected: {other:?}"),
        }
    }

    fn job(&self) -> Job {
        let subject = "docker://a.example/x to docker://b.example/x".into();
        Job { id: ID, kind: "replicate".into(), subject, detached: true, ..Job::default() }
    }
}

fn rows() -> Vec<Row> {
    let summary =
        Row { id: "1/3".into(), phase: Phase::Uploading, current: 5 << 20, total: 9 << 20, ..Row::default() };
    let (id, phase) = ("3277ec2e57cd".into(), Phase::Uploading);
    vec![
        summary,
        Row { index: 1, id, phase, current: 1 << 20, total: 2 << 20, attempt: 1, note: String::new() },
    ]
}

fn artifact(tag: &str, state: State, outcome: Outcome) -> Artifact {
    let mut artifact = Artifact {
        source: tag.into(),
        target: tag.into(),
        state,
        outcome,
        digest: format!("sha256:{}", "0123456789abcdef".repeat(4)),
        attempts: 1,
        bytes: Bytes { total: 4096, done: 1024, skipped: 3072, mounted: 0 },
        ..Artifact::default()
    };
    if state == State::Error {
        artifact.error = LastError { class: ErrorClass::Temporary, message: format!("cannot push {tag}") };
    }
    artifact
}

fn one_failed() -> Report {
    let copied = artifact("1", State::Finished, Outcome::Copied);
    Report::new(State::Error, vec![copied, artifact("2", State::Error, Outcome::None)])
}

fn at_once(_: &Request) -> bool {
    true
}

fn stopped(request: &Request) -> bool {
    matches!(request, Request::Execution { id: ID, request: ExecutionRequest::Stop })
}

fn show() -> Request {
    Request::Execution { id: ID, request: ExecutionRequest::Show }
}

#[test]
fn every_option_of_replicate_reaches_the_engine() {
    let engine = FakeEngine::with(Report::new(State::Finished, Vec::new()), at_once);
    let cwd = engine.dir.path().canonicalize().expect("a path");
    let args = "replicate a.example/team/** oci:usb:v1 --all-tags --platform linux/amd64 --platform linux/arm64 \
                --sparse keep --referrers --keep-existing --prune --prune-max 10 --verify --dry-run --limit-rate 10K \
                --request-rate 5 --src-tls-verify=false --dest-tls-verify=false -d";
    let args: Vec<&str> = args.split_whitespace().collect();
    let ran = Ran::of(engine.sampan(&args).current_dir(&cwd).output().expect("built"));
    assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(0), "7\n"), "{}", ran.stderr);
    let options = Options {
        all_tags: true,
        platforms: vec!["linux/amd64".into(), "linux/arm64".into()],
        sparse: Sparse::Keep,
        referrers: true,
        keep_existing: true,
        prune: true,
        prune_max_percent: 10,
        verify: true,
        dry_run: true,
        bytes_per_second: 10 << 10,
        requests_per_second: 5,
        insecure_source: true,
        insecure_destination: true,
    };
    let source = "docker://a.example/team/**".to_owned();
    let destination = format!("oci:{}:v1", cwd.join("usb").display());
    let request = Replicate { source, destination, options, detach: true, credentials: Vec::new() };
    assert_eq!(engine.asked(), [Request::Replicate(Box::new(request))]);
    engine.run(&["replicate", "-d", "store:", "docker://b.example/x"]);
    let Some(Request::Replicate(second)) = engine.asked().pop() else { panic!("a request") };
    assert_eq!((second.source.as_str(), second.options.prune_max_percent), ("store:", 30));
    for args in
        [&["replicate", "a/b"][..], &["replicate", "oci-archive:f", "a/b"], &["replication", "show", "x"]]
    {
        assert_eq!(engine.run(args).status.code(), Some(125), "{args:?}");
    }
    let ran = engine.run(&["replicate", "--prune", "a.example/x:1", "b.example/x"]);
    assert_eq!(ran.status.code(), Some(125));
    assert!(ran.stderr.starts_with("error: --prune needs --all-tags or a pattern\n"), "{}", ran.stderr);
    for platform in ["arm64", "linux/", "linux/arm/v7/x", "linux/a b", ""] {
        let ran = engine.run(&["replicate", "--platform", platform, "a.example/x", "b.example"]);
        let said = format!("error: {platform:?} is not a platform\n");
        assert!(ran.status.code() == Some(125) && ran.stderr.starts_with(&said), "{}", ran.stderr);
    }
}

#[test]
fn the_engine_gets_the_credentials_of_both_hosts_and_no_others() {
    let engine = FakeEngine::with(Report::new(State::Finished, Vec::new()), at_once);
    let authfile = engine.dir.path().join("auth.json");
    // The credential is "user:secret".
    let auth = json!({ "auth": "dXNlcjpzZWNyZXQ=" });
    let auths = json!({ "auths": { "a.example": auth, "b.example:5000/x": auth, "c.example": auth } });
    fs::write(&authfile, auths.to_string()).expect("written");
    let authfile = authfile.to_str().expect("text");
    let ran = engine.run(&["replicate", "-d", "--authfile", authfile, "a.example/**", "b.example:5000/x"]);
    assert!(ran.status.success(), "{}", ran.stderr);
    let Some(Request::Replicate(replicate)) = engine.asked().pop() else { panic!("a request") };
    let hosts: Vec<&str> = replicate.credentials.iter().map(|one| one.registry.as_str()).collect();
    assert_eq!(hosts, ["a.example", "b.example:5000/x"]);
}

#[test]
fn a_replication_ends_with_a_table_and_fails_with_an_artifact() {
    let engine = FakeEngine::with(one_failed(), at_once);
    let ran = engine.run(&["replicate", "a.example/x", "b.example/x"]);
    let expected = "\
1/3 artifacts, 5.00 MiB/9.00 MiB
3277ec2e57cd: uploading 1.00 MiB/2.00 MiB
SOURCE         DESTINATION    RESULT  DIGEST        COPIED    MOUNTED  SKIPPED   ATTEMPTS  MESSAGE
a.example/x:1  b.example/x:1  copied  0123456789ab  1.00 KiB  0 B      3.00 KiB  1
a.example/x:2  b.example/x:2  failed  0123456789ab  1.00 KiB  0 B      3.00 KiB  1         temporary: cannot push 2
2 artifacts: 1 copied, 1 failed; 2.00 KiB copied, 0 B mounted, 6.00 KiB skipped
";
    assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(1), expected));
    let errors = "\
error: a.example/x:2: cannot push 2
error: execution 7: 1 of 2 artifacts failed
hint: sampan replication retry 7 repeats what failed
";
    assert_eq!(ran.stderr, errors);
    let quiet = engine.run(&["replicate", "-q", "a.example/x", "b.example/x"]);
    assert_eq!((quiet.status.code(), quiet.stdout.as_str()), (Some(1), ""));
    assert_eq!(quiet.stderr, errors);
    let finished = Report::new(State::Finished, vec![artifact("1", State::Finished, Outcome::Unchanged)]);
    let engine = FakeEngine::with(finished, at_once);
    let ran = engine.run(&["replicate", "--quiet", "a.example/x", "b.example/x"]);
    assert_eq!((ran.status.code(), ran.stdout + &ran.stderr), (Some(0), String::new()));
    assert_eq!(engine.asked().pop(), Some(show()));
}

#[test]
fn a_json_report_is_one_document_and_nothing_else() {
    let engine = FakeEngine::with(one_failed(), at_once);
    let ran = engine.run(&["replicate", "--format", "json", "a.example/x", "b.example/x"]);
    assert_eq!(ran.status.code(), Some(1));
    let document: Value = serde_json::from_str(&ran.stdout).expect("one document");
    assert_eq!((&document["id"], &document["state"]), (&json!(7), &json!("error")));
    let failed = &document["tasks"][0]["artifacts"][1];
    assert_eq!(failed["result"], "failed");
    assert_eq!(failed["error"], json!({ "class": "temporary", "message": "cannot push 2" }));
    assert_eq!(failed["bytes"]["skipped"], 3072);
    // With progress, the report is the last of many lines.
    let ran = engine.run(&["replicate", "--progress", "json", "a.example/x", "b.example/x"]);
    let lines: Vec<Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let types: Vec<&str> = lines.iter().map(|line| line["type"].as_str().expect("a type")).collect();
    assert_eq!(types, ["job", "layer", "overall", "job", "overall", "report"], "{}", ran.stdout);
    assert_eq!((&lines[2]["artifacts_done"], &lines[2]["artifacts"]), (&json!(1), &json!(3)));
    assert_eq!((&lines[2]["current"], &lines[2]["total"]), (&json!(5 << 20), &json!(9 << 20)));
}

#[test]
fn a_dry_run_prints_the_plan() {
    let mut plan = Report::new(State::Finished, vec![artifact("1", State::Finished, Outcome::None)]);
    plan.execution.dry_run = true;
    let engine = FakeEngine::with(plan, at_once);
    let ran = engine.run(&["replicate", "--dry-run", "--progress", "none", "a.example/x", "b.example/x"]);
    let expected = "\
SOURCE         DESTINATION    PLAN  DIGEST        MOVE      MOUNT  SKIP      MESSAGE
a.example/x:1  b.example/x:1  copy  0123456789ab  1.00 KiB  0 B    3.00 KiB
plan for 1 artifact: 1 copy; 1.00 KiB to move, 0 B to mount, 3.00 KiB to skip; nothing was changed
";
    assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(0), expected), "{}", ran.stderr);
}

/// A command that runs; a drop kills it.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Self {
        Running(command.spawn().expect("built"))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).expect("it runs");
    }

    /// Reads standard output up to this text.
    fn await_text(&mut self, text: &str) {
        let stdout = self.0.stdout.as_mut().expect("piped");
        let (mut read, mut byte) = (Vec::new(), [0]);
        while !String::from_utf8_lossy(&read).contains(text) {
            let len = stdout.read(&mut byte).expect("readable");
            assert!(len == 1, "no {text:?} in {}", String::from_utf8_lossy(&read));
            read.push(byte[0]);
        }
    }

    /// Waits for the end, and returns the rest of the output.
    fn end(mut self) -> Ran {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.0.stdout.take().expect("piped").read_to_string(&mut stdout).expect("text");
        self.0.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
        Ran { status: self.0.wait().expect("ours"), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn ctrl_c_stops_the_execution_and_then_prints_its_report() {
    let report = Report::new(State::Stopped, vec![artifact("1", State::Stopped, Outcome::None)]);
    let engine = FakeEngine::with(report, stopped);
    let mut running = Running::start(engine.sampan(&["replicate", "a.example/x", "b.example/x"]));
    running.await_text("uploading");
    running.signal(Signal::SIGINT);
    let ran = running.end();
    assert_eq!(ran.status.signal(), Some(Signal::SIGINT as i32), "{}", ran.stderr);
    assert!(ran.stdout.contains("1 artifact: 1 stopped"), "{}", ran.stdout);
    let said = "\
note: stopping execution 7; a second Ctrl-C does not wait for its end
error: execution 7 was stopped
hint: sampan replication resume 7 continues it
";
    assert_eq!(ran.stderr, said);
    let stop = Request::Execution { id: ID, request: ExecutionRequest::Stop };
    assert_eq!(engine.asked()[1..], [stop, show()]);
}

#[test]
fn ctrl_c_before_the_execution_has_a_number_stops_it_later() {
    let engine = FakeEngine::start(|request, peer| match request {
        Request::Replicate(_) => {
            let told = |request: &Request| matches!(request, Request::Info);
            peer.send(Answer::Note("wait".into()));
            peer.requests.clone().await_one(told);
            Report::new(State::Stopped, Vec::new()).answer(request, peer, stopped);
        }
        Request::Info => peer.done(),
        request => Report::new(State::Stopped, Vec::new()).answer(request, peer, stopped),
    });
    let mut running = Running::start(engine.sampan(&["replicate", "a.example/x", "b.example/x"]));
    let mut note = [0; 11];
    running.0.stderr.as_mut().expect("piped").read_exact(&mut note).expect("a note");
    running.signal(Signal::SIGINT);
    engine.requests.push(Request::Info);
    let ran = running.end();
    assert_eq!(ran.status.signal(), Some(Signal::SIGINT as i32), "{}", ran.stderr);
    assert!(engine.asked().iter().any(stopped));
}

#[test]
fn a_second_ctrl_c_leaves_and_other_signals_leave_at_once() {
    let never: fn(&Request) -> bool = |_| false;
    let report = Report::new(State::Stopped, Vec::new());
    let engine = FakeEngine::with(report.clone(), never);
    let mut running = Running::start(engine.sampan(&["replicate", "a.example/x", "b.example/x"]));
    running.await_text("uploading");
    running.signal(Signal::SIGINT);
    let mut note = [0; 6];
    running.0.stderr.as_mut().expect("piped").read_exact(&mut note).expect("a note");
    assert!(engine.requests.await_one(stopped));
    // The note comes before a second signal ends the command, so the first one that does may be a later one.
    while running.0.try_wait().expect("ours").is_none() {
        running.signal(Signal::SIGINT);
        thread::yield_now();
    }
    assert_eq!(running.end().status.signal(), Some(Signal::SIGINT as i32));
    assert_eq!(engine.asked().iter().filter(|request| stopped(request)).count(), 1);
    // A command that only watches leaves the execution alone.
    let watch = (&["watch", "7"][..], Signal::SIGINT);
    let replicate = &["replicate", "a.example/x", "b.example/x"][..];
    for (args, signal) in [watch, (replicate, Signal::SIGTERM), (replicate, Signal::SIGHUP)] {
        let engine = FakeEngine::with(report.clone(), never);
        let mut running = Running::start(engine.sampan(args));
        running.await_text("uploading");
        running.signal(signal);
        let ran = running.end();
        assert_eq!(ran.status.signal(), Some(signal as i32), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stderr, "note: execution 7 goes on; sampan replication stop 7 stops it\n");
        assert!(!engine.asked().iter().any(stopped));
    }
}

#[test]
fn an_interrupt_that_comes_twice_at_once_stops_the_execution() {
    let report = Report::new(State::Stopped, Vec::new());
    for _ in 0..10 {
        let engine = FakeEngine::with(report.clone(), stopped);
        let mut running = Running::start(engine.sampan(&["replicate", "a.example/x", "b.example/x"]));
        running.await_text("uploading");
        running.signal(Signal::SIGINT);
        running.signal(Signal::SIGINT);
        assert_eq!(running.end().status.signal(), Some(Signal::SIGINT as i32));
        // The second one may have ended the command before the engine has read the request.
        assert!(engine.requests.await_one(stopped));
    }
}

#[test]
fn ctrl_c_stops_an_execution_whose_progress_nobody_reads() {
    let engine = FakeEngine::start(|request, peer| match request {
        Request::Replicate(_) => {
            peer.send(Answer::Job(one_failed().job()));
            // More lines than the pipe holds.
            for attempt in 1..500 {
                let row = Row { index: 1, attempt, note: "x".repeat(100), ..Row::default() };
                peer.send(Answer::Rows { job: ID, rows: vec![row] });
            }
            peer.await_end();
        }
        request => {
            assert!(stopped(request), "unexpected: {request:?}");
            peer.done();
        }
    });
    let (_reader, writer) = pipe().expect("a pipe");
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).expect("a small pipe");
    let mut command = engine.sampan(&["replicate", "a.example/x", "b.example/x"]);
    command.stdout(writer.try_clone().expect("a descriptor"));
    let mut running = Running::start(command);
    let is_full = || {
        let mut fds = [PollFd::new(writer.as_fd(), PollFlags::POLLOUT)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    };
    wait_until("the pipe to be full", String::new, is_full);
    running.signal(Signal::SIGINT);
    assert_eq!(running.0.wait().expect("ours").signal(), Some(Signal::SIGINT as i32));
    assert!(engine.asked().iter().any(stopped));
}

#[test]
fn an_engine_that_goes_away_leaves_a_hint() {
    let engine = FakeEngine::start(|request, peer| {
        assert!(matches!(request, Request::Replicate(_)), "unexpected: {request:?}");
        peer.send(Answer::Job(one_failed().job()));
    });
    let ran = engine.run(&["replicate", "a.example/x", "b.example/x"]);
    assert_eq!(ran.status.code(), Some(1));
    let hint = "hint: the engine continues execution 7 when it runs again; sampan watch 7 follows it\n";
    assert!(ran.stderr.contains("broke off") && ran.stderr.ends_with(hint), "{}", ran.stderr);
    let engine = FakeEngine::start(|_, peer| peer.fail("no such source"));
    let ran = engine.run(&["replicate", "a.example/x", "b.example/x"]);
    assert_eq!((ran.status.code(), ran.stderr.as_str()), (Some(1), "error: no such source\n"));
}

#[test]
fn a_reader_that_leaves_ends_the_command_and_not_the_execution() {
    let engine = FakeEngine::start(|request, peer| match request {
        Request::Replicate(_) => {
            peer.send(Answer::Job(one_failed().job()));
            peer.send(Answer::Rows { job: ID, rows: rows() });
            peer.await_end();
        }
        request => panic!("unexpected: {request:?}"),
    });
    let mut running = Running::start(engine.sampan(&["replicate", "a.example/x", "b.example/x"]));
    running.await_text("uploading");
    drop(running.0.stdout.take());
    let mut said = String::new();
    running.0.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert_eq!(running.0.wait().expect("ours").signal(), Some(Signal::SIGPIPE as i32), "{said}");
    assert_eq!(engine.asked().len(), 1);
}

#[test]
fn a_repeated_execution_is_followed_like_a_new_one() {
    let finished = Report::new(State::Finished, vec![artifact("1", State::Finished, Outcome::Copied)]);
    for (verb, request) in [("resume", ExecutionRequest::Resume), ("retry", ExecutionRequest::Retry)] {
        let engine = FakeEngine::with(finished.clone(), at_once);
        let ran = engine.run(&["replication", verb, "3"]);
        assert!(ran.status.success() && ran.stdout.contains("1 artifact: 1 copied"), "{}", ran.stderr);
        let again = Request::Execution { id: 3, request };
        assert_eq!(engine.asked(), [again.clone(), Request::Watch { job: ID }, show()]);
        let ran = engine.run(&["replication", verb, "-d", "3"]);
        assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(0), "7\n"));
        assert_eq!(engine.asked()[3..], [again]);
    }
    let engine = FakeEngine::with(finished, at_once);
    assert!(engine.run(&["replication", "run", "nightly", "--dry-run"]).status.success());
    let run = Request::RunPolicy { name: "nightly".into(), dry_run: true, detach: false };
    assert_eq!(engine.asked(), [run, show()]);
}

#[test]
fn watching_a_replication_shows_its_report_too() {
    let engine = FakeEngine::with(one_failed(), at_once);
    let ran = engine.run(&["watch", "7"]);
    assert_eq!(ran.status.code(), Some(1), "{}", ran.stderr);
    assert!(ran.stdout.starts_with("1/3 artifacts, 5.00 MiB/9.00 MiB\n"), "{}", ran.stdout);
    assert!(ran.stdout.contains("2 artifacts: 1 copied, 1 failed"), "{}", ran.stdout);
}

#[test]
fn a_terminal_shows_blobs_in_flight_and_a_cropped_table() {
    let engine = FakeEngine::with(one_failed(), at_once);
    for columns in [60, 120] {
        let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a pty");
        let mut command = engine.sampan(&["replicate", "a.example/x", "b.example/x"]);
        command.env("TERM", "xterm").stdout(File::from(pty.slave)).stderr(Stdio::null());
        let mut child = command.spawn().expect("built");
        drop(command);
        let mut bytes = Vec::new();
        // When the other side is closed, a reader of a pseudoterminal gets EIO.
        let _ = File::from(pty.master).read_to_end(&mut bytes);
        assert_eq!(child.wait().expect("ours").code(), Some(1));
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("3277ec2e57cd") && text.contains("1/3 artifacts"), "{text}");
        let table = text.split("SOURCE ").nth(1).expect("a table");
        let lines: Vec<&str> = table.lines().take(3).collect();
        assert!(lines.iter().all(|line| line.chars().count() < usize::from(columns)), "{table}");
        assert!(lines[1].contains("a.example/x:1  b.example/x:1  copied"), "{table}");
    }
}

#[test]
fn a_job_that_waits_for_its_next_attempt_is_retrying() {
    let engine = FakeEngine::start(|request, peer| {
        assert_eq!(*request, Request::Jobs);
        let note = "retrying in 30 s: 503".into();
        let summary = Row { id: "1/3".into(), current: 5, total: 9, note, ..Row::default() };
        let blob = Row { index: 1, current: 100, total: 100, ..Row::default() };
        let job = Job { rows: vec![summary, blob], ..one_failed().job() };
        let done = Job { id: 8, state: JobState::Done, ..job.clone() };
        let of = |error: &str| Job { state: JobState::Cancelled, error: error.into(), ..done.clone() };
        let ended = [of("replication 9 was stopped"), of("replication 10 was canceled")];
        peer.send(Answer::Jobs([job, done.clone()].into_iter().chain(ended).collect()));
        peer.done();
    });
    let ran = engine.run(&["jobs", "--format", "json"]);
    let jobs: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let fields = ["kind", "state", "current", "total", "layers"].map(|key| jobs[0][key].clone());
    assert_eq!(fields, [json!("replicate"), json!("retrying"), json!(5), json!(9), json!(1)]);
    assert_eq!(jobs[1]["state"], "done");
    assert_eq!((&jobs[2]["state"], &jobs[3]["state"]), (&json!("stopped"), &json!("cancelled")));
}

#[test]
fn lists_are_tables_or_json_and_their_filters_reach_the_engine() {
    let engine = FakeEngine::start(|request, peer| {
        match request {
            Request::Executions(_) => {
                let mut execution = one_failed().execution;
                execution.policy = "nightly".into();
                execution.artifacts = Artifacts { total: 9, done: 3, unchanged: 5, failed: 1 };
                peer.send(Answer::Executions(vec![execution.clone()]));
                peer.send(Answer::Executions(vec![Execution { id: 6, ..execution }]));
            }
            Request::Policies => {
                let error = "/etc/x/bad.toml, line 3: unknown key sorce".into();
                let good = Policy { name: "nightly".into(), enabled: true, ..Policy::default() };
                peer.send(Answer::Policies(vec![
                    good,
                    Policy { name: "bad".into(), error, ..Policy::default() },
                ]));
            }
            Request::ReplicationGraph => peer.send(Answer::Text("digraph {\n}".into())),
            Request::Execution { request: ExecutionRequest::Show, .. } => {
                one_failed().answer(request, peer, at_once);
                return;
            }
            Request::Execution { .. } => {}
            other => panic!("unexpected: {other:?}"),
        }
        peer.done();
    });
    let args =
        ["replication", "ls", "--policy", "nightly", "--since", "2024-05-06T00:00:00Z", "--limit", "9"];
    let ran = engine.run(&args);
    let since = Some(1_714_953_600_000_000_000);
    let listing = Listing { policy: "nightly".into(), since, limit: 9 };
    assert_eq!(engine.asked(), [Request::Executions(listing)]);
    let lines: Vec<Vec<&str>> = ran.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1][..3], ["7", "nightly", "error"]);
    assert_eq!(lines[1][lines[1].len() - 6..lines[1].len() - 4], ["8/9", "1"]);
    assert_eq!(engine.run(&["replication", "ls", "-q"]).stdout, "7\n6\n");
    assert_eq!(engine.asked()[1], Request::Executions(Listing { limit: 50, ..Listing::default() }));
    let json: Value =
        serde_json::from_str(&engine.run(&["replication", "ls", "--format", "json"]).stdout).expect("JSON");
    assert_eq!((&json[0]["id"], &json[1]["counts"]["failed"]), (&json!(7), &json!(1)));
    assert_eq!(engine.run(&["replication", "ls", "--since", "never"]).status.code(), Some(125));

    let ran = engine.run(&["replication", "policies"]);
    assert!(ran.status.success() && ran.stdout.contains("invalid"), "{}", ran.stdout);
    assert_eq!(ran.stderr, "error: /etc/x/bad.toml, line 3: unknown key sorce\n");
    assert_eq!(engine.run(&["replication", "graph"]).stdout, "digraph {\n}\n");

    let ran = engine.run(&["replication", "show", "7"]);
    assert!(ran.status.success() && ran.stdout.starts_with("execution    7, error\n"), "{}", ran.stdout);
    let show: Value =
        serde_json::from_str(&engine.run(&["replication", "show", "7", "--format", "json"]).stdout)
            .expect("JSON");
    assert_eq!(show["tasks"][0]["artifacts"][0]["result"], "copied");

    assert!(engine.run(&["replication", "stop", "7"]).status.success());
    assert!(engine.run(&["replication", "stop", "7", "--cancel"]).status.success());
    let of = |request| Request::Execution { id: ID, request };
    let asked = engine.asked();
    assert_eq!(asked[asked.len() - 2..], [of(ExecutionRequest::Stop), of(ExecutionRequest::Cancel)]);
}

#[test]
fn a_policy_whose_file_cannot_be_used_says_why_it_does_not_run() {
    let engine = FakeEngine::start(|request, peer| match request {
        Request::RunPolicy { name, .. } => peer.fail(&format!("there is no replication policy {name}")),
        Request::Policies => {
            let error = "cannot use /etc/x/bad.toml, line 3, key sped: there is no such key".into();
            peer.send(Answer::Policies(vec![Policy { name: "bad".into(), error, ..Policy::default() }]));
            peer.done();
        }
        other => panic!("unexpected: {other:?}"),
    });
    for more in [&[][..], &["--detach"]] {
        let ran = engine.run(&[&["replication", "run", "bad"], more].concat());
        let said = "error: there is no replication policy bad\n\
                    hint: cannot use /etc/x/bad.toml, line 3, key sped: there is no such key\n";
        assert_eq!((ran.status.code(), ran.stderr.as_str()), (Some(1), said));
    }
    let ran = engine.run(&["replication", "run", "other"]);
    assert_eq!(ran.stderr, "error: there is no replication policy other\n");
}
