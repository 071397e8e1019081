//! `index.json` of an OCI layout: its entries, their names, and changes that keep everything else as it was.
//!
//! Pure. Called by `oci_layout`. An entry's name is in the annotation `org.opencontainers.image.ref.name`, as
//! `REPOSITORY:TAG`. Other tools name entries otherwise:
//!
//! - skopeo and umoci write what a user typed, most often a bare tag such as `1.0`. Its repository is the empty one.
//! - containerd and docker write a full reference into the annotation `io.containerd.image.name`, which then is the
//!   entry's name, and a bare tag beside it.
//!
//! A destination looks at exact names only ([`Lookup::Exact`]). A source looks further ([`Lookup::Lenient`]): at
//! references with the same full form (`alpine` finds `docker.io/library/alpine`), and in a repository that the layout
//! does not name, at bare tags. So the layout `oci:DIR` with the bare tag `1.0` can be copied as `team/app:1.0`.

use crate::image::archive::manifest::{CONTAINERD_NAME, REF_NAME};
use sampan_oci as oci;
use sampan_oci::Descriptor;
use sampan_oci::digest::Digest;
use sampan_oci::reference::{Reference, is_tag};
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};

/// The tag of a name that has none.
const DEFAULT_TAG: &str = "latest";

/// How names are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Only the exact name.
    Exact,
    /// Also full references, and bare tags in a repository that the layout does not name.
    Lenient,
}

/// A repository and a tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    repository: String,
    tag: String,
}

/// An entry of the index. Its bytes stay as they are, so that fields of other tools survive.
struct Entry {
    raw: Box<RawValue>,
    /// `None` if the entry is no descriptor that this engine can read, such as one with an unknown digest algorithm.
    descriptor: Option<Descriptor>,
    /// The entry's names, the most complete first.
    names: Vec<Name>,
}

/// The document, with all fields.
pub struct LayoutIndex {
    fields: BTreeMap<String, Box<RawValue>>,
    entries: Vec<Entry>,
}

/// A new entry.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewEntry<'a> {
    media_type: &'a str,
    digest: &'a Digest,
    size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'a str, String>,
}

