//! The client of a registry: one repository, one job. OCI distribution-spec, "Pull".
//!
//! Blocking, for worker threads; [`Registry::shutdown`] breaks off whatever is under way. Redirects are followed
//! here, one by one, so that no credential ever reaches another host. HTTPS with the host's CA bundle; plain
//! HTTP for this host's own loopback, and for registries that the operator calls insecure. Knows nothing of the
//! store.

use crate::challenge::{self, Challenge};
use crate::digest::{Digest, Hasher};
use crate::oci;
use crate::reference::Reference;
use crate::retry;
use crate::store::lock;
use ::http::{Request, Response, StatusCode, Uri, header};
use serde::Deserialize;
use std::io::Read;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, Body};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for the next byte.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for the head of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Most redirects in a row.
const REDIRECTS_MAX: usize = 10;
/// Most bytes of an error's or a token's body that are read.
const SMALL_BODY_MAX: u64 = 256 << 10;
/// Where CA bundles are on the distributions known.
const CA_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why a registry did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached, or stopped in the middle.
    #[error("cannot fetch {what} from {host}")]
    Transport {
        /// What was asked for.
        what: String,
        /// Of whom.
        host: String,
        /// Why not.
        source: ureq::Error,
    },
    /// It has no such image.
    #[error("{what} is not in registry {host}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// Of whom.
        host: String,
    },
    /// It refuses us.
    #[error("registry {host} denies access to {what}{detail}")]
    Denied {
        /// What was asked for.
        what: String,
        /// Of whom.
        host: String,
        /// Its own words, behind a colon; or empty.
        detail: String,
    },
    /// It answers with another status than success.
    #[error("registry {host} answers {status} to a request for {what}{detail}")]
    Status {
        /// What was asked for.
        what: String,
        /// Of whom.
        host: String,
        /// HTTP status.
        status: u16,
        /// Its own words, behind a colon; or empty.
        detail: String,
        /// How long it asks to wait before the next try.
        retry_after: Option<Duration>,
    },
    /// It answers with something that makes no sense.
    #[error("registry {host} {wrong}")]
    Answer {
        /// Who.
        host: String,
        /// What is wrong.
        wrong: String,
    },
    /// A manifest is not what its name says.
    #[error("manifest {expected} has digest {found}")]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
}

/// How a registry may be reached.
#[derive(Clone, Copy, Debug, Default)]
pub struct Access {
    /// Plain HTTP, or a certificate that nobody vouches for, will do.
    pub insecure: bool,
}

/// A manifest or index as it came, with its digest computed here.
pub struct RawManifest {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
    /// What the registry calls it.
    pub content_type: Option<String>,
}

/// A blob's bytes on their way.
pub struct BlobBody {
    /// Offset in the blob of the first byte that comes.
    pub starts: u64,
    /// What the registry vouches with that a later part is of the same bytes.
    pub etag: Option<String>,
    /// The bytes.
    pub reader: Box<dyn Read>,
}

