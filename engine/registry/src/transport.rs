//! Sends one HTTP request to a [`Registry`], follows redirects, and reads small bodies.
//!
//! Called by `client`, `auth` and `upload`. This module decides which redirects are followed, and sends no credential
//! to another host. `client` decides whether to speak HTTPS or HTTP.

use crate::access::Headers;
use crate::error::{RegistryError, crop};
use crate::headers::FirstError;
use crate::host_gate::Load;
use crate::redirect::join;
use crate::registry::Registry;
use crate::retry::parse_retry_after;
use crate::warning;
use ::http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use ureq::{AsSendBody, Body};

/// Longest body, in bytes, that is read only so that its connection can serve another request.
const DRAIN_MAX: u64 = 4096;
/// Longest body of an error or of a token, in bytes.
pub(crate) const SMALL_BODY_MAX: u64 = 256 << 10;
/// Fewest bytes of a small body that must arrive within each stall timeout. Without this limit, a server that sends
/// one byte just before each timeout could occupy a worker for hours.
const SMALL_BODY_PACE: usize = 1024;
/// Most redirects in a row.
pub(crate) const REDIRECTS_MAX: usize = 10;

impl Registry {
    /// Reads and drops the rest of a short body, so that the connection can serve the next request. A body that is
    /// long or states no length is not read, and its connection closes.
    pub(crate) fn drain(&self, response: Response<Body>) {
        if response.body().content_length().is_some_and(|len| len <= DRAIN_MAX) {
            let _ = self.read_body(response, DRAIN_MAX);
        }
    }

    /// Sends a GET or HEAD and follows redirects. Sends the token only to the registry's own host.
    pub(crate) fn follow(
        &self,
        method: &Method,
        what: &str,
        url: &str,
        headers: Headers<'_>,
    ) -> Result<Response<Body>, RegistryError> {
        self.follow_as(method, what, url, headers, &|uri| self.authorization_for(uri))
    }

