//! Free disk space: checks it before and during a job, and removes unused images when it is low.
//!
//! Called by [`crate::image::pull`] and [`crate::image::archive::load`]: [`DiskSpace::claim`] before layers are
//! fetched, [`DiskSpace::checked_reader`] around a stream of unknown size, [`DiskSpace::keep`] after a commit. There is
//! no timer, so an idle engine does nothing. One job's claim is not free for another. Removes only images that
//! [`images::is_in_use`] allows, the least recently pulled or used first, and announces each. Removes none unless
//! `gc-free-low` is configured.

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

/// Bytes of an unpacked layer for each inode that it is assumed to need. It underestimates the inodes: a wrong refusal
/// is worse than a pull that fails late.
const BYTES_PER_INODE: u64 = 32 << 10;
/// Free space that a stream of unknown size must leave: one part in 20 of the file system ...
const STREAM_RESERVE_PART: u64 = 20;
/// ... but at most this many bytes. Data read between two checks may become several times [`STREAM_CHECK_BYTES`] when
/// unpacked.
const STREAM_RESERVE_MAX: u64 = 64 << 20;
/// Bytes read from such a stream between two checks of the disk, each a statvfs(2).
const STREAM_CHECK_BYTES: u64 = 256 << 10;
/// The cause of these removals in events.
const BY: &str = "low-space";

/// An amount of disk space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// In bytes.
    Bytes(u64),
    /// In percent of all of it: 0 to 100.
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

/// Marks of free disk space. By default, none must stay free and no image is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    /// A pull that would leave less than this free is refused.
    pub min_free: Amount,
    /// Below the first amount, unused images are removed until the second is free. `None` removes none.
    pub collect: Option<(Amount, Amount)>,
}

impl Default for Marks {
    fn default() -> Self {
        Marks { min_free: Amount::Bytes(0), collect: None }
    }
}

/// What a job still has to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Bytes to download.
    pub blobs: u64,
    /// Bytes of layers once unpacked, from these and from stored blobs: an estimate.
    pub unpacked: u64,
    /// Files and directories of those layers: an estimate.
    pub inodes: u64,
}

impl Needs {
    /// Adds up what is missing of `parts`, and records it in `counted`; a blob or layer in `counted` before counts
    /// nothing. A part that is `under_way` is unpacked while it is downloaded, so its downloaded share needs no more
    /// space.
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
                // Two for the layer's own directory and its `diff`.
                needs.inodes = needs.inodes.saturating_add(2 + size / BYTES_PER_INODE);
            }
        }
        needs
    }

    fn bytes(&self) -> u64 {
        self.blobs.saturating_add(self.unpacked)
    }
}

/// Blobs and layers that were counted. There are two sets because the lowest layer's chain id, if the layer is stored
/// uncompressed, equals its blob's digest.
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
    /// Chain id; `None` if the layer is not unpacked.
    chain_id: Option<Digest>,
    /// Bytes of the layer once unpacked: an estimate.
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
    /// Records that the blob is written, and unpacked if it was to be: it needs no more space.
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
/// zstd a little more; layers of programs shrink less. The factor is low for the same reason as [`BYTES_PER_INODE`].
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
    /// Makes an instance that keeps the marks `marks`.
    pub fn new(marks: Marks, announcer: Announcer) -> Self {
        DiskSpace {
            marks,
            announcer,
            collecting: Arc::default(),
            claims: Arc::default(),
            next_claim: Arc::default(),
        }
    }

    /// Claims disk space for an image whose layers have these chain ids; without `unpack`, for its blobs alone. If
    /// there is too little, removes unused images first, if the marks allow that. The caller has pinned what it needs,
    /// and keeps the claim until everything is written. A claim that was made `ahead` is replaced by this one.
    ///
    /// # Errors
    /// [`DiskSpaceError`]: there is too little space, even after removing images, or statvfs(2) failed.
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
                // Do not remove images in vain: even an empty store might be too small.
                if goal <= free.saturating_add(store.size_on_disk(store.root()).unwrap_or(0)) {
                    self.collect(store, goal);
                }
                self.enter(store, &mut parts, ahead)
            }
            other => other,
        }
    }

    /// Claims disk space for an image of which only the manifest is known, as if every layer had to be unpacked.
    /// Returns `None` if there is too little; removes no image.
    pub fn claim_ahead(&self, store: &Store, manifest: &Manifest, unpack: bool) -> Option<Claim> {
        // The chain ids are not known yet; the blobs' digests serve as stand-ins, which match no stored layer.
        let part = |layer: &Descriptor| Part::new(layer, unpack.then_some(&layer.digest));
        let mut parts = manifest.layers.iter().map(part).collect();
        self.enter(store, &mut parts, None).ok()
    }

    /// Claims space for `parts`, and takes them, if there is enough. Compares and records under one lock, so two jobs
    /// cannot claim the same space.
    fn enter(
        &self,
        store: &Store,
        parts: &mut Vec<Part>,
        ahead: Option<&Claim>,
    ) -> Result<Claim, DiskSpaceError> {
        let mut claims = lock(&self.claims);
        match ahead {
            // No comparison: the earlier claim covered at least as much, and the job has used some of that space.
            Some(Claim { id, .. }) => drop(claims.remove(id)),
            None => self.compare(store, &claims, parts)?,
        }
        let id = self.next_claim.fetch_add(1, Ordering::Relaxed);
        claims.insert(id, std::mem::take(parts));
        Ok(Claim { claims: Arc::clone(&self.claims), id })
    }

    /// Compares the needs of `parts` with the free space that `claims` leave.
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

    /// Wraps a stream of unknown size: reading fails once too little space stays free beside all claims.
    pub fn checked_reader<'a, R: Read>(&'a self, store: &'a Store, from: R) -> CheckedReader<'a, R> {
        CheckedReader { room: self, store, from, left: 0, full: Arc::default() }
    }

    /// Checks whether a stream of unknown size may go on; removes unused images first, if the marks allow that.
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

    /// Removes unused content, the least recently used first, until `goal` bytes are free or nothing unused is left.
    fn collect(&self, store: &Store, goal: u64) {
        let _one = lock(&self.collecting);
        log::info!("free space is low: removing unused images until {} are free", size::format(goal));
        let before = free(store).map_or(0, |free| free.bytes);
        // Some file systems report removed files as free only later: also count the removed bytes.
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

    /// Removes images until `enough`, called with the bytes freed so far, returns true. Returns the bytes freed in the
    /// end.
    fn remove_oldest(&self, store: &Store, enough: &dyn Fn(u64) -> bool) -> Result<u64, ImageError> {
        // If an image cannot be read, all content must be kept: removing other images would free nothing.
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

/// A reader that fails before the disk is full.
pub struct CheckedReader<'a, R> {
    room: &'a DiskSpace,
    store: &'a Store,
    from: R,
    /// Bytes until the next check of the disk.
    left: u64,
    full: Full,
}

/// Why a [`CheckedReader`] reader failed; empty while it has not.
pub type Full = Arc<OnceLock<Arc<DiskSpaceError>>>;

impl<R> CheckedReader<'_, R> {
    /// A handle that outlives the reader and holds its error.
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
        // Once failed it stays failed, even if the failed job's temporaries have freed some space.
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
        // Not based on free space: other processes use and free it meanwhile.
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
        // A half-downloaded blob is also half unpacked.
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
