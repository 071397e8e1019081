//! The header `X-Registry-Auth`: the credential of a client for the registry of an image.

use crate::refusal::Refusal;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use sampan_client::engine::Credential;
use serde::Deserialize;

const HEADER: &str = "x-registry-auth";
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);

/// The JSON in the header, and the body of `POST /auth`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RegistryAuth {
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) serveraddress: String,
    pub(crate) identitytoken: String,
    registrytoken: String,
    /// `USER:PASSWORD` in base64, as in the files of docker.
    auth: String,
}

impl RegistryAuth {
    /// The credential for `registry`; `None` if the client has sent none.
    ///
    /// # Errors
    /// The client has sent a registry token.
    pub(crate) fn credential(self, registry: String) -> Result<Option<Credential>, Refusal> {
        if !self.registrytoken.is_empty() {
            return Err(Refusal::missing("a registry token (registrytoken) as credential"));
        }
        let (mut username, mut password) = (self.username, self.password);
        if username.is_empty()
            && let Some((user, secret)) = decode(&self.auth).as_deref().and_then(|text| text.split_once(':'))
        {
            (username, password) = (user.to_owned(), secret.to_owned());
        }
        let identity_token = self.identitytoken;
        let is_empty = username.is_empty() && password.is_empty() && identity_token.is_empty();
        Ok((!is_empty).then_some(Credential { registry, username, password, identity_token }))
    }
}

/// The credential in the headers, for the registry of an image. A header that cannot be decoded counts as absent, as
/// dockerd does it.
///
/// # Errors
/// The client has sent a registry token.
pub(crate) fn credentials(headers: &HeaderMap, registry: &str) -> Result<Vec<Credential>, Refusal> {
    let header = headers.get(HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let auth: RegistryAuth =
        decode(header).and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
    Ok(auth.credential(registry.to_owned())?.into_iter().collect())
}

/// Decodes base64 of both alphabets, with padding or without.
fn decode(text: &str) -> Option<String> {
    let decoded = [alphabet::URL_SAFE, alphabet::STANDARD]
        .iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, LENIENT).decode(text.trim()).ok())?;
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};

    fn parse(header: &str) -> Result<Vec<Credential>, Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, header.parse().expect("a header"));
        credentials(&headers, "r:5000")
    }

    #[test]
    fn all_spellings_of_base64_are_read() {
        let json = r#"{"username":"a?>b","password":"~~p??","serveraddress":"elsewhere"}"#;
        for text in
            [BASE64_URL_SAFE.encode(json), BASE64_URL_SAFE_NO_PAD.encode(json), BASE64_STANDARD.encode(json)]
        {
            let found = parse(&text).expect("a credential");
            assert_eq!((found[0].username.as_str(), found[0].password.as_str()), ("a?>b", "~~p??"));
            assert_eq!(found[0].registry, "r:5000");
        }
        let token = parse(&BASE64_URL_SAFE.encode(r#"{"identitytoken":"t"}"#)).expect("a credential");
        assert_eq!(token[0].identity_token, "t");
        let auth = BASE64_URL_SAFE.encode(format!(r#"{{"auth":"{}"}}"#, BASE64_STANDARD.encode("u:p:q")));
        assert_eq!(parse(&auth).expect("a credential")[0].password, "p:q");
    }

    #[test]
    fn what_cannot_be_decoded_and_the_empty_object_are_no_credential() {
        for header in ["", "e30=", "%%%", "null", "AAAA", "W10="] {
            assert_eq!(parse(header).expect("none"), [], "{header:?}");
        }
        let token = BASE64_URL_SAFE.encode(r#"{"registrytoken":"t"}"#);
        assert_eq!(parse(&token).expect_err("not served").status, 501);
    }
}