    /// Sends a GET or HEAD and follows redirects; `authorize` returns the `Authorization` header for each URL on the
    /// way.
    pub(crate) fn follow_as(
        &self,
        method: &Method,
        what: &str,
        url: &str,
        headers: Headers<'_>,
        authorize: &dyn Fn(&Uri) -> Option<HeaderValue>,
    ) -> Result<Response<Body>, RegistryError> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let uri: Uri = url.parse().map_err(|_| {
                self.bad_answer(format!("redirects to {:?}, which is not a URL", printable_url(&url)))
            })?;
            let response = self.request_once(method, what, &uri, headers, authorize(&uri))?;
            let location =
                response.headers().get(header::LOCATION).filter(|_| response.status().is_redirection());
            let Some(location) = location else {
                return Ok(response);
            };
            url = join(&uri, location.as_bytes()).ok_or_else(|| {
                let location = String::from_utf8_lossy(location.as_bytes());
                self.bad_answer(format!(
                    "redirects to {:?}, which is not an HTTP URL",
                    printable_url(&location)
                ))
            })?;
            if uri.scheme_str() == Some("https") && !url.starts_with("https://") && !self.insecure {
                return Err(self.bad_answer(format!("redirects from HTTPS to {:?}", printable_url(&url))));
            }
        }
        Err(self.bad_answer(format!("redirects more than {REDIRECTS_MAX} times")))
    }

    fn request_once(
        &self,
        method: &Method,
        what: &str,
        uri: &Uri,
        headers: Headers<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Body>, RegistryError> {
        if let Some(error) = &self.blocked {
            return Err(RegistryError::Registries(Arc::clone(error)));
        }
        let failed = |source| self.transport_error(what, source);
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(()).map_err(|error| failed(ureq::Error::Http(error)))?;
        self.run(what, uri, request, &failed)
    }

    /// Sends one request for `what` and returns the answer, whatever its status. Waits until the gate of the host lets
    /// the request pass. `failed` makes the error of a request without an answer.
    pub(crate) fn run(
        &self,
        what: &str,
        uri: &Uri,
        request: Request<impl AsSendBody>,
        failed: &dyn Fn(ureq::Error) -> RegistryError,
    ) -> Result<Response<Body>, RegistryError> {
        let is_own = self.is_own(uri);
        let host = if is_own { self.host.as_str() } else { uri.authority().map_or("", |at| at.as_str()) };
        let pause = self.gates.pause(host);
        if self.is_mirror && !pause.is_zero() {
            return Err(self.paused(what, pause));
        }
        let closed = || failed(ureq::Error::Io(std::io::ErrorKind::NotConnected.into()));
        let began = self.gates.pass(host, &self.closed).map_err(|_| closed())?;
        let agent = self.agents.get(uri)?;
        // Check only after the agent was made: an earlier shutdown could not reach an agent that did not exist.
        if self.is_shut_down() {
            return Err(closed());
        }
        match agent.run(request) {
            Ok(response) if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                let why =
                    "the proxy does not accept the credentials in its URL, or there are none".to_owned();
                Err(RegistryError::Proxy { host: self.host.clone(), why })
            }
            Ok(mut response) => {
                let load = Load::of(response.status().as_u16(), retry_after(&response));
                self.gates.record(host, began, load);
                if is_own {
                    warning::log(&self.host, response.headers());
                } else {
                    // A host to which the registry redirects must not choose the realm that gets a password.
                    response.headers_mut().remove(header::WWW_AUTHENTICATE);
                }
                Ok(response)
            }
            Err(ureq::Error::ConnectProxyFailed(why)) => {
                Err(RegistryError::Proxy { host: self.host.clone(), why })
            }
            Err(source) => Err(failed(source)),
        }
    }

    /// The error of a request to a mirror that has asked for a pause. The request is not sent, and does not wait: other
    /// registries may have the image.
    fn paused(&self, what: &str, pause: Duration) -> RegistryError {
        RegistryError::Status {
            what: what.to_owned(),
            host: self.host.clone(),
            status: StatusCode::TOO_MANY_REQUESTS.as_u16(),
            code: String::new(),
            detail: ": it has asked all requests to wait".to_owned(),
            retry_after: Some(pause),
        }
    }

    /// Reads a body of at most `max` bytes. `what` describes the body in the error.
    pub(crate) fn read_bounded(
        &self,
        response: Response<Body>,
        what: &str,
        max: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        match self.read_body(response, max) {
            Ok(bytes) if bytes.len() as u64 <= max => Ok(bytes),
            Ok(_) | Err(ureq::Error::BodyExceedsLimit(_)) => {
                Err(self.bad_answer(format!("offers more than {max} bytes for {what}")))
            }
            Err(source) => Err(self.transport_error(what, source)),
        }
    }

    /// Reads a small body; fails if fewer than [`SMALL_BODY_PACE`] bytes come within one stall timeout.
    pub(crate) fn read_body(&self, response: Response<Body>, max: u64) -> Result<Vec<u8>, ureq::Error> {
        // Allow one byte more than `max`, because ureq fails when the limit is reached.
        let mut reader = response.into_body().into_with_config().limit(max + 1).reader();
        let (mut bytes, mut buffer) = (Vec::new(), [0; 8 << 10]);
        let (mut since, mut had) = (Instant::now(), 0);
        loop {
            match reader.read(&mut buffer).map_err(ureq::Error::from)? {
                0 => return Ok(bytes),
                len => bytes.extend_from_slice(buffer.get(..len).unwrap_or_default()),
            }
            if since.elapsed() >= self.agents.stall() {
                if bytes.len() - had < SMALL_BODY_PACE {
                    return Err(ureq::Error::Timeout(ureq::Timeout::RecvBody));
                }
                (since, had) = (Instant::now(), bytes.len());
            }
        }
    }

    /// The error for an answer whose status is not a success; reads the details from its headers and its body.
    pub(crate) fn status_error(&self, what: &str, response: Response<Body>) -> RegistryError {
        let status = response.status();
        let retry_after = retry_after(&response);
        let body = self.read_body(response, SMALL_BODY_MAX).unwrap_or_default();
        let (what, host) = (what.to_owned(), self.host.clone());
        let FirstError { code, detail } = FirstError::parse(&body);
        match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { what, host },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                RegistryError::Denied { what, host, detail: detail + &self.session.problems() }
            }
            status => {
                RegistryError::Status { what, host, status: status.as_u16(), code, detail, retry_after }
            }
        }
    }
}

/// The wait that the `Retry-After` header of an answer demands.
fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(value, SystemTime::now())
}

/// A URL for a message: shortened, and without its query, which may contain a signature that grants access.
pub(crate) fn printable_url(url: &str) -> String {
    crop(url.split(['?', '#']).next().unwrap_or_default())
}
