//! This host's store as a side of a replication: `store:`.
//!
//! Called by the replication's tasks, several at once. A repository is the name of references without the tag, such as
//! `docker.io/library/alpine`.
//!
//! As a source, the store has one manifest for each tag, byte for byte as its registry had it. If an image was chosen
//! from an index, the store has the manifest of one platform and not the index. Opening a manifest pins the image, so
//! that no blob is removed while it is copied.
//!
//! As a destination, the store keeps images that can run on this host, not artifacts and signatures:
//!
//! - Blobs are uploads beside the partial blobs of pulls. They are pinned until their manifest is stored.
//! - A manifest becomes an image as after `sampan pull --no-unpack`, and is durable when the call returns. Rules that
//!   want a signature refuse it, as they refuse an image from an archive.
//! - Of an index, the image for this host's platform becomes the tag's image; other children are left out. The image's
//!   entry records the index's digest, as that of a pulled image does, and [`Repository::head`] reports the recorded
//!   digest. So an index that has not changed is not copied again.
//! - A tag is deleted as `sampan rmi` deletes it, but never the last name of an image that a container or a job uses.

use crate::context::Shared;
use crate::image::disk_space::Claim;
use crate::image::prune;
use crate::replication::fault::{check_running, fault};
use crate::replication::local_blob;
use crate::replication::upload::Uploads;
use sampan_job::cancel::Cancel;
use sampan_oci as oci;
use sampan_oci::digest::Digest;
use sampan_oci::platform::Platform;
use sampan_oci::reference::Reference;
use sampan_oci::{Config, Descriptor, Document, PlatformField};
use sampan_os::mutex::lock;
use sampan_replication::artifact;
use sampan_replication::side::{
    Begin, BlobReader, FailureKind, Head, Manifest, Place, Repository, Session, SideError, Stored,
};
use sampan_store::images::{self, ImageError, NewImage};
use sampan_store::{Generation, Pin, Store, StoreError, partial_blob};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Most levels of indexes that list other indexes.
const NESTING_MAX: usize = 3;
/// The cause that events of removals name.
const BY: &str = "replication";

/// The local store.
pub struct StorePlace {
    shared: Arc<Shared>,
    uploads: Arc<Uploads>,
}

/// One repository of the store.
struct StoreRepository {
    shared: Arc<Shared>,
    uploads: Arc<Uploads>,
    /// Host and path.
    name: String,
    is_destination: bool,
    /// Content that garbage collection must leave: images that are read, and blobs that no image names yet.
    pins: Mutex<HashMap<Digest, Pin>>,
    /// Disk space for the rest of each upload, by its location.
    claims: Mutex<HashMap<String, Claim>>,
    stopped: Arc<AtomicBool>,
}

impl StorePlace {
    /// Makes a place of the store in `shared`.
    ///
    /// # Errors
    /// [`FailureKind::Host`]: the store's directory of partial blobs cannot be opened.
    pub fn new(shared: Arc<Shared>) -> Result<Self, SideError> {
        let path = partial_blob::directory(&shared.store);
        let dir = File::open(&path).map_err(|source| fault(format!("open {}", path.display()), source))?;
        // The store syncs its whole file system when an image is stored.
        Ok(StorePlace { shared, uploads: Arc::new(Uploads::new(dir.into(), None)) })
    }
}

impl Place for StorePlace {
    fn name(&self) -> String {
        "store:".to_owned()
    }

    fn repositories(&self, _: &Cancel) -> Result<Vec<String>, SideError> {
        let entries = images::entries(&self.shared.store).map_err(store_error)?;
        let names = entries.iter().flat_map(|(_, names)| names);
        let repositories = names.filter_map(|name| Reference::parse(name).ok()).map(|name| name.name());
        Ok(repositories.collect::<BTreeSet<String>>().into_iter().collect())
    }

