//! Requests to any HTTP server, with the connections of this crate: its certificates, proxies, time limits and
//! address filter, but without the protocol of registries.
//!
//! Called by the supernode for the origins of files. [`Web`] follows redirects, and keeps idle connections. It
//! knows no credential: the caller says which headers must not reach another host, and makes sense of each status.

use crate::access::Access;
use crate::address::AddressRefused;
use crate::agents::Agents;
use crate::error::{Failed, RegistryError, crop};
use crate::redirect::join;
use crate::shared_tls::SharedTls;
use crate::transport::{REDIRECTS_MAX, printable_url as without_query};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use sampan_job::cancel::{Cancel, Link};
use sampan_os::mutex::lock;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use ureq::{AsSendBody, Body};

/// Most agents that are kept for later requests, each with one idle connection.
const IDLE_MAX: usize = 16;
/// Longest time for which an agent is kept. Servers close idle connections after about that time, too.
const IDLE_TIME: Duration = Duration::from_secs(15);

/// The client for HTTP servers. Its calls block.
pub struct Web {
    access: Access,
    tls: Arc<SharedTls>,
    /// The agents that no request uses, the oldest first. A request has an agent for itself, because a request is
    /// cancelled by a shutdown of its agent.
    idle: Arc<Mutex<Vec<Idle>>>,
}

struct Idle {
    authority: String,
    agents: Arc<Agents>,
    since: Instant,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The text is not the URL of an HTTP server.
    #[error("{0:?} is not an HTTP URL")]
    Url(String),
    /// The server redirects to a URL that is not followed.
    #[error("{host} {problem}")]
    Redirect {
        /// Host of the server.
        host: String,
        /// What the server does; continues the sentence `HOST ...`.
        problem: String,
    },
    /// The address filter refuses all addresses of a host.
    #[error(transparent)]
    Refused(AddressRefused),
    /// The network failed.
    #[error("cannot reach {host}")]
    Transport {
        /// Host of the server.
        host: String,
        /// The failure of the network, of TLS or of HTTP.
        source: Failed,
    },
    /// The proxy that the environment names cannot be used.
    #[error("cannot reach {host}: {why}")]
    Proxy {
        /// Host of the server.
        host: String,
        /// Why the proxy cannot be used.
        why: String,
    },
    /// A certificate or key in a certs.d directory cannot be used.
    #[error(transparent)]
    Certificate(Box<RegistryError>),
    /// The caller has cancelled the request.
    #[error("cancelled")]
    Cancelled,
}

/// The answer to a request, whatever its status.
pub struct Answer<'a> {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The length of the body in bytes; `None` if the server does not state it.
    pub body_length: Option<u64>,
    /// Reads the body. A body that ends before its stated length is an error.
    pub reader: Reader<'a>,
}

/// The body of an answer. A read fails after the caller has cancelled the request.
pub struct Reader<'a> {
    // The order matters: the body gives its connection back to the agent before the lease gives the agent back.
    body: Box<dyn Read + Send>,
    lease: Lease<'a>,
}

/// The use of one agent by one request.
struct Lease<'a> {
    agents: Arc<Agents>,
    authority: String,
    idle: Arc<Mutex<Vec<Idle>>>,
    cancel: &'a Cancel,
    _link: Link<'a>,
}

impl Web {
    /// Uses the certificates, the insecure hosts, the stall timeout and the address filter of `access`, and
    /// nothing else of it. Connects to nothing yet.
    pub fn new(access: Access) -> Self {
        Web { access, tls: Arc::default(), idle: Arc::default() }
    }

