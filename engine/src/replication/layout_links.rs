//! What the manifests of an OCI layout refer to: which blobs an index of the layout needs, and who refers to a subject.
//!
//! Called by `oci_layout_side`. Keeps what it has read, within a bound, since a manifest never changes. Never changes
//! the layout.

use crate::replication::layout_dir::LayoutDir;
use crate::replication::layout_index::LayoutIndex;
use sampan_oci as oci;
use sampan_oci::Descriptor;
use sampan_oci::digest::Digest;
use sampan_os::mutex::lock;
use sampan_replication::artifact;
use sampan_replication::side::{FailureKind, SideError};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

/// Most digests that are kept in memory, about 12 MB.
const KEPT_MAX: usize = 100_000;
/// Most manifests and blobs that one walk visits.
const VISITED_MAX: usize = 1_000_000;

/// What one manifest refers to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Manifests, each with its size.
    pub children: Vec<(Digest, u64)>,
    /// Config and layers, each with its size.
    pub blobs: Vec<(Digest, u64)>,
    /// Layers that the layout need not have.
    foreign: Vec<Digest>,
    /// The manifest that this one refers to.
    pub subject: Option<Digest>,
}

/// The manifests of one layout.
#[derive(Default)]
pub struct LayoutLinks {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    links: HashMap<Digest, Arc<Links>>,
    count: usize,
}

impl Links {
    /// Reads what the document `bytes` refers to.
    ///
    /// # Errors
    /// [`FailureKind::Refused`]: it is no manifest that can be copied.
    pub fn of(bytes: &[u8]) -> Result<Self, SideError> {
        let parts = artifact::parts(bytes).map_err(|error| {
            let kind = FailureKind::Refused;
            SideError { kind, source: Box::new(error) }
        })?;
        let sized = |all: Vec<Descriptor>| all.into_iter().map(|one| (one.digest, one.size)).collect();
        Ok(Links {
            children: sized(parts.children),
            blobs: sized(parts.blobs),
            foreign: parts.foreign.into_iter().map(|layer| layer.digest).collect(),
            subject: parts.subject,
        })
    }

    fn count(&self) -> usize {
        1 + self.children.len() + self.blobs.len() + self.foreign.len()
    }
}

impl LayoutLinks {
    /// What the manifest `digest` refers to; `None` if the layout does not have it. The digest of its bytes is not
    /// compared.
    ///
    /// # Errors
    /// [`SideError`]: the document cannot be read, or is no manifest.
    pub fn get(&self, layout: &LayoutDir, digest: &Digest) -> Result<Option<Arc<Links>>, SideError> {
        // A blob that was removed has no links, whatever was read before.
        let Some((_, size)) = layout.open_blob(digest)? else { return Ok(None) };
        if let Some(links) = lock(&self.kept).links.get(digest) {
            return Ok(Some(Arc::clone(links)));
        }
        if size > oci::MANIFEST_MAX {
            let why = format!("{digest} has {size} bytes, which is too long for a manifest");
            return Err(SideError::new(FailureKind::Refused, why));
        }
        let Some(bytes) = layout.document(digest)? else { return Ok(None) };
        let links = Arc::new(Links::of(&bytes)?);
        let mut kept = lock(&self.kept);
        if kept.count + links.count() > KEPT_MAX {
            *kept = Kept::default();
        }
        // A hostile manifest may be larger than all that is kept.
        if links.count() <= KEPT_MAX / 4 && kept.links.insert(digest.clone(), Arc::clone(&links)).is_none() {
            kept.count += links.count();
        }
        Ok(Some(links))
    }

