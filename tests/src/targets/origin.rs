//! The requests to origins that the supernode's clients ask for.
//!
//! An input is the URL in its first line, and a header in each further line.

use crate::random::Random;
use sampan_supernode::origin::{HEADER_BYTES_MAX, HEADERS_MAX, Request, URL_MAX, parse_allowed};

/// A request that is accepted can be sent, names one host, and is the same if it is parsed again.
pub(super) fn origin(input: &[u8], _: &mut Random) -> bool {
    let text = String::from_utf8_lossy(input);
    let (url, headers) = text.split_once('\n').unwrap_or((&text, ""));
    let _ = parse_allowed(url);
    let headers = headers.lines().filter_map(Request::split_header);
    let Ok(request) = Request::new(url, headers) else { return false };
    assert!(request.url.bytes().all(|byte| byte.is_ascii_graphic()), "{:?}", request.url);
    let uri: http::Uri = request.url.parse().expect("a URL");
    let authority = uri.authority().expect("a host");
    assert!(!authority.host().is_empty() && !authority.as_str().contains('@'), "{authority}");
    assert!(request.url.len() <= 3 * URL_MAX && request.headers.len() <= HEADERS_MAX + 1);
    // A user of the URL becomes a header: base64 of at most the URL.
    let bytes: usize = request.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(bytes <= HEADER_BYTES_MAX + 2 * URL_MAX, "{bytes}");
    for (name, value) in &request.headers {
        http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
        http::HeaderValue::from_str(value).expect("a value");
    }
    let shown = format!("{request:?}");
    assert!(!shown.contains("Basic ") && !shown.contains("Bearer "), "{shown}");
    if request.url.len() <= URL_MAX && bytes <= HEADER_BYTES_MAX && request.headers.len() <= HEADERS_MAX {
        let again = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        assert_eq!(Request::new(&request.url, again).expect("accepted before"), request);
    }
    assert_eq!(request.credential_for(url), request.credential_for(&request.url));
    true
}
