//! What an origin's answer says about a file: its length, its version, and the part that the answer has.
//!
//! Pure; called by [`super::Origins`] for each answer. All headers are untrusted text. RFC 9110, sections 8.8 and
//! 14.4.

use http::{HeaderMap, HeaderName, header};
use serde::{Deserialize, Serialize};

/// Longest `ETag` or `Last-Modified` that is kept, in bytes. A longer one counts as missing.
const VALIDATOR_MAX: usize = 1024;

/// What identifies a version of a file at its origin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validators {
    /// The `ETag`, with its quotes, and with `W/` if it is weak.
    pub etag: Option<String>,
    /// The `Last-Modified` date, as the origin writes it.
    pub last_modified: Option<String>,
}

impl Validators {
    /// Whether there is neither an `ETag` nor a date, so that no change can be noticed.
    pub fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }

    /// Whether `other` is of the same version; `None` if that cannot be known.
    pub fn is_same(&self, other: &Validators) -> Option<bool> {
        let opaque = |etag: &'_ Option<String>| {
            etag.as_deref().map(|etag| etag.strip_prefix("W/").unwrap_or(etag).to_owned())
        };
        let by_etag = opaque(&self.etag).zip(opaque(&other.etag)).map(|(a, b)| a == b);
        by_etag.or_else(|| Some(self.last_modified.as_ref()? == other.last_modified.as_ref()?))
    }

    /// The value of `If-Range`: a strong `ETag`, otherwise the date.
    pub(super) fn if_range(&self) -> Option<&str> {
        let strong = self.etag.as_deref().filter(|etag| !etag.starts_with("W/"));
        strong.or(self.last_modified.as_deref().filter(|_| self.etag.is_none()))
    }
}

/// The validators of an answer.
pub(super) fn validators(headers: &HeaderMap) -> Validators {
    let get = |name: HeaderName| {
        let value = headers.get(name)?.to_str().ok()?.trim();
        (!value.is_empty() && value.len() <= VALIDATOR_MAX).then(|| value.to_owned())
    };
    let is_etag = |etag: &String| etag.ends_with('"') && etag.trim_start_matches("W/").starts_with('"');
    Validators { etag: get(header::ETAG).filter(is_etag), last_modified: get(header::LAST_MODIFIED) }
}

/// The value of `Content-Length`: for a HEAD, the length of the file.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    number(headers.get(header::CONTENT_LENGTH)?.to_str().ok()?)
}

/// Whether the origin serves ranges of bytes; `None` if it does not say so.
pub(super) fn accepts_ranges(headers: &HeaderMap) -> Option<bool> {
    let value = headers.get(header::ACCEPT_RANGES)?.to_str().ok()?;
    Some(value.split(',').any(|unit| unit.trim().eq_ignore_ascii_case("bytes")))
}

/// A `Content-Range` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    /// The first byte, and the byte behind the last one; `None` if the answer has no byte, because the requested
    /// range is outside of the file.
    pub(super) part: Option<(u64, u64)>,
    /// The length of the file.
    pub(super) total: Option<u64>,
}

impl ContentRange {
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        ContentRange::parse(headers.get(header::CONTENT_RANGE)?.to_str().ok()?)
    }

    fn parse(value: &str) -> Option<Self> {
        let (unit, rest) = value.trim().split_once(' ')?;
        let (part, total) = rest.trim().split_once('/').filter(|_| unit.eq_ignore_ascii_case("bytes"))?;
        let total = if total == "*" { None } else { Some(number(total)?) };
        let part = match part {
            "*" => None,
            part => {
                let (first, last) = part.split_once('-')?;
                let (first, end) = (number(first)?, number(last)?.checked_add(1)?);
                if first >= end || total.is_some_and(|total| end > total) {
                    return None;
                }
                Some((first, end))
            }
        };
        (part.is_some() || total.is_some()).then_some(ContentRange { part, total })
    }
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(etag: &str, last_modified: &str) -> Validators {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Validators { etag: text(etag), last_modified: text(last_modified) }
    }

    #[test]
    fn versions_are_compared_by_etag_then_by_date() {
        for (a, b, same) in [
            (of("\"a\"", "x"), of("\"a\"", "y"), Some(true)),
            (of("\"a\"", "x"), of("\"b\"", "x"), Some(false)),
            (of("W/\"a\"", ""), of("\"a\"", ""), Some(true)),
            (of("\"a\"", "x"), of("", "x"), Some(true)),
            (of("\"a\"", "x"), of("", "y"), Some(false)),
            (of("\"a\"", ""), of("", "y"), None),
            (of("", ""), of("", ""), None),
        ] {
            assert_eq!(a.is_same(&b), same, "{a:?} {b:?}");
        }
        assert_eq!(of("\"a\"", "x").if_range(), Some("\"a\""));
        assert_eq!(of("", "x").if_range(), Some("x"));
        assert_eq!(of("W/\"a\"", "x").if_range(), None, "a weak ETag says that the date may be weak, too");
    }

    #[test]
    fn content_ranges_are_read_as_the_rfc_says() {
        let range = |part, total| Some(ContentRange { part, total });
        for (text, expected) in [
            ("bytes 0-0/10", range(Some((0, 1)), Some(10))),
            ("Bytes 5-9/10", range(Some((5, 10)), Some(10))),
            ("bytes 5-9/*", range(Some((5, 10)), None)),
            ("bytes */10", range(None, Some(10))),
            ("bytes */*", None),
            ("bytes 5-10/10", None),
            ("bytes 6-5/10", None),
            ("bytes 5-/10", None),
            ("bytes -5/10", None),
            ("bytes 0-18446744073709551615/*", None),
            ("lines 0-0/10", None),
            ("bytes", None),
            ("", None),
        ] {
            assert_eq!(ContentRange::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn malformed_validators_are_no_validators() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ETAG, "unquoted".parse().expect("a value"));
        headers.insert(header::LAST_MODIFIED, "x".repeat(2000).parse().expect("a value"));
        assert!(validators(&headers).is_empty());
        headers.insert(header::ETAG, "W/\"a\"".parse().expect("a value"));
        assert_eq!(validators(&headers), of("W/\"a\"", ""));
        headers.insert(header::CONTENT_LENGTH, "+5".parse().expect("a value"));
        assert_eq!((content_length(&headers), accepts_ranges(&headers)), (None, None));
        headers.insert(header::ACCEPT_RANGES, "none".parse().expect("a value"));
        assert_eq!(accepts_ranges(&headers), Some(false));
    }
}
