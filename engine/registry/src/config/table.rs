//! A `[[registry]]` of the files: for which names it is, and where it sends them.
//!
//! Made by [`crate::config::file`] out of text, asked by [`crate::config::Registries`].

use crate::config::error::RegistriesError;
use sampan_oci::reference::{self, Reference};
use std::path::PathBuf;

/// One place that an image may be had from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `docker.io`, `host:5000`, `[::1]:5000`; of a socket its path, for messages.
    pub host: String,
    /// The repository there.
    pub repository: String,
    /// The tag or digest there, if it is another than was asked for.
    pub target: Option<String>,
    /// Plain HTTP, or a certificate that nobody vouches for, will do.
    pub insecure: bool,
    /// The Unix socket that it listens on, instead of a host.
    pub socket: Option<PathBuf>,
    /// It is a mirror: what it fails at, the registry itself may still do.
    pub mirror: bool,
}

impl Endpoint {
    /// The registry that a reference names.
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

/// A `[[registry]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) prefix: String,
    /// `None` changes nothing.
    pub(crate) location: Option<Location>,
    pub(crate) insecure: bool,
    pub(crate) blocked: bool,
    pub(crate) mirrors: Vec<Mirror>,
    pub(crate) path: PathBuf,
    pub(crate) line: usize,
}

/// A `[[registry.mirror]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    pub(crate) location: Location,
    pub(crate) insecure: bool,
    pub(crate) pulls: Pulls,
    pub(crate) line: usize,
}

/// What a prefix is replaced with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    /// `host[:port][/namespace…]`.
    Host(String),
    /// `unix://PATH[:namespace…]`, ours alone.
    Socket(PathBuf, String),
}

/// Which pulls a mirror is for.
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
    /// The same, wherever it is written.
    pub(crate) fn unplaced(&self) -> Table {
        let mut table = Table { line: 0, ..self.clone() };
        table.mirrors.iter_mut().for_each(|mirror| mirror.line = 0);
        table
    }

    pub(crate) fn cannot_rewrite(
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

/// How many bytes of `name`, whose host is `host`, `prefix` stands for; `None` if it is about something else.
pub(crate) fn matches(name: &str, host: &str, prefix: &str) -> Option<usize> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let bare = if host.starts_with('[') { host } else { host.split(':').next().unwrap_or(host) };
        return bare.ends_with(domain).then_some(bare.len());
    }
    let rest = name.strip_prefix(prefix)?;
    // Behind a host without a port, a colon is that of another host: the same name's other port.
    let separators: &[char] = if prefix.contains('/') { &['/', ':', '@'] } else { &['/'] };
    (rest.is_empty() || rest.starts_with(separators)).then_some(prefix.len())
}

/// The endpoint that `reference` becomes when `location` stands for the first `length` bytes of its name.
pub(crate) fn rewrite(
    reference: &Reference,
    length: usize,
    location: &Location,
) -> Result<Endpoint, reference::ReferenceError> {
    let name = reference.to_string();
    // A socket has no port that could stay behind a wildcard.
    let length =
        if matches!(location, Location::Socket(..)) { length.max(reference.host().len()) } else { length };
    let rest = name.get(length..).unwrap_or_default();
    let (text, socket) = match location {
        Location::Host(host) => (format!("{host}{rest}"), None),
        // The host is one of no meaning, for the grammar's sake.
        Location::Socket(path, namespace) => {
            let slash = if namespace.is_empty() { "" } else { "/" };
            (format!("localhost{slash}{namespace}{rest}"), Some(path.clone()))
        }
    };
    if reference::is_short(&text) {
        return Err(reference::ReferenceError { text, reason: "no repository is left behind the host" });
    }
    let there = Reference::parse(&text)?;
    let host =
        socket.as_ref().map_or_else(|| there.host().to_owned(), |path| format!("unix://{}", path.display()));
    let carried = text.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    let target = Some(there.target()).filter(|target| carried && *target != reference.target());
    Ok(Endpoint { host, repository: there.path().to_owned(), target, insecure: false, socket, mirror: false })
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
    fn mirrors_are_for_the_pulls_that_they_are_for() {
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
