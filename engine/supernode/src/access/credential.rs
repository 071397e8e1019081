//! The headers of a request to an origin that may hold a secret: with these, a client shows who it is.
//!
//! Called by [`crate::origin`], which keeps such headers from other hosts, and by [`super::Grants`]. A header that
//! this module does not know counts as a secret: services invent such headers (`PRIVATE-TOKEN`,
//! `X-JFrog-Art-Api`).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{Context, SHA256};
use serde::Deserialize;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Headers that hold no secret, in lower case.
const HARMLESS: [&str; 9] = [
    "accept",
    "accept-charset",
    "accept-language",
    "cache-control",
    "pragma",
    "range",
    "user-agent",
    "date",
    "docker-distribution-api-version",
];

/// Whether the header `name` holds no secret. The case of `name` does not matter.
pub fn is_harmless(name: &str) -> bool {
    HARMLESS.iter().any(|harmless| name.eq_ignore_ascii_case(harmless))
}

/// The secrets of one request, as a hash: two requests with equal secrets have equal credentials.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Credential {
    hash: [u8; 32],
    /// When the token says that it expires.
    expires: Option<SystemTime>,
}

impl Credential {
    /// The secrets among `headers`; `None` if there are none. The order of the headers does not matter.
    pub fn of<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let mut secrets: Vec<(String, &str)> = headers
            .into_iter()
            .filter(|(name, _)| !is_harmless(name))
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect();
        if secrets.is_empty() {
            return None;
        }
        secrets.sort();
        let mut context = Context::new(&SHA256);
        for text in secrets.iter().flat_map(|(name, value)| [name.as_str(), value]) {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        let tokens = secrets.iter().filter(|(name, _)| name == "authorization");
        Some(Credential { hash, expires: tokens.filter_map(|(_, value)| expiry(value)).min() })
    }

    /// When the token says that it expires; `None` if there is no token, or if it does not say so.
    pub fn expires(&self) -> Option<SystemTime> {
        self.expires
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A hash of a short password can be reversed, so it stays out of logs.
        f.debug_struct("Credential").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// The time of expiry of a JSON Web Token in an `Authorization` header. RFC 7519, section 4.1.4. The signature is
/// not checked: the origin has accepted the token.
fn expiry(authorization: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let (scheme, token) = authorization.trim().split_once(' ')?;
    let claims = token.trim().split('.').nth(1).filter(|_| scheme.eq_ignore_ascii_case("bearer"))?;
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let exp = serde_json::from_slice::<Claims>(&claims).ok()?.exp;
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(exp.max(0.0)).ok()?)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An `Authorization` header whose token expires at `exp`, in seconds since the epoch.
    pub(in crate::access) fn token(exp: &str) -> String {
        format!("Bearer e30.{}.c2ln", URL_SAFE_NO_PAD.encode(format!(r#"{{"sub":"a","exp":{exp}}}"#)))
    }

    #[test]
    fn equal_secrets_in_any_order_are_one_credential() {
        let of = |headers: &[(&str, &str)]| Credential::of(headers.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("Accept", "*/*"), ("USER-AGENT", "dfget/1.0.6")]), None);
        let one = of(&[("Authorization", "Basic eDp5"), ("Cookie", "a=b")]).expect("secrets");
        assert_eq!(of(&[("cookie", "a=b"), ("accept", "*/*"), ("authorization", "Basic eDp5")]), Some(one));
        for other in [
            &[("Authorization", "Basic eDp5")][..],
            &[("Authorization", "Basic eDp5"), ("Cookie", "a=c")],
            &[("AuthorizationB", "asic eDp5"), ("Cookie", "a=b")],
            &[("X-Auth-Token", "Basic eDp5"), ("Cookie", "a=b")],
        ] {
            assert_ne!(of(other), Some(one), "{other:?}");
        }
    }

    #[test]
    fn the_expiry_of_a_token_is_read_without_trust() {
        let expires = |value: &str| Credential::of([("authorization", value)]).and_then(|c| c.expires());
        let at = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(expires(&token("1700000000")), at(1_700_000_000));
        assert_eq!(expires(&token("1.7e9")), at(1_700_000_000));
        assert_eq!(expires(&token("-5")), at(0));
        for bad in ["1e300", "null", "\"soon\"", "[]", ""] {
            assert_eq!(expires(&token(bad)), None, "{bad}");
        }
        for bad in ["", "Bearer", "Bearer a", "Bearer a.b", "Bearer a.!!.c", "Basic a.e30.c", "Bearer ..."] {
            assert_eq!(expires(bad), None, "{bad}");
        }
    }
}
