//! The columns of docker's lists: what a template of `--format` finds in a row, and the keys of `--format json`.
//!
//! Made from the API's objects, so that a list of the command line and the answer of the gateway say the same. Used by
//! the command line. Docker's documentation, "Format command and log output".

pub mod container;
pub mod image;
pub mod step;
pub mod usage;

use sampan_ipc::time;

/// Number of digits of a shortened ID.
const SHORT: usize = 12;
/// Nanoseconds in a second.
const SECOND: i64 = 1_000_000_000;
/// Docker's words for a value that is not there.
pub const NONE: &str = "<none>";
/// Docker's words for a value that was not counted.
const NOT_COUNTED: &str = "N/A";

/// Returns the first digits of an ID or a digest, unless `is_whole` is true.
pub fn id(id: &str, is_whole: bool) -> String {
    if is_whole {
        return id.to_owned();
    }
    let digits = id.split_once(':').map_or(id, |(_, digits)| digits);
    digits.chars().take(SHORT).collect()
}

/// Cuts a text to a number of characters, the last of which is then an ellipsis.
fn cut(text: &str, length: usize) -> String {
    match text.chars().count() > length {
        true => text.chars().take(length.saturating_sub(1)).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// Returns a number of bytes in docker's form: units of 1000, and three digits, such as `1.23MB`.
pub fn size(bytes: u64) -> String {
    let mut unit = "B";
    let mut value = bytes as f64;
    for next in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    let digits = match value {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    let number = format!("{value:.digits$}");
    let number = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => &number,
    };
    format!("{number}{unit}")
}

/// Returns a time in seconds since the epoch in the form of Go's `Time.String`. A zone other than UTC shows its offset
/// twice, as Go prints a zone without a name.
pub fn moment(seconds: i64) -> String {
    let text = time::local(seconds.saturating_mul(SECOND));
    let (date, rest) = text.split_once('T').unwrap_or((&text, ""));
    let at = rest.find(['+', '-', 'Z']).unwrap_or(rest.len());
    let (clock, offset) = rest.split_at_checked(at).unwrap_or((rest, ""));
    let clock = clock.split_once('.').map_or(clock, |(whole, _)| whole);
    let offset = offset.replace(':', "");
    match offset.as_str() {
        "" | "Z" | "+0000" => format!("{date} {clock} +0000 UTC"),
        offset => format!("{date} {clock} {offset} {offset}"),
    }
}

/// Returns how long ago a time in seconds since the epoch is: `3 hours ago`. `now` is in nanoseconds.
pub fn ago(seconds: i64, now: i64) -> String {
    format!("{} ago", super::status::span(now.saturating_sub(seconds.saturating_mul(SECOND))))
}

/// Joins labels as `KEY=VALUE,…`.
fn labels<'a>(labels: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    labels.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_decimal_units() {
        let cases = [
            (0, "0B"),
            (999, "999B"),
            (1090, "1.09kB"),
            (1500, "1.5kB"),
            (77_800_000, "77.8MB"),
            (123_456_789, "123MB"),
            (2_000_000_000, "2GB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn ids_and_texts_are_cut_between_characters() {
        assert_eq!(id("sha256:0123456789abcdef", false), "0123456789ab");
        assert_eq!(id("sha256:0123456789abcdef", true), "sha256:0123456789abcdef");
        assert_eq!(cut("\u{e4}\u{e4}\u{e4}", 2), "\u{e4}…");
        assert_eq!(cut("ab", 2), "ab");
    }

    #[test]
    fn a_moment_has_the_form_of_go() {
        let text = moment(1_714_979_045);
        let words: Vec<&str> = text.split(' ').collect();
        assert_eq!(words.len(), 4, "{text}");
        assert!(words[0].starts_with("2024-05-0") && words[1].len() == 8 && words[2].len() == 5, "{text}");
        assert_eq!(ago(10, 13 * SECOND), "3 seconds ago");
    }
}
