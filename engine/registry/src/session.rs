//! The state of authentication with one registry: the credential, the token in use, and when to renew it.
//!
//! A [`crate::Registry`] owns one [`Session`]; `auth` fills it. This module sends nothing.

use crate::challenge::Challenge;
use crate::credentials::Credentials;
use ::http::HeaderValue;
use sampan_ipc::credentials::Credential;
use sampan_os::mutex::lock;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

/// Most actions that challenges may add to a scope.
const ACTIONS_MAX: usize = 8;

#[derive(Default)]
pub(crate) struct Session {
    pub(crate) credentials: Credentials,
    pub(crate) scopes: Mutex<Scopes>,
    pub(crate) authorization: Mutex<Authorization>,
    /// Locked while a token is requested, so that all workers of a job share one token.
    pub(crate) renewal: Mutex<()>,
    /// The credential. It is searched only once, because a credential helper may prompt a person.
    pub(crate) credential: OnceLock<Option<Credential>>,
    pub(crate) credential_problems: OnceLock<String>,
    /// Whether the caller has given the `Authorization` header, so that no challenge is answered.
    pub(crate) is_fixed: bool,
}

/// The scopes for which a token is requested.
#[derive(Clone, Default)]
pub(crate) struct Scopes {
    /// The client's own scope first, such as `repository:a:pull`, then those of other repositories. Empty for a login.
    pub(crate) list: Vec<String>,
    /// Whether the realm has refused a token because of another repository's scope.
    pub(crate) is_own_only: bool,
    /// Counts the changes of the list, so that a token for an earlier list is renewed.
    pub(crate) revision: u64,
}

#[derive(Default)]
pub(crate) struct Authorization {
    /// The value of the `Authorization` header.
    pub(crate) header: Option<HeaderValue>,
    /// The time at which the token must be renewed, and the challenge for the renewal.
    pub(crate) renew: Option<(Instant, Challenge)>,
    /// The revision of the scopes for which the token was requested.
    pub(crate) revision: u64,
    /// The refresh token. A realm may issue a new one with each token.
    pub(crate) refresh_token: Option<String>,
}

impl Session {
    /// Makes a session whose tokens allow pulls from `repository`.
    pub(crate) fn new(credentials: Credentials, repository: &str) -> Self {
        let scopes = Scopes { list: vec![format!("repository:{repository}:pull")], ..Scopes::default() };
        Session { credentials, scopes: Mutex::new(scopes), ..Session::default() }
    }

    /// Replaces all scopes.
    pub(crate) fn set_scopes(&self, list: Vec<String>) {
        let mut scopes = lock(&self.scopes);
        *scopes = Scopes { list, revision: scopes.revision + 1, ..Scopes::default() };
    }

    /// Adds a scope behind the client's own one. If there are more than `max` added scopes then, removes the oldest.
    /// Does nothing after [`Session::drop_added_scopes`].
    pub(crate) fn add_scope(&self, scope: String, max: usize) {
        let mut scopes = lock(&self.scopes);
        if scopes.is_own_only || scopes.list.contains(&scope) {
            return;
        }
        if scopes.list.len() > max {
            scopes.list.remove(1);
        }
        scopes.list.push(scope);
        scopes.revision += 1;
    }

    /// Adds to the client's own scope the actions of `scope`, if `scope` is for the same resource. Returns whether an
    /// action was added.
    ///
    /// A registry names the scope of a request in its challenge. The names of actions differ between registries, for
    /// example `delete` or `*` for a deletion.
    pub(crate) fn extend_own_scope(&self, scope: &str) -> bool {
        let mut scopes = lock(&self.scopes);
        let Some(own) = scopes.list.first_mut() else { return false };
        let missing: Vec<&str> = match (own.rsplit_once(':'), scope.rsplit_once(':')) {
            (Some((resource, had)), Some((wanted, actions))) if resource == wanted => {
                actions.split(',').filter(|action| !had.split(',').any(|had| had == *action)).collect()
            }
            _ => return false,
        };
        let is_action = |action: &&str| *action == "*" || (1..=16).contains(&action.len()) && is_word(action);
        let missing: Vec<&str> = missing.into_iter().filter(is_action).take(ACTIONS_MAX).collect();
        if missing.is_empty() || own.split(',').count() > ACTIONS_MAX {
            return false;
        }
        *own = format!("{own},{}", missing.join(","));
        scopes.revision += 1;
        true
    }

    /// Removes all scopes of other repositories for good. Returns whether there were any.
    pub(crate) fn drop_added_scopes(&self) -> bool {
        let mut scopes = lock(&self.scopes);
        let has_added = scopes.list.len() > 1;
        scopes.list.truncate(1);
        scopes.is_own_only |= has_added;
        scopes.revision += u64::from(has_added);
        has_added
    }

    /// Why no credential was found, to be appended to an error message; empty if there was no problem.
    pub(crate) fn problems(&self) -> String {
        self.credential_problems.get().cloned().unwrap_or_default()
    }
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session::new(Credentials::default(), "a/b")
    }

    fn list(session: &Session) -> String {
        lock(&session.scopes).list.join(" ")
    }

    #[test]
    fn an_added_scope_takes_the_place_of_the_oldest_one() {
        let session = session();
        for name in ["x", "y", "y", "z", "x"] {
            session.add_scope(name.to_owned(), 2);
        }
        assert_eq!(list(&session), "repository:a/b:pull z x");
        assert_eq!(lock(&session.scopes).revision, 4);
        assert!(session.drop_added_scopes() && !session.drop_added_scopes());
        session.add_scope("refused".to_owned(), 2);
        assert_eq!((list(&session), lock(&session.scopes).revision), ("repository:a/b:pull".to_owned(), 5));
    }

    #[test]
    fn a_challenge_extends_the_own_scope_alone() {
        let session = session();
        for (scope, is_new) in [
            ("repository:a/b:pull", false),
            ("repository:a/b:pull,delete", true),
            ("repository:a/b:delete", false),
            ("repository:other:delete", false),
            ("repository:a/b", false),
            ("repository:a/b:", false),
            ("repository:a/b:x y", false),
            ("repository:a/b:*", true),
        ] {
            assert_eq!(session.extend_own_scope(scope), is_new, "{scope}");
        }
        assert_eq!(list(&session), "repository:a/b:pull,delete,*");
        let login = Session::default();
        assert!(!login.extend_own_scope("repository:a/b:pull"));
    }
}
