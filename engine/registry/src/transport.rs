//! How a [`Registry`] is reached: connections, TLS, plain HTTP where that may be, redirects.

use crate::access::Headers;
use crate::error::{RegistryError, crop};
use crate::headers::{detail, parse_retry_after};
use crate::redirect::join;
use crate::registry::Registry;
use ::http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use sampan_os::mutex::lock;
use std::io::Read;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use ureq::{AsSendBody, Body};

/// Longest answer that is read only to keep its connection, in bytes.
const FRONT_PAGE_MAX: u64 = 4096;
/// Most bytes of an error's or a token's body that are read.
pub(crate) const SMALL_BODY_MAX: u64 = 256 << 10;
/// Fewest bytes of a small body that come in the time in which one may be late.
const SMALL_BODY_PACE: usize = 1024;
/// Most redirects in a row.
pub(crate) const REDIRECTS_MAX: usize = 10;

impl Registry {
    /// Reads what is left of an answer, so that the connection serves the next request; one without an end is not
    /// waited for.
    pub(crate) fn read_out(&self, response: Response<Body>) {
        if response.body().content_length().is_some_and(|len| len <= FRONT_PAGE_MAX) {
            let _ = self.read_body(response, FRONT_PAGE_MAX);
        }
    }

    /// GET, through redirects. The token goes to the registry's own host alone.
    pub(crate) fn follow(
        &self,
        what: &str,
        url: &str,
        headers: Headers<'_>,
    ) -> Result<Response<Body>, RegistryError> {
        self.follow_as(what, url, headers, &|uri| self.authorization_for(uri))
    }

    /// GET, through redirects, each told by `authorize` what it may know of who we are.
    pub(crate) fn follow_as(
        &self,
        what: &str,
        url: &str,
        headers: Headers<'_>,
        authorize: &dyn Fn(&Uri) -> Option<HeaderValue>,
    ) -> Result<Response<Body>, RegistryError> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let uri: Uri = url
                .parse()
                .map_err(|_| self.wrong(format!("redirects to {:?}, which is no URL", shown(&url))))?;
            let response = self.once(what, &uri, headers, authorize(&uri))?;
            let location =
                response.headers().get(header::LOCATION).filter(|_| response.status().is_redirection());
            let Some(location) = location else {
                return Ok(response);
            };
            url = join(&uri, location.as_bytes()).ok_or_else(|| {
                let location = String::from_utf8_lossy(location.as_bytes());
                self.wrong(format!("redirects to {:?}, which is no URL of HTTP", shown(&location)))
            })?;
            if uri.scheme_str() == Some("https") && !url.starts_with("https://") && !self.insecure {
                return Err(self.wrong(format!("redirects from HTTPS to {:?}", shown(&url))));
            }
        }
        Err(self.wrong(format!("redirects more than {REDIRECTS_MAX} times")))
    }

    fn once(
        &self,
        what: &str,
        uri: &Uri,
        headers: Headers<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Body>, RegistryError> {
        if let Some(why) = &self.refused {
            return Err(RegistryError::Registries(Arc::clone(why)));
        }
        let failed = |source| self.transport(what, source);
        let mut request = Request::get(uri.clone());
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(()).map_err(|error| failed(ureq::Error::Http(error)))?;
        self.run(uri, request, &failed)
    }

    /// Makes one request, whatever comes of it; `failed` says what its failure is called.
    pub(crate) fn run(
        &self,
        uri: &Uri,
        request: Request<impl AsSendBody>,
        failed: &dyn Fn(ureq::Error) -> RegistryError,
    ) -> Result<Response<Body>, RegistryError> {
        let agent = self.agents.get(uri)?;
        // Looked at when the agent is there: a shutdown before it did not find it.
        if lock(&self.state).shut {
            return Err(failed(ureq::Error::Io(std::io::ErrorKind::NotConnected.into())));
        }
        match agent.run(request) {
            Ok(response) if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                let why = "the proxy wants credentials, or others than its URL has".to_owned();
                Err(RegistryError::Proxy { host: self.host.clone(), why })
            }
            Ok(mut response) => {
                // Where we were redirected to has no say in where a password goes.
                if !self.is_own(uri) {
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

    pub(crate) fn read_small(
        &self,
        response: Response<Body>,
        what: &str,
        max: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        match self.read_body(response, max) {
            Ok(bytes) if bytes.len() as u64 <= max => Ok(bytes),
            Ok(_) | Err(ureq::Error::BodyExceedsLimit(_)) => {
                Err(self.wrong(format!("offers more than {max} bytes for {what}")))
            }
            Err(source) => Err(self.transport(what, source)),
        }
    }

    /// Reads a small body whole, if it comes at a pace: each byte may be late, and not all of them.
    pub(crate) fn read_body(&self, response: Response<Body>, max: u64) -> Result<Vec<u8>, ureq::Error> {
        // One more: ureq's limit is exclusive.
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

    /// What the answer is called that refuses a request.
    pub(crate) fn refusal(&self, what: &str, response: Response<Body>) -> RegistryError {
        let status = response.status();
        let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok());
        let retry_after = retry_after.and_then(|v| parse_retry_after(v, SystemTime::now()));
        let body = self.read_body(response, SMALL_BODY_MAX).unwrap_or_default();
        let (what, host) = (what.to_owned(), self.host.clone());
        let detail = detail(&body);
        match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { what, host },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                RegistryError::Denied { what, host, detail: detail + &self.session.problems() }
            }
            status => RegistryError::Status { what, host, status: status.as_u16(), detail, retry_after },
        }
    }
}

/// A URL without its query, which may be a permission to fetch something, and no longer than a line.
fn shown(url: &str) -> String {
    crop(url.split(['?', '#']).next().unwrap_or_default())
}
