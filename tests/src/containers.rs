//! A whole installation that runs containers, for tests: monitord, engine, shims, and an image with busybox.
//!
//! Sends requests of the engine's protocol itself, so that the command line's defaults do not matter. Removes
//! everything that it made.

use crate::host::{Host, PATIENCE, binary, need_root, wait_until};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use sampan_ipc::Event;
use sampan_ipc::container::{AttachMessage, Control, Create, Streams, Summary};
use sampan_ipc::engine::{Answer, Failure, Import, Opening, Request, Start, VERSION};
use sampan_ipc::frame::{self, Decoder, FRAME_MAX};
use sampan_os::cgroup;
use sampan_shim::runtime_commands;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Output, Stdio};

/// Reference of the image that [`Containers::new`] makes.
pub const IMAGE: &str = "docker.io/library/box:1";

/// An installation with monitord, an engine and one image.
pub struct Containers {
    /// The installation's directory and its monitord.
    pub host: Host,
    engine: Option<Child>,
    log_level: &'static str,
    /// The engine's `PATH`, if it differs from the test's.
    path: Option<String>,
}

impl Containers {
    /// Starts an installation with the default configuration.
    pub fn new() -> Self {
        Containers::configured("")
    }

    /// Starts an installation with this `[engine]` table.
    pub fn configured(table: &str) -> Self {
        Containers::logging(table, "debug")
    }

    /// Starts an installation with this `[engine]` table, whose engine logs at its default level.
    pub fn quiet(table: &str) -> Self {
        Containers::logging(table, "info")
    }

    /// Starts an installation with this `[engine]` table, whose engine searches programs in `path`.
    pub fn on_path(path: &str, table: &str) -> Self {
        Containers::with(table, "debug", Some(path.to_owned()))
    }

    fn logging(table: &str, log_level: &'static str) -> Self {
        Containers::with(table, log_level, None)
    }

    fn with(table: &str, log_level: &'static str, path: Option<String>) -> Self {
        need_root();
        let mut containers = Containers { host: Host::with_monitord(&[]), engine: None, log_level, path };
        fs::write(containers.host.path("sampan.toml"), format!("[engine]\n{table}\n")).expect("written");
        containers.start_engine();
        containers.import();
        containers
    }

    /// Starts the engine, and waits until it replies.
    pub fn start_engine(&mut self) {
        self.start_engine_at(&binary("sampan-engine"));
    }

    /// Starts an installation whose engine is the program at `engine`; its shims are the program next to that one.
    pub fn with_engine_at(engine: &Path) -> Self {
        need_root();
        let host = Host::with_monitord(&[]);
        let mut containers = Containers { host, engine: None, log_level: "debug", path: None };
        fs::write(containers.host.path("sampan.toml"), "[engine]\n").expect("written");
        containers.start_engine_at(engine);
        containers.import();
        containers
    }

    /// Starts the engine at `path`, and waits until it replies.
    pub fn start_engine_at(&mut self, path: &Path) {
        let log = File::options().create(true).append(true).open(self.host.path("engine.log"));
        let mut command = self.host.command_of(path);
        command.arg("--config").arg(self.host.path("sampan.toml")).env("SAMPAN_LOG", self.log_level);
        command.envs(self.path.as_ref().map(|path| ("PATH", path)));
        command.stdout(Stdio::null()).stderr(log.expect("a log"));
        self.engine = Some(command.spawn().expect("sampan-engine: build the workspace first"));
        let socket = self.host.path("run/engine.sock");
        // A child of an engine that was killed may still hold the listening socket, so a successful connect proves
        // nothing: only a reply does.
        let answers = || try_ask(&socket, Request::Info).unwrap_or_default();
        let is_there = || matches!(answers().first(), Some(Answer::Info(_)));
        wait_until("the engine to answer", || self.log(), is_there);
    }

    /// Kills the engine by SIGKILL.
    pub fn kill_engine(&mut self) {
        let mut engine = self.engine.take().expect("it runs");
        engine.kill().expect("killed");
        engine.wait().expect("ours");
    }

    /// Process ID of the engine.
    pub fn engine_pid(&self) -> i32 {
        self.engine.as_ref().map_or(0, |engine| i32::try_from(engine.id()).expect("a pid"))
    }

    fn import(&self) {
        self.import_as(IMAGE, |_| ());
    }

    /// Makes an image with busybox; `change` adds members to its tar, and a later member replaces an earlier one.
    pub fn import_as(&self, reference: &str, change: impl FnOnce(&mut tar::Builder<Vec<u8>>)) {
        let mut tar = busybox();
        change(&mut tar);
        self.import_tar(reference, tar);
    }

    /// Makes an image whose tar has only the members that `fill` adds.
    pub fn import_bare(&self, reference: &str, fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) {
        let mut tar = tar::Builder::new(Vec::new());
        fill(&mut tar);
        self.import_tar(reference, tar);
    }

