//! What a job is to registries: its client's credentials first, then the engine's own.
//!
//! Asked by a [`crate::Registry`] when a registry wants to know, and only then, so that a pull that needs no
//! credential runs no helper. Cheap to clone; its `Debug` form has no secret.

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
    /// Those that came with the request, then those of `auth_file`, then those of `helpers` as
    /// [`Search::from_env`] has them: without any, of the files that this process's environment gives.
    pub fn new(given: Vec<Credential>, auth_file: Option<&PathBuf>, helpers: &[String]) -> Self {
        let own = Search::from_env(auth_file.map(PathBuf::as_path), helpers);
        Credentials(Arc::new(Inner { given, own }))
    }

    /// One credential and no other.
    pub fn only(given: Credential) -> Self {
        Credentials(Arc::new(Inner { given: vec![given], own: Search::default() }))
    }

    /// A number that is the same for the same credentials of a client, until the engine ends.
    ///
    /// A pull that somebody may make is not joined by one who brings other credentials.
    pub fn fingerprint(&self) -> u64 {
        static KEYS: OnceLock<RandomState> = OnceLock::new();
        let words = self
            .0
            .given
            .iter()
            .map(|given| (&given.registry, &given.username, &given.password, &given.identity_token));
        KEYS.get_or_init(RandomState::new).hash_one(words.collect::<Vec<_>>())
    }

    /// What the repository `path` of `host` gets. May run a helper, and wait for it, but not once `is_over`.
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
