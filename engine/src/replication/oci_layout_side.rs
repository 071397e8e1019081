//! An OCI image layout as a side of a replication: `oci:DIR`.
//!
//! Called by the replication's tasks, several at once. One directory holds many repositories: the index names a
//! manifest `REPOSITORY:TAG`, and `layout_index` says which names of other tools a source understands. All repositories
//! share the blobs, so a blob is never mounted: the layout has it or not. Manifests and blobs are stored byte for byte.
//!
//! - A tag is an entry of the index. A manifest that was asked for by digest is an entry without a name. A child of an
//!   index is only a blob.
//! - A manifest is listed only after all that it needs is in the layout, so a kill leaves at most blobs that nothing
//!   names. The next copy uses them.
//! - An upload is a file in `.sampan-uploads`; `layout_dir` says which names are written, and how.
//! - Removing a tag removes the blobs that no other entry needs. If the needs of an entry are unknown, all blobs stay.
//! - skopeo and umoci do not find an image whose manifest is of Docker's schema 2, since they look for OCI's media
//!   types; this engine and containerd find it. A conversion would change its digest.
//!
//! This module compares the digests of manifests; the copier compares those of blobs.

use crate::replication::fault::{check_running, fault};
use crate::replication::layout_dir::LayoutDir;
use crate::replication::layout_index::{Lookup, is_repository};
use crate::replication::layout_links::{LayoutLinks, Links};
use crate::replication::local_blob;
use sampan_job::cancel::Cancel;
use sampan_oci as oci;
use sampan_oci::Descriptor;
use sampan_oci::digest::Digest;
use sampan_oci::reference::is_tag;
use sampan_os::mutex::lock;
use sampan_replication::side::{
    Begin, BlobReader, FailureKind, Head, Manifest, Place, Repository, Session, SideError, Stored,
};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// An OCI layout.
pub struct OciLayoutPlace {
    layout: Mutex<Arc<Layout>>,
    path: PathBuf,
}

struct Layout {
    dir: LayoutDir,
    links: LayoutLinks,
}

/// One repository of a layout.
struct LayoutRepository {
    layout: Arc<Layout>,
    name: String,
    lookup: Lookup,
    stopped: Arc<AtomicBool>,
}

impl OciLayoutPlace {
    /// Opens the layout in the directory `path`. A destination makes the directory if it is missing.
    ///
    /// # Errors
    /// [`FailureKind::Refused`]: `path` is no directory, or its layout has a version that this engine does not know.
    pub fn open(path: &Path) -> Result<Self, SideError> {
        // A relative path would name another directory after a change of the working directory.
        let path = std::path::absolute(path)
            .map_err(|source| fault(format!("find the directory {}", path.display()), source))?;
        let layout = Layout::new(&path);
        layout.dir.index()?;
        Ok(OciLayoutPlace { layout: Mutex::new(Arc::new(layout)), path })
    }

    /// The layout that the path leads to now. A task that is repeated may find another stick there.
    fn layout(&self) -> Result<Arc<Layout>, SideError> {
        let mut layout = lock(&self.layout);
        if !layout.dir.is_current() {
            let now = Layout::new(&self.path);
            // Without a stick, the path leads to an empty directory of another disk, which must not fill up.
            if now.dir.index()?.is_none() {
                let why = format!("the OCI layout {} is gone; is the disk mounted?", self.path.display());
                return Err(SideError::new(FailureKind::Host, why));
            }
            *layout = Arc::new(now);
        }
        Ok(Arc::clone(&layout))
    }
}

impl Layout {
    fn new(path: &Path) -> Self {
        Layout { dir: LayoutDir::new(path), links: LayoutLinks::default() }
    }
}

impl Place for OciLayoutPlace {
    fn name(&self) -> String {
        format!("oci:{}", self.path.display())
    }

    fn repositories(&self, _: &Cancel) -> Result<Vec<String>, SideError> {
        let index = self.layout()?.dir.index()?;
        Ok(index.map(|index| index.repositories().into_iter().collect()).unwrap_or_default())
    }