impl LayoutIndex {
    /// Makes an index without entries.
    ///
    /// # Errors
    /// Never: the fields are constants.
    pub fn empty() -> Result<Self, serde_json::Error> {
        Self::parse(
            format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, oci::INDEX).as_bytes(),
        )
    }

    /// Parses the document. An entry that is no valid descriptor has no name and no digest, and stays in the document.
    ///
    /// # Errors
    /// The document is no JSON object, or `manifests` is no list.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(bytes)?;
        let list: Option<Vec<Box<RawValue>>> = match fields.remove("manifests") {
            Some(list) => serde_json::from_str(list.get())?,
            None => None,
        };
        let entries = list.unwrap_or_default().into_iter().map(Entry::new).collect();
        Ok(LayoutIndex { fields, entries })
    }

    /// The bytes of the document.
    ///
    /// # Errors
    /// Never: every part was JSON before.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let entries: Vec<&RawValue> = self.entries.iter().map(|entry| &*entry.raw).collect();
        let entries = serde_json::value::to_raw_value(&entries)?;
        let mut fields: BTreeMap<&str, &RawValue> =
            self.fields.iter().map(|(key, value)| (key.as_str(), &**value)).collect();
        fields.insert("manifests", &entries);
        serde_json::to_vec(&fields)
    }

    /// The descriptors of all entries that can be read.
    pub fn descriptors(&self) -> impl Iterator<Item = &Descriptor> {
        self.entries.iter().filter_map(|entry| entry.descriptor.as_ref())
    }

    /// Whether every entry can be read, so that it is known what the layout needs.
    pub fn is_understood(&self) -> bool {
        self.entries.iter().all(|entry| entry.descriptor.is_some())
    }

    /// All repositories, sorted. Bare tags are in the repository with the empty name.
    pub fn repositories(&self) -> BTreeSet<String> {
        self.entries.iter().filter_map(|e| e.names.first()).map(|name| name.repository.clone()).collect()
    }

    /// All tags of a repository, sorted.
    pub fn tags(&self, repository: &str, lookup: Lookup) -> BTreeSet<String> {
        let Some(repository) = self.known_as(repository, lookup) else { return BTreeSet::new() };
        let names = self.entries.iter().filter_map(|entry| entry.names.first());
        names.filter(|name| name.repository == repository).map(|name| name.tag.clone()).collect()
    }

    /// The entry of a tag. Of several, the first, as skopeo chooses.
    pub fn find(&self, repository: &str, tag: &str, lookup: Lookup) -> Option<&Descriptor> {
        let repository = self.known_as(repository, lookup)?;
        let is_it = |name: &Name| name.repository == repository && name.tag == tag;
        let first = self.entries.iter().find(|entry| entry.names.first().is_some_and(is_it));
        // A bare tag beside a full reference also finds the entry.
        let found = first.or_else(|| self.entries.iter().find(|entry| entry.names.iter().any(is_it)));
        found.and_then(|entry| entry.descriptor.as_ref())
    }

    /// The entry of a digest.
    pub fn find_digest(&self, digest: &Digest) -> Option<&Descriptor> {
        self.descriptors().find(|descriptor| descriptor.digest == *digest)
    }

    /// The name that the layout has for `repository`; `None` if it has none.
    fn known_as(&self, repository: &str, lookup: Lookup) -> Option<String> {
        let names = || self.entries.iter().flat_map(|entry| &entry.names).map(|name| &name.repository);
        if lookup == Lookup::Exact || names().any(|name| name == repository) {
            return Some(repository.to_owned());
        }
        let full = full_name(repository);
        let same = names().find(|name| full.is_some() && full_name(name) == full);
        same.or_else(|| names().find(|name| name.is_empty())).cloned()
    }

    /// Gives the manifest `manifest` a name, or lists it without a name if `tag` is `None`. The name leaves the entry
    /// that had it. Returns false if nothing changes.
    ///
    /// # Errors
    /// Never: a descriptor can be expressed as JSON.
    pub fn put(
        &mut self,
        repository: &str,
        tag: Option<&str>,
        manifest: &Descriptor,
    ) -> Result<bool, serde_json::Error> {
        let is_manifest = |entry: &Entry| {
            let listed = entry.descriptor.as_ref();
            listed.is_some_and(|d| d.digest == manifest.digest && d.media_type == manifest.media_type)
        };
        let name = tag.map(|tag| Name { repository: repository.to_owned(), tag: tag.to_owned() });
        let is_named = |entry: &Entry| name.as_ref().is_some_and(|name| entry.names.contains(name));
        let mut named = self.entries.iter().filter(|entry| is_named(entry));
        let unchanged = match &name {
            Some(_) => named.next().is_some_and(is_manifest) && named.next().is_none(),
            None => self.entries.iter().any(is_manifest),
        };
        if unchanged {
            return Ok(false);
        }
        let text = name.as_ref().map(Name::text);
        let new = NewEntry {
            media_type: &manifest.media_type,
            digest: &manifest.digest,
            size: manifest.size,
            annotations: text.into_iter().map(|text| (REF_NAME, text)).collect(),
        };
        let raw = serde_json::value::to_raw_value(&new)?;
        // A name takes the place of an entry without one: the manifest stays listed.
        self.entries.retain(|entry| !(is_named(entry) || (is_manifest(entry) && entry.names.is_empty())));
        self.entries.push(Entry::new(raw));
        Ok(true)
    }

    /// Removes the entries of a tag. Returns their descriptors.
    pub fn remove_tag(&mut self, repository: &str, tag: &str) -> Vec<Descriptor> {
        let name = Name { repository: repository.to_owned(), tag: tag.to_owned() };
        self.remove(|entry| entry.names.contains(&name))
    }

    /// Removes the entries of a digest that have a name in the repository, or no name. Returns their descriptors.
    pub fn remove_digest(&mut self, repository: &str, digest: &Digest) -> Vec<Descriptor> {
        self.remove(|entry| {
            let is_here = entry.names.is_empty() || entry.names.iter().any(|n| n.repository == repository);
            is_here && entry.descriptor.as_ref().is_some_and(|d| d.digest == *digest)
        })
    }

    fn remove(&mut self, is_removed: impl Fn(&Entry) -> bool) -> Vec<Descriptor> {
        let (removed, kept) = std::mem::take(&mut self.entries).into_iter().partition(is_removed);
        self.entries = kept;
        let removed: Vec<Entry> = removed;
        removed.into_iter().filter_map(|entry| entry.descriptor).collect()
    }
}

