//! Checks the free disk space before and during a job, and removes unused images when the free space is low.
//!
//! Called by [`crate::image::pull`] and [`crate::image::archive::load`]: [`DiskSpace::claim`] before layers are
//! fetched, [`DiskSpace::checked_reader`] around a stream of unknown size, [`DiskSpace::keep`] after a commit. This
//! module has no timer, so an idle engine does nothing. Space that one job has claimed does not count as free for other
//! jobs. This module removes only images that are not in use ([`images::is_in_use`]), the least recently pulled or used
//! image first, and announces each removal. Without `gc-free-low` in the configuration, this module removes no image.

use crate::image::prune;
use nix::sys::statvfs::statvfs;
use sampan_ipc::announce::Announcer;
use sampan_ipc::size;
use sampan_oci::digest::Digest;
use sampan_oci::{Descriptor, Manifest};
use sampan_os::mutex::lock;
use sampan_store::images::{self, ImageError};
use sampan_store::{Store, partial_blob};
use serde::{Deserialize, Deserializer};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

/// Assumed bytes of an unpacked layer for each of its inodes. This number is high, so that the needed inodes are
/// underestimated: a wrong refusal is worse than a pull that fails late.
const BYTES_PER_INODE: u64 = 32 << 10;
/// Free space that a stream of unknown size must leave: a twentieth of the file system, but at most
/// [`STREAM_RESERVE_MAX`].
const STREAM_RESERVE_PART: u64 = 20;
/// Most bytes of free space that a stream of unknown size must leave. This constant is many times
/// [`STREAM_CHECK_BYTES`], because data that is read between two checks may grow when unpacked.
const STREAM_RESERVE_MAX: u64 = 64 << 20;
/// Bytes read from a stream of unknown size between two checks of the free space. Each check is a statvfs(2).
const STREAM_CHECK_BYTES: u64 = 256 << 10;
/// The cause that events of these removals name.
const BY: &str = "low-space";

/// An amount of disk space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// A number of bytes.
    Bytes(u64),
    /// A percentage of the file system's size: 0 to 100.
    Percent(u8),
}

/// A text that is not an [`Amount`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no amount of disk space: write bytes (500M, 2G) or percent of the file system (10%)")]
pub struct AmountError(String);

impl Amount {
    /// Parses `10%`, `500`, `500K`, `2G`, `1T`; units are powers of 1024.
    ///
    /// # Errors
    /// [`AmountError`]: the text is neither bytes nor 0 to 100 percent.
    pub fn parse(text: &str) -> Result<Self, AmountError> {
        let refuse = || AmountError(text.chars().take(40).collect());
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.trim_end().parse().ok().filter(|p| *p <= 100);
            return percent.map(Amount::Percent).ok_or_else(refuse);
        }
        size::parse(text).map(Amount::Bytes).ok_or_else(refuse)
    }

    /// The amount in bytes, for a file system of `total` bytes.
    fn of(self, total: u64) -> u64 {
        match self {
            Amount::Bytes(bytes) => bytes,
            Amount::Percent(percent) => total / 100 * u64::from(percent),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amount::Bytes(bytes) => f.write_str(&size::format(*bytes)),
            Amount::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(from)? {
            Written::Number(bytes) => Ok(Amount::Bytes(bytes)),
            Written::Text(text) => Amount::parse(&text).map_err(serde::de::Error::custom),
        }
    }
}

/// The configured limits of free disk space. By default, no space must stay free and no image is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    /// A pull that would leave less than this free is refused.
    pub min_free: Amount,
    /// If less than the first amount is free, unused images are removed until the second amount is free. `None` removes
    /// no image.
    pub collect: Option<(Amount, Amount)>,
}

impl Default for Marks {
    fn default() -> Self {
        Marks { min_free: Amount::Bytes(0), collect: None }
    }
}

/// The disk space for the data that a job still has to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Bytes to download.
    pub blobs: u64,
    /// Estimated bytes of the layers that the job unpacks, from downloaded and from stored blobs.
    pub unpacked: u64,
    /// Estimated number of files and directories in the layers that the job unpacks.
    pub inodes: u64,
}

