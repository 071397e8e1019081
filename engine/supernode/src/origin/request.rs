//! What a client asks of an origin: a URL, and the headers that the client sends there.
//!
//! Pure. Called for each registration and each preheat; the event loop keeps the result, and [`super::Origins`]
//! sends it.

use super::error::OriginError;
use crate::access::Credential;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sampan_registry::web::printable_url;
use std::fmt;

/// Longest URL, in bytes.
pub const URL_MAX: usize = 8 << 10;
/// Most headers of a request.
pub const HEADERS_MAX: usize = 64;
/// Most bytes of all names and values of headers.
pub const HEADER_BYTES_MAX: usize = 32 << 10;

/// Headers that concern the client's own connection, or that the supernode sets itself; in lower case.
const DROPPED: [&str; 27] = [
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// The only spelling of this header in a [`Request`]. It is a part of a task's ID: with another spelling, a part
/// of a file would have the ID of the whole file.
const RANGE: &str = "Range";

/// A request for a file at its origin.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Request {
    /// The URL, without a user and without a fragment.
    pub url: String,
    /// The client's headers. Headers of the connection, `Host`, `Accept-Encoding` and conditions are left out. If
    /// there is a `Range`, the file of the task is this range of the file at the origin.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// Makes a request from what a client sends. A user and a password in the URL become a header `Authorization`.
    ///
    /// # Errors
    /// [`OriginError::Url`], [`OriginError::Header`]: one of them is malformed or too long.
    pub fn new<'a>(
        url: &str,
        headers: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, OriginError> {
        let (url, user) = parse_url(url)?;
        let mut kept: Vec<(String, String)> = Vec::new();
        let (mut named, mut bytes) = (Vec::new(), 0);
        for (name, value) in headers {
            let (name, value) = (name.trim(), value.trim());
            let error = |why| {
                let name = name.chars().filter(|c| c.is_ascii_graphic()).take(100).collect();
                OriginError::Header { name, why }
            };
            bytes += name.len() + value.len();
            if kept.len() + named.len() >= HEADERS_MAX || bytes > HEADER_BYTES_MAX {
                return Err(error("there are too many or too long headers"));
            }
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(error("the name is malformed"));
            }
            if http::HeaderValue::from_str(value).is_err() {
                return Err(error("the value has a control character"));
            }
            if name.eq_ignore_ascii_case("connection") {
                // The header names other headers that concern the connection. RFC 9110, section 7.6.1.
                named.extend(value.split(',').map(|name| name.trim().to_ascii_lowercase()).take(HEADERS_MAX));
            }
            let is_range = name.eq_ignore_ascii_case(RANGE);
            if is_range {
                if kept.iter().any(|(name, _)| name == RANGE) {
                    return Err(error("it is there twice"));
                }
                // The answer to several ranges has a form of its own, which differs from answer to answer.
                if !value.starts_with("bytes=") || value.contains(',') {
                    return Err(error("it is not one range of bytes"));
                }
            }
            if !DROPPED.iter().any(|dropped| name.eq_ignore_ascii_case(dropped)) {
                let name = if is_range { RANGE } else { name };
                kept.push((name.to_owned(), value.to_owned()));
            }
        }
        kept.retain(|(name, _)| !named.contains(&name.to_ascii_lowercase()) || is_authorization(name));
        if let Some(user) = user.filter(|_| !kept.iter().any(|(name, _)| is_authorization(name))) {
            kept.push(("Authorization".to_owned(), format!("Basic {}", STANDARD.encode(user))));
        }
        Ok(Request { url, headers: kept })
    }

    /// Splits a header as `dfget` sends it: `NAME:VALUE`.
    pub fn split_header(line: &str) -> Option<(&str, &str)> {
        line.split_once(':').map(|(name, value)| (name.trim(), value.trim()))
    }

    /// The `Range` header. The file of the task is this range of the file at the origin; `None` means the whole
    /// file.
    pub fn range(&self) -> Option<&str> {
        let range = self.headers.iter().find(|(name, _)| name == RANGE);
        range.map(|(_, value)| value.as_str())
    }

    /// The secrets with which the client shows access to the task of `task_url`: those in the headers, and the URL
    /// if it differs from `task_url`; `None` if there are none. The client has filtered from `task_url` the
    /// parameters that do not identify the file, such as the signature of a presigned URL. So another client gets
    /// the file only with a valid signature of its own.
    pub fn credential_for(&self, task_url: &str) -> Option<Credential> {
        let is_same = parse_url(task_url).is_ok_and(|(url, _)| url == self.url);
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        // The name of no header has a colon.
        Credential::of(headers.chain((!is_same).then_some((":url", self.url.as_str()))))
    }

    /// The URL for a message: without its query, which may grant access.
    pub fn printable_url(&self) -> String {
        printable_url(&self.url)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Request").field("url", &self.printable_url()).field("headers", &names).finish()
    }
}

