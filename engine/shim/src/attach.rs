//! An attached client: its control socket and the streams whose descriptors it sent.
//!
//! The `Stdio` of a process owns its clients; the event loop owns a client that is leaving. `stdio` moves the bytes.

use super::connection::Connection;
use super::nonblocking::{self, Kind, Sink};
use super::stream::PerStream;
use sampan_ipc::container::{AttachMessage, CONTROL_MAX, Control, Streams};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

#[derive(Debug)]
pub(crate) struct Client {
    pub(super) control: Connection,
    pub(super) stdin: Option<OwnedFd>,
    /// Bytes that were read from `stdin` and that the terminal has not accepted yet.
    pub(super) typed: Vec<u8>,
    /// Whether the container's stdin is full.
    pub(super) is_target_full: bool,
    pub(super) sinks: PerStream<Option<Sink>>,
    /// Whether the process's stdin ends when this client's ends: the client came with the request that started the
    /// process, or has sent [`Control::StdinOnce`].
    pub(super) ends_stdin: bool,
    /// Whether the client has detached or closed its connection. The shim still passes on what the client typed
    /// before.
    pub(super) is_leaving: bool,
    /// The message to send after the client has got all output. The shim then closes the connection.
    pub(super) last_message: Option<AttachMessage>,
    /// The other end of the control socket of a client that has no process: the output of a systemd unit.
    _own_end: Option<UnixStream>,
}

impl Client {
    /// Makes a client from the descriptors that came with its request, in the order of [`Streams`].
    pub(crate) fn new(
        streams: Streams,
        tty: bool,
        descriptors: Vec<OwnedFd>,
        ends_stdin: bool,
    ) -> Result<Self, String> {
        let mut descriptors = descriptors.into_iter();
        let mut next = |wanted: bool| if wanted { descriptors.next() } else { None };
        let refused = || "a descriptor is neither a pipe nor a stream socket nor /dev/null".to_owned();
        let control =
            next(true).filter(|fd| nonblocking::kind(fd) == Some(Kind::Socket)).ok_or_else(refused)?;
        let stdin = next(streams.stdin);
        let (mut stdout, stderr) = (next(streams.stdout), next(streams.stderr));
        if let Some(fd) = &stdin {
            let kind = nonblocking::kind(fd).ok_or_else(refused)?;
            if kind == Kind::Pipe {
                nonblocking::grow_pipe(fd, nonblocking::INPUT_LEN);
            }
            if tty && kind != Kind::Socket {
                return Err("the stream of a terminal is not a socket".to_owned());
            }
            if tty {
                stdout = Some(fd.try_clone().map_err(|error| error.to_string())?);
            }
        }
        let sink = |fd: Option<OwnedFd>| fd.map(|fd| Sink::new(fd).ok_or_else(refused)).transpose();
        let stdin = stdin.filter(|fd| nonblocking::kind(fd) != Some(Kind::Null) || ends_stdin);
        Ok(Client {
            control: Connection::with_max(control, 0, CONTROL_MAX),
            stdin,
            typed: Vec::new(),
            is_target_full: false,
            sinks: PerStream { out: sink(stdout)?, err: sink(stderr)? },
            ends_stdin,
            is_leaving: false,
            last_message: None,
            _own_end: None,
        })
    }

    /// Makes a client for the output of a systemd unit. This client gets the container's output, and never sends
    /// anything.
    pub(crate) fn of_unit(sinks: PerStream<Option<Sink>>) -> io::Result<Self> {
        let (control, own_end) = UnixStream::pair()?;
        Ok(Client {
            control: Connection::with_max(control.into(), 0, CONTROL_MAX),
            stdin: None,
            typed: Vec::new(),
            is_target_full: false,
            sinks,
            ends_stdin: false,
            is_leaving: false,
            last_message: None,
            _own_end: Some(own_end),
        })
    }

    /// Reads the client's control messages and calls `on_control` for each, but for those about the client alone:
    /// `Detach` and `StdinOnce`.
    pub(crate) fn receive_controls(&mut self, mut on_control: impl FnMut(Control)) {
        self.control.receive();
        while let Ok(Some(control)) = self.control.next::<Control>() {
            match control {
                Control::Detach => return self.is_leaving = true,
                Control::StdinOnce => self.ends_stdin = true,
                other => on_control(other),
            }
        }
        self.control.flush();
        self.is_leaving |= !self.control.is_open;
    }

    /// Begins to close the client, which first gets the rest of its output, then `message`. [`Client::try_close`]
    /// continues.
    pub(crate) fn close_with(&mut self, message: AttachMessage) {
        self.stdin = None;
        self.last_message = Some(message);
        self.try_close();
    }

    /// Writes the bytes that the client accepts now. Returns true when the client has got everything, or has gone.
    pub(crate) fn try_close(&mut self) -> bool {
        self.control.receive();
        while self.control.is_open && matches!(self.control.next::<Control>(), Ok(Some(_))) {}
        for sink in self.sinks.iter_mut().flatten() {
            sink.flush();
        }
        let is_written = self.sinks.iter().flatten().all(Sink::is_empty);
        if is_written && let Some(message) = self.last_message.take() {
            self.sinks = PerStream::default();
            self.control.send(&message);
        }
        self.control.flush();
        !self.control.is_open || is_written && self.control.is_drained()
    }
}
