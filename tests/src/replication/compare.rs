//! Compares two repositories byte for byte: manifests, their children, their blobs.
//!
//! Asks the registries themselves, so that no recorder counts its requests.

use super::client::Client;
use sampan_oci::digest::{Algorithm, Digest, Hasher};
use serde_json::Value;
use std::collections::HashSet;

/// A repository of a registry.
#[derive(Clone, Copy)]
pub struct Repository<'a> {
    /// The registry.
    pub client: &'a Client,
    /// The repository's name.
    pub name: &'a str,
}

/// Compares a tag or digest of two repositories; the differences, one sentence each.
///
/// The destination may lack what the source lacks, such as a child of a sparse index or a layer that is elsewhere. A
/// subject is not part of its referrer.
pub fn differences(source: Repository<'_>, destination: Repository<'_>, names: &[&str]) -> Vec<String> {
    let mut walk = Walk { source, destination, seen: HashSet::new(), found: Vec::new() };
    for name in names {
        walk.document(name);
    }
    walk.found
}

/// Panics with all differences of these tags or digests if there are any.
pub fn assert_same(source: Repository<'_>, destination: Repository<'_>, names: &[&str]) {
    let found = differences(source, destination, names);
    assert!(found.is_empty(), "{} and {} differ:\n{}", source.name, destination.name, found.join("\n"));
}

struct Walk<'a> {
    source: Repository<'a>,
    destination: Repository<'a>,
    seen: HashSet<String>,
    found: Vec<String>,
}

impl Walk<'_> {
    fn document(&mut self, name: &str) {
        if !self.seen.insert(name.to_owned()) {
            return;
        }
        let [there, here] = [self.source, self.destination].map(|side| side.client.manifest(side.name, name));
        match (there.status(), here.status()) {
            (200, 200) => {}
            (404, _) => return,
            (there, here) => {
                self.found.push(format!("{name}: the source answers {there}, the destination {here}"));
                return;
            }
        }
        if there.body != here.body {
            let lens = (there.body.len(), here.body.len());
            self.found.push(format!("{name}: the bytes differ, {} and {}", lens.0, lens.1));
        }
        for header in ["content-type", "docker-content-digest"] {
            let values = (there.header(header), here.header(header));
            if values.0 != values.1 {
                self.found.push(format!("{name}: {header} is {:?} and {:?}", values.0, values.1));
            }
        }
        let Ok(document) = serde_json::from_slice::<Value>(&there.body) else {
            self.found.push(format!("{name}: no JSON"));
            return;
        };
        for child in descriptors(&document["manifests"]) {
            self.document(&child);
        }
        let config = document["config"]["digest"].as_str().map(str::to_owned);
        for blob in descriptors(&document["layers"]).into_iter().chain(config) {
            self.blob(&blob);
        }
    }

    fn blob(&mut self, digest: &str) {
        if !self.seen.insert(digest.to_owned()) {
            return;
        }
        let Some(there) = self.source.client.blob(self.source.name, digest) else { return };
        match self.destination.client.blob(self.destination.name, digest) {
            None => self.found.push(format!("{digest}: the destination lacks the blob")),
            Some(here) if here != there => self.found.push(format!("{digest}: the bytes differ")),
            Some(here) if !is_digest_of(digest, &here) => {
                self.found.push(format!("{digest}: the bytes have another digest"));
            }
            Some(_) => {}
        }
    }
}

fn descriptors(list: &Value) -> Vec<String> {
    let list = list.as_array().cloned().unwrap_or_default();
    list.iter().filter_map(|descriptor| descriptor["digest"].as_str().map(str::to_owned)).collect()
}

fn is_digest_of(digest: &str, bytes: &[u8]) -> bool {
    let algorithm = if digest.starts_with("sha512:") { Algorithm::Sha512 } else { Algorithm::Sha256 };
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    Digest::parse(digest).is_ok_and(|digest| digest == hasher.finish())
}
