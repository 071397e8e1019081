//! Numbers in the form that people read: bytes, times, ages. Also rates in the form that people write.

use crate::cli::error::{Failure, USAGE};
use sampan_ipc::size;
use std::time::Duration;

pub(crate) use sampan_ipc::size::format as bytes;

/// Prints a duration with at most two units: `7s`, `3m 20s`, `2h 05m`, `4d 03h`.
pub(crate) fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h {:02}m", minutes % 60),
        _ => format!("{days}d {:02}h", hours % 24),
    }
}

/// Prints an age by its largest unit: `now`, `5 minutes ago`, `1 day ago`.
pub(crate) fn age(nanos: i64) -> String {
    let seconds = u64::try_from(nanos / 1_000_000_000).unwrap_or(0);
    let (count, unit) = match seconds {
        0..=1 => return "now".to_owned(),
        2..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        86_400..1_209_600 => (seconds / 86_400, "day"),
        1_209_600..5_184_000 => (seconds / 604_800, "week"),
        5_184_000..63_072_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// Parses the value of `--rate` and `--limit-rate`.
pub(crate) fn rate(text: &str) -> Result<u64, Failure> {
    parse_rate(text).ok_or_else(|| {
        let message =
            format!("rate {text:?} is invalid; write bytes per second, more than zero: 500K, 1.5M/s");
        Failure::new(message).status(USAGE)
    })
}

/// Parses `500`, `500K`, `1.5M`, `10MiB/s` as bytes per second, with units of 1024.
fn parse_rate(text: &str) -> Option<u64> {
    let text = text.trim().strip_suffix("/s").unwrap_or(text.trim()).trim_end();
    size::parse(text).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_two_units_at_most() {
        let cases = [(7, "7s"), (200, "3m 20s"), (7500, "2h 05m"), (356_400, "4d 03h")];
        for (seconds, text) in cases {
            assert_eq!(time(Duration::from_secs(seconds)), text);
        }
        assert_eq!(age(-5), "now");
        assert_eq!(age(86_400_000_000_000), "1 day ago");
        assert_eq!(age(3_000_000_000_000), "50 minutes ago");
    }

    #[test]
    fn rates_are_read_with_units_and_fractions() {
        let cases =
            [("500", 500), ("1K", 1024), ("1.5M/s", 1_572_864), ("10MiB/s", 10 << 20), ("2G", 2 << 30)];
        for (text, rate) in cases {
            assert_eq!(parse_rate(text), Some(rate), "{text}");
        }
        for text in ["", "0", "K", "1.5.5M", "-1", "1X", "1e9", "99999999999999999999G", "\u{e4}M"] {
            assert_eq!(parse_rate(text), None, "{text}");
        }
    }
}
