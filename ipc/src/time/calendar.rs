//! Dates and times in the forms that people read and write: RFC 3339, local time, unix seconds.
//!
//! Part of the feature `calendar`. monitord and shims handle no dates, so they are built without this module and its
//! time zone code.

use super::duration::{duration, split_digits};
use chrono::{Local, MappedLocalTime, NaiveDate, NaiveDateTime, Offset, TimeDelta, TimeZone};

/// All forms that [`parse`] reads, as an error message lists them.
pub const FORMS: &str = "RFC 3339 (2024-05-06T15:04:05.123456789+08:00, Z), local time (2024-05-06, \
     2024-05-06T15, T15:04, T15:04:05.123), unix seconds (1714979045.123456789), \
     a duration back from now (10m, 1h30m, 1.5h, 7d, 2w) or now";

const SECOND: i128 = 1_000_000_000;

/// Why a time or a span of time is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// The text has none of the forms in [`FORMS`].
    #[error("time {0:?} is not understood; write {FORMS}")]
    Form(String),
    /// The time does not fit into 64 bits of nanoseconds, which reach from the year 1677 to 2262.
    #[error("time {0:?} is out of range: from the year 1677 to 2262")]
    Range(String),
    /// The span ends before it begins.
    #[error("since ({}) is later than until ({})", local(*.since), local(*.until))]
    Order {
        /// Nanoseconds since the epoch.
        since: i64,
        /// Nanoseconds since the epoch.
        until: i64,
    },
}

/// Formats a time as RFC 3339 in local time, always with nine digits and a numeric offset:
/// `2022-05-10T17:20:34.661862100+08:00`.
pub fn local(nanos: i64) -> String {
    let utc = chrono::DateTime::from_timestamp_nanos(nanos);
    let offset = Local.offset_from_utc_datetime(&utc.naive_utc()).fix();
    // Before time zones were standardised, offsets had seconds, which RFC 3339 cannot express.
    let offset = if offset.local_minus_utc() % 60 == 0 { offset } else { chrono::Utc.fix() };
    utc.with_timezone(&offset).format("%Y-%m-%dT%H:%M:%S%.9f%:z").to_string()
}

/// Formats a time as HTTP does: `Sun, 06 Nov 1994 08:49:37 GMT`. RFC 9110, 5.6.7.
pub fn http_date(nanos: i64) -> String {
    chrono::DateTime::from_timestamp_nanos(nanos).format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Parses a time; returns nanoseconds since the epoch.
///
/// - RFC 3339 with any offset and up to nine digits of a second; a space or `t` instead of `T`, and `z` instead of `Z`
/// - a form without an offset, also without seconds, minutes or the time: local time
/// - unix seconds with up to nine digits of a second; a number alone is always unix seconds, so `0` is the epoch
/// - a [`duration`], which means that long before `now`; a negative duration means after `now`
/// - the word `now`
///
/// When clocks go back, a local time occurs twice: it is read as the earlier of the two. When clocks go forward, a
/// local time may not occur: it is read as if the clocks had not gone forward.
///
/// # Errors
/// [`TimeError::Form`] if the text has none of the [`FORMS`], [`TimeError::Range`] if the time does not fit into 64
/// bits.
pub fn parse(text: &str, now: i64) -> Result<i64, TimeError> {
    let trimmed = text.trim();
    let nanos = if trimmed.eq_ignore_ascii_case("now") {
        Some(i128::from(now))
    } else if let Some(nanos) = unix(trimmed) {
        Some(nanos)
    } else if let Some(length) = duration(trimmed) {
        Some(i128::from(now) - i128::from(length))
    } else {
        calendar(trimmed)
    };
    let nanos = nanos.ok_or_else(|| TimeError::Form(text.to_owned()))?;
    i64::try_from(nanos).map_err(|_| TimeError::Range(text.to_owned()))
}

/// Checks that a span of time does not end before it begins.
///
/// # Errors
/// [`TimeError::Order`] if `since` is later than `until`.
pub fn in_order(since: Option<i64>, until: Option<i64>) -> Result<(), TimeError> {
    match (since, until) {
        (Some(since), Some(until)) if since > until => Err(TimeError::Order { since, until }),
        _ => Ok(()),
    }
}

/// Parses `[-]SECONDS[.FRACTION]`. Computes with integers, because a float would lose nanoseconds.
fn unix(text: &str) -> Option<i128> {
    let (negative, number) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, nanos_of(fraction)?),
        None => (number, 0),
    };
    let nanos = i128::from(digits(whole)?) * SECOND + i128::from(fraction);
    Some(if negative { -nanos } else { nanos })
}

