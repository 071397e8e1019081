//! Finds the user's credentials for a job. The engine gets only the credentials that the job needs.

use crate::cli::error::Failure;
use crate::cli::output;
use sampan_client::Engine;
use sampan_client::engine::{Answer, Credential, REQUEST_MAX, Request};
use sampan_ipc::credentials::{Search, search as known};
use std::path::Path;

/// Most bytes that credentials may take in a request.
const BYTES_MAX: usize = REQUEST_MAX / 2;

/// The `credential-helpers` of registries.conf, as the engine reads that file.
pub(crate) fn helpers(engine: &Engine) -> Result<Vec<String>, Failure> {
    let mut helpers = Vec::new();
    for answer in engine.request(Request::CredentialHelpers, &[])? {
        if let Answer::CredentialHelpers(names) = answer? {
            helpers = names;
        }
    }
    Ok(helpers)
}

/// Returns the credentials for the registry of `reference`, from this user's files and helpers, or only from
/// `authfile`. If `reference` names no registry, returns all credentials, since the engine chooses the registry.
pub(crate) fn for_job(
    engine: &Engine,
    reference: &str,
    authfile: Option<&Path>,
) -> Result<Vec<Credential>, Failure> {
    for_references(engine, &[reference], authfile)
}

/// Like [`for_job`], for a job that uses the registries of several references. Of equal entries, returns one.
pub(crate) fn for_references(
    engine: &Engine,
    references: &[&str],
    authfile: Option<&Path>,
) -> Result<Vec<Credential>, Failure> {
    let search = match authfile {
        Some(file) => Search::only(file),
        None => Search::from_env(None, &helpers(engine)?),
    };
    if let Some(file) = authfile.filter(|file| !file.exists()) {
        return Err(Failure::new(format!("cannot read credentials in {}: no such file", file.display())));
    }
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    for reference in references {
        let (more, failed) = search.entries(repository(reference));
        // The order decides between entries for one registry, and all references get the same order.
        entries.extend(more.into_iter().filter(|entry| !entries.contains(entry)).collect::<Vec<_>>());
        problems.extend(failed.into_iter().filter(|problem| !problems.contains(problem)).collect::<Vec<_>>());
    }
    if authfile.is_some() && !problems.is_empty() {
        return Err(Failure::new(problems.join("; ")));
    }
    problems.iter().for_each(|problem| output::note(problem));
    Ok(that_fit(entries))
}

/// Drops credentials until the rest fits into a request.
fn that_fit(mut entries: Vec<Credential>) -> Vec<Credential> {
    let mut bytes = 0;
    entries.retain(|entry| {
        let Credential { registry, username, password, identity_token } = entry;
        bytes += registry.len() + username.len() + password.len() + identity_token.len() + 20;
        bytes < BYTES_MAX
    });
    entries
}

/// The host and path of a reference; `None` if the reference names no host. The engine checks the syntax.
fn repository(reference: &str) -> Option<(&str, &str)> {
    let (host, rest) = reference.split_once('/')?;
    let is_host = host.contains(['.', ':', '['])
        || host == "localhost"
        || host.bytes().any(|byte| byte.is_ascii_uppercase());
    let rest = rest.split('@').next().unwrap_or(rest);
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let path = match rest.get(last..).and_then(|name| name.find(':')) {
        Some(colon) => rest.get(..last + colon).unwrap_or(rest),
        None => rest,
    };
    is_host.then_some((host, path))
}

/// The name of a registry in credential files and for helpers.
pub(crate) fn server(host: &str) -> String {
    known::server_of(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_of_a_reference_has_neither_tag_nor_digest() {
        for (reference, expected) in [
            ("alpine", None),
            ("library/alpine:3", None),
            ("r.example/a/b:1", Some(("r.example", "a/b"))),
            ("localhost:5000/a@sha256:00", Some(("localhost:5000", "a"))),
            ("[::1]:5000/a:b@sha256:00", Some(("[::1]:5000", "a"))),
        ] {
            assert_eq!(repository(reference), expected, "{reference}");
        }
    }
}
