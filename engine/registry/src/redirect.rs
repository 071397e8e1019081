//! Resolves the `Location` header of a redirect or an upload against the URL of its request. RFC 3986, section 5.2.
//!
//! Accepts the URLs that servers really send: encodes spaces and non-ASCII bytes, as browsers and curl(1) do.
//! The callers in `transport` and `send` decide whether a redirect may be followed. [`percent`] encodes queries.

use ::http::Uri;
use ::http::uri::Authority;

/// Percent-encodes a query parameter or form field. RFC 3986, section 2.
pub(crate) fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' => {
                out.push(byte.into())
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Resolves `location` against `base`; `None` if the result is not an HTTP or HTTPS URL.
pub(crate) fn join(base: &Uri, location: &[u8]) -> Option<String> {
    let location = encode(location)?;
    let (location, _) = location.split_once('#').unwrap_or((&location, ""));
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |a| a.as_str());
    if let Some((new_scheme, rest)) = split_scheme(location) {
        let new_scheme = new_scheme.to_ascii_lowercase();
        let rest = rest.strip_prefix("//").filter(|_| matches!(new_scheme.as_str(), "http" | "https"))?;
        return Some(normalize(&new_scheme, rest));
    }
    if let Some(rest) = location.strip_prefix("//") {
        return Some(normalize(scheme, rest));
    }
    let (path, query) = split_query(location);
    let path = match path {
        "" if query.is_empty() => return Some(base.to_string()),
        "" => base.path().to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("{}/{path}", base.path().rsplit_once('/').map_or("", |(dir, _)| dir)),
    };
    Some(format!("{scheme}://{authority}{}{query}", without_dots(&path)))
}

/// Whether `uri` leads to `authority` (`HOST[:PORT]`). The comparison ignores the case of the host, and a missing
/// port means the default port of the scheme.
pub(crate) fn is_at(uri: &Uri, authority: &str) -> bool {
    let (Some(target), Ok(expected)) = (uri.authority(), authority.parse::<Authority>()) else {
        return false;
    };
    let default_port = if uri.scheme_str() == Some("http") { 80 } else { 443 };
    let port = |of: &Authority| of.port_u16().unwrap_or(default_port);
    // URL parsers disagree about which part of `a@b` is the host, so a URL with `@` is never trusted.
    let has_user = target.as_str().contains('@');
    !has_user && target.host().eq_ignore_ascii_case(expected.host()) && port(target) == port(&expected)
}

/// Splits `location` at the colon after its scheme; `None` if it has no scheme.
fn split_scheme(location: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = location.split_once(':')?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(allowed);
    is_scheme.then_some((scheme, rest))
}

/// The URL `scheme://rest`, without `.` and `..` in its path.
fn normalize(scheme: &str, rest: &str) -> String {
    let (authority, path_and_query) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (path, query) = split_query(path_and_query);
    format!("{scheme}://{authority}{}{query}", without_dots(path))
}

/// Splits `text` into the path and the query; the query keeps its question mark.
fn split_query(text: &str) -> (&str, &str) {
    text.split_at(text.find('?').unwrap_or(text.len()))
}

/// Resolves `.` and `..` in a path; `..` at the root is dropped. RFC 3986, section 5.2.4.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        if segment == ".." {
            kept.pop();
        }
        match segment {
            // A path that ends in `.` or `..` means a directory, so it keeps its final slash.
            "." | ".." if is_last => kept.push(""),
            "." | ".." => {}
            other => kept.push(other),
        }
    }
    kept.iter().map(|segment| format!("/{segment}")).collect()
}

/// Percent-encodes the bytes that a URL may not contain; `None` if there is a control character.
fn encode(location: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(location.len());
    for byte in location.trim_ascii() {
        match byte {
            0x21..=0x7e => out.push(char::from(*byte)),
            b' ' | 0x80.. => out.push_str(&format!("%{byte:02X}")),
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_at_its_host_and_port_however_they_are_written() {
        for (url, authority, is_own) in [
            ("https://r.example/v2/", "r.example", true),
            ("https://r.example:443/v2/", "r.example", true),
            ("https://R.Example/v2/", "r.example", true),
            ("https://r.example/v2/", "r.example:443", true),
            ("http://r.example:443/v2/", "r.example", false),
            ("https://r.example:444/v2/", "r.example", false),
            ("https://r.example@evil.example/", "r.example", false),
            ("https://u:p@r.example/", "r.example", false),
            ("https://[::1]:5000/", "[::1]:5000", true),
            ("/v2/", "r.example", false),
        ] {
            assert_eq!(is_at(&url.parse().expect("a URL"), authority), is_own, "{url} at {authority}");
        }
    }

    #[test]
    fn a_parameter_is_encoded_except_for_what_a_query_may_have() {
        assert_eq!(percent("s & t+%/:"), "s%20%26%20t%2B%25/:");
    }

    #[test]
    fn locations_are_joined_to_their_base() {
        let base: Uri = "https://r.example:5000/v2/a/blobs/x?q=1".parse().expect("a URL");
        for (location, url) in [
            ("http://cdn/x?y", Some("http://cdn/x?y")),
            ("HTTPS://cdn/x", Some("https://cdn/x")),
            ("https://cdn?y", Some("https://cdn?y")),
            ("//cdn/x", Some("https://cdn/x")),
            ("/y?z", Some("https://r.example:5000/y?z")),
            ("z", Some("https://r.example:5000/v2/a/blobs/z")),
            ("?z=/../a:b", Some("https://r.example:5000/v2/a/blobs/x?z=/../a:b")),
            ("", Some("https://r.example:5000/v2/a/blobs/x?q=1")),
            ("./z", Some("https://r.example:5000/v2/a/blobs/z")),
            ("../manifests/y", Some("https://r.example:5000/v2/a/manifests/y")),
            ("../../../../../y/.", Some("https://r.example:5000/y/")),
            ("/a/../b/..", Some("https://r.example:5000/")),
            ("/y#part", Some("https://r.example:5000/y")),
            ("/a b?\u{e9}", Some("https://r.example:5000/a%20b?%C3%A9")),
            ("ftp://cdn/x", None),
            ("file:///etc/passwd", None),
            ("https:cdn", None),
            ("/a\tb", None),
        ] {
            assert_eq!(join(&base, location.as_bytes()).as_deref(), url, "{location}");
        }
    }
}
