//! A push: sends the config, then the layers in parallel, and the manifest last. All are sent byte for byte as stored,
//! so their digests do not change.
//!
//! Runs on a job's thread, with up to `max-downloads` more threads. Does not send a blob that the target repository
//! has, and mounts a blob that another repository of the registry has. A broken upload continues at the offset that the
//! registry reports. Reports to a [`Progress`]; the caller announces the outcome. Never changes the store.

use crate::error;
use sampan_ipc::engine::{Code, Failure, Phase};
use sampan_job::cancel::{Cancel, Cancelled};
use sampan_job::limits::Limits;
use sampan_job::progress::Progress;
use sampan_job::rate_limit::RateLimit;
use sampan_oci as oci;
use sampan_oci::Descriptor;
use sampan_oci::digest::Digest;
use sampan_oci::reference::Reference;
use sampan_os::mutex::lock;
use sampan_os::thread;
use sampan_registry::blob_download::PROGRESS_BYTES;
use sampan_registry::config::Endpoint;
use sampan_registry::retry::{self, Backoff};
use sampan_registry::{Access, Payload, Registry, RegistryError, Upload, UploadStart};
use sampan_store::images::{self, ImageError, Loaded};
use sampan_store::{Store, StoreError, file_error};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Largest blob that is sent in one request, in bytes. A larger blob is sent in a way that lets a broken upload
/// continue.
const SMALL: u64 = 1 << 20;
/// Most repositories from which a push tries to mount a blob.
const MOUNTS_MAX: usize = 2;
/// Stack of a transfer's thread, in bytes: enough for TLS, which does not recurse.
const STACK: usize = 1 << 20;

/// A request to push an image.
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// The image: a reference, a digest or a unique ID prefix.
    pub source: String,
    /// The target; `None` means the image's own reference.
    pub target: Option<Reference>,
    /// How registries are reached.
    pub access: Access,
    /// Rate limit in bytes per second; 0 means no limit.
    pub bytes_per_second: u64,
}

/// A pushed image.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// The image's reference in the registry.
    pub reference: Reference,
    /// Digest of the image's manifest.
    pub digest: Digest,
    /// Digest of the image's config.
    pub id: Digest,
    /// Size of the image's config and layers, in bytes.
    pub size: u64,
    /// Whether the registry had the complete image under this name before the push.
    pub unchanged: bool,
    /// The image's labels.
    pub labels: BTreeMap<String, String>,
}

/// Why a push failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// There is no such image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A request to the registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A blob is not in the store, or is incomplete.
    #[error("blob {0} is not in the local store")]
    Missing(Digest),
    /// The image has several references, or none, and no target was given.
    #[error("image {digest} has {count} references, and no target is given")]
    NoTarget {
        /// Digest of the image's manifest.
        digest: Digest,
        /// Number of the image's references.
        count: usize,
    },
    /// The target is a digest that differs from the image's digest.
    #[error("the image has digest {found}, and the target has digest {wanted}")]
    OtherDigest {
        /// Digest in the target.
        wanted: Digest,
        /// Digest of the image.
        found: Digest,
    },
}

impl PushError {
    /// Converts the error into a failure of a push of `name`.
    pub fn failure(&self, name: &str) -> Failure {
        let message = format!("cannot push {name}: {}", sampan_ipc::report::chain(self));
        let (code, hint) = match self {
            PushError::Cancelled(_) => (Code::Cancelled, ""),
            PushError::Image(ImageError::NotFound(_)) => {
                (Code::NotFound, "'sampan images' lists the stored images")
            }
            PushError::Image(ImageError::Ambiguous { .. }) => {
                (Code::Conflict, "give more digits, or a reference")
            }
            PushError::NoTarget { .. } => (Code::Usage, "give the target: sampan push IMAGE HOST/PATH:TAG"),
            PushError::OtherDigest { .. } => (Code::Usage, "give the target a tag instead"),
            PushError::Missing(_) => (Code::Failed, "pull the image again"),
            PushError::Registry(RegistryError::Denied { .. }) => (
                Code::Failed,
                "'sampan login' stores a credential; this user may also have no right to push there",
            ),
            PushError::Registry(RegistryError::Status { status: 405, .. }) => {
                (Code::Failed, "the registry takes no pushes; 'sampan serve' is one that only serves")
            }
            PushError::Registry(
                RegistryError::Transport { source, .. } | RegistryError::Send { source, .. },
            ) => (Code::Failed, source.hint()),
            _ => (Code::Failed, ""),
        };
        error::new(code, message, hint)
    }
}

