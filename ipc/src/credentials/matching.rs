//! Selects the entry for a repository. A key matches if it is the repository's host, or the host and the beginning of
//! the path; the longest matching key wins. containers-auth.json(5).

use crate::engine::Credential;

/// Docker's name for Docker Hub, in its files and for its helpers.
pub const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// Returns the key in the form in which keys are compared: without a scheme, and with one name for Docker Hub.
///
/// Keys with a scheme are docker's old form. In such a key, the text after the host does not belong to a repository.
pub fn normalize(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let key = match bare {
        Some(bare) => bare.split('/').next().unwrap_or(bare),
        None => key.trim_end_matches('/'),
    };
    let (host, path) = match key.split_once('/') {
        Some((host, path)) => (host, Some(path)),
        None => (key, None),
    };
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    };
    path.map_or_else(|| host.to_owned(), |path| format!("{host}/{path}"))
}

/// Number of bytes of `host/path` that the key matches; `None` if the key does not match.
pub fn rank(key: &str, host: &str, path: &str) -> Option<usize> {
    let key = normalize(key);
    let name = format!("{}/{path}", normalize(host));
    let rest = name.strip_prefix(&key)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(key.len())
}

/// The host of a key.
pub fn host_of(key: &str) -> String {
    let mut key = normalize(key);
    key.truncate(key.find('/').unwrap_or(key.len()));
    key
}

/// The entry with the longest key that matches `host/path`.
pub fn best<'a>(entries: &'a [Credential], host: &str, path: &str) -> Option<&'a Credential> {
    let ranked = entries.iter().filter_map(|entry| Some((rank(&entry.registry, host, path)?, entry)));
    // Of equal keys the first wins: it comes from the file that is read first.
    ranked.rev().max_by_key(|(rank, _)| *rank).map(|(_, entry)| entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str) -> Credential {
        Credential { registry: key.to_owned(), username: key.to_owned(), ..Credential::default() }
    }

    #[test]
    fn the_longest_key_wins_and_ends_at_a_slash() {
        let entries =
            ["r.example:5000/a/b", "r.example:5000", "r.example:5000/a", "r.example", "r.example:5000"];
        let entries: Vec<Credential> = entries.map(entry).into();
        for (host, path, key) in [
            ("r.example:5000", "a/b/c", Some("r.example:5000/a/b")),
            ("r.example:5000", "a/bc", Some("r.example:5000/a")),
            ("r.example:5000", "x", Some("r.example:5000")),
            ("r.example", "a/b", Some("r.example")),
            ("r.example:50001", "a", None),
            ("evil.example", "r.example", None),
        ] {
            assert_eq!(best(&entries, host, path).map(|e| e.username.as_str()), key, "{host}/{path}");
        }
    }

    #[test]
    fn docker_hub_has_many_names() {
        for key in
            [DOCKER_HUB_KEY, "docker.io", "index.docker.io", "registry-1.docker.io", "docker.io/library"]
        {
            assert!(rank(key, "docker.io", "library/alpine").is_some(), "{key}");
        }
        assert!(rank("https://r.example/v2/", "r.example", "a").is_some());
        assert!(rank("docker.io/other", "docker.io", "library/alpine").is_none());
        assert!(rank("", "docker.io", "a").is_none());
    }
}