fn is_authorization(name: &str) -> bool {
    name.eq_ignore_ascii_case("authorization")
}

/// Checks a URL, and takes its user and password from it. Encodes spaces and other bytes that a URL may not have,
/// as dfget accepts them.
fn parse_url(url: &str) -> Result<(String, Option<Vec<u8>>), OriginError> {
    let url = url.trim();
    let error = |why| OriginError::Url { url: printable_url(url), why };
    if url.len() > URL_MAX {
        return Err(error("it is too long"));
    }
    let (scheme, rest) = url.split_once("://").ok_or_else(|| error("it has no scheme"))?;
    let scheme = scheme.to_ascii_lowercase();
    if !matches!(scheme.as_str(), "http" | "https") {
        return Err(error("its scheme is neither http nor https"));
    }
    let rest = rest.split('#').next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let mut clean = format!("{scheme}://{host}");
    for byte in path.bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b' ' | 0x80.. => {
                clean.push_str(&format!("%{byte:02X}"));
            }
            0x21..=0x7e => clean.push(char::from(byte)),
            _ => return Err(error("it has a control character")),
        }
    }
    let uri: http::Uri = clean.parse().map_err(|_| error("it is malformed"))?;
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    // `http::Uri` accepts a port that is no number.
    let has_good_port = uri.authority().is_some_and(|authority| {
        let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
        port.is_empty() || authority.port_u16().is_some()
    });
    if !has_host || !has_good_port {
        return Err(error("it has no host, or a malformed port"));
    }
    let user = user.map(decode).transpose().map_err(error)?;
    Ok((clean, user.map(|user| if user.contains(&b':') { user } else { [user, vec![b':']].concat() })))
}

