//! One image's repository at all of its registries: the mirrors in order, then the registry itself.
//!
//! Used by pulls and downloads. If a registry fails, for whatever reason, it is skipped and the failure is logged.
//! Blobs are fetched from the registry that has served the manifest; a blob that this registry cannot serve is fetched
//! from the next one. Bytes of several registries may be mixed, because the caller compares everything with a digest.
//! This module knows no store and never waits: [`crate::retry`] decides which requests are tried again, and when.

use crate::access::{Access, BlobBody, RawManifest};
use crate::config::RegistriesError;
use crate::error::RegistryError;
use crate::registry::Registry;
use crate::retry;
use sampan_job::cancel::{Cancel, Link};
use sampan_oci::digest::{Digest, Hasher};
use sampan_oci::reference::Reference;
use sampan_os::mutex::lock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Most consecutive temporary failures of one blob at one registry before the next registry is tried.
const FAILURES_MAX: u32 = 2;

/// Most messages about skipped registries that [`Mirrors::take_skipped`] returns. The log contains all of them.
const SKIPPED_MAX: usize = 16;

/// All registries that may have one image.
pub struct Mirrors {
    /// The mirrors, then the image's own registry.
    registries: Vec<Registry>,
    /// Why `registries` is empty, if it is.
    config_error: Option<Arc<RegistriesError>>,
    /// The tag or digest of the image's reference.
    requested: String,
    state: Mutex<MirrorState>,
    is_shut_down: AtomicBool,
}

#[derive(Default)]
struct MirrorState {
    /// Index of the registry that served the last manifest.
    current: usize,
    /// The blobs that were requested so far.
    blobs: HashMap<Digest, BlobSearch>,
    /// Messages about skipped registries, for [`Mirrors::take_skipped`].
    skipped: Vec<String>,
}

/// The progress of the search for a blob.
#[derive(Clone, Default)]
struct BlobSearch {
    /// Number of registries that were given up for this blob, counted from [`MirrorState::current`].
    advanced: usize,
    failures: u32,
    /// Index of the registry that sent the last ETag.
    etag_from: Option<usize>,
}

impl Mirrors {
    /// Makes the list of registries for `reference`, from [`Access::registries`].
    ///
    /// Connects to nothing yet. If registries.conf forbids the reference, each request fails with that error.
    pub fn new(reference: &Reference, access: &Access) -> Self {
        let (registries, config_error) = match access.registries.endpoints(reference) {
            Ok(endpoints) => (endpoints.iter().map(|e| Registry::at(e, access)).collect(), None),
            Err(error) => (Vec::new(), Some(Arc::new(error))),
        };
        let (requested, state) = (reference.target(), Mutex::default());
        Mirrors { registries, config_error, requested, state, is_shut_down: AtomicBool::new(false) }
    }

