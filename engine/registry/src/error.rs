//! The error of a request to a registry, with messages and hints for people.
//!
//! All modules of this crate make these errors. The engine reads their kind and their hint; [`crate::retry`] decides
//! by the kind whether another attempt may succeed.

use crate::address::AddressRefused;
use crate::config::RegistriesError;
use crate::net::tls;
use sampan_oci::digest::Digest;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Why a request to a registry failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The network failed during or before the fetch.
    #[error("cannot fetch {what} from {host}")]
    Transport {
        /// What was requested, for example `blob sha256:...`.
        what: String,
        /// Name of the registry.
        host: String,
        /// The failure of the network, of TLS or of HTTP.
        source: Failed,
    },
    /// The network failed during or before the upload.
    #[error("cannot send {what} to {host}")]
    Send {
        /// What was sent, for example `manifest a/b:tag`.
        what: String,
        /// Name of the registry.
        host: String,
        /// The failure of the network, of TLS or of HTTP.
        source: Failed,
    },
    /// The registry answers 404.
    #[error("{what} is not in registry {host}")]
    NotFound {
        /// What was requested.
        what: String,
        /// Name of the registry.
        host: String,
    },
    /// The registry answers 401 or 403.
    #[error("registry {host} denies access to {what}{detail}")]
    Denied {
        /// What was requested.
        what: String,
        /// Name of the registry.
        host: String,
        /// The registry's own message, after a colon; or empty.
        detail: String,
    },
    /// The registry answers with any other status that is no success.
    #[error("registry {host} answers {status} to a request for {what}{detail}")]
    Status {
        /// What was requested.
        what: String,
        /// Name of the registry.
        host: String,
        /// HTTP status.
        status: u16,
        /// The first error code of the answer, such as `MANIFEST_BLOB_UNKNOWN`; empty if there is none. OCI
        /// distribution-spec, "Error Codes".
        code: String,
        /// The registry's own message, after a colon; or empty.
        detail: String,
        /// The wait that the registry's `Retry-After` header demands.
        retry_after: Option<Duration>,
    },
    /// The registry does not have an optional operation of the protocol, or does not grant it to anybody.
    #[error("registry {host} does not {operation} (status {status})")]
    Unsupported {
        /// Name of the registry.
        host: String,
        /// What the registry does not do, for example `list repositories`; continues the sentence.
        operation: &'static str,
        /// HTTP status.
        status: u16,
    },
    /// The answer breaks the protocol.
    #[error("registry {host} {problem}")]
    Answer {
        /// Name of the registry.
        host: String,
        /// What the registry does wrong; continues the sentence `registry HOST ...`.
        problem: String,
    },
    /// The bytes of a manifest have another digest than the requested one.
    #[error("manifest {expected} has digest {found}")]
    Digest {
        /// The requested digest.
        expected: Digest,
        /// The digest of the bytes.
        found: Digest,
    },
    /// registries.conf forbids the image, or cannot be used.
    #[error(transparent)]
    Registries(Arc<RegistriesError>),
    /// A certificate or key in a certs.d directory cannot be used.
    #[error("cannot use {} for registry {host}: {why}", path.display())]
    Certificate {
        /// The file or directory.
        path: PathBuf,
        /// Name of the registry.
        host: String,
        /// Why it cannot be used.
        why: String,
    },
    /// The proxy that the environment names cannot be used.
    #[error("cannot reach registry {host}: {why}")]
    Proxy {
        /// Name of the registry.
        host: String,
        /// Why the proxy cannot be used.
        why: String,
    },
    /// Several registries were tried, and each of them failed.
    #[error("{}; tried before: {}", sampan_ipc::report::chain(last.as_ref()), join_chains(others))]
    AllFailed {
        /// The errors of the other registries, in the order in which they were tried.
        others: Vec<RegistryError>,
        /// The error of the registry that was tried last.
        last: Box<RegistryError>,
    },
}