    fn repository(&self, name: &str, is_destination: bool) -> Result<Arc<dyn Repository>, SideError> {
        let reference = Reference::parse(name).map_err(|error| refused(FailureKind::Refused, error))?;
        // The tag that an absent one stands for.
        let is_bare =
            reference.tag() == Some("latest") && reference.digest().is_none() && !name.ends_with(":latest");
        if !is_bare {
            let why = format!("{name:?} is no repository: it has a tag or a digest");
            return Err(SideError::new(FailureKind::Refused, why));
        }
        Ok(Arc::new(StoreRepository {
            shared: Arc::clone(&self.shared),
            uploads: Arc::clone(&self.uploads),
            name: reference.name(),
            is_destination,
            pins: Mutex::default(),
            claims: Mutex::default(),
            stopped: Arc::default(),
        }))
    }
}

/// A manifest that becomes an image, and its config.
struct Chosen {
    manifest: Manifest,
    parsed: oci::Manifest,
    config: Config,
    /// The index that lists the manifest.
    index: Option<Digest>,
}

impl StoreRepository {
    fn store(&self) -> &Store {
        &self.shared.store
    }

    /// The reference of a tag or digest in this repository.
    fn reference(&self, target: &str) -> Result<Reference, SideError> {
        let separator = if Digest::parse(target).is_ok() { '@' } else { ':' };
        Reference::parse(&format!("{}{separator}{target}", self.name))
            .map_err(|error| refused(FailureKind::Refused, error))
    }

    /// The entries of this repository's images, each with its references here.
    fn entries(&self) -> Result<Vec<(Descriptor, Vec<Reference>)>, SideError> {
        let entries = images::entries(self.store()).map_err(store_error)?;
        let here = entries.into_iter().map(|(entry, names)| {
            let names = names.iter().filter_map(|name| Reference::parse(name).ok());
            (entry, names.filter(|name| name.name() == self.name).collect::<Vec<_>>())
        });
        Ok(here.filter(|(_, names)| !names.is_empty()).collect())
    }

    /// The references of this repository that a tag or digest means, each with the image's entry.
    fn located(&self, target: &str) -> Result<Vec<(Descriptor, Reference)>, SideError> {
        let digest = Digest::parse(target).ok();
        let is_meant = |entry: &Descriptor, name: &Reference| match &digest {
            // A source does not have the index that an image was chosen from.
            Some(digest) if !self.is_destination => entry.digest == *digest,
            Some(digest) => entry.digest == *digest || images::index_of(entry).as_ref() == Some(digest),
            None => name.tag() == Some(target) && name.digest().is_none(),
        };
        let all = self.entries()?.into_iter();
        let each = all.flat_map(|(entry, names)| names.into_iter().map(move |name| (entry.clone(), name)));
        Ok(each.filter(|(entry, name)| is_meant(entry, name)).collect())
    }

    /// Keeps a blob from garbage collection as long as this repository is open, or until its image is stored.
    fn pin(&self, digest: &Digest) {
        // Not under the lock of `pins`: pinning waits for a sweep.
        if !lock(&self.pins).contains_key(digest) {
            let pin = self.store().pin([digest.clone()]);
            lock(&self.pins).entry(digest.clone()).or_insert(pin);
        }
    }

    fn is_here(&self, blob: &Descriptor) -> bool {
        self.pin(&blob.digest);
        self.store().has_blob(&blob.digest, blob.size)
    }

    /// Claims disk space for the `rest` of a blob in place of what its upload has claimed before.
    fn claim(&self, location: &str, blob: &Descriptor, rest: u64) -> Result<(), SideError> {
        let mut claims = lock(&self.claims);
        let rest = Descriptor { size: rest, ..blob.clone() };
        let whole = oci::Manifest {
            schema_version: 2,
            media_type: String::new(),
            config: rest.clone(),
            layers: vec![rest],
        };
        let chain_ids = [blob.digest.clone()];
        let ahead = claims.get(location);
        let claim = self.shared.room.claim(self.store(), &whole, &chain_ids, false, ahead);
        claims.insert(location.to_owned(), claim.map_err(|error| refused(FailureKind::Host, error))?);
        Ok(())
    }

    /// Checks that the store has everything that the manifest names.
    fn check_complete(&self, digest: &Digest, manifest: &oci::Manifest) -> Result<(), SideError> {
        let mut blobs = std::iter::once(&manifest.config).chain(&manifest.layers);
        match blobs.find(|blob| !self.is_here(blob)) {
            Some(missing) => Err(self.unknown(digest, &missing.digest)),
            None => Ok(()),
        }
    }

