//! Authentication at a [`Registry`]: answers its challenges with passwords and tokens.
//!
//! Basic authentication is RFC 7617. Bearer tokens follow "Token Authentication" of the distribution project: a GET,
//! with or without a password, or the OAuth2 form, a POST with a refresh token. A token is renewed when it expires,
//! and when the registry refuses it. Credentials go to the registry's own host and to the realm (the token server)
//! that it names, never to a host that one of them redirects to.

use crate::challenge::{self, Challenge};
use crate::error::{RegistryError, crop};
use crate::redirect::percent;
use crate::registry::{Registry, is_loopback};
use crate::session::Authorization;
use crate::transport::SMALL_BODY_MAX;
use ::http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sampan_ipc::credentials::Credential;
use sampan_os::mutex::lock;
use serde::Deserialize;
use std::time::{Duration, Instant};
use ureq::Body;

/// Lifetime of a token whose answer states no lifetime or a shorter one: the 60 s of "Token Authentication".
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Longest time for which a token is used without being renewed.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(3600);
/// Longest token, in bytes. A token must fit into the head of a request.
const TOKEN_MAX: usize = 12 << 10;
/// Time before its expiry at which a token is renewed.
const MARGIN: Duration = Duration::from_secs(5);
/// The `client_id` that an OAuth2 realm receives.
const CLIENT: &str = "sampan";

/// The answer of a realm.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
    /// Lifetime in seconds. Some realms send a string; a value that is no number is ignored.
    expires_in: Option<serde_json::Value>,
}

impl Registry {
    /// The `Authorization` header for the next request; renews the token first if it expires soon, or if it was
    /// requested for other scopes.
    pub(crate) fn authorization(&self) -> Result<Option<HeaderValue>, RegistryError> {
        let revision = lock(&self.session.scopes).revision;
        let (header, due) = {
            let authorization = lock(&self.session.authorization);
            let is_due = |at: Instant| Instant::now() >= at || authorization.revision < revision;
            let due = authorization.renew.as_ref().filter(|(at, _)| is_due(*at));
            (authorization.header.clone(), due.map(|(_, challenge)| challenge.clone()))
        };
        if let Some(challenge) = due {
            self.renew(&challenge, header.as_ref())?;
        }
        Ok(lock(&self.session.authorization).header.clone())
    }

    /// Answers the challenge in `response` to a request with the authorization `sent`. Returns whether there is a new
    /// authorization, with which the request is worth repeating.
    pub(crate) fn authenticate(
        &self,
        response: &Response<Body>,
        sent: Option<HeaderValue>,
    ) -> Result<bool, RegistryError> {
        if self.session.is_fixed {
            return Ok(false);
        }
        let values = response.headers().get_all(header::WWW_AUTHENTICATE).iter();
        // A header may contain bytes that are not UTF-8. No challenge needs such bytes, so they may get lost.
        let challenges: Vec<Challenge> =
            values.flat_map(|v| challenge::parse(&String::from_utf8_lossy(v.as_bytes()))).collect();
        if let Some(bearer) = challenges.iter().find(|c| c.scheme == "bearer") {
            for scope in bearer.get("scope").unwrap_or_default().split(' ') {
                self.session.extend_own_scope(scope);
            }
            return self.renew(bearer, sent.as_ref()).map(|()| true);
        }
        if !challenges.iter().any(|c| c.scheme == "basic") {
            return Ok(false);
        }
        let Some(value) = self.credential().and_then(basic) else {
            return Ok(false);
        };
        let mut authorization = lock(&self.session.authorization);
        // The registry just refused this password, and would refuse it again.
        let is_new = sent.as_ref() != Some(&value);
        *authorization = Authorization { header: Some(value), ..Authorization::default() };
        Ok(is_new)
    }

