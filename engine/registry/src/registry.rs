//! One repository of one registry: what it is called, how it is reached, what it knows of us.
//!
//! The requests are in files of their own: [`crate::transport`] sends one, [`crate::auth`] says who we are, `client` asks for
//! manifests, blobs and tags, [`crate::upload`] sends them.

use crate::access::Access;
use crate::agents::Agents;
use crate::config::{Endpoint, RegistriesError};
use crate::error::{Failed, RegistryError};
use crate::redirect;
use crate::session::Session;
use ::http::{HeaderValue, Uri};
use sampan_oci::reference::Reference;
use sampan_os::mutex::lock;
use std::sync::{Arc, Mutex};

/// Most other repositories that a token is asked for: realms limit the length of a URL.
const OTHERS_MAX: usize = 8;

/// One repository of one registry.
pub struct Registry {
    /// As the reference has it, for messages.
    pub(crate) host: String,
    /// As it is connected to.
    pub(crate) authority: String,
    pub(crate) repository: String,
    /// The tag or digest to ask for, if it is not the reference's.
    pub(crate) target: Option<String>,
    pub(crate) plain_allowed: bool,
    pub(crate) insecure: bool,
    pub(crate) is_socket: bool,
    /// Why nothing may be asked here.
    pub(crate) refused: Option<Arc<RegistriesError>>,
    pub(crate) agents: Agents,
    pub(crate) session: Session,
    pub(crate) state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) scheme: Option<&'static str>,
    pub(crate) shut: bool,
}

impl Registry {
    /// The repository that `reference` is in, at its own registry: to push to, or to log in at. Connects to nothing
    /// yet; if it is blocked, each request says so.
    pub fn new(reference: &Reference, access: &Access) -> Self {
        match access.registries.home(reference) {
            Ok(endpoint) => Registry::at(&endpoint, access),
            Err(why) => {
                let refused = Some(Arc::new(why));
                Registry { refused, ..Registry::at(&Endpoint::of(reference), access) }
            }
        }
    }

    /// The repository that `endpoint` is. Connects to nothing yet.
    pub fn at(endpoint: &Endpoint, access: &Access) -> Self {
        let host = endpoint.host.clone();
        let authority = match &endpoint.socket {
            // What a server behind a socket is called nobody knows; it hears what curl(1) says there.
            Some(_) => "localhost".to_owned(),
            None if host == "docker.io" => "registry-1.docker.io".to_owned(),
            None => host.clone(),
        };
        // What a person says of a registry is not about its mirrors.
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
            refused: None,
            agents,
            state: Mutex::default(),
        }
    }

    /// What it is called in messages.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The tag or digest to ask for here, if it is another than the reference's.
    pub fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// Breaks off all requests, now and for ever.
    pub fn shutdown(&self) {
        lock(&self.state).shut = true;
        self.agents.shutdown();
    }

    /// To find out whether the registry takes a credential, no repository is asked for.
    #[must_use]
    pub fn for_login(self) -> Self {
        lock(&self.session.scopes).clear();
        self
    }

    /// Tokens are to be good for pushes, and for blobs of `others`.
    #[must_use]
    pub fn for_push<'a>(self, others: impl IntoIterator<Item = &'a str>) -> Self {
        {
            let mut scopes = lock(&self.session.scopes);
            *scopes = vec![format!("repository:{}:pull,push", self.repository)];
            scopes
                .extend(others.into_iter().take(OTHERS_MAX).map(|other| format!("repository:{other}:pull")));
        }
        self
    }

    /// That it answers with something that makes no sense.
    pub fn wrong(&self, wrong: String) -> RegistryError {
        RegistryError::Answer { host: self.host.clone(), wrong }
    }

    /// That a request or its answer broke.
    pub(crate) fn transport(&self, what: &str, source: ureq::Error) -> RegistryError {
        RegistryError::Transport { what: what.to_owned(), host: self.host.clone(), source: Failed(source) }
    }

    /// True if `uri` leads to the registry itself, and not to where it redirects.
    pub(crate) fn is_own(&self, uri: &Uri) -> bool {
        redirect::is_at(uri, &self.authority)
    }

    /// What goes to `uri` to say who we are: nothing but to the registry itself.
    pub(crate) fn authorization_for(&self, uri: &Uri) -> Option<HeaderValue> {
        let own = self.is_own(uri) && uri.scheme_str() == lock(&self.state).scheme;
        lock(&self.session.known).authorization.clone().filter(|_| own)
    }
}

/// True for this host itself, which no network is in between of.
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
