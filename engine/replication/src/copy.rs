//! Copies one artifact: the blobs that the destination lacks, then its manifests, the tag last.
//!
//! Called by the handlers of a task, which decide what is copied when. Blobs are copied by several threads; the memory
//! for their chunks is bounded for the whole engine. Manifests are sent byte for byte.

use crate::blob::{self, Sides};
use crate::record::Record;
use crate::run::{Halt, Run};
use crate::side::{FailureKind, Manifest, Repository, SideError};
use crate::tree::{self, Node, Tree};
use sampan_ipc::replication::{LastError, Outcome};
use sampan_oci::Descriptor;
use sampan_oci::digest::Digest;
use sampan_os::mutex::lock;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Most threads that copy blobs of one task.
const THREADS_MAX: usize = 4;
/// Stack of such a thread, in bytes: enough for TLS.
const STACK: usize = 1 << 20;
/// Deepest chain of referrers of referrers.
const REFERRERS_DEPTH: usize = 8;
/// The tags under which cosign keeps signatures, attestations and SBOMs of a manifest.
const COSIGN: [&str; 3] = ["sig", "att", "sbom"];

/// Which artifact of which attempt of which task is copied; for records.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The task's number.
    pub(crate) task: u32,
    /// The task's attempt.
    pub(crate) attempt: u32,
    /// The artifact's number.
    pub(crate) artifact: u32,
}

/// A task's view of its two repositories while it copies.
pub(crate) struct Copier<'a> {
    /// The execution.
    pub(crate) run: &'a Run<'a>,
    /// Both repositories.
    pub(crate) sides: Sides,
    /// Blobs that are in the destination for sure, since this task has put or seen them there.
    pub(crate) present: Mutex<HashSet<Digest>>,
}

