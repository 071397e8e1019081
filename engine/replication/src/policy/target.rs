//! Names at the destination: from the path of a source's repository to that of the destination's.
//!
//! Used by `file` and by executions. The rules are those of Harbor's `dest_namespace` and `dest_namespace_replace_count`.

use std::collections::BTreeMap;

/// Longest path of a repository in bytes, together with a host. OCI distribution-spec, Pulling manifests.
const PATH_MAX: usize = 255;

/// How a policy names repositories at the destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The path of the destination that all repositories go below; may be empty.
    pub base: String,
    /// The namespace that replaces components of the source's path; `None` keeps the path.
    pub namespace: Option<String>,
    /// How many first components the namespace replaces; `None` replaces all but the last one.
    pub replaced: Option<usize>,
}

/// Why a repository has no name at the destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The path has too few components.
    #[error("cannot replace {replaced} components of {repository:?}: one must remain")]
    Short {
        /// The path of the source's repository.
        repository: String,
        /// How many components the policy replaces.
        replaced: usize,
    },
    /// The new path is longer than a registry allows.
    #[error("the name of {repository:?} at the destination is longer than 255 bytes")]
    Long {
        /// The path of the source's repository.
        repository: String,
    },
    /// The source's glob selects the new path too, at the same registry, so each run would copy the copies again.
    #[error("the copy of {repository:?} would be {destination:?}, which the policy would copy again")]
    Loop {
        /// The path of the source's repository.
        repository: String,
        /// The path at the destination.
        destination: String,
    },
}

impl Target {
    /// Returns the path at the destination for the path `repository` of the source; neither has a host.
    ///
    /// # Errors
    /// [`TargetError::Short`] and [`TargetError::Long`].
    pub fn repository(&self, repository: &str) -> Result<String, TargetError> {
        let rest = match (&self.namespace, self.replaced) {
            (None, _) => Some(repository),
            (Some(_), None) => repository.rsplit('/').next(),
            (Some(_), Some(0)) => Some(repository),
            (Some(_), Some(replaced)) => repository.splitn(replaced.saturating_add(1), '/').nth(replaced),
        };
        let rest = rest.ok_or_else(|| TargetError::Short {
            repository: repository.to_owned(),
            replaced: self.replaced.unwrap_or(0),
        })?;
        let parts = [self.base.as_str(), self.namespace.as_deref().unwrap_or(""), rest];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let path = parts.join("/");
        match path.len() {
            ..=PATH_MAX => Ok(path),
            _ => Err(TargetError::Long { repository: repository.to_owned() }),
        }
    }
}

/// Returns each destination that several sources have, with these sources in order; `pairs` are source and destination.
///
/// An execution must not start while there is one: the images of one source would replace those of another.
pub fn collisions<'a>(
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut sources: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (source, destination) in pairs {
        sources.entry(destination).or_default().push(source);
    }
    for list in sources.values_mut() {
        list.sort_unstable();
        list.dedup();
    }
    sources.retain(|_, list| list.len() > 1);
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_at_the_destination_follow_the_rules_of_harbor() {
        let table = [
            ("", None, None, "a/b/c", Some("a/b/c")),
            ("", Some("n"), None, "c", Some("n/c")),
            ("", Some("n"), None, "b/c", Some("n/c")),
            ("", Some("n"), None, "a/b/c", Some("n/c")),
            ("", Some("n"), Some(0), "a", Some("n/a")),
            ("", Some("n"), Some(0), "a/b/c", Some("n/a/b/c")),
            ("", Some("n"), Some(1), "a/b/c", Some("n/b/c")),
            ("", Some("n"), Some(2), "a/b/c", Some("n/c")),
            ("", Some("n"), Some(2), "a/b", None),
            ("", Some("n"), Some(3), "a/b", None),
            ("", Some("n"), Some(usize::MAX), "a/b", None),
            ("", Some("n/m"), Some(1), "a/b", Some("n/m/b")),
            ("x/y", None, None, "a/b", Some("x/y/a/b")),
            ("x", Some("n"), None, "a/b", Some("x/n/b")),
        ];
        for (base, namespace, replaced, source, expected) in table {
            let namespace = namespace.map(str::to_owned);
            let target = Target { base: base.to_owned(), namespace, replaced };
            assert_eq!(target.repository(source).ok().as_deref(), expected, "{target:?} {source}");
        }
        let target = Target { base: "b".repeat(250), ..Target::default() };
        assert!(matches!(target.repository("abcdef"), Err(TargetError::Long { .. })));
    }

    #[test]
    fn two_sources_with_one_destination_are_found() {
        let pairs = [("a/x", "n/x"), ("b/x", "n/x"), ("a/y", "n/y"), ("b/x", "n/x")];
        assert_eq!(collisions(pairs), BTreeMap::from([("n/x", vec!["a/x", "b/x"])]));
        assert!(collisions([("a", "a"), ("b", "b")]).is_empty());
    }
}
