//! Reads an artifact from the source: its manifest, and all manifests below it.
//!
//! Called by the task before it copies anything. Manifests are kept byte for byte. An index is read to its leaves;
//! bounds on depth, number and bytes hold against hostile ones.

use crate::artifact::{self, Parts};
use crate::blob::Sides;
use crate::run::{Halt, Run};
use crate::side::{FailureKind, Manifest, SideError};
use sampan_ipc::replication::{Options, Sparse};
use sampan_ipc::report;
use sampan_oci::Descriptor;
use sampan_oci::digest::Digest;
use sampan_oci::platform::Platform;
use std::collections::HashSet;

/// Deepest nesting of indexes.
const DEPTH_MAX: usize = 16;
/// Most manifests of one artifact.
const MANIFESTS_MAX: usize = 10_000;
/// Most bytes of all manifests of one artifact: they are in memory until the artifact is copied.
const BYTES_MAX: usize = 32 << 20;
/// Annotation by which BuildKit's attestations name the image that they are about.
const ABOUT: &str = "vnd.docker.reference.digest";

/// A manifest of an artifact.
pub(crate) struct Node {
    /// The manifest, byte for byte.
    pub(crate) manifest: Manifest,
    /// What it refers to.
    pub(crate) parts: Parts,
}

/// An artifact of the source.
#[derive(Default)]
pub(crate) struct Tree {
    /// The manifests that the destination may lack: children before their parents, the artifact's own manifest last.
    pub(crate) nodes: Vec<Node>,
    /// All blobs of `nodes`, each once.
    pub(crate) blobs: Vec<Descriptor>,
    /// Layers that only their vendor distributes, each once.
    pub(crate) foreign: Vec<Descriptor>,
    /// Manifests that an index names and the source does not have.
    pub(crate) missing: usize,
}

impl Tree {
    /// The sum of the blobs' sizes, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.blobs.iter().fold(0, |sum, blob| sum.saturating_add(blob.size))
    }
}

/// Collects the tree of one artifact.
struct Collector<'a> {
    run: &'a Run<'a>,
    sides: &'a Sides,
    /// Says whether the destination has a child completely, so that it need not be read.
    is_present: &'a dyn Fn(&Digest) -> Result<bool, Halt>,
    tree: Tree,
    seen: HashSet<Digest>,
    seen_blobs: HashSet<Digest>,
    bytes: usize,
}

/// Applies the execution's platform filter to the artifact's own manifest. Returns the manifest to copy, and the
/// children to copy if these are not all.
pub(crate) fn filter(root: Manifest, options: &Options) -> Result<(Manifest, Option<HashSet<Digest>>), Halt> {
    let wanted: Vec<Platform> =
        options.platforms.iter().filter_map(|text| Platform::parse(text).ok()).collect();
    let parts = parts_of(&root)?;
    if wanted.is_empty() || parts.children.is_empty() {
        return Ok((root, None));
    }
    let of_platform = |child: &Descriptor| {
        child.platform.as_ref().is_none_or(|field| {
            let platform = field.platform();
            wanted.iter().any(|wanted| wanted.rank(&platform).is_some())
        })
    };
    let images: HashSet<String> =
        parts.children.iter().filter(|child| of_platform(child)).map(|c| c.digest.to_string()).collect();
    let keep = |child: &Descriptor| {
        of_platform(child) || child.annotations.get(ABOUT).is_some_and(|about| images.contains(about))
    };
    let kept: HashSet<Digest> =
        parts.children.iter().filter(|child| keep(child)).map(|child| child.digest.clone()).collect();
    if kept.is_empty() {
        let names = options.platforms.join(", ");
        return Err(
            SideError::new(FailureKind::NotFound, format!("the index has no image for {names}")).into()
        );
    }
    let root = match options.sparse {
        Sparse::Keep => root,
        Sparse::Rewrite => match artifact::rewrite_index(&root.bytes, &keep) {
            Some(bytes) => Manifest { digest: Digest::of(&bytes), bytes, media_type: root.media_type },
            None => root,
        },
    };
    Ok((root, Some(kept)))
}

/// Reads everything below `root`.
///
/// # Errors
/// [`Halt::Side`]: the source failed, or the artifact is malformed or larger than any bound.
pub(crate) fn read(
    run: &Run<'_>,
    sides: &Sides,
    root: Manifest,
    only: Option<&HashSet<Digest>>,
    is_present: &dyn Fn(&Digest) -> Result<bool, Halt>,
) -> Result<Tree, Halt> {
    let mut collector = Collector {
        run,
        sides,
        is_present,
        tree: Tree::default(),
        seen: HashSet::from([root.digest.clone()]),
        seen_blobs: HashSet::new(),
        bytes: 0,
    };
    collector.add(root, only, 0)?;
    Ok(collector.tree)
}

fn parts_of(manifest: &Manifest) -> Result<Parts, Halt> {
    artifact::parts(&manifest.bytes).map_err(|error| {
        let why = format!("manifest {}: {}", manifest.digest, report::chain(&error));
        SideError::new(FailureKind::Refused, why).into()
    })
}

impl Collector<'_> {
    fn add(&mut self, manifest: Manifest, only: Option<&HashSet<Digest>>, depth: usize) -> Result<(), Halt> {
        self.bytes += manifest.bytes.len();
        if depth > DEPTH_MAX || self.seen.len() > MANIFESTS_MAX || self.bytes > BYTES_MAX {
            let why = format!(
                "the index is too large: at most {MANIFESTS_MAX} manifests of {BYTES_MAX} bytes in {DEPTH_MAX} levels"
            );
            return Err(SideError::new(FailureKind::Refused, why).into());
        }
        let parts = parts_of(&manifest)?;
        let is_wanted = |child: &&Descriptor| {
            only.is_none_or(|only| only.contains(&child.digest)) && self.sides.destination.keeps_child(child)
        };
        let children: Vec<Descriptor> = parts.children.iter().filter(is_wanted).cloned().collect();
        for child in &children {
            if self.seen.insert(child.digest.clone()) && !(self.is_present)(&child.digest)? {
                self.child(child, depth)?;
            }
        }
        for (from, to) in [(&parts.blobs, &mut self.tree.blobs), (&parts.foreign, &mut self.tree.foreign)] {
            for blob in from {
                if self.seen_blobs.insert(blob.digest.clone()) {
                    to.push(blob.clone());
                }
            }
        }
        self.tree.nodes.push(Node { manifest, parts });
        Ok(())
    }

    fn child(&mut self, child: &Descriptor, depth: usize) -> Result<(), Halt> {
        let target = child.digest.to_string();
        let about = format!("manifest {target} of {}", self.sides.source.name());
        let read = self.run.persist(&about, || self.sides.source.manifest(&target));
        let mut manifest = match read {
            // The index is sparse already.
            Err(Halt::Side(error)) if error.kind == FailureKind::NotFound => {
                self.tree.missing += 1;
                return Ok(());
            }
            other => other?,
        };
        if manifest.bytes.len() as u64 != child.size {
            let (has, size) = (manifest.bytes.len(), child.size);
            let why = format!("{about} has {has} bytes, and its descriptor says {size}");
            return Err(SideError::new(FailureKind::Corrupt, why).into());
        }
        if manifest.media_type.is_empty() {
            manifest.media_type.clone_from(&child.media_type);
        }
        self.add(manifest, None, depth + 1)
    }
}