/// Sends an image of `store` to a registry.
///
/// # Errors
/// [`PushError`]; after a call of `cancel`, the error is always [`PushError::Cancelled`], even if another error came
/// first.
pub fn push(
    store: &Store,
    limits: &Limits,
    request: &PushRequest,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Pushed, PushError> {
    // The pin keeps the image's blobs until the end of the push, even if a user removes the image.
    let (image, _pin) = images::find_and_pin(store, &request.source)?;
    let target = target(&image, request)?;
    let endpoint = endpoint(&request.access, &target)?;
    // If the endpoint renames this repository, the names of other repositories at the endpoint are not known.
    let is_renamed = endpoint.repository != target.path();
    let mounts = if is_renamed { HashMap::new() } else { mounts(store, &image, &target)? };
    let repositories: BTreeSet<&str> = mounts.values().flatten().map(String::as_str).collect();
    let registry = Arc::new(Registry::at(&endpoint, &request.access).for_push(repositories));
    // A `Cancel` for this push alone: the first blob that fails cancels the others.
    let inner = Arc::new(Cancel::default());
    let (to_end, to_shut) = (Arc::clone(&inner), Arc::clone(&registry));
    // Dropping the link at the end of this function releases the registry's connections; the job's `Cancel` lives on in
    // the event loop.
    let _link = cancel.link(move || to_end.cancel());
    inner.on_cancel(move || to_shut.shutdown());
    let work = Work {
        store,
        limits,
        rate: RateLimit::new(request.bytes_per_second),
        progress,
        cancel: &inner,
        registry: &registry,
        image: &image,
        target: &target,
        mounts,
        sent: AtomicBool::new(false),
    };
    match work.run() {
        Err(_) if cancel.is_cancelled() => Err(Cancelled.into()),
        Err(error) => Err(error),
        Ok(unchanged) => Ok(Pushed {
            reference: target,
            digest: image.entry.digest.clone(),
            id: image.manifest.config.digest.clone(),
            size: image.manifest.content_size(),
            unchanged,
            labels: image.config.config.labels,
        }),
    }
}

/// The reference to push to.
fn target(image: &Loaded, request: &PushRequest) -> Result<Reference, PushError> {
    let found = &image.entry.digest;
    let own = || {
        let source = Reference::parse(&request.source).ok();
        let named = source.filter(|source| image.references.contains(&source.to_string()));
        let only = match image.references.as_slice() {
            [only] => Reference::parse(only).ok(),
            _ => None,
        };
        named.or(only)
    };
    let no_target = || PushError::NoTarget { digest: found.clone(), count: image.references.len() };
    let target = request.target.clone().or_else(own).ok_or_else(no_target)?;
    match target.digest() {
        Some(wanted) if wanted != found => {
            Err(PushError::OtherDigest { wanted: wanted.clone(), found: found.clone() })
        }
        _ => Ok(target),
    }
}

/// The endpoint of the registry itself, not of a mirror.
fn endpoint(access: &Access, target: &Reference) -> Result<Endpoint, RegistryError> {
    let endpoints =
        access.registries.endpoints(target).map_err(|e| RegistryError::Registries(Arc::new(e)))?;
    Ok(endpoints.into_iter().find(|e| !e.mirror).unwrap_or_else(|| Endpoint::of(target)))
}

/// The descriptors of the config and the layers, the config first.
fn blobs(image: &Loaded) -> impl Iterator<Item = &Descriptor> {
    std::iter::once(&image.manifest.config).chain(&image.manifest.layers)
}

/// For each blob, other repositories of the target's registry that should have the blob, because the store has images
/// with this blob from there.
fn mounts(
    store: &Store,
    image: &Loaded,
    target: &Reference,
) -> Result<HashMap<Digest, Vec<String>>, ImageError> {
    let wanted: HashSet<&Digest> = blobs(image).map(|blob| &blob.digest).collect();
    let mut mounts: HashMap<Digest, Vec<String>> = HashMap::new();
    for other in images::list(store)? {
        let references = other.references.iter().filter_map(|name| Reference::parse(name).ok());
        let elsewhere = |r: &Reference| r.host() == target.host() && r.path() != target.path();
        let paths: BTreeSet<String> =
            references.filter(elsewhere).map(|reference| reference.path().to_owned()).collect();
        for blob in blobs(&other).filter(|blob| wanted.contains(&blob.digest)) {
            let known = mounts.entry(blob.digest.clone()).or_default();
            for path in &paths {
                if known.len() < MOUNTS_MAX && !known.contains(path) {
                    known.push(path.clone());
                }
            }
        }
    }
    Ok(mounts)
}

struct Work<'a> {
    store: &'a Store,
    limits: &'a Limits,
    rate: RateLimit,
    progress: &'a Progress,
    cancel: &'a Cancel,
    registry: &'a Registry,
    image: &'a Loaded,
    /// Reference of the image in the registry.
    target: &'a Reference,
    mounts: HashMap<Digest, Vec<String>>,
    /// Whether a blob was sent or mounted.
    sent: AtomicBool,
}

