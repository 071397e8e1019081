//! A push: config, layers in parallel, manifest last, each as it is in the store, so that digests stay.
//!
//! Runs on a job's thread, with as many more as there may be transfers. What the registry has is not sent
//! again; what another repository there has is mounted; a broken upload goes on where the registry says it
//! stopped. Reports to a [`Progress`]; the caller announces the outcome. Never changes the store.

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

/// Blobs up to so many bytes are sent in one request; larger ones so that they can go on where they broke.
const SMALL: u64 = 1 << 20;
/// Most repositories that a blob is looked for in, to be mounted.
const MOUNTS_MAX: usize = 2;
/// Stack of a transfer's thread: TLS, no recursion.
const STACK: usize = 1 << 20;

/// What to push.
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// Reference, digest or unique id prefix of the image.
    pub source: String,
    /// Where it goes; its own reference if absent.
    pub target: Option<Reference>,
    /// How the registry may be reached.
    pub access: Access,
    /// At most so many bytes per second; 0 is no limit.
    pub bytes_per_second: u64,
}

/// What was pushed.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// Where it is now.
    pub reference: Reference,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Digest of its config.
    pub id: Digest,
    /// Bytes of its config and layers.
    pub size: u64,
    /// True if the registry had all of it under this name already.
    pub unchanged: bool,
    /// The image's labels.
    pub labels: BTreeMap<String, String>,
}

/// Why a push failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// It was ended.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// There is no such image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The registry did not take something.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A blob is not in the store, or not whole.
    #[error("blob {0} is not in the local store")]
    Missing(Digest),
    /// The image has several references, or none, and no target was given.
    #[error("image {digest} has {count} references, and no target is given")]
    NoTarget {
        /// Its manifest's digest.
        digest: Digest,
        /// How many.
        count: usize,
    },
    /// The target is the digest of something else.
    #[error("the image has digest {found}, and the target's is {wanted}")]
    OtherDigest {
        /// The target's.
        wanted: Digest,
        /// The image's.
        found: Digest,
    },
}

