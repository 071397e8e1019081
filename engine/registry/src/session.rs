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
    /// The scopes that a token is requested for, such as `repository:a:pull`. Empty for a login.
    pub(crate) scopes: Mutex<Vec<String>>,
    pub(crate) authorization: Mutex<Authorization>,
    /// Held while a token is requested, so that all workers of a job share one token.
    pub(crate) renewal: Mutex<()>,
    /// Looked up once, because a credential helper may prompt a person.
    pub(crate) credential: OnceLock<Option<Credential>>,
    pub(crate) credential_problems: OnceLock<String>,
}

#[derive(Default)]
pub(crate) struct Authorization {
    /// The value of the `Authorization` header.
    pub(crate) header: Option<HeaderValue>,
    /// When to renew the token, and the challenge to renew it with.
    pub(crate) renew: Option<(Instant, Challenge)>,
    /// A realm may issue a new refresh token with each token.
    pub(crate) refresh_token: Option<String>,
}

impl Session {
    /// A session whose tokens are for pulls from `repository`.
    pub(crate) fn new(credentials: Credentials, repository: &str) -> Self {
        let scopes = Mutex::new(vec![format!("repository:{repository}:pull")]);
        Session { credentials, scopes, ..Session::default() }
    }

    /// Why no credential was found, to be appended to an error message; empty if there was no problem.
    pub(crate) fn problems(&self) -> String {
        self.credential_problems.get().cloned().unwrap_or_default()
    }
}