impl Needs {
    /// Adds up the space for all blobs and layers of `parts` that the store lacks. Skips blobs and layers that are in
    /// `counted`, and adds the others to `counted`. With `under_way`, each part is being unpacked while it is
    /// downloaded, so the downloaded share of its layer needs no more space.
    fn of<'a>(
        store: &Store,
        parts: impl IntoIterator<Item = &'a Part>,
        counted: &mut Counted,
        under_way: bool,
    ) -> Self {
        let mut needs = Needs::default();
        for part in parts {
            let is_here = store.has_blob(&part.blob, part.size);
            let missing = match is_here {
                true => 0,
                false => part.size.saturating_sub(partial_blob::kept(store, &part.blob)),
            };
            if counted.blobs.insert(part.blob.clone()) && !is_here {
                needs.blobs = needs.blobs.saturating_add(missing);
                needs.inodes += 1;
            }
            let Some(chain_id) = part.chain_id.as_ref().filter(|chain_id| !store.has_layer(chain_id)) else {
                continue;
            };
            if counted.layers.insert(chain_id.clone()) {
                let size = match under_way && !is_here {
                    true => share(part.unpacked, missing, part.size),
                    false => part.unpacked,
                };
                needs.unpacked = needs.unpacked.saturating_add(size);
                // Two inodes are for the layer's directory and the directory `diff` in it.
                needs.inodes = needs.inodes.saturating_add(2 + size / BYTES_PER_INODE);
            }
        }
        needs
    }

    fn bytes(&self) -> u64 {
        self.blobs.saturating_add(self.unpacked)
    }
}

/// Blobs and layers that were counted. Two sets are needed because the chain id of an uncompressed lowest layer equals
/// the digest of its blob.
#[derive(Default)]
struct Counted {
    blobs: HashSet<Digest>,
    layers: HashSet<Digest>,
}

/// `whole` × `part` ÷ `of`.
fn share(whole: u64, part: u64, of: u64) -> u64 {
    let share = u128::from(whole) * u128::from(part) / u128::from(of.max(1));
    u64::try_from(share).unwrap_or(whole)
}

/// One layer that a job writes.
#[derive(Debug)]
struct Part {
    blob: Digest,
    size: u64,
    /// Chain id of the layer; `None` if the job does not unpack the layer.
    chain_id: Option<Digest>,
    /// Estimated bytes of the unpacked layer.
    unpacked: u64,
}

impl Part {
    fn new(layer: &Descriptor, chain_id: Option<&Digest>) -> Self {
        let unpacked = unpacked_size(layer);
        Part { blob: layer.digest.clone(), size: layer.size, chain_id: chain_id.cloned(), unpacked }
    }
}

type Claims = Arc<Mutex<HashMap<u64, Vec<Part>>>>;

/// A claim on the disk space that a job still needs; dropping it releases the space.
#[derive(Debug)]
pub struct Claim {
    claims: Claims,
    id: u64,
}

impl Claim {
    /// Records that the layer of the blob `blob` needs no more space: the blob is written and, if required, unpacked.
    pub fn arrived(&self, blob: &Digest) {
        if let Some(parts) = lock(&self.claims).get_mut(&self.id) {
            parts.retain(|part| part.blob != *blob);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.claims).remove(&self.id);
    }
}

/// Estimates the size of the unpacked layer, in bytes. gzip shrinks root file systems of distributions to 0.35 to 0.45,
/// zstd a little more; layers of programs shrink less. The factor is low because a wrong refusal is worse than a pull
/// that fails late.
fn unpacked_size(layer: &Descriptor) -> u64 {
    match layer.media_type.rsplit_once(['+', '.']) {
        Some((_, "gzip" | "zstd")) => layer.size.saturating_mul(2),
        _ => layer.size,
    }
}

/// Why a job is refused or ended for lack of disk space.
#[derive(Debug, thiserror::Error)]
pub enum DiskSpaceError {
    /// Too few bytes are free.
    #[error(
        "it needs {} ({} to download, about {} unpacked){}, and in {} {} are free{}",
        size::format(needs.bytes()), size::format(needs.blobs), size::format(needs.unpacked), claimed(*others), store.display(),
        size::format(*free), kept(*reserve)
    )]
    Bytes {
        /// Needs of the job.
        needs: Needs,
        /// Bytes that other jobs have claimed.
        others: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes that must stay free.
        reserve: u64,
        /// Path of the store.
        store: PathBuf,
    },
    /// Too few bytes are free to go on reading a stream of unknown size.
    #[error(
        "the disk is full: in {} {} are free, and {} must stay free{}",
        store.display(), size::format(*free), size::format(*reserve), claimed(*others)
    )]
    Low {
        /// Bytes that other jobs have claimed.
        others: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes that must stay free.
        reserve: u64,
        /// Path of the store.
        store: PathBuf,
    },
    /// Too few inodes are free.
    #[error("it needs about {needs} inodes, and in {} {free} are free", store.display())]
    Inodes {
        /// Inodes that the job needs.
        needs: u64,
        /// Inodes that are free.
        free: u64,
        /// Path of the store.
        store: PathBuf,
    },
    /// statvfs(2) failed.
    #[error("cannot find out how much of {} is free", store.display())]
    Unknown {
        /// Path of the store.
        store: PathBuf,
        /// Error of statvfs(2).
        source: nix::Error,
    },
}

