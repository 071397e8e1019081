//! One message of a stream about images: a JSON object with CR LF, in docker's order of keys and in Go's spelling.
//!
//! Makes text only. Sizes and bars are those of docker's `progress` key.

use serde::Serialize;
use std::fmt::Write as _;

/// Columns of a bar.
const COLUMNS: usize = 50;
/// Units of sizes, each 1,000 times the one before.
const UNITS: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];

/// The numbers of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Numbers {
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) total: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Serialize)]
struct Detail<'a> {
    status: &'a str,
    #[serde(rename = "progressDetail")]
    numbers: Numbers,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
}

#[derive(Serialize)]
struct Plain<'a> {
    status: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
}

#[derive(Serialize)]
struct Stream<'a> {
    stream: &'a str,
}

#[derive(Serialize)]
struct ErrorDetail<'a> {
    message: &'a str,
}

#[derive(Serialize)]
struct Failed<'a> {
    #[serde(rename = "errorDetail")]
    detail: ErrorDetail<'a>,
    error: &'a str,
}

/// Writes `message` as docker does: Go writes `<`, `>` and `&` as escapes.
pub(crate) fn line(message: &impl Serialize) -> String {
    // A message has only strings and numbers, so it always has a JSON form.
    let text = serde_json::to_string(message).unwrap_or_default();
    let mut line = String::with_capacity(text.len() + 2);
    for c in text.chars() {
        match c {
            '<' => line.push_str("\\u003c"),
            '>' => line.push_str("\\u003e"),
            '&' => line.push_str("\\u0026"),
            other => line.push(other),
        }
    }
    line.push_str("\r\n");
    line
}

/// A message about the layer `id`, without numbers.
pub(crate) fn layer(status: &str, id: &str) -> String {
    line(&Detail { status, numbers: Numbers::default(), progress: None, id })
}

/// A message about the layer `id` with numbers of bytes. A `total` of 0 is unknown.
pub(crate) fn numbers(status: &str, id: &str, current: u64, total: u64) -> String {
    let numbers = Numbers { current, total };
    line(&Detail { status, numbers, progress: Some(bar(current, total)), id })
}

/// A message with a status alone, or with the name of what it is about.
pub(crate) fn plain(status: &str, id: &str) -> String {
    line(&Plain { status, id })
}

/// A message with text that the client writes as it is.
pub(crate) fn stream(text: &str) -> String {
    line(&Stream { stream: text })
}

/// The message that ends a stream whose work has failed.
pub(crate) fn failed(message: &str) -> String {
    line(&Failed { detail: ErrorDetail { message }, error: message })
}

/// docker's text for the `progress` key.
fn bar(current: u64, total: u64) -> String {
    let shown = size(current);
    if total == 0 {
        return format!("{shown:>8}");
    }
    let filled = usize::try_from(u128::from(current) * 100 / u128::from(total) / 2).unwrap_or(COLUMNS);
    let filled = filled.min(COLUMNS);
    let mut text = format!("[{}>{}] {shown:>8}", "=".repeat(filled), " ".repeat(COLUMNS - filled));
    if current <= total {
        // Writing into a string never fails.
        let _ = write!(text, "/{}", size(total));
    }
    text
}

/// A size in docker's form: decimal units, four significant digits without trailing zeros, such as `1.084MB`.
fn size(bytes: u64) -> String {
    // The size in units of `scale`, rounded to four significant digits by integers, half up.
    let (mut scale, mut unit) = (1u128, 0);
    let bytes = u128::from(bytes);
    while bytes >= scale * 1000 && unit + 1 < UNITS.len() {
        scale *= 1000;
        unit += 1;
    }
    let whole = bytes / scale;
    let digits = match whole {
        0..=9 => 3,
        10..=99 => 2,
        _ => 1,
    };
    let power = 10u128.pow(digits);
    let rounded = (bytes * power + scale / 2) / scale;
    let (whole, fraction) = (rounded / power, rounded % power);
    let width = usize::try_from(digits).unwrap_or_default();
    let text = format!("{whole}.{fraction:0width$}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{}", UNITS.get(unit).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_docker_s_form() {
        for (bytes, text) in [
            (0, "0B"),
            (512, "512B"),
            (1000, "1kB"),
            (32_768, "32.77kB"),
            (1_084_182, "1.084MB"),
            (1_500_000, "1.5MB"),
            (40_012_402, "40.01MB"),
            (123_456_789, "123.5MB"),
            (999_999, "1000kB"),
            (u64::MAX, "18.45EB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn bars_have_50_columns_and_an_arrow() {
        assert_eq!(bar(0, 100), format!("[>{}]       0B/100B", " ".repeat(50)));
        assert_eq!(bar(32_768, 1_084_182), format!("[=>{}]  32.77kB/1.084MB", " ".repeat(49)));
        assert_eq!(bar(100, 100), format!("[{}>]     100B/100B", "=".repeat(50)));
        assert_eq!(bar(200, 100), format!("[{}>]     200B", "=".repeat(50)));
        assert_eq!(bar(32, 0), "     32B");
    }

    #[test]
    fn messages_are_those_of_the_captured_samples() {
        assert_eq!(plain("Pulling from busybox", "latest").len(), 0x31);
        assert_eq!(layer("Pulling fs layer", "2a5b8ffd78db").len(), 0x47);
        assert_eq!(layer("Verifying Checksum", "2a5b8ffd78db").len(), 0x49);
        assert_eq!(
            numbers("Downloading", "2a5b8ffd78db", 32_768, 1_084_182),
            format!(
                "{{\"status\":\"Downloading\",\"progressDetail\":{{\"current\":32768,\"total\":1084182}},\
                 \"progress\":\"[=\\u003e{}]  32.77kB/1.084MB\",\"id\":\"2a5b8ffd78db\"}}\r\n",
                " ".repeat(49)
            )
        );
        assert_eq!(
            failed("unexpected EOF"),
            "{\"errorDetail\":{\"message\":\"unexpected EOF\"},\"error\":\"unexpected EOF\"}\r\n"
        );
    }
}
