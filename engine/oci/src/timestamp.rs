//! Timestamps of image configs: converts RFC 3339 to and from nanoseconds since the epoch.
//!
//! Called for the field `created`. Times that users type are parsed by `sampan_ipc::time`.

use chrono::{DateTime, SecondsFormat};

/// Parses an RFC 3339 time; `None` if it is invalid, or out of range for nanoseconds in 64 bits (1677 to 2262).
pub fn parse(text: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(text).ok()?.timestamp_nanos_opt()
}

/// Formats a time as RFC 3339 in UTC with nine fractional digits.
pub fn format(nanos: i64) -> String {
    DateTime::from_timestamp_nanos(nanos).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_read_and_written_alike() {
        assert_eq!(parse("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse("2022-05-10T17:20:34.661862100+08:00"), Some(1_652_174_434_661_862_100));
        assert_eq!(parse("0001-01-01T00:00:00Z"), None, "outside of 64-bit nanoseconds");
        assert_eq!(
            parse("2040-02-29T12:00:00.5Z").map(format).as_deref(),
            Some("2040-02-29T12:00:00.500000000Z")
        );
        for nanos in [0, -1, 951_782_400_000_000_000, i64::MAX, 4_107_542_399_999_999_999] {
            assert_eq!(parse(&format(nanos)), Some(nanos));
        }
    }

    #[test]
    fn what_is_no_stamp_is_none() {
        for bad in [
            "",
            "2022",
            "2022-13-01T00:00:00Z",
            "2022-01-01T00:00:00",
            "2022-01-01T00:00:00+08",
            "x022-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
