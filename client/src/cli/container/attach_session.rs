//! A session attached to a container: copies bytes between this process's standard streams and the shim, sends signals
//! and the window size to the shim, and receives the exit code.
//! Used by `run`, `start`, `attach` and `exec`. [`Session::open`] makes the descriptors for the request;
//! [`Session::follow`] runs a poll(2) loop, without a thread. The shim gets an inherited pipe itself, so its bytes do
//! not pass through this process. The engine may die during the session: the control socket leads to the shim.

use crate::cli::container::terminal::{self, Raw};
use crate::cli::error::{Failure, USAGE};
use crate::cli::output;
use crate::cli::signals;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use nix::sys::stat::{SFlag, fstat};
use sampan_client::detach_keys::KeyMatcher;
use sampan_client::engine::{Answer, Answers, Code, EngineError, Next};
use sampan_ipc::container::{AttachMessage, CONTROL_MAX, Control, Streams};
use sampan_ipc::frame::{self, Decoder};
use signal_hook::consts::{SIGHUP, SIGINT, SIGPIPE, SIGTSTP, SIGWINCH};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Most bytes of one read.
const CHUNK: usize = 64 << 10;
/// Most bytes of one write to a pipe: a pipe that poll(2) reports as writable accepts this number without blocking.
/// pipe(7), "PIPE_BUF".
const ATOMIC: usize = 4096;
/// The byte that a terminal sends for ctrl-c.
const INTERRUPT: u8 = 3;
/// Longest wait for the shim's last message.
const LAST_MESSAGE: Duration = Duration::from_secs(3);

/// The streams to attach, and the options of the session.
#[derive(Clone, Debug, Default)]
pub(crate) struct AttachOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Whether the container has a terminal, so that one stream carries both directions.
    pub tty: bool,
    /// Whether to forward signals that this process receives.
    pub proxy: bool,
    /// The keys that detach from a terminal.
    pub keys: Vec<u8>,
}

impl AttachOptions {
    /// Fails if this process has no terminal to attach. Called before a container is created.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.tty && self.stdin && !io::stdin().is_terminal() {
            return Err(Failure::new("cannot attach a terminal: the input device is not a TTY")
                .hint("leave out -t or -i")
                .status(USAGE));
        }
        Ok(())
    }
}

/// The end of a session without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// The process has ended, with this exit code.
    Exited(u8),
    /// The session has detached; the process runs on.
    Detached,
}

/// The descriptors and fields for the request to the engine.
#[derive(Debug)]
pub(crate) struct Attachment {
    descriptors: Vec<OwnedFd>,
    /// Which streams the descriptors are for.
    pub streams: Streams,
    /// Rows and columns of this process's terminal.
    pub size: (u16, u16),
}

impl Attachment {
    /// The descriptors, in the protocol's order.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.descriptors.iter().map(AsFd::as_fd).collect()
    }
}

/// The session's own ends of the control socket and of the streams that this process copies.
#[derive(Debug)]
pub(crate) struct Session {
    control: UnixStream,
    decoder: Decoder,
    /// Frames that this process has not sent yet.
    outgoing: Vec<u8>,
    input: Option<Pump>,
    keys: KeyMatcher,
    outputs: Vec<Pump>,
    /// Whether the shim writes to standard output itself. This process then only watches whether the reader closes it.
    watched: bool,
    proxy: bool,
    tty: bool,
    raw: Option<Raw>,
    signals: SignalDelivery<UnixStream, SignalOnly>,
    /// Whether the container's process runs.
    is_started: bool,
    exited: Option<u8>,
    deadline: Option<Instant>,
    is_detaching: bool,
    /// Whether the engine has sent its last answer.
    is_answered: bool,
    /// Whether the control socket is closed: by the shim, or by an engine that refuses the request.
    is_closed: bool,
    /// The error with which the engine has refused the request.
    refused: Option<Failure>,
}

