//! Sends blobs and manifests to a [`Registry`]. OCI distribution-spec, "Push".
//!
//! Each method sends one request; the engine's push decides which request is next and which is tried again. If a
//! registry answers a body with a challenge or a redirect, the body is read again from its [`Payload`].

use crate::access::Headers;
use crate::error::{Failed, RegistryError};
use crate::redirect::join;
use crate::registry::Registry;
use crate::transport::REDIRECTS_MAX;
use ::http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use sampan_oci::digest::Digest;
use std::io::{self, Read};
use ureq::{Body, SendBody};

const OCTETS: &str = "application/octet-stream";
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// The body of a request, which can be opened again for each attempt.
pub struct Payload<'a> {
    /// Length in bytes. The reader must fail if it cannot return all of them.
    pub len: u64,
    /// Opens the body, at its first byte.
    pub open: &'a dyn Fn() -> io::Result<Box<dyn Read + 'a>>,
}

/// A running upload of a blob.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The URL of the next request, chosen by the registry.
    location: String,
}

/// The answer to the start of an upload.
#[derive(Debug)]
pub enum UploadStart {
    /// The registry has taken the blob from the other repository, so that nothing needs to be sent.
    Mounted,
    /// The registry expects the blob from its first byte on.
    Upload(Upload),
}