fn kept(reserve: u64) -> String {
    if reserve == 0 { String::new() } else { format!(", of which {} must stay free", size::format(reserve)) }
}

fn claimed(others: u64) -> String {
    if others == 0 { String::new() } else { format!(", other jobs still need {}", size::format(others)) }
}

/// Free space of a file system.
struct Free {
    bytes: u64,
    total: u64,
    /// Free inodes; `None` if the file system creates inodes on demand.
    inodes: Option<u64>,
}

/// Checks and claims disk space. Cheap to clone; all clones share the claims, and only one at a time removes images.
#[derive(Clone, Debug)]
pub struct DiskSpace {
    marks: Marks,
    announcer: Announcer,
    collecting: Arc<Mutex<()>>,
    claims: Claims,
    next_claim: Arc<AtomicU64>,
}

impl DiskSpace {
    /// Makes an instance that enforces the limits `marks`.
    pub fn new(marks: Marks, announcer: Announcer) -> Self {
        DiskSpace {
            marks,
            announcer,
            collecting: Arc::default(),
            claims: Arc::default(),
            next_claim: Arc::default(),
        }
    }

    /// Claims disk space for an image whose layers have these chain ids; without `unpack`, for the image's blobs alone.
    /// If too little space is free, first removes unused images, if the configuration allows that. The caller has
    /// pinned the content that it needs, and keeps the claim until everything is written. The new claim replaces the
    /// claim `ahead`, which [`DiskSpace::claim_ahead`] made.
    ///
    /// # Errors
    /// [`DiskSpaceError`]: too little space is free, even after removing images, or statvfs(2) failed.
    pub fn claim(
        &self,
        store: &Store,
        manifest: &Manifest,
        chain_ids: &[Digest],
        unpack: bool,
        ahead: Option<&Claim>,
    ) -> Result<Claim, DiskSpaceError> {
        let part = |(layer, chain_id): (&Descriptor, &Digest)| Part::new(layer, unpack.then_some(chain_id));
        let mut parts: Vec<Part> = manifest.layers.iter().zip(chain_ids).map(part).collect();
        match self.enter(store, &mut parts, ahead) {
            Err(DiskSpaceError::Bytes { needs, others, reserve, free, .. })
                if self.marks.collect.is_some() =>
            {
                let goal = needs.bytes().saturating_add(others).saturating_add(reserve);
                // Remove no image if even an empty store would not have enough free space.
                if goal <= free.saturating_add(store.size_on_disk(store.root()).unwrap_or(0)) {
                    self.collect(store, goal);
                }
                self.enter(store, &mut parts, ahead)
            }
            other => other,
        }
    }

    /// Claims disk space for an image of which only the manifest is known, as if every layer had to be unpacked.
    /// Returns `None` if too little space is free; removes no image.
    pub fn claim_ahead(&self, store: &Store, manifest: &Manifest, unpack: bool) -> Option<Claim> {
        // The chain ids are not known yet; the blobs' digests serve as stand-ins, which match no stored layer.
        let part = |layer: &Descriptor| Part::new(layer, unpack.then_some(&layer.digest));
        let mut parts = manifest.layers.iter().map(part).collect();
        self.enter(store, &mut parts, None).ok()
    }

    /// Claims space for `parts` if enough is free; a successful claim takes all elements out of `parts`. Checks and
    /// records under one lock, so two jobs cannot claim the same space.
    fn enter(
        &self,
        store: &Store,
        parts: &mut Vec<Part>,
        ahead: Option<&Claim>,
    ) -> Result<Claim, DiskSpaceError> {
        let mut claims = lock(&self.claims);
        match ahead {
            // The free space need not be checked: the earlier claim covered at least as much, and the job has used some
            // of that space.
            Some(Claim { id, .. }) => drop(claims.remove(id)),
            None => self.compare(store, &claims, parts)?,
        }
        let id = self.next_claim.fetch_add(1, Ordering::Relaxed);
        claims.insert(id, std::mem::take(parts));
        Ok(Claim { claims: Arc::clone(&self.claims), id })
    }