    fn unknown(&self, manifest: &Digest, missing: &Digest) -> SideError {
        let why = format!("the store does not have {missing}, which the manifest {manifest} names");
        SideError::new(FailureKind::BlobUnknown, why)
    }

    /// Follows a manifest or index to the manifest for this host.
    fn choose(&self, top: &Manifest, digest: &Digest) -> Result<Chosen, SideError> {
        let mut manifest = Manifest { digest: digest.clone(), ..top.clone() };
        let mut index = None;
        for _ in 0..=NESTING_MAX {
            let stated = Some(manifest.media_type.as_str()).filter(|stated| !stated.is_empty());
            let document = oci::parse_document(&manifest.bytes, stated);
            match document.map_err(|error| refused(FailureKind::Refused, error))? {
                Document::Manifest(parsed) => {
                    self.check_complete(&manifest.digest, &parsed)?;
                    let bytes = self.store().read_blob(&parsed.config.digest, oci::CONFIG_MAX);
                    let config = oci::parse_config(&bytes.map_err(store_error)?, &parsed)
                        .map_err(|error| refused(FailureKind::Refused, error))?;
                    return Ok(Chosen { manifest, parsed, config, index });
                }
                Document::Index(list) => {
                    let chosen = oci::choose(&list, &Platform::host())
                        .map_err(|error| refused(FailureKind::Refused, error))?;
                    if !self.is_here(chosen) {
                        return Err(self.unknown(&manifest.digest, &chosen.digest));
                    }
                    let bytes =
                        self.store().read_blob(&chosen.digest, oci::MANIFEST_MAX).map_err(store_error)?;
                    index = index.or(Some(manifest.digest));
                    let (digest, media_type) = (chosen.digest.clone(), chosen.media_type.clone());
                    manifest = Manifest { bytes, digest, media_type };
                }
            }
        }
        let why = format!("the image's index is nested more than {NESTING_MAX} deep");
        Err(SideError::new(FailureKind::Refused, why))
    }

    /// Names the image in the index of the store, and waits until it is durable.
    fn commit(&self, reference: &Reference, chosen: &Chosen) -> Result<(), SideError> {
        let Chosen { manifest, parsed, config, index } = chosen;
        self.store().write_blob(&manifest.digest, &manifest.bytes).map_err(store_error)?;
        let media_type = match (parsed.media_type.as_str(), parsed.config.media_type.as_str()) {
            ("", oci::DOCKER_CONFIG) => oci::DOCKER_MANIFEST,
            ("", _) => oci::MANIFEST,
            (declared, _) => declared,
        };
        let new = NewImage {
            reference,
            manifest: Descriptor {
                media_type: media_type.to_owned(),
                digest: manifest.digest.clone(),
                size: manifest.bytes.len() as u64,
                platform: None,
                annotations: BTreeMap::new(),
            },
            platform: PlatformField::from(&config.platform()),
            index: index.clone(),
            // It is not known which of the blobs are already on the disk, so all of them are treated as new.
            since: Generation::default(),
        };
        images::commit(self.store(), new).map_err(store_error)?;
        self.shared.room.keep(self.store());
        // A task that is recorded as finished is not repeated after power loss.
        match self.store().make_durable() {
            true => Ok(()),
            false => {
                let why = format!("cannot sync the store in {}", self.store().root().display());
                Err(SideError::new(FailureKind::Host, why))
            }
        }
    }

    /// Lets go of an image's blobs, which the image keeps now.
    fn release(&self, chosen: &Chosen) {
        let mut pins = lock(&self.pins);
        let blobs = std::iter::once(&chosen.parsed.config).chain(&chosen.parsed.layers);
        for digest in blobs.map(|blob| &blob.digest).chain([&chosen.manifest.digest]) {
            pins.remove(digest);
        }
    }

