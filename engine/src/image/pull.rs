//! A pull: resolve → platform → manifest → config and layers in parallel → commit.
//!
//! If the disk has room for the whole image, a pull fetches the layers while the config is still being fetched. The
//! config says what the layers must unpack to, so no layer gets its final name before the config arrives. Fetching the
//! config needs no download slot, claim or processor, because the layers may hold all of them. Runs on a job's thread,
//! with one more thread for the config and up to `max-downloads` for the layers. Reports to a [`Progress`]; the caller
//! announces the outcome. After a failure the store keeps only blobs and layers that are verified; the next pull finds
//! them.

pub mod cpu_affinity;
pub mod decompress_ahead;
pub mod layer;
pub mod pipeline;
pub mod read_ahead;
#[cfg(test)]
mod test_stream;

use self::layer::{Fetch, Ids, Layer};
use self::pipeline::LayerError;
use crate::image::disk_space::{Claim, DiskSpace, DiskSpaceError};
use crate::image::policy::{Policies, PolicyError};
use sampan_ipc::pull::{PullOutcome, PulledImage};
use sampan_job::cancel::{Cancel, Cancelled};
use sampan_job::limits::Limits;
use sampan_job::once_value::OnceValue;
use sampan_job::progress::Progress;
use sampan_job::rate_limit::RateLimit;
use sampan_oci as oci;
use sampan_oci::digest::{Digest, Hasher};
use sampan_oci::platform::Platform;
use sampan_oci::reference::Reference;
use sampan_oci::{Config, Descriptor, Document, Manifest, OciError, PlatformField};
use sampan_os::mutex::lock;
use sampan_os::thread;
use sampan_registry::mirrors::Mirrors;
use sampan_registry::{Access, RawManifest, RegistryError, retry};
use sampan_store::images::{self, NewImage};
use sampan_store::{Generation, Pin, Store, StoreError};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Most levels of indexes that list other indexes.
const NESTING_MAX: usize = 3;
/// Size of the stack of a layer's thread, in bytes: enough for TLS and decompression, which do not recurse.
const STACK: usize = 1 << 20;

/// A request to pull one image.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// The image.
    pub reference: Reference,
    /// The wanted platform. `None` means the platform of this host, and accepts an image of any platform if no index
    /// lists it.
    pub platform: Option<Platform>,
    /// How registries are reached.
    pub access: Access,
    /// Whether to unpack the layers.
    pub unpack: bool,
    /// Rate limit in bytes per second; 0 means no limit.
    pub bytes_per_second: u64,
    /// The rules that say which images need a signature, and by which key.
    pub policies: Arc<Policies>,
    /// Claims on free disk space.
    pub room: DiskSpace,
}

