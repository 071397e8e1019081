//! Where a `Location` header leads: a URL, or a part of one. RFC 3986, section 5.2.
//!
//! Used for redirects and for uploads. Reads what servers send rather than what they should: spaces and letters of
//! any language are percent-encoded, as browsers and curl(1) do. Decides nothing about whether one may go there.

use ::http::Uri;
use ::http::uri::Authority;

/// The URL that `location` is, seen from `base`; `None` if it is none of HTTP.
pub(crate) fn join(base: &Uri, location: &[u8]) -> Option<String> {
    let location = encode(location)?;
    let (location, _) = location.split_once('#').unwrap_or((&location, ""));
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |a| a.as_str());
    if let Some((named, rest)) = absolute(location) {
        let named = named.to_ascii_lowercase();
        let rest = rest.strip_prefix("//").filter(|_| matches!(named.as_str(), "http" | "https"))?;
        return Some(at(&named, rest));
    }
    if let Some(rest) = location.strip_prefix("//") {
        return Some(at(scheme, rest));
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

/// True if `uri` leads to `authority`, `HOST[:PORT]`: hosts have no case, and a port that its scheme implies may be
/// said or not.
pub(crate) fn is_at(uri: &Uri, authority: &str) -> bool {
    let (Some(there), Ok(own)) = (uri.authority(), authority.parse::<Authority>()) else {
        return false;
    };
    let implied = if uri.scheme_str() == Some("http") { 80 } else { 443 };
    let port = |of: &Authority| of.port_u16().unwrap_or(implied);
    // User and password in a URL would make it another host for some readers.
    let is_plain = !there.as_str().contains('@');
    is_plain && there.host().eq_ignore_ascii_case(own.host()) && port(there) == port(&own)
}

/// Scheme, and what stands behind its colon; `None` if it has no scheme.
fn absolute(location: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = location.split_once(':')?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(plain);
    is_scheme.then_some((scheme, rest))
}

/// A URL of what stands behind `//`.
fn at(scheme: &str, rest: &str) -> String {
    let (authority, below) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (path, query) = split_query(below);
    format!("{scheme}://{authority}{}{query}", without_dots(path))
}

/// A path, and its query with the question mark.
fn split_query(text: &str) -> (&str, &str) {
    text.split_at(text.find('?').unwrap_or(text.len()))
}

/// Resolves `.` and `..`; none leads above the root. RFC 3986, section 5.2.4.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        if segment == ".." {
            kept.pop();
        }
        match segment {
            // What was a directory stays one.
            "." | ".." if is_last => kept.push(""),
            "." | ".." => {}
            other => kept.push(other),
        }
    }
    kept.iter().map(|segment| format!("/{segment}")).collect()
}

/// Percent-encodes what no URL has; `None` for control characters.
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