/// A copy of bytes from one descriptor to another.
#[derive(Debug)]
struct Pump {
    from: OwnedFd,
    to: OwnedFd,
    /// Bytes that this process has read and not written yet.
    pending: Vec<u8>,
    is_ended: bool,
    /// Whether `to` is standard output: if its reader closes it, this process ends.
    is_stdout: bool,
    step: usize,
}

/// The use of a descriptor in the poll(2) set.
#[derive(Clone, Copy, Debug)]
enum Source {
    Engine,
    Control,
    Signals,
    Watched,
    InputFrom,
    InputTo,
    OutputFrom(usize),
    OutputTo(usize),
}

fn system(what: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::new(format!("cannot attach: {what}: {error}")).status(USAGE)
}

impl Session {
    /// Makes the descriptors for the engine, and their other ends. Puts the terminal into raw mode if the person types
    /// input.
    pub(crate) fn open(options: AttachOptions) -> Result<(Self, Attachment), Failure> {
        options.check()?;
        let (control, theirs) = UnixStream::pair().map_err(system("no socket pair"))?;
        control.set_nonblocking(true).map_err(system("no socket"))?;
        let mut session = Session {
            control,
            decoder: Decoder::new(CONTROL_MAX),
            outgoing: Vec::new(),
            input: None,
            keys: KeyMatcher::new(if options.tty { options.keys.clone() } else { Vec::new() }),
            outputs: Vec::new(),
            watched: false,
            proxy: options.proxy,
            tty: options.tty,
            raw: None,
            signals: catch(&options).map_err(system("no signals can be caught"))?,
            is_started: false,
            exited: None,
            deadline: None,
            is_detaching: false,
            is_answered: false,
            is_closed: false,
            refused: None,
        };
        let mut attachment =
            Attachment { descriptors: vec![theirs.into()], streams: Streams::default(), size: (0, 0) };
        if options.tty {
            session.open_terminal(&options, &mut attachment).map_err(system("no stream"))?;
            if options.stdin {
                session.raw = Some(Raw::begin()?);
            }
        } else {
            session.open_pipes(&options, &mut attachment).map_err(system("no stream"))?;
        }
        Ok((session, attachment))
    }

