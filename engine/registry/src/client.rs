//! Fetches blobs from a [`Registry`], and sends every GET and HEAD. OCI distribution-spec, "Pulling blobs".
//!
//! `manifest`, `list` and `referrers` send their requests by this module. The calls block, so callers use worker
//! threads; [`Registry::shutdown`] aborts the calls. The first request detects whether the registry speaks HTTPS or
//! plain HTTP. HTTP is tried only on loopback and at registries that are marked insecure. This module handles one
//! registry; [`crate::mirrors`] chooses among several.

use crate::access::{BlobBody, BlobHead, Headers};
use crate::error::{Failed, RegistryError};
use crate::headers::{content_length, is_rest};
use crate::registry::{Registry, is_loopback};
use ::http::uri::Authority;
use ::http::{HeaderName, Method, Response, StatusCode, header};
use sampan_oci::digest::Digest;
use sampan_os::mutex::lock;
use ureq::Body;

/// The header by which a server says that it is a registry, whatever the status. OCI distribution-spec, "Legacy
/// Docker support HTTP headers".
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

impl Registry {
    /// Checks that the host is a registry and accepts the credential. OCI distribution-spec, "Determining Support".
    ///
    /// # Errors
    /// [`RegistryError::Denied`] if the registry refuses the credential.
    pub fn check(&self) -> Result<(), RegistryError> {
        let scheme = self.detect_scheme("its front page")?;
        let url = self.front_page(scheme);
        let response = self.follow(&Method::GET, "its front page", &url, &[])?;
        match response.status() {
            StatusCode::OK => Ok(()),
            _ => Err(self.status_error("its front page", response)),
        }
    }

    /// Fetches a small blob completely. The caller compares its digest.
    ///
    /// # Errors
    /// [`RegistryError::Answer`] if the blob is larger than `max` bytes.
    pub fn small_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, RegistryError> {
        let what = format!("blob {digest}");
        let response = self.get(&what, &self.path(&format!("blobs/{digest}")), &[])?;
        self.read_bounded(response, &what, max)
    }

    /// Asks for a blob without fetching it; `None` if the repository does not have the blob. OCI distribution-spec,
    /// "Checking if content exists in the registry".
    ///
    /// # Errors
    /// [`RegistryError`] if the registry answers with a status other than 200 and 404.
    pub fn blob_head(&self, digest: &Digest) -> Result<Option<BlobHead>, RegistryError> {
        let found = self.head(&format!("blob {digest}"), &self.path(&format!("blobs/{digest}")), &[])?;
        Ok(found.map(|response| BlobHead { size: content_length(&response) }))
    }

