//! One image's repository wherever it may be had: its mirrors in order, then the registry itself.
//!
//! A pull's and a download's view of the world. A mirror that fails, for whatever reason, is passed over and
//! logged; the one that gave the manifest gives the blobs, and a blob that it does not give is sought at the next.
//! Bytes of several are as good as of one: everything is compared with a digest. Knows no store and never waits:
//! what is tried again, and when, [`crate::retry`] says.

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

/// Failures of a blob at one place, one after the other and each of a kind that may pass, before the next place is
/// tried.
const FAILURES_MAX: u32 = 2;

/// Most of what was passed over that is kept to be told; the log has all.
const PASSED_MAX: usize = 16;

/// Where an image may be had.
pub struct Mirrors {
    places: Vec<Registry>,
    /// Why there is none.
    none: Option<Arc<RegistriesError>>,
    asked: String,
    state: Mutex<State>,
    shut: AtomicBool,
}

#[derive(Default)]
struct State {
    /// The place that gave the last manifest.
    at: usize,
    /// Blobs that were not there, or broke.
    blobs: HashMap<Digest, Sought>,
    /// What was passed over since somebody asked, and why.
    passed: Vec<String>,
}

/// How far the search for a blob is.
#[derive(Clone, Default)]
struct Sought {
    /// Places gone on from where the manifest came from.
    moved: usize,
    failures: u32,
    /// The place that the last ETag came from.
    etag_of: Option<usize>,
}

impl Mirrors {
    /// The places of `reference` that [`Access::registries`] says. Connects to nothing yet; what is wrong with the
    /// name is said when something is asked for.
    pub fn new(reference: &Reference, access: &Access) -> Self {
        let (places, none) = match access.registries.endpoints(reference) {
            Ok(endpoints) => (endpoints.iter().map(|e| Registry::at(e, access)).collect(), None),
            Err(error) => (Vec::new(), Some(Arc::new(error))),
        };
        let (asked, state) = (reference.target(), Mutex::default());
        Mirrors { places, none, asked, state, shut: AtomicBool::new(false) }
    }

    /// The places of `reference`, whose requests are all broken off if `cancel` is called while the link is kept.
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

    /// Breaks off all requests, now and for ever.
    pub fn shutdown(&self) {
        self.shut.store(true, Ordering::SeqCst);
        self.places.iter().for_each(Registry::shutdown);
    }

    /// Fetches the manifest or index called `target` from the first place that has it.
    ///
    /// # Errors
    /// [`RegistryError`]: of the only place, or [`RegistryError::Everywhere`].
    pub fn manifest(&self, target: &str) -> Result<RawManifest, RegistryError> {
        let begin = lock(&self.state).at;
        let mut failed = Vec::new();
        for (at, place) in self.places.iter().enumerate().skip(begin) {
            let there = place.target().filter(|_| target == self.asked).unwrap_or(target);
            match place.manifest(there) {
                Ok(manifest) => {
                    lock(&self.state).at = at;
                    log::debug!("manifest {target} comes from {}", place.host());
                    return Ok(manifest);
                }
                Err(error) => self.pass_over(&mut failed, at, error)?,
            }
        }
        Err(self.everywhere(failed))
    }

