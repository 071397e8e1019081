//! From what a person typed and the operator configured to the image that is meant and how it is reached.
//!
//! Called by [`crate::server`] when a pull is asked for or an image named, and by [`crate::tasks`] on the job's thread where a short
//! name may be of several registries, or all tags are wanted. Keeps nothing.

use crate::config::Config;
use crate::image::pull::PullError;
use sampan_ipc::credentials::Credential;
use sampan_job::cancel::{Cancel, Cancelled};
use sampan_oci::reference::{self, Reference};
use sampan_registry::config::RegistriesError;
use sampan_registry::credentials::Credentials;
use sampan_registry::mirrors::Mirrors;
use sampan_registry::{Access, RegistryError, retry};
use sampan_store::{Store, images};
use std::path::PathBuf;

/// Where certificates of registries are, in this order. containers-certs.d(5); dockerd's come second.
const CERTS: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// How registries are reached now; `insecure` is what a person said of the one at hand, `credentials` what the
/// client brought along.
///
/// # Errors
/// [`RegistriesError`] if a file cannot be used.
pub fn access(
    config: &Config,
    insecure: bool,
    credentials: Vec<Credential>,
) -> Result<Access, RegistriesError> {
    let certs = match &config.certs_dir {
        Some(dir) => vec![dir.clone()],
        None => CERTS.map(PathBuf::from).to_vec(),
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
    })
}

/// The programs that keep credentials beside or instead of files, in order.
///
/// # Errors
/// [`RegistriesError`] if a file cannot be used.
pub fn credential_helpers(config: &Config) -> Result<Vec<String>, RegistriesError> {
    Ok(config.registries.load()?.credential_helpers().to_vec())
}

/// What `typed` is the name of among the images that are here: of the first of its meanings that is one, else what
/// it is. What was pulled by a short name is found by it.
pub fn stored(config: &Config, store: &Store, typed: &str) -> String {
    if !reference::is_short(typed) {
        return typed.to_owned();
    }
    let meanings = config.registries.load().and_then(|all| all.meanings(typed));
    let (Ok(meanings), Ok(entries)) = (meanings, images::entries(store)) else {
        // Whoever fetches is told what is wrong with the files; what is here can be named without them.
        return typed.to_owned();
    };
    let is_here = |name: &String| entries.iter().any(|(_, names)| names.contains(name));
    meanings.iter().map(Reference::to_string).find(is_here).unwrap_or_else(|| typed.to_owned())
}

/// The first of `candidates` that there is. One alone is not asked for. `tell` hears what is tried again, and why.
///
/// # Errors
/// [`PullError::Registry`], which says what happened at each.
pub fn settle(
    candidates: &[Reference],
    access: &Access,
    cancel: &Cancel,
    tell: &dyn Fn(&str),
) -> Result<Reference, PullError> {
    if let [one] = candidates {
        return Ok(one.clone());
    }
    let mut failed = Vec::new();
    for candidate in candidates {
        let (mirrors, _link) = Mirrors::linked(candidate, access, cancel);
        let tell = |note: &str| tell(&format!("{candidate}: {note}"));
        match retry::persist(cancel, &tell, || mirrors.manifest(&candidate.target())) {
            Ok(_) => return Ok(candidate.clone()),
            Err(_) if cancel.is_cancelled() => return Err(Cancelled.into()),
            Err(error) => failed.push(error),
        }
    }
    let last = failed.pop().map(Box::new).ok_or(Cancelled)?;
    Err(RegistryError::AllFailed { others: failed, last }.into())
}

/// The tags of a repository, each as a reference, sorted. `tell` hears what is tried again, and why.
///
/// # Errors
/// [`PullError::Registry`].
pub fn tags(
    repository: &Reference,
    access: &Access,
    cancel: &Cancel,
    tell: &dyn Fn(&str),
) -> Result<Vec<Reference>, PullError> {
    let (mirrors, _link) = Mirrors::linked(repository, access, cancel);
    let tell = |note: &str| tell(&format!("tags of {}: {note}", repository.name()));
    let mut tags = retry::persist(cancel, &tell, || mirrors.tags())?;
    tags.sort();
    cancel.check()?;
    // A registry that lists what is no tag does not decide what is asked for; what is kept beside an image is none.
    Ok(tags
        .iter()
        .filter(|tag| !is_beside(tag))
        .filter_map(|tag| Reference::parse(&format!("{}:{tag}", repository.name())).ok())
        .collect())
}

/// True for the tags that cosign keeps signatures, attestations and lists of parts under, beside the image of that digest.
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
