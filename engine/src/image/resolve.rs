//! Resolves a typed image name to an image, and finds the configured way to reach the image's registry.
//!
//! Called by [`crate::server`] for a pull and for each request that names an image. [`crate::tasks`] calls it on a
//! job's thread if a short name may belong to several registries, or if all tags are wanted. Stores nothing.

use crate::config::Config;
use crate::image::pull::PullError;
use sampan_ipc::credentials::Credential;
use sampan_job::cancel::{Cancel, Cancelled};
use sampan_oci::reference::{self, Reference};
use sampan_registry::config::RegistriesError;
use sampan_registry::credentials::Credentials;
use sampan_registry::host_gate::HostGates;
use sampan_registry::mirrors::Mirrors;
use sampan_registry::{Access, CERTS_DIRS, RegistryError, retry};
use sampan_store::{Store, images};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

/// The configured way to reach registries, read from the configuration files at each call. `insecure` applies only to
/// the registry of this request; the client sent `credentials`.
///
/// # Errors
/// [`RegistriesError`]: a configuration file cannot be read or parsed.
pub fn access(
    config: &Config,
    insecure: bool,
    credentials: Vec<Credential>,
) -> Result<Access, RegistriesError> {
    let certs = match &config.certs_dir {
        Some(dir) => vec![dir.clone()],
        None => CERTS_DIRS.map(PathBuf::from).to_vec(),
    };
    let registries = config.registries.load()?;
    Ok(Access {
        insecure,
        insecure_hosts: config.insecure_registries.clone().into(),
        certs: certs.into(),
        credentials: Credentials::new(
            credentials,
            config.auth_file.as_ref(),
            registries.credential_helpers(),
        ),
        registries,
        stall: Some(config.bounds.stall_time),
        gates: gates(),
        ..Access::default()
    })
}

/// The pauses and the rates of requests of all registries, which all jobs of this process share.
pub fn gates() -> Arc<HostGates> {
    static GATES: LazyLock<Arc<HostGates>> = LazyLock::new(Arc::default);
    Arc::clone(&GATES)
}

/// The configured credential helpers, in order. containers-registries.conf(5), "credential-helpers".
///
/// # Errors
/// [`RegistriesError`]: a configuration file cannot be read or parsed.
pub fn credential_helpers(config: &Config) -> Result<Vec<String>, RegistriesError> {
    Ok(config.registries.load()?.credential_helpers().to_vec())
}

/// Resolves `typed` among the stored images: a short name becomes the first of its possible references that a stored
/// image has. A user thus finds an image by the short name that the user pulled it by. If no stored image matches,
/// returns `typed`.
pub fn stored(config: &Config, store: &Store, typed: &str) -> String {
    if !reference::is_short(typed) {
        return typed.to_owned();
    }
    let meanings = config.registries.load().and_then(|all| all.meanings(typed));
    let (Ok(meanings), Ok(entries)) = (meanings, images::entries(store)) else {
        // The configuration files are broken. A pull reports that; stored images can still be named by their full
        // references.
        return typed.to_owned();
    };
    let is_here = |name: &String| entries.iter().any(|(_, names)| names.contains(name));
    meanings.iter().map(Reference::to_string).find(is_here).unwrap_or_else(|| typed.to_owned())
}

/// Finds the first of `candidates` that exists. Returns a single candidate without asking the candidate's registry.
/// `on_note` receives a note for each retry.
///
/// # Errors
/// [`PullError::Registry`]: no candidate exists; the message names the error of each candidate.
pub fn find_first(
    candidates: &[Reference],
    access: &Access,
    cancel: &Cancel,
    on_note: &dyn Fn(&str),
) -> Result<Reference, PullError> {
    if let [one] = candidates {
        return Ok(one.clone());
    }
    let mut failed = Vec::new();
    for candidate in candidates {
        let (mirrors, _link) = Mirrors::linked(candidate, access, cancel);
        let on_retry = |note: &str| on_note(&format!("{candidate}: {note}"));
        match retry::persist(cancel, &on_retry, || mirrors.manifest(&candidate.target())) {
            Ok(_) => return Ok(candidate.clone()),
            Err(_) if cancel.is_cancelled() => return Err(Cancelled.into()),
            Err(error) => failed.push(error),
        }
    }
    let last = failed.pop().map(Box::new).ok_or(Cancelled)?;
    Err(RegistryError::AllFailed { others: failed, last }.into())
}

/// Lists the tags of a repository, each as a reference, sorted. `on_note` receives a note for each retry.
///
/// # Errors
/// [`PullError::Registry`]: the registry cannot be asked, or refuses.
pub fn tags(
    repository: &Reference,
    access: &Access,
    cancel: &Cancel,
    on_note: &dyn Fn(&str),
) -> Result<Vec<Reference>, PullError> {
    let (mirrors, _link) = Mirrors::linked(repository, access, cancel);
    let on_retry = |note: &str| on_note(&format!("tags of {}: {note}", repository.name()));
    let mut tags = retry::persist(cancel, &on_retry, || mirrors.tags())?;
    tags.sort();
    cancel.check()?;
    // Ignore invalid tags in the registry's list, and tags for cosign's signatures, which are no images.
    Ok(tags
        .iter()
        .filter(|tag| !is_beside(tag))
        .filter_map(|tag| Reference::parse(&format!("{}:{tag}", repository.name())).ok())
        .collect())
}

/// Whether `tag` has the form of the tags under which cosign stores an image's signatures, attestations or SBOM.
fn is_beside(tag: &str) -> bool {
    let digest = ["sig", "att", "sbom"].iter().find_map(|kind| tag.strip_suffix(kind)?.strip_suffix('.'));
    let hex = digest.and_then(|digest| digest.strip_prefix("sha256-"));
    hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cosign_keeps_beside_an_image_is_no_image() {
        let hex = "0".repeat(64);
        assert!(["sig", "att", "sbom"].iter().all(|kind| is_beside(&format!("sha256-{hex}.{kind}"))));
        for tag in ["1.sig", "latest", &format!("sha256-{hex}"), &format!("sha256-{hex}0.sig"), "sha256-.sig"]
        {
            assert!(!is_beside(tag), "{tag}");
        }
    }
}
