//! JSON as this program prints it: on one line for scripts, on many for people, and nothing in it that a terminal acts on.

use sampan_ipc::event::is_hidden;
use serde::ser::Serialize;
use std::fmt::Write as _;

/// JSON text of anything that this program prints as JSON, on one line.
pub(crate) fn line(value: &impl Serialize) -> String {
    printable(&serde_json::to_string(value).expect(SERIALIZES))
}

/// JSON text of `value` on many lines, for people.
pub(crate) fn pretty(value: &impl Serialize) -> String {
    printable(&serde_json::to_string_pretty(value).expect(SERIALIZES))
}

const SERIALIZES: &str = "maps have string keys, and nothing here refuses to be written";

/// Escapes what serde_json leaves as it is and a terminal acts on: DEL, C1 controls, bidirectional overrides.
fn printable(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        // Outside of strings JSON is ASCII, and its line feeds are meant. Within them serde_json has escaped the C0
        // controls. None of the others lies beyond U+FFFF.
        if c >= '\u{7f}' && is_hidden(c) {
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    text
}