    fn open_terminal(&mut self, options: &AttachOptions, attachment: &mut Attachment) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        attachment.descriptors.push(theirs.into());
        attachment.streams.stdin = true;
        attachment.size = terminal::size();
        if options.stdin {
            self.input = Some(Pump::new(duplicate(io::stdin())?, ours.try_clone()?.into(), CHUNK));
        }
        self.outputs.push(Pump { is_stdout: true, ..Pump::out(ours.into(), duplicate(io::stdout())?)? });
        Ok(())
    }

    fn open_pipes(&mut self, options: &AttachOptions, attachment: &mut Attachment) -> io::Result<()> {
        if options.stdin {
            let stdin = duplicate(io::stdin())?;
            attachment.streams.stdin = true;
            if is_pipe(&stdin)? {
                attachment.descriptors.push(stdin);
            } else {
                let (theirs, ours) = io::pipe()?;
                set_nonblocking(&ours)?;
                attachment.descriptors.push(theirs.into());
                self.input = Some(Pump::new(stdin, ours.into(), CHUNK));
            }
        }
        if options.stdout {
            attachment.streams.stdout = true;
            self.watched = self.open_output(duplicate(io::stdout())?, true, attachment)?;
        }
        if options.stderr {
            attachment.streams.stderr = true;
            self.open_output(duplicate(io::stderr())?, false, attachment)?;
        }
        Ok(())
    }

    /// Attaches an output stream. Returns whether the shim gets the stream's descriptor itself.
    fn open_output(
        &mut self,
        own: OwnedFd,
        is_stdout: bool,
        attachment: &mut Attachment,
    ) -> io::Result<bool> {
        if is_pipe(&own)? {
            attachment.descriptors.push(own);
            return Ok(true);
        }
        let (ours, theirs) = io::pipe()?;
        set_nonblocking(&ours)?;
        attachment.descriptors.push(theirs.into());
        self.outputs.push(Pump { is_stdout, ..Pump::out(ours.into(), own)? });
        Ok(false)
    }

    /// Copies until the process has ended and all of its output is written, or until the person types the detach keys.
    ///
    /// Does not return if a signal ends this process, or if the reader of standard output closes it.
    ///
    /// # Errors
    /// The process could not be started (exit status 125, 126 or 127), or the shim died.
    pub(crate) fn follow(mut self, attachment: Attachment, answers: Answers) -> Result<SessionEnd, Failure> {
        // Close the other ends: only the shim may have them open, so that this process sees when they close.
        drop(attachment);
        let mut answers = Some(answers);
        let end = loop {
            if let Some(end) = self.end() {
                break end;
            }
            if let Err(failure) = self.step(&mut answers) {
                break Err(failure);
            }
        };
        // The terminal leaves raw mode before anything is printed.
        self.raw = None;
        if self.tty && matches!(end, Ok(SessionEnd::Detached)) {
            output::message("note", "detached");
        }
        end
    }

    fn end(&mut self) -> Option<Result<SessionEnd, Failure>> {
        if let Some(code) = self.exited
            && self.outputs.iter().all(Pump::is_done)
        {
            return Some(Ok(SessionEnd::Exited(code)));
        }
        if self.deadline.is_some_and(|at| Instant::now() >= at) {
            return Some(self.give_up());
        }
        None
    }

    /// The result of a session whose shim does not send its last message in time.
    fn give_up(&mut self) -> Result<SessionEnd, Failure> {
        match self.refused.take() {
            Some(failure) => Err(failure),
            None if self.is_detaching => Ok(SessionEnd::Detached),
            None => Err(shim_died()),
        }
    }

    /// Waits until a descriptor is ready, and handles each descriptor that is ready.
    fn step(&mut self, answers: &mut Option<Answers>) -> Result<(), Failure> {
        // The next answer may have arrived already.
        self.read_engine(answers)?;
        let ready = self.wait(answers.as_ref())?;
        for (source, flags) in ready {
            match source {
                Source::Engine => self.read_engine(answers)?,
                Source::Control => self.on_control(flags)?,
                Source::Signals => self.on_signals(),
                Source::Watched => self.die(SIGPIPE),
                Source::InputFrom => self.on_typed(),
                Source::InputTo => self.write_input(),
                Source::OutputFrom(at) => self.on_output(at, false)?,
                Source::OutputTo(at) => self.on_output(at, true)?,
            }
        }
        Ok(())
    }

    /// Waits for the descriptors that matter in the current state, and returns the ones that are ready.
    fn wait(&self, answers: Option<&Answers>) -> Result<Vec<(Source, PollFlags)>, Failure> {
        let stdout = io::stdout();
        let mut sources = Vec::new();
        let mut fds = Vec::new();
        let mut look = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::new(fd, flags));
        };
        if let Some(answers) = answers {
            look(Source::Engine, answers.as_fd(), PollFlags::POLLIN);
        }
        if self.exited.is_none() && !self.is_closed {
            let write = if self.outgoing.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
            look(Source::Control, self.control.as_fd(), PollFlags::POLLIN | write);
        }
        look(Source::Signals, self.signals.get_read().as_fd(), PollFlags::POLLIN);
        if self.watched {
            // poll(2) always reports when the reader has closed the pipe, even with an empty set of events.
            look(Source::Watched, stdout.as_fd(), PollFlags::empty());
        }
        if let Some(input) = &self.input {
            if input.pending.is_empty() || self.holds_input() && input.pending.len() < CHUNK {
                look(Source::InputFrom, input.from.as_fd(), PollFlags::POLLIN);
            } else if !self.holds_input() {
                look(Source::InputTo, input.to.as_fd(), PollFlags::POLLOUT);
            }
        }
        for (at, output) in self.outputs.iter().enumerate().filter(|(_, output)| !output.is_done()) {
            match output.pending.is_empty() {
                true => look(Source::OutputFrom(at), output.from.as_fd(), PollFlags::POLLIN),
                false => look(Source::OutputTo(at), output.to.as_fd(), PollFlags::POLLOUT),
            }
        }
        let timeout = self.deadline.map_or(PollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(system("poll")(errno.into())),
        }
        let flags = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::POLLERR));
        let ready = sources.into_iter().zip(flags).filter(|(_, flags)| !flags.is_empty());
        Ok(ready.collect())
    }

    fn read_engine(&mut self, answers: &mut Option<Answers>) -> Result<(), Failure> {
        while let Some(stream) = answers {
            match stream.next_within(Duration::ZERO) {
                Ok(Next::Nothing) => return Ok(()),
                Ok(Next::Answer(Answer::Note(note))) => output::note(&note),
                Ok(Next::Answer(Answer::Done(_)) | Next::End) => {
                    *answers = None;
                    self.on_answered(None);
                }
                Ok(Next::Answer(_)) => {}
                Err(error) => {
                    *answers = None;
                    self.on_answered(Some(run_failure(error)));
                }
            }
        }
        Ok(())
    }

    /// Handles the engine's last answer. After a failed start, waits for the shim's own message, which is better.
    fn on_answered(&mut self, refused: Option<Failure>) {
        self.is_answered = true;
        self.refused = refused;
        if self.is_closed && self.exited.is_none() {
            self.deadline = Some(Instant::now());
        } else if self.refused.is_some() {
            self.deadline.get_or_insert(Instant::now() + LAST_MESSAGE);
        }
    }

    fn on_control(&mut self, flags: PollFlags) -> Result<(), Failure> {
        if flags.contains(PollFlags::POLLOUT) {
            self.flush();
        }
        let mut bytes = [0; CONTROL_MAX];
        let len = match self.control.read(&mut bytes) {
            Ok(len) => len,
            Err(error) if is_transient(&error) => return Ok(()),
            Err(_) => 0,
        };
        self.decoder.push(bytes.get(..len).unwrap_or_default());
        loop {
            match self.decoder.next_message::<AttachMessage>() {
                Ok(Some(told)) => self.on_report(told)?,
                Ok(None) => break,
                Err(error) => {
                    let message = format!("cannot understand the message of the shim: {error}");
                    return Err(Failure::new(message).status(USAGE));
                }
            }
        }
        if len == 0 && self.exited.is_none() {
            // No more messages can come. If the engine refuses the request, it closes the socket before it sends the
            // reason.
            self.is_closed = true;
            let is_last = self.is_answered || self.is_detaching || self.refused.is_some();
            let wait = if is_last { Duration::ZERO } else { LAST_MESSAGE };
            self.deadline = Some(Instant::now() + wait);
        }
        Ok(())
    }

    fn on_report(&mut self, told: AttachMessage) -> Result<(), Failure> {
        match told {
            // The session no longer needs the engine.
            AttachMessage::Started(_) => {
                self.is_started = true;
                (self.refused, self.deadline) = (None, None);
                self.send_size();
                self.write_input();
            }
            AttachMessage::Failed(status, why) => return Err(Failure::new(why).status(status)),
            AttachMessage::Exited(code) => {
                self.exited = Some(code);
                self.refused = None;
                self.deadline = None;
                self.input = None;
            }
            AttachMessage::Detached => {
                self.is_detaching = true;
                self.refused = None;
                self.deadline = Some(Instant::now());
            }
        }
        Ok(())
    }

    fn send(&mut self, word: Control) {
        if let Ok(frame) = frame::encode(&word) {
            self.outgoing.extend_from_slice(&frame);
            self.flush();
        }
    }

    /// Sends the size of this terminal, if there is one: the container's terminal may have another size.
    fn send_size(&mut self) {
        let (rows, columns) = terminal::size();
        if self.tty && rows > 0 && columns > 0 {
            self.send(Control::Resize(rows, columns));
        }
    }

    fn flush(&mut self) {
        while !self.outgoing.is_empty() {
            match self.control.write(&self.outgoing) {
                Ok(len) => drop(self.outgoing.drain(..len)),
                Err(error) if is_transient(&error) => return,
                // The write fails because the socket is closed, which the next read reports.
                Err(_) => self.outgoing.clear(),
            }
        }
    }

    fn detach(&mut self) {
        self.send(Control::Detach);
        self.input = None;
        self.is_detaching = true;
        self.deadline = Some(Instant::now() + LAST_MESSAGE);
    }

    fn on_signals(&mut self) {
        let caught: Vec<i32> = self.signals.pending().collect();
        for signal in caught {
            match signal {
                SIGWINCH => {
                    let (rows, columns) = terminal::size();
                    self.send(Control::Resize(rows, columns));
                }
                _ if self.proxy => self.send(Control::Signal(signal)),
                SIGTSTP => self.pause(),
                _ => self.die(signal),
            }
        }
    }

    /// Leaves raw mode and stops this process until SIGCONT.
    fn pause(&mut self) {
        if let Some(raw) = &self.raw {
            raw.unset();
        }
        let _ = raise(Signal::SIGSTOP);
        if let Some(raw) = &self.raw {
            let _ = raw.set();
            let (rows, columns) = terminal::size();
            self.send(Control::Resize(rows, columns));
        }
    }

    /// Ends this process by `signal`. The container continues to run.
    fn die(&mut self, signal: i32) -> ! {
        self.send(Control::Detach);
        self.raw = None;
        signals::die_of(signal);
    }

    fn on_typed(&mut self) {
        let Some(input) = &mut self.input else { return };
        let mut bytes = vec![0; CHUNK];
        let len = match nix::unistd::read(&input.from, &mut bytes) {
            Ok(len) => len,
            Err(Errno::EINTR | Errno::EAGAIN) => return,
            // The terminal was closed, or no more bytes can be read.
            Err(_) => 0,
        };
        if len == 0 {
            if self.raw.is_some() {
                self.die(SIGHUP);
            }
            self.input = None;
            return;
        }
        bytes.truncate(len);
        if self.raw.is_some() && !self.is_started {
            // Drop the ctrl-c byte: the container has no terminal yet that would convert it to a signal.
            bytes.retain(|byte| *byte != INTERRUPT);
        }
        let interrupts = bytes.len() < len;
        let is_left = self.keys.filter(&bytes, &mut input.pending);
        if interrupts {
            self.send(Control::Signal(SIGINT));
        }
        if is_left {
            self.write_input();
            self.detach();
        } else if !self.holds_input() {
            self.write_input();
        }
    }

    /// Whether input must wait, because the container's terminal has not got its size yet.
    fn holds_input(&self) -> bool {
        self.tty && !self.is_started
    }

    fn write_input(&mut self) {
        // The reader has closed its end, so the rest of the input has no receiver.
        if let Some(input) = &mut self.input
            && input.write().is_err()
        {
            self.input = None;
        }
    }

    fn on_output(&mut self, at: usize, is_writable: bool) -> Result<(), Failure> {
        let Some(output) = self.outputs.get_mut(at) else { return Ok(()) };
        if !is_writable {
            output.read();
        }
        // A file always accepts bytes; a pipe or a terminal accepts them only when poll(2) reports it as writable.
        let written = if is_writable || output.step == CHUNK { output.write() } else { Ok(()) };
        match written {
            Ok(()) => Ok(()),
            Err(Errno::EPIPE) if output.is_stdout => self.die(SIGPIPE),
            Err(Errno::EPIPE | Errno::EIO) => {
                (output.pending, output.is_ended) = (Vec::new(), true);
                Ok(())
            }
            Err(errno) => {
                Err(Failure::new(format!("cannot write the container's output: {errno}")).status(USAGE))
            }
        }
    }
}

