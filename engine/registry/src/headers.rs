//! Parses the headers of a registry's answers, and the body of an error answer.
//!
//! Called by `client` and `transport`; `Retry-After` is in [`crate::retry`]. The input is untrusted text, so every
//! function accepts any bytes and none panics.

use ::http::{HeaderName, Response, header};
use sampan_http::range;
use sampan_oci::digest::Digest;
use serde::Deserialize;
use ureq::Body;

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// The digest that the registry states for the content of its answer.
pub(crate) fn stated_digest(response: &Response<Body>) -> Option<Digest> {
    digest_in(response, &DIGEST)
}

/// The digest in the header `name`; `None` if there is none, or if it is malformed.
pub(crate) fn digest_in(response: &Response<Body>, name: &HeaderName) -> Option<Digest> {
    Digest::parse(response.headers().get(name)?.to_str().ok()?.trim()).ok()
}

/// The value of the header `Content-Length`: for a HEAD, the length of the content. RFC 9110, section 8.6.
pub(crate) fn content_length(response: &Response<Body>) -> Option<u64> {
    number_in(response, &header::CONTENT_LENGTH)
}

/// The decimal number in the header `name`; `None` if there is none, or if it is malformed.
pub(crate) fn number_in(response: &Response<Body>, name: &HeaderName) -> Option<u64> {
    let value = response.headers().get(name)?.to_str().ok()?.trim();
    value.bytes().all(|b| b.is_ascii_digit()).then(|| value.parse().ok()).flatten()
}

/// The media type in the header `Content-Type`, without its parameters.
pub(crate) fn content_type(response: &Response<Body>) -> Option<&str> {
    let value = response.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(without_parameters(value)).filter(|media_type| !media_type.is_empty())
}

/// A media type without its parameters, such as `charset=utf-8`. RFC 9110, section 8.3.1.
pub(crate) fn without_parameters(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

/// The target of the first `Link` header with `rel="next"`. RFC 8288, section 3.
pub(crate) fn next_page(response: &Response<Body>) -> Option<&str> {
    let values = response.headers().get_all(header::LINK).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(next_links).next()
}

/// The targets of all links in `value` with `rel="next"`; a target in `<…>` may contain commas and semicolons.
fn next_links(value: &str) -> impl Iterator<Item = &str> {
    value.split('<').skip(1).filter_map(|link| {
        let (target, parameters) = link.split_once('>')?;
        let is_next = |parameter: &str| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = value.trim_matches([' ', '"', ',']);
            name.trim().eq_ignore_ascii_case("rel") && value.eq_ignore_ascii_case("next")
        };
        parameters.split(';').any(is_next).then_some(target)
    })
}

/// Whether the `Content-Range` of `response` is the rest of a blob of `size` bytes, from `offset` to its end.
pub(crate) fn is_rest(response: &Response<Body>, offset: u64, size: u64) -> bool {
    let content_range = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
    content_range.is_some_and(|content_range| range::is_rest(content_range, offset, size))
}

/// The first error in the body of an error answer. OCI distribution-spec, "Error Codes".
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FirstError {
    /// The code, such as `MANIFEST_BLOB_UNKNOWN`; empty if there is none.
    pub(crate) code: String,
    /// The message or else the code, with a leading `: `; empty if there is neither.
    pub(crate) detail: String,
}

impl FirstError {
    /// Parses the body of an error answer, which may be anything.
    pub(crate) fn parse(body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<ErrorDetail>,
        }
        #[derive(Deserialize)]
        struct ErrorDetail {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let errors = serde_json::from_slice::<Errors>(body).map(|body| body.errors).unwrap_or_default();
        // docker-registry wraps an error with a meaning into others of code UNKNOWN.
        let meant = errors.iter().position(|error| error.code != "UNKNOWN").unwrap_or(0);
        let Some(ErrorDetail { code, message }) = errors.into_iter().nth(meant) else {
            return FirstError::default();
        };
        let text = if message.is_empty() { &code } else { &message };
        let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
        let is_code = code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        FirstError {
            code: if is_code { code } else { String::new() },
            detail: if text.is_empty() { text } else { format!(": {text}") },
        }
    }
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
    fn an_error_answer_has_a_code_and_a_text() {
        for (body, code, detail) in [
            (r#"{"errors":[{"code":"DENIED","message":"no\u0007 way"},{"code":"X"}]}"#, "DENIED", ": no way"),
            (r#"{"errors":[{"code":"DENIED"}]}"#, "DENIED", ": DENIED"),
            (r#"{"errors":[{"code":"two words"}]}"#, "", ": two words"),
            (r#"{"errors":[]}"#, "", ""),
            ("not found", "", ""),
        ] {
            let parsed = FirstError::parse(body.as_bytes());
            assert_eq!((parsed.code.as_str(), parsed.detail.as_str()), (code, detail), "{body}");
        }
    }
}