impl PushError {
    /// As people get it, for a push of `name`.
    pub fn failure(&self, name: &str) -> Failure {
        let message = format!("cannot push {name}: {}", sampan_ipc::report::chain(self));
        let (code, hint) = match self {
            PushError::Cancelled(_) => (Code::Cancelled, ""),
            PushError::Image(ImageError::NotFound(_)) => {
                (Code::NotFound, "'sampan images' lists those that are")
            }
            PushError::Image(ImageError::Ambiguous { .. }) => {
                (Code::Conflict, "give more digits, or a reference")
            }
            PushError::NoTarget { .. } => (Code::Usage, "name the target: sampan push IMAGE HOST/PATH:TAG"),
            PushError::OtherDigest { .. } => (Code::Usage, "give the target a tag instead"),
            PushError::Missing(_) => (Code::Failed, "pull the image again"),
            PushError::Registry(RegistryError::Denied { .. }) => {
                (Code::Failed, "'sampan login' says who you are; it may also be that you may not push there")
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
/// [`PushError`]; [`PushError::Cancelled`] whatever broke, once `cancel` was called.
pub fn push(
    store: &Store,
    limits: &Limits,
    request: &PushRequest,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Pushed, PushError> {
    // Or an image that is removed meanwhile takes its blobs along.
    let (image, _pin) = images::find_and_pin(store, &request.source)?;
    let target = target(&image, request)?;
    let endpoint = endpoint(&request.access, &target)?;
    // By what names other repositories go where this one has another is not known.
    let is_renamed = endpoint.repository != target.path();
    let mounts = if is_renamed { HashMap::new() } else { mounts(store, &image, &target)? };
    let repositories: BTreeSet<&str> = mounts.values().flatten().map(String::as_str).collect();
    let registry = Arc::new(Registry::at(&endpoint, &request.access).for_push(repositories));
    // One that ends this push alone: the first blob that fails ends the others.
    let inner = Arc::new(Cancel::default());
    let (to_end, to_shut) = (Arc::clone(&inner), Arc::clone(&registry));
    // Taken back at the end: the job is remembered, and would keep the registry's connections open.
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
        mounts,
        sent: AtomicBool::new(false),
    };
    match work.run(&target) {
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

/// Where the image goes.
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

/// Where the registry itself is, which is none of its mirrors.
fn endpoint(access: &Access, target: &Reference) -> Result<Endpoint, RegistryError> {
    let endpoints =
        access.registries.endpoints(target).map_err(|e| RegistryError::Registries(Arc::new(e)))?;
    Ok(endpoints.into_iter().find(|e| !e.mirror).unwrap_or_else(|| Endpoint::of(target)))
}

/// Config and layers, the config first.
fn blobs(image: &Loaded) -> impl Iterator<Item = &Descriptor> {
    std::iter::once(&image.manifest.config).chain(&image.manifest.layers)
}

/// Other repositories of the target's registry that should have blobs of the image, by the store's references.
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
    mounts: HashMap<Digest, Vec<String>>,
    /// Something had to be sent or mounted.
    sent: AtomicBool,
}

/// A blob on its way, and the row that shows it.
struct Outgoing<'a> {
    blob: &'a Descriptor,
    row: Option<usize>,
    path: &'a Path,
    /// Why the store's file cannot be read, if that is what broke a request.
    broken: Mutex<Option<io::Error>>,
}

impl Work<'_> {
    /// True if there was nothing to do.
    fn run(&self, target: &Reference) -> Result<bool, PushError> {
        let manifest = &self.image.manifest;
        let rows = manifest.layers.iter().map(|layer| (layer.digest.short().to_owned(), layer.size));
        self.progress.begin(rows);
        // Before anything is sent: a push that cannot end well is not begun.
        let missing = blobs(self.image).find(|blob| !self.store.has_blob(&blob.digest, blob.size));
        if let Some(blob) = missing {
            return Err(PushError::Missing(blob.digest.clone()));
        }
        self.blob(&manifest.config, None)?;
        self.layers(&manifest.layers)?;
        self.cancel.check()?;
        self.manifest(target)
    }

    /// Sends the layers, as many at a time as there may be transfers.
    fn layers(&self, layers: &[Descriptor]) -> Result<(), PushError> {
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<PushError>> = Mutex::default();
        let worker = || {
            while let Some((row, layer)) = pick(layers, &next) {
                if self.cancel.is_cancelled() {
                    return;
                }
                let first = layers.iter().position(|other| other.digest == layer.digest);
                // The same blob twice is sent once.
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
                // Without one more thread it goes on with those that there are.
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

    /// Sends one blob, however often the connection breaks.
    fn blob(&self, blob: &Descriptor, row: Option<usize>) -> Result<(), PushError> {
        let path = self.store.blob_path(&blob.digest);
        let out = Outgoing { blob, row, path: &path, broken: Mutex::default() };
        let (mut backoff, mut upload) = (Backoff::default(), None);
        let (mut at, mut failed_at) = (0, 0);
        loop {
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
            let tell = |note: &str| match row {
                Some(row) => self.progress.retry(row, note),
                None => self.note("config", note),
            };
            backoff.wait(error, self.cancel, &tell)?;
        }
    }

    /// One try: the whole way, or from where the last one broke.
    fn attempt(
        &self,
        out: &Outgoing<'_>,
        upload: &mut Option<Upload>,
        at: &mut u64,
    ) -> Result<Phase, RegistryError> {
        let Descriptor { digest, size, .. } = out.blob;
        if let Some(known) = upload {
            // Offsets come from the registry, which may say anything.
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
            // All or nothing: what is left of it is not gone on with.
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

    /// Sends from `at` on, in one request unless the registry takes less at a time.
    fn parts(&self, out: &Outgoing<'_>, upload: &mut Upload, at: &mut u64) -> Result<(), RegistryError> {
        let Descriptor { digest, size, .. } = out.blob;
        let mut corrected = false;
        while *at < *size {
            let from = *at;
            let open = || self.open(out, from);
            let payload = Payload { len: size - from, open: &open };
            let arrived = match self.registry.upload_part(upload, digest, from, &payload) {
                // The registry has another part of it than it said; asked again, it must not say the same.
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

    /// Tells why a document is sent again, which has no row of its own.
    fn note(&self, what: &str, note: &str) {
        log::info!("{what}: {note}");
        self.progress.note(&format!("{what}: {note}"));
    }

    /// Begins an upload, or mounts the blob from where the registry should have it.
    fn begin(&self, digest: &Digest) -> Result<UploadStart, RegistryError> {
        for from in self.mounts.get(digest).into_iter().flatten() {
            match self.registry.begin_upload(digest, Some(from)) {
                // We may not read there, or it is gone: it is sent like any other.
                Err(RegistryError::Denied { .. } | RegistryError::NotFound { .. }) => {}
                Err(RegistryError::Status { status: 400..=499, .. }) => {}
                other => return other,
            }
        }
        self.registry.begin_upload(digest, None)
    }

    /// The blob's bytes from `at` on, counted and no faster than they may go.
    fn open<'a>(&'a self, out: &'a Outgoing<'a>, at: u64) -> io::Result<Box<dyn Read + 'a>> {
        let opened = File::open(out.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(at))?;
            Ok(file)
        });
        let file = opened.map_err(|error| out.keep(error))?;
        out.row.inspect(|row| self.progress.set(*row, at));
        Ok(Box::new(Sending { work: self, out, file, left: out.blob.size.saturating_sub(at) }))
    }

    /// Names it, unless the name stands for it already and nothing else was missing.
    fn manifest(&self, target: &Reference) -> Result<bool, PushError> {
        let entry = &self.image.entry;
        let bytes = self.store.read_blob(&entry.digest, oci::MANIFEST_MAX)?;
        let name = match target.tag() {
            Some(tag) => tag.to_owned(),
            None => entry.digest.to_string(),
        };
        let tell = |note: &str| self.note("manifest", note);
        if !self.sent.load(Ordering::Relaxed) {
            let there = retry::persist(self.cancel, &tell, || self.registry.manifest_digest(&name))?;
            if there.as_ref() == Some(&entry.digest) {
                return Ok(true);
            }
        }
        retry::persist(self.cancel, &tell, || {
            self.registry.put_manifest(&name, &entry.digest, &entry.media_type, &bytes)
        })?;
        Ok(false)
    }
}

fn pick<'a>(layers: &'a [Descriptor], next: &AtomicUsize) -> Option<(usize, &'a Descriptor)> {
    let row = next.fetch_add(1, Ordering::Relaxed);
    layers.get(row).map(|layer| (row, layer))
}

impl Outgoing<'_> {
    /// Keeps the cause, and gives what breaks off the request.
    fn keep(&self, error: io::Error) -> io::Error {
        let kind = error.kind();
        lock(&self.broken).get_or_insert(error);
        kind.into()
    }
}

/// A blob's file on its way into a socket.
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
            // Of a file that has become shorter there would be nothing to send, again and again.
            Ok(0) => Err(self.out.keep(io::ErrorKind::UnexpectedEof.into())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => Err(self.out.keep(error)),
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
