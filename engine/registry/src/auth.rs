//! Who we are to a [`Registry`]: challenges met with passwords and tokens.
//!
//! Basic: RFC 7617. Bearer: distribution's "Token Authentication", GET with a password or nothing, and its OAuth2
//! form, POST with a refresh token. A token is renewed when it has expired and when the registry refuses it. What
//! we are goes to the registry's own host and to the realm that it names; redirects get none of it.

use crate::challenge::{self, Challenge};
use crate::error::{RegistryError, crop};
use crate::registry::{Registry, is_loopback};
use crate::session::Known;
use crate::transport::SMALL_BODY_MAX;
use ::http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sampan_ipc::credentials::Credential;
use sampan_os::mutex::lock;
use serde::Deserialize;
use std::time::{Duration, Instant};
use ureq::Body;

/// How long a token is good that does not say so, and that says less: distribution's "Token Authentication".
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Longest that a token is trusted without being renewed.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(3600);
/// Longest token, in bytes: it has to fit into the head of a request.
const TOKEN_MAX: usize = 12 << 10;
/// So long before its end a token is renewed.
const MARGIN: Duration = Duration::from_secs(5);
/// What we call ourselves to an OAuth2 realm.
const CLIENT: &str = "sampan";

/// The answer of a realm.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
    /// A number of seconds; what is none says nothing.
    expires_in: Option<serde_json::Value>,
}

impl Registry {
    /// What the next request will say; renewed first if it has expired.
    pub(crate) fn authorization(&self) -> Result<Option<HeaderValue>, RegistryError> {
        let (now, due) = {
            let known = lock(&self.session.known);
            let due = known.renew.as_ref().filter(|(at, _)| Instant::now() >= *at);
            (known.authorization.clone(), due.map(|(_, challenge)| challenge.clone()))
        };
        if let Some(challenge) = due {
            self.renew(&challenge, now.as_ref())?;
        }
        Ok(lock(&self.session.known).authorization.clone())
    }

    /// Meets the challenge of `response`, a refusal of a request that said `sent`; false if that cannot be.
    pub(crate) fn authenticate(
        &self,
        response: &Response<Body>,
        sent: Option<HeaderValue>,
    ) -> Result<bool, RegistryError> {
        let values = response.headers().get_all(header::WWW_AUTHENTICATE).iter();
        // A header may hold bytes that are no text, which are nothing that a challenge needs.
        let challenges: Vec<Challenge> =
            values.flat_map(|v| challenge::parse(&String::from_utf8_lossy(v.as_bytes()))).collect();
        if let Some(bearer) = challenges.iter().find(|c| c.scheme == "bearer") {
            return self.renew(bearer, sent.as_ref()).map(|()| true);
        }
        if !challenges.iter().any(|c| c.scheme == "basic") {
            return Ok(false);
        }
        let Some(value) = self.credential().and_then(basic) else {
            return Ok(false);
        };
        let mut known = lock(&self.session.known);
        // The very same once more would be refused again.
        let is_news = sent.as_ref() != Some(&value);
        *known = Known { authorization: Some(value), ..Known::default() };
        Ok(is_news)
    }

    /// Gets a token, unless somebody else has since `sent` was sent.
    fn renew(&self, bearer: &Challenge, sent: Option<&HeaderValue>) -> Result<(), RegistryError> {
        let _alone = lock(&self.session.renewal);
        if lock(&self.session.known).authorization.as_ref() != sent {
            return Ok(());
        }
        let token = self.token(bearer)?;
        let life = life(token.expires_in.as_ref());
        let word = token.token.or(token.access_token).filter(|t| !t.is_empty());
        let word = word.ok_or_else(|| self.wrong("gives an answer without a token".to_owned()))?;
        if word.len() > TOKEN_MAX {
            let wrong = format!("gives a token of {} bytes, at most {TOKEN_MAX} are sent", word.len());
            return Err(self.wrong(wrong));
        }
        let value = secret(&format!("Bearer {word}"))
            .ok_or_else(|| self.wrong("gives a token that no header can hold".to_owned()))?;
        let mut known = lock(&self.session.known);
        known.authorization = Some(value);
        known.renew = Some((Instant::now() + life - MARGIN, bearer.clone()));
        known.refresh_token = token.refresh_token.or(known.refresh_token.take());
        Ok(())
    }

    /// True if we have something to say about who we are.
    pub(crate) fn has_credential(&self) -> bool {
        self.credential().is_some()
    }

    /// What we are here; looked up when it is asked for first.
    fn credential(&self) -> Option<&Credential> {
        let session = &self.session;
        let found = session.credential.get_or_init(|| {
            let found = session.credentials.find(&self.host, &self.repository, &|| lock(&self.state).shut);
            for problem in &found.problems {
                log::warn!("{}: {problem}", self.host);
            }
            if found.credential.is_none() && !found.problems.is_empty() {
                let _ = session.problems.set(format!("; {}", found.problems.join("; ")));
            }
            found.credential
        });
        found.as_ref()
    }

    /// Asks the challenge's realm for a token.
    fn token(&self, bearer: &Challenge) -> Result<Token, RegistryError> {
        let realm = self.realm(bearer)?;
        let credential = self.credential();
        if credential.is_some() && realm.scheme_str() == Some("http") && !self.is_trusted_plain(&realm) {
            let wrong = format!("wants a password sent to {}, which is not HTTPS", origin(&realm));
            return Err(self.wrong(wrong));
        }
        let response = match credential {
            Some(credential) if !credential.identity_token.is_empty() => {
                self.post_refresh_token(&realm, bearer, &credential.identity_token)?
            }
            other => self.get_token(&realm, bearer, other)?,
        };
        if response.status() != StatusCode::OK {
            return Err(self.refusal("a token", response));
        }
        let bytes = self.read_small(response, "a token", SMALL_BODY_MAX)?;
        // The parser's words may quote what it read, and that may be a secret.
        serde_json::from_slice(&bytes).map_err(|_| self.wrong("gives a token that cannot be read".to_owned()))
    }