    /// Whether the repository has the blob.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry answers with a status other than 200 and 404.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        self.blob_head(digest).map(|found| found.is_some())
    }

    /// Begins to fetch a blob of `size` bytes, from byte `offset` on. The body begins at byte 0 if the registry does
    /// not support ranges, or if the blob no longer has the given `etag`.
    ///
    /// OCI distribution-spec, "Pulling blobs"; RFC 9110, section 14.
    ///
    /// # Errors
    /// [`RegistryError::Answer`] if the registry announces another size than `size`.
    pub fn blob(
        &self,
        digest: &Digest,
        size: u64,
        offset: u64,
        etag: Option<&str>,
    ) -> Result<BlobBody, RegistryError> {
        let (what, path) = (format!("blob {digest}"), self.path(&format!("blobs/{digest}")));
        let range = format!("bytes={offset}-");
        let mut headers = vec![(header::RANGE, range.as_str())];
        headers.extend(etag.map(|etag| (header::IF_RANGE, etag)));
        let mut starts = offset;
        let mut response = match offset {
            0 => self.get(&what, &path, &[])?,
            _ => match self.get(&what, &path, &headers) {
                Err(RegistryError::Status { status: 416, .. }) => self.get(&what, &path, &[])?,
                other => other?,
            },
        };
        if response.status() == StatusCode::PARTIAL_CONTENT && !is_rest(&response, offset, size) {
            // The registry has sent a wrong part of the blob, so request the whole blob.
            response = self.get(&what, &path, &[])?;
        }
        if response.status() == StatusCode::OK {
            starts = 0;
        } else if !is_rest(&response, offset, size) {
            return Err(self.bad_answer(format!("sends a part of blob {digest} that was not requested")));
        }
        let announced = response.body().content_length();
        if let Some(announced) = announced.filter(|announced| *announced != size - starts) {
            return Err(
                self.bad_answer(format!("offers {announced} bytes for blob {digest}, expected {size}"))
            );
        }
        let etag = response.headers().get(header::ETAG).and_then(|v| v.to_str().ok());
        // Ignore weak ETags (`W/"..."`), which do not promise equal bytes. RFC 9110, section 13.1.5.
        let etag = etag.filter(|etag| etag.starts_with('"')).map(str::to_owned);
        let reader = response.into_body().into_with_config().limit(u64::MAX).reader();
        Ok(BlobBody { starts, etag, reader: Box::new(reader) })
    }

    /// The error for a body that broke off in the middle of a blob.
    pub fn blob_read_error(&self, digest: &Digest, source: std::io::Error) -> RegistryError {
        self.transport_error(&format!("blob {digest}"), ureq::Error::Io(source))
    }

    /// Sends one request for `path` below `/v2/`.
    ///
    /// If the scheme is not known but almost certain, the request itself is used to detect it. That saves a request
    /// for the front page.
    fn request(
        &self,
        method: &Method,
        what: &str,
        path: &str,
        headers: Headers<'_>,
    ) -> Result<Response<Body>, RegistryError> {
        let url = |scheme: &str| format!("{scheme}://{}/v2/{path}", self.authority);
        let known = lock(&self.state).scheme;
        let mut unclear = None;
        if let (None, [scheme, others @ ..]) = (known, self.schemes())
            && (others.is_empty() || is_loopback(&self.host))
        {
            match self.follow(method, what, &url(scheme), headers) {
                Ok(response) if others.is_empty() || is_registry(&response) => {
                    lock(&self.state).scheme = Some(scheme);
                    return Ok(response);
                }
                Ok(response) => unclear = Some((*scheme, response)),
                Err(error) if others.is_empty() || self.is_shut_down() => return Err(error),
                Err(_) => {}
            }
        }
        let scheme = self.detect_scheme(what)?;
        match unclear {
            // The registry has answered. Without new credentials, another request would get the same answer.
            Some((tried, response)) if tried == scheme && self.authorization()?.is_none() => Ok(response),
            _ => self.follow(method, what, &url(scheme), headers),
        }
    }

    /// Requests the front page, and authenticates if the answer has a challenge. Returns whether the next request will
    /// have an authorization that the last request did not have.
    fn authenticate_at_front_page(&self, what: &str) -> Result<bool, RegistryError> {
        // Copy the scheme and release the lock, because a credential helper may be slow.
        let (known, is_open) = {
            let state = lock(&self.state);
            (state.scheme, state.is_open)
        };
        // A front page that has asked for no credential would not ask for one now. Without this check, each blob that
        // an open registry lacks would cost two requests.
        let Some(scheme) = known.filter(|_| !is_open && self.has_credential()) else {
            return Ok(false);
        };
        let response = self.follow(&Method::GET, what, &self.front_page(scheme), &[])?;
        let is_challenge = response.status() == StatusCode::UNAUTHORIZED;
        lock(&self.state).is_open = response.status() == StatusCode::OK;
        let is_authenticated = is_challenge && self.authenticate(&response, None)?;
        self.drain(response);
        Ok(is_authenticated)
    }

    /// The URL that each registry answers. OCI distribution-spec, "Determining Support".
    fn front_page(&self, scheme: &str) -> String {
        format!("{scheme}://{}/v2/", self.authority)
    }

    /// The path below `/v2/` of `rest` in this repository.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("{}/{rest}", self.repository)
    }

    /// The schemes to try, in order.
    fn schemes(&self) -> &'static [&'static str] {
        match (self.is_socket, self.plain_allowed) {
            (true, _) => &["http"],
            // On loopback nobody can listen in, and most registries there speak plain HTTP. A first try with HTTPS
            // would read all CA certificates of the host for nothing.
            (false, true) if is_loopback(&self.host) => &["http", "https"],
            (false, true) => &["https", "http"],
            (false, false) => &["https"],
        }
    }

    /// Detects whether the registry speaks HTTPS or (if allowed) HTTP, by a request for the front page. Also
    /// authenticates if the answer has a challenge.
    pub(crate) fn detect_scheme(&self, what: &str) -> Result<&'static str, RegistryError> {
        let known = lock(&self.state).scheme;
        if let Some(scheme) = known {
            return Ok(scheme);
        }
        let schemes = self.schemes();
        let mut failure = None;
        for scheme in schemes {
            let is_choice = *scheme == "http" && schemes.len() > 1;
            match self.follow(&Method::GET, what, &self.front_page(scheme), &[]) {
                // An HTTPS server answers plain HTTP with status 400, so such an answer does not prove that the
                // registry speaks HTTP. The error of the HTTPS attempt is the useful one.
                Ok(response) if is_choice && !is_registry(&response) => {}
                Ok(response) => {
                    lock(&self.state).scheme = Some(scheme);
                    if response.status() == StatusCode::UNAUTHORIZED {
                        self.authenticate(&response, None)?;
                    }
                    self.drain(response);
                    return Ok(scheme);
                }
                Err(error) if self.is_shut_down() => return Err(error),
                // With an explicit port, the other scheme would connect to the port that has just timed out.
                Err(error) if is_connect_timeout(&error) && self.has_explicit_port() => return Err(error),
                // If the server speaks no TLS, the error of the HTTP attempt is the useful one.
                Err(error) => failure = failure.filter(|first| !is_not_tls(first)).or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| self.bad_answer("speaks neither HTTPS nor HTTP".to_owned())))
    }

    /// Whether HTTPS and HTTP would use one port.
    fn has_explicit_port(&self) -> bool {
        self.authority.parse::<Authority>().is_ok_and(|authority| authority.port().is_some())
    }

    /// Sends a GET for `path` below `/v2/`. Any status except 200 and 206 is an error.
    pub(crate) fn get(
        &self,
        what: &str,
        path: &str,
        headers: Headers<'_>,
    ) -> Result<Response<Body>, RegistryError> {
        let response = self.query(&Method::GET, what, path, headers)?;
        if matches!(response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Ok(response);
        }
        Err(self.status_error(what, response))
    }

    /// Sends a HEAD for `path` below `/v2/`; `None` if the registry answers 404.
    pub(crate) fn head(
        &self,
        what: &str,
        path: &str,
        headers: Headers<'_>,
    ) -> Result<Option<Response<Body>>, RegistryError> {
        let answered = self.query(&Method::HEAD, what, path, headers);
        let response = answered.map_err(|error| self.in_push(what, error))?;
        match response.status() {
            StatusCode::OK => Ok(Some(response)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.status_error(what, response)),
        }
    }

    /// Sends a GET or HEAD for `path` below `/v2/`. If the registry requires authentication, authenticates and repeats
    /// the request once. Returns the answer, whatever its status.
    pub(crate) fn query(
        &self,
        method: &Method,
        what: &str,
        path: &str,
        headers: Headers<'_>,
    ) -> Result<Response<Body>, RegistryError> {
        let sent = self.authorization()?;
        let response = self.request(method, what, path, headers)?;
        let is_authenticated = match response.status() {
            StatusCode::UNAUTHORIZED => self.authenticate(&response, sent)?,
            // Some registries hide a private repository behind 404 or 403 and send their challenge only on the
            // front page.
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN if sent.is_none() => {
                self.authenticate_at_front_page(what)?
            }
            _ => false,
        };
        if !is_authenticated {
            return Ok(response);
        }
        self.drain(response);
        self.request(method, what, path, headers)
    }
}

fn is_connect_timeout(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::Transport { source: Failed(ureq::Error::Timeout(ureq::Timeout::Connect)), .. }
    )
}

/// Whether an HTTPS request failed because the server does not speak TLS.
fn is_not_tls(error: &RegistryError) -> bool {
    let RegistryError::Transport { source: Failed(ureq::Error::Io(io)), .. } = error else { return false };
    let tls = io.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidMessage(_)))
}

/// Whether an answer from `/v2/`, or from a path below it, can only come from a registry. OCI distribution-spec,
/// "Determining Support".
fn is_registry(response: &Response<Body>) -> bool {
    let is_expected =
        matches!(response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::UNAUTHORIZED);
    is_expected || response.headers().contains_key(API_VERSION)
}
