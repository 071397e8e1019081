//! Image references as users type them: `alpine`, `host:5000/name:tag`, `name@sha256:…`, and their full form.
//!
//! Called wherever a user or a client names an image. A hand-written parser for the grammar of the Docker and OCI
//! tools (package `reference` of distribution). Any text gives a [`Reference`] or a [`ReferenceError`]. Never resolves
//! a host.

use crate::digest::Digest;
use std::fmt;

/// Longest name (host and path), in bytes.
pub const NAME_MAX: usize = 255;
/// Longest tag, in bytes.
pub const TAG_MAX: usize = 128;
/// The host of a name that does not contain one.
const DEFAULT_HOST: &str = "docker.io";

/// A complete image reference: host, path, and a tag or a digest or both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// The error for text that is not an image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image reference: {reason}")]
pub struct ReferenceError {
    /// The text, cut to 300 characters.
    pub text: String,
    /// The rule that the text breaks.
    pub reason: &'static str,
}

impl Reference {
    /// Parses a reference as a user types it and completes it: the default host is `docker.io`, a single path component
    /// on that host gets the prefix `library/`, and the default tag is `latest` if there is no digest.
    ///
    /// # Errors
    /// [`ReferenceError`] names the rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|reason| ReferenceError { text: text.chars().take(300).collect(), reason })
    }

    /// The registry's host and port, such as `docker.io`, `host:5000` or `[::1]:5000`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository on the host, such as `library/alpine`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag; `None` only if there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest; it takes precedence over the tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The tag or digest to request from a registry: the digest if there is one, otherwise the tag.
    pub fn target(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The name without tag and digest: host and path.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.contains("://") {
        return Err("it is a URL; leave out the scheme");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (
            rest,
            Some(Digest::parse(digest).map_err(|_| "'@' is not followed by a sha256 or sha512 digest")?),
        ),
        None => (text, None),
    };
    // A colon after the last slash starts a tag; a colon before the last slash starts a port.
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let after_host = if last == 0 && rest.starts_with('[') { rest.len() } else { last };
    let colon = rest.get(after_host..).and_then(|part| part.find(':')).map(|colon| after_host + colon);
    let (name, tag) = match colon.and_then(|colon| rest.split_at_checked(colon)) {
        Some((name, tag)) => (name, tag.strip_prefix(':')),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (host, path) = split_host(name)?;
    if host.len() + 1 + path.len() > NAME_MAX {
        return Err("host and path are longer than 255 bytes");
    }
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, Some(_)) => None,
        (None, None) => Some("latest".to_owned()),
    };
    Ok(Reference { host, path, tag, digest })
}

/// Whether `text` contains no host.
pub fn is_short(text: &str) -> bool {
    !text.split_once('/').is_some_and(|(first, _)| is_host(first))
}

/// Whether the first component of a name is a host: it has a dot, a colon, a bracket or an upper-case letter, or it is
/// `localhost`.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':', '[']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn split_host(name: &str) -> Result<(String, String), &'static str> {
    let (host, path) = match name.split_once('/') {
        Some((first, path)) if is_host(first) => {
            check_host(first)?;
            (first, path)
        }
        _ => (DEFAULT_HOST, name),
    };
    check_path(path)?;
    if name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err("64 hex digits are an image ID, not a name");
    }
    let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
    if host == DEFAULT_HOST && !path.contains('/') {
        return Ok((host.to_owned(), format!("library/{path}")));
    }
    Ok((host.to_owned(), path.to_owned()))
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let (name, port) = if let Some(rest) = host.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or("an address in '[' has no ']'")?;
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return Err("the text in brackets is not an IPv6 address");
        }
        (
            None,
            port.strip_prefix(':').map_or(
                if port.is_empty() { Ok(None) } else { Err("']' is not followed by a port") },
                |p| Ok(Some(p)),
            )?,
        )
    } else {
        match host.split_once(':') {
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(host), None),
        }
    };
    if let Some(port) = port {
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        if !digits || port.parse::<u16>().is_err() {
            return Err("the port is not a number from 0 to 65535");
        }
    }
    let label = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    match name {
        Some(name) if !name.split('.').all(label) => {
            Err("the host may have only letters, digits, '-' and dots")
        }
        _ => Ok(()),
    }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("the repository is missing");
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("a repository must not have upper-case letters");
    }
    for component in path.split('/') {
        check_component(component)?;
    }
    Ok(())
}