impl Pump {
    fn new(from: OwnedFd, to: OwnedFd, step: usize) -> Self {
        Pump { from, to, pending: Vec::new(), is_ended: false, is_stdout: false, step }
    }

    fn out(from: OwnedFd, to: OwnedFd) -> io::Result<Self> {
        let mode = SFlag::from_bits_truncate(fstat(&to)?.st_mode) & SFlag::S_IFMT;
        Ok(Pump::new(from, to, if mode == SFlag::S_IFREG { CHUNK } else { ATOMIC }))
    }

    fn is_done(&self) -> bool {
        self.is_ended && self.pending.is_empty()
    }

    fn read(&mut self) {
        self.pending.resize(CHUNK, 0);
        let len = match nix::unistd::read(&self.from, &mut self.pending) {
            Ok(0) => {
                self.is_ended = true;
                0
            }
            Ok(len) => len,
            Err(Errno::EINTR | Errno::EAGAIN) => 0,
            // The terminal's stream has broken off.
            Err(_) => {
                self.is_ended = true;
                0
            }
        };
        self.pending.truncate(len);
    }

    /// Writes at most `step` bytes.
    fn write(&mut self) -> Result<(), Errno> {
        let part = self.pending.get(..self.pending.len().min(self.step)).unwrap_or_default();
        if part.is_empty() {
            return Ok(());
        }
        match nix::unistd::write(&self.to, part) {
            Ok(len) => drop(self.pending.drain(..len)),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return Err(errno),
        }
        Ok(())
    }
}

