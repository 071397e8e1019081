//! The parameters of a request: percent-decoding, booleans, numbers, filters, times.

use crate::refusal::Refusal;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The parameters of a query string, decoded. An empty parameter counts as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

/// Filters: values by key. docker's command line sends `{"key":{"value":true}}`, SDKs send `{"key":["value"]}`.
pub type Filters = BTreeMap<String, Vec<String>>;

impl Query {
    /// Parses the part of the URI after `?`.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(&value.replace('+', " "));
            (!value.is_empty()).then(|| (decode(key), value))
        });
        Query(pairs.collect())
    }

    /// The first value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(of, _)| of == key).map(|(_, value)| value.as_str())
    }

    /// All values of `key`.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(of, _)| of == key).map(|(_, value)| value.as_str())
    }

    /// Whether `key` is true: anything but empty, `0`, `no`, `false` and `none` in any case.
    pub fn is_set(&self, key: &str) -> bool {
        let no = ["0", "no", "false", "none"];
        self.get(key).is_some_and(|value| !no.iter().any(|word| value.trim().eq_ignore_ascii_case(word)))
    }

    /// The number in `key`.
    ///
    /// # Errors
    /// The value is no number.
    pub fn number(&self, key: &str) -> Result<Option<i64>, Refusal> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| Refusal::bad(format!("{key}={value:?} is not a number")))
    }

    /// The filters in `filters`.
    ///
    /// # Errors
    /// The value is not JSON of one of the two forms.
    pub fn filters(&self) -> Result<Filters, Refusal> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Values {
            Map(BTreeMap<String, bool>),
            List(Vec<String>),
        }
        let Some(text) = self.get("filters") else { return Ok(Filters::new()) };
        let read: BTreeMap<String, Values> = serde_json::from_str(text)
            .map_err(|error| Refusal::bad(format!("filters {text:?} are not valid: {error}")))?;
        let values = |values| match values {
            Values::Map(map) => map.into_iter().filter(|(_, on)| *on).map(|(value, _)| value).collect(),
            Values::List(list) => list,
        };
        Ok(read.into_iter().map(|(key, of)| (key, values(of))).collect())
    }

    /// The filters in `filters`, all of which have one of `keys`.
    ///
    /// # Errors
    /// The value is not JSON of one of the two forms, or has another key.
    pub fn filters_among(&self, keys: &[&str]) -> Result<Filters, Refusal> {
        let filters = self.filters()?;
        match filters.keys().find(|key| !keys.contains(&key.as_str())) {
            Some(key) => Err(Refusal::bad(format!("invalid filter '{key}'"))),
            None => Ok(filters),
        }
    }
}

/// Parses a time as docker's clients send it: seconds since the epoch, and up to nine digits after a point. Returns
/// nanoseconds since the epoch; `None` if `text` is no such time, or is too far away.
pub fn unix_time(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    seconds.parse::<i64>().ok()?.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// Decodes `%XX`. Bytes that are no UTF-8 become U+FFFD.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let hex =
            bytes.get(at + 1..at + 3).filter(|_| *byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_filters_are_read() {
        let map = Query::parse("filters=%7B%22type%22%3A%7B%22container%22%3Atrue%7D%7D");
        let list = Query::parse("filters={\"type\":[\"container\"]}");
        assert_eq!(map.filters(), list.filters());
        assert_eq!(map.filters().expect("valid")["type"], ["container"]);
        assert!(Query::parse("filters=x").filters().is_err());
    }

    #[test]
    fn a_time_has_up_to_nine_digits_of_a_second() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1.5", Some(1_500_000_000)),
            ("1795229400.000000001", Some(1_795_229_400_000_000_001)),
            ("9223372037", None),
            ("1.0000000001", None),
            ("1.", None),
            ("1.-5", None),
            (".5", None),
            ("x", None),
            ("10m", None),
        ] {
            assert_eq!(unix_time(text), expected, "{text}");
        }
    }

    #[test]
    fn booleans_have_docker_s_spellings() {
        for (text, expected) in [
            ("a=1", true),
            ("a=True", true),
            ("a=0", false),
            ("a=False", false),
            ("a=None", false),
            ("a=", false),
            ("", false),
        ] {
            assert_eq!(Query::parse(text).is_set("a"), expected, "{text}");
        }
    }
}