    /// Requests a token, unless another thread has replaced the authorization `sent` meanwhile by one for the present
    /// scopes.
    fn renew(&self, bearer: &Challenge, sent: Option<&HeaderValue>) -> Result<(), RegistryError> {
        let _renewal = lock(&self.session.renewal);
        let mut revision = lock(&self.session.scopes).revision;
        {
            let authorization = lock(&self.session.authorization);
            if authorization.header.as_ref() != sent && authorization.revision >= revision {
                return Ok(());
            }
        }
        let answer = match self.request_token(bearer) {
            // Some realms refuse all scopes if one of them is not granted. Mounts from other repositories are
            // dispensable, the client's own repository is not.
            Err(RegistryError::Denied { .. }) if self.session.drop_added_scopes() => {
                revision = lock(&self.session.scopes).revision;
                self.request_token(bearer)?
            }
            other => other?,
        };
        let life = token_life(answer.expires_in.as_ref());
        let token = answer.token.or(answer.access_token).filter(|t| !t.is_empty());
        let token = token.ok_or_else(|| self.bad_answer("sends an answer without a token".to_owned()))?;
        if token.len() > TOKEN_MAX {
            let problem = format!("sends a token of {} bytes, at most {TOKEN_MAX} are allowed", token.len());
            return Err(self.bad_answer(problem));
        }
        let value = secret(&format!("Bearer {token}")).ok_or_else(|| {
            self.bad_answer("sends a token with characters that no HTTP header may contain".to_owned())
        })?;
        let mut authorization = lock(&self.session.authorization);
        authorization.header = Some(value);
        authorization.renew = Some((Instant::now() + life - MARGIN, bearer.clone()));
        authorization.revision = revision;
        authorization.refresh_token = answer.refresh_token.or(authorization.refresh_token.take());
        Ok(())
    }

    /// Whether there is a credential for this registry.
    pub(crate) fn has_credential(&self) -> bool {
        self.credential().is_some()
    }

    /// The credential for this registry. The first call searches for it.
    fn credential(&self) -> Option<&Credential> {
        let session = &self.session;
        let found = session.credential.get_or_init(|| {
            let is_over = || self.is_shut_down();
            let found = session.credentials.find(&self.host, &self.repository, &is_over);
            for problem in &found.problems {
                log::warn!("{}: {problem}", self.host);
            }
            if found.credential.is_none() && !found.problems.is_empty() {
                let _ = session.credential_problems.set(format!("; {}", found.problems.join("; ")));
            }
            found.credential
        });
        found.as_ref()
    }

    /// Requests a token from the realm of the challenge.
    fn request_token(&self, bearer: &Challenge) -> Result<Token, RegistryError> {
        let realm = self.realm(bearer)?;
        let credential = self.credential();
        if credential.is_some() && realm.scheme_str() == Some("http") && !self.is_trusted_plain(&realm) {
            let problem = format!("wants a password sent to {}, which is not HTTPS", origin(&realm));
            return Err(self.bad_answer(problem));
        }
        let response = match credential {
            Some(credential) if !credential.identity_token.is_empty() => {
                self.post_refresh_token(&realm, bearer, &credential.identity_token)?
            }
            other => self.get_token(&realm, bearer, other)?,
        };
        if response.status() != StatusCode::OK {
            return Err(self.status_error("a token", response));
        }
        let bytes = self.read_bounded(response, "a token", SMALL_BODY_MAX)?;
        // Drop the parser's message: it may quote its input, which may be a secret.
        serde_json::from_slice(&bytes)
            .map_err(|_| self.bad_answer("sends a token that is not valid JSON".to_owned()))
    }

    /// The URL of the token server, from the challenge: HTTPS, or HTTP where that is allowed.
    fn realm(&self, bearer: &Challenge) -> Result<Uri, RegistryError> {
        let realm = bearer
            .get("realm")
            .ok_or_else(|| self.bad_answer("wants a token and does not say from where".to_owned()))?;
        let uri: Option<Uri> = realm.parse().ok();
        let uri = uri.filter(|uri: &Uri| {
            let plain = uri.scheme_str() == Some("http") && self.plain_allowed;
            // URL parsers disagree about which part of `a@b` is the host, so a URL with `@` is never trusted.
            let host = uri.authority().is_some_and(|a| !a.as_str().contains('@'));
            host && (plain || uri.scheme_str() == Some("https"))
        });
        uri.ok_or_else(|| {
            self.bad_answer(format!("wants a token from {:?}, which is not HTTPS", crop(realm)))
        })
    }

