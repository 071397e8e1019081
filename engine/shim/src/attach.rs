//! A client that is attached: its control socket and the streams it brought.

use super::connection::Connection;
use super::nonblocking::{self, Kind, Sink};
use sampan_ipc::container::{CONTROL_MAX, Control, Streams, Told};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// An attached client.
#[derive(Debug)]
pub struct Client {
    pub(super) control: Connection,
    pub(super) stdin: Option<OwnedFd>,
    /// Bytes read from `stdin` that the terminal had no room for.
    pub(super) typed: Vec<u8>,
    /// The container's stdin has no room.
    pub(super) waits_for_room: bool,
    pub(super) sinks: [Option<Sink>; 2],
    /// It came with the start: the container's stdin ends with its own.
    pub(super) is_first: bool,
    /// It wants to leave, or has gone; what it typed before is still passed on.
    pub(super) is_leaving: bool,
    /// What it is told when all has been written; then it is let go.
    pub(super) farewell: Option<Told>,
    /// The other end of the control socket of a client that is no process: the unit's output.
    _own_end: Option<UnixStream>,
}

impl Client {
    /// A client of the descriptors that came along, in the order of [`Streams`].
    pub fn new(
        streams: Streams,
        tty: bool,
        descriptors: Vec<OwnedFd>,
        is_first: bool,
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
                nonblocking::widen(fd, nonblocking::INPUT_LEN);
            }
            if tty && kind != Kind::Socket {
                return Err("the stream of a terminal is not a socket".to_owned());
            }
            if tty {
                stdout = Some(fd.try_clone().map_err(|error| error.to_string())?);
            }
        }
        let sink = |fd: Option<OwnedFd>| fd.map(|fd| Sink::new(fd).ok_or_else(refused)).transpose();
        let stdin = stdin.filter(|fd| nonblocking::kind(fd) != Some(Kind::Null) || is_first);
        Ok(Client {
            control: Connection::with_max(control, 0, CONTROL_MAX),
            stdin,
            typed: Vec::new(),
            waits_for_room: false,
            sinks: [sink(stdout)?, sink(stderr)?],
            is_first,
            is_leaving: false,
            farewell: None,
            _own_end: None,
        })
    }

    /// The output of a unit of systemd's, which gets what the container writes and says nothing.
    pub fn of_unit(sinks: [Option<Sink>; 2]) -> io::Result<Self> {
        let (control, own_end) = UnixStream::pair()?;
        Ok(Client {
            control: Connection::with_max(control.into(), 0, CONTROL_MAX),
            stdin: None,
            typed: Vec::new(),
            waits_for_room: false,
            sinks,
            is_first: false,
            is_leaving: false,
            farewell: None,
            _own_end: Some(own_end),
        })
    }

    /// Reads what it says, and gives each word but a farewell to `word`.
    pub fn hear(&mut self, mut word: impl FnMut(Control)) {
        self.control.receive();
        while let Ok(Some(control)) = self.control.next::<Control>() {
            match control {
                Control::Detach => return self.is_leaving = true,
                other => word(other),
            }
        }
        self.control.flush();
        self.is_leaving |= !self.control.is_open;
    }

    /// It hears `told` when all it is to have has been written.
    pub fn leave(&mut self, told: Told) {
        self.stdin = None;
        self.farewell = Some(told);
        self.see_off();
    }

    /// Goes on with that; true when it can be let go.
    pub fn see_off(&mut self) -> bool {
        self.control.receive();
        while self.control.is_open && matches!(self.control.next::<Control>(), Ok(Some(_))) {}
        for sink in self.sinks.iter_mut().flatten() {
            sink.flush();
        }
        let is_written = self.sinks.iter().flatten().all(Sink::is_empty);
        if is_written && let Some(told) = self.farewell.take() {
            self.sinks = [None, None];
            self.control.say(&told);
        }
        self.control.flush();
        !self.control.is_open || is_written && self.control.is_drained()
    }
}
