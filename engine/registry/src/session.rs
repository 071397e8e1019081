//! The state of authentication with one registry: the credential, the token in use, and when to renew it.
//!
//! A [`crate::Registry`] owns one [`Session`]; `auth` fills it. This module sends nothing.

use crate::challenge::Challenge;
use crate::credentials::Credentials;
use ::http::HeaderValue;
use sampan_ipc::credentials::Credential;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

#[derive(Default)]
pub(crate) struct Session {
    pub(crate) credentials: Credentials,
    /// The scopes for which a token is requested, such as `repository:a:pull`; empty for a login.
    pub(crate) scopes: Mutex<Vec<String>>,
    pub(crate) authorization: Mutex<Authorization>,
    /// Locked while a token is requested, so that all workers of a job share one token.
    pub(crate) renewal: Mutex<()>,
    /// The credential. It is searched only once, because a credential helper may prompt a person.
    pub(crate) credential: OnceLock<Option<Credential>>,
    pub(crate) credential_problems: OnceLock<String>,
}

#[derive(Default)]
pub(crate) struct Authorization {
    /// The value of the `Authorization` header.
    pub(crate) header: Option<HeaderValue>,
    /// The time at which the token must be renewed, and the challenge for the renewal.
    pub(crate) renew: Option<(Instant, Challenge)>,
    /// The refresh token. A realm may issue a new one with each token.
    pub(crate) refresh_token: Option<String>,
}

impl Session {
    /// Makes a session whose tokens allow pulls from `repository`.
    pub(crate) fn new(credentials: Credentials, repository: &str) -> Self {
        let scopes = Mutex::new(vec![format!("repository:{repository}:pull")]);
        Session { credentials, scopes, ..Session::default() }
    }

    /// Why no credential was found, to be appended to an error message; empty if there was no problem.
    pub(crate) fn problems(&self) -> String {
        self.credential_problems.get().cloned().unwrap_or_default()
    }
}