    fn remove(&self, name: &Reference) -> Result<bool, SideError> {
        let in_use = |digest: &Digest| match images::is_in_use(self.store(), digest) {
            true => vec![String::new()],
            false => Vec::new(),
        };
        match images::remove(self.store(), &name.to_string(), false, &in_use) {
            Ok(removed) => {
                prune::announce_removed(&self.shared.announcer, &removed, BY);
                Ok(!removed.untagged.is_empty())
            }
            Err(ImageError::NotFound(_)) => Ok(false),
            Err(ImageError::InUse { .. }) => {
                let why = format!("image {name} is in use by a container or a job");
                Err(SideError::new(FailureKind::Refused, why))
            }
            Err(error) => Err(image_error(error)),
        }
    }
}

impl Repository for StoreRepository {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn tags(&self) -> Result<Vec<String>, SideError> {
        let entries = self.entries()?;
        let names = entries.iter().flat_map(|(_, names)| names).filter(|name| name.digest().is_none());
        Ok(names.filter_map(Reference::tag).map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect())
    }

    fn head(&self, target: &str) -> Result<Option<Head>, SideError> {
        check_running(&self.stopped)?;
        let Some((entry, _)) = self.located(target)?.into_iter().next() else { return Ok(None) };
        let digest = match Digest::parse(target) {
            Ok(asked) => asked,
            Err(_) if self.is_destination => images::index_of(&entry).unwrap_or(entry.digest),
            Err(_) => entry.digest,
        };
        Ok(Some(Head { digest: Some(digest) }))
    }

    fn manifest(&self, target: &str) -> Result<Manifest, SideError> {
        check_running(&self.stopped)?;
        let not_found = || {
            let why = format!("there is no {target} of {} in the store", self.name);
            SideError::new(FailureKind::NotFound, why)
        };
        let (entry, name) = self.located(target)?.into_iter().next().ok_or_else(not_found)?;
        let (image, pin) = images::find_and_pin(self.store(), &name.to_string()).map_err(image_error)?;
        // The name may have moved since.
        if image.entry.digest != entry.digest {
            return Err(not_found());
        }
        let digest = image.entry.digest;
        let bytes = self.store().read_blob(&digest, oci::MANIFEST_MAX).map_err(store_error)?;
        lock(&self.pins).insert(digest.clone(), pin);
        let stated = artifact::parts(&bytes).map(|parts| parts.media_type).unwrap_or_default();
        let media_type = if stated.is_empty() { image.entry.media_type } else { stated };
        Ok(Manifest { bytes, digest, media_type })
    }

