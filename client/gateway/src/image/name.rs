//! Names of images: docker's short names in full, and full names in docker's familiar form.
//!
//! The engine takes short names by the host's registries.conf, but for a client of docker `alpine` is
//! `docker.io/library/alpine`, whatever the host's configuration says.

use crate::refusal::Refusal;
pub(crate) use sampan_ipc::image_name::familiar;
use std::net::IpAddr;

/// Docker Hub, as the engine's references name it.
const HUB: &str = "docker.io";

/// The name of an image in a request, in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// `host[:port]`.
    pub(crate) host: String,
    /// The repository in the registry: `library/alpine`.
    pub(crate) path: String,
    /// The tag; absent if there is a digest or nothing.
    pub(crate) tag: Option<String>,
    /// The digest.
    pub(crate) digest: Option<String>,
}

impl Name {
    /// Parses `[HOST/]PATH[:TAG][@DIGEST]`.
    ///
    /// # Errors
    /// The name has no path. The engine checks the rest.
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let invalid = || Refusal::bad(format!("invalid reference format: {text:?} names no image"));
        let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
        let (host, path) = match rest.split_once('/') {
            Some((first, path)) if is_host(first) => (first, path.to_owned()),
            _ => (HUB, rest.to_owned()),
        };
        let (path, tag) = match path.rsplit_once(':') {
            Some((path, tag)) => (path.to_owned(), Some(tag.to_owned())),
            None => (path, None),
        };
        if path.is_empty() || tag.as_deref() == Some("") || digest == Some("") {
            return Err(invalid());
        }
        let host = if host == "index.docker.io" { HUB } else { host };
        let path = if host == HUB && !path.contains('/') { format!("library/{path}") } else { path };
        Ok(Name { host: host.to_owned(), path, tag, digest: digest.map(str::to_owned) })
    }

    /// `host/path`, without tag and digest.
    pub(crate) fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// The complete name.
    pub(crate) fn full(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
        format!("{}{tag}{digest}", self.repository())
    }

    /// The name with the tag `latest` if it has neither tag nor digest.
    pub(crate) fn tagged(mut self) -> Self {
        if self.digest.is_none() {
            self.tag.get_or_insert_with(|| "latest".to_owned());
        }
        self
    }

    /// Whether the registry is on this host. docker uses plain HTTP for such a registry if it does not speak TLS.
    pub(crate) fn is_on_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

/// Whether a registry `host[:port]` is on this host.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Whether the first component of a name is a registry, as docker's reference grammar says it.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':', '[']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_those_of_docker_hub() {
        for (typed, full, shown) in [
            ("alpine", "docker.io/library/alpine", "alpine"),
            ("alpine:3", "docker.io/library/alpine:3", "alpine:3"),
            ("a/b", "docker.io/a/b", "a/b"),
            ("docker.io/library/a:t", "docker.io/library/a:t", "a:t"),
            ("index.docker.io/a", "docker.io/library/a", "a"),
            ("localhost/a", "localhost/a", "localhost/a"),
            ("localhost:5000/a/b:t", "localhost:5000/a/b:t", "localhost:5000/a/b:t"),
            ("r.example/a@sha256:0", "r.example/a@sha256:0", "r.example/a@sha256:0"),
        ] {
            let name = Name::parse(typed).expect("a name");
            assert_eq!((name.full().as_str(), familiar(&name.full())), (full, shown), "{typed}");
        }
        for typed in ["", "a:", "localhost:5000/", ":t", "@sha256:0", "a@"] {
            assert_eq!(Name::parse(typed).expect_err("no name").status, 400, "{typed:?}");
        }
    }

    #[test]
    fn a_registry_on_this_host_is_recognized() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "10.0.0.1:5000", "[::2]:5000", "docker.io"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
