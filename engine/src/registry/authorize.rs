//! Who we are to a [`Registry`]: challenges met with tokens.

use super::{Registry, RegistryError, SMALL_BODY_MAX};
use crate::challenge::{self, Challenge};
use crate::store::lock;
use ::http::{Response, StatusCode, header};
use serde::Deserialize;
use ureq::Body;

impl Registry {
    /// Gets a token for the challenge of `response`; false if there is none that we can meet.
    pub(super) fn authenticate(&self, response: &Response<Body>) -> Result<bool, RegistryError> {
        let values = response.headers().get_all(header::WWW_AUTHENTICATE).iter();
        let challenges = values.filter_map(|v| v.to_str().ok()).flat_map(challenge::parse);
        let Some(bearer) = challenges.into_iter().find(|c| c.scheme == "bearer") else {
            return Ok(false);
        };
        let url = self.token_url(&bearer)?;
        let what = "a token";
        let response = self.follow_token(what, &url)?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(&format!("{} (token)", self.repository), response));
        }
        let bytes = self.read_small(response, what, SMALL_BODY_MAX)?;
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let token: Token = serde_json::from_slice(&bytes)
            .map_err(|e| self.wrong(format!("gives a token that is no JSON: {e}")))?;
        let token = token.token.or(token.access_token).filter(|t| !t.is_empty());
        let token = token.ok_or_else(|| self.wrong("gives an answer without a token".to_owned()))?;
        lock(&self.state).authorization = Some(format!("Bearer {token}"));
        Ok(true)
    }

    fn follow_token(&self, what: &str, url: &str) -> Result<Response<Body>, RegistryError> {
        // A stale token must not go to the token server.
        lock(&self.state).authorization = None;
        self.follow(what, url, &[])
    }

    fn token_url(&self, bearer: &Challenge) -> Result<String, RegistryError> {
        let realm = bearer
            .get("realm")
            .ok_or_else(|| self.wrong("wants a token and does not say from where".to_owned()))?;
        let plain = realm.starts_with("http://") && self.plain_allowed;
        if !realm.starts_with("https://") && !plain {
            return Err(self.wrong(format!("wants a token from {realm:?}, which is not HTTPS")));
        }
        let mut url = realm.to_owned();
        let mut add = |name: &str, value: &str| {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(name);
            url.push('=');
            url.push_str(&percent(value));
        };
        if let Some(service) = bearer.get("service") {
            add("service", service);
        }
        add("scope", &format!("repository:{}:pull", self.repository));
        Ok(url)
    }
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
    use crate::reference::Reference;
    use crate::registry::Access;

    #[test]
    fn a_token_url_is_encoded_and_https() {
        let registry = Registry::new(&Reference::parse("r.example/a").expect("good"), &Access::default());
        let challenge = |text| challenge::parse(text).remove(0);
        let url = registry
            .token_url(&challenge(r#"Bearer realm="https://t/x?a=b",service="s & t""#))
            .expect("good");
        assert_eq!(url, "https://t/x?a=b&service=s%20%26%20t&scope=repository:a:pull");
        assert!(registry.token_url(&challenge(r#"Bearer realm="http://t/""#)).is_err());
        assert!(registry.token_url(&challenge(r#"Bearer realm="file:///etc/passwd""#)).is_err());
    }
}