impl Entry {
    fn new(raw: Box<RawValue>) -> Self {
        let descriptor: Option<Descriptor> = serde_json::from_str(raw.get()).ok();
        let mut names: Vec<Name> = Vec::new();
        for key in [CONTAINERD_NAME, REF_NAME] {
            let text = descriptor.as_ref().and_then(|descriptor| descriptor.annotations.get(key));
            names.extend(text.and_then(|text| Name::parse(text)));
        }
        Entry { raw, descriptor, names }
    }
}

impl Name {
    /// Parses `REPOSITORY:TAG`, a bare tag, or a repository without a tag, which has a slash. `None` for anything else.
    fn parse(text: &str) -> Option<Self> {
        let last = text.rfind('/').map_or(0, |slash| slash + 1);
        let (repository, tag) = match text.rfind(':').filter(|colon| *colon >= last) {
            Some(colon) => (text.get(..colon)?, text.get(colon + 1..)?),
            None if last == 0 => ("", text),
            None => (text, DEFAULT_TAG),
        };
        let is_bare = repository.is_empty() && tag.len() == text.len();
        let is_valid = is_tag(tag) && (is_bare || is_repository(repository));
        is_valid.then(|| Name { repository: repository.to_owned(), tag: tag.to_owned() })
    }

    fn text(&self) -> String {
        match self.repository.is_empty() {
            true => self.tag.clone(),
            false => format!("{}:{}", self.repository, self.tag),
        }
    }
}

/// Whether an entry can be named after this repository: components with letters, digits and `-._+`, and a colon only
/// before a port. The grammar of `org.opencontainers.image.ref.name` without what would make a name ambiguous.
pub fn is_repository(name: &str) -> bool {
    let is_part = |part: &str| {
        let is_edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        is_edge(part.bytes().next())
            && is_edge(part.bytes().last())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._+".contains(&b))
    };
    let (first, rest) = match name.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (name, None),
    };
    let (host, port) = match first.split_once(':').filter(|_| rest.is_some()) {
        Some((host, port)) => (host, Some(port)),
        None => (first, None),
    };
    name.len() <= oci::reference::NAME_MAX
        && is_part(host)
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
        && rest.is_none_or(|rest| rest.split('/').all(is_part))
}

