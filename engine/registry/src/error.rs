//! Why a registry did not give what it was asked for, in words for people.
//!
//! Made by every file of this crate; the engine reads kind and hint of it, [`crate::retry`] whether it may pass.

use crate::config::RegistriesError;
use crate::net::tls;
use sampan_oci::digest::Digest;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
        source: Failed,
    },
    /// What it was sent did not get there.
    #[error("cannot send {what} to {host}")]
    Send {
        /// What was sent.
        what: String,
        /// To whom.
        host: String,
        /// Why not.
        source: Failed,
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
    /// The files about registries forbid it, or make no sense.
    #[error(transparent)]
    Registries(Arc<RegistriesError>),
    /// What the operator gave to reach it with cannot be used.
    #[error("cannot use {} for registry {host}: {why}", path.display())]
    Certificate {
        /// Which file or directory.
        path: PathBuf,
        /// For whom.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// The environment names a proxy that cannot be used.
    #[error("cannot reach registry {host}: {why}")]
    Proxy {
        /// Whom.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// Neither a mirror nor the registry itself gave it.
    #[error("{}; tried before: {}", sampan_ipc::report::chain(last.as_ref()), all(others))]
    Everywhere {
        /// What happened at the others, in the order in which they were tried.
        others: Vec<RegistryError>,
        /// What happened last.
        last: Box<RegistryError>,
    },
}

/// What broke a request, in words for people: ureq's own begin with the name of its variant.
#[derive(Debug)]
pub struct Failed(pub ureq::Error);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ureq::Error::Io(error) => match tls_error(error) {
                Some(error) => tls_words(error, f),
                None => error.fmt(f),
            },
            ureq::Error::Timeout(ureq::Timeout::Connect) => f.write_str("no connection in time"),
            ureq::Error::Timeout(ureq::Timeout::Resolve) => f.write_str("its name is not resolved in time"),
            ureq::Error::Timeout(ureq::Timeout::RecvResponse) => f.write_str("no answer in time"),
            ureq::Error::Timeout(ureq::Timeout::PerRead) => f.write_str("no byte came in time"),
            ureq::Error::Timeout(ureq::Timeout::PerWrite) => f.write_str("no byte was taken in time"),
            other => other.fmt(f),
        }
    }
}

impl std::error::Error for Failed {}

impl Failed {
    /// What a person may do about it.
    pub fn hint(&self) -> &'static str {
        let ureq::Error::Io(error) = &self.0 else { return UNREACHABLE };
        match tls_error(error) {
            Some(rustls::Error::InvalidMessage(_)) => {
                "use --tls-verify=false if it speaks plain HTTP, or insecure-registries of the engine's configuration"
            }
            Some(error) if tls::is_authoritys(error) || is_unknown(error) => {
                "put the certificate of its CA into /etc/containers/certs.d/HOST[:PORT]/ca.crt, or its own if it has \
                 signed that itself; --tls-verify=false goes without"
            }
            Some(rustls::Error::InvalidCertificate(_)) => {
                "it needs another certificate, or this host's clock is wrong; --tls-verify=false goes without"
            }
            _ if is_unresolved(error) => "check the registry's name, and this host's DNS",
            _ => UNREACHABLE,
        }
    }
}

const UNREACHABLE: &str =
    "check that the registry is reachable; use --tls-verify=false if it speaks plain HTTP";

/// What TLS says, if it was TLS that failed.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn is_unknown(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))
}

/// The words of TLS, where it has some that a person understands.
fn tls_words(error: &rustls::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error {
        rustls::Error::InvalidMessage(_) => write!(f, "it does not speak TLS ({error})"),
        error if is_unknown(error) => f.write_str("nobody whom this host trusts has signed its certificate"),
        error if tls::is_authoritys(error) => {
            f.write_str("its certificate is one that it has signed itself, and is not known here")
        }
        error => fmt::Display::fmt(error, f),
    }
}

fn all(errors: &[RegistryError]) -> String {
    errors.iter().map(|e| sampan_ipc::report::chain(e)).collect::<Vec<_>>().join("; ")
}

impl RegistryError {
    /// What happened at the place that was asked last: the error itself if that was the only one.
    pub fn last(&self) -> &RegistryError {
        match self {
            RegistryError::Everywhere { last, .. } => last.last(),
            other => other,
        }
    }
}

/// A name that no address is known for, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unresolved(pub(crate) String);

/// True if it was the name that was not known.
fn is_unresolved(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<Unresolved>())
}

/// Enough of a stranger's text to recognise it by.
pub(crate) fn crop(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_too_late_is_said_in_words_for_people() {
        for (reason, words) in [
            (ureq::Timeout::PerRead, "no byte came in time"),
            (ureq::Timeout::PerWrite, "no byte was taken in time"),
            (ureq::Timeout::RecvResponse, "no answer in time"),
        ] {
            assert_eq!(Failed(ureq::Error::Timeout(reason)).to_string(), words);
        }
    }
}