/// A blob that is being sent, and its progress row.
struct Outgoing<'a> {
    blob: &'a Descriptor,
    row: Option<usize>,
    path: &'a Path,
    /// The error of reading the stored blob, if this error ended the request.
    broken: Mutex<Option<io::Error>>,
}

impl Work<'_> {
    /// Sends all blobs and the manifest. Returns true if the registry had all of them.
    fn run(&self) -> Result<bool, PushError> {
        let manifest = &self.image.manifest;
        let rows = manifest.layers.iter().map(|layer| (layer.digest.short().to_owned(), layer.size));
        self.progress.begin(rows);
        // Check before sending: if the store lacks a blob, the push sends nothing.
        let missing = blobs(self.image).find(|blob| !self.store.has_blob(&blob.digest, blob.size));
        if let Some(blob) = missing {
            return Err(PushError::Missing(blob.digest.clone()));
        }
        self.blob(&manifest.config, None)?;
        self.layers(&manifest.layers)?;
        self.cancel.check()?;
        self.manifest()
    }

    /// Sends the layers, up to `max-downloads` at a time.
    fn layers(&self, layers: &[Descriptor]) -> Result<(), PushError> {
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<PushError>> = Mutex::default();
        let worker = || {
            while let Some((row, layer)) = pick(layers, &next) {
                if self.cancel.is_cancelled() {
                    return;
                }
                let first = layers.iter().position(|other| other.digest == layer.digest);
                // If two layers of the image have the same blob, only the first layer sends it.
                let sent = if first == Some(row) { self.blob(layer, Some(row)) } else { Ok(()) };
                if let Err(error) = sent {
                    self.progress.fail(row, &sampan_ipc::report::chain(&error));
                    lock(&failed).get_or_insert(error);
                    self.cancel.cancel();
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.limits.bounds.downloads.min(layers.len()) {
                // If another thread cannot be started, the running threads do its work.
                let _ = thread::spawn_scoped(scope, "upload", STACK, worker);
            }
            worker();
        });
        if let Some(error) = lock(&failed).take() {
            return Err(error);
        }
        for (row, layer) in layers.iter().enumerate() {
            if layers.iter().position(|other| other.digest == layer.digest) != Some(row) {
                self.progress.phase(row, Phase::Exists);
            }
        }
        Ok(())
    }

    /// Sends one blob; retries if the connection breaks.
    fn blob(&self, blob: &Descriptor, row: Option<usize>) -> Result<(), PushError> {
        let path = self.store.blob_path(&blob.digest);
        let out = Outgoing { blob, row, path: &path, broken: Mutex::default() };
        let (mut backoff, mut upload) = (Backoff::default(), None);
        let (mut at, mut failed_at) = (0, 0);
        loop {
            self.registry.wait_until_open();
            let slot = self.limits.slot(self.cancel)?;
            let error = match self.attempt(&out, &mut upload, &mut at) {
                Ok(phase) => {
                    row.inspect(|row| self.progress.phase(*row, phase));
                    return Ok(());
                }
                Err(error) => error,
            };
            drop(slot);
            if let Some(source) = lock(&out.broken).take() {
                return Err(file_error("read", &path)(source).into());
            }
            if at.saturating_sub(failed_at) >= PROGRESS_BYTES {
                backoff.reset();
            }
            failed_at = at;
            let on_retry = |note: &str| match row {
                Some(row) => self.progress.retry(row, note),
                None => self.note("config", note),
            };
            backoff.wait(error, self.cancel, &on_retry)?;
        }
    }

    /// Makes one attempt to send a blob: from its beginning, or from the offset at which the last attempt broke off.
    fn attempt(
        &self,
        out: &Outgoing<'_>,
        upload: &mut Option<Upload>,
        at: &mut u64,
    ) -> Result<Phase, RegistryError> {
        let Descriptor { digest, size, .. } = out.blob;
        if let Some(known) = upload {
            // The registry may report any offset; ignore an offset beyond the blob's end.
            match self.registry.upload_offset(known)?.filter(|arrived| arrived <= size) {
                Some(arrived) => *at = arrived,
                None => *upload = None,
            }
        }
        if upload.is_none() {
            *at = 0;
            if self.registry.has_blob(digest)? {
                return Ok(Phase::Exists);
            }
            self.sent.store(true, Ordering::Relaxed);
            match self.begin(digest)? {
                UploadStart::Mounted => return Ok(Phase::Exists),
                UploadStart::Upload(begun) => *upload = Some(begun),
            }
        }
        let Some(known) = upload else { return Ok(Phase::Exists) };
        out.row.inspect(|row| self.progress.phase(*row, Phase::Uploading));
        if *size <= SMALL {
            let begun = known.clone();
            // A small blob is not continued: the next attempt begins a new upload.
            *upload = None;
            let open = || self.open(out, 0);
            self.registry.finish_upload(&begun, digest, Some(&Payload { len: *size, open: &open }))?;
            return Ok(Phase::Complete);
        }
        self.parts(out, known, at)?;
        let begun = known.clone();
        *upload = None;
        self.registry.finish_upload(&begun, digest, None)?;
        Ok(Phase::Complete)
    }

    /// Sends the bytes from the offset `at` on. If the registry accepts only some bytes of a request, sends the rest in
    /// further requests.
    fn parts(&self, out: &Outgoing<'_>, upload: &mut Upload, at: &mut u64) -> Result<(), RegistryError> {
        let Descriptor { digest, size, .. } = out.blob;
        let mut corrected = false;
        while *at < *size {
            let from = *at;
            let open = || self.open(out, from);
            let payload = Payload { len: size - from, open: &open };
            let arrived = match self.registry.upload_part(upload, digest, from, &payload) {
                // 416: the registry has more or fewer bytes than it reported. After the first such answer, ask for the
                // offset; a second such answer fails the attempt.
                Err(RegistryError::Status { status: 416, .. }) if !corrected => {
                    corrected = true;
                    *at = self.registry.upload_offset(upload)?.filter(|at| at < size).unwrap_or(0);
                    continue;
                }
                other => other?,
            };
            if arrived <= from || arrived > *size {
                let wrong = format!("has {arrived} bytes of blob {digest} after byte {size} was sent");
                return Err(self.registry.bad_answer(wrong));
            }
            *at = arrived;
        }
        Ok(())
    }

    /// Reports a retry of a document, which has no progress row of its own.
    fn note(&self, what: &str, note: &str) {
        let text = format!("{what} of {}: {note}", self.target);
        log::info!("{text}");
        self.progress.note(&text);
    }

    /// Begins an upload, or mounts the blob from a repository that should have the blob.
    fn begin(&self, digest: &Digest) -> Result<UploadStart, RegistryError> {
        for from in self.mounts.get(digest).into_iter().flatten() {
            match self.registry.begin_upload(digest, Some(from)) {
                // The repository is not readable, or no longer has the blob: do not mount from there.
                Err(RegistryError::Denied { .. } | RegistryError::NotFound { .. }) => {}
                Err(RegistryError::Status { status: 400..=499, .. }) => {}
                other => return other,
            }
        }
        self.registry.begin_upload(digest, None)
    }

    /// Opens the blob at the offset `at` as a reader that reports progress and obeys the rate limit.
    fn open<'a>(&'a self, out: &'a Outgoing<'a>, at: u64) -> io::Result<Box<dyn Read + 'a>> {
        let opened = File::open(out.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(at))?;
            Ok(file)
        });
        let file = opened.map_err(|error| out.record_failure(error))?;
        out.row.inspect(|row| self.progress.set(*row, at));
        Ok(Box::new(Sending { work: self, out, file, left: out.blob.size.saturating_sub(at) }))
    }

    /// Sends the manifest under the target's name. Returns true, and sends nothing, if the name already stands for this
    /// manifest.
    fn manifest(&self) -> Result<bool, PushError> {
        let entry = &self.image.entry;
        let bytes = self.store.read_blob(&entry.digest, oci::MANIFEST_MAX)?;
        let name = match self.target.tag() {
            Some(tag) => tag.to_owned(),
            None => entry.digest.to_string(),
        };
        let on_retry = |note: &str| self.note("manifest", note);
        if !self.sent.load(Ordering::Relaxed) {
            let there = retry::persist(self.cancel, &on_retry, || self.registry.manifest_digest(&name))?;
            if there.as_ref() == Some(&entry.digest) {
                return Ok(true);
            }
        }
        retry::persist(self.cancel, &on_retry, || {
            self.registry.put_manifest(&name, &entry.digest, &entry.media_type, &bytes).map(drop)
        })?;
        Ok(false)
    }
}

