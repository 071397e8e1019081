//! JSON in the form that this program prints: one line for scripts, many lines for people, without characters that
//! control a terminal.

use sampan_ipc::event::is_hidden;
use serde::ser::Serialize;
use std::fmt::Write as _;

/// Returns the JSON text of `value` on one line, without a line feed.
pub(crate) fn line(value: &impl Serialize) -> String {
    printable(serde_json::to_string(value))
}

/// Returns the JSON text of `value` on many lines, for people.
pub(crate) fn pretty(value: &impl Serialize) -> String {
    printable(serde_json::to_string_pretty(value))
}

/// Escapes characters that control a terminal and that serde_json does not escape: DEL, C1 controls, bidirectional
/// overrides.
#[expect(
    clippy::expect_used,
    reason = "all maps here have string keys, and no type here refuses to be written"
)]
fn printable(json: serde_json::Result<String>) -> String {
    let json = json.expect("a value that JSON can hold");
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        // Outside of strings JSON is ASCII, and its line feeds are intended. Inside strings serde_json has escaped the
        // C0 controls. All other characters that are escaped here lie below U+FFFF.
        if c >= '\u{7f}' && is_hidden(c) {
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    text
}