/// The full form of a repository's name, as the docker tools complete it.
fn full_name(repository: &str) -> Option<String> {
    let reference = Reference::parse(repository).ok()?;
    (reference.tag() == Some(DEFAULT_TAG) && reference.digest().is_none()).then(|| reference.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn entry(content: &str, annotations: &Value) -> Value {
        let digest = Digest::of(content.as_bytes());
        json!({"mediaType": oci::MANIFEST, "digest": digest, "size": 1, "annotations": annotations, "other": [1]})
    }

    fn index(entries: &[Value]) -> LayoutIndex {
        let document = json!({"schemaVersion": 2, "manifests": entries, "annotations": {"by": "somebody"}});
        LayoutIndex::parse(document.to_string().as_bytes()).expect("an index")
    }

    fn descriptor(content: &str) -> Descriptor {
        Descriptor {
            media_type: oci::MANIFEST.to_owned(),
            digest: Digest::of(content.as_bytes()),
            size: 1,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn the_names_of_other_tools_are_understood() {
        let name = |text: &str| Name::parse(text).map(|name| (name.repository, name.tag));
        let is = |repository: &str, tag: &str| Some((repository.to_owned(), tag.to_owned()));
        assert_eq!(name("1.0"), is("", "1.0"));
        assert_eq!(name("team/app:1.0"), is("team/app", "1.0"));
        assert_eq!(name("app:1.0"), is("app", "1.0"));
        assert_eq!(name("host:5000/app:1.0"), is("host:5000/app", "1.0"));
        assert_eq!(name("host:5000/app"), is("host:5000/app", "latest"));
        for text in ["", ":", ":1", "a:", "a/:1", "/a:1", "a b", "a@sha256:0", "../x:1", "a//b:1", "a:1:2"] {
            assert_eq!(name(text), None, "{text}");
        }
    }

    #[test]
    fn a_bare_tag_is_in_every_repository_that_the_layout_does_not_name() {
        let names = json!({CONTAINERD_NAME: "docker.io/library/alpine:3", REF_NAME: "3"});
        let layout = index(&[
            entry("bare", &json!({REF_NAME: "1.0"})),
            entry("full", &names),
            entry("own", &json!({REF_NAME: "team/app:1.0"})),
        ]);
        let found =
            |repository, tag, lookup| layout.find(repository, tag, lookup).map(|found| found.digest.clone());
        let is = |content: &str| Some(Digest::of(content.as_bytes()));
        assert_eq!(found("", "1.0", Lookup::Exact), is("bare"));
        assert_eq!(found("", "3", Lookup::Exact), is("full"));
        assert_eq!(found("other", "1.0", Lookup::Lenient), is("bare"));
        assert_eq!(found("other", "1.0", Lookup::Exact), None);
        assert_eq!(found("alpine", "3", Lookup::Lenient), is("full"));
        assert_eq!(found("alpine", "3", Lookup::Exact), None);
        assert_eq!(found("team/app", "1.0", Lookup::Exact), is("own"));
        assert_eq!(found("team/app", "2", Lookup::Lenient), None);
        let repositories: Vec<String> = layout.repositories().into_iter().collect();
        assert_eq!(repositories, ["", "docker.io/library/alpine", "team/app"]);
        assert_eq!(layout.tags("x", Lookup::Lenient).into_iter().collect::<Vec<_>>(), ["1.0"]);
    }

    #[test]
    fn a_change_keeps_what_others_wrote() {
        let broken = json!({"digest": "sha999:0", "size": "?"});
        let foreign = entry("foreign", &json!({REF_NAME: "1.0", "k": "v"}));
        let mut layout = index(&[foreign.clone(), broken.clone()]);
        assert!(!layout.is_understood());
        assert!(layout.put("a", Some("1"), &descriptor("one")).expect("put"));
        assert!(!layout.put("a", Some("1"), &descriptor("one")).expect("put"));
        assert!(layout.put("a", Some("1"), &descriptor("two")).expect("put"));
        let written: Value = serde_json::from_slice(&layout.to_bytes().expect("JSON")).expect("JSON");
        assert_eq!(written["annotations"]["by"], "somebody");
        let list = written["manifests"].as_array().expect("a list");
        assert_eq!((list.len(), &list[0], &list[1]), (3, &foreign, &broken));
        assert_eq!(list[2]["annotations"][REF_NAME], "a:1");
        assert_eq!(list[2]["digest"], Digest::of(b"two").to_string());
    }

    #[test]
    fn a_manifest_without_a_name_is_listed_once_until_it_has_one() {
        let mut layout = LayoutIndex::empty().expect("JSON");
        let one = descriptor("one");
        assert!(layout.put("a", None, &one).expect("put"));
        assert!(!layout.put("a", None, &one).expect("put"));
        assert!(layout.put("a", Some("1"), &one).expect("put"));
        assert!(!layout.put("a", None, &one).expect("put"));
        assert!(layout.put("b", Some("1"), &one).expect("put"));
        assert_eq!(layout.descriptors().count(), 2);
        assert_eq!(layout.remove_digest("b", &one.digest).len(), 1);
        assert_eq!(layout.remove_tag("b", "1").len(), 0);
        assert_eq!(layout.remove_tag("a", "1").len(), 1);
        assert_eq!(layout.descriptors().count(), 0);
    }

    #[test]
    fn what_is_no_index_is_an_error() {
        for text in ["", "[]", "1", r#"{"manifests":1}"#, r#"{"manifests":[1}"#] {
            assert!(LayoutIndex::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(LayoutIndex::parse(b"{\"manifests\":null}").expect("empty").descriptors().count(), 0);
        assert_eq!(LayoutIndex::parse(b"{\"manifests\":[1,null]}").expect("odd").descriptors().count(), 0);
    }
}
