//! The HTTP agents of one registry: with its certificates, its proxies and its timeouts.
//!
//! Owned by a [`crate::Registry`]. Makes an agent when it is first needed, and sends nothing itself.

use crate::access::Access;
use crate::certs::{self, Certs};
use crate::error::RegistryError;
use crate::net::dial::Dialer;
use crate::net::proxy::Proxies;
use crate::net::tls::Tls;
use crate::redirect::is_at;
use ::http::Uri;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use ureq::Agent;
use ureq::tls::{ClientCert, RootCerts, TlsConfig, TlsProvider};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for a mirror, behind which the registry itself waits: the kernel has sent its SYN three times then, so that
/// two may be lost (RFC 6298: after 1 s and 3 s). tcp(7).
const MIRROR_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the next byte.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for the head of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Made when first needed: those for TLS read certificates.
pub(crate) struct Agents {
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
    pub(crate) fn new(
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
    pub(crate) fn get(&self, uri: &Uri) -> Result<&Agent, RegistryError> {
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
    pub(crate) fn stall(&self) -> Duration {
        self.stall
    }

    /// Breaks off all that is under way; there will be nothing more.
    pub(crate) fn shutdown(&self) {
        for agent in [&self.plain, &self.own, &self.other].into_iter().filter_map(OnceLock::get) {
            agent.clone().shutdown();
        }
    }
}