    /// Checks whether the free space that `claims` leave is enough for `parts`.
    fn compare(
        &self,
        store: &Store,
        claims: &HashMap<u64, Vec<Part>>,
        parts: &[Part],
    ) -> Result<(), DiskSpaceError> {
        let mut counted = Counted::default();
        let others = Needs::of(store, claims.values().flatten(), &mut counted, true);
        let needs = Needs::of(store, parts.iter(), &mut counted, false);
        if needs.bytes() == 0 { Ok(()) } else { self.judge(store, needs, others) }
    }

    fn judge(&self, store: &Store, needs: Needs, others: Needs) -> Result<(), DiskSpaceError> {
        let free = self.free(store)?;
        let reserve = self.marks.min_free.of(free.total);
        let others_bytes = others.bytes();
        if needs.bytes().saturating_add(others_bytes).saturating_add(reserve) > free.bytes {
            let (free, store) = (free.bytes, store.root().to_owned());
            return Err(DiskSpaceError::Bytes { needs, others: others_bytes, free, reserve, store });
        }
        match free.inodes {
            Some(inodes) if needs.inodes.saturating_add(others.inodes) > inodes => {
                let free = inodes.saturating_sub(others.inodes);
                Err(DiskSpaceError::Inodes { needs: needs.inodes, free, store: store.root().to_owned() })
            }
            _ => Ok(()),
        }
    }

    fn free(&self, store: &Store) -> Result<Free, DiskSpaceError> {
        free(store).map_err(|source| DiskSpaceError::Unknown { store: store.root().to_owned(), source })
    }

    /// Wraps a stream of unknown size: reading fails when too little space would stay free in addition to all claims.
    pub fn checked_reader<'a, R: Read>(&'a self, store: &'a Store, from: R) -> CheckedReader<'a, R> {
        CheckedReader { room: self, store, from, left: 0, full: Arc::default() }
    }

    /// Checks whether a stream of unknown size may go on; first removes unused images if space is low and the
    /// configuration allows that.
    fn check_stream(&self, store: &Store) -> Result<(), DiskSpaceError> {
        let others = {
            let claims = lock(&self.claims);
            Needs::of(store, claims.values().flatten(), &mut Counted::default(), true).bytes()
        };
        let judge = || {
            let free = self.free(store)?;
            let reserve = self
                .marks
                .min_free
                .of(free.total)
                .max((free.total / STREAM_RESERVE_PART).min(STREAM_RESERVE_MAX));
            match free.bytes >= reserve.saturating_add(others) {
                true => Ok(()),
                false => Err(DiskSpaceError::Low {
                    others,
                    free: free.bytes,
                    reserve,
                    store: store.root().to_owned(),
                }),
            }
        };
        match judge() {
            Err(DiskSpaceError::Low { reserve, .. }) if self.marks.collect.is_some() => {
                self.collect(store, reserve.saturating_add(others).saturating_add(STREAM_CHECK_BYTES));
                judge()
            }
            other => other,
        }
    }

    /// Removes unused images if less than the low mark is free, until the high mark is reached.
    pub fn keep(&self, store: &Store) {
        let Some((low, high)) = self.marks.collect else { return };
        match free(store) {
            Ok(free) if free.bytes < low.of(free.total) => self.collect(store, high.of(free.total)),
            Ok(_) => {}
            Err(error) => {
                log::warn!("cannot find out how much of {} is free: {error}", store.root().display())
            }
        }
    }

    /// Removes unused content, the least recently used first, until `goal` bytes are free or no unused content is left.
    fn collect(&self, store: &Store, goal: u64) {
        let _one = lock(&self.collecting);
        log::info!("free space is low: removing unused images until {} are free", size::format(goal));
        let before = free(store).map_or(0, |free| free.bytes);
        // Some file systems report the space of removed files as free only later, so also count the removed bytes.
        let enough =
            |freed| free(store).map_or(before, |f| f.bytes).max(before.saturating_add(freed)) >= goal;
        match self.remove_oldest(store, &enough) {
            Ok(0) => log::warn!("free space is low, and there is no unused image to remove"),
            Ok(freed) => {
                log::info!("{} are free again", size::format(freed));
                prune::announce_reclaimed(&self.announcer, freed, BY);
            }
            Err(error) => log::warn!("cannot free space: {}", sampan_ipc::report::chain(&error)),
        }
    }

