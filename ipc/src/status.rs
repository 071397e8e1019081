//! Requests monitord's state.

use crate::connection::{Connection, Received, Stop};
use crate::frame;
use crate::subscription::WatchError;
use crate::trust::Server;
use crate::watch::{self, Item, Request, Status};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest time to wait for monitord, which answers from memory.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Requests the state of the monitord that listens at `socket`.
///
/// # Errors
/// [`WatchError::Connect`] if monitord does not listen; [`WatchError::Broken`] if it sends no complete answer within
/// ten seconds.
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
