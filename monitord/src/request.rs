//! A client's request: reading it, and working out the subscription that it asks for.
//!
//! Called by the event loop, which owns clients and store. Changes only the client's decoder.

use crate::client::{Client, State};
use crate::ring::Cursor;
use crate::store::{LineageStatus, Store};
use crate::until::{self, EndPlan};
use sampan_ipc::filter::FilterSet;
use sampan_ipc::watch::{self, Lineage, Reason, Refusal, Request, Subscribe};
use std::io::{self, Read as _};

/// A subscription that has been worked out from a request.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) filters: FilterSet,
    /// Where the subscription begins.
    pub(crate) at: Cursor,
    /// The lineage frame that the subscriber is sent.
    pub(crate) lineage: Lineage,
    pub(crate) end: EndPlan,
}

/// Reads what a client sent. Returns its request and the version of it, or `None` while the request is incomplete.
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

/// Works out a subscription.
///
/// # Errors
/// The refusal to be sent: a filter or a time is invalid, or the start lies ahead of the newest event.
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

/// Works out where a subscription begins, and whether the journal that the reader knew has been replaced by this one.
/// `history_only`: the subscription follows no new events.
fn start(subscribe: &Subscribe, store: &Store, history_only: bool) -> Result<(Cursor, bool), Refusal> {
    let status = subscribe.lineage.map(|lineage| store.lineage_status(lineage));
    let (after, replaced) = match (subscribe.after, status) {
        (Some(_), Some(LineageStatus::Unknown)) => return Ok((store.since(i64::MIN), true)),
        // A number ahead of the newest event is one that a power cut took back: the reader has seen its event.
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
        // A subscription without a start that follows nothing is for all of history.
        (None, None) if history_only => store.since(i64::MIN),
        (None, None) => store.visible(),
    };
    Ok((at, replaced))
}