    fn repository(&self, name: &str, is_destination: bool) -> Result<Arc<dyn Repository>, SideError> {
        if !name.is_empty() && !is_repository(name) {
            let why = format!("{name:?} is no name of a repository in an OCI layout");
            return Err(SideError::new(FailureKind::Refused, why));
        }
        Ok(Arc::new(LayoutRepository {
            layout: self.layout()?,
            name: name.to_owned(),
            lookup: if is_destination { Lookup::Exact } else { Lookup::Lenient },
            stopped: Arc::default(),
        }))
    }
}

impl LayoutRepository {
    /// Where `target` is: the digest that it names, and the media type in its entry.
    fn resolve(&self, target: &str) -> Result<Option<(Digest, Option<Descriptor>)>, SideError> {
        let index = self.layout.dir.index()?;
        if let Ok(digest) = Digest::parse(target) {
            let entry = index.and_then(|index| index.find_digest(&digest).cloned());
            return Ok(Some((digest, entry)));
        }
        let entry = index.and_then(|index| index.find(&self.name, target, self.lookup).cloned());
        Ok(entry.map(|entry| (entry.digest.clone(), Some(entry))))
    }

    fn not_found(&self, target: &str) -> SideError {
        SideError::new(FailureKind::NotFound, format!("there is no {target} in {}", self.name()))
    }

    /// Stores a manifest; lists it under `entry`: a tag, or `None` for no name. Does not list a child.
    fn put(&self, digest: &Digest, manifest: &Manifest, entry: Entry<'_>) -> Result<Stored, SideError> {
        check_running(&self.stopped)?;
        let Layout { dir, links } = &*self.layout;
        let found = digest.algorithm().digest(&manifest.bytes);
        if found != *digest {
            let why = format!("the manifest {digest} has digest {found}");
            return Err(SideError::new(FailureKind::Corrupt, why));
        }
        let own = Links::of(&manifest.bytes)?;
        let uploads = dir.uploads(&self.stopped)?;
        // Under the lock, no deletion takes a blob away between this check and the entry that names it.
        let lock = dir.lock(&self.stopped)?;
        if let Some(missing) = links.missing(dir, &own)? {
            let why = format!("{} does not have {missing}, which the manifest {digest} names", self.name());
            return Err(SideError::new(FailureKind::BlobUnknown, why));
        }
        dir.write_blob(uploads, &lock, digest, &manifest.bytes)?;
        let tag = match entry {
            Entry::Tag(tag) => Some(tag),
            Entry::Nameless => None,
            Entry::Child => return Ok(Stored { indexes_subject: true }),
        };
        let listed = Descriptor {
            media_type: media_type(manifest, &own).to_owned(),
            digest: digest.clone(),
            size: manifest.bytes.len() as u64,
            platform: None,
            annotations: BTreeMap::new(),
        };
        dir.change_index(uploads, &lock, &mut |index| {
            let changed = index.put(&self.name, tag, &listed);
            changed.map_err(|source| fault("write an index entry", source.into()))
        })?;
        Ok(Stored { indexes_subject: true })
    }

    /// Removes the blobs that only the removed entries needed.
    fn remove_unneeded(
        &self,
        lock: &crate::replication::layout_dir::IndexLock,
        removed: &[Descriptor],
    ) -> Result<(), SideError> {
        let Layout { dir, links } = &*self.layout;
        let index = dir.index()?;
        let Some(index) = index.filter(|index| index.is_understood()) else {
            log::info!("{}: all blobs stay, since the index has entries that cannot be read", self.name());
            return Ok(());
        };
        let unneeded = links.needed(dir, removed).and_then(|candidates| {
            let needed = links.needed(dir, index.descriptors())?;
            Ok(candidates.difference(&needed).cloned().collect::<HashSet<Digest>>())
        });
        match unneeded {
            Ok(unneeded) => {
                for digest in unneeded {
                    dir.remove_blob(lock, &digest).map_err(|source| {
                        fault(format!("remove blob {digest} of {}", self.name()), source)
                    })?;
                }
            }
            Err(error) => {
                log::warn!("{}: all blobs stay, since it is unknown which are needed: {error}", self.name());
            }
        }
        Ok(())
    }
}