/// Headers of a request beyond those that all have.
type Headers<'a> = &'a [(header::HeaderName, &'a str)];

/// One repository of one registry.
pub struct Registry {
    /// As the reference has it, for messages.
    host: String,
    /// As it is connected to.
    authority: String,
    repository: String,
    plain_allowed: bool,
    insecure: bool,
    agents: Agents,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    scheme: Option<&'static str>,
    authorization: Option<String>,
    shut: bool,
}

/// Made when first needed: the one for TLS reads the CA bundle.
struct Agents {
    plain: OnceLock<Agent>,
    tls: OnceLock<Agent>,
    insecure: bool,
}

impl Agents {
    fn get(&self, scheme: &str) -> &Agent {
        match scheme {
            "http" => self.plain.get_or_init(|| agent(None)),
            _ => self.tls.get_or_init(|| agent(Some(self.insecure))),
        }
    }
}

fn agent(tls: Option<bool>) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(ANSWER_TIMEOUT))
        .timeout_per_read(Some(STALL_TIMEOUT))
        .timeout_per_write(Some(STALL_TIMEOUT))
        .input_buffer_size(64 << 10)
        .output_buffer_size(16 << 10)
        .max_idle_connections(4)
        .max_idle_connections_per_host(4)
        .user_agent(concat!("sampan/", env!("CARGO_PKG_VERSION")));
    let Some(insecure) = tls else {
        return config.build().new_agent();
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls =
        TlsConfig::builder().provider(TlsProvider::Rustls).unversioned_rustls_crypto_provider(provider);
    tls = match insecure {
        true => tls.disable_verification(true),
        false => tls.root_certs(host_roots()),
    };
    config.tls_config(tls.build()).build().new_agent()
}

/// The certificates of the host's bundle; none if there is no bundle, and then no certificate is good.
fn host_roots() -> RootCerts {
    let named = std::env::var("SSL_CERT_FILE").ok();
    let bundle = named.iter().map(String::as_str).chain(CA_BUNDLES).find_map(|path| std::fs::read(path).ok());
    if bundle.is_none() {
        log::warn!("no CA bundle is found on this host: no HTTPS registry can be trusted");
    }
    let bundle = bundle.unwrap_or_default();
    let certificates = parse_pem(&bundle).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    RootCerts::Specific(Arc::new(certificates.collect()))
}

impl Registry {
    /// The repository that `reference` is in. Connects to nothing yet.
    pub fn new(reference: &Reference, access: Access) -> Self {
        let host = reference.host().to_owned();
        let authority = if host == "docker.io" { "registry-1.docker.io".to_owned() } else { host.clone() };
        Registry {
            plain_allowed: access.insecure || is_loopback(&host),
            host,
            authority,
            repository: reference.path().to_owned(),
            insecure: access.insecure,
            agents: Agents { plain: OnceLock::new(), tls: OnceLock::new(), insecure: access.insecure },
            state: Mutex::default(),
        }
    }

    /// Breaks off all requests, now and for ever.
    pub fn shutdown(&self) {
        lock(&self.state).shut = true;
        for agent in [&self.agents.plain, &self.agents.tls].into_iter().filter_map(OnceLock::get) {
            agent.clone().shutdown();
        }
    }

    /// Fetches the manifest or index called `target`: a tag or a digest. A digest is verified here.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn manifest(&self, target: &str) -> Result<RawManifest, RegistryError> {
        let what = match target.contains(':') {
            true => format!("manifest {}@{target}", self.repository),
            false => format!("manifest {}:{target}", self.repository),
        };
        let response =
            self.get(&what, &format!("manifests/{target}"), &[(header::ACCEPT, &oci::ACCEPT.join(", "))])?;
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|v| v.to_str().ok()).map(str::to_owned);
        let bytes = self.read_small(response, &what, oci::MANIFEST_MAX)?;
        let expected = Digest::parse(target).ok();
        let mut hasher =
            Hasher::new(expected.as_ref().map_or(crate::digest::Algorithm::Sha256, Digest::algorithm));
        hasher.update(&bytes);
        let digest = hasher.finish();
        match expected {
            Some(expected) if expected != digest => Err(RegistryError::Digest { expected, found: digest }),
            _ => Ok(RawManifest { bytes, digest, content_type }),
        }
    }

    /// Fetches a small blob whole; the caller compares its digest.
    ///
    /// # Errors
    /// [`RegistryError::Answer`] if it is larger than `max`.
    pub fn small_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, RegistryError> {
        let what = format!("blob {digest}");
        let response = self.get(&what, &format!("blobs/{digest}"), &[])?;
        self.read_small(response, &what, max)
    }

    /// Begins to fetch a blob of `size` bytes, from byte `offset` on if the registry can do that and else from
    /// its beginning. With `etag`, it goes on only if the blob still has that one.
    ///
    /// OCI distribution-spec, "Pulling blobs"; RFC 9110, section 14.
    ///
    /// # Errors
    /// [`RegistryError::Answer`] if the registry announces another size.
    pub fn blob(
        &self,
        digest: &Digest,
        size: u64,
        offset: u64,
        etag: Option<&str>,
    ) -> Result<BlobBody, RegistryError> {
        let (what, below) = (format!("blob {digest}"), format!("blobs/{digest}"));
        let range = format!("bytes={offset}-");
        let mut headers = vec![(header::RANGE, range.as_str())];
        headers.extend(etag.map(|etag| (header::IF_RANGE, etag)));
        let mut starts = offset;
        let mut response = match offset {
            0 => self.get(&what, &below, &[])?,
            _ => match self.get(&what, &below, &headers) {
                Err(RegistryError::Status { status: 416, .. }) => self.get(&what, &below, &[])?,
                other => other?,
            },
        };
        if response.status() == StatusCode::PARTIAL_CONTENT && !is_rest(&response, offset, size) {
            // Not what was asked for: the whole is.
            response = self.get(&what, &below, &[])?;
        }
        if response.status() == StatusCode::OK {
            starts = 0;
        } else if !is_rest(&response, offset, size) {
            return Err(self.wrong(format!("gives a part of blob {digest} that was not asked for")));
        }
        let announced = response.body().content_length();
        if let Some(announced) = announced.filter(|announced| *announced != size - starts) {
            return Err(self.wrong(format!("offers {announced} bytes for blob {digest}, expected {size}")));
        }
        let etag = response.headers().get(header::ETAG).and_then(|v| v.to_str().ok());
        // A weak one cannot vouch for bytes. RFC 9110, section 13.1.5.
        let etag = etag.filter(|etag| etag.starts_with('"')).map(str::to_owned);
        let reader = response.into_body().into_with_config().limit(u64::MAX).reader();
        Ok(BlobBody { starts, etag, reader: Box::new(reader) })
    }

    /// What broke in the middle of a blob's body.
    pub fn broken(&self, digest: &Digest, source: std::io::Error) -> RegistryError {
        self.transport(&format!("blob {digest}"), ureq::Error::Io(source))
    }

    fn wrong(&self, wrong: String) -> RegistryError {
        RegistryError::Answer { host: self.host.clone(), wrong }
    }

    fn read_small(
        &self,
        mut response: Response<Body>,
        what: &str,
        max: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        // One more: ureq's limit is exclusive.
        match response.body_mut().with_config().limit(max + 1).read_to_vec() {
            Ok(bytes) if bytes.len() as u64 <= max => Ok(bytes),
            Ok(_) | Err(ureq::Error::BodyExceedsLimit(_)) => {
                Err(self.wrong(format!("offers more than {max} bytes for {what}")))
            }
            Err(source) => Err(self.transport(what, source)),
        }
    }

    fn transport(&self, what: &str, source: ureq::Error) -> RegistryError {
        RegistryError::Transport { what: what.to_owned(), host: self.host.clone(), source }
    }

    /// GET below `/v2/<repository>/`, with a token if the registry wants one; success or an error.
    fn get(&self, what: &str, below: &str, headers: Headers<'_>) -> Result<Response<Body>, RegistryError> {
        let scheme = self.reach(what)?;
        let url = format!("{scheme}://{}/v2/{}/{below}", self.authority, self.repository);
        let mut response = self.follow(what, &url, headers)?;
        if response.status() == StatusCode::UNAUTHORIZED && self.authenticate(&response)? {
            response = self.follow(what, &url, headers)?;
        }
        if matches!(response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Ok(response);
        }
        Err(self.refusal(what, response))
    }

    /// Finds out once whether the registry speaks HTTPS or, where that is allowed, HTTP; and which token it wants.
    fn reach(&self, what: &str) -> Result<&'static str, RegistryError> {
        let known = lock(&self.state).scheme;
        if let Some(scheme) = known {
            return Ok(scheme);
        }
        let schemes: &[&'static str] = if self.plain_allowed { &["https", "http"] } else { &["https"] };
        let mut first = None;
        for scheme in schemes {
            match self.follow(what, &format!("{scheme}://{}/v2/", self.authority), &[]) {
                // An HTTPS server answers plain HTTP with 400: what was wrong with HTTPS is the news then.
                Ok(response) if first.is_some() && !is_registry(response.status()) => break,
                Ok(response) => {
                    lock(&self.state).scheme = Some(scheme);
                    if response.status() == StatusCode::UNAUTHORIZED {
                        self.authenticate(&response)?;
                    }
                    return Ok(scheme);
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.expect("there is one scheme at least"))
    }

    /// GET, through redirects. The token goes to the registry's own host alone.
    fn follow(&self, what: &str, url: &str, headers: Headers<'_>) -> Result<Response<Body>, RegistryError> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let uri: Uri =
                url.parse().map_err(|_| self.wrong(format!("redirects to {url:?}, which is no URL")))?;
            let response = self.once(&uri, headers).map_err(|source| self.transport(what, source))?;
            let location =
                response.headers().get(header::LOCATION).filter(|_| response.status().is_redirection());
            let Some(location) = location else {
                return Ok(response);
            };
            let location = location.to_str().map_err(|_| self.wrong("redirects to no text".to_owned()))?;
            url = join(&uri, location);
            if uri.scheme_str() == Some("https") && !url.starts_with("https://") && !self.insecure {
                return Err(self.wrong(format!("redirects from HTTPS to {url:?}")));
            }
        }
        Err(self.wrong(format!("redirects more than {REDIRECTS_MAX} times")))
    }

    fn once(&self, uri: &Uri, headers: Headers<'_>) -> Result<Response<Body>, ureq::Error> {
        let mut request = Request::get(uri.clone());
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        {
            let state = lock(&self.state);
            if state.shut {
                return Err(ureq::Error::Io(std::io::ErrorKind::NotConnected.into()));
            }
            let own = uri.authority().is_some_and(|a| a.as_str() == self.authority)
                && uri.scheme_str() == state.scheme;
            if let Some(authorization) = state.authorization.as_ref().filter(|_| own) {
                request = request.header(header::AUTHORIZATION, authorization);
            }
        }
        let request = request.body(()).map_err(ureq::Error::Http)?;
        self.agents.get(uri.scheme_str().unwrap_or("https")).run(request)
    }

    /// Gets a token for the challenge of `response`; false if there is none that we can meet.
    fn authenticate(&self, response: &Response<Body>) -> Result<bool, RegistryError> {
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

    fn refusal(&self, what: &str, mut response: Response<Body>) -> RegistryError {
        let status = response.status();
        let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok());
        let retry_after = retry_after.and_then(|v| retry::parse_retry_after(v, SystemTime::now()));
        let body = response.body_mut().with_config().limit(SMALL_BODY_MAX).read_to_vec().unwrap_or_default();
        let (what, host) = (what.to_owned(), self.host.clone());
        let detail = detail(&body);
        match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { what, host },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied { what, host, detail },
            status => RegistryError::Status { what, host, status: status.as_u16(), detail, retry_after },
        }
    }
}