fn pick<'a>(layers: &'a [Descriptor], next: &AtomicUsize) -> Option<(usize, &'a Descriptor)> {
    let row = next.fetch_add(1, Ordering::Relaxed);
    layers.get(row).map(|layer| (row, layer))
}

impl Outgoing<'_> {
    /// Records the error of reading the blob, and returns an error that ends the request.
    fn record_failure(&self, error: io::Error) -> io::Error {
        let kind = error.kind();
        lock(&self.broken).get_or_insert(error);
        kind.into()
    }
}

/// A reader of a blob's file for the body of a request.
struct Sending<'a> {
    work: &'a Work<'a>,
    out: &'a Outgoing<'a>,
    file: File,
    left: u64,
}

impl Read for Sending<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rates = [&self.work.rate, &self.work.limits.rate];
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = rates.iter().map(|rate| rate.part()).fold(into.len().min(left), usize::min);
        let into = into.get_mut(..most).unwrap_or_default();
        if into.is_empty() {
            return Ok(0);
        }
        let len = match self.file.read(into) {
            // The file became shorter during the upload. Record this as an error of the file, because the upload must
            // not be retried.
            Ok(0) => Err(self.out.record_failure(io::ErrorKind::UnexpectedEof.into())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => Err(self.out.record_failure(error)),
            Ok(len) => Ok(len),
        }?;
        self.left -= len as u64;
        for rate in rates {
            rate.take(len, self.work.cancel).map_err(io::Error::other)?;
        }
        self.out.row.inspect(|row| self.work.progress.add(*row, len as u64));
        Ok(len)
    }
}