/// A pulled image.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// Digest of the image's manifest, which is for one platform.
    pub digest: Digest,
    /// Whether the store had the complete image under this name before the pull.
    pub unchanged: bool,
    /// The image's labels.
    pub labels: BTreeMap<String, String>,
    /// Digest of the image's config.
    pub id: Digest,
    /// Size of the image's config and layers, in bytes.
    pub size: u64,
}

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// A request to the registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A document is no image that this host can run.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// A layer is refused.
    #[error(transparent)]
    Layer(LayerError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The platform of the image differs from the requested platform.
    #[error("the image is for {found}, not for {wanted}")]
    Platform {
        /// Platform of the image.
        found: String,
        /// The requested platform.
        wanted: String,
    },
    /// Too many nested indexes.
    #[error("the image's index is nested more than {NESTING_MAX} deep")]
    Nested,
    /// The policy refuses the image.
    #[error(transparent)]
    Policy(PolicyError),
    /// The disk has too little space.
    #[error(transparent)]
    DiskSpace(#[from] DiskSpaceError),
    /// The config has another digest than the manifest says.
    #[error("the image's config has digest {found}, expected {expected}")]
    ConfigDigest {
        /// Digest in the manifest.
        expected: Digest,
        /// Digest of the received bytes.
        found: Digest,
    },
    /// A document has another size than its descriptor says.
    #[error("{what} {digest} has {found} bytes, expected {expected}")]
    Size {
        /// Kind of the document.
        what: &'static str,
        /// Digest of the document.
        digest: Digest,
        /// Size in the descriptor, in bytes.
        expected: u64,
        /// Bytes received.
        found: u64,
    },
}

impl From<PolicyError> for PullError {
    fn from(error: PolicyError) -> Self {
        match error {
            PolicyError::Cancelled(cancelled) => PullError::Cancelled(cancelled),
            other => PullError::Policy(other),
        }
    }
}

impl From<LayerError> for PullError {
    fn from(error: LayerError) -> Self {
        match error {
            LayerError::Cancelled(cancelled) => PullError::Cancelled(cancelled),
            LayerError::Registry(error) => PullError::Registry(error),
            LayerError::Store(error) => PullError::Store(error),
            other => PullError::Layer(other),
        }
    }
}

/// Pulls an image into `store`.
///
/// # Errors
/// [`PullError`]; after a call of `cancel`, the error is always [`PullError::Cancelled`], even if another error came
/// first.
pub fn pull(
    store: &Store,
    limits: &Limits,
    request: &PullRequest,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Pulled, PullError> {
    // A `Cancel` for this pull alone: the first layer that fails cancels the others.
    let inner = Arc::new(Cancel::default());
    let to_end = Arc::clone(&inner);
    let _outer = cancel.link(move || to_end.cancel());
    let (registry, _link) = Mirrors::linked(&request.reference, &request.access, &inner);
    let since = store.generation();
    let work = Work { store, limits, request, progress, cancel: &inner, registry: &registry, since };
    let result = work.run();
    if cancel.is_cancelled() && result.is_err() {
        return Err(Cancelled.into());
    }
    result
}

struct Work<'a> {
    store: &'a Store,
    limits: &'a Limits,
    request: &'a PullRequest,
    progress: &'a Progress,
    cancel: &'a Cancel,
    registry: &'a Mirrors,
    /// The store's generation when the pull began; see [`NewImage::since`].
    since: Generation,
}

/// An image's manifest, as bytes and parsed, and the digest of the index that lists this manifest.
struct Resolved {
    raw: RawManifest,
    manifest: Manifest,
    index: Option<Digest>,
}

/// An image's config, and the guards that its layers need until the commit.
struct ImageConfig {
    config: Config,
    /// The config's bytes; `None` if the store has them.
    bytes: Option<Vec<u8>>,
    chain_ids: Vec<Digest>,
    _pin: Pin,
    _claim: Claim,
}

/// The [`ImageConfig`] of an image; set when the config has arrived.
type ConfigValue = OnceValue<Arc<ImageConfig>>;

impl layer::Config for ConfigValue {
    fn now(&self, nth: usize) -> Option<Ids> {
        self.get().and_then(|known| known.ids(nth))
    }

    fn wait(&self, nth: usize) -> Result<Ids, Cancelled> {
        self.wait().and_then(|known| known.ids(nth)).ok_or(Cancelled)
    }
}

impl ImageConfig {
    fn ids(&self, nth: usize) -> Option<Ids> {
        let diff_id = self.config.rootfs.diff_ids.get(nth)?.clone();
        Some(Ids { diff_id, chain_id: self.chain_ids.get(nth)?.clone() })
    }
}

impl Work<'_> {
    fn run(&self) -> Result<Pulled, PullError> {
        let resolved = self.resolve()?;
        self.check_policy(&resolved)?;
        let manifest = &resolved.manifest;
        let rows = manifest.layers.iter().map(|layer| (layer.digest.short().to_owned(), layer.size));
        let image = PulledImage {
            reference: self.request.reference.to_string(),
            digest: resolved.index.as_ref().unwrap_or(&resolved.raw.digest).to_string(),
            stored: manifest.layers.iter().map(|l| self.store.has_blob(&l.digest, l.size)).collect(),
            ..PulledImage::default()
        };
        let (image, first_row) = self.progress.begin_image(image, rows);
        let mut needed: Vec<Digest> = manifest.layers.iter().map(|l| l.digest.clone()).collect();
        needed.extend([manifest.config.digest.clone(), resolved.raw.digest.clone()]);
        let _blobs = self.store.pin(needed);
        let known = self.layers(&resolved, first_row)?;
        self.cancel.check()?;
        let pulled = self.commit(resolved, &known)?;
        let outcome = if pulled.unchanged { PullOutcome::Unchanged } else { PullOutcome::New };
        self.progress.end_image(image, outcome);
        Ok(pulled)
    }

    /// Follows the reference to one manifest; verifies each digest on the way.
    fn resolve(&self) -> Result<Resolved, PullError> {
        let host = Platform::host();
        let wanted = self.request.platform.as_ref().unwrap_or(&host);
        let mut raw = self.manifest(&self.request.reference.target())?;
        let mut index = None;
        for _ in 0..=NESTING_MAX {
            self.cancel.check()?;
            match oci::parse_document(&raw.bytes, raw.content_type.as_deref())? {
                Document::Manifest(manifest) => return Ok(Resolved { raw, manifest, index }),
                Document::Index(list) => {
                    let chosen = oci::choose(&list, wanted)?;
                    index = index.or(Some(raw.digest.clone()));
                    raw = self.manifest(&chosen.digest.to_string())?;
                    check_size("manifest", chosen, &raw.bytes)?;
                }
            }
        }
        Err(PullError::Nested)
    }

    fn check_policy(&self, resolved: &Resolved) -> Result<(), PolicyError> {
        let digests: Vec<&Digest> = resolved.index.iter().chain([&resolved.raw.digest]).collect();
        self.request.policies.check(self.registry, &self.request.reference, &digests, self.cancel)
    }

    fn manifest(&self, target: &str) -> Result<RawManifest, RegistryError> {
        let got = retry::persist(self.cancel, &self.on_retry("manifest"), || self.registry.manifest(target));
        // Tell the client which mirrors were tried without success: waiting for a mirror may have taken long.
        self.registry.take_skipped().iter().for_each(|why| self.progress.note(why));
        got
    }

    /// Makes a function that reports a retry of a document, which has no progress row of its own.
    fn on_retry(&self, what: &'static str) -> impl Fn(&str) {
        move |note| {
            log::info!("{what} of {}: {note}", self.request.reference);
            self.progress.note(&format!("{what} of {}: {note}", self.request.reference));
        }
    }

    /// Reads the config from the store, or fetches it. Also returns the bytes of a fetched config, which the commit
    /// stores.
    fn config(&self, manifest: &Manifest) -> Result<(Config, Option<Vec<u8>>), PullError> {
        let Descriptor { digest, size, .. } = &manifest.config;
        if self.store.has_blob(digest, *size)
            && let Ok(bytes) = self.store.read_blob(digest, oci::CONFIG_MAX)
        {
            return Ok((oci::parse_config(&bytes, manifest)?, None));
        }
        let max = (*size).min(oci::CONFIG_MAX);
        let on_retry = self.on_retry("config");
        let bytes = retry::persist(self.cancel, &on_retry, || self.registry.small_blob(digest, max))?;
        check_size("config", &manifest.config, &bytes)?;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        let found = hasher.finish();
        if found != *digest {
            return Err(PullError::ConfigDigest { expected: digest.clone(), found });
        }
        Ok((oci::parse_config(&bytes, manifest)?, Some(bytes)))
    }

    fn check_platform(&self, config: &Config, chosen: bool) -> Result<(), PullError> {
        let found = config.platform();
        match &self.request.platform {
            Some(wanted) if !chosen && wanted.rank(&found).is_none() => {
                Err(PullError::Platform { found: found.to_string(), wanted: wanted.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Fetches and checks everything that must be known before a layer is named: the platform and the disk space.
    fn learn(&self, resolved: &Resolved, ahead: Option<&Claim>) -> Result<ImageConfig, PullError> {
        let (config, bytes) = self.config(&resolved.manifest)?;
        self.check_platform(&config, resolved.index.is_some())?;
        let chain_ids = config.chain_ids();
        let pin = self.store.pin(chain_ids.iter().cloned());
        let PullRequest { room, unpack, .. } = self.request;
        let claim = room.claim(self.store, &resolved.manifest, &chain_ids, *unpack, ahead)?;
        Ok(ImageConfig { config, bytes, chain_ids, _pin: pin, _claim: claim })
    }

    /// Claims disk space for the whole image, if its layers may be fetched before its config. Returns `None` if the
    /// store has the config or all layers, if the disk has too little space, or if the pull may still refuse the image
    /// because of its config.
    fn claim_ahead(&self, resolved: &Resolved) -> Option<Claim> {
        let (manifest, PullRequest { room, unpack, platform, .. }) = (&resolved.manifest, self.request);
        let is_missing = |blob: &Descriptor| !self.store.has_blob(&blob.digest, blob.size);
        let is_apart = is_missing(&manifest.config)
            && manifest.layers.iter().any(is_missing)
            && (platform.is_none() || resolved.index.is_some());
        if is_apart { room.claim_ahead(self.store, manifest, *unpack) } else { None }
    }

    /// Fetches and unpacks missing layers, up to `max-downloads` at a time.
    fn layers(&self, resolved: &Resolved, first_row: usize) -> Result<Arc<ImageConfig>, PullError> {
        let manifest = &resolved.manifest;
        let (known, failed) = (ConfigValue::default(), Mutex::<Option<PullError>>::default());
        let fail = |error: PullError| {
            lock(&failed).get_or_insert(error);
            self.cancel.cancel();
        };
        let ahead = self.claim_ahead(resolved);
        let learn = || known.set(self.learn(resolved, ahead.as_ref()).map(Arc::new).map_err(fail).ok());
        let layers: Vec<Layer<'_>> = manifest
            .layers
            .iter()
            .enumerate()
            .map(|(nth, blob)| Layer { row: first_row + nth, nth, blob })
            .collect();
        let rate = RateLimit::new(self.request.bytes_per_second);
        let fetch = Fetch {
            store: self.store,
            limits: self.limits,
            registry: self.registry,
            rate: &rate,
            progress: self.progress,
            cancel: self.cancel,
            unpack: self.request.unpack,
            config: &known,
        };
        self.in_parallel(&fetch, &layers, ahead.is_some(), &learn, &|error| fail(error.into()));
        if let Some(error) = lock(&failed).take() {
            return Err(error);
        }
        let known = known.wait().ok_or(Cancelled)?;
        if self.request.unpack {
            self.store.complete_layers(&known.chain_ids, self.cancel)?;
        }
        Ok(known)
    }

    /// Fetches `layers` on this thread and others, until one layer fails. Calls `learn` on a separate thread if
    /// `is_apart`, else before fetching any layer.
    fn in_parallel(
        &self,
        fetch: &Fetch<'_>,
        layers: &[Layer<'_>],
        is_apart: bool,
        learn: &(dyn Fn() + Sync),
        fail: &(dyn Fn(LayerError) + Sync),
    ) {
        let next = AtomicUsize::new(0);
        let worker = || {
            while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.cancel.is_cancelled() {
                    return;
                }
                if let Err(error) = fetch.layer(layer) {
                    self.progress.fail(layer.row, &sampan_ipc::report::chain(&error));
                    return fail(error);
                }
            }
        };
        std::thread::scope(|scope| {
            if !is_apart || thread::spawn_scoped(scope, "config", STACK, learn).is_err() {
                learn();
            }
            for _ in 1..self.limits.bounds.downloads.min(layers.len()) {
                // If another thread cannot be started, the running threads do its work.
                let _ = thread::spawn_scoped(scope, "layer", STACK, worker);
            }
            worker();
        });
    }

    fn commit(&self, resolved: Resolved, known: &ImageConfig) -> Result<Pulled, PullError> {
        let Resolved { raw, manifest, index } = resolved;
        let ImageConfig { config, bytes, .. } = known;
        if let Some(bytes) = bytes {
            self.store.write_blob(&manifest.config.digest, bytes)?;
        }
        self.store.write_blob(&raw.digest, &raw.bytes)?;
        let media_type = match (manifest.media_type.as_str(), manifest.config.media_type.as_str()) {
            ("", oci::DOCKER_CONFIG) => oci::DOCKER_MANIFEST,
            ("", _) => oci::MANIFEST,
            (declared, _) => declared,
        };
        let descriptor = Descriptor {
            media_type: media_type.to_owned(),
            digest: raw.digest.clone(),
            size: raw.bytes.len() as u64,
            platform: None,
            annotations: BTreeMap::new(),
        };
        let platform = PlatformField::from(&config.platform());
        let new = NewImage {
            reference: &self.request.reference,
            manifest: descriptor,
            platform,
            index,
            since: self.since,
        };
        let unchanged = images::commit(self.store, new)?;
        self.request.room.keep(self.store);
        let size = manifest.content_size();
        Ok(Pulled {
            digest: raw.digest,
            unchanged,
            labels: config.config.labels.clone(),
            id: manifest.config.digest,
            size,
        })
    }
}

/// Checks that a document has the size in its descriptor. If a document of another size were stored, the verify job
/// would report it as damaged.
fn check_size(what: &'static str, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), PullError> {
    let (expected, found) = (descriptor.size, bytes.len() as u64);
    match expected == found {
        true => Ok(()),
        false => Err(PullError::Size { what, digest: descriptor.digest.clone(), expected, found }),
    }
}