    /// All manifests and blobs that the manifests `roots` need, with themselves.
    ///
    /// # Errors
    /// [`SideError`]: a manifest cannot be read, so it is unknown what it needs; or there are more than a million.
    pub fn needed<'a>(
        &self,
        layout: &LayoutDir,
        roots: impl IntoIterator<Item = &'a Descriptor>,
    ) -> Result<HashSet<Digest>, SideError> {
        let mut needed = HashSet::new();
        let mut waiting: Vec<Digest> = Vec::new();
        for root in roots {
            // The index may list anything. A document of an unknown type that is no manifest needs nothing but itself.
            match is_manifest(&root.media_type) || matches!(self.get(layout, &root.digest), Ok(Some(_))) {
                true => waiting.push(root.digest.clone()),
                false => drop(needed.insert(root.digest.clone())),
            }
        }
        while let Some(digest) = waiting.pop() {
            if !needed.insert(digest.clone()) {
                continue;
            }
            if needed.len() > VISITED_MAX {
                let why = format!("the OCI layout {} has too many blobs", layout.path().display());
                return Err(SideError::new(FailureKind::Refused, why));
            }
            let Some(links) = self.get(layout, &digest)? else { continue };
            needed.extend(links.blobs.iter().map(|(blob, _)| blob.clone()));
            needed.extend(links.foreign.iter().cloned());
            waiting.extend(links.children.iter().map(|(child, _)| child.clone()));
        }
        Ok(needed)
    }

    /// The first blob or manifest that a document with these `links` needs and the layout lacks.
    ///
    /// # Errors
    /// [`SideError`]: a child cannot be read.
    pub fn missing(&self, layout: &LayoutDir, links: &Links) -> Result<Option<Digest>, SideError> {
        let mut seen = HashSet::new();
        let mut waiting = Vec::new();
        if let Some(missing) = visit(layout, links, &mut seen, &mut waiting)? {
            return Ok(Some(missing));
        }
        while let Some(child) = waiting.pop() {
            let Some(links) = self.get(layout, &child)? else { return Ok(Some(child)) };
            if let Some(missing) = visit(layout, &links, &mut seen, &mut waiting)? {
                return Ok(Some(missing));
            }
        }
        Ok(None)
    }

    /// Whether the index lists the manifest `digest`, or an index that it lists does.
    ///
    /// # Errors
    /// [`SideError`]: the layout cannot be read. Single documents that cannot be read list nothing.
    pub fn is_listed(
        &self,
        layout: &LayoutDir,
        index: &LayoutIndex,
        digest: &Digest,
    ) -> Result<bool, SideError> {
        if index.find_digest(digest).is_some() {
            return Ok(true);
        }
        let lists = index.descriptors().filter(|entry| is_index(&entry.media_type));
        let mut waiting: Vec<Digest> = lists.map(|entry| entry.digest.clone()).collect();
        let mut seen = HashSet::new();
        while let Some(list) = waiting.pop() {
            if !seen.insert(list.clone()) || seen.len() > VISITED_MAX {
                continue;
            }
            let Ok(Some(links)) = self.get(layout, &list) else { continue };
            if links.children.iter().any(|(child, _)| child == digest) {
                return Ok(true);
            }
            waiting.extend(links.children.iter().map(|(child, _)| child.clone()));
        }
        Ok(false)
    }
}

/// Looks for the blobs of one document; adds its children to `waiting`. Returns the first that is missing.
fn visit(
    layout: &LayoutDir,
    links: &Links,
    seen: &mut HashSet<Digest>,
    waiting: &mut Vec<Digest>,
) -> Result<Option<Digest>, SideError> {
    for (blob, size) in &links.blobs {
        if seen.insert(blob.clone()) && !layout.has_blob(blob, *size)? {
            return Ok(Some(blob.clone()));
        }
    }
    for (child, size) in &links.children {
        if seen.insert(child.clone()) {
            if !layout.has_blob(child, *size)? {
                return Ok(Some(child.clone()));
            }
            waiting.push(child.clone());
        }
    }
    if seen.len() > VISITED_MAX {
        return Err(SideError::new(FailureKind::Refused, "the index names too many manifests and blobs"));
    }
    Ok(None)
}

fn is_index(media_type: &str) -> bool {
    media_type == oci::INDEX || media_type == oci::DOCKER_LIST
}

/// Whether documents of this media type refer to others.
fn is_manifest(media_type: &str) -> bool {
    // An empty media type says nothing, and the artifact manifest comes from a release candidate of OCI image-spec 1.1.
    let known = ["", oci::MANIFEST, oci::DOCKER_MANIFEST, "application/vnd.oci.artifact.manifest.v1+json"];
    is_index(media_type) || known.contains(&media_type)
}