    /// Where tokens are got: HTTPS, or HTTP where that is allowed.
    fn realm(&self, bearer: &Challenge) -> Result<Uri, RegistryError> {
        let realm = bearer
            .get("realm")
            .ok_or_else(|| self.wrong("wants a token and does not say from where".to_owned()))?;
        let uri: Option<Uri> = realm.parse().ok();
        let uri = uri.filter(|uri: &Uri| {
            let plain = uri.scheme_str() == Some("http") && self.plain_allowed;
            // User and password in a URL would make it another host for some readers.
            let host = uri.authority().is_some_and(|a| !a.as_str().contains('@'));
            host && (plain || uri.scheme_str() == Some("https"))
        });
        uri.ok_or_else(|| self.wrong(format!("wants a token from {:?}, which is not HTTPS", crop(realm))))
    }

    /// True if a password may go there in the clear: within this host, or to the registry that may have it so.
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
        for (name, value) in self.token_words(bearer, credential) {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(&format!("{name}={}", percent(&value)));
        }
        self.follow_token(url, credential.and_then(basic))
    }

    /// GET, through redirects; a password goes to the realm's own host alone.
    fn follow_token(
        &self,
        url: String,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Body>, RegistryError> {
        let first: Option<Uri> = url.parse().ok();
        self.follow_as("a token", &url, &[], &|uri| {
            let same = first.as_ref().is_some_and(|first| origin(first) == origin(uri));
            authorization.clone().filter(|_| same)
        })
    }

    /// OAuth2: the secret is in the body, so redirects are not followed.
    fn post_refresh_token(
        &self,
        realm: &Uri,
        bearer: &Challenge,
        identity_token: &str,
    ) -> Result<Response<Body>, RegistryError> {
        let newer = lock(&self.session.known).refresh_token.clone();
        let mut words = vec![
            ("grant_type", "refresh_token".to_owned()),
            ("client_id", CLIENT.to_owned()),
            ("refresh_token", newer.unwrap_or_else(|| identity_token.to_owned())),
        ];
        let scopes = self.token_words(bearer, None);
        words.extend(scopes.iter().filter(|(name, _)| *name != "scope").cloned());
        let all: Vec<String> = scopes.into_iter().filter(|(n, _)| *n == "scope").map(|(_, v)| v).collect();
        words.push(("scope", all.join(" ")));
        let form: Vec<String> =
            words.iter().map(|(name, value)| format!("{name}={}", percent(value))).collect();
        let request = Request::post(realm.clone())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.join("&"))
            .map_err(|error| self.transport("a token", ureq::Error::Http(error)))?;
        let response = self.run(realm, request, &|source| self.transport("a token", source))?;
        match response.status().is_redirection() {
            true => Err(self.wrong("redirects a request for a token that has a secret in it".to_owned())),
            false => Ok(response),
        }
    }

    /// `service`, `account` and the scopes.
    fn token_words(
        &self,
        bearer: &Challenge,
        credential: Option<&Credential>,
    ) -> Vec<(&'static str, String)> {
        let mut words = Vec::new();
        words.extend(bearer.get("service").map(|service| ("service", service.to_owned())));
        words.extend(credential.map(|credential| ("account", credential.username.clone())));
        words.extend(lock(&self.session.scopes).iter().map(|scope| ("scope", scope.clone())));
        words
    }
}

/// How long a token is good for that says `expires_in`.
fn life(expires_in: Option<&serde_json::Value>) -> Duration {
    let said = expires_in.and_then(|value| match value {
        serde_json::Value::String(text) => text.trim().parse::<f64>().ok(),
        other => other.as_f64(),
    });
    let seconds = said.filter(|seconds| seconds.is_finite()).unwrap_or(0.0);
    Duration::from_secs_f64(seconds.clamp(TOKEN_LIFE.as_secs_f64(), TOKEN_LIFE_MAX.as_secs_f64()))
}

/// Scheme, host and port.
fn origin(uri: &Uri) -> String {
    format!("{}://{}", uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |a| a.as_str()))
}

/// `Basic …` of a password; `None` for an identity token.
fn basic(credential: &Credential) -> Option<HeaderValue> {
    let Credential { username, password, identity_token, .. } = credential;
    // RFC 7617, section 2: a user name has no colon.
    if !identity_token.is_empty() || username.contains(':') {
        return None;
    }
    secret(&format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

/// A header's value that is never printed.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' => {
                out.push(byte.into())
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
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
        let words = |registry: Registry| {
            let words = registry.token_words(&service, None);
            words.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" | ")
        };
        assert_eq!(words(registry("r/a", false).for_login()), "service=s & t");
        assert_eq!(words(registry("r.x/a", false)), "service=s & t | scope=repository:a:pull");
        assert_eq!(
            words(registry("r.x/a", false).for_push(["b", "c/d"])),
            "service=s & t | scope=repository:a:pull,push | scope=repository:b:pull | scope=repository:c/d:pull"
        );
        assert_eq!(percent("s & t+%/:"), "s%20%26%20t%2B%25/:");
    }

    #[test]
    fn a_token_lives_as_long_as_it_says_within_bounds() {
        for (said, seconds) in [
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
            let value = serde_json::from_str(said).expect("JSON");
            assert_eq!(life(Some(&value)), Duration::from_secs(seconds), "{said}");
        }
        assert_eq!(life(None), TOKEN_LIFE);
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