    fn import_tar(&self, reference: &str, tar: tar::Builder<Vec<u8>>) {
        let path = self.host.path("box.tar");
        fs::write(&path, tar.into_inner().expect("to memory")).expect("written");
        let file = File::open(path).expect("opened");
        let env = vec!["PATH=/bin".to_owned(), "FROM_IMAGE=yes".to_owned()];
        let labels = vec![("of".to_owned(), "image".to_owned())];
        let import = Import {
            reference: reference.to_owned(),
            layers: 1,
            cmd: vec!["sh".to_owned()],
            env,
            labels,
            ..Import::default()
        };
        let answers = self.ask_with(Request::Import(import), &[file.as_raw_fd()]);
        assert!(matches!(answers.last(), Some(Answer::Done(_))), "{answers:?}\n{}", self.log());
    }

    /// Runs a `sampan` command until it ends.
    pub fn sampan(&self, args: &[&str]) -> Output {
        self.host.command("sampan").args(args).current_dir(self.host.path("")).output().expect("built")
    }

    /// Runs a command that must succeed; returns its standard output without the last line end.
    pub fn stdout_of(&self, args: &[&str]) -> String {
        let output = self.sampan(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {stderr}\n{}", self.log());
        String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned()
    }

    /// Returns the logs of engine and monitord.
    pub fn log(&self) -> String {
        fs::read_to_string(self.host.path("engine.log")).unwrap_or_default() + &self.host.logs()
    }

    /// Returns all replies to one request.
    pub fn ask(&self, request: Request) -> Vec<Answer> {
        self.ask_with(request, &[])
    }

    /// Returns all replies to one request that passes descriptors.
    pub fn ask_with(&self, request: Request, fds: &[RawFd]) -> Vec<Answer> {
        answers(self.send(request, fds))
    }

    /// Sends a request without waiting for replies.
    pub fn send(&self, request: Request, fds: &[RawFd]) -> UnixStream {
        let socket = UnixStream::connect(self.host.path("run/engine.sock")).expect("connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        let bytes = frame::encode(&Opening { version: VERSION, request }).expect("small");
        let rights = [nix::sys::socket::ControlMessage::ScmRights(fds)];
        let rights = if fds.is_empty() { &[] } else { rights.as_slice() };
        let flags = nix::sys::socket::MsgFlags::empty();
        let parts = [IoSlice::new(&bytes)];
        let sent = nix::sys::socket::sendmsg::<()>(socket.as_raw_fd(), &parts, rights, flags, None);
        let sent = sent.expect("sent");
        (&socket).write_all(&bytes[sent..]).expect("sent");
        socket
    }

    /// Sends a request that must succeed; returns its replies.
    pub fn ok(&self, request: Request) -> Vec<Answer> {
        let text = format!("{request:?}");
        let answers = self.ask(request);
        assert!(matches!(answers.last(), Some(Answer::Done(_))), "{text}: {answers:?}\n{}", self.log());
        answers
    }

    /// Sends a request that must fail; returns the failure.
    pub fn fails(&self, request: Request) -> Failure {
        let text = format!("{request:?}");
        match self.ask(request).pop() {
            Some(Answer::Error(failure)) => failure,
            other => panic!("{text}: {other:?}\n{}", self.log()),
        }
    }

    /// Creates a container; returns its ID.
    pub fn create(&self, create: Create) -> String {
        match self.ok(Request::Create(Box::new(create))).remove(0) {
            Answer::Container { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    /// Creates a container that runs `script` in a shell; returns its ID.
    pub fn create_sh(&self, name: &str, script: &str) -> String {
        self.create(sh(name, script))
    }

    /// Starts a container without an attached client.
    pub fn start(&self, container: &str) {
        self.ok(Request::Start(Start { container: container.to_owned(), ..Start::default() }));
    }

    /// Creates a container, starts it with an attached client, and waits for its end: exit code, stdout, stderr.
    pub fn run(&self, create: Create, input: &[u8]) -> (AttachMessage, String, String) {
        let id = self.create(create);
        let attached = self.attach_start(&id);
        attached.to_end(input)
    }

    /// Starts a container with a client that is attached to all three streams.
    pub fn attach_start(&self, id: &str) -> Attached {
        let (attached, theirs) = Attached::new();
        let streams = Streams { stdin: true, stdout: true, stderr: true };
        let fds: Vec<RawFd> = theirs.iter().map(AsRawFd::as_raw_fd).collect();
        let start = Start { container: id.to_owned(), attach: Some(streams), ..Start::default() };
        // Both the reply and the control socket report whether the container has started; the reply is enough here.
        let answers = self.ask_with(Request::Start(start), &fds);
        drop(theirs);
        assert!(matches!(answers.last(), Some(Answer::Done(_) | Answer::Error(_))), "{answers:?}");
        attached
    }

    /// The container's entry in the list of containers; `None` if there is none.
    pub fn summary(&self, container: &str) -> Option<Summary> {
        let listing = sampan_ipc::container::Listing { all: true, ..Default::default() };
        let all = self.ok(Request::Containers(listing)).into_iter().flat_map(|answer| match answer {
            Answer::Containers(part) => part,
            _ => Vec::new(),
        });
        all.into_iter().find(|summary| summary.name == container || summary.id == container)
    }

    /// Waits until `is` holds for the container's entry in the list.
    pub fn await_summary(&self, container: &str, what: &str, is: impl Fn(&Summary) -> bool) {
        let seen = || format!("{:?}\n{}", self.summary(container), self.log());
        wait_until(what, seen, || self.summary(container).is_some_and(|summary| is(&summary)));
    }

    /// Waits until the container does not exist.
    pub fn await_gone(&self, container: &str) {
        wait_until("the container to go", || self.log(), || self.summary(container).is_none());
    }

    /// All events of a container so far, oldest first; waits for the first event with action `last`.
    pub fn events(&self, id: &str, last: &str) -> Vec<Event> {
        let mut subscriber = self.host.follow_from(0);
        let all = subscriber.until(|event| event.id == id && event.action == last);
        all.into_iter().filter(|event| event.id == id).collect()
    }

    /// All events of a container so far, oldest first; waits for `count` events with action `last`.
    pub fn events_up_to(&self, id: &str, last: &str, count: usize) -> Vec<Event> {
        let mut seen = 0;
        let mut subscriber = self.host.follow_from(0);
        let all = subscriber.until(|event| {
            seen += usize::from(event.id == id && event.action == last);
            seen == count
        });
        all.into_iter().filter(|event| event.id == id).collect()
    }

    /// The actions of [`Containers::events`].
    pub fn actions(&self, id: &str, last: &str) -> Vec<String> {
        self.events(id, last).into_iter().map(|event| event.action).collect()
    }
}

impl Default for Containers {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        if let Some(mut engine) = self.engine.take() {
            let _ = engine.kill();
            let _ = engine.wait();
        }
        // Shims outlive the engine, so they and their containers are ended here.
        for pid in self.shims() {
            for child in children(pid) {
                let _ = nix::sys::signal::kill(Pid::from_raw(child), Signal::SIGKILL);
            }
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // If a shim is killed while its runtime creates a container, the commands of the runtime and the cgroup remain.
        let (homes, runtime) = (self.host.path("data/containers"), self.host.path("run/runtime"));
        for id in names(&homes).union(&names(&runtime)) {
            runtime_commands::end_commands(&runtime, &homes.join(id), id);
            cgroup::remove_groups(id, None);
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// IDs of the containers that have a directory in `dir`.
fn names(dir: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    // The directory of a container that is being created or removed has a dot before the ID.
    names.map(|name| name.trim_start_matches('.').to_owned()).filter(|name| name.len() == 64).collect()
}

impl Containers {
    /// Process IDs of the shims of this installation.
    pub fn shims(&self) -> Vec<i32> {
        let ours = self.host.path("data/containers").display().to_string();
        let is_ours = |pid: &i32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            name.trim() == "sampan-shim" && words.contains(&ours)
        };
        processes().into_iter().filter(is_ours).collect()
    }

    /// Waits until no shim is running.
    pub fn await_no_shim(&self) {
        wait_until(
            "the shims to end",
            || format!("{:?}\n{}", self.shims(), self.log()),
            || self.shims().is_empty(),
        );
    }
}

fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("mounted");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

const APPLETS: &str = "sh true false sleep cat echo id env hostname mount ls stat dd yes head tail wc grep test kill \
                       touch mkdir rm cp mv ln pwd whoami ps seq tty stty df free date sync unshare chown chmod \
                       readlink ip ifconfig awk sed sort od mknod printf";

/// A layer with busybox, its commands, and files of users and groups.
pub fn busybox() -> tar::Builder<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let busybox = fs::read("/bin/busybox").expect("Debian's package busybox-static");
    for dir in ["bin/", "etc/", "tmp/", "root/", "proc/", "sys/", "dev/"] {
        let mut header = header(tar::EntryType::Directory, if dir == "tmp/" { 0o1777 } else { 0o755 }, 0);
        tar.append_data(&mut header, dir, &[][..]).expect("to memory");
    }
    let mut head = header(tar::EntryType::Regular, 0o755, busybox.len());
    tar.append_data(&mut head, "bin/busybox", busybox.as_slice()).expect("to memory");
    for name in APPLETS.split_whitespace() {
        let mut head = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut head, format!("bin/{name}"), "busybox").expect("to memory");
    }
    for (name, text) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001:Ann:/home/ann:/bin/sh\n"),
        ("etc/group", "root:x:0:\nann:x:1001:\nwheel:x:10:ann\n"),
    ] {
        let mut head = header(tar::EntryType::Regular, 0o644, text.len());
        tar.append_data(&mut head, name, text.as_bytes()).expect("to memory");
    }
    tar
}

/// The tar header of a member of a layer.
pub fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header
}

/// A request to create a container that runs a script in a shell.
pub fn sh(name: &str, script: &str) -> Create {
    Create {
        name: Some(name.to_owned()),
        image: IMAGE.to_owned(),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..Create::default()
    }
}

/// All replies, or `None` if the engine closed the connection before the last one.
pub fn try_ask(socket: &Path, request: Request) -> Option<Vec<Answer>> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(&frame::encode(&Opening { version: VERSION, request }).expect("small")).ok()?;
    let (mut decoder, mut answers) = (Decoder::new(FRAME_MAX), Vec::new());
    loop {
        while let Some(answer) = decoder.next_message::<Answer>().expect("good frames") {
            answers.push(answer);
        }
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes) {
            Ok(0) if answers.is_empty() => return None,
            Ok(0) => return Some(answers),
            Ok(len) => decoder.push(&bytes[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no answer in time"),
            Err(_) => return None,
        }
    }
}

/// All replies on a connection.
pub fn answers(mut socket: UnixStream) -> Vec<Answer> {
    let (mut decoder, mut answers) = (Decoder::new(FRAME_MAX), Vec::new());
    loop {
        while let Some(answer) = decoder.next_message::<Answer>().expect("good frames") {
            answers.push(answer);
        }
        let mut bytes = [0; 4096];
        match socket.read(&mut bytes).expect("an answer in time") {
            0 => return answers,
            len => decoder.push(&bytes[..len]),
        }
    }
}

/// A client that is attached to a container's streams.
pub struct Attached {
    /// The control socket.
    pub control: UnixStream,
    decoder: Decoder,
    /// Write end of the container's standard input.
    pub stdin: Option<File>,
    /// Read end of the container's standard output.
    pub stdout: File,
    /// Read end of the container's standard error.
    pub stderr: File,
}

impl Attached {
    /// Makes the client's ends, and the ends that go with the request.
    pub fn new() -> (Self, Vec<OwnedFd>) {
        let (control, theirs) = UnixStream::pair().expect("a pair");
        control.set_read_timeout(Some(PATIENCE)).expect("set");
        let pipe = || nix::unistd::pipe().expect("a pipe");
        let ((in_read, in_write), (out_read, out_write), (err_read, err_write)) = (pipe(), pipe(), pipe());
        for fd in [&in_write, &out_read, &err_read] {
            let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
            nix::fcntl::fcntl(fd, flags).expect("set");
        }
        let attached = Attached {
            control,
            decoder: Decoder::new(FRAME_MAX),
            stdin: Some(File::from(in_write)),
            stdout: File::from(out_read),
            stderr: File::from(err_read),
        };
        (attached, vec![OwnedFd::from(theirs), in_read, out_write, err_write])
    }

    /// Sends a control message.
    pub fn send_control(&mut self, control: Control) {
        self.control.write_all(&frame::encode(&control).expect("small")).expect("sent");
    }

    /// Receives the next message; `None` when the shim has closed the socket.
    pub fn receive(&mut self) -> Option<AttachMessage> {
        loop {
            if let Some(message) = self.decoder.next_message::<AttachMessage>().expect("good frames") {
                return Some(message);
            }
            let mut bytes = [0; 4096];
            match self.control.read(&mut bytes).expect("a message in time") {
                0 => return None,
                len => self.decoder.push(&bytes[..len]),
            }
        }
    }

    /// Writes all of `input`, reads all output, and waits for the end.
    pub fn to_end(mut self, input: &[u8]) -> (AttachMessage, String, String) {
        let mut stdin = self.stdin.take();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // A write error is no failure: the container need not read all of its input.
                let _ = stdin.as_mut().map(|stdin| stdin.write_all(input));
            });
            let mut err = self.stderr.try_clone().expect("cloned");
            let stderr = scope.spawn(move || text(&mut err));
            let mut out = self.stdout.try_clone().expect("cloned");
            let stdout = text(&mut out);
            let mut last = AttachMessage::Detached;
            while let Some(message) = self.receive() {
                last = message;
                if matches!(last, AttachMessage::Exited(_) | AttachMessage::Failed(..)) {
                    break;
                }
            }
            (last, stdout, stderr.join().expect("read"))
        })
    }
}

fn text(from: &mut File) -> String {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).expect("read");
    String::from_utf8_lossy(&bytes).into_owned()
}
