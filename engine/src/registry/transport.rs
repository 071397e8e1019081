//! How a [`Registry`] is reached: connections, TLS, plain HTTP where that may be, redirects.

use super::certs::{self, Certs};
use super::dial::Dialer;
use super::location::{is_at, join};
use super::proxy::Proxies;
use super::tls::Tls;
use super::{Access, Failed, Headers, Registry, RegistryError, crop};
use ::http::uri::Authority;
use ::http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use sampan_os::mutex::lock;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use ureq::tls::{ClientCert, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, AsSendBody, Body};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for a mirror, behind which the registry itself waits: the kernel has sent its SYN three times then, so that
/// two may be lost (RFC 6298: after 1 s and 3 s). tcp(7).
const MIRROR_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the next byte.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for the head of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer that is read only to keep its connection, in bytes.
const FRONT_PAGE_MAX: u64 = 4096;
/// Most redirects in a row.
pub(super) const REDIRECTS_MAX: usize = 10;

/// Made when first needed: those for TLS read certificates.
pub(super) struct Agents {
    host: String,
    authority: String,
    socket: Option<PathBuf>,
    insecure: bool,
    certs: Arc<[PathBuf]>,
    connect: Duration,
    stall: Duration,
    proxies: Arc<Proxies>,
    plain: OnceLock<Agent>,
    /// For the registry itself: shows our certificate, if we have one.
    own: OnceLock<Agent>,
    /// For where it redirects to.
    other: OnceLock<Agent>,
}

impl Agents {
    /// Nothing is read or made yet, but the environment.
    pub(super) fn new(
        host: &str,
        authority: &str,
        socket: Option<PathBuf>,
        insecure: bool,
        access: &Access,
        is_mirror: bool,
    ) -> Self {
        Agents {
            host: host.to_owned(),
            authority: authority.to_owned(),
            socket,
            insecure,
            certs: Arc::clone(&access.certs),
            connect: if is_mirror { MIRROR_CONNECT_TIMEOUT } else { CONNECT_TIMEOUT },
            stall: access.stall.unwrap_or(STALL_TIMEOUT),
            proxies: Arc::new(Proxies::from_env()),
            plain: OnceLock::new(),
            own: OnceLock::new(),
            other: OnceLock::new(),
        }
    }

    /// The one for a URL.
    fn get(&self, uri: &Uri) -> Result<&Agent, RegistryError> {
        let own = is_at(uri, &self.authority);
        let place = match (uri.scheme_str(), own) {
            (Some("http"), _) => &self.plain,
            (_, true) => &self.own,
            (_, false) => &self.other,
        };
        if let Some(agent) = place.get() {
            return Ok(agent);
        }
        let agent = match uri.scheme_str() {
            Some("http") => self.agent(None, None),
            _ => {
                let Certs { roots: given, client } =
                    Certs::load(&self.certs, &[&self.host, &self.authority])?;
                let client = client.filter(|_| own);
                let roots =
                    if self.insecure { Vec::new() } else { [certs::of_host(), given.clone()].concat() };
                if roots.is_empty() && !self.insecure {
                    log::warn!(
                        "no CA bundle is found on this host: registry {} cannot be trusted",
                        self.host
                    );
                }
                let tls = (!self.insecure && !given.is_empty())
                    .then(|| Tls::new(&roots, &given, client.as_ref()))
                    .flatten();
                let roots = RootCerts::Specific(Arc::new(roots));
                self.agent(Some((roots, client)), tls)
            }
        };
        // Of two threads one comes first, and that one's is used.
        Ok(place.get_or_init(|| agent))
    }

    /// An agent for plain HTTP, or for HTTPS with these certificates, by `secured` if that is given.
    fn agent(&self, tls: Option<(RootCerts, Option<ClientCert>)>, secured: Option<Tls>) -> Agent {
        let socket = self.socket.as_ref().map(|path| (self.authority.clone(), path.clone()));
        let dialer = Dialer::new(socket, Arc::clone(&self.proxies));
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // The dialer knows more of them than ureq does.
            .proxy(None)
            .timeout_resolve(Some(self.connect))
            .timeout_connect(Some(self.connect))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_per_read(Some(self.stall))
            .timeout_per_write(Some(self.stall))
            .input_buffer_size(64 << 10)
            .output_buffer_size(16 << 10)
            .max_idle_connections(4)
            .max_idle_connections_per_host(4)
            .user_agent(concat!("sampan/", env!("CARGO_PKG_VERSION")));
        let Some((roots, client)) = tls else {
            return dialer.agent(config.build(), None);
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(provider)
            .disable_verification(self.insecure)
            .root_certs(roots)
            .client_cert(client);
        dialer.agent(config.tls_config(tls.build()).build(), secured)
    }

    /// Longest wait for the next bytes.
    pub(super) fn stall(&self) -> Duration {
        self.stall
    }

    /// Breaks off all that is under way; there will be nothing more.
    pub(super) fn shutdown(&self) {
        for agent in [&self.plain, &self.own, &self.other].into_iter().filter_map(OnceLock::get) {
            agent.clone().shutdown();
        }
    }
}

impl Registry {
    /// One GET below `/v2/<repository>/`. The first one finds out how the registry is spoken to, if its answer leaves
    /// no doubt about that: it is not asked for its front page then, which would be one more round trip.
    pub(super) fn ask(
        &self,
        what: &str,
        below: &str,
        headers: Headers<'_>,
    ) -> Result<Response<Body>, RegistryError> {
        let url = |scheme| format!("{scheme}://{}/v2/{}/{below}", self.authority, self.repository);
        let (known, schemes) = (lock(&self.state).scheme, self.schemes());
        let mut doubtful = None;
        if known.is_none() && (schemes.len() == 1 || is_loopback(&self.host)) {
            let scheme = schemes[0];
            match self.follow(what, &url(scheme), headers) {
                Ok(response) if schemes.len() == 1 || speaks(response.status()) => {
                    lock(&self.state).scheme = Some(scheme);
                    return Ok(response);
                }
                Ok(response) => doubtful = Some((scheme, response)),
                Err(error) if schemes.len() == 1 || lock(&self.state).shut => return Err(error),
                Err(_) => {}
            }
        }
        let scheme = self.reach(what)?;
        match doubtful {
            // It was the registry, which knows nothing more of us than it did.
            Some((asked, response)) if asked == scheme && self.authorization()?.is_none() => Ok(response),
            _ => self.follow(what, &url(scheme), headers),
        }
    }

