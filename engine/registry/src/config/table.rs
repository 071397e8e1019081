//! A `[[registry]]` table of registries.conf: the references that it matches, and their endpoints.
//!
//! `file` makes tables from text; [`crate::config::Registries`] searches them for a reference.

use crate::config::error::RegistriesError;
use sampan_oci::reference::{self, Reference};
use std::path::PathBuf;

/// A registry, or a mirror of a registry, that may have an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The host and port, such as `docker.io`, `host:5000` or `[::1]:5000`. A Unix socket has its URL here, for
    /// messages.
    pub host: String,
    /// The repository at this endpoint.
    pub repository: String,
    /// The tag or digest to request at this endpoint, if it differs from the reference's own.
    pub target: Option<String>,
    /// Whether plain HTTP and untrusted certificates are allowed.
    pub insecure: bool,
    /// The Unix socket to connect to instead of a host.
    pub socket: Option<PathBuf>,
    /// Whether this endpoint is a mirror, so that the registry itself is tried after it.
    pub mirror: bool,
}

impl Endpoint {
    /// Makes the endpoint of the registry that `reference` names.
    pub fn of(reference: &Reference) -> Self {
        Endpoint {
            host: reference.host().to_owned(),
            repository: reference.path().to_owned(),
            target: None,
            insecure: false,
            socket: None,
            mirror: false,
        }
    }
}

/// A `[[registry]]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) prefix: String,
    /// The text that replaces the prefix; `None` keeps the prefix.
    pub(crate) location: Option<Location>,
    pub(crate) insecure: bool,
    pub(crate) blocked: bool,
    pub(crate) mirrors: Vec<Mirror>,
    pub(crate) path: PathBuf,
    pub(crate) line: usize,
}

/// A `[[registry.mirror]]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    pub(crate) location: Location,
    pub(crate) insecure: bool,
    pub(crate) pulls: Pulls,
    pub(crate) line: usize,
}

/// The replacement of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    /// `host[:port][/namespace...]`.
    Host(String),
    /// `unix://PATH[:namespace...]`, an extension of this project.
    Socket(PathBuf, String),
}

/// The pulls for which a mirror is used: the values of `pull-from-mirror`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pulls {
    All,
    DigestOnly,
    TagOnly,
}

impl Mirror {
    pub(crate) fn serves(&self, reference: &Reference) -> bool {
        match self.pulls {
            Pulls::All => true,
            Pulls::DigestOnly => reference.digest().is_some(),
            Pulls::TagOnly => reference.digest().is_none(),
        }
    }
}

impl Table {
    /// A copy without line numbers, to find out whether two tables of a file have equal content.
    pub(crate) fn without_lines(&self) -> Table {
        let mut table = Table { line: 0, ..self.clone() };
        table.mirrors.iter_mut().for_each(|mirror| mirror.line = 0);
        table
    }

    pub(crate) fn rewrite_error(
        &self,
        reference: &Reference,
        location: &Location,
        line: usize,
        source: reference::ReferenceError,
    ) -> RegistriesError {
        let location = match location {
            Location::Host(host) => host.clone(),
            Location::Socket(path, namespace) => format!("unix://{}:{namespace}", path.display()),
        };
        RegistriesError::Rewrite {
            name: reference.to_string(),
            location,
            path: self.path.clone(),
            line,
            source,
        }
    }
}

/// Number of bytes of `name`, whose host is `host`, that the prefix matches; `None` if the prefix does not match.
pub(crate) fn matches(name: &str, host: &str, prefix: &str) -> Option<usize> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let bare = if host.starts_with('[') { host } else { host.split(':').next().unwrap_or(host) };
        return bare.ends_with(domain).then_some(bare.len());
    }
    let rest = name.strip_prefix(prefix)?;
    // A colon after a bare host would begin a port, and `host:port` is another host than `host`.
    let separators: &[char] = if prefix.contains('/') { &['/', ':', '@'] } else { &['/'] };
    (rest.is_empty() || rest.starts_with(separators)).then_some(prefix.len())
}