/// How a manifest is listed.
#[derive(Clone, Copy)]
enum Entry<'a> {
    Tag(&'a str),
    Nameless,
    Child,
}

/// The media type of a manifest's entry. An entry without one would not be found.
fn media_type<'a>(manifest: &'a Manifest, links: &Links) -> &'a str {
    match manifest.media_type.as_str() {
        "" if links.children.is_empty() => oci::MANIFEST,
        "" => oci::INDEX,
        stated => stated,
    }
}

impl Repository for LayoutRepository {
    fn name(&self) -> String {
        let path = self.layout.dir.path().display();
        if self.name.is_empty() { format!("oci:{path}") } else { format!("oci:{path}:{}", self.name) }
    }

    fn tags(&self) -> Result<Vec<String>, SideError> {
        let index = self.layout.dir.index()?;
        Ok(index.map(|index| index.tags(&self.name, self.lookup).into_iter().collect()).unwrap_or_default())
    }

    fn head(&self, target: &str) -> Result<Option<Head>, SideError> {
        check_running(&self.stopped)?;
        let Layout { dir, links } = &*self.layout;
        let Some((digest, _)) = self.resolve(target)? else { return Ok(None) };
        // A blob that no entry leads to may be left from a copy that was killed.
        let Some(index) = dir.index()? else { return Ok(None) };
        if !links.is_listed(dir, &index, &digest)? {
            return Ok(None);
        }
        let Some(bytes) = dir.document(&digest)? else { return Ok(None) };
        // A damaged manifest is there, but is not what its entry says.
        let is_right = digest.algorithm().digest(&bytes) == digest;
        Ok(Some(Head { digest: is_right.then_some(digest) }))
    }

    fn manifest(&self, target: &str) -> Result<Manifest, SideError> {
        check_running(&self.stopped)?;
        let (digest, entry) = self.resolve(target)?.ok_or_else(|| self.not_found(target))?;
        let bytes = self.layout.dir.document(&digest)?.ok_or_else(|| self.not_found(target))?;
        let found = digest.algorithm().digest(&bytes);
        if found != digest {
            let why = format!("the manifest {digest} in {} has digest {found}", self.name());
            return Err(SideError::new(FailureKind::Corrupt, why));
        }
        let size = bytes.len() as u64;
        if let Some(entry) = entry.as_ref().filter(|entry| entry.size != size) {
            let why = format!("{target} in {} has {size} bytes, expected {}", self.name(), entry.size);
            return Err(SideError::new(FailureKind::Corrupt, why));
        }
        let stated =
            sampan_replication::artifact::parts(&bytes).map(|parts| parts.media_type).unwrap_or_default();
        let listed = entry.map(|entry| entry.media_type).unwrap_or_default();
        Ok(Manifest { bytes, digest, media_type: if stated.is_empty() { listed } else { stated } })
    }

    fn blob(&self, blob: &Descriptor, offset: u64, _etag: Option<&str>) -> Result<BlobReader, SideError> {
        check_running(&self.stopped)?;
        let (file, size) = self
            .layout
            .dir
            .open_blob(&blob.digest)?
            .ok_or_else(|| self.not_found(&blob.digest.to_string()))?;
        local_blob::reader(file, size, blob, offset, &self.name(), &self.stopped)
    }

    fn referrers(&self, subject: &Digest) -> Result<Option<Vec<Descriptor>>, SideError> {
        check_running(&self.stopped)?;
        let Layout { dir, links } = &*self.layout;
        let Some(index) = dir.index()? else { return Ok(Some(Vec::new())) };
        let mut found: Vec<Descriptor> = Vec::new();
        for entry in index.descriptors() {
            check_running(&self.stopped)?;
            let is_known = found.iter().any(|known| known.digest == entry.digest);
            // A document that cannot be read refers to nothing.
            let Ok(Some(links)) = links.get(dir, &entry.digest) else { continue };
            if !is_known && links.subject.as_ref() == Some(subject) {
                found.push(Descriptor { annotations: BTreeMap::new(), ..entry.clone() });
            }
        }
        // Another tool may have kept them in an index under a tag. OCI distribution-spec, "Referrers Tag Schema".
        let tag = format!("{}-{}", subject.algorithm().word(), subject.hex());
        let beside = index.find(&self.name, &tag, self.lookup);
        let beside = beside.and_then(|entry| dir.document(&entry.digest).ok().flatten());
        let beside = beside.and_then(|bytes| sampan_replication::artifact::parts(&bytes).ok());
        for child in beside.into_iter().flat_map(|parts| parts.children) {
            if !found.iter().any(|known| known.digest == child.digest) {
                found.push(child);
            }
        }
        Ok(Some(found))
    }