    /// Like [`Mirrors::new`]. In addition, a call of `cancel` calls [`Mirrors::shutdown`] while the returned link
    /// lives.
    pub fn linked<'a>(
        reference: &Reference,
        access: &Access,
        cancel: &'a Cancel,
    ) -> (Arc<Mirrors>, Link<'a>) {
        let mirrors = Arc::new(Mirrors::new(reference, access));
        let to_shut = Arc::clone(&mirrors);
        let link = cancel.link(move || to_shut.shutdown());
        (mirrors, link)
    }

    /// Aborts all requests that are running; every later request fails at once.
    pub fn shutdown(&self) {
        self.is_shut_down.store(true, Ordering::SeqCst);
        self.registries.iter().for_each(Registry::shutdown);
    }

    /// Fetches the manifest or index `target` from the first registry that has it.
    ///
    /// # Errors
    /// [`RegistryError::AllFailed`] if several registries were tried; otherwise the error of the only registry.
    pub fn manifest(&self, target: &str) -> Result<RawManifest, RegistryError> {
        let begin = lock(&self.state).current;
        let mut errors = Vec::new();
        for (at, registry) in self.registries.iter().enumerate().skip(begin) {
            let rewritten = registry.target().filter(|_| target == self.requested).unwrap_or(target);
            match registry.manifest(rewritten) {
                Ok(manifest) => {
                    lock(&self.state).current = at;
                    log::debug!("manifest {target} comes from {}", registry.host());
                    return Ok(manifest);
                }
                Err(error) => self.record_failure(&mut errors, at, error)?,
            }
        }
        Err(self.combine(errors))
    }

    /// Removes and returns the messages about registries that were skipped since the last call, one for each registry.
    pub fn take_skipped(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.state).skipped)
    }

    /// Fetches another manifest of the repository, for example a signature, from the first registry that has `tag`;
    /// `None` if no registry has it. Blobs still come from the registry that served the image's manifest.
    ///
    /// # Errors
    /// [`RegistryError`] if no registry had `tag`, and a registry failed for another reason.
    pub fn find_manifest(&self, tag: &str) -> Result<Option<RawManifest>, RegistryError> {
        let mut errors = Vec::new();
        for (at, registry) in self.registries.iter().enumerate() {
            match registry.manifest(tag) {
                Ok(manifest) => return Ok(Some(manifest)),
                // Mirrors often have no signatures, so this is not worth a warning.
                Err(error @ RegistryError::NotFound { .. }) => errors.push(error),
                Err(error) => self.record_failure(&mut errors, at, error)?,
            }
        }
        match !errors.is_empty() && errors.iter().all(|e| matches!(e, RegistryError::NotFound { .. })) {
            true => Ok(None),
            false => Err(self.combine(errors)),
        }
    }

    /// Lists the tags of the repository, at the first registry that answers.
    ///
    /// # Errors
    /// [`RegistryError`] if no registry lists the tags.
    pub fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let mut errors = Vec::new();
        for (at, registry) in self.registries.iter().enumerate() {
            match registry.tags() {
                Err(error) => self.record_failure(&mut errors, at, error)?,
                tags => return tags,
            }
        }
        Err(self.combine(errors))
    }

    /// Fetches a small blob completely. The caller compares its digest.
    ///
    /// # Errors
    /// [`RegistryError`] if no registry serves the blob, or if the blob is larger than `max` bytes.
    pub fn small_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, RegistryError> {
        self.try_registries(digest, |_, registry| {
            let bytes = registry.small_blob(digest, max)?;
            let mut hasher = Hasher::new(digest.algorithm());
            hasher.update(&bytes);
            // If there is no other registry, return the bytes: the caller reports the wrong digest.
            match self.registries.len() > 1 && hasher.finish() != *digest {
                true => Err(registry.bad_answer(format!("sends other bytes for blob {digest}"))),
                false => Ok(bytes),
            }
        })
    }

    /// Records that the bytes of a blob had another digest. Returns whether there is another registry to try.
    pub fn reject_blob(&self, digest: &Digest) -> bool {
        let mut state = lock(&self.state);
        let begin = state.current;
        let search = state.blobs.entry(digest.clone()).or_default();
        let Some(wrong) = self.index(begin, search.advanced).and_then(|at| self.registries.get(at)) else {
            return false;
        };
        if search.advanced + 1 >= self.registries.len() {
            return false;
        }
        log::warn!("passed over: {}", wrong.bad_answer(format!("sends other bytes for blob {digest}")));
        *search = BlobSearch { advanced: search.advanced + 1, ..BlobSearch::default() };
        true
    }

    /// Begins to fetch a blob, like [`Registry::blob`]. Sends the `etag` only to the registry that it came from.
    ///
    /// # Errors
    /// [`RegistryError`] if no registry serves the blob.
    pub fn blob(
        &self,
        digest: &Digest,
        size: u64,
        offset: u64,
        etag: Option<&str>,
    ) -> Result<BlobBody, RegistryError> {
        let etag_from = lock(&self.state).blobs.get(digest).and_then(|search| search.etag_from);
        self.try_registries(digest, |at, registry| {
            // The origin of an ETag from an earlier job is unknown, so every registry gets it. A registry whose blob
            // has another ETag sends the whole blob again.
            let etag = etag.filter(|_| etag_from.is_none_or(|from| from == at));
            let body = registry.blob(digest, size, offset, etag)?;
            lock(&self.state).blobs.entry(digest.clone()).or_default().etag_from = Some(at);
            Ok(body)
        })
    }

    /// Waits until the registry that is current for the blob takes requests again, like [`Registry::wait_until_open`].
    pub fn wait_until_open(&self, digest: &Digest) {
        let at = {
            let state = lock(&self.state);
            self.index(state.current, state.blobs.get(digest).map_or(0, |search| search.advanced))
        };
        if let Some(registry) = at.and_then(|at| self.registries.get(at)) {
            registry.wait_until_open();
        }
    }

    /// The error for a body that broke off in the middle of a blob; counts as a failure of that blob's registry.
    pub fn blob_read_error(&self, digest: &Digest, source: std::io::Error) -> RegistryError {
        let mut state = lock(&self.state);
        let begin = state.current;
        let search = state.blobs.entry(digest.clone()).or_default();
        search.failures += 1;
        let index = self.index(begin, search.advanced);
        drop(state);
        match index.and_then(|at| self.registries.get(at)) {
            Some(registry) => registry.blob_read_error(digest, source),
            None => self.no_registry_error(),
        }
    }

    /// Index of the registry `advanced` steps after `begin`, wrapping around; `None` after all registries were tried.
    fn index(&self, begin: usize, advanced: usize) -> Option<usize> {
        (advanced < self.registries.len()).then(|| (begin + advanced) % self.registries.len())
    }

    /// Calls `fetch` with the registry that is current for the blob. If the registry does not have the blob, or has
    /// failed [`FAILURES_MAX`] times, continues with the next registry.
    fn try_registries<T>(
        &self,
        digest: &Digest,
        fetch: impl Fn(usize, &Registry) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut errors = Vec::new();
        let begin = lock(&self.state).current;
        loop {
            let mut search = lock(&self.state).blobs.get(digest).cloned().unwrap_or_default();
            if search.failures >= FAILURES_MAX && search.advanced + 1 < self.registries.len() {
                search.advanced += 1;
                search.failures = 0;
            }
            let Some(at) = self.index(begin, search.advanced) else {
                return Err(self.combine(errors));
            };
            let Some(registry) = self.registries.get(at) else {
                return Err(self.combine(errors));
            };
            let is_paused = registry.is_paused_mirror();
            match fetch(at, registry) {
                Ok(done) => {
                    self.record_search(digest, &search);
                    return Ok(done);
                }
                Err(error) => {
                    // A mirror that has asked all jobs to wait is not waited for.
                    let passing = retry::is_passing(&error) && !is_paused;
                    search.failures = if passing { search.failures + 1 } else { FAILURES_MAX };
                    self.record_search(digest, &search);
                    let is_last = search.advanced + 1 >= self.registries.len();
                    if is_last || (passing && search.failures < FAILURES_MAX) {
                        errors.push(error);
                        return Err(self.combine(errors));
                    }
                    self.record_failure(&mut errors, at, error)?;
                }
            }
        }
    }

    fn record_search(&self, digest: &Digest, search: &BlobSearch) {
        let mut state = lock(&self.state);
        let recorded = state.blobs.entry(digest.clone()).or_default();
        (recorded.advanced, recorded.failures) = (search.advanced, search.failures);
    }

    /// Adds the error of the registry `at` to `errors`, and logs it if another registry follows.
    ///
    /// # Errors
    /// `error` itself after [`Mirrors::shutdown`], so that the caller stops.
    fn record_failure(
        &self,
        errors: &mut Vec<RegistryError>,
        at: usize,
        error: RegistryError,
    ) -> Result<(), RegistryError> {
        if self.is_shut_down.load(Ordering::SeqCst) {
            return Err(error);
        }
        if at + 1 < self.registries.len() {
            let message = format!("passed over: {}", sampan_ipc::report::chain(&error));
            log::warn!("{message}");
            let mut state = lock(&self.state);
            if state.skipped.len() < SKIPPED_MAX {
                state.skipped.push(message);
            }
        }
        errors.push(error);
        Ok(())
    }

    /// Makes the error of a request for which no registry is left.
    fn no_registry_error(&self) -> RegistryError {
        match &self.config_error {
            Some(error) => RegistryError::Registries(Arc::clone(error)),
            None => RegistryError::Answer {
                host: self.requested.clone(),
                problem: "is in no registry that could be tried".to_owned(),
            },
        }
    }

    /// Combines the errors of all registries that were tried into one error.
    fn combine(&self, mut errors: Vec<RegistryError>) -> RegistryError {
        match (errors.pop(), errors.is_empty()) {
            (Some(last), true) => last,
            (Some(last), false) => RegistryError::AllFailed { others: errors, last: Box::new(last) },
            (None, _) => self.no_registry_error(),
        }
    }
}