/// Parses one or more digits. A number that does not fit into `u64` becomes `u64::MAX`, which is out of range as a
/// time.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// Parses one to nine digits after a point; returns nanoseconds.
fn nanos_of(fraction: &str) -> Option<u32> {
    let width = u32::try_from(fraction.len()).ok().filter(|width| *width <= 9)?;
    Some(digits(fraction)? as u32 * 10u32.pow(9 - width))
}

/// Parses a date, optionally with a time or its first parts, and an offset.
fn calendar(text: &str) -> Option<i128> {
    let mut at = Chars(text);
    let date =
        NaiveDate::from_ymd_opt(at.number(4)? as i32, at.after('-')?.number(2)?, at.after('-')?.number(2)?)?;
    let (mut second_of_day, mut nanos) = (0, 0);
    if at.take(|c| matches!(c, 'T' | 't' | ' ')) {
        let hour = at.number(2).filter(|hour| *hour < 24)?;
        second_of_day = hour * 3600;
        // The time may end after each part, so an offset may follow each.
        if at.take(|c| c == ':') {
            second_of_day += at.number(2).filter(|minute| *minute < 60)? * 60;
            if at.take(|c| c == ':') {
                // 60 is a leap second. Unix time has no number for a leap second, so the time gets the number of the
                // next second.
                second_of_day += at.number(2).filter(|second| *second <= 60)?;
                if at.take(|c| c == '.') {
                    nanos = nanos_of(at.digits())?;
                }
            }
        }
    }
    let naive = date.and_hms_opt(0, 0, 0)? + TimeDelta::seconds(i64::from(second_of_day));
    let offset = match at.offset()? {
        Some(seconds) => seconds,
        None => local_offset(naive)?,
    };
    at.0.is_empty()
        .then(|| (i128::from(naive.and_utc().timestamp()) - i128::from(offset)) * SECOND + i128::from(nanos))
}

/// Seconds by which local time is ahead of UTC when local clocks show `naive`.
fn local_offset(naive: NaiveDateTime) -> Option<i32> {
    let ahead = |naive: &NaiveDateTime| match Local.offset_from_local_datetime(naive) {
        MappedLocalTime::Single(offset) => Some(offset.fix().local_minus_utc()),
        // Of the two offsets, the larger one gives the earlier time. chrono returns them in another order.
        MappedLocalTime::Ambiguous(a, b) => Some(a.fix().local_minus_utc().max(b.fix().local_minus_utc())),
        MappedLocalTime::None => None,
    };
    // Clocks go forward by less than a day, so a time that does not occur gets the offset of a day earlier.
    ahead(&naive).or_else(|| ahead(&naive.checked_sub_signed(TimeDelta::days(1))?))
}

/// A cursor over text. Each method returns `None` or false if the text does not match.
struct Chars<'a>(&'a str);

impl<'a> Chars<'a> {
    /// Reads exactly `width` digits.
    fn number(&mut self, width: usize) -> Option<u32> {
        let (number, rest) = self.0.split_at_checked(width)?;
        let number = digits(number)?;
        self.0 = rest;
        u32::try_from(number).ok()
    }