    /// Removes images until `enough`, called with the number of bytes freed so far, returns true. Returns the total
    /// number of bytes freed.
    fn remove_oldest(&self, store: &Store, enough: &dyn Fn(u64) -> bool) -> Result<u64, ImageError> {
        // If an image cannot be read, garbage collection must keep all content, so removing other images would free
        // nothing: return the error.
        images::used(store)?;
        partial_blob::collect(store, Duration::ZERO);
        let (_, mut freed) = store.collect_garbage();
        let mut oldest: Vec<(SystemTime, Digest)> = images::all(store)?
            .flatten()
            .map(|image| (images::last_used(store, &image.entry.digest), image.entry.digest))
            .collect();
        oldest.sort();
        for (_, digest) in oldest {
            if enough(freed) {
                break;
            }
            if let Some(removed) = images::remove_unused(store, &digest)? {
                freed = freed.saturating_add(removed.freed);
                prune::announce_removed(&self.announcer, &removed, BY);
            }
        }
        Ok(freed)
    }
}

/// A reader that checks the free disk space, and fails before the disk is full.
pub struct CheckedReader<'a, R> {
    room: &'a DiskSpace,
    store: &'a Store,
    from: R,
    /// Bytes until the next check of the disk.
    left: u64,
    full: Full,
}

/// The error of a [`CheckedReader`]; empty while the reader has not failed.
pub type Full = Arc<OnceLock<Arc<DiskSpaceError>>>;

impl<R> CheckedReader<'_, R> {
    /// A handle that outlives the reader and holds the reader's error.
    pub fn full(&self) -> Full {
        Arc::clone(&self.full)
    }

    fn check(&mut self) -> io::Result<()> {
        if self.left == 0
            && self.full.get().is_none()
            && let Err(error) = self.room.check_stream(self.store)
        {
            let _ = self.full.set(Arc::new(error));
        }
        // A reader that has failed keeps failing, even if removing temporaries has freed some space since.
        match self.full.get() {
            Some(error) => return Err(io::Error::other(Arc::clone(error))),
            None if self.left == 0 => self.left = STREAM_CHECK_BYTES,
            None => {}
        }
        Ok(())
    }
}

impl<R: Read> Read for CheckedReader<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let len = self.from.read(into.get_mut(..most).unwrap_or_default())?;
        self.left = self.left.saturating_sub(len as u64);
        Ok(len)
    }
}