/// Decodes the percent-encoded user and password of a URL.
fn decode(text: &str) -> Result<Vec<u8>, &'static str> {
    let (mut out, mut bytes) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit(), digit());
                let value = high.zip(low).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
                value.ok_or("its user or password is malformed")?
            }
            byte => byte,
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_connection_do_not_reach_the_origin() {
        let given = [
            ("Authorization", "Bearer x"),
            ("host", "a"),
            ("Accept-Encoding", "gzip"),
            ("Connection", "keep-alive, X-Hop, authorization"),
            ("X-Hop", "1"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("User-Agent", " dfget/1.0.6 "),
        ];
        let request = Request::new("http://a/b", given).expect("a request");
        let kept = [("Authorization", "Bearer x"), ("User-Agent", "dfget/1.0.6")];
        assert_eq!(request.headers, kept.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(request.credential_for(&request.url).is_some());
        assert!(!format!("{request:?}").contains("Bearer"));
        let open = Request::new("http://a/b", [("Accept", "*/*")]).expect("a request");
        assert_eq!(open.credential_for("http://a/b"), None);
    }

    #[test]
    fn a_url_is_cleaned_and_its_user_becomes_a_header() {
        for (given, url, user) in [
            ("http://a/b?c=d", "http://a/b?c=d", None),
            (" HTTPS://a:8443/b#part ", "https://a:8443/b", None),
            ("http://a/b c?\u{e9}={x}", "http://a/b%20c?%C3%A9=%7Bx%7D", None),
            ("http://u:p%40ss@a/b", "http://a/b", Some("Basic dTpwQHNz")),
            ("http://u@a/b@c", "http://a/b@c", Some("Basic dTo=")),
            ("http://[::1]:80/", "http://[::1]:80/", None),
            ("http://a?q", "http://a?q", None),
        ] {
            let request = Request::new(given, []).expect(given);
            assert_eq!(request.url, url);
            let found = request.headers.first().map(|(_, value)| value.as_str());
            assert_eq!(found, user, "{given}");
        }
        let both = Request::new("http://u:p@a/", [("authorization", "Bearer x")]).expect("a request");
        assert_eq!(both.headers.len(), 1);
    }

    #[test]
    fn what_was_filtered_from_the_url_is_a_secret() {
        let of = |url: &str, task_url: &str, headers: &[(&str, &str)]| {
            let request = Request::new(url, headers.iter().copied()).expect("a request");
            request.credential_for(task_url)
        };
        let token = &[("Authorization", "Bearer x")][..];
        assert_eq!(of("http://a/b?v=1", "http://a/b?v=1", &[]), None);
        assert_eq!(of("http://a/b c", "http://a/b c", &[]), None);
        let signed = of("http://a/b?sig=1", "http://a/b", &[]).expect("a signature");
        assert_eq!(of("http://a/b?sig=1", "http://a/b", &[]), Some(signed));
        assert_ne!(of("http://a/b?sig=2", "http://a/b", &[]), Some(signed));
        assert_ne!(of("http://a/b?sig=1", "http://a/b", token), Some(signed));
        let plain = Request::new("http://a/b", token.iter().copied()).expect("a request");
        assert_eq!(of("http://a/b", "http://a/b", token), plain.credential_for(&plain.url));
    }

    #[test]
    fn malformed_requests_are_refused() {
        let long = format!("http://a/{}", "b".repeat(URL_MAX));
        for url in [
            "",
            "a",
            "http://",
            "http:///b",
            "file:///etc/passwd",
            "ftp://a/b",
            "http://a:b/",
            "http://a:99999/",
            "http://a/\u{7}",
            "http://a/\r\nHost: b",
            "http://u%zz@a/",
            "http://a b/",
            "http://@/",
            &long,
        ] {
            assert!(matches!(Request::new(url, []), Err(OriginError::Url { .. })), "{url}");
        }
        for (name, value) in [
            ("Range", "bytes=0-1,5-6"),
            ("range", "lines=1-2"),
            ("", "a"),
            ("a b", "c"),
            ("a", "b\r\nc: d"),
            ("a\n", "b\0"),
            ("\u{e9}", "a"),
        ] {
            assert!(
                matches!(Request::new("http://a/", [(name, value)]), Err(OriginError::Header { .. })),
                "{name:?}"
            );
        }
        let many = vec![("a", "b"); HEADERS_MAX + 1];
        assert!(matches!(Request::new("http://a/", many), Err(OriginError::Header { .. })));
        let large = "x".repeat(HEADER_BYTES_MAX);
        assert!(matches!(
            Request::new("http://a/", [("a", large.as_str())]),
            Err(OriginError::Header { .. })
        ));
        let twice = [("Range", "bytes=0-1"), ("range", "bytes=0-1")];
        assert!(matches!(Request::new("http://a/", twice), Err(OriginError::Header { .. })));
        let once = Request::new("http://a/", [("RANGE", "bytes=5-")]).expect("a request");
        assert_eq!((once.range(), once.credential_for(&once.url)), (Some("bytes=5-"), None));
        assert_eq!(once.headers, [("Range".to_owned(), "bytes=5-".to_owned())]);
        assert_eq!(Request::split_header("A: b:c "), Some(("A", "b:c")));
        assert_eq!(Request::split_header("A"), None);
    }
}