/// An error of the HTTP library, displayed for people: its own messages begin with the name of their variant.
#[derive(Debug)]
pub struct Failed(pub ureq::Error);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ureq::Error::Io(error) => match tls_error(error) {
                Some(error) => format_tls_error(error, f),
                None => error.fmt(f),
            },
            ureq::Error::Timeout(ureq::Timeout::Connect) => f.write_str("no connection in time"),
            ureq::Error::Timeout(ureq::Timeout::Resolve) => f.write_str("its name was not resolved in time"),
            ureq::Error::Timeout(ureq::Timeout::RecvResponse | ureq::Timeout::Global) => {
                f.write_str("no answer in time")
            }
            ureq::Error::Timeout(ureq::Timeout::PerRead) => f.write_str("no byte came in time"),
            ureq::Error::Timeout(ureq::Timeout::PerWrite) => f.write_str("no byte could be sent in time"),
            ureq::Error::Other(error) => error.fmt(f),
            other => other.fmt(f),
        }
    }
}

impl std::error::Error for Failed {}

impl Failed {
    /// The refusal of the address filter, if the request has failed because of it.
    pub fn refused(&self) -> Option<&AddressRefused> {
        match &self.0 {
            ureq::Error::Other(error) => error.downcast_ref(),
            _ => None,
        }
    }

    /// Whether a later attempt may succeed.
    pub fn is_passing(&self) -> bool {
        match &self.0 {
            // TLS reports an untrusted certificate as invalid data. Another attempt would get the same certificate.
            ureq::Error::Io(io) => io.kind() != io::ErrorKind::InvalidData,
            ureq::Error::Timeout(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => true,
            _ => false,
        }
    }

    /// A suggestion for the person who reads the error.
    pub fn hint(&self) -> &'static str {
        let ureq::Error::Io(error) = &self.0 else { return UNREACHABLE };
        match tls_error(error) {
            Some(rustls::Error::InvalidMessage(_)) => {
                "use --tls-verify=false if it speaks plain HTTP, or insecure-registries of the engine's configuration"
            }
            Some(error) if tls::is_ca_as_end_entity(error) || is_unknown_issuer(error) => {
                "put the certificate of its CA, or its own certificate if that is self-signed, into \
                 /etc/containers/certs.d/HOST[:PORT]/ca.crt; --tls-verify=false skips the check"
            }
            Some(rustls::Error::InvalidCertificate(_)) => {
                "it needs another certificate, or this host's clock is wrong; --tls-verify=false skips the check"
            }
            _ if is_unresolved(error) => "check the registry's name, and this host's DNS",
            _ => UNREACHABLE,
        }
    }
}

const UNREACHABLE: &str =
    "check that the registry is reachable; use --tls-verify=false if it speaks plain HTTP";

/// The TLS error in `error`; `None` if the cause is not TLS.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn is_unknown_issuer(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))
}

/// Displays a TLS error. Frequent errors have plain words.
fn format_tls_error(error: &rustls::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error {
        rustls::Error::InvalidMessage(_) => write!(f, "it does not speak TLS ({error})"),
        error if is_unknown_issuer(error) => {
            f.write_str("its certificate is not signed by an authority that this host trusts")
        }
        error if tls::is_ca_as_end_entity(error) => {
            f.write_str("its certificate is self-signed, and this host does not trust it")
        }
        error => fmt::Display::fmt(error, f),
    }
}

fn join_chains(errors: &[RegistryError]) -> String {
    errors.iter().map(|e| sampan_ipc::report::chain(e)).collect::<Vec<_>>().join("; ")
}

impl RegistryError {
    /// The error of the registry that was tried last; `self` if only one registry was tried.
    pub fn last(&self) -> &RegistryError {
        match self {
            RegistryError::AllFailed { last, .. } => last.last(),
            other => other,
        }
    }

    /// The HTTP status with which the registry refused the request: 401 stands for 401 and 403. `None` if the registry
    /// did not answer, or its answer is no refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            RegistryError::NotFound { .. } => Some(404),
            RegistryError::Denied { .. } => Some(401),
            RegistryError::Status { status, .. } | RegistryError::Unsupported { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// The error for a host name that could not be resolved. The text contains the reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unresolved(pub(crate) String);

fn is_unresolved(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<Unresolved>())
}

/// Crops text of a registry to a length that fits an error message.
pub(crate) fn crop(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_described_for_people() {
        for (reason, words) in [
            (ureq::Timeout::PerRead, "no byte came in time"),
            (ureq::Timeout::PerWrite, "no byte could be sent in time"),
            (ureq::Timeout::RecvResponse, "no answer in time"),
        ] {
            assert_eq!(Failed(ureq::Error::Timeout(reason)).to_string(), words);
        }
    }
}