    /// Whether a password may be sent to `realm` without TLS: on loopback, and to the registry's own host if the host
    /// is marked insecure.
    fn is_trusted_plain(&self, realm: &Uri) -> bool {
        let host = realm.host().unwrap_or_default();
        let own: Option<Uri> = self.authority.parse().ok();
        is_loopback(host) || (self.insecure && own.is_some_and(|own| own.host() == Some(host)))
    }

    fn get_token(
        &self,
        realm: &Uri,
        bearer: &Challenge,
        credential: Option<&Credential>,
    ) -> Result<Response<Body>, RegistryError> {
        let mut url = realm.to_string();
        for (name, value) in self.token_parameters(bearer, credential) {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(&format!("{name}={}", percent(&value)));
        }
        self.follow_token(url, credential.and_then(basic))
    }

    /// Sends the GET for a token and follows redirects. The password goes to the realm's own host only.
    fn follow_token(
        &self,
        url: String,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Body>, RegistryError> {
        let first: Option<Uri> = url.parse().ok();
        self.follow_as(&Method::GET, "a token", &url, &[], &|uri| {
            let same = first.as_ref().is_some_and(|first| origin(first) == origin(uri));
            authorization.clone().filter(|_| same)
        })
    }

    /// Requests a token by OAuth2. The body contains a secret, so redirects are not followed.
    fn post_refresh_token(
        &self,
        realm: &Uri,
        bearer: &Challenge,
        identity_token: &str,
    ) -> Result<Response<Body>, RegistryError> {
        let newer = lock(&self.session.authorization).refresh_token.clone();
        let mut fields = vec![
            ("grant_type", "refresh_token".to_owned()),
            ("client_id", CLIENT.to_owned()),
            ("refresh_token", newer.unwrap_or_else(|| identity_token.to_owned())),
        ];
        let parameters = self.token_parameters(bearer, None);
        fields.extend(parameters.iter().filter(|(name, _)| *name != "scope").cloned());
        let scopes: Vec<String> =
            parameters.into_iter().filter(|(n, _)| *n == "scope").map(|(_, v)| v).collect();
        fields.push(("scope", scopes.join(" ")));
        let form: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name}={}", percent(value))).collect();
        let request = Request::post(realm.clone())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.join("&"))
            .map_err(|error| self.transport_error("a token", ureq::Error::Http(error)))?;
        let response =
            self.run("a token", realm, request, &|source| self.transport_error("a token", source))?;
        match response.status().is_redirection() {
            true => Err(self.bad_answer("redirects a request for a token that contains a secret".to_owned())),
            false => Ok(response),
        }
    }

    /// The parameters `service`, `account` and `scope` of a request for a token.
    fn token_parameters(
        &self,
        bearer: &Challenge,
        credential: Option<&Credential>,
    ) -> Vec<(&'static str, String)> {
        let mut parameters = Vec::new();
        parameters.extend(bearer.get("service").map(|service| ("service", service.to_owned())));
        parameters.extend(credential.map(|credential| ("account", credential.username.clone())));
        parameters.extend(lock(&self.session.scopes).list.iter().map(|scope| ("scope", scope.clone())));
        parameters
    }
}

/// The lifetime of a token, from `expires_in` of the realm's answer, within the bounds of this module.
fn token_life(expires_in: Option<&serde_json::Value>) -> Duration {
    let stated = expires_in.and_then(|value| match value {
        serde_json::Value::String(text) => text.trim().parse::<f64>().ok(),
        other => other.as_f64(),
    });
    let seconds = stated.filter(|seconds| seconds.is_finite()).unwrap_or(0.0);
    Duration::from_secs_f64(seconds.clamp(TOKEN_LIFE.as_secs_f64(), TOKEN_LIFE_MAX.as_secs_f64()))
}

