//! The credentials of one job: the credentials in the client's request, then the engine's own.
//!
//! `auth` searches for a credential only when a registry demands one, so that a pull without a login runs no
//! credential helper. [`Credentials`] is cheap to clone; its `Debug` form contains no secret.

use sampan_ipc::credentials::{Credential, Found, Search, matching};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// The credentials of one job.
#[derive(Clone, Debug, Default)]
pub struct Credentials(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    given: Vec<Credential>,
    own: Search,
}

impl Credentials {
    /// Searches `given` (from the client's request) first, then `auth_file`, then `helpers`.
    ///
    /// Without an `auth_file`, [`Search::from_env`] finds the files through this process's environment.
    pub fn new(given: Vec<Credential>, auth_file: Option<&PathBuf>, helpers: &[String]) -> Self {
        let own = Search::from_env(auth_file.map(PathBuf::as_path), helpers);
        Credentials(Arc::new(Inner { given, own }))
    }

    /// Uses `given` for its registry, and no other credential.
    pub fn only(given: Credential) -> Self {
        Credentials(Arc::new(Inner { given: vec![given], own: Search::default() }))
    }

    /// A hash of the client's credentials; equal credentials have equal hashes for as long as this process runs.
    ///
    /// Two requests for one image share a pull only if their credentials have the same fingerprint.
    pub fn fingerprint(&self) -> u64 {
        static KEYS: OnceLock<RandomState> = OnceLock::new();
        let fields = self
            .0
            .given
            .iter()
            .map(|given| (&given.registry, &given.username, &given.password, &given.identity_token));
        KEYS.get_or_init(RandomState::new).hash_one(fields.collect::<Vec<_>>())
    }

    /// Finds the credential for the repository `path` of `host`. May run a credential helper and wait for it; gives up
    /// when `is_over` returns true.
    pub fn find(&self, host: &str, path: &str, is_over: &dyn Fn() -> bool) -> Found {
        match matching::best(&self.0.given, host, path) {
            Some(given) => Found { credential: Some(given.clone()), problems: Vec::new() },
            None => self.0.own.find(host, path, is_over),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_with_the_request_wins_and_is_not_printed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("auth.json");
        std::fs::write(
            &path,
            r#"{"auths":{"r.example/a":{"auth":"b3duOnB3"},"q.example":{"auth":"b3duOnB3"}}}"#,
        )
        .expect("written");
        let given = Credential {
            registry: "r.example".into(),
            username: "given".into(),
            password: "hunter2".into(),
            ..Credential::default()
        };
        let credentials = Credentials::new(vec![given], Some(&path), &[]);
        let user = |host| credentials.find(host, "a", &|| false).credential.map(|c| c.username);
        assert_eq!(user("r.example").as_deref(), Some("given"));
        assert_eq!(user("q.example").as_deref(), Some("own"));
        assert!(!format!("{credentials:?}").contains("hunter2"));
        assert_eq!(credentials.fingerprint(), credentials.clone().fingerprint());
        assert_ne!(credentials.fingerprint(), Credentials::default().fingerprint());
    }
}
