//! What a client asks: reading it, and where the subscription that it asks for begins and ends.
//!
//! Called by the event loop, which owns clients and store. Decides; changes nothing but what a client's socket
//! gave.

use crate::client::{Client, State};
use crate::ring::Cursor;
use crate::store::{Standing, Store};
use sampan_ipc::filter::FilterSet;
use sampan_ipc::watch::{self, End, Lineage, Reason, Refusal, Request, Subscribe};
use std::io::{self, Read as _};

/// What a subscription is to be, by the request for it.
#[derive(Debug)]
pub struct Plan {
    /// Its filters.
    pub filters: FilterSet,
    /// Where it begins.
    pub at: Cursor,
    /// What the reader is told of that.
    pub lineage: Lineage,
    /// Where it ends, and why, if that is known now.
    pub stop: Option<(u64, End)>,
    /// When it is over, if that is yet to come.
    pub deadline: Option<i64>,
}

/// Reads what a client sent; its request, and the version that it speaks, once that is whole.
///
/// # Errors
/// The connection is broken, or the client sends more than a request.
pub fn read(client: &mut Client) -> io::Result<Option<Result<(u16, Request), Refusal>>> {
    let mut buffer = [0; 4096];
    loop {
        let len = match client.stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::ConnectionReset.into()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let State::Opening(decoder) = &mut client.state else {
            return Err(io::Error::other("it sent more than its request"));
        };
        decoder.push(&buffer[..len]);
        match decoder.next_body() {
            Ok(None) => {}
            Ok(Some(body)) => return Ok(Some(watch::open_watch(body))),
            Err(error) => {
                return Ok(Some(Err(refusal(Reason::Request, format!("cannot read the request: {error}")))));
            }
        }
    }
}

/// A refusal, with the versions that are spoken here.
pub fn refusal(reason: Reason, message: String) -> Refusal {
    Refusal { reason, message, versions: vec![watch::VERSION, watch::VERSION_MIN] }
}

/// Works out a subscription.
///
/// # Errors
/// Why it makes no sense.
pub fn plan(subscribe: &Subscribe, store: &Store) -> Result<Plan, Refusal> {
    let argument = |message| refusal(Reason::Argument, message);
    let filters = FilterSet::parse(&subscribe.filters).map_err(|error| argument(error.to_string()))?;
    if let (Some(since), Some(until)) = (subscribe.since, subscribe.until)
        && since > until
    {
        return Err(argument("since is later than until".to_owned()));
    }
    let now = sampan_ipc::time::now();
    let here = store.visible().pos;
    let (stop, deadline) = match subscribe.until {
        Some(until) if until < now => (Some((here, End::Until)), None),
        _ if !subscribe.follow => (Some((here, End::History)), None),
        until => (None, until),
    };
    let (at, replaced) = start(subscribe, store, stop.is_some())?;
    let lineage = Lineage { id: store.lineage(), after: at.seq.saturating_sub(1), replaced };
    Ok(Plan { filters, at, lineage, stop, deadline })
}

/// Where a subscription begins, and whether the journal that the reader knew is not this one; `past` if the
/// subscription is for the past alone.
fn start(subscribe: &Subscribe, store: &Store, past: bool) -> Result<(Cursor, bool), Refusal> {
    let (after, lineage) = match (subscribe.after, subscribe.lineage.map(|lineage| store.standing(lineage))) {
        (Some(_), Some(Standing::Unknown)) => return Ok((store.since(i64::MIN), true)),
        // Ahead of the newest event lies only what a power cut took back: the reader has seen it.
        (Some(after), Some(Standing::Current)) => (Some(after.min(store.head())), false),
        (Some(after), Some(Standing::Earlier(end))) => (Some(after.min(end - 1)), false),
        (after, _) => (after, false),
    };
    let at = match (after, subscribe.since) {
        (Some(after), _) if after > store.head() => {
            let message = format!("no event has number {after} yet: the newest one is {}", store.head());
            return Err(refusal(Reason::Ahead, message));
        }
        (Some(after), _) => store
            .after(after)
            .map_err(|error| refusal(Reason::Request, format!("cannot read the journal: {error}")))?,
        (None, Some(since)) => store.since(since),
        // The past up to a moment, or all of it, is history as well.
        (None, None) if past => store.since(i64::MIN),
        (None, None) => store.visible(),
    };
    Ok((at, lineage))
}
