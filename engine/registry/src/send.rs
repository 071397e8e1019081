//! Sends requests that change a [`Registry`]: POST, PATCH, PUT and DELETE, and requests about an upload.
//!
//! Called by `upload` and `manifest`. If a registry answers a body with a challenge or a redirect, the body is read
//! again from its [`Payload`].

use crate::access::{Headers, Payload};
use crate::error::{Failed, RegistryError};
use crate::headers::stated_digest;
use crate::redirect::join;
use crate::registry::Registry;
use crate::transport::REDIRECTS_MAX;
use ::http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use sampan_oci::digest::Digest;
use std::io;
use ureq::{Body, SendBody};

/// A request without its URL, which a redirect changes.
#[derive(Clone, Copy)]
struct RepeatableRequest<'a, 'p> {
    /// The subject of the request, for errors.
    what: &'a str,
    method: &'a Method,
    headers: Headers<'a>,
    payload: Option<&'a Payload<'p>>,
}

impl Registry {
    /// Sends a request, follows redirects, and repeats the request once if the registry answers with a challenge.
    ///
    /// `url` may come from an earlier process, which has stored the URL of an upload.
    pub(crate) fn send(
        &self,
        what: &str,
        method: &Method,
        url: &str,
        headers: Headers<'_>,
        payload: Option<&Payload<'_>>,
    ) -> Result<Response<Body>, RegistryError> {
        // The scheme decides whether `url` may get the token, so it must be known first.
        let scheme = self.detect_scheme(what).map_err(|error| as_sent(what, error))?;
        if scheme == "https" && !url.starts_with("https://") && !self.insecure {
            return Err(self.bad_answer("has an upload at a URL without TLS".to_owned()));
        }
        let to_send = RepeatableRequest { what, method, headers, payload };
        let sent = self.authorization()?;
        let response = self.send_following_redirects(to_send, url)?;
        if response.status() == StatusCode::UNAUTHORIZED && self.authenticate(&response, sent)? {
            return self.send_following_redirects(to_send, url);
        }
        Ok(response)
    }

    fn send_following_redirects(
        &self,
        to_send: RepeatableRequest<'_, '_>,
        url: &str,
    ) -> Result<Response<Body>, RegistryError> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send_once(to_send, &url)?;
            let is_followed = match response.status() {
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
                // After the other redirects a client may change the method to GET, so only HEAD and GET follow them.
                // RFC 9110, section 15.4.
                status => status.is_redirection() && matches!(*to_send.method, Method::HEAD | Method::GET),
            };
            let location = response.headers().get(header::LOCATION).filter(|_| is_followed);
            let Some(location) = location else {
                return Ok(response);
            };
            url = self.resolve_location(&url, location)?;
        }
        Err(self.bad_answer(format!("redirects more than {REDIRECTS_MAX} times")))
    }

    fn send_once(
        &self,
        to_send: RepeatableRequest<'_, '_>,
        url: &str,
    ) -> Result<Response<Body>, RegistryError> {
        let RepeatableRequest { what, method, headers, payload } = to_send;
        let failed = |source| self.send_error(what, source);
        let invalid = |error| self.send_error(what, ureq::Error::Http(error));
        let uri: Uri = url.parse().map_err(|error| invalid(::http::Error::from(error)))?;
        let mut request = Request::builder().method(method).uri(&uri);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        if let Some(authorization) = self.authorization_for(&uri) {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if matches!(*method, Method::HEAD | Method::GET | Method::DELETE) {
            return self.run(what, &uri, request.body(()).map_err(invalid)?, &failed);
        }
        let mut reader = match payload {
            Some(payload) => (payload.open)().map_err(|error| failed(ureq::Error::Io(error)))?,
            None => Box::new(io::empty()),
        };
        request = request.header(header::CONTENT_LENGTH, payload.map_or(0, |payload| payload.len));
        let body = SendBody::from_reader(&mut reader);
        self.run(what, &uri, request.body(body).map_err(invalid)?, &failed)
    }

    fn send_error(&self, what: &str, source: ureq::Error) -> RegistryError {
        RegistryError::Send { what: what.to_owned(), host: self.host.clone(), source: Failed(source) }
    }

    /// The URL of the next request of an upload, from a `Location` header.
    pub(crate) fn resolve_location(
        &self,
        url: &str,
        location: &HeaderValue,
    ) -> Result<String, RegistryError> {
        let no_url = || self.bad_answer("redirects an upload to an invalid URL".to_owned());
        let base: Uri = url.parse().map_err(|_| no_url())?;
        let next = join(&base, location.as_bytes()).ok_or_else(no_url)?;
        if next.parse::<Uri>().is_err() {
            return Err(no_url());
        }
        // The body may be a private image, so it must not be sent without TLS.
        if url.starts_with("https://") && !next.starts_with("https://") && !self.insecure {
            return Err(self.bad_answer("redirects an upload from HTTPS to plain HTTP".to_owned()));
        }
        Ok(next)
    }

    /// The URL of `path` below `/v2/`.
    pub(crate) fn url(&self, what: &str, path: &str) -> Result<String, RegistryError> {
        // A GET detects the scheme, and its errors say "cannot fetch". This person wants to send.
        let scheme = self.detect_scheme(what).map_err(|error| as_sent(what, error))?;
        Ok(format!("{scheme}://{}/v2/{path}", self.authority))
    }

    /// The error of a HEAD: a push calls it an error of sending.
    pub(crate) fn in_push(&self, what: &str, error: RegistryError) -> RegistryError {
        if self.is_push { as_sent(what, error) } else { error }
    }

    /// Compares the digest that the registry states with `expected`. Many registries state none, which is no error.
    pub(crate) fn check_digest(
        &self,
        expected: &Digest,
        response: &Response<Body>,
    ) -> Result<(), RegistryError> {
        match stated_digest(response) {
            // The digest may be of another algorithm, and cannot be compared then.
            Some(found) if found != *expected && found.algorithm() == expected.algorithm() => {
                Err(RegistryError::Digest { expected: expected.clone(), found })
            }
            _ => Ok(()),
        }
    }
}

/// The error of a request for `what` whose purpose is to send it.
fn as_sent(what: &str, error: RegistryError) -> RegistryError {
    match error {
        RegistryError::Transport { what: failed, host, source } if failed == what => {
            RegistryError::Send { what: failed, host, source }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Access;
    use sampan_oci::reference::Reference;

    #[test]
    fn an_upload_goes_where_the_registry_says_and_not_into_the_open() {
        let registry = Registry::new(&Reference::parse("r.example/a").expect("good"), &Access::default());
        let next = |location: &'static str| {
            let url = "https://r.example/v2/a/blobs/uploads/";
            registry.resolve_location(url, &HeaderValue::from_static(location))
        };
        assert_eq!(next("/v2/a/x?_state=y").expect("good"), "https://r.example/v2/a/x?_state=y");
        assert_eq!(next("https://store.example/x").expect("good"), "https://store.example/x");
        assert!(next("http://r.example/x").is_err());
        assert!(next("https://[").is_err());
    }
}