/// `scheme://host:port` of `uri`.
fn origin(uri: &Uri) -> String {
    format!("{}://{}", uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |a| a.as_str()))
}

/// The header `Basic ...` for a user name and password; `None` if the credential is an identity token.
fn basic(credential: &Credential) -> Option<HeaderValue> {
    let Credential { username, password, identity_token, .. } = credential;
    // A user name with a colon cannot be sent: the first colon ends the name. RFC 7617, section 2.
    if !identity_token.is_empty() || username.contains(':') {
        return None;
    }
    secret(&format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

/// Makes a header value whose `Debug` form hides it.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Access;
    use sampan_oci::reference::Reference;

    fn registry(name: &str, insecure: bool) -> Registry {
        Registry::new(&Reference::parse(name).expect("good"), &Access { insecure, ..Access::default() })
    }

    fn bearer(text: &str) -> Challenge {
        challenge::parse(text).remove(0)
    }

    #[test]
    fn a_realm_is_https_or_plain_where_that_may_be() {
        let public = registry("r.example/a", false);
        assert!(public.realm(&bearer(r#"Bearer realm="https://t/x?a=b",service="s & t""#)).is_ok());
        for bad in ["http://t/", "file:///etc/passwd", "//t/", "", "https://r.example@evil.example/"] {
            assert!(public.realm(&bearer(&format!(r#"Bearer realm="{bad}""#))).is_err(), "{bad}");
        }
        let realm: Uri = "http://other.example/t".parse().expect("a URL");
        let own: Uri = "http://r.example:81/t".parse().expect("a URL");
        let insecure = registry("r.example:5000/a", true);
        assert!(insecure.realm(&bearer(r#"Bearer realm="http://other.example/t""#)).is_ok());
        assert!(!insecure.is_trusted_plain(&realm) && insecure.is_trusted_plain(&own));
        let here = registry("127.0.0.1:5000/a", false);
        assert!(!here.is_trusted_plain(&realm) && !here.is_trusted_plain(&own));
    }

    #[test]
    fn scopes_are_of_the_work_to_be_done() {
        let service = bearer(r#"Bearer realm="https://t/",service="s & t""#);
        let parameters = |registry: Registry| {
            let parameters = registry.token_parameters(&service, None);
            parameters.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" | ")
        };
        assert_eq!(parameters(registry("r/a", false).for_login()), "service=s & t");
        assert_eq!(parameters(registry("r.x/a", false)), "service=s & t | scope=repository:a:pull");
        assert_eq!(
            parameters(registry("r.x/a", false).for_push(["b", "c/d"])),
            "service=s & t | scope=repository:a:pull,push | scope=repository:b:pull | scope=repository:c/d:pull"
        );
    }

    #[test]
    fn a_token_lives_as_long_as_it_says_within_bounds() {
        for (stated, seconds) in [
            ("300", 300),
            ("300.0", 300),
            ("\"300\"", 300),
            ("0", 60),
            ("-5", 60),
            ("1e30", 3600),
            ("\"nan\"", 60),
            ("null", 60),
            ("[]", 60),
        ] {
            let value = serde_json::from_str(stated).expect("JSON");
            assert_eq!(token_life(Some(&value)), Duration::from_secs(seconds), "{stated}");
        }
        assert_eq!(token_life(None), TOKEN_LIFE);
    }

    #[test]
    fn a_password_is_never_printed() {
        let credential =
            Credential { username: "u".into(), password: "hunter2".into(), ..Credential::default() };
        let value = basic(&credential).expect("a header");
        assert_eq!(value.as_bytes(), b"Basic dTpodW50ZXIy");
        assert_eq!(format!("{value:?}"), "Sensitive");
        assert!(basic(&Credential { username: "a:b".into(), ..credential }).is_none());
    }
}
