//! A repository as a URL names it: with the scheme of the URL, and perhaps with an `Authorization` header of its
//! own.
//!
//! The supernode resolves images by it, for clients that later fetch the blobs from URLs. Neither mirrors nor
//! short names apply, because the URLs of the blobs follow from the URL of the manifest.

use crate::access::Access;
use crate::config::Endpoint;
use crate::credentials::Credentials;
use crate::registry::Registry;
use crate::session::Session;
use ::http::HeaderValue;
use sampan_os::mutex::lock;

/// The hosts of Docker Hub's registry in URLs. Credentials are stored for `docker.io`.
const DOCKER_HUB: [&str; 2] = ["registry-1.docker.io", "index.docker.io"];

impl Registry {
    /// The repository at `host` (`HOST[:PORT]`), by HTTPS or by plain HTTP. Connects to nothing yet.
    ///
    /// With `authorization`, each request to the host has this header, and no challenge is answered. Without it,
    /// challenges are answered with [`Access::credentials`]; over plain HTTP only on loopback and at hosts that
    /// are marked insecure, otherwise without a credential.
    pub fn at_url(
        is_https: bool,
        host: &str,
        repository: &str,
        authorization: Option<HeaderValue>,
        access: &Access,
    ) -> Self {
        let host = if is_https && DOCKER_HUB.contains(&host) { "docker.io" } else { host };
        let endpoint = Endpoint {
            host: host.to_owned(),
            repository: repository.to_owned(),
            target: None,
            insecure: false,
            socket: None,
            mirror: false,
        };
        let registry = Registry::at(&endpoint, access);
        let has_credentials = authorization.is_none() && (is_https || registry.plain_allowed);
        let credentials = if has_credentials { access.credentials.clone() } else { Credentials::default() };
        let session = Session::new(credentials, repository);
        lock(&registry.state).scheme = Some(if is_https { "https" } else { "http" });
        if let Some(mut header) = authorization {
            header.set_sensitive(true);
            lock(&session.authorization).header = Some(header);
            return Registry { session: Session { is_fixed: true, ..session }, ..registry };
        }
        // The URL asks for plain HTTP. A token server with plain HTTP gets no credential, since there is none.
        let plain_allowed = registry.plain_allowed || !is_https;
        Registry { session, plain_allowed, ..registry }
    }

    /// The `Authorization` header of the last request to the registry's own host; `None` if the request had none.
    /// The header is a secret, and may be a token that is valid only for this repository and for a short time.
    pub fn authorization_in_use(&self) -> Option<String> {
        let authorization = lock(&self.session.authorization);
        authorization.header.as_ref()?.to_str().ok().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_ipc::credentials::Credential;

    fn access(registry: &str) -> Access {
        let credential = Credential {
            registry: registry.to_owned(),
            username: "u".to_owned(),
            password: "p".to_owned(),
            ..Credential::default()
        };
        Access { credentials: Credentials::only(credential), ..Access::default() }
    }

    #[test]
    fn no_credential_goes_over_plain_http_to_another_host() {
        for (is_https, host, has_credential) in [
            (true, "r.example", true),
            (false, "r.example", false),
            (true, "127.0.0.1:5000", true),
            (false, "127.0.0.1:5000", true),
        ] {
            let registry = Registry::at_url(is_https, host, "a", None, &access(host));
            assert_eq!(registry.has_credential(), has_credential, "{is_https} {host}");
        }
        let insecure = Access { insecure_hosts: ["r.example".to_owned()].into(), ..access("r.example") };
        assert!(Registry::at_url(false, "r.example", "a", None, &insecure).has_credential());
    }

    #[test]
    fn docker_hub_has_its_credential_by_its_own_name() {
        let registry =
            Registry::at_url(true, "registry-1.docker.io", "library/a", None, &access("docker.io"));
        assert_eq!((registry.host(), registry.authority.as_str()), ("docker.io", "registry-1.docker.io"));
        assert!(registry.has_credential());
    }

    #[test]
    fn a_given_header_is_used_alone() {
        let header = HeaderValue::from_static("Bearer x");
        let registry = Registry::at_url(true, "r.example", "a", Some(header), &access("r.example"));
        assert!(!registry.has_credential());
        assert_eq!(registry.authorization_in_use().as_deref(), Some("Bearer x"));
        let own = "https://r.example/v2/".parse().expect("a URL");
        let other = "https://cdn.example/x".parse().expect("a URL");
        assert!(registry.authorization_for(&own).is_some() && registry.authorization_for(&other).is_none());
    }
}
