//! A credential, as requests to the engine carry it. Does no I/O.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A credential for a registry. Its `Debug` form hides secrets.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// `host[:port][/path…]`, like the keys of containers-auth.json(5).
    pub registry: String,
    /// User name; empty with an identity token.
    pub username: String,
    /// Password; empty with an identity token.
    pub password: String,
    /// OAuth 2 refresh token; empty with a password.
    pub identity_token: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("registry", &self.registry).finish_non_exhaustive()
    }
}