    fn has_blob(&self, blob: &Descriptor) -> Result<bool, SideError> {
        check_running(&self.stopped)?;
        self.layout.dir.has_blob(&blob.digest, blob.size)
    }

    fn is_local(&self) -> bool {
        true
    }

    fn check_writable(&self) -> Result<(), SideError> {
        self.layout.dir.check_writable()
    }

    fn begin(&self, blob: &Descriptor, _from: Option<&str>) -> Result<Begin, SideError> {
        check_running(&self.stopped)?;
        // All repositories of the layout share the blobs, and another task may just have finished this one.
        if self.layout.dir.has_blob(&blob.digest, blob.size)? {
            return Ok(Begin::Mounted);
        }
        let location = self.layout.dir.uploads(&self.stopped)?.create(&blob.digest)?;
        Ok(Begin::Session(Session { location, chunk_min: 0 }))
    }

    fn offset(&self, session: &mut Session) -> Result<Option<u64>, SideError> {
        let uploads = self.layout.dir.present_uploads(&self.stopped)?;
        Ok(uploads.map(|uploads| uploads.len(&session.location)).transpose()?.flatten())
    }

    fn send(
        &self,
        session: &mut Session,
        blob: &Descriptor,
        at: u64,
        bytes: &[u8],
    ) -> Result<u64, SideError> {
        check_running(&self.stopped)?;
        self.layout.dir.uploads(&self.stopped)?.write(&session.location, blob, at, bytes)
    }

    fn finish(&self, session: &Session, blob: &Descriptor) -> Result<(), SideError> {
        check_running(&self.stopped)?;
        let uploads = self.layout.dir.uploads(&self.stopped)?;
        let file = uploads.check(&session.location, blob, &self.stopped)?;
        self.layout.dir.name_blob(uploads, &session.location, &file, &blob.digest)
    }

    fn cancel(&self, session: &Session) -> Result<bool, SideError> {
        // This is allowed after a stop, too: a canceled task deletes its sessions.
        let uploads = self.layout.dir.present_uploads(&self.stopped)?;
        uploads.map_or(Ok(false), |uploads| uploads.remove(&session.location))
    }

    fn put_manifest(&self, target: &str, manifest: &Manifest) -> Result<Stored, SideError> {
        match Digest::parse(target) {
            Ok(digest) => self.put(&digest, manifest, Entry::Nameless),
            Err(_) if !is_tag(target) => {
                let why = format!("{target:?} is neither a tag nor a digest");
                Err(SideError::new(FailureKind::Refused, why))
            }
            Err(_) => self.put(&manifest.digest, manifest, Entry::Tag(target)),
        }
    }

    fn put_child(&self, manifest: &Manifest) -> Result<Stored, SideError> {
        self.put(&manifest.digest, manifest, Entry::Child)
    }

    fn delete(&self, target: &str) -> Result<bool, SideError> {
        check_running(&self.stopped)?;
        let dir = &self.layout.dir;
        if dir.index()?.is_none() {
            return Ok(false);
        }
        let uploads = dir.uploads(&self.stopped)?;
        let lock = dir.lock(&self.stopped)?;
        let digest = Digest::parse(target).ok();
        let mut removed = Vec::new();
        dir.change_index(uploads, &lock, &mut |index| {
            removed = match &digest {
                Some(digest) => index.remove_digest(&self.name, digest),
                None => index.remove_tag(&self.name, target),
            };
            Ok(!removed.is_empty())
        })?;
        // The index no longer names them: a kill from here on leaves blobs that nothing names.
        if !removed.is_empty() {
            self.remove_unneeded(&lock, &removed)?;
        }
        Ok(!removed.is_empty())
    }

    fn shutdown(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
