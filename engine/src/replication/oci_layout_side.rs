//! An OCI image layout as a side of a replication: `oci:DIR`.
//!
//! Called by the replication's tasks, several at once. One directory holds many repositories: the index names a manifest
//! `REPOSITORY:TAG`, and `layout_index` says which names of other tools a source understands. All repositories share the
//! blobs, so a blob is never mounted: the layout has it or not. Manifests and blobs are stored byte for byte.
//!
//! - A tag is an entry of the index. A manifest that was asked for by digest is an entry without a name. A child of an
//!   index is only a blob.
//! - A manifest is listed only after all that it needs is in the layout, so a kill leaves at most blobs that nothing
//!   names. The next copy uses them.
//! - An upload is a file in `.sampan-uploads`; `layout_dir` says which names are written, and how.
//! - Removing a tag removes the blobs that it alone needed. If it is unknown what another entry needs, all blobs stay.
//! - skopeo and umoci do not find an image whose manifest is of Docker's schema 2, since they look for OCI's media
//!   types; this engine and containerd find it. A conversion would change its digest.
//!
//! Digests of blobs are not compared: the copier does that. The digest of a manifest is.

use crate::replication::fault::fault;
use crate::replication::layout_dir::LayoutDir;
use crate::replication::layout_index::{Lookup, is_repository};
use crate::replication::layout_links::{LayoutLinks, Links};
use crate::replication::local_blob;
use sampan_job::cancel::Cancel;
use sampan_oci as oci;
use sampan_oci::Descriptor;
use sampan_oci::digest::{Digest, Hasher};
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

    fn check_running(&self) -> Result<(), SideError> {
        match self.stopped.load(Ordering::Relaxed) {
            true => Err(SideError::new(FailureKind::Temporary(None), "stopped")),
            false => Ok(()),
        }
    }

    fn not_found(&self, target: &str) -> SideError {
        SideError::new(FailureKind::NotFound, format!("there is no {target} in {}", self.name()))
    }

    /// Stores a manifest; lists it under `entry`: a tag, or `None` for no name. Does not list a child.
    fn put(&self, digest: &Digest, manifest: &Manifest, entry: Entry<'_>) -> Result<Stored, SideError> {
        self.check_running()?;
        let Layout { dir, links } = &*self.layout;
        let found = digest_like(&manifest.bytes, digest);
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

/// The digest of `bytes` by the algorithm of `like`.
fn digest_like(bytes: &[u8], like: &Digest) -> Digest {
    let mut hasher = Hasher::new(like.algorithm());
    hasher.update(bytes);
    hasher.finish()
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
        self.check_running()?;
        let Layout { dir, links } = &*self.layout;
        let Some((digest, _)) = self.resolve(target)? else { return Ok(None) };
        // A blob that no entry leads to may be left from a copy that was killed.
        let Some(index) = dir.index()? else { return Ok(None) };
        if !links.is_listed(dir, &index, &digest)? {
            return Ok(None);
        }
        let Some(bytes) = dir.document(&digest)? else { return Ok(None) };
        // A damaged manifest is there, but is not what its entry says.
        let is_right = digest_like(&bytes, &digest) == digest;
        Ok(Some(Head { digest: is_right.then_some(digest) }))
    }

    fn manifest(&self, target: &str) -> Result<Manifest, SideError> {
        self.check_running()?;
        let (digest, entry) = self.resolve(target)?.ok_or_else(|| self.not_found(target))?;
        let bytes = self.layout.dir.document(&digest)?.ok_or_else(|| self.not_found(target))?;
        let found = digest_like(&bytes, &digest);
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
        self.check_running()?;
        let (file, size) = self
            .layout
            .dir
            .open_blob(&blob.digest)?
            .ok_or_else(|| self.not_found(&blob.digest.to_string()))?;
        local_blob::reader(file, size, blob, offset, &self.name(), &self.stopped)
    }

    fn referrers(&self, subject: &Digest) -> Result<Option<Vec<Descriptor>>, SideError> {
        self.check_running()?;
        let Layout { dir, links } = &*self.layout;
        let Some(index) = dir.index()? else { return Ok(Some(Vec::new())) };
        let mut found: Vec<Descriptor> = Vec::new();
        for entry in index.descriptors() {
            self.check_running()?;
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
        self.check_running()?;
        self.layout.dir.has_blob(&blob.digest, blob.size)
    }

    fn is_local(&self) -> bool {
        true
    }

    fn check_writable(&self) -> Result<(), SideError> {
        self.layout.dir.check_writable()
    }

    fn begin(&self, blob: &Descriptor, _from: Option<&str>) -> Result<Begin, SideError> {
        self.check_running()?;
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
        self.check_running()?;
        self.layout.dir.uploads(&self.stopped)?.write(&session.location, blob, at, bytes)
    }

    fn finish(&self, session: &Session, blob: &Descriptor) -> Result<(), SideError> {
        self.check_running()?;
        let uploads = self.layout.dir.uploads(&self.stopped)?;
        let file = uploads.check(&session.location, blob, &self.stopped)?;
        self.layout.dir.name_blob(uploads, &session.location, &file, &blob.digest)
    }

    fn cancel(&self, session: &Session) -> Result<bool, SideError> {
        // After a stop as well: a canceled task deletes its sessions.
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
        self.check_running()?;
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
mod tests {
    use super::*;
    use crate::replication::test_artifacts::{Written, copy, copy_parts, digest_of, host, read};
    use sampan_oci::digest::Algorithm;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn open(dir: &Path, name: &str, is_destination: bool) -> Arc<dyn Repository> {
        OciLayoutPlace::open(dir).expect("opened").repository(name, is_destination).expect("a repository")
    }

    fn kind(result: Result<impl Sized, SideError>) -> Option<FailureKind> {
        result.err().map(|error| error.kind)
    }

    fn descriptor(value: &Value) -> Descriptor {
        serde_json::from_value(value.clone()).expect("a descriptor")
    }

    /// The names of all blobs, and of everything else but the uploads.
    fn files(dir: &Path) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![dir.to_owned()];
        while let Some(at) = waiting.pop() {
            for entry in fs::read_dir(&at).expect("listed") {
                let path = entry.expect("listed").path();
                match path.is_dir() {
                    true => waiting.push(path),
                    false => drop(found.insert(path.strip_prefix(dir).expect("beneath").to_owned())),
                }
            }
        }
        found
    }

    #[test]
    fn everything_arrives_in_another_layout_byte_for_byte() {
        let (from, to) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
        let mut layout = Written::new(from.path());
        let image = layout.image(&host(), "layer");
        layout.list("team/app:image", &image);
        let other = layout.image("other", "other layer");
        let nested = layout.index(&[layout.image("third", "third layer")]);
        layout.list("team/app:index", &layout.index(&[image.clone(), other, nested]));
        let empty = layout.blob("application/vnd.oci.empty.v1+json", b"{}");
        let big = layout.blob_by(Algorithm::Sha512, "a/b", b"by another algorithm");
        let foreign = json!({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "digest": Digest::of(b"elsewhere"), "size": 9, "urls": ["https://vendor.example/layer"]});
        let artifact = layout.document(&json!({"schemaVersion": 2, "mediaType": oci::MANIFEST, "config": empty,
            "artifactType": "a/c", "layers": [big, foreign], "subject": image, "unknown": {"z": 1.50, "a": []}}));
        layout.list("team/app:artifact", &artifact);
        let target = to.path().join("made/here");
        let (source, destination) = (open(from.path(), "team/app", false), open(&target, "team/app", true));
        destination.check_writable().expect("writable");
        assert!(!target.exists(), "a check changes nothing");
        for tag in source.tags().expect("listed") {
            assert_eq!(destination.head(&tag).expect("asked"), None);
            copy(&*source, &*destination, &tag).expect("copied");
            let (here, there) = (source.head(&tag).expect("asked"), destination.head(&tag).expect("asked"));
            assert!(here.is_some() && here == there, "{tag}");
            let again = open(&target, "team/app", false).manifest(&tag).expect("read");
            assert_eq!(again, source.manifest(&tag).expect("read"));
        }
        let blobs = |dir: &Path| -> BTreeSet<(PathBuf, Vec<u8>)> {
            let all = files(dir).into_iter().filter(|path| path.starts_with("blobs"));
            all.map(|path| (path.clone(), fs::read(dir.join(path)).expect("read"))).collect()
        };
        assert_eq!(blobs(&target), blobs(from.path()));
        assert_eq!(files(&target.join(".sampan-uploads")), BTreeSet::new());
        let referrers = destination.referrers(&digest_of(&image)).expect("listed").expect("a list");
        assert_eq!(referrers.iter().map(|one| &one.digest).collect::<Vec<_>>(), [&digest_of(&artifact)]);
        // Children of an index are not listed on their own, and are found by digest.
        let listed = fs::read_to_string(target.join("index.json")).expect("read");
        assert_eq!(listed.matches("\"digest\"").count(), 3);
        assert!(destination.head(&digest_of(&image).to_string()).expect("asked").is_some());
    }

    #[test]
    fn a_manifest_is_refused_until_all_that_it_names_is_there() {
        let (from, to) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
        let mut layout = Written::new(from.path());
        let image = layout.image("amd64", "layer");
        layout.list("a:1", &layout.index(std::slice::from_ref(&image)));
        let (source, target) = (open(from.path(), "a", false), open(to.path(), "a", true));
        let (index, child) = (source.manifest("1").expect("read"), digest_of(&image).to_string());
        let child = source.manifest(&child).expect("read");
        assert_eq!(kind(target.put_manifest("1", &index)), Some(FailureKind::BlobUnknown));
        assert_eq!(kind(target.put_child(&child)), Some(FailureKind::BlobUnknown));
        copy_parts(&*source, &*target, &index).expect("copied");
        let layer = to.path().join("blobs/sha256").join(Digest::of(b"layer").hex());
        fs::remove_file(&layer).expect("there");
        assert_eq!(kind(target.put_manifest("1", &index)), Some(FailureKind::BlobUnknown));
        fs::write(&layer, b"layer").expect("written");
        assert!(target.put_manifest("1", &index).expect("put").indexes_subject);
        let wrong = Digest::of(b"wrong").to_string();
        assert_eq!(kind(target.put_manifest(&wrong, &index)), Some(FailureKind::Corrupt));
        assert_eq!(kind(target.put_manifest("no tag", &index)), Some(FailureKind::Refused));
    }

    #[test]
    fn a_kill_between_two_steps_leaves_a_layout_that_can_be_read() {
        let (from, to) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
        let mut layout = Written::new(from.path());
        layout.list("a:1", &layout.image("amd64", "the layer"));
        let source = open(from.path(), "a", false);
        let manifest = source.manifest("1").expect("read");
        let parts = sampan_replication::artifact::parts(&manifest.bytes).expect("a manifest");
        // Each step is made by another process.
        let step = || {
            let again = OciLayoutPlace::open(to.path()).expect("a layout");
            assert_eq!(again.repositories(&Cancel::default()).expect("listed"), [""; 0]);
            again.repository("a", true).expect("a repository")
        };
        for blob in &parts.blobs {
            let bytes = read(&*source, blob).expect("read");
            let Begin::Session(mut session) = step().begin(blob, None).expect("begun") else {
                panic!("absent")
            };
            assert_eq!(step().offset(&mut session).expect("asked"), Some(0));
            step().send(&mut session, blob, 0, &bytes[..5]).expect("sent");
            assert_eq!(step().offset(&mut session).expect("asked"), Some(5));
            assert_eq!(kind(step().send(&mut session, blob, 6, b"x")), Some(FailureKind::LostSession));
            assert_eq!(kind(step().finish(&session, blob)), Some(FailureKind::LostSession));
            // Bytes behind the offset, which the copier does not know of, are dropped.
            step().send(&mut session, blob, 5, b"???").expect("sent");
            step().send(&mut session, blob, 5, &bytes[5..]).expect("sent");
            assert!(!step().has_blob(blob).expect("asked"));
            step().finish(&session, blob).expect("finished");
            assert!(step().has_blob(blob).expect("asked"));
            assert_eq!(step().offset(&mut session).expect("asked"), None);
            assert!(!step().cancel(&session).expect("asked"));
        }
        // A kill inside the change of the index leaves its temporary file.
        fs::write(to.path().join(".sampan-uploads/staged"), b"{\"manif").expect("written");
        step().put_child(&manifest).expect("put");
        assert_eq!(step().head(&manifest.digest.to_string()).expect("asked"), None, "nothing names it yet");
        step().put_manifest("1", &manifest).expect("put");
        assert_eq!(open(to.path(), "a", false).tags().expect("listed"), ["1"]);
        assert_eq!(files(&to.path().join(".sampan-uploads")), BTreeSet::new());
    }

    #[test]
    fn bytes_of_another_process_are_hashed_before_they_get_a_name() {
        let dir = tempfile::tempdir().expect("made");
        let blob = descriptor(&json!({"mediaType": "a/b", "digest": Digest::of(b"right"), "size": 5}));
        let begin = || match open(dir.path(), "a", true).begin(&blob, None).expect("begun") {
            Begin::Session(session) => session,
            Begin::Mounted => panic!("absent"),
        };
        let (mut session, other) = (begin(), begin());
        assert_ne!(session.location, other.location, "two tasks may send the same blob");
        open(dir.path(), "a", true).send(&mut session, &blob, 0, b"wr").expect("sent");
        let last = open(dir.path(), "a", true);
        last.send(&mut session, &blob, 2, b"ong").expect("sent");
        assert_eq!(kind(last.send(&mut session, &blob, 5, b"!")), Some(FailureKind::Corrupt));
        assert_eq!(kind(last.finish(&session, &blob)), Some(FailureKind::LostSession));
        assert_eq!(last.offset(&mut session).expect("asked"), None);
        assert!(last.cancel(&other).expect("removed"));
        for location in ["../index.json", "index.json", "", "sha256-0.upload-1"] {
            let mut hostile = Session { location: location.to_owned(), chunk_min: 0 };
            assert_eq!(last.offset(&mut hostile).expect("asked"), None, "{location}");
            assert_eq!(kind(last.send(&mut hostile, &blob, 0, b"x")), Some(FailureKind::LostSession));
            assert!(!last.cancel(&hostile).expect("asked"));
        }
        assert!(dir.path().join("index.json").exists());
    }

    #[test]
    fn a_hostile_layout_gives_errors_and_nothing_of_this_host() {
        let (dir, outside) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
        let mut layout = Written::new(dir.path());
        let image = layout.image("amd64", "layer");
        layout.list("a:1", &image);
        let path = layout.path(&digest_of(&image));
        let good = fs::read(&path).expect("read");
        let secret = outside.path().join("secret");
        fs::write(&secret, &good).expect("written");
        let side = || open(dir.path(), "a", false);
        // A link out, a link to nowhere, a directory, a FIFO.
        fs::remove_file(&path).expect("there");
        symlink(&secret, &path).expect("made");
        assert_eq!(kind(side().manifest("1")), Some(FailureKind::Refused));
        assert_eq!(kind(side().blob(&descriptor(&image), 0, None)), Some(FailureKind::Refused));
        assert_eq!(kind(side().has_blob(&descriptor(&image))), Some(FailureKind::Refused));
        fs::remove_file(&path).expect("there");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("made");
        assert_eq!(kind(side().manifest("1")), Some(FailureKind::Refused));
        fs::remove_file(&path).expect("there");
        assert_eq!(kind(side().manifest("1")), Some(FailureKind::NotFound));
        assert_eq!(side().head("1").expect("asked"), None);
        // Other bytes of the right size, and another size.
        fs::write(&path, vec![b' '; good.len()]).expect("written");
        assert_eq!(kind(side().manifest("1")), Some(FailureKind::Corrupt));
        assert_eq!(side().head("1").expect("asked"), Some(Head { digest: None }));
        assert_eq!(
            kind(side().blob(&Descriptor { size: 1, ..descriptor(&image) }, 0, None)),
            Some(FailureKind::Corrupt)
        );
        fs::write(&path, &good).expect("written");
        assert!(side().manifest("1").is_ok());
        // The index itself.
        let index = dir.path().join("index.json");
        for (bytes, found) in [
            (vec![b' '; usize::try_from(oci::MANIFEST_MAX).expect("small") + 1], FailureKind::Refused),
            (b"{\"manifests\":7}".to_vec(), FailureKind::Refused),
            (Vec::new(), FailureKind::Refused),
        ] {
            fs::write(&index, bytes).expect("written");
            assert_eq!(kind(OciLayoutPlace::open(dir.path())), Some(found));
        }
        fs::remove_file(&index).expect("there");
        symlink("/etc/passwd", &index).expect("made");
        assert_eq!(kind(OciLayoutPlace::open(dir.path())), Some(FailureKind::Refused));
        fs::remove_file(&index).expect("there");
        let odd = json!({"manifests": [{"digest": "sha256:../../../etc/passwd", "size": 1}, {}, 1, null]});
        fs::write(&index, odd.to_string()).expect("written");
        assert_eq!(
            OciLayoutPlace::open(dir.path())
                .expect("opened")
                .repositories(&Cancel::default())
                .expect("listed"),
            [""; 0]
        );
        fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).expect("written");
        fs::write(&index, "{ }").expect("written");
        assert_eq!(kind(OciLayoutPlace::open(dir.path())), Some(FailureKind::Refused));
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let blob = descriptor(&json!({"mediaType": "a/b", "digest": Digest::of(b"abc"), "size": 3}));
        for (link, is_named) in
            [("blobs", false), ("blobs/sha256", false), (".sampan-uploads", false), ("index.json", true)]
        {
            let (dir, outside) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
            fs::create_dir(dir.path().join("blobs")).expect("made");
            let _ = fs::remove_dir(dir.path().join(link));
            symlink(outside.path().join(if is_named { "absent" } else { "" }), dir.path().join(link))
                .expect("made");
            let stored = OciLayoutPlace::open(dir.path()).and_then(|place| {
                let side = place.repository("a", true)?;
                let Begin::Session(mut session) = side.begin(&blob, None)? else { panic!("absent") };
                side.send(&mut session, &blob, 0, b"abc")?;
                side.finish(&session, &blob)
            });
            assert!(stored.is_err(), "{link}");
            assert_eq!(files(outside.path()), BTreeSet::new(), "{link}");
        }
    }

    #[test]
    fn two_writers_and_another_tool_lose_no_entry() {
        const TAGS: usize = 12;
        let (from, to) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
        let mut layout = Written::new(from.path());
        layout.list("a:1", &layout.image("amd64", "layer"));
        let source = open(from.path(), "a", false);
        let manifest = source.manifest("1").expect("read");
        copy_parts(&*source, &*open(to.path(), "a", true), &manifest).expect("copied");
        std::thread::scope(|scope| {
            for name in ["a", "b"] {
                let (manifest, to) = (&manifest, to.path());
                scope.spawn(move || {
                    let side = open(to, name, true);
                    for nth in 0..TAGS {
                        side.put_manifest(&nth.to_string(), manifest).expect("put");
                    }
                });
            }
        });
        let tags = |name| open(to.path(), name, true).tags().expect("listed").len();
        assert_eq!((tags("a"), tags("b")), (TAGS, TAGS));
        // Another tool writes while the index is being changed.
        let place = OciLayoutPlace::open(to.path()).expect("opened");
        let (layout, stop) = (place.layout().expect("there"), AtomicBool::new(false));
        let dir = &layout.dir;
        let (uploads, index) = (dir.uploads(&stop).expect("opened"), to.path().join("index.json"));
        let lock = dir.lock(&stop).expect("locked");
        let mut runs = 0;
        dir.change_index(uploads, &lock, &mut |found| {
            runs += 1;
            if runs == 1 {
                let mut other: Value =
                    serde_json::from_slice(&fs::read(&index).expect("read")).expect("JSON");
                other["manifests"][0]["annotations"] =
                    json!({crate::image::archive::manifest::REF_NAME: "theirs"});
                fs::write(&index, other.to_string()).expect("written");
            }
            Ok(found
                .put("a", Some("ours"), &descriptor(&json!({"digest": manifest.digest, "size": 1})))
                .expect("put"))
        })
        .expect("changed");
        drop(lock);
        assert_eq!(runs, 2);
        let place = OciLayoutPlace::open(to.path()).expect("opened");
        let tags = |name| place.repository(name, true).and_then(|side| side.tags()).expect("listed");
        assert!(tags("").contains(&"theirs".to_owned()) && tags("a").contains(&"ours".to_owned()));
        assert_eq!(tags("a").len() + tags("b").len(), 2 * TAGS);
    }

    #[test]
    fn a_deleted_tag_takes_only_blobs_that_nothing_else_needs() {
        let dir = tempfile::tempdir().expect("made");
        let mut layout = Written::new(dir.path());
        let (one, two) = (layout.image("amd64", "one"), layout.image("arm64", "two"));
        layout.list("a:1", &layout.index(&[one.clone(), two.clone()]));
        layout.list("a:2", &one);
        layout.list("bare", &two);
        let stray = layout.blob("a/b", b"of another job");
        let side = open(dir.path(), "a", true);
        let has = |content: &str| layout.path(&Digest::of(content.as_bytes())).exists();
        assert!(!side.delete("bare").expect("asked"), "a bare tag is of no other repository");
        assert!(side.delete("1").expect("deleted"));
        assert!(!side.delete("1").expect("asked"));
        assert!(has("one") && has("two"));
        assert!(side.delete("2").expect("deleted"));
        assert!(!has("one") && has("two") && !layout.path(&digest_of(&one)).exists());
        assert!(layout.path(&digest_of(&stray)).exists());
        // What cannot be read may need anything.
        let three = layout.image("amd64", "three");
        let mut layout = Written::new(dir.path());
        layout.list("a:3", &three);
        let broken = layout.blob(oci::MANIFEST, b"no manifest");
        layout.list("b:1", &broken);
        let side = open(dir.path(), "a", true);
        assert!(side.delete(&digest_of(&three).to_string()).expect("deleted"));
        assert!(layout.path(&Digest::of(b"three")).exists());
        assert_eq!(open(dir.path(), "b", true).tags().expect("listed"), ["1"]);
    }

    #[test]
    fn another_stick_is_noticed_and_an_absent_one_is_not_replaced() {
        let top = tempfile::tempdir().expect("made");
        let [path, first, second] = ["stick", "first", "second"].map(|name| top.path().join(name));
        for (dir, tag) in [(&path, "one"), (&second, "two")] {
            let mut layout = Written::new(dir);
            layout.list(&format!("a:{tag}"), &layout.image("amd64", tag));
        }
        let place = OciLayoutPlace::open(&path).expect("opened");
        let tags = || place.repository("a", true).and_then(|side| side.tags());
        assert_eq!(tags().expect("listed"), ["one"]);
        fs::rename(&path, &first).expect("renamed");
        assert_eq!(kind(tags()), Some(FailureKind::Host));
        fs::create_dir(&path).expect("made");
        assert_eq!(kind(tags()), Some(FailureKind::Host));
        fs::remove_dir(&path).expect("empty");
        fs::rename(&second, &path).expect("renamed");
        assert_eq!(tags().expect("listed"), ["two"]);
    }

    #[test]
    fn a_stopped_side_reads_and_writes_no_more() {
        let dir = tempfile::tempdir().expect("made");
        let mut layout = Written::new(dir.path());
        layout.list("a:1", &layout.image("amd64", "layer"));
        let side = open(dir.path(), "a", true);
        let blob = descriptor(&json!({"digest": Digest::of(b"layer"), "size": 5}));
        let mut reader = side.blob(&blob, 2, None).expect("opened");
        assert_eq!(reader.starts, 2);
        side.shutdown();
        assert!(std::io::Read::read(&mut reader.reader, &mut [0; 9]).is_err());
        assert!(side.manifest("1").is_err() && side.begin(&blob, None).is_err() && side.delete("1").is_err());
    }
}
