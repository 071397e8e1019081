//! What a registry's headers, and the body of a refusal, say: the next page, the part of a blob, when to come again.
//!
//! Called by the requests of this crate. All of it is a stranger's text: total functions, nothing is trusted.

use ::http::{Response, header};
use chrono::NaiveDateTime;
use sampan_http::range;
use serde::Deserialize;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use ureq::Body;

/// How long a `Retry-After` header asks to wait from `now`: seconds, or a date. RFC 9110, section 10.2.3.
pub(crate) fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let now = now.duration_since(UNIX_EPOCH).ok()?;
    Some(parse_date(value)?.saturating_sub(now))
}

/// Time since the epoch of `Sun, 06 Nov 1994 08:49:37 GMT`. RFC 9110, section 5.6.7, the form that may be sent.
fn parse_date(value: &str) -> Option<Duration> {
    // Nobody depends on the day of the week.
    let (_, rest) = value.split_once(", ")?;
    let date = NaiveDateTime::parse_from_str(rest, "%d %b %Y %H:%M:%S GMT").ok()?;
    u64::try_from(date.and_utc().timestamp()).ok().map(Duration::from_secs)
}

/// The target of a `Link` with `rel="next"`. RFC 8288, section 3.
pub(crate) fn next_page(response: &Response<Body>) -> Option<&str> {
    let values = response.headers().get_all(header::LINK).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(next_links).next()
}

/// The targets of the links in `value` that lead to the next page; a comma or semicolon may be within `<…>`.
fn next_links(value: &str) -> impl Iterator<Item = &str> {
    value.split('<').skip(1).filter_map(|link| {
        let (target, parameters) = link.split_once('>')?;
        let next = |parameter: &str| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = value.trim_matches([' ', '"', ',']);
            name.trim().eq_ignore_ascii_case("rel") && value.eq_ignore_ascii_case("next")
        };
        parameters.split(';').any(next).then_some(target)
    })
}

/// True if `response` brings bytes `offset` to the end of `size`.
pub(crate) fn is_rest(response: &Response<Body>, offset: u64, size: u64) -> bool {
    let content_range = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
    content_range.is_some_and(|content_range| range::is_rest(content_range, offset, size))
}

/// The words of an error's body: OCI distribution-spec, "Error Codes".
pub(crate) fn detail(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Word>,
    }
    #[derive(Deserialize)]
    struct Word {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(errors) = serde_json::from_slice::<Errors>(body) else {
        return String::new();
    };
    let words =
        errors.errors.into_iter().next().map(|w| if w.message.is_empty() { w.code } else { w.message });
    let words: String = words.unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect();
    if words.is_empty() { words } else { format!(": {words}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_to_the_next_page_is_found_among_others() {
        for (value, found) in [
            ("</v2/a/tags/list?n=1&last=x>; rel=\"next\"", Some("/v2/a/tags/list?n=1&last=x")),
            ("<a,b;c?d>; title=x; REL=next", Some("a,b;c?d")),
            ("<one>; rel=prev, <two>; rel=\"next\", <three>; rel=last", Some("two")),
            ("<one>; rel=\"prev\"", None),
            ("one; rel=next", None),
            ("<one; rel=next", None),
            ("", None),
        ] {
            assert_eq!(next_links(value).next(), found, "{value}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777 - 5);
        for (value, seconds) in [
            ("0", Some(0)),
            (" 12 ", Some(12)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(5)),
            ("Sun, 06 Nov 1993 08:49:37 GMT", Some(0)),
            ("Sun, 99 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49 GMT", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(parse_retry_after(value, now), seconds.map(Duration::from_secs), "{value:?}");
        }
    }
}