/// Checks one component of a path: groups of `[a-z0-9]+`, separated by one `.`, one or two `_`, or any number of `-`.
fn check_component(component: &str) -> Result<(), &'static str> {
    const RULE: &str =
        "a path component consists of lower-case letters and digits, separated by '.', '_', '__' or '-'";
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut bytes = component.bytes().peekable();
    let mut joiner = String::new();
    let mut any = false;
    while let Some(byte) = bytes.next() {
        if plain(byte) {
            let joined =
                matches!(joiner.as_str(), "" | "." | "_" | "__") || joiner.bytes().all(|b| b == b'-');
            if !joined || (!any && !joiner.is_empty()) {
                return Err(RULE);
            }
            joiner.clear();
            any = true;
        } else if matches!(byte, b'.' | b'_' | b'-') && bytes.peek().is_some() {
            joiner.push(char::from(byte));
        } else {
            return Err(RULE);
        }
    }
    if any { Ok(()) } else { Err(RULE) }
}

/// Whether `tag` is a valid tag.
pub fn is_tag(tag: &str) -> bool {
    check_tag(tag).is_ok()
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = tag.bytes();
    let first = bytes.next().is_some_and(word);
    if !first || tag.len() > TAG_MAX || !bytes.all(|b| word(b) || b == b'.' || b == b'-') {
        return Err(
            "a tag has 1 to 128 letters, digits, '_', '.' and '-', and does not begin with '.' or '-'",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        Reference::parse(text).map_or_else(|e| e.reason.to_owned(), |r| r.to_string())
    }

    #[test]
    fn a_reference_is_completed_as_the_docker_tools_do() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (text, expected) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.19", "docker.io/library/alpine:3.19"),
            ("grafana/loki", "docker.io/grafana/loki:latest"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("host:5000/a/b:t", "host:5000/a/b:t"),
            ("UPPER/x", "UPPER/x:latest"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
            ("[::1]/x:1", "[::1]/x:1"),
            ("127.0.0.1:5000/library/busybox:1.36", "127.0.0.1:5000/library/busybox:1.36"),
            ("a--b/c__d.e_f-g", "docker.io/a--b/c__d.e_f-g:latest"),
            ("sha256:abc", "docker.io/library/sha256:abc"),
        ] {
            assert_eq!(full(text), expected, "{text}");
        }
        assert_eq!(full(&format!("alpine@{digest}")), format!("docker.io/library/alpine@{digest}"));
        assert_eq!(full(&format!("alpine:3@{digest}")), format!("docker.io/library/alpine:3@{digest}"));
    }

    #[test]
    fn bad_references_are_refused_with_the_rule() {
        for text in [
            "",
            ":",
            "@",
            "/",
            "a:",
            "a@sha256:00",
            "UPPER",
            "a//b",
            "a/",
            "/a",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a._b",
            "host:99999/x",
            "host:/x",
            "[::1/x",
            "[zz]/x",
            "[::1]x/y",
            "a b",
            "a:b c",
            "a\n",
            "é",
            "a:-x",
            "a/B",
            "host.:5000/x",
            "http://host/x",
            "[::1]",
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?} became {}", full(text));
        }
        assert!(Reference::parse(&"a".repeat(300)).is_err());
        assert!(Reference::parse(&"ab".repeat(32)).is_err());
    }

    #[test]
    fn what_was_printed_is_read_back_as_the_same() {
        for text in ["alpine", "h:1/a/b:c", "[::1]:5000/x"] {
            let one = Reference::parse(text).expect("good");
            assert_eq!(Reference::parse(&one.to_string()), Ok(one));
        }
    }
}