impl Copier<'_> {
    /// Copies the blobs of `tree`; returns the number of foreign layers that were left out.
    ///
    /// # Errors
    /// The first failure; the other threads stop between two blobs.
    pub(crate) fn copy_blobs(&self, at: Place, tree: &Tree) -> Result<usize, Halt> {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (first, left_out): (Mutex<Option<Halt>>, _) = (Mutex::default(), AtomicUsize::new(0));
        let jobs: Vec<(&Descriptor, bool)> =
            tree.blobs.iter().map(|b| (b, false)).chain(tree.foreign.iter().map(|b| (b, true))).collect();
        let worker = || {
            while let Some((blob, is_foreign)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if failed.load(Ordering::Relaxed) {
                    return;
                }
                match self.copy_blob(at, blob, *is_foreign) {
                    Ok(Outcome::Skipped) => drop(left_out.fetch_add(1, Ordering::Relaxed)),
                    Ok(_) => {}
                    Err(halt) => {
                        failed.store(true, Ordering::Relaxed);
                        lock(&first).get_or_insert(halt);
                        return;
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..THREADS_MAX.min(jobs.len()) {
                // If another thread cannot be started, the running ones do its work.
                let _ = sampan_os::thread::spawn_scoped(scope, "blob", STACK, worker);
            }
            worker();
        });
        match lock(&first).take() {
            Some(halt) => Err(halt),
            None => Ok(left_out.load(Ordering::Relaxed)),
        }
    }

    fn copy_blob(&self, at: Place, blob: &Descriptor, is_foreign: bool) -> Result<Outcome, Halt> {
        let is_present = lock(&self.present).contains(&blob.digest);
        let result = match (is_present, is_foreign) {
            (true, _) => {
                self.run.rows.need_not_send(blob.size);
                Ok(Outcome::Unchanged)
            }
            (false, false) => blob::copy(self.run, &self.sides, blob),
            (false, true) => self.copy_foreign(blob),
        };
        let (outcome, error) = match &result {
            Ok(outcome) => (*outcome, LastError::default()),
            Err(Halt::Stopped) => return Err(Halt::Stopped),
            Err(halt) => (Outcome::None, halt.last_error()),
        };
        if matches!(outcome, Outcome::Copied | Outcome::Mounted | Outcome::Unchanged) {
            lock(&self.present).insert(blob.digest.clone());
        }
        self.run.record(Record::Blob {
            task: at.task,
            attempt: at.attempt,
            artifact: at.artifact,
            digest: blob.digest.to_string(),
            size: blob.size,
            outcome,
            error,
        })?;
        result
    }

    /// Copies a foreign layer if the source has it. OCI image-spec, "Non-Distributable Layers".
    fn copy_foreign(&self, blob: &Descriptor) -> Result<Outcome, Halt> {
        let about = format!("foreign layer {} of {}", blob.digest, self.sides.source.name());
        match self.run.persist(&about, || self.sides.source.has_blob(blob)) {
            Ok(true) => blob::copy(self.run, &self.sides, blob),
            Ok(false) => Ok(Outcome::Skipped),
            Err(Halt::Side(error)) if !matches!(error.kind, FailureKind::Temporary(_)) => {
                log::debug!("{about}: {error}");
                Ok(Outcome::Skipped)
            }
            Err(halt) => Err(halt),
        }
    }

    /// Sends the manifests of `tree`: the children by their digests, the artifact's own under `target`. If the
    /// destination lacks a blob that it was believed to have, copies the blobs once more.
    ///
    /// # Errors
    /// [`Halt`]: the destination refuses a manifest, or a copy failed.
    pub(crate) fn push_manifests(&self, at: Place, tree: &Tree, target: &str) -> Result<(), Halt> {
        let Some((root, children)) = tree.nodes.split_last() else { return Ok(()) };
        let mut has_resent = false;
        let targets = children.iter().map(|node| (node, None)).chain([(root, Some(target))]);
        for (node, target) in targets {
            match self.put(node, target) {
                Err(Halt::Side(error)) if error.kind == FailureKind::BlobUnknown && !has_resent => {
                    has_resent = true;
                    log::info!("{}: sends the blobs again: {error}", self.sides.destination.name());
                    lock(&self.present).clear();
                    for blob in &tree.blobs {
                        self.run.known.forget(&blob.digest.to_string(), &self.sides.destination_name);
                    }
                    self.copy_blobs(at, tree)?;
                    self.put(node, target)?;
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Stores a manifest under `target`, or as a child of an index.
    fn put(&self, node: &Node, target: Option<&str>) -> Result<(), Halt> {
        let destination = &self.sides.destination;
        let about = format!("manifest {} to {}", node.manifest.digest, destination.name());
        let stored = self.run.persist(&about, || match target {
            Some(target) => destination.put_manifest(target, &node.manifest),
            None => destination.put_child(&node.manifest),
        })?;
        match &node.parts.subject {
            Some(subject) if !stored.indexes_subject => self.list_referrer(subject, node),
            _ => Ok(()),
        }
    }

    /// Adds a manifest to the list of its subject's referrers, which the destination does not keep by itself.
    /// OCI distribution-spec, "Pushing Manifests with Subject" and "Unavailable Referrers API".
    fn list_referrer(&self, subject: &Digest, node: &Node) -> Result<(), Halt> {
        let destination = &self.sides.destination;
        let tag = referrers_tag(subject);
        // One thread at a time changes the list of one subject.
        let key = format!("referrers {} {tag}", destination.name());
        let _claim = self.run.limits.claim(&key, &self.run.soft, &|_| ())?;
        let about = format!("referrers {tag} of {}", destination.name());
        let listed = match self.run.persist(&about, || destination.manifest(&tag)) {
            Ok(manifest) => Some(manifest.bytes),
            Err(Halt::Side(error)) if error.kind == FailureKind::NotFound => None,
            Err(halt) => return Err(halt),
        };
        let Some(bytes) = with_referrer(listed.as_deref(), node) else { return Ok(()) };
        let digest = Digest::of(&bytes);
        let manifest = Manifest { bytes, digest, media_type: sampan_oci::INDEX.to_owned() };
        self.run.persist(&about, || destination.put_manifest(&tag, &manifest)).map(|_| ())
    }

    /// Copies what refers to the manifests of `tree`: referrers by digest, cosign's artifacts by tag.
    ///
    /// # Errors
    /// [`Halt`]: a referrer cannot be copied.
    pub(crate) fn copy_referrers(&self, at: Place, tree: &Tree) -> Result<(), Halt> {
        let mut seen: HashSet<Digest> = tree.nodes.iter().map(|node| node.manifest.digest.clone()).collect();
        let mut subjects: Vec<Digest> = seen.iter().cloned().collect();
        for _ in 0..REFERRERS_DEPTH {
            let mut found = Vec::new();
            for subject in &subjects {
                for referrer in self.referrers(subject)? {
                    if seen.insert(referrer.clone()) {
                        self.copy_one(at, &referrer.to_string(), &referrer.to_string())?;
                        found.push(referrer);
                    }
                }
                for suffix in COSIGN {
                    let tag = format!("{}.{suffix}", referrers_tag(subject));
                    let about = format!("manifest {tag} of {}", self.sides.source.name());
                    if self.run.persist(&about, || self.sides.source.head(&tag))?.is_some() {
                        self.copy_one(at, &tag, &tag)?;
                    }
                }
            }
            if found.is_empty() {
                return Ok(());
            }
            subjects = found;
        }
        Ok(())
    }

    /// The digests of the manifests that refer to `subject` at the source.
    fn referrers(&self, subject: &Digest) -> Result<Vec<Digest>, Halt> {
        let source = &self.sides.source;
        let about = format!("referrers of {subject} at {}", source.name());
        if let Some(listed) = self.run.persist(&about, || source.referrers(subject))? {
            return Ok(listed.into_iter().map(|descriptor| descriptor.digest).collect());
        }
        let tag = referrers_tag(subject);
        match self.run.persist(&about, || source.manifest(&tag)) {
            Ok(list) => {
                let parts = crate::artifact::parts(&list.bytes);
                let children = parts.map(|parts| parts.children).unwrap_or_default();
                Ok(children.into_iter().map(|child| child.digest).collect())
            }
            Err(Halt::Side(error)) if error.kind == FailureKind::NotFound => Ok(Vec::new()),
            Err(halt) => Err(halt),
        }
    }

    /// Copies one further artifact at once, unless the destination has it.
    fn copy_one(&self, at: Place, source: &str, target: &str) -> Result<(), Halt> {
        let (from, to) = (&self.sides.source, &self.sides.destination);
        let about = format!("manifest {source} of {}", from.name());
        let root = self.run.persist(&about, || from.manifest(source))?;
        let there = self.run.persist(&about, || to.head(target))?;
        if there.and_then(|head| head.digest).is_some_and(|digest| digest == root.digest) {
            return Ok(());
        }
        let tree = tree::read(self.run, &self.sides, root, None, &|digest| self.has_manifest(digest))?;
        self.run.rows.to_send(tree.size());
        self.copy_blobs(at, &tree)?;
        self.push_manifests(at, &tree, target)
    }

    /// Whether the destination has the manifest; it then is not read and sent again.
    ///
    /// # Errors
    /// [`Halt`]: the destination failed.
    pub(crate) fn has_manifest(&self, digest: &Digest) -> Result<bool, Halt> {
        if self.run.order.options.verify {
            return Ok(false);
        }
        let (target, destination) = (digest.to_string(), &self.sides.destination);
        let about = format!("manifest {digest} of {}", destination.name());
        match self.run.persist(&about, || destination.head(&target)) {
            Ok(head) => Ok(head.is_some()),
            // Some registries refuse digests of an algorithm that they do not store.
            Err(Halt::Side(error)) if error.kind == FailureKind::Refused => Ok(false),
            Err(halt) => Err(halt),
        }
    }
}

/// The tag of the list of referrers: `sha256-<hex>`. OCI distribution-spec, "Referrers Tag Schema".
fn referrers_tag(subject: &Digest) -> String {
    let hex = subject.hex();
    format!("{}-{}", subject.algorithm().word(), hex.get(..64).unwrap_or(hex))
}

/// Adds the descriptor of `node` to a list of referrers; `None` if it is in there already.
fn with_referrer(listed: Option<&[u8]>, node: &Node) -> Option<Vec<u8>> {
    let empty = serde_json::json!({"schemaVersion": 2, "mediaType": sampan_oci::INDEX, "manifests": []});
    let listed = listed.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok());
    let mut index =
        listed.filter(|index| index.get("manifests").is_some_and(|list| list.is_array())).unwrap_or(empty);
    let digest = node.manifest.digest.to_string();
    let manifests = index.get_mut("manifests")?.as_array_mut()?;
    if manifests.iter().any(|known| known.get("digest").and_then(|d| d.as_str()) == Some(digest.as_str())) {
        return None;
    }
    let annotations = serde_json::from_slice::<serde_json::Value>(&node.manifest.bytes).ok()?;
    let mut descriptor = serde_json::json!({
        "mediaType": node.manifest.media_type,
        "digest": digest,
        "size": node.manifest.bytes.len(),
        "artifactType": node.parts.artifact_type,
    });
    if let (Some(annotations), Some(fields)) = (annotations.get("annotations"), descriptor.as_object_mut()) {
        fields.insert("annotations".to_owned(), annotations.clone());
    }
    manifests.push(descriptor);
    serde_json::to_vec(&index).ok()
}

/// The failure of an artifact that is not at the source.
pub(crate) fn absent(source: &dyn Repository, target: &str) -> Halt {
    SideError::new(FailureKind::NotFound, format!("{target} is not in {}", source.name())).into()
}
