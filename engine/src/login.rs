//! Whether a registry takes a credential: `GET /v2/` with it. Keeps nothing; the client saves what is good.
//!
//! OCI distribution-spec, "Determining Support". Called on a task's thread.

use crate::credentials::Credentials;
use crate::failure;
use crate::reference::Reference;
use crate::registry::{Access, Registry, RegistryError};
use sampan_credentials::matching;
use sampan_ipc::engine::{Code, Done, Failure, Login};
use sampan_ipc::report::chain;

/// Tries `login`; `insecure` is what the configuration says of its host.
///
/// # Errors
/// [`Failure`] if the host is none, cannot be reached, or refuses the credential.
pub fn login(login: &Login, insecure: &dyn Fn(&str) -> bool) -> Result<Done, Failure> {
    let host = matching::host_of(&login.credential.registry);
    // A repository's name is needed to be one's client, and never sent.
    let reference = Reference::parse(&format!("{host}/login")).ok().filter(|r| r.host() == host);
    let Some(reference) = reference else {
        let shown: String = host.chars().take(300).collect();
        let message = format!("cannot log in to {shown:?}: it is no registry");
        return Err(failure::new(Code::Usage, message, "give HOST[:PORT], such as registry.example:5000"));
    };
    if login.credential.username.contains(':') {
        let message = format!("cannot log in to {host}: a user name has no colon");
        return Err(failure::new(Code::Usage, message, ""));
    }
    let access = Access { insecure: login.insecure || insecure(&host) };
    let registry = Registry::new(&reference, access)
        .with_credentials(Credentials::only(login.credential.clone()))
        .for_login();
    match registry.check() {
        Ok(()) => Ok(Done { reference: host, ..Done::default() }),
        Err(error) => Err(refusal(&host, &error)),
    }
}

fn refusal(host: &str, error: &RegistryError) -> Failure {
    let message = format!("cannot log in to {host}: {}", chain(error));
    let hint = match error {
        RegistryError::Denied { .. } => "check the user name and the password",
        RegistryError::Transport { .. } => {
            "check that the registry is reachable; use --tls-verify=false if it speaks plain HTTP"
        }
        _ => "",
    };
    failure::new(Code::Failed, message, hint)
}