    /// Sends a GET or HEAD, and follows redirects. A header reaches another scheme, host or port only if
    /// `may_leave` returns true for it. The head of the answer must come until `until`, if that is given.
    ///
    /// # Errors
    /// [`WebError`]: there is no answer. A status such as 404 is an answer.
    pub fn send<'a>(
        &self,
        method: &Method,
        url: &str,
        headers: &HeaderMap,
        may_leave: &dyn Fn(&HeaderName) -> bool,
        until: Option<Instant>,
        cancel: &'a Cancel,
    ) -> Result<Answer<'a>, WebError> {
        let first = parse(url)?;
        let mut uri = first.clone();
        for _ in 0..=REDIRECTS_MAX {
            let is_first_server = is_same_server(&first, &uri) || is_upgrade(&first, &uri);
            let sent = headers.iter().filter(|(name, _)| is_first_server || may_leave(name));
            let (response, lease) = self.send_once(method, &uri, sent, (), until, cancel)?;
            let location = response.headers().get(header::LOCATION);
            let location = location.filter(|_| is_redirect(response.status())).map(HeaderValue::as_bytes);
            let Some(location) = location else {
                return Ok(Answer::new(response, lease));
            };
            let problem = |problem: String| WebError::Redirect { host: host(&uri), problem };
            let shown = || printable_url(&String::from_utf8_lossy(location));
            let next = join(&uri, location)
                .and_then(|next| parse(&next).ok())
                .ok_or_else(|| problem(format!("redirects to {:?}, which is not an HTTP URL", shown())))?;
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(problem(format!("redirects from HTTPS to {:?}", shown())));
            }
            uri = next;
        }
        Err(WebError::Redirect {
            host: host(&uri),
            problem: format!("redirects more than {REDIRECTS_MAX} times"),
        })
    }

    /// Sends a request with a body, and follows no redirect: a redirect is an answer. The head of the answer must
    /// come until `until`, if that is given.
    ///
    /// # Errors
    /// [`WebError`]: there is no answer. A status such as 404 is an answer.
    pub fn send_body<'a>(
        &self,
        method: &Method,
        url: &str,
        headers: &HeaderMap,
        body: &[u8],
        until: Option<Instant>,
        cancel: &'a Cancel,
    ) -> Result<Answer<'a>, WebError> {
        let uri = parse(url)?;
        let (response, lease) = match body {
            [] => self.send_once(method, &uri, headers.iter(), (), until, cancel)?,
            body => self.send_once(method, &uri, headers.iter(), body, until, cancel)?,
        };
        Ok(Answer::new(response, lease))
    }

    /// Closes the idle connections that are too old. Each request does so, too; a caller that sends none for a
    /// long time calls this.
    pub fn close_idle(&self) {
        lock(&self.idle).retain(|idle| idle.since.elapsed() < IDLE_TIME);
    }

    fn send_once<'a, 'h>(
        &self,
        method: &Method,
        uri: &Uri,
        headers: impl Iterator<Item = (&'h HeaderName, &'h HeaderValue)>,
        body: impl AsSendBody,
        until: Option<Instant>,
        cancel: &'a Cancel,
    ) -> Result<(Response<Body>, Lease<'a>), WebError> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let failed = |source| match source {
            _ if cancel.is_cancelled() => WebError::Cancelled,
            ureq::Error::ConnectProxyFailed(why) => WebError::Proxy { host: host(uri), why },
            source => {
                let source = Failed(source);
                match source.refused().cloned() {
                    Some(refused) => WebError::Refused(refused),
                    None => WebError::Transport { host: host(uri), source },
                }
            }
        };
        let request = request.body(body).map_err(|error| failed(ureq::Error::Http(error)))?;
        let lease = self.lease(uri, cancel);
        let agent = lease.agents.get(uri).map_err(|error| WebError::Certificate(Box::new(error)))?;
        // Check only after the agent was made: an earlier shutdown could not reach an agent that did not exist.
        if cancel.is_cancelled() {
            return Err(WebError::Cancelled);
        }
        let response = match until {
            None => agent.run(request),
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                agent.run(agent.configure_request(request).timeout_global(Some(left)).build())
            }
        };
        let response = response.map_err(failed)?;
        if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            let why = "the proxy does not accept the credentials in its URL, or there are none".to_owned();
            return Err(WebError::Proxy { host: host(uri), why });
        }
        Ok((response, lease))
    }

    /// Takes an idle agent for the server of `uri`, or makes one.
    fn lease<'a>(&self, uri: &Uri, cancel: &'a Cancel) -> Lease<'a> {
        let authority = uri.authority().map_or("", |authority| authority.as_str()).to_owned();
        let taken = {
            let mut idle = lock(&self.idle);
            idle.retain(|idle| idle.since.elapsed() < IDLE_TIME);
            // The agent that was used last most probably still has an open connection.
            let at = idle.iter().rposition(|idle| idle.authority == authority);
            at.map(|at| idle.remove(at).agents)
        };
        let agents = taken.unwrap_or_else(|| {
            let name = uri.host().unwrap_or_default();
            let is_insecure =
                self.access.insecure_hosts.iter().any(|host| *host == authority || host == name);
            let agents = Agents::new(name, &authority, None, is_insecure, &self.access, false);
            Arc::new(agents.share(Arc::clone(&self.tls)))
        });
        let to_shut = Arc::clone(&agents);
        let link = cancel.link(move || to_shut.shutdown());
        Lease { agents, authority, idle: Arc::clone(&self.idle), cancel, _link: link }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // A cancelled agent refuses all requests.
        if self.cancel.is_cancelled() {
            return;
        }
        let mut idle = lock(&self.idle);
        if idle.len() >= IDLE_MAX {
            idle.remove(0);
        }
        let (authority, agents) = (std::mem::take(&mut self.authority), Arc::clone(&self.agents));
        idle.push(Idle { authority, agents, since: Instant::now() });
    }
}

