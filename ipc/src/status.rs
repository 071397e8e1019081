//! Asks monitord for its own state, once.

use crate::connection::{Connection, Received, Stop};
use crate::frame;
use crate::subscription::WatchError;
use crate::trust::Server;
use crate::watch::{self, Item, Request, Status};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long monitord may take. It answers from memory.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Asks the monitord that listens at `socket` for its state.
///
/// # Errors
/// [`WatchError::Connect`]: monitord does not listen. [`WatchError::Broken`]: no whole answer came within ten seconds.
pub fn status(socket: &Path) -> Result<Status, WatchError> {
    let broken = |source| WatchError::Broken { socket: socket.to_owned(), source };
    let request = watch::opening(Request::Status)?;
    let mut connection = Connection::open(socket, Server::Monitord, &request, &[])
        .map_err(|source| WatchError::Connect { socket: socket.to_owned(), source })?;
    let stop = Stop::new().map_err(WatchError::System)?;
    let deadline = Instant::now() + ANSWER_TIME;
    let mut answer = None;
    loop {
        while let Some(body) = connection.buffered()? {
            match (frame::parse(body)?, answer.take()) {
                (Item::Status(status), _) => answer = Some(*status),
                (Item::End(_), Some(status)) => return Ok(status),
                (Item::Error(refusal), _) => return Err(WatchError::Refused(refusal)),
                _ => return Err(WatchError::OutOfPlace("something else than its state")),
            }
        }
        match connection.fill(&stop, Some(deadline)) {
            Ok(Received::Message(())) => {}
            Ok(_) => return Err(broken(None)),
            Err(source) => return Err(broken(Some(source))),
        }
    }
}