    /// Asks for the front page, and says who we are if it wants to know; true if there is something new to say.
    pub(super) fn introduce(&self, what: &str) -> Result<bool, RegistryError> {
        // Not under the lock: who we are may be known to a helper alone, which takes its time.
        let known = lock(&self.state).scheme;
        let Some(scheme) = known.filter(|_| self.has_credential()) else {
            return Ok(false);
        };
        let response = self.follow(what, &format!("{scheme}://{}/v2/", self.authority), &[])?;
        let is_asked = response.status() == StatusCode::UNAUTHORIZED;
        let is_known = is_asked && self.authenticate(&response, None)?;
        self.read_out(response);
        Ok(is_known)
    }

    /// Reads what is left of an answer, so that the connection serves the next request; one without an end is not
    /// waited for.
    pub(super) fn read_out(&self, response: Response<Body>) {
        if response.body().content_length().is_some_and(|len| len <= FRONT_PAGE_MAX) {
            let _ = self.read_body(response, FRONT_PAGE_MAX);
        }
    }

    fn schemes(&self) -> &'static [&'static str] {
        match (self.is_socket, self.plain_allowed) {
            (true, _) => &["http"],
            // Nobody listens in between, and most registries there speak no TLS: what only that would need (all
            // the certificates of the host) is not read for nothing.
            (false, true) if is_loopback(&self.host) => &["http", "https"],
            (false, true) => &["https", "http"],
            (false, false) => &["https"],
        }
    }

    /// Finds out once whether the registry speaks HTTPS or, where that is allowed, HTTP; and which token it wants.
    pub(super) fn reach(&self, what: &str) -> Result<&'static str, RegistryError> {
        let known = lock(&self.state).scheme;
        if let Some(scheme) = known {
            return Ok(scheme);
        }
        let schemes = self.schemes();
        let mut first = None;
        for scheme in schemes {
            let is_choice = *scheme == "http" && schemes.len() > 1;
            match self.follow(what, &format!("{scheme}://{}/v2/", self.authority), &[]) {
                // An HTTPS server answers plain HTTP with 400: what is wrong with HTTPS is the news then.
                Ok(response) if is_choice && !speaks(response.status()) => {}
                Ok(response) => {
                    lock(&self.state).scheme = Some(scheme);
                    if response.status() == StatusCode::UNAUTHORIZED {
                        self.authenticate(&response, None)?;
                    }
                    self.read_out(response);
                    return Ok(scheme);
                }
                Err(error) if lock(&self.state).shut => return Err(error),
                // Whoever does not even answer there is not asked the same again in plain text.
                Err(error) if is_late(&error) && self.has_port() => return Err(error),
                // Where nobody speaks TLS, what plain HTTP came to is the news.
                Err(error) => first = first.filter(|first| !speaks_no_tls(first)).or(Some(error)),
            }
        }
        Err(first.expect("there is one scheme at least"))
    }

    /// True if HTTPS and HTTP would go to the same port.
    fn has_port(&self) -> bool {
        self.authority.parse::<Authority>().is_ok_and(|authority| authority.port().is_some())
    }

    /// GET, through redirects. The token goes to the registry's own host alone.
    pub(super) fn follow(
        &self,
        what: &str,
        url: &str,
        headers: Headers<'_>,
    ) -> Result<Response<Body>, RegistryError> {
        self.follow_as(what, url, headers, &|uri| self.authorization_for(uri))
    }

    /// GET, through redirects, each told by `authorize` what it may know of who we are.
    pub(super) fn follow_as(
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
    pub(super) fn run(
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
}

/// A URL without its query, which may be a permission to fetch something, and no longer than a line.
fn shown(url: &str) -> String {
    crop(url.split(['?', '#']).next().unwrap_or_default())
}

fn is_late(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::Transport { source: Failed(ureq::Error::Timeout(ureq::Timeout::Connect)), .. }
    )
}

/// True if what came back is no TLS at all.
fn speaks_no_tls(error: &RegistryError) -> bool {
    let RegistryError::Transport { source: Failed(ureq::Error::Io(io)), .. } = error else { return false };
    let tls = io.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidMessage(_)))
}

/// True for what a registry answers to `/v2/`, and no other server: OCI distribution-spec, "Determining Support". For
/// what is below, it is the answer that leaves no doubt.
fn speaks(status: StatusCode) -> bool {
    matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::UNAUTHORIZED)
}

/// True for this host itself, which no network is in between of.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_alone() {
        for (host, loopback) in [
            ("localhost", true),
            ("127.9.0.1:5000", true),
            ("[::1]:5000", true),
            ("127.0.0.1.evil.example", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(host), loopback, "{host}");
        }
    }
}