impl<'a> Answer<'a> {
    fn new(response: Response<Body>, lease: Lease<'a>) -> Self {
        let (parts, body) = response.into_parts();
        // ureq states no length for an empty body.
        let is_empty = !parts.headers.contains_key(header::TRANSFER_ENCODING)
            && parts.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0");
        let body_length = body.content_length().or(is_empty.then_some(0));
        let body = body.into_with_config().limit(u64::MAX).reader();
        let reader = Reader { body: Box::new(body), lease };
        Answer { status: parts.status, headers: parts.headers, body_length, reader }
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.body.read(into).map_err(|error| match self.lease.cancel.check() {
            Err(cancelled) => io::Error::other(cancelled),
            Ok(()) => error,
        })
    }
}

/// Parses an absolute URL of an HTTP server without a user, which callers send as a header.
fn parse(url: &str) -> Result<Uri, WebError> {
    let bad = || WebError::Url(printable_url(url));
    let uri: Uri = url.parse().map_err(|_| bad())?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority().ok_or_else(bad)?;
    match is_http && !authority.host().is_empty() && !authority.as_str().contains('@') {
        true => Ok(uri),
        false => Err(bad()),
    }
}

/// The host and port of `uri`, for messages.
fn host(uri: &Uri) -> String {
    crop(uri.authority().map_or("", |authority| authority.as_str()))
}

/// A URL for a message: shortened, and without its user and its query, which may grant access.
pub fn printable_url(url: &str) -> String {
    let url = without_query(url);
    let Some((scheme, rest)) = url.split_once("://") else { return url };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Whether two URLs have one scheme, host and port.
fn is_same_server(a: &Uri, b: &Uri) -> bool {
    a.scheme_str() == b.scheme_str() && is_same_host(a, b) && port(a) == port(b)
}

/// Whether `to` is the HTTPS form of `from`, both at their usual ports. A secret that was sent to a host in clear
/// text may be sent to that host by TLS, too.
fn is_upgrade(from: &Uri, to: &Uri) -> bool {
    let is_plain = from.scheme_str() == Some("http") && port(from) == 80;
    is_plain && to.scheme_str() == Some("https") && port(to) == 443 && is_same_host(from, to)
}

fn is_same_host(a: &Uri, b: &Uri) -> bool {
    a.host().zip(b.host()).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
}

fn port(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_at_their_server_or_go_to_its_https_form() {
        for (from, to, is_kept) in [
            ("http://a/x", "http://a/y", true),
            ("http://a/x", "http://A:80/y", true),
            ("http://a/x", "http://a:81/y", false),
            ("http://a/x", "http://b/x", false),
            ("http://a/x", "http://a.b/x", false),
            ("https://a/x", "https://a:443/y", true),
            ("http://a/x", "https://a/x", true),
            ("http://a/x", "https://a:8443/x", false),
            ("http://a:5000/x", "https://a/x", false),
            ("https://a/x", "http://a/x", false),
        ] {
            let [from, to] = [from, to].map(|url| parse(url).expect("a URL"));
            assert_eq!(is_same_server(&from, &to) || is_upgrade(&from, &to), is_kept, "{from} {to}");
        }
    }

    #[test]
    fn a_url_in_a_message_shows_no_secret() {
        for (url, shown) in [
            ("https://u:p@a/b?c=d#e", "https://a/b"),
            ("https://a/b@c", "https://a/b@c"),
            ("http://u:p@a", "http://a"),
            ("no url?x", "no url"),
        ] {
            assert_eq!(printable_url(url), shown);
        }
        for bad in ["", "a", "/a", "ftp://a/", "http://u@a/", "http://", "http://:80/"] {
            assert!(matches!(parse(bad), Err(WebError::Url(_))), "{bad}");
        }
    }
}