fn free(store: &Store) -> nix::Result<Free> {
    let stat = statvfs(store.root())?;
    let unit = stat.fragment_size() as u64;
    let bytes = (stat.blocks_available() as u64).saturating_mul(unit);
    let total = (stat.blocks() as u64).saturating_mul(unit);
    let inodes = (stat.files() > 0).then(|| stat.files_available() as u64);
    Ok(Free { bytes, total, inodes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_ipc::sender::FifoSender;
    use sampan_oci::reference::Reference;
    use sampan_oci::{self as oci, Descriptor, PlatformField};
    use std::collections::BTreeMap;

    /// Stores an image without layers and names it.
    fn image(store: &Store, reference: &str, cmd: &str) -> Digest {
        let since = store.generation();
        let config = format!(
            r#"{{"os":"linux","architecture":"amd64","config":{{"Cmd":["{cmd}"]}},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
        );
        let config_digest = Digest::of(config.as_bytes());
        store.write_blob(&config_digest, config.as_bytes()).expect("written");
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{config_digest}","size":{}}},"layers":[]}}"#,
            oci::CONFIG,
            config.len()
        );
        let digest = Digest::of(manifest.as_bytes());
        store.write_blob(&digest, manifest.as_bytes()).expect("written");
        let reference = Reference::parse(reference).expect("good");
        let manifest = Descriptor {
            media_type: oci::MANIFEST.to_owned(),
            digest: digest.clone(),
            size: manifest.len() as u64,
            platform: None,
            annotations: BTreeMap::new(),
        };
        let new = images::NewImage {
            reference: &reference,
            manifest,
            platform: PlatformField::default(),
            index: None,
            since,
        };
        images::commit(store, new).expect("committed");
        digest
    }

    #[test]
    fn amounts_are_bytes_or_percent() {
        let cases = [
            ("10%", Amount::Percent(10)),
            ("0", Amount::Bytes(0)),
            ("500M", Amount::Bytes(500 << 20)),
            ("2 GiB", Amount::Bytes(2 << 30)),
            ("1.5G", Amount::Bytes(3 << 29)),
        ];
        for (text, amount) in cases {
            assert_eq!(Amount::parse(text), Ok(amount), "{text}");
        }
        for text in ["", "101%", "-1", "x", "%", "99999999999T", "1e3"] {
            assert!(Amount::parse(text).is_err(), "{text}");
        }
        assert_eq!(Amount::Percent(25).of(1000), 250);
    }

    #[test]
    fn the_image_that_was_not_used_for_longest_goes_first_and_one_in_use_never() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let [old, used, needed] = ["old", "used", "needed"].map(|name| image(&store, name, name));
        images::touch(&store, &old);
        let long_ago = |digest: &Digest, years: u64| {
            let file = std::fs::File::options().write(true).open(store.blob_path(digest)).expect("there");
            file.set_modified(SystemTime::now() - Duration::from_secs(years * 31_536_000)).expect("set");
        };
        long_ago(&needed, 9);
        long_ago(&used, 5);
        let _pin = store.pin([needed.clone()]);
        let room = DiskSpace::new(Marks::default(), Announcer::new(FifoSender::new(dir.path().join("none"))));
        let there = || [&old, &used, &needed].map(|digest| store.blob_path(digest).exists());
        // This test calls `remove_oldest` rather than checking the free space, which other processes change meanwhile.
        room.remove_oldest(&store, &|_| true).expect("nothing to do");
        assert_eq!(there(), [true, true, true]);
        room.remove_oldest(&store, &|freed| freed > 0).expect("removed");
        assert_eq!(there(), [true, false, true]);
        room.remove_oldest(&store, &|_| false).expect("removed");
        assert_eq!(there(), [false, false, true]);
    }

    #[test]
    fn a_pull_that_does_not_fit_is_told_all_numbers() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let announcer = Announcer::new(FifoSender::new(dir.path().join("none")));
        let room = DiskSpace::new(Marks::default(), announcer.clone());
        let part = |name: &str, size| Part {
            blob: Digest::of(name.as_bytes()),
            size,
            chain_id: Some(Digest::of(format!("{name} unpacked").as_bytes())),
            unpacked: size / 2,
        };
        let text =
            room.enter(&store, &mut vec![part("huge", 1 << 60)], None).expect_err("no disk is so large");
        assert!(text.to_string().contains("1024.00 PiB to download, about 512.00 PiB unpacked"), "{text}");
        room.enter(&store, &mut vec![part("byte", 1)], None).expect("one byte fits");
        let all = Marks { min_free: Amount::Percent(100), collect: None };
        let room = DiskSpace::new(all, announcer);
        let text = room.enter(&store, &mut vec![part("byte", 1)], None).expect_err("all is kept");
        assert!(text.to_string().contains("must stay free"), "{text}");
        room.enter(&store, &mut Vec::new(), None).expect("nothing always fits");
    }

    #[test]
    fn what_a_job_has_claimed_is_not_counted_twice_and_is_free_again_when_it_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let announcer = Announcer::new(FifoSender::new(dir.path().join("none")));
        let room = DiskSpace::new(Marks::default(), announcer);
        let part = |name: &str, size| Part {
            blob: Digest::of(name.as_bytes()),
            size,
            chain_id: Some(Digest::of(format!("{name} unpacked").as_bytes())),
            unpacked: 2 * size,
        };
        let claimed = || {
            let claims = lock(&room.claims);
            Needs::of(&store, claims.values().flatten(), &mut Counted::default(), true).bytes()
        };
        let one = room.enter(&store, &mut vec![part("a", 100), part("b", 10)], None).expect("there is room");
        assert_eq!(claimed(), 330);
        let two = room.enter(&store, &mut vec![part("b", 10), part("c", 1)], None).expect("there is room");
        assert_eq!(claimed(), 333, "the layer that both want comes once");
        // A layer of which half the blob is downloaded is also half unpacked.
        let kept = format!("partial/sha256-{}", Digest::of(b"a").hex());
        std::fs::write(dir.path().join(kept), [0; 50]).expect("written");
        assert_eq!(claimed(), 183);
        one.arrived(&Digest::of(b"a"));
        assert_eq!(claimed(), 33);
        drop(one);
        assert_eq!(claimed(), 33, "the other one still wants it");
        drop(two);
        assert_eq!(claimed(), 0);
    }
}