/// True if `response` brings bytes `offset` to the end of `size`. RFC 9110, section 14.4.
fn is_rest(response: &Response<Body>, offset: u64, size: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
    offset < size && range.is_some_and(|r| r.trim() == format!("bytes {offset}-{}/{size}", size - 1))
}

/// What a registry answers to `/v2/`. OCI distribution-spec, "Determining Support".
fn is_registry(status: StatusCode) -> bool {
    matches!(status, StatusCode::OK | StatusCode::UNAUTHORIZED)
}

/// The words of an error's body: OCI distribution-spec, "Error Codes".
fn detail(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Word>,
    }
    #[derive(Deserialize)]
    struct Word {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(errors) = serde_json::from_slice::<Errors>(body) else {
        return String::new();
    };
    let words =
        errors.errors.into_iter().next().map(|w| if w.message.is_empty() { w.code } else { w.message });
    let words: String = words.unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect();
    if words.is_empty() { words } else { format!(": {words}") }
}

/// RFC 3986, section 5.2, as far as `Location` headers go.
fn join(base: &Uri, location: &str) -> String {
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |a| a.as_str());
    if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let dir = base.path().rsplit_once('/').map_or("", |(dir, _)| dir);
        format!("{scheme}://{authority}{dir}/{location}")
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

