//! What the monitor has been told of a container: asked when an engine or a shim was killed between saying something
//! and writing down that it was said.
//!
//! Called on threads, at start-up, for the few containers where that is in doubt. A monitor that does not answer is
//! taken for one that was told nothing: better twice than never.

use sampan_ipc::Event;
use sampan_ipc::connection::{Connection, Received, Stop};
use sampan_ipc::frame;
use sampan_ipc::trust::Server;
use sampan_ipc::watch::{Item, Request, Subscribe, opening};
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the monitor may take for each part of its answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// True if the last of the events `actions` of container `id` that the monitor knows is `wanted`.
pub fn is_last(fifo: &Path, id: &str, actions: &[&str], wanted: &str) -> bool {
    match last(&fifo.with_file_name("events.sock"), id, actions) {
        Ok(last) => last.as_deref() == Some(wanted),
        Err(error) => {
            log::warn!("container {id}: the monitor does not say whether it knows of '{wanted}': {error}");
            false
        }
    }
}

fn last(socket: &Path, id: &str, actions: &[&str]) -> io::Result<Option<String>> {
    let mut last = None;
    for_each(socket, id, |event| {
        if actions.contains(&event.action.as_str()) {
            last = Some(event.action);
        }
    })?;
    Ok(last)
}

/// Writer and number of all events of container `id` that the monitor knows.
///
/// # Errors
/// The monitor does not say.
pub fn known(fifo: &Path, id: &str) -> io::Result<HashSet<(u64, u64)>> {
    let mut known = HashSet::new();
    for_each(&fifo.with_file_name("events.sock"), id, |event| {
        known.insert((event.writer, event.counter));
    })?;
    Ok(known)
}

/// Calls `on_event` with each event of the container that the monitor knows.
fn for_each(socket: &Path, id: &str, mut on_event: impl FnMut(Event)) -> io::Result<()> {
    let subscribe = Subscribe {
        filters: vec!["type=container".to_owned(), format!("id={id}")],
        after: Some(0),
        ..Subscribe::default()
    };
    let request = opening(Request::Subscribe(subscribe)).map_err(io::Error::other)?;
    let mut connection = Connection::open(socket, Server::Monitord, &request, &[])?;
    let stop = Stop::new()?;
    loop {
        while let Some(body) = connection.buffered().map_err(io::Error::other)? {
            match frame::parse(body).map_err(io::Error::other)? {
                Item::Event(event) => on_event(event),
                Item::End(_) => return Ok(()),
                Item::Error(refusal) => return Err(io::Error::other(refusal.message)),
                _ => {}
            }
        }
        match connection.fill(&stop, Some(Instant::now() + PATIENCE))? {
            Received::Message(()) => {}
            Received::Timeout => return Err(io::ErrorKind::TimedOut.into()),
            Received::Closed | Received::Stopped => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