/// The endpoint for `reference` after `location` replaces the first `length` bytes of its name.
pub(crate) fn rewrite(
    reference: &Reference,
    length: usize,
    location: &Location,
) -> Result<Endpoint, reference::ReferenceError> {
    let name = reference.to_string();
    // A wildcard matches the host without its port. A socket also replaces the port.
    let length =
        if matches!(location, Location::Socket(..)) { length.max(reference.host().len()) } else { length };
    let rest = name.get(length..).unwrap_or_default();
    let (text, socket) = match location {
        Location::Host(host) => (format!("{host}{rest}"), None),
        // A reference needs a host to be parsed. The socket's URL replaces `localhost` below.
        Location::Socket(path, namespace) => {
            let slash = if namespace.is_empty() { "" } else { "/" };
            (format!("localhost{slash}{namespace}{rest}"), Some(path.clone()))
        }
    };
    if reference::is_short(&text) {
        return Err(reference::ReferenceError { text, reason: "no repository is left after the host" });
    }
    let rewritten = Reference::parse(&text)?;
    let host = match &socket {
        Some(path) => format!("unix://{}", path.display()),
        None => rewritten.host().to_owned(),
    };
    let has_target = text.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    let target = Some(rewritten.target()).filter(|target| has_target && *target != reference.target());
    let repository = rewritten.path().to_owned();
    Ok(Endpoint { host, repository, target, insecure: false, socket, mirror: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::registries_conf::tests::{DIGEST, conf, places, refusal};
    use std::path::Path;

    #[test]
    fn the_longest_prefix_wins_and_ends_at_a_separator() {
        let all = conf(
            r#"
            [[registry]]
            location = "a.example"
            insecure = true
            [[registry]]
            prefix = "a.example/x"
            location = "b.example/y"
            [[registry]]
            prefix = "a.example/x/one:v1"
            location = "c.example/z:v2"
            [[registry]]
            prefix = "*.wild.example"
            insecure = true
            [[registry]]
            prefix = "own.wild.example"
            location = "d.example"
            "#,
        );
        assert_eq!(places(&all, "a.example/q"), ["a.example/q!"]);
        assert_eq!(places(&all, "a.example:5000/q"), ["a.example:5000/q"]);
        assert_eq!(places(&all, "a.example/x/two"), ["b.example/y/two"]);
        assert_eq!(places(&all, "a.example/xx"), ["a.example/xx!"]);
        assert_eq!(places(&all, "a.example/x/one:v1"), ["c.example/z"]);
        let one =
            all.endpoints(&Reference::parse("a.example/x/one:v1").expect("good")).expect("good").remove(0);
        assert_eq!(one.target.as_deref(), Some("v2"));
        assert_eq!(places(&all, "a.example/x/one:v11"), ["b.example/y/one"]);
        assert_eq!(places(&all, "p.q.wild.example:5000/i"), ["p.q.wild.example:5000/i!"]);
        assert_eq!(places(&all, "own.wild.example/i"), ["d.example/i"]);
        assert_eq!(places(&all, "wild.example/i"), ["wild.example/i"]);
    }

    #[test]
    fn a_tag_and_a_digest_stay_when_a_whole_name_is_rewritten() {
        let all = conf("[[registry]]\nprefix = 'a.example/x:v1'\nlocation = 'b.example/y'\n");
        let endpoint =
            all.endpoints(&Reference::parse("a.example/x:v1").expect("good")).expect("good").remove(0);
        assert_eq!((endpoint.repository.as_str(), endpoint.target), ("y", None));
    }

    #[test]
    fn a_mirror_serves_only_the_pulls_of_its_kind() {
        let all = conf(
            r#"
            [[registry]]
            location = "a.example"
            [[registry.mirror]]
            location = "digest.example"
            pull-from-mirror = "digest-only"
            [[registry.mirror]]
            location = "tag.example"
            pull-from-mirror = "tag-only"
            [[registry]]
            location = "b.example"
            mirror-by-digest-only = true
            [[registry.mirror]]
            location = "m.example"
            "#,
        );
        assert_eq!(places(&all, "a.example/i"), ["tag.example/i", "a.example/i"]);
        assert_eq!(places(&all, &format!("a.example/i@{DIGEST}")), ["digest.example/i", "a.example/i"]);
        assert_eq!(places(&all, &format!("a.example/i:t@{DIGEST}")), ["digest.example/i", "a.example/i"]);
        assert_eq!(places(&all, "b.example/i"), ["b.example/i"]);
        assert_eq!(places(&all, &format!("b.example/i@{DIGEST}")), ["m.example/i", "b.example/i"]);
    }

    #[test]
    fn a_socket_is_a_location_of_a_prefix() {
        let all = conf("[[registry]]\nprefix = 's.example'\nlocation = 'unix:///run/r.sock:team'\n");
        let endpoint =
            all.endpoints(&Reference::parse("s.example/x:1").expect("good")).expect("good").remove(0);
        assert_eq!(endpoint.socket.as_deref(), Some(Path::new("/run/r.sock")));
        assert_eq!((endpoint.repository.as_str(), endpoint.host.as_str()), ("team/x", "unix:///run/r.sock"));
        assert!(refusal("[[registry]]\nlocation = 'unix:///run/r.sock'\n").contains("prefix"));
        assert!(
            refusal("[[registry]]\nprefix = 'a.b'\nlocation = 'unix://r.sock'\n")
                .contains("path from the root")
        );
    }
}
