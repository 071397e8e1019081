//! A real engine for tests, and its clients.

use crate::host;
use sampan_ipc::engine::{
    Answer, Done, Failure, Image, Job, Opening, Pull, REQUEST_MAX, Request, Row, VERSION,
};
use sampan_ipc::frame::{self, Decoder, FRAME_MAX};
use sampan_oci::digest::Digest;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{IoSlice, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Longest wait for a reply.
const PATIENCE: Duration = Duration::from_secs(30);

/// An engine in a directory of its own.
pub struct Engine {
    /// The engine's directory.
    pub dir: TempDir,
    /// The engine's process.
    pub child: Child,
}

impl Engine {
    /// Starts an engine with an empty store.
    pub fn start() -> Self {
        Engine::start_in(tempfile::tempdir().expect("a directory"))
    }

    /// Starts an engine with an empty store and this `[engine]` table.
    pub fn configured(table: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("sampan.toml"), format!("[engine]\n{table}\n")).expect("written");
        Engine::start_in(dir)
    }

    /// Starts an engine on the files in `dir`, with the configuration `sampan.toml` there if it exists.
    pub fn start_in(dir: TempDir) -> Self {
        Engine::start_with(dir, &[])
    }

    /// Starts an engine with additional environment variables.
    pub fn start_with(dir: TempDir, environment: &[(&str, &OsStr)]) -> Self {
        let mut command = Command::new(host::binary("sampan-engine"));
        command.envs(environment.iter().copied());
        Engine::start_by(dir, &mut command)
    }

    /// Starts an engine by `command`, which may run it as another user.
    pub fn start_by(dir: TempDir, command: &mut Command) -> Self {
        let log = File::options().create(true).append(true).open(dir.path().join("log")).expect("a log");
        let config = dir.path().join("sampan.toml");
        let config = config.exists().then(|| ["--config".into(), config.into_os_string()]);
        let child = command
            .args(config.into_iter().flatten())
            .env("SAMPAN_RUN_DIR", dir.path().join("run"))
            .env("SAMPAN_STATE_DIR", dir.path().join("state"))
            .env("SAMPAN_DATA_DIR", dir.path().join("data"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("sampan-engine: build the workspace first");
        let engine = Engine { dir, child };
        host::wait_until(
            "the engine to listen",
            || engine.log(),
            || UnixStream::connect(engine.socket()).is_ok(),
        );
        // The engine listens before it has read its store; it replies once it has.
        assert!(matches!(engine.ask(Request::Info).next(), Some(Answer::Info(_))));
        engine
    }

    /// Returns the engine's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits until `condition` holds; panics with the log if it does not.
    pub fn wait_until(&self, what: &str, condition: impl FnMut() -> bool) {
        host::wait_until(what, || self.log(), condition);
    }

    /// Path of the engine's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run/engine.sock")
    }

    /// Directory of the store.
    pub fn store(&self) -> PathBuf {
        self.dir.path().join("data/store")
    }

    /// Sends a request.
    pub fn ask(&self, request: Request) -> Stream {
        self.ask_with(request, &[])
    }

    /// Sends a request that passes descriptors.
    pub fn ask_with(&self, request: Request, fds: &[RawFd]) -> Stream {
        let socket = UnixStream::connect(self.socket()).expect("connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        let bytes = frame::encode(&Opening { version: VERSION, request }).expect("small");
        assert!(bytes.len() <= REQUEST_MAX);
        let rights = [nix::sys::socket::ControlMessage::ScmRights(fds)];
        let rights = if fds.is_empty() { &[] } else { rights.as_slice() };
        let flags = nix::sys::socket::MsgFlags::empty();
        let parts = [IoSlice::new(&bytes)];
        let sent = nix::sys::socket::sendmsg::<()>(socket.as_raw_fd(), &parts, rights, flags, None);
        assert_eq!(sent.expect("sent"), bytes.len());
        Stream { socket, decoder: Decoder::new(FRAME_MAX) }
    }

    /// Pulls an image and waits for the end.
    pub fn pull(&self, reference: &str) -> Result<Pulled, Failure> {
        self.pull_for(reference, None)
    }

    /// Pulls an image for a platform and waits for the end.
    pub fn pull_for(&self, reference: &str, platform: Option<&str>) -> Result<Pulled, Failure> {
        let platform = platform.map(str::to_owned);
        self.ask(Request::Pull(Pull { reference: reference.to_owned(), platform, ..Pull::default() })).watch()
    }

    /// The images in the store.
    pub fn images(&self) -> Vec<Image> {
        let mut images = Vec::new();
        for answer in self.ask(Request::Images).all() {
            if let Answer::Images(part) = answer {
                images.extend(part);
            }
        }
        images
    }

    /// The engine's jobs.
    pub fn jobs(&self) -> Vec<Job> {
        match self.ask(Request::Jobs).all().remove(0) {
            Answer::Jobs(jobs) => jobs,
            other => panic!("{other:?}"),
        }
    }

    /// Final names in the store: blobs and layers.
    pub fn named(&self) -> Vec<String> {
        let mut names = Vec::new();
        for dir in ["blobs/sha256", "layers"] {
            for entry in fs::read_dir(self.store().join(dir)).expect("listed") {
                names.push(format!("{dir}/{}", entry.expect("listed").file_name().to_string_lossy()));
            }
        }
        names.sort();
        names
    }

    /// Number of temporary files and directories in the store.
    pub fn temporaries(&self) -> usize {
        fs::read_dir(self.store().join("tmp")).expect("listed").count()
    }

    /// Waits until the store has no temporary files: the engine removes some after it has reported the end of a job.
    pub fn wait_for_no_temporaries(&self) {
        self.wait_until("no temporary", || self.temporaries() == 0);
    }

    /// Directory of an unpacked layer.
    pub fn layer_dir(&self, chain: &Digest) -> PathBuf {
        self.store().join("layers").join(chain.hex()).join("diff")
    }

    /// Sends a signal to the engine.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, signal).expect("sent");
    }

    /// Kills the engine by SIGKILL, and starts another one on the same store.
    pub fn killed_and_restarted(self) -> Self {
        self.killed_and_restarted_after(|| {})
    }

    /// Kills the engine by SIGKILL, calls `between`, and starts another one on the same store.
    pub fn killed_and_restarted_after(self, between: impl FnOnce()) -> Self {
        let dir = self.killed();
        between();
        Engine::start_in(dir)
    }

    /// Kills the engine by SIGKILL, and starts another one on the same store by `command`.
    pub fn killed_and_restarted_by(self, command: &mut Command) -> Self {
        Engine::start_by(self.killed(), command)
    }

    fn killed(mut self) -> TempDir {
        self.signal(nix::sys::signal::Signal::SIGKILL);
        self.child.wait().expect("reaped");
        std::mem::replace(&mut self.dir, tempfile::tempdir().expect("a directory"))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// The replies to one request.
pub struct Stream {
    socket: UnixStream,
    decoder: Decoder,
}

impl Stream {
    /// Returns the next reply; `None` at the end of the stream.
    #[expect(clippy::should_implement_trait, reason = "it is none: it panics when time is up")]
    pub fn next(&mut self) -> Option<Answer> {
        loop {
            if let Some(answer) = self.decoder.next_message::<Answer>().expect("good frames") {
                return Some(answer);
            }
            let mut bytes = [0; 4096];
            match self.socket.read(&mut bytes) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => match read.expect("an answer in time") {
                    0 => return None,
                    len => self.decoder.push(&bytes[..len]),
                },
            }
        }
    }

    /// Returns all replies.
    pub fn all(mut self) -> Vec<Answer> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// Follows a job to its end.
    pub fn watch(self) -> Result<Pulled, Failure> {
        self.follow(BTreeMap::new())
    }

    /// Follows a job to its end; `row` is the only row, and is known already.
    pub fn watch_from(self, row: Row) -> Result<Pulled, Failure> {
        self.follow(BTreeMap::from([(row.index, row)]))
    }

    fn follow(mut self, mut rows: BTreeMap<u32, Row>) -> Result<Pulled, Failure> {
        let mut frames = 0;
        let mut notes = Vec::new();
        loop {
            match self.next().expect("Done or Error comes last") {
                Answer::Job(job) => rows = job.rows.into_iter().map(|row| (row.index, row)).collect(),
                Answer::Rows { rows: changed, .. } => {
                    frames += 1;
                    for row in changed {
                        assert_ne!(rows.get(&row.index), Some(&row), "a row is sent only when it changed");
                        notes.extend(Some(row.note.clone()).filter(|note| !note.is_empty()));
                        rows.insert(row.index, row);
                    }
                }
                Answer::Done(done) => {
                    return Ok(Pulled { done, rows: rows.into_values().collect(), frames, notes });
                }
                Answer::Note(note) => notes.push(note),
                Answer::Error(failure) => return Err(failure),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// The result of a job that was followed.
#[derive(Debug)]
pub struct Pulled {
    /// The job's result.
    pub done: Done,
    /// The rows of its progress at the end.
    pub rows: Vec<Row>,
    /// Number of frames with rows that arrived.
    pub frames: u32,
    /// Notes of the rows and of the job itself.
    pub notes: Vec<String>,
}
