//! The HTTP agents of one registry, with its certificates, proxies and timeouts.
//!
//! A [`crate::Registry`] owns one [`Agents`]. It makes each agent when it is first needed, and sends nothing itself.

use crate::access::Access;
use crate::address::AddressFilter;
use crate::certs::{self, Certs};
use crate::error::RegistryError;
use crate::net::dial::Dialer;
use crate::net::proxy::Proxies;
use crate::net::tls::Tls;
use crate::redirect::is_at;
use crate::shared_tls::SharedTls;
use ::http::Uri;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use ureq::Agent;
use ureq::tls::{ClientCert, RootCerts, TlsConfig, TlsProvider};

/// Longest wait for a connection to a registry.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for a connection to a mirror. It is short, because the registry itself is tried after the mirror.
/// Within this time the kernel sends three SYNs (after 0, 1 and 3 s), so two of them may get lost. RFC 6298, tcp(7).
const MIRROR_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the next byte of a body.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for the head of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Up to three agents. Each is made when it is first needed, because agents for TLS read certificates.
pub(crate) struct Agents {
    host: String,
    authority: String,
    socket: Option<PathBuf>,
    insecure: bool,
    certs: Arc<[PathBuf]>,
    connect: Duration,
    stall: Duration,
    proxies: Arc<Proxies>,
    addresses: AddressFilter,
    /// The TLS configuration that agents of other hosts use, too, unless this host has certificates in certs.d.
    shared: Option<Arc<SharedTls>>,
    plain: OnceLock<Agent>,
    /// The agent for HTTPS to the registry itself. It presents the client certificate, if there is one.
    own: OnceLock<Agent>,
    /// The agent for HTTPS to hosts that the registry redirects to.
    other: OnceLock<Agent>,
}

impl Agents {
    /// Reads the proxies from the environment, but no file yet.
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
            addresses: access.addresses.clone(),
            shared: None,
            plain: OnceLock::new(),
            own: OnceLock::new(),
            other: OnceLock::new(),
        }
    }

    /// Uses the TLS configuration `shared` if there are no certificates in certs.d.
    pub(crate) fn share(self, shared: Arc<SharedTls>) -> Self {
        Agents { shared: Some(shared), ..self }
    }

    /// The agent for requests to `uri`.
    pub(crate) fn get(&self, uri: &Uri) -> Result<&Agent, RegistryError> {
        let own = is_at(uri, &self.authority);
        let slot = match (uri.scheme_str(), own) {
            (Some("http"), _) => &self.plain,
            (_, true) => &self.own,
            (_, false) => &self.other,
        };
        if let Some(agent) = slot.get() {
            return Ok(agent);
        }
        let agent = match uri.scheme_str() {
            Some("http") => self.agent(None, None),
            _ => {
                let Certs { roots: extra, client } =
                    Certs::load(&self.certs, &[&self.host, &self.authority])?;
                let client = client.filter(|_| own);
                let is_plain = extra.is_empty() && client.is_none() && !self.insecure;
                let shared = self.shared.as_ref().filter(|_| is_plain).and_then(|shared| shared.get());
                if shared.is_some() {
                    return Ok(slot.get_or_init(|| self.agent(Some((Vec::new().into(), None)), shared)));
                }
                let roots =
                    if self.insecure { Vec::new() } else { [certs::of_host(), extra.clone()].concat() };
                if roots.is_empty() && !self.insecure {
                    log::warn!(
                        "no CA bundle found on this host, so requests to registry {} will fail: install the \
                         ca-certificates package or set SSL_CERT_FILE",
                        self.host
                    );
                }
                let tls = (!self.insecure && !extra.is_empty())
                    .then(|| Tls::new(&roots, &extra, client.as_ref()))
                    .flatten();
                let roots = RootCerts::Specific(Arc::new(roots));
                self.agent(Some((roots, client)), tls)
            }
        };
        // If two threads get here at one time, the first agent is stored and the other one is dropped.
        Ok(slot.get_or_init(|| agent))
    }

    /// Makes an agent: for plain HTTP if `tls` is `None`, otherwise for HTTPS with these certificates. A `connector`
    /// replaces ureq's own TLS.
    fn agent(&self, tls: Option<(RootCerts, Option<ClientCert>)>, connector: Option<Tls>) -> Agent {
        let socket = self.socket.as_ref().map(|path| (self.authority.clone(), path.clone()));
        let dialer = Dialer::new(socket, Arc::clone(&self.proxies), self.addresses.clone());
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // The dialer handles proxies itself, because ureq supports fewer kinds of them.
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
        dialer.agent(config.tls_config(tls.build()).build(), connector)
    }

    /// Longest wait for the next byte of a body.
    pub(crate) fn stall(&self) -> Duration {
        self.stall
    }

    /// Aborts all running requests. Agents made after this call are not affected.
    pub(crate) fn shutdown(&self) {
        for agent in [&self.plain, &self.own, &self.other].into_iter().filter_map(OnceLock::get) {
            agent.clone().shutdown();
        }
    }
}
