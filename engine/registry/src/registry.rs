//! One repository of one registry: its name, its address, and its state.
//!
//! The requests are in other files: `client` fetches blobs, `manifest` fetches and sends manifests, `upload` sends
//! blobs, `list` and `referrers` read lists, `auth` authenticates, and `transport` sends each single HTTP request.

use crate::access::Access;
use crate::agents::Agents;
use crate::config::{Endpoint, RegistriesError};
use crate::error::{Failed, RegistryError};
use crate::host_gate::HostGates;
use crate::redirect;
use crate::session::Session;
use ::http::{HeaderValue, Response, Uri};
use sampan_job::cancel::Cancel;
use sampan_oci::reference::Reference;
use sampan_os::mutex::lock;
use std::sync::{Arc, Mutex};
use ureq::Body;

/// Most other repositories for which one token is requested, because token servers limit the length of a URL.
const EXTRA_SCOPES_MAX: usize = 8;

/// One repository of one registry.
pub struct Registry {
    /// The host as the reference spells it, for messages.
    pub(crate) host: String,
    /// The host and port to connect to.
    pub(crate) authority: String,
    pub(crate) repository: String,
    /// The tag or digest to request at this registry, if registries.conf has replaced the reference's own.
    pub(crate) target: Option<String>,
    pub(crate) plain_allowed: bool,
    pub(crate) insecure: bool,
    pub(crate) is_socket: bool,
    /// Whether another registry is tried if this one fails.
    pub(crate) is_mirror: bool,
    /// Whether the requests are a part of a push, for messages.
    pub(crate) is_push: bool,
    /// The error that every request returns, if registries.conf forbids this registry.
    pub(crate) blocked: Option<Arc<RegistriesError>>,
    pub(crate) agents: Agents,
    pub(crate) gates: Arc<HostGates>,
    pub(crate) session: Session,
    pub(crate) state: Mutex<RegistryState>,
    /// Cancelled by [`Registry::shutdown`].
    pub(crate) closed: Cancel,
}

#[derive(Default)]
pub(crate) struct RegistryState {
    /// `http` or `https`; `None` until a request has shown which of them the registry speaks.
    pub(crate) scheme: Option<&'static str>,
    /// Whether the front page has answered a request without authorization by status 200.
    pub(crate) is_open: bool,
}

impl Registry {
    /// The repository of `reference` at its own registry, to push to or to log in at.
    ///
    /// Connects to nothing yet. If registries.conf blocks the registry, each request fails with that error.
    pub fn new(reference: &Reference, access: &Access) -> Self {
        match access.registries.home(reference) {
            Ok(endpoint) => Registry::at(&endpoint, access),
            Err(error) => {
                let blocked = Some(Arc::new(error));
                Registry { blocked, ..Registry::at(&Endpoint::of(reference), access) }
            }
        }
    }

    /// The repository at `endpoint`. Connects to nothing yet.
    pub fn at(endpoint: &Endpoint, access: &Access) -> Self {
        let host = endpoint.host.clone();
        let authority = match &endpoint.socket {
            // A server on a Unix socket has no host name; curl(1) sends `localhost`, too.
            Some(_) => "localhost".to_owned(),
            None if host == "docker.io" => "registry-1.docker.io".to_owned(),
            None => host.clone(),
        };
        // `--tls-verify=false` concerns the registry that the user named, and not its mirrors.
        let insecure = endpoint.insecure
            || (access.insecure && !endpoint.mirror)
            || access.insecure_hosts.contains(&endpoint.host);
        let agents =
            Agents::new(&host, &authority, endpoint.socket.clone(), insecure, access, endpoint.mirror);
        Registry {
            plain_allowed: insecure || is_loopback(&host) || endpoint.socket.is_some(),
            host,
            authority,
            session: Session::new(access.credentials.clone(), &endpoint.repository),
            repository: endpoint.repository.clone(),
            target: endpoint.target.clone(),
            insecure,
            is_socket: endpoint.socket.is_some(),
            is_mirror: endpoint.mirror,
            is_push: false,
            blocked: None,
            agents,
            gates: Arc::clone(&access.gates),
            state: Mutex::default(),
            closed: Cancel::default(),
        }
    }

