//! A client's request: reads it, and computes its subscription.
//!
//! The event loop, which owns clients and store, calls this module. Changes only the client's decoder.

use crate::client::{Client, State};
use crate::ring::Cursor;
use crate::store::{LineageStatus, Store};
use crate::until::{self, EndPlan};
use sampan_ipc::filter::FilterSet;
use sampan_ipc::watch::{self, Lineage, Reason, Refusal, Request, Subscribe};
use std::io::{self, Read as _};

/// The subscription for a request.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) filters: FilterSet,
    /// The cursor at which the subscription begins.
    pub(crate) at: Cursor,
    /// The lineage frame that the subscriber is sent.
    pub(crate) lineage: Lineage,
    pub(crate) end: EndPlan,
}

/// Reads the bytes that a client has sent. Returns the request and its version; `None` while the request is
/// incomplete.
///
/// # Errors
/// The connection is broken, or the client sent more than its request.
pub(crate) fn read(client: &mut Client) -> io::Result<Option<Result<(u16, Request), Refusal>>> {
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
            return Err(io::Error::other("the client sent more than its request"));
        };
        decoder.push(buffer.get(..len).unwrap_or_default());
        match decoder.next_body() {
            Ok(None) => {}
            Ok(Some(body)) => return Ok(Some(watch::open_watch(body))),
            Err(error) => {
                return Ok(Some(Err(refusal(Reason::Request, format!("cannot read the request: {error}")))));
            }
        }
    }
}

/// Makes a refusal that lists the protocol versions of this process.
pub(crate) fn refusal(reason: Reason, message: String) -> Refusal {
    Refusal { reason, message, versions: vec![watch::VERSION, watch::VERSION_MIN] }
}

/// Computes the subscription for a request.
///
/// # Errors
/// The refusal to send: a filter or a time is invalid, or the subscription would begin after the newest event.
pub(crate) fn plan(subscribe: &Subscribe, store: &Store) -> Result<Plan, Refusal> {
    let argument = |message| refusal(Reason::Argument, message);
    let filters = FilterSet::parse(&subscribe.filters).map_err(|error| argument(error.to_string()))?;
    if let (Some(since), Some(until)) = (subscribe.since, subscribe.until)
        && since > until
    {
        return Err(argument("since is later than until".to_owned()));
    }
    let end = until::plan_end(subscribe, store.visible(), sampan_ipc::time::now());
    let (at, replaced) = start(subscribe, store, matches!(end, EndPlan::Stop(_)))?;
    let lineage = Lineage { id: store.lineage(), after: at.seq.saturating_sub(1), replaced };
    Ok(Plan { filters, at, lineage, end })
}

/// Computes where a subscription begins, and whether this journal has replaced the journal that the reader knew.
/// `history_only`: the subscription does not include new events.
fn start(subscribe: &Subscribe, store: &Store, history_only: bool) -> Result<(Cursor, bool), Refusal> {
    let status = subscribe.lineage.map(|lineage| store.lineage_status(lineage));
    let (after, replaced) = match (subscribe.after, status) {
        (Some(_), Some(LineageStatus::Unknown)) => return Ok((store.since(i64::MIN), true)),
        // A power cut has removed an event that the reader has seen, if its number is above the newest event's.
        (Some(after), Some(LineageStatus::Current)) => (Some(after.min(store.head())), false),
        (Some(after), Some(LineageStatus::Earlier(end))) => (Some(after.min(end.saturating_sub(1))), false),
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
        // A subscription without a start and without new events gets all past events.
        (None, None) if history_only => store.since(i64::MIN),
        (None, None) => store.visible(),
    };
    Ok((at, replaced))
}
