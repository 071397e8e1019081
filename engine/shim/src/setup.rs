//! The start of the shim's process: reads the setup from stdin, becomes subreaper, replaces stdin, stdout and stderr.
//!
//! The process starts as an orphan in its own session, or as the main process of a systemd unit.

use super::connection::Connection;
use super::systemd_unit::Unit;
use nix::sys::prctl;
use sampan_ipc::container::Streams;
use sampan_ipc::shim::{Action, CLIENTS, Setup, ShimRequest, UNIT, VERSION};
use sampan_os::syscall;
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Longest time until the engine has sent the first frame.
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);

/// The streams of a client that is attached from the start, and their descriptors.
pub(crate) type FirstClient = (Streams, Vec<OwnedFd>);

/// What the engine has sent to the new process.
pub(crate) struct Begun {
    pub(crate) setup: Setup,
    /// The connection to the engine.
    pub(crate) connection: Connection,
    /// The systemd unit whose main process this is, if any.
    pub(crate) unit: Option<Unit>,
    /// The client that has requested the start.
    pub(crate) starter: Option<FirstClient>,
    /// Further clients that are attached from the start.
    pub(crate) clients: Vec<FirstClient>,
}

/// Reads the setup and prepares the process.
pub(crate) fn begin() -> io::Result<Begun> {
    let is_unit = std::env::args_os().nth(2).is_some_and(|word| word == UNIT);
    let client_count = client_count(std::env::args_os().skip(2));
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut connection = Connection::new(stream, 0);
    let deadline = Instant::now() + SETUP_TIMEOUT;
    let setup: Setup = next_frame(&mut connection, deadline)?;
    if setup.version != VERSION {
        return Err(io::Error::other(format!("the setup has version {}, expected {VERSION}", setup.version)));
    }
    let starter = setup.attach.and_then(|streams| Some((streams, connection.take(streams.count())?)));
    let clients = (0..client_count)
        .map(|_| first_client(&mut connection, deadline))
        .collect::<io::Result<Vec<FirstClient>>>()?;
    let unit = match is_unit {
        true => {
            let of_unit = next_frame(&mut connection, deadline)?;
            // The engine has ended meanwhile. A new engine that started before this process had executed the shim has
            // found no shim, and has declared the container dead; so this process must not start the container. A
            // still later engine would find this process.
            if !connection.receive() {
                return Err(io::Error::other("the engine ended before it had handed over the start"));
            }
            Some(Unit::open(of_unit)?)
        }
        false => None,
    };
    prctl::set_child_subreaper(true)?;
    prctl::set_name(c"sampan-shim")?;
    std::env::set_current_dir("/")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for standard in 0..3 {
        syscall::replace_standard(null.as_fd(), standard)?;
    }
    Ok(Begun { setup, connection, unit, starter, clients })
}

/// The number of clients that are attached from the start, from the arguments after the container's directory.
fn client_count(mut words: impl Iterator<Item = OsString>) -> usize {
    match words.next() {
        Some(word) if word == CLIENTS => {
            words.next().and_then(|count| count.to_str()?.parse().ok()).unwrap_or(0)
        }
        _ => 0,
    }
}

fn first_client(connection: &mut Connection, deadline: Instant) -> io::Result<FirstClient> {
    let request: ShimRequest = next_frame(connection, deadline)?;
    let descriptors = connection.take(request.descriptors());
    match (request.action, descriptors) {
        (Action::Attach(streams), Some(descriptors)) => Ok((streams, descriptors)),
        _ => Err(io::Error::other("the engine sent another request where it had announced a client")),
    }
}

fn next_frame<T: DeserializeOwned>(connection: &mut Connection, deadline: Instant) -> io::Result<T> {
    loop {
        if let Some(message) = connection.next()? {
            return Ok(message);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !connection.wait(left) || !connection.receive() {
            return Err(io::Error::other("no setup arrived on standard input"));
        }
    }
}