    fn digits(&mut self) -> &'a str {
        let (digits, rest) = split_digits(self.0);
        self.0 = rest;
        digits
    }

    /// Skips the character `expected`.
    fn after(&mut self, expected: char) -> Option<&mut Self> {
        self.take(|c| c == expected).then_some(self)
    }

    fn take(&mut self, is: impl Fn(char) -> bool) -> bool {
        match self.0.strip_prefix(is) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    /// Reads `Z`, `±hh:mm` or nothing; returns the offset in seconds.
    fn offset(&mut self) -> Option<Option<i32>> {
        if self.0.is_empty() {
            return Some(None);
        }
        if self.take(|c| matches!(c, 'Z' | 'z')) {
            return Some(Some(0));
        }
        let sign = if self.take(|c| c == '-') { -1 } else { self.after('+').map(|_| 1)? };
        let hours = self.number(2).filter(|hours| *hours < 24)?;
        let minutes = self.after(':')?.number(2).filter(|minutes| *minutes < 60)?;
        Some(Some(sign * (hours * 3600 + minutes * 60) as i32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_of_http_is_in_greenwich_time() {
        assert_eq!(http_date(784_111_777_999_999_999), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    const NOW: i64 = 1_714_979_045_123_456_789;

    fn read(text: &str) -> i64 {
        parse(text, NOW).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn what_is_printed_reads_back_to_the_same_nanosecond() {
        let mut nanos = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..20_000 {
            nanos = nanos.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let nanos = nanos as i64;
            assert_eq!(read(&local(nanos)), nanos, "{}", local(nanos));
        }
        for nanos in [i64::MIN, -1, 0, 1, NOW, i64::MAX] {
            assert_eq!(read(&local(nanos)), nanos, "{}", local(nanos));
        }
    }

    #[test]
    fn rfc_3339_is_read_with_any_offset_and_up_to_nine_digits() {
        for text in [
            "2024-05-06T07:04:05.123456789Z",
            "2024-05-06t07:04:05.123456789z",
            "2024-05-06 07:04:05.123456789+00:00",
            "2024-05-06T15:04:05.123456789+08:00",
            "2024-05-06T01:34:05.123456789-05:30",
            " 2024-05-06T07:04:05.123456789-00:00\n",
        ] {
            assert_eq!(read(text), NOW, "{text}");
        }
        assert_eq!(read("2024-05-06T07:04:05Z"), 1_714_979_045_000_000_000);
        assert_eq!(read("2024-05-06T07:04:05.1Z"), 1_714_979_045_100_000_000);
        assert_eq!(read("2024-05-06T15+08:00"), 1_714_978_800_000_000_000);
        assert_eq!(read("2016-12-31T23:59:60Z"), read("2017-01-01T00:00:00Z"));
    }

    #[test]
    fn shortened_forms_are_local_time() {
        let whole = read("2024-05-06T15:04:05");
        assert_eq!(read("2024-05-06T15:04:05.25") - whole, 250_000_000);
        assert_eq!(whole - read("2024-05-06 15:04"), 5_000_000_000);
        assert_eq!(whole - read("2024-05-06T15"), 245_000_000_000);
        assert_eq!(whole - read("2024-05-06"), (15 * 3600 + 4 * 60 + 5) * 1_000_000_000);
        assert!(local(whole).starts_with("2024-05-06T15:04:05.000000000"));
    }

    #[test]
    fn unix_seconds_keep_every_digit() {
        assert_eq!(read("1714979045.123456789"), NOW);
        assert_eq!(read("9007199254.740993001"), 9_007_199_254_740_993_001);
        assert_eq!(read("0"), 0);
        assert_eq!(read("-1.5"), -1_500_000_000);
        assert_eq!(read("9223372036.854775807"), i64::MAX);
        assert_eq!(read("-9223372036.854775808"), i64::MIN);
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let cases: [(&str, i64); 26] = [
            ("5s", 5_000_000_000),
            ("-5s", -5_000_000_000),
            ("+5s", 5_000_000_000),
            ("5.s", 5_000_000_000),
            (".5s", 500_000_000),
            ("5.6s", 5_600_000_000),
            ("1.0040s", 1_004_000_000),
            ("100.00100s", 100_001_000_000),
            ("10ns", 10),
            ("11us", 11_000),
            ("12\u{b5}s", 12_000),
            ("12\u{3bc}s", 12_000),
            ("13ms", 13_000_000),
            ("15m", 900_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("10.5s4m", 250_500_000_000),
            ("-2m3.4s", -123_400_000_000),
            ("1h2m3s4ms5us6ns", 3_723_004_005_006),
            ("39h9m14.425s", 140_954_425_000_000),
            ("9007199254740993ns", 9_007_199_254_740_993),
            ("9223372036854775.807us", i64::MAX),
            ("-9223372036s854ms775us808ns", i64::MIN),
            ("0.3333333333333333333h", 1_200_000_000_000),
            ("0.100000000000000000000h", 360_000_000_000),
            ("0.830103483285477580700h", 2_988_372_539_827),
        ];
        for (text, nanos) in cases {
            assert_eq!(duration(text), Some(nanos), "{text}");
        }
        for text in [
            "",
            "-",
            "3",
            "s",
            ".",
            "-.",
            ".s",
            "+.s",
            "1y",
            "1D",
            "d",
            "1.2.3s",
            "1 s",
            "9223372036854775808ns",
            "-9223372036854775809ns",
            "3000000h",
            "106752d",
            "15251w",
            "9223372036854776us",
            "1s\u{85}",
            "--1s",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
        // Days and weeks Go does not know.
        for (text, hours) in [("1d", 24), ("1.5d", 36), ("1d12h", 36), ("2w", 336), ("1w1d1h", 193)] {
            assert_eq!(duration(text), Some(hours * 3_600_000_000_000), "{text}");
        }
        assert_eq!(duration("106751d"), Some(106_751 * 86_400_000_000_000));
        assert_eq!(read("1d"), NOW - 86_400_000_000_000);
        assert_eq!(read("10m"), NOW - 600_000_000_000);
        assert_eq!(read("-10m"), NOW + 600_000_000_000);
        assert_eq!(read("now"), NOW);
    }

    #[test]
    fn what_is_no_time_is_answered_with_the_forms() {
        let error = parse("yesterday", NOW).expect_err("no time").to_string();
        assert!(error.contains("\"yesterday\"") && error.contains("1h30m"), "{error}");
        for text in [
            "",
            " ",
            "T15:04",
            "2024",
            "2024-5-6",
            "2024x05x06",
            "2024-02-30",
            "2024-13-01",
            "2024-05-06T",
            "2024-05-06T24",
            "2024-05-06T15:60",
            "2024-05-06T15:04:05.",
            "2024-05-06T15:04:05.1234567890",
            "2024-05-06T15:04:05+8",
            "2024-05-06T15:04:05+24:00",
            "2024-05-06T15:04:05Zx",
            "1.",
            ".1",
            "1.1234567890",
            "1e9",
            "\u{ff11}s",
            "20\u{e4}4-05-06",
        ] {
            let read = parse(text, NOW);
            // A bare number is unix seconds.
            assert!(matches!(read, Err(TimeError::Form(_))) || text == "2024", "{text}: {read:?}");
        }
    }

    #[test]
    fn what_64_bits_cannot_hold_is_out_of_range() {
        for text in
            ["9223372037", "99999999999999999999999", "1600-01-01", "9999-12-31T23:59:59Z", "0000-01-01"]
        {
            assert!(matches!(parse(text, NOW), Err(TimeError::Range(_))), "{text}: {:?}", parse(text, NOW));
        }
        assert!(matches!(parse("-2562047h", i64::MAX), Err(TimeError::Range(_))));
        assert!(matches!(parse("2562047h", i64::MIN), Err(TimeError::Range(_))));
    }

    #[test]
    fn an_end_before_the_beginning_is_an_error() {
        assert!(in_order(Some(2), Some(1)).expect_err("reversed").to_string().starts_with("since ("));
        assert_eq!(in_order(Some(1), Some(1)), Ok(()));
        assert_eq!(in_order(Some(1), None), Ok(()));
    }
}
