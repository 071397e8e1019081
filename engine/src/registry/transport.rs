//! How a [`Registry`] is reached: connections, TLS, plain HTTP where that may be, redirects.

use super::{Headers, Registry, RegistryError};
use crate::store::lock;
use ::http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, Body};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for the next byte.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for the head of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Most redirects in a row.
pub(super) const REDIRECTS_MAX: usize = 10;
/// Where CA bundles are on the distributions known.
const CA_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Made when first needed: the one for TLS reads the CA bundle.
pub(super) struct Agents {
    pub(super) plain: OnceLock<Agent>,
    pub(super) tls: OnceLock<Agent>,
    pub(super) insecure: bool,
}

impl Agents {
    pub(super) fn get(&self, scheme: &str) -> &Agent {
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
    /// Finds out once whether the registry speaks HTTPS or, where that is allowed, HTTP; and which token it wants.
    pub(super) fn reach(&self, what: &str) -> Result<&'static str, RegistryError> {
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
                        self.authenticate(&response, None)?;
                    }
                    return Ok(scheme);
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.expect("there is one scheme at least"))
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
            let uri: Uri =
                url.parse().map_err(|_| self.wrong(format!("redirects to {url:?}, which is no URL")))?;
            let response =
                self.once(&uri, headers, authorize(&uri)).map_err(|source| self.transport(what, source))?;
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

    fn once(
        &self,
        uri: &Uri,
        headers: Headers<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Body>, ureq::Error> {
        let mut request = Request::get(uri.clone());
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        if lock(&self.state).shut {
            return Err(ureq::Error::Io(std::io::ErrorKind::NotConnected.into()));
        }
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(()).map_err(ureq::Error::Http)?;
        self.agents.get(uri.scheme_str().unwrap_or("https")).run(request)
    }
}

/// What a registry answers to `/v2/`. OCI distribution-spec, "Determining Support".
fn is_registry(status: StatusCode) -> bool {
    matches!(status, StatusCode::OK | StatusCode::UNAUTHORIZED)
}

/// RFC 3986, section 5.2, as far as `Location` headers go.
pub(super) fn join(base: &Uri, location: &str) -> String {
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
}
