//! What a registry has been told, and has told us, about who we are.
//!
//! Owned by a [`crate::Registry`]; [`crate::auth`] fills it. Sends nothing.

use crate::challenge::Challenge;
use crate::credentials::Credentials;
use ::http::HeaderValue;
use sampan_ipc::credentials::Credential;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

/// What a registry has been told, and has told us, about who we are.
#[derive(Default)]
pub(crate) struct Session {
    pub(crate) credentials: Credentials,
    /// What a token is asked for: `repository:a:pull`; none just to log in.
    pub(crate) scopes: Mutex<Vec<String>>,
    pub(crate) known: Mutex<Known>,
    /// Held while a token is got, so that the workers of a job get one and not each its own.
    pub(crate) renewal: Mutex<()>,
    /// Looked up once: a helper may ask a person.
    pub(crate) credential: OnceLock<Option<Credential>>,
    pub(crate) problems: OnceLock<String>,
}

#[derive(Default)]
pub(crate) struct Known {
    pub(crate) authorization: Option<HeaderValue>,
    /// When the token has to be renewed, and for which challenge.
    pub(crate) renew: Option<(Instant, Challenge)>,
    /// A realm may give out a new one with each token.
    pub(crate) refresh_token: Option<String>,
}

impl Session {
    /// For pulls from `repository`.
    pub(crate) fn new(credentials: Credentials, repository: &str) -> Self {
        let scopes = Mutex::new(vec![format!("repository:{repository}:pull")]);
        Session { credentials, scopes, ..Session::default() }
    }

    /// What stood in the way of a credential, for a message about its lack.
    pub(crate) fn problems(&self) -> String {
        self.problems.get().cloned().unwrap_or_default()
    }
}