    /// The name of the registry's host, for messages.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The tag or digest to request at this registry, if registries.conf has replaced the reference's own.
    pub fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// Aborts all requests that are running; every later request fails at once.
    pub fn shutdown(&self) {
        self.closed.cancel();
        self.agents.shutdown();
    }

    /// Waits until the host's pause is over, if it has one. A caller that holds a slot for transfers while it sends a
    /// request waits here first, so that transfers from other hosts can have the slot. The wait ends at once if the
    /// registry is shut down.
    pub fn wait_until_open(&self) {
        // A mirror is not waited for: its requests fail at once, and another registry is tried.
        if !self.is_mirror {
            let _ = self.gates.wait(&self.host, &self.closed);
        }
    }

    /// Whether this is a mirror that has asked for a pause.
    pub(crate) fn is_paused_mirror(&self) -> bool {
        self.is_mirror && !self.gates.pause(&self.host).is_zero()
    }

    pub(crate) fn is_shut_down(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Requests tokens without any scope: a login only checks whether the registry accepts the credential.
    #[must_use]
    pub fn for_login(self) -> Self {
        self.session.set_scopes(Vec::new());
        self
    }

    /// Requests tokens for the list of the registry's repositories ([`Registry::catalog`]). The repository's own name
    /// is not sent then.
    #[must_use]
    pub fn for_catalog(self) -> Self {
        self.session.set_scopes(vec!["registry:catalog:*".to_owned()]);
        self
    }

    /// Requests tokens that allow pushes to this repository, and mounting blobs from the repositories `others`.
    #[must_use]
    pub fn for_push<'a>(self, others: impl IntoIterator<Item = &'a str>) -> Self {
        self.session.set_scopes(vec![format!("repository:{}:pull,push", self.repository)]);
        others.into_iter().take(EXTRA_SCOPES_MAX).for_each(|other| self.add_pull_scope(other));
        Registry { is_push: true, ..self }
    }

    /// Requests tokens that also allow pulls from the repository `other`, so that its blobs can be mounted. If there is
    /// a token without that right, the next request renews it.
    ///
    /// A token has at most `EXTRA_SCOPES_MAX` (8) such repositories: a further one replaces the oldest.
    pub fn add_pull_scope(&self, other: &str) {
        if other != self.repository {
            self.session.add_scope(format!("repository:{other}:pull"), EXTRA_SCOPES_MAX);
        }
    }

    /// The error for an answer that breaks the protocol; `problem` continues the sentence `registry HOST ...`.
    pub fn bad_answer(&self, problem: String) -> RegistryError {
        RegistryError::Answer { host: self.host.clone(), problem }
    }

    /// The error for an operation that the registry refuses as a whole, by the status of `response`.
    pub(crate) fn unsupported(&self, operation: &'static str, response: Response<Body>) -> RegistryError {
        let status = response.status().as_u16();
        self.drain(response);
        RegistryError::Unsupported { host: self.host.clone(), operation, status }
    }

    /// The error for a request or an answer that failed on the network.
    pub(crate) fn transport_error(&self, what: &str, source: ureq::Error) -> RegistryError {
        RegistryError::Transport { what: what.to_owned(), host: self.host.clone(), source: Failed(source) }
    }

    /// Whether `uri` leads to the registry itself, and not to another host after a redirect.
    pub(crate) fn is_own(&self, uri: &Uri) -> bool {
        redirect::is_at(uri, &self.authority)
    }

    /// The `Authorization` header for a request to `uri`; `None` for any host except the registry itself.
    pub(crate) fn authorization_for(&self, uri: &Uri) -> Option<HeaderValue> {
        let own = self.is_own(uri) && uri.scheme_str() == lock(&self.state).scheme;
        lock(&self.session.authorization).header.clone().filter(|_| own)
    }
}

/// Whether `host` is this machine itself, so that plain HTTP to it crosses no network.
pub(crate) fn is_loopback(host: &str) -> bool {
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
