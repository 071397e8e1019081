//! Checks whether a registry accepts a credential: sends `GET /v2/` with it. Stores nothing; the client saves a
//! credential that the registry accepts.
//!
//! OCI distribution-spec, "Determining Support". Called on a thread of its own.

use crate::config::Config;
use crate::error;
use crate::image::resolve;
use sampan_ipc::credentials::{Credential, matching};
use sampan_ipc::engine::{Code, Done, Failure, Login};
use sampan_ipc::report::chain;
use sampan_job::cancel::Cancel;
use sampan_oci::reference::Reference;
use sampan_registry::credentials::Credentials;
use sampan_registry::{Access, Registry, RegistryError};
use std::sync::Arc;

/// Why a login failed.
pub struct Refused {
    /// The failure for the client.
    pub failure: Failure,
    /// The status of the registry's answer, if it answered.
    pub registry_status: Option<u16>,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Refused { failure, registry_status: None }
    }
}

/// Checks `login` at its registry, until `cancel` is called.
///
/// # Errors
/// [`Refused`]: the host is not valid, cannot be reached, or refuses the credential.
pub fn login(config: &Config, login: &Login, cancel: &Cancel) -> Result<Done, Refused> {
    let host = matching::host_of(&login.credential.registry);
    // A registry client needs a repository name; the name `login` is never sent.
    let reference = Reference::parse(&format!("{host}/login")).ok().filter(|r| r.host() == host);
    let Some(reference) = reference else {
        let shown: String = host.chars().take(300).collect();
        let message = format!("cannot log in to {shown:?}: it is no registry");
        return Err(
            error::new(Code::Usage, message, "give HOST[:PORT], such as registry.example:5000").into()
        );
    };
    if login.credential.username.contains(':') {
        let message = format!("cannot log in to {host}: a user name has no colon");
        return Err(error::new(Code::Usage, message, "").into());
    }
    let credential = Credential { registry: host.clone(), ..login.credential.clone() };
    let access = Access {
        credentials: Credentials::only(credential),
        ..resolve::access(config, login.insecure, Vec::new()).map_err(error::explain)?
    };
    let registry = Arc::new(Registry::new(&reference, &access).for_login());
    let to_shut = Arc::clone(&registry);
    cancel.on_cancel(move || to_shut.shutdown());
    match registry.check() {
        Ok(()) => Ok(Done { reference: host, ..Done::default() }),
        Err(error) => {
            Err(Refused { failure: refusal(&host, &error), registry_status: error.last().status() })
        }
    }
}

fn refusal(host: &str, error: &RegistryError) -> Failure {
    // The request was for `/v2/`, which means nothing to a user; the message leaves it out.
    let why = match error {
        RegistryError::Denied { detail, .. } => format!("it refuses this user name or password{detail}"),
        error => chain(error),
    };
    let message = format!("cannot log in to {host}: {why}");
    let hint = match error {
        RegistryError::Denied { .. } => "check the user name and the password",
        RegistryError::Transport { source, .. } => source.hint(),
        _ => "",
    };
    error::new(Code::Failed, message, hint)
}
