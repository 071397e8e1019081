//! The media types of the stream of events: which one a client accepts, and how a message is framed in it.

use sampan_client::docker::event::{Event, Journal};
use sampan_ipc::event_stream::Place;
use std::fmt::Write as _;
use std::io::Write as _;

/// The API version from which on the default media type says that there is one object a line.
const JSON_LINES_FROM: u32 = 52;
/// The byte before each object. RFC 7464, 2.2.
const RECORD_SEPARATOR: u8 = 0x1e;

/// How messages are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One object a line, under docker's old name.
    Json,
    /// One object a line.
    JsonLines,
    /// One object a line, under another name.
    NdJson,
    /// A record separator, an object, a line feed. RFC 7464.
    JsonSequence,
    /// Server-sent events. HTML Standard, 9.2.
    ServerSent,
}

/// All formats, with their media types.
const FORMATS: [(&str, Format); 5] = [
    ("application/json", Format::Json),
    ("application/jsonl", Format::JsonLines),
    ("application/x-ndjson", Format::NdJson),
    ("application/json-seq", Format::JsonSequence),
    ("text/event-stream", Format::ServerSent),
];

impl Format {
    /// The format that a client of API version `1.minor` gets if it does not choose.
    pub fn default_of(minor: u32) -> Self {
        if minor < JSON_LINES_FROM { Format::Json } else { Format::JsonLines }
    }

    /// The format that the header `Accept` prefers. A header that names none of the formats is treated as absent, as
    /// docker does. RFC 9110, 12.5.1.
    pub fn negotiate(accept: &str, minor: u32) -> Self {
        let mut best: Option<(u32, Format)> = None;
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let quality = parts.find_map(quality).unwrap_or(1000);
            let format = match FORMATS.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind)) {
                Some((_, format)) => *format,
                None if kind == "*/*" || kind.eq_ignore_ascii_case("application/*") => {
                    Format::default_of(minor)
                }
                None => continue,
            };
            if quality > best.map_or(0, |(best, _)| best) {
                best = Some((quality, format));
            }
        }
        best.map_or(Format::default_of(minor), |(_, format)| format)
    }

    /// The media type.
    pub fn media_type(self) -> &'static str {
        FORMATS.iter().find(|(_, format)| *format == self).map_or("application/json", |(name, _)| name)
    }

    /// Replaces `out` by the message of `event`.
    pub fn write(self, event: &Event<'_>, out: &mut Vec<u8>) {
        out.clear();
        // Writing into a vector never fails, and an event has no value that JSON cannot have.
        match self {
            Format::ServerSent => {
                let _ = write!(out, "id: {}:{}\ndata: ", event.journal, event.seq);
            }
            Format::JsonSequence => out.push(RECORD_SEPARATOR),
            Format::Json | Format::JsonLines | Format::NdJson => {}
        }
        let _ = serde_json::to_writer(&mut *out, event);
        out.extend_from_slice(if self == Format::ServerSent { b"\n\n" } else { b"\n" });
    }
}

/// The message that sets the place of a client of server-sent events before its first event, so that the client loses
/// nothing if its connection breaks before that.
pub fn place_message(place: Place) -> String {
    let mut text = String::new();
    let _ = write!(text, "id: {}:{}\n\n", Journal(place.journal), place.seq);
    text
}

/// The value of `q=0.5`, in thousandths. RFC 9110, 12.4.2.
fn quality(parameter: &str) -> Option<u32> {
    let value = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q="))?;
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let digits = format!("{fraction:0<3}");
    let fraction: u32 = digits.get(..3)?.parse().ok()?;
    Some((whole.parse::<u32>().ok()?.min(1) * 1000 + fraction).min(1000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_client::docker::event::Frame;

    #[test]
    fn the_preferred_format_is_chosen() {
        for (accept, minor, expected) in [
            ("", 50, Format::Json),
            ("", 52, Format::JsonLines),
            ("*/*", 50, Format::Json),
            ("text/html, application/xhtml+xml", 50, Format::Json),
            ("application/jsonl", 50, Format::JsonLines),
            ("application/json;q=0.1, application/x-ndjson;q=0.5, */*;q=0", 50, Format::NdJson),
            ("Application/JSON-Seq", 50, Format::JsonSequence),
            ("text/event-stream", 50, Format::ServerSent),
            ("text/event-stream;q=0", 50, Format::Json),
            ("text/event-stream;q=x, application/jsonl;q=0.999", 50, Format::ServerSent),
        ] {
            assert_eq!(Format::negotiate(accept, minor), expected, "{accept}");
        }
        assert_eq!(Format::ServerSent.media_type(), "text/event-stream");
    }

    #[test]
    fn each_format_frames_one_object() {
        let event = sampan_ipc::Event::new("image", "pull", "a\nb");
        let event = Event::of_event(&event, Frame { seq: 7, journal: Journal(0xab), minor: 50 });
        let object = serde_json::to_string(&event).expect("an object");
        let written = |format: Format| {
            let mut out = b"old".to_vec();
            format.write(&event, &mut out);
            String::from_utf8(out).expect("text")
        };
        assert_eq!(written(Format::Json), format!("{object}\n"));
        assert_eq!(written(Format::JsonSequence), format!("\u{1e}{object}\n"));
        assert_eq!(written(Format::ServerSent), format!("id: 00000000000000ab:7\ndata: {object}\n\n"));
        assert_eq!(place_message(Place { journal: 0xab, seq: 6 }), "id: 00000000000000ab:6\n\n");
    }
}