/// True for this host itself, which no network is in between of.
fn is_loopback(host: &str) -> bool {
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
    fn locations_are_joined_to_their_base() {
        let base: Uri = "https://r.example:5000/v2/a/blobs/x".parse().expect("a URL");
        for (location, url) in [
            ("http://cdn/x?y", "http://cdn/x?y"),
            ("//cdn/x", "https://cdn/x"),
            ("/y?z", "https://r.example:5000/y?z"),
            ("z", "https://r.example:5000/v2/a/blobs/z"),
        ] {
            assert_eq!(join(&base, location), url);
        }
    }

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

    #[test]
    fn a_token_url_is_encoded_and_https() {
        let registry = Registry::new(&Reference::parse("r.example/a").expect("good"), Access::default());
        let challenge = |text| challenge::parse(text).remove(0);
        let url = registry
            .token_url(&challenge(r#"Bearer realm="https://t/x?a=b",service="s & t""#))
            .expect("good");
        assert_eq!(url, "https://t/x?a=b&service=s%20%26%20t&scope=repository:a:pull");
        assert!(registry.token_url(&challenge(r#"Bearer realm="http://t/""#)).is_err());
        assert!(registry.token_url(&challenge(r#"Bearer realm="file:///etc/passwd""#)).is_err());
    }
}