    fn blob(&self, blob: &Descriptor, offset: u64, _etag: Option<&str>) -> Result<BlobReader, SideError> {
        check_running(&self.stopped)?;
        let path = self.store().blob_path(&blob.digest);
        let failed = |source| fault(format!("open blob {} of the store", blob.digest), source);
        let file = File::open(&path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        local_blob::reader(file, size, blob, offset, "the store", &self.stopped)
    }

    fn referrers(&self, _subject: &Digest) -> Result<Option<Vec<Descriptor>>, SideError> {
        // The store keeps images alone.
        Ok(Some(Vec::new()))
    }

    fn has_blob(&self, blob: &Descriptor) -> Result<bool, SideError> {
        check_running(&self.stopped)?;
        Ok(self.is_here(blob))
    }

    fn is_local(&self) -> bool {
        true
    }

    fn check_writable(&self) -> Result<(), SideError> {
        Ok(())
    }

    fn begin(&self, blob: &Descriptor, _from: Option<&str>) -> Result<Begin, SideError> {
        check_running(&self.stopped)?;
        // All repositories share the blobs, and a pull may just have stored this one.
        if self.is_here(blob) {
            return Ok(Begin::Mounted);
        }
        let location = self.uploads.create(&blob.digest)?;
        if let Err(error) = self.claim(&location, blob, blob.size) {
            self.uploads.remove(&location)?;
            return Err(error);
        }
        Ok(Begin::Session(Session { location, chunk_min: 0 }))
    }

    fn offset(&self, session: &mut Session) -> Result<Option<u64>, SideError> {
        self.uploads.len(&session.location)
    }

    fn send(
        &self,
        session: &mut Session,
        blob: &Descriptor,
        at: u64,
        bytes: &[u8],
    ) -> Result<u64, SideError> {
        check_running(&self.stopped)?;
        // A resumed upload was neither pinned nor claimed by this process.
        self.pin(&blob.digest);
        self.claim(&session.location, blob, blob.size.saturating_sub(at))?;
        self.uploads.write(&session.location, blob, at, bytes)
    }

    fn finish(&self, session: &Session, blob: &Descriptor) -> Result<(), SideError> {
        check_running(&self.stopped)?;
        self.pin(&blob.digest);
        self.uploads.check(&session.location, blob, &self.stopped)?;
        partial_blob::finish_upload(self.store(), &session.location, &blob.digest).map_err(store_error)?;
        self.uploads.forget(&session.location);
        lock(&self.claims).remove(&session.location);
        Ok(())
    }

    fn cancel(&self, session: &Session) -> Result<bool, SideError> {
        lock(&self.claims).remove(&session.location);
        self.uploads.remove(&session.location)
    }

    fn put_manifest(&self, target: &str, manifest: &Manifest) -> Result<Stored, SideError> {
        check_running(&self.stopped)?;
        let reference = self.reference(target)?;
        let digest = match reference.digest() {
            Some(wanted) => {
                let found = wanted.algorithm().digest(&manifest.bytes);
                if found != *wanted {
                    let why = format!("the manifest for {reference} has digest {found}");
                    return Err(SideError::new(FailureKind::Corrupt, why));
                }
                found
            }
            None => manifest.digest.clone(),
        };
        self.shared
            .config
            .policies
            .check_unsigned(&reference)
            .map_err(|error| refused(FailureKind::Refused, error))?;
        self.pin(&digest);
        let chosen = self.choose(manifest, &digest)?;
        self.commit(&reference, &chosen)?;
        self.release(&chosen);
        Ok(Stored::default())
    }

    fn keeps_child(&self, child: &Descriptor) -> bool {
        let platform = child.platform.as_ref().map(PlatformField::platform);
        // An index in an index has no platform.
        platform.is_none_or(|platform| Platform::host().rank(&platform).is_some())
    }

    fn put_child(&self, manifest: &Manifest) -> Result<Stored, SideError> {
        check_running(&self.stopped)?;
        let Manifest { digest, bytes, .. } = manifest;
        let parts = artifact::parts(bytes).map_err(|error| refused(FailureKind::Refused, error))?;
        if let Some(missing) = parts.blobs.iter().find(|blob| !self.is_here(blob)) {
            return Err(self.unknown(digest, &missing.digest));
        }
        self.pin(digest);
        self.store().write_blob(digest, bytes).map_err(store_error)?;
        Ok(Stored::default())
    }

    fn delete(&self, target: &str) -> Result<bool, SideError> {
        check_running(&self.stopped)?;
        let mut deleted = false;
        for (_, name) in self.located(target)? {
            deleted |= self.remove(&name)?;
        }
        Ok(deleted)
    }

    fn shutdown(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

fn refused(kind: FailureKind, error: impl Error + Send + Sync + 'static) -> SideError {
    SideError { kind, source: Box::new(error) }
}

fn store_error(error: StoreError) -> SideError {
    let kind = match &error {
        StoreError::Digest { .. } => FailureKind::Corrupt,
        StoreError::File { source, .. } if source.kind() == io::ErrorKind::NotFound => FailureKind::NotFound,
        StoreError::File { .. } | StoreError::Broken { .. } | StoreError::Locked(_) => FailureKind::Host,
    };
    refused(kind, error)
}

fn image_error(error: ImageError) -> SideError {
    let kind = match error {
        ImageError::Store(error) => return store_error(error),
        ImageError::NotFound(_) => FailureKind::NotFound,
        ImageError::Unreadable { .. } => FailureKind::Corrupt,
        ImageError::Ambiguous { .. }
        | ImageError::SeveralReferences { .. }
        | ImageError::InUse { .. }
        | ImageError::Reference(_) => FailureKind::Refused,
    };
    refused(kind, error)
}

#[cfg(test)]
mod tests;
