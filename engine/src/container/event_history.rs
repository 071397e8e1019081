//! Requests from monitord the events of a container that it has.
//!
//! An engine or a shim may be killed after it has sent an event and before it has recorded that. Threads call this
//! module for such containers, when the engine starts and when a shim ends. If monitord does not answer, its history
//! counts as empty: an event that arrives twice is better than a lost event.

use sampan_ipc::Event;
use sampan_ipc::connection::{Connection, Received, Stop};
use sampan_ipc::frame;
use sampan_ipc::trust::Server;
use sampan_ipc::watch::{Item, Request, Subscribe, opening};
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest time to wait for each part of monitord's answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks in monitord for the newest event of container `id` with one of `actions`. Returns whether that is `wanted`.
pub fn is_last(fifo: &Path, id: &str, actions: &[&str], wanted: &str) -> bool {
    match last(&fifo.with_file_name("events.sock"), id, actions) {
        Ok(last) => last.as_deref() == Some(wanted),
        Err(error) => {
            log::warn!(
                "container {id}: cannot ask sampan-monitord for its '{wanted}' event, it may be sent twice: {error}"
            );
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

/// Returns writer and counter of each event of container `id` that monitord has.
///
/// # Errors
/// monitord does not answer, or refuses the request.
pub fn known(fifo: &Path, id: &str) -> io::Result<HashSet<(u64, u64)>> {
    let mut known = HashSet::new();
    for_each(&fifo.with_file_name("events.sock"), id, |event| {
        known.insert((event.writer, event.counter));
    })?;
    Ok(known)
}

/// Calls `on_event` with each event of the container that monitord has, oldest first.
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