impl Registry {
    /// Whether the repository has the blob.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry answers with a status other than 200 and 404.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let what = format!("blob {digest}");
        self.head(&what, &format!("blobs/{digest}"), &[]).map(|found| found.is_some())
    }

    /// The digest of the manifest `target`, which is a tag or a digest; `None` if the registry has no such manifest, or
    /// does not state its digest.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry answers with a status other than 200 and 404.
    pub fn manifest_digest(&self, target: &str) -> Result<Option<Digest>, RegistryError> {
        let what = format!("manifest {}:{target}", self.repository);
        let accept = sampan_oci::ACCEPT.join(", ");
        let found = self.head(&what, &format!("manifests/{target}"), &[(header::ACCEPT, &accept)])?;
        Ok(found.as_ref().and_then(stated_digest))
    }

    /// Starts the upload of a blob, or mounts the blob from the repository `from` of the registry.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry refuses the upload, or states no URL for it.
    pub fn begin_upload(&self, digest: &Digest, from: Option<&str>) -> Result<UploadStart, RegistryError> {
        let what = format!("blob {digest}");
        let query = from.map_or(String::new(), |from| format!("?mount={digest}&from={from}"));
        let url = format!("{}/blobs/uploads/{query}", self.repository_url(&what)?);
        let response = self.send(&what, &Method::POST, &url, &[], None)?;
        match (response.status(), from) {
            (StatusCode::CREATED, Some(_)) => Ok(UploadStart::Mounted),
            (StatusCode::ACCEPTED, _) => self.new_upload(&url, &response).map(UploadStart::Upload),
            _ => Err(self.status_error(&what, response)),
        }
    }

    /// Number of bytes of an upload that the registry has received; `None` if it no longer knows the upload.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry answers with an unexpected status.
    pub fn upload_offset(&self, upload: &mut Upload) -> Result<Option<u64>, RegistryError> {
        let what = "how much of a blob has arrived";
        let response = self.send(what, &Method::GET, &upload.location, &[], None)?;
        match response.status() {
            StatusCode::NO_CONTENT | StatusCode::OK | StatusCode::ACCEPTED => {
                self.update_location(upload, &response)?;
                Ok(Some(received_bytes(&response)))
            }
            // Debian's docker-registry drops an upload whose request broke off; later requests get status 400.
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST | StatusCode::GONE => Ok(None),
            _ => Err(self.status_error(what, response)),
        }
    }

    /// Sends `payload`, the part of a blob from byte `at` on. Returns the number of bytes of the blob that the
    /// registry has.
    ///
    /// # Errors
    /// [`RegistryError::Status`] with status 416 if the registry does not have exactly `at` bytes.
    pub fn upload_part(
        &self,
        upload: &mut Upload,
        digest: &Digest,
        at: u64,
        payload: &Payload<'_>,
    ) -> Result<u64, RegistryError> {
        let what = format!("blob {digest}");
        let range = format!("{at}-{}", (at + payload.len).saturating_sub(1));
        let headers = [(header::CONTENT_TYPE, OCTETS), (header::CONTENT_RANGE, range.as_str())];
        let response = self.send(&what, &Method::PATCH, &upload.location, &headers, Some(payload))?;
        match response.status() {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED => {
                self.update_location(upload, &response)?;
                // Without a `Range` header, a success means that the registry has all bytes.
                let has_range = response.headers().contains_key(header::RANGE);
                Ok(if has_range { received_bytes(&response) } else { at + payload.len })
            }
            _ => Err(self.status_error(&what, response)),
        }
    }

    /// Finishes an upload. A small blob is sent as a whole in this request, as `whole`.
    ///
    /// # Errors
    /// [`RegistryError::Digest`] if the registry computed another digest.
    pub fn finish_upload(
        &self,
        upload: &Upload,
        digest: &Digest,
        whole: Option<&Payload<'_>>,
    ) -> Result<(), RegistryError> {
        let what = format!("blob {digest}");
        let joint = if upload.location.contains('?') { '&' } else { '?' };
        let url = format!("{}{joint}digest={digest}", upload.location);
        let headers = [(header::CONTENT_TYPE, OCTETS)];
        let response = self.send(&what, &Method::PUT, &url, &headers, whole)?;
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT => self.check_digest(digest, &response),
            _ => Err(self.status_error(&what, response)),
        }
    }

    /// Sends a manifest and stores it as `target`, which is a tag or the manifest's digest.
    ///
    /// # Errors
    /// [`RegistryError::Digest`] if the registry computed another digest.
    pub fn put_manifest(
        &self,
        target: &str,
        digest: &Digest,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        let what = format!("manifest {}:{target}", self.repository);
        let url = format!("{}/manifests/{target}", self.repository_url(&what)?);
        let payload =
            Payload { len: bytes.len() as u64, open: &|| Ok(Box::new(bytes) as Box<dyn Read + '_>) };
        let headers = [(header::CONTENT_TYPE, media_type)];
        let response = self.send(&what, &Method::PUT, &url, &headers, Some(&payload))?;
        match response.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED => {
                self.check_digest(digest, &response)
            }
            _ => Err(self.status_error(&what, response)),
        }
    }

    /// Sends a HEAD for `path` below `/v2/<repository>/`; `None` if the registry answers 404.
    fn head(
        &self,
        what: &str,
        path: &str,
        headers: Headers<'_>,
    ) -> Result<Option<Response<Body>>, RegistryError> {
        let url = format!("{}/{path}", self.repository_url(what)?);
        let response = self.send(what, &Method::HEAD, &url, headers, None)?;
        match response.status() {
            StatusCode::OK => Ok(Some(response)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.status_error(what, response)),
        }
    }

    fn repository_url(&self, what: &str) -> Result<String, RegistryError> {
        // A GET detects the scheme, and its errors say "cannot fetch". This person wants to send.
        let scheme = self.detect_scheme(what).map_err(|error| match error {
            RegistryError::Transport { what, host, source } => RegistryError::Send { what, host, source },
            other => other,
        })?;
        Ok(format!("{scheme}://{}/v2/{}", self.authority, self.repository))
    }

    /// Compares the digest that the registry states with `expected`. Many registries state none, which is no error.
    fn check_digest(&self, expected: &Digest, response: &Response<Body>) -> Result<(), RegistryError> {
        match stated_digest(response) {
            // The digest may be of another algorithm, and cannot be compared then.
            Some(found) if found != *expected && found.algorithm() == expected.algorithm() => {
                Err(RegistryError::Digest { expected: expected.clone(), found })
            }
            _ => Ok(()),
        }
    }

    fn new_upload(&self, url: &str, response: &Response<Body>) -> Result<Upload, RegistryError> {
        let mut upload = Upload { location: url.to_owned() };
        if !response.headers().contains_key(header::LOCATION) {
            return Err(self.bad_answer("starts an upload without saying where to send it".to_owned()));
        }
        self.update_location(&mut upload, response)?;
        Ok(upload)
    }

    /// Stores the URL of the upload's next request from the answer; keeps the current URL if the answer has none.
    fn update_location(&self, upload: &mut Upload, response: &Response<Body>) -> Result<(), RegistryError> {
        if let Some(location) = response.headers().get(header::LOCATION) {
            upload.location = self.resolve_location(&upload.location, location)?;
        }
        Ok(())
    }

    fn resolve_location(&self, url: &str, location: &HeaderValue) -> Result<String, RegistryError> {
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

    /// Sends a request, follows redirects, and repeats the request once if the registry answers with a challenge.
    fn send(
        &self,
        what: &str,
        method: &Method,
        url: &str,
        headers: Headers<'_>,
        payload: Option<&Payload<'_>>,
    ) -> Result<Response<Body>, RegistryError> {
        let sent = self.authorization()?;
        let response = self.send_following_redirects(what, method, url, headers, payload)?;
        if response.status() == StatusCode::UNAUTHORIZED && self.authenticate(&response, sent)? {
            return self.send_following_redirects(what, method, url, headers, payload);
        }
        Ok(response)
    }

    fn send_following_redirects(
        &self,
        what: &str,
        method: &Method,
        url: &str,
        headers: Headers<'_>,
        payload: Option<&Payload<'_>>,
    ) -> Result<Response<Body>, RegistryError> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send_once(what, method, &url, headers, payload)?;
            let is_followed = match response.status() {
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
                // After the other redirects a client may change the method to GET, so only HEAD and GET follow them.
                // RFC 9110, section 15.4.
                status => status.is_redirection() && matches!(*method, Method::HEAD | Method::GET),
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
        what: &str,
        method: &Method,
        url: &str,
        headers: Headers<'_>,
        payload: Option<&Payload<'_>>,
    ) -> Result<Response<Body>, RegistryError> {
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
        if matches!(*method, Method::HEAD | Method::GET) {
            return self.run(&uri, request.body(()).map_err(invalid)?, &failed);
        }
        let mut reader = match payload {
            Some(payload) => (payload.open)().map_err(|error| failed(ureq::Error::Io(error)))?,
            None => Box::new(io::empty()),
        };
        request = request.header(header::CONTENT_LENGTH, payload.map_or(0, |payload| payload.len));
        let body = SendBody::from_reader(&mut reader);
        self.run(&uri, request.body(body).map_err(invalid)?, &failed)
    }

    fn send_error(&self, what: &str, source: ureq::Error) -> RegistryError {
        RegistryError::Send { what: what.to_owned(), host: self.host.clone(), source: Failed(source) }
    }
}

fn stated_digest(response: &Response<Body>) -> Option<Digest> {
    Digest::parse(response.headers().get(DIGEST)?.to_str().ok()?).ok()
}

/// Number of bytes that the registry has received, from the `Range` header of its answer.
fn received_bytes(response: &Response<Body>) -> u64 {
    let range = response.headers().get(header::RANGE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    parse_received(range)
}

/// `0-N` means N + 1 bytes. Registries also send `0-0` for no byte, so `0-0` counts as none.
fn parse_received(range: &str) -> u64 {
    let range = range.trim();
    let last = range.strip_prefix("bytes=").unwrap_or(range).strip_prefix("0-");
    match last.and_then(|last| last.parse::<u64>().ok()) {
        None | Some(0) => 0,
        Some(last) => last.saturating_add(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Access;
    use sampan_oci::reference::Reference;

    #[test]
    fn a_range_is_how_many_bytes_are_there() {
        for (range, count) in [
            ("0-99", 100),
            ("bytes=0-99", 100),
            ("0-0", 0),
            ("", 0),
            ("5-9", 0),
            ("0--1", 0),
            ("0-18446744073709551615", u64::MAX),
            ("0-18446744073709551616", 0),
        ] {
            assert_eq!(parse_received(range), count, "{range}");
        }
    }

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
