//! What a request for events asks for: where the stream begins and ends, which events, in which form.

use crate::event::filter::Filter;
use crate::event::format::Format;
use crate::query::{self, Query};
use crate::refusal::Refusal;
use http::HeaderMap;
use sampan_ipc::event_stream::Place;
use sampan_ipc::watch::Subscribe;

/// What `since` begins with if it is a place and no time.
const BY_SEQ: &str = "seq:";
/// Digits of a journal's ID.
const JOURNAL_DIGITS: usize = 16;

/// A request for events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsRequest {
    /// The request to monitord.
    pub subscribe: Subscribe,
    /// The events that the client wants.
    pub filter: Filter,
    /// How messages are framed.
    pub format: Format,
}

impl EventsRequest {
    /// Reads a request that arrives at the time `now`, in nanoseconds since the epoch.
    ///
    /// # Errors
    /// A parameter or the header `Last-Event-ID` is not valid.
    pub fn read(query: &Query, headers: &HeaderMap, minor: u32, now: i64) -> Result<Self, Refusal> {
        let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("\u{fffd}"));
        let filter = Filter::new(query.filters()?);
        let mut subscribe =
            Subscribe { follow: true, filters: filter.for_monitord(), ..Subscribe::default() };
        subscribe.until = query.get("until").map(|text| time("until", text)).transpose()?;
        // A client that connects again sends its first `since` again, but its last place counts.
        match (header("last-event-id"), query.get("since")) {
            (Some(id), _) => resume(&mut subscribe, "Last-Event-ID", id, id)?,
            (None, Some(since)) => match since.strip_prefix(BY_SEQ) {
                Some(place) => resume(&mut subscribe, "since", since, place)?,
                // docker compares the time with past events only.
                None => subscribe.since = Some(time("since", since)?).filter(|since| *since <= now),
            },
            // docker begins with the oldest event if only the end is given.
            (None, None) => subscribe.since = subscribe.until.map(|_| i64::MIN),
        }
        if let (Some(since), Some(until)) = (query.get("since"), subscribe.until)
            && !since.starts_with(BY_SEQ)
            && time("since", since)? > until
        {
            return Err(Refusal::bad("`since` time cannot be after `until` time"));
        }
        let format = header("accept").map(|accept| Format::negotiate(accept, minor));
        Ok(EventsRequest { subscribe, filter, format: format.unwrap_or(Format::default_of(minor)) })
    }
}

fn time(name: &str, text: &str) -> Result<i64, Refusal> {
    query::unix_time(text).ok_or_else(|| {
        Refusal::bad(format!(
            "{name}={text:?} is not a time: expected seconds since 1970, and up to nine digits after a point"
        ))
    })
}

/// Lets the stream begin after the place `text`, which is all or a part of `given`.
fn resume(subscribe: &mut Subscribe, name: &str, given: &str, text: &str) -> Result<(), Refusal> {
    let place = parse_place(text).ok_or_else(|| {
        Refusal::bad(format!("{name} {given:?} is not a place in a journal: expected JOURNAL:NUMBER"))
    })?;
    (subscribe.after, subscribe.lineage) = (Some(place.seq), Some(place.journal));
    Ok(())
}

/// Parses `JOURNAL:NUMBER`: 16 hexadecimal digits, and a decimal number.
pub fn parse_place(text: &str) -> Option<Place> {
    let (journal, seq) = text.split_once(':')?;
    let is_id = journal.len() == JOURNAL_DIGITS && journal.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_number = seq.bytes().all(|byte| byte.is_ascii_digit());
    if !is_id || !is_number {
        return None;
    }
    Some(Place { journal: u64::from_str_radix(journal, 16).ok()?, seq: seq.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 2_000_000_000_000_000_000;

    fn read(query: &str, headers: &[(&'static str, &str)]) -> Result<EventsRequest, Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().expect("a value"));
        }
        EventsRequest::read(&Query::parse(query), &map, 50, NOW)
    }

    fn subscribe(query: &str, headers: &[(&'static str, &str)]) -> Subscribe {
        read(query, headers).expect(query).subscribe
    }

    #[test]
    fn a_stream_begins_and_ends_where_docker_s_does() {
        let live = subscribe("", &[]);
        assert_eq!((live.since, live.until, live.after, live.follow), (None, None, None, true));
        assert_eq!(subscribe("since=0", &[]).since, Some(0));
        assert_eq!(subscribe("since=1.5&until=2", &[]).since, Some(1_500_000_000));
        assert_eq!(subscribe("since=2000000001", &[]).since, None, "the future is live");
        let until = subscribe("until=7.000000001", &[]);
        assert_eq!((until.since, until.until), (Some(i64::MIN), Some(7_000_000_001)));
        for bad in [
            "since=x",
            "since=1.0000000001",
            "until=1h",
            "since=2&until=1",
            "since=2000000002&until=2000000001",
        ] {
            assert_eq!(read(bad, &[]).map_err(|refusal| refusal.status), Err(400), "{bad}");
        }
    }

    #[test]
    fn a_place_resumes_and_counts_more_than_a_time() {
        let place = "00000000000000ab:7";
        let by_query = subscribe(&format!("since=seq:{place}"), &[]);
        assert_eq!((by_query.after, by_query.lineage, by_query.since), (Some(7), Some(0xab), None));
        let by_header = subscribe("since=0", &[("last-event-id", place)]);
        assert_eq!((by_header.after, by_header.lineage, by_header.since), (Some(7), Some(0xab), None));
        for bad in ["", "7", "ab:7", "00000000000000ab:", "00000000000000ab:-7", "+0000000000000ab:7"] {
            assert_eq!(read("", &[("last-event-id", bad)]).map_err(|refusal| refusal.status), Err(400));
        }
        assert!(read("since=seq:x", &[]).is_err());
    }
}