    /// What was passed over since this was asked last, and why.
    pub fn passed_over(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.state).passed)
    }

    /// Fetches what stands under `tag` beside the image (a signature, say), from the first place that has it;
    /// `None` if none has. Blobs still come from where the image's manifest came from.
    ///
    /// # Errors
    /// As [`Mirrors::manifest`], unless it is simply not there.
    pub fn beside(&self, tag: &str) -> Result<Option<RawManifest>, RegistryError> {
        let mut failed = Vec::new();
        for (at, place) in self.places.iter().enumerate() {
            match place.manifest(tag) {
                Ok(manifest) => return Ok(Some(manifest)),
                // Mirrors often lack these: no reason to warn.
                Err(error @ RegistryError::NotFound { .. }) => failed.push(error),
                Err(error) => self.pass_over(&mut failed, at, error)?,
            }
        }
        match !failed.is_empty() && failed.iter().all(|e| matches!(e, RegistryError::NotFound { .. })) {
            true => Ok(None),
            false => Err(self.everywhere(failed)),
        }
    }

    /// The tags of the repository, from the first place that lists them.
    ///
    /// # Errors
    /// As [`Mirrors::manifest`].
    pub fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let mut failed = Vec::new();
        for (at, place) in self.places.iter().enumerate() {
            match place.tags() {
                Err(error) => self.pass_over(&mut failed, at, error)?,
                tags => return tags,
            }
        }
        Err(self.everywhere(failed))
    }

    /// Fetches a small blob whole; the caller compares its digest.
    ///
    /// # Errors
    /// As [`Registry::small_blob`].
    pub fn small_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, RegistryError> {
        self.seek(digest, |_, place| {
            let bytes = place.small_blob(digest, max)?;
            let mut hasher = Hasher::new(digest.algorithm());
            hasher.update(&bytes);
            // With nowhere else to go, what is wrong with it is the caller's to say.
            match self.places.len() > 1 && hasher.finish() != *digest {
                true => Err(place.wrong(format!("gives other bytes for blob {digest}"))),
                false => Ok(bytes),
            }
        })
    }

    /// Notes that the bytes that came for a blob are not the blob; true if there is another place to ask.
    pub fn distrust(&self, digest: &Digest) -> bool {
        let mut state = lock(&self.state);
        let begin = state.at;
        let sought = state.blobs.entry(digest.clone()).or_default();
        let Some(wrong) = self.place(begin, sought.moved).and_then(|at| self.places.get(at)) else {
            return false;
        };
        if sought.moved + 1 >= self.places.len() {
            return false;
        }
        log::warn!("passed over: {}", wrong.wrong(format!("gives other bytes for blob {digest}")));
        *sought = Sought { moved: sought.moved + 1, ..Sought::default() };
        true
    }

    /// Begins to fetch a blob. As [`Registry::blob`]; an `etag` is shown to the place alone that it is of.
    ///
    /// # Errors
    /// As [`Registry::blob`].
    pub fn blob(
        &self,
        digest: &Digest,
        size: u64,
        offset: u64,
        etag: Option<&str>,
    ) -> Result<BlobBody, RegistryError> {
        let etag_of = lock(&self.state).blobs.get(digest).and_then(|sought| sought.etag_of);
        self.seek(digest, |at, place| {
            // Of one from an earlier job nobody knows where it came from: whoever has another sends all again.
            let etag = etag.filter(|_| etag_of.is_none_or(|of| of == at));
            let body = place.blob(digest, size, offset, etag)?;
            lock(&self.state).blobs.entry(digest.clone()).or_default().etag_of = Some(at);
            Ok(body)
        })
    }

    /// What broke in the middle of a blob's body.
    pub fn broken(&self, digest: &Digest, source: std::io::Error) -> RegistryError {
        let mut state = lock(&self.state);
        let begin = state.at;
        let sought = state.blobs.entry(digest.clone()).or_default();
        sought.failures += 1;
        let place = self.place(begin, sought.moved);
        drop(state);
        match place.and_then(|at| self.places.get(at)) {
            Some(place) => place.broken(digest, source),
            None => self.nowhere(),
        }
    }

    /// The place `moved` on from `begin`, all around once; `None` when all were tried.
    fn place(&self, begin: usize, moved: usize) -> Option<usize> {
        (moved < self.places.len()).then(|| (begin + moved) % self.places.len())
    }

    /// Asks for a blob where it was found last, and where it is not, or fails again and again, at the next place.
    fn seek<T>(
        &self,
        digest: &Digest,
        ask: impl Fn(usize, &Registry) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut failed = Vec::new();
        let begin = lock(&self.state).at;
        loop {
            let mut sought = lock(&self.state).blobs.get(digest).cloned().unwrap_or_default();
            if sought.failures >= FAILURES_MAX && sought.moved + 1 < self.places.len() {
                sought.moved += 1;
                sought.failures = 0;
            }
            let Some(at) = self.place(begin, sought.moved) else {
                return Err(self.everywhere(failed));
            };
            let Some(place) = self.places.get(at) else {
                return Err(self.everywhere(failed));
            };
            match ask(at, place) {
                Ok(done) => {
                    self.remember(digest, &sought);
                    return Ok(done);
                }
                Err(error) => {
                    let passing = retry::is_passing(&error);
                    sought.failures = if passing { sought.failures + 1 } else { FAILURES_MAX };
                    self.remember(digest, &sought);
                    if sought.moved + 1 >= self.places.len() || (passing && sought.failures < FAILURES_MAX) {
                        failed.push(error);
                        return Err(self.everywhere(failed));
                    }
                    self.pass_over(&mut failed, at, error)?;
                }
            }
        }
    }

    fn remember(&self, digest: &Digest, sought: &Sought) {
        let mut state = lock(&self.state);
        let kept = state.blobs.entry(digest.clone()).or_default();
        (kept.moved, kept.failures) = (sought.moved, sought.failures);
    }

    /// Notes that `place` failed; or ends the search, because it was shut down.
    fn pass_over(
        &self,
        failed: &mut Vec<RegistryError>,
        at: usize,
        error: RegistryError,
    ) -> Result<(), RegistryError> {
        if self.shut.load(Ordering::SeqCst) {
            return Err(error);
        }
        if at + 1 < self.places.len() {
            let why = format!("passed over: {}", sampan_ipc::report::chain(&error));
            log::warn!("{why}");
            let mut state = lock(&self.state);
            if state.passed.len() < PASSED_MAX {
                state.passed.push(why);
            }
        }
        failed.push(error);
        Ok(())
    }

    /// Why there is no place to ask.
    fn nowhere(&self) -> RegistryError {
        match &self.none {
            Some(why) => RegistryError::Registries(Arc::clone(why)),
            None => {
                RegistryError::Answer { host: self.asked.clone(), wrong: "is nowhere to be had".to_owned() }
            }
        }
    }

    fn everywhere(&self, mut failed: Vec<RegistryError>) -> RegistryError {
        match (failed.pop(), failed.is_empty()) {
            (Some(last), true) => last,
            (Some(last), false) => RegistryError::Everywhere { others: failed, last: Box::new(last) },
            (None, _) => self.nowhere(),
        }
    }
}