fn shim_died() -> Failure {
    Failure::new("the container's shim died: the exit code is not known")
        .hint("'sampan inspect' and 'sampan events --since 1m --no-follow' show what the engine knows")
        .status(USAGE)
}

/// Turns the engine's error into a failure with the exit status of podman-run(1).
pub(crate) fn run_failure(error: EngineError) -> Failure {
    let status = match &error {
        EngineError::Failed(failure) if failure.code == Code::CannotRun => 126,
        EngineError::Failed(failure) if failure.code == Code::NoCommand => 127,
        _ => USAGE,
    };
    Failure::from(error).status(status)
}

/// Catches the signals that can be forwarded, and the signal for a new window size.
fn catch(options: &AttachOptions) -> io::Result<SignalDelivery<UnixStream, SignalOnly>> {
    let (read, write) = UnixStream::pair()?;
    let mut signals: Vec<i32> = match options.proxy {
        true => (1..=64).filter(|signal| is_proxied(*signal)).collect(),
        false => [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGTSTP]
            .map(|s| s as i32)
            .into(),
    };
    // A process that was started with SIGHUP ignored keeps ignoring SIGHUP.
    signals.retain(|signal| *signal != SIGHUP || !signals::is_ignored(SIGHUP));
    if options.tty {
        signals.push(SIGWINCH);
    }
    SignalDelivery::with_pipe(read, write, SignalOnly, signals)
}

/// Whether the session forwards a signal. It does not forward signals that cannot be caught, that a fault of this
/// process raises, or that concern this process: its children, its pipe, its window, its place in the background
/// (TTIN, TTOU). Signals 32 and 33 belong to the C library.
fn is_proxied(signal: i32) -> bool {
    use Signal::*;
    let own = [
        SIGKILL, SIGSTOP, SIGILL, SIGFPE, SIGSEGV, SIGBUS, SIGCHLD, SIGPIPE, SIGURG, SIGWINCH, SIGTTIN,
        SIGTTOU,
    ];
    !own.iter().any(|own| *own as i32 == signal) && !(32..=33).contains(&signal)
}

fn duplicate(stream: impl AsFd) -> io::Result<OwnedFd> {
    stream.as_fd().try_clone_to_owned()
}

fn is_pipe(fd: &OwnedFd) -> io::Result<bool> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO)
}

/// Sets O_NONBLOCK. The caller must not use this for a descriptor that another process shares.
fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
