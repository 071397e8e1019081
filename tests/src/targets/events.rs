//! A request for docker's events, and an event in docker's form: one line of JSON, of a type that docker's clients know.

use http::HeaderMap;
use sampan_client::docker::event::{Event, Frame, Journal};
use sampan_gateway::event::filter::Filter;
use sampan_gateway::event::format::Format;
use sampan_gateway::event::request::EventsRequest;
use sampan_gateway::query::Query;
use sampan_ipc::event::{EventView, Origin};
use sampan_ipc::filter::FilterSet;
use sampan_ipc::record::{Scanner, Step};

const NOW: i64 = 1_796_000_000_000_000_000;
const TYPES: [&str; 5] = ["container", "image", "network", "volume", "daemon"];

/// Reads the lines of `input` as a query, `Last-Event-ID` and `Accept`.
pub(super) fn request(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.lines();
    let query = Query::parse(lines.next().unwrap_or_default());
    let mut headers = HeaderMap::new();
    for (name, line) in ["last-event-id", "accept"].into_iter().zip(lines) {
        if let (false, Ok(value)) = (line.is_empty(), line.parse()) {
            headers.insert(name, value);
        }
    }
    let request = EventsRequest::read(&query, &headers, 50, NOW);
    if let Ok(request) = &request {
        assert!(FilterSet::parse(&request.subscribe.filters).is_ok(), "monitord would refuse the filters");
        let (since, until) = (request.subscribe.since, request.subscribe.until);
        assert!(
            since.zip(until).is_none_or(|(since, until)| since <= until),
            "monitord would refuse the times"
        );
    }
    request.is_ok()
}

/// Describes each event of the records in `input`.
pub(super) fn describe(input: &[u8]) -> bool {
    let mut count = 0;
    let mut scanner = Scanner::new(input);
    while let Some(step) = scanner.next() {
        match step {
            Step::Record(record) => {
                check(record.event, Origin::Facts);
                check(record.event, Origin::Emit);
                count += 1;
            }
            Step::Garbage(_) => {}
            // No more bytes come.
            Step::Partial => drop(scanner.skip_partial()),
        }
    }
    count > 0
}

fn check(view: EventView<'_>, origin: Origin) {
    let view = EventView { origin, ..view };
    let event = Event::of_view(&view, Frame { seq: 7, journal: Journal(1), minor: 50 });
    let mut message = Vec::new();
    Format::JsonLines.write(&event, &mut message);
    assert_eq!(message.iter().position(|byte| *byte == b'\n'), Some(message.len() - 1), "one line");
    let object: serde_json::Value = serde_json::from_slice(&message).expect("an object");
    let kind = object["Type"].as_str().expect("a type");
    assert!(TYPES.contains(&kind), "{kind}");
    let attributes = object["Actor"]["Attributes"].as_object().expect("attributes");
    assert!(attributes.values().all(serde_json::Value::is_string));
    if origin == Origin::Emit {
        assert!(kind == "daemon" && attributes["origin"] == "emit" && attributes["type"] == view.kind);
    }
    // An event passes the filters that its own words make.
    let own = [("type", kind), ("event", view.action), ("scope", "local")];
    let own = own.map(|(key, value)| (key.to_owned(), vec![value.to_owned()]));
    assert!(Filter::new(own.into_iter().collect()).matches(&event), "{event:?}");
}
