//! Reads an artifact from the source: its manifest, and all manifests below it.
//!
//! Called by the task before it copies anything. Applies the platform filter. Manifests are kept byte for byte. An index
//! is read to its leaves; bounds on depth, number and bytes hold against hostile ones.

use crate::artifact::{self, Parts};
use crate::blob::Sides;
use crate::command::Wanted;
use crate::run::{Halt, Run};
use crate::side::{FailureKind, Manifest, Repository, SideError};
use sampan_ipc::replication::Sparse;
use sampan_ipc::report;
use sampan_oci::Descriptor;
use sampan_oci::digest::{Digest, Hasher};
use sampan_oci::platform::Platform;
use std::collections::HashSet;
use std::io::Read;

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

/// What the platform filter makes of an artifact.
pub(crate) enum Filtered {
    /// Copies this manifest, and only these of its children if these are not all.
    Copy(Manifest, Option<HashSet<Digest>>),
    /// Leaves the artifact alone, since it is for other platforms; the text says so.
    Other(String),
}

/// Applies the execution's platform filter to the artifact's own manifest.
///
/// # Errors
/// [`FailureKind::NotFound`]: the artifact is for other platforms, and is the only one that was named.
pub(crate) fn filter(run: &Run<'_>, sides: &Sides, root: Manifest) -> Result<Filtered, Halt> {
    let options = &run.order.options;
    let wanted: Vec<Platform> =
        options.platforms.iter().filter_map(|text| Platform::parse(text).ok()).collect();
    let parts = parts_of(&root)?;
    if wanted.is_empty() {
        return Ok(Filtered::Copy(root, None));
    }
    let is_wanted = |platform: &Platform| wanted.iter().any(|wanted| wanted.rank(platform).is_some());
    if parts.children.is_empty() {
        return match image_platform(run, sides, &root, &parts)? {
            Some(platform) if !is_wanted(&platform) => other(run, format!("the image is for {platform}")),
            // Artifacts that are no images are for all platforms.
            _ => Ok(Filtered::Copy(root, None)),
        };
    }
    let of_platform =
        |child: &Descriptor| child.platform.as_ref().is_none_or(|field| is_wanted(&field.platform()));
    let images: HashSet<String> =
        parts.children.iter().filter(|child| of_platform(child)).map(|c| c.digest.to_string()).collect();
    let keep = |child: &Descriptor| {
        of_platform(child) || child.annotations.get(ABOUT).is_some_and(|about| images.contains(about))
    };
    let kept: HashSet<Digest> =
        parts.children.iter().filter(|child| keep(child)).map(|child| child.digest.clone()).collect();
    if kept.is_empty() {
        return other(run, format!("the index has no image for {}", options.platforms.join(", ")));
    }
    let root = match options.sparse {
        Sparse::Keep => root,
        Sparse::Rewrite => match artifact::rewrite_index(&root.bytes, &keep) {
            Some(bytes) => Manifest { digest: Digest::of(&bytes), bytes, media_type: root.media_type },
            None => root,
        },
    };
    Ok(Filtered::Copy(root, Some(kept)))
}

/// An artifact for other platforms: a mistake if it was named, and passed over if it is one of several.
fn other(run: &Run<'_>, why: String) -> Result<Filtered, Halt> {
    match Wanted::of(run.order).is_ok_and(|wanted| wanted.only_artifact().is_some()) {
        true => Err(SideError::new(FailureKind::NotFound, why).into()),
        false => Ok(Filtered::Other(why)),
    }
}

/// The platform in an image's config; `None` if the artifact is no image, or its config names no platform.
fn image_platform(
    run: &Run<'_>,
    sides: &Sides,
    root: &Manifest,
    parts: &Parts,
) -> Result<Option<Platform>, Halt> {
    let is_image = |config: &&Descriptor| {
        [sampan_oci::CONFIG, sampan_oci::DOCKER_CONFIG].contains(&config.media_type.as_str())
    };
    let Some(config) = parts.blobs.first().filter(is_image) else { return Ok(None) };
    let about = format!("config of {} of {}", root.digest, sides.source.name());
    let bytes = config_bytes(run, sides.source.as_ref(), config, &about)?;
    let platform: Option<Platform> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let platform = platform.filter(|platform| !platform.os.is_empty() && !platform.architecture.is_empty());
    Ok(platform.map(|own| Platform::of(&own.os, &own.architecture, own.variant.as_deref())))
}

/// Reads a config that a filter needs; `None` if it is longer than an image's may be, or is not what its descriptor says.
///
/// # Errors
/// [`Halt`]: the source failed.
pub(crate) fn config_bytes(
    run: &Run<'_>,
    source: &dyn Repository,
    config: &Descriptor,
    about: &str,
) -> Result<Option<Vec<u8>>, Halt> {
    if config.size > sampan_oci::CONFIG_MAX {
        return Ok(None);
    }
    let bytes = run.persist(about, || {
        let mut bytes = Vec::new();
        let reader = source.blob(config, 0, None)?.reader;
        let read = reader.take(sampan_oci::CONFIG_MAX).read_to_end(&mut bytes);
        read.map(|_| bytes).map_err(|error| {
            let kind = FailureKind::Temporary(None);
            SideError::new(kind, format!("cannot read the config of {about}: {error}"))
        })
    })?;
    // Only the config that the manifest names may decide.
    let mut hasher = Hasher::new(config.digest.algorithm());
    hasher.update(&bytes);
    Ok((hasher.finish() == config.digest).then_some(bytes))
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
