//! Verifies the store: reads all of it and reports damaged content.
//!
//! Runs as a job with one progress row for each blob and, for a deep verification, for each unpacked layer. Blobs are
//! hashed from the disk, not from the page cache. A deep verification unpacks each layer's blob again into a temporary
//! and compares it with the layer entry by entry ([`sampan_layer::compare`]). The job removes a blob with a wrong
//! digest, so that the next pull does not use it, and replaces a damaged layer by the newly unpacked one, unless
//! another job is using the blob or layer. The job runs at low priority and holds no lock, so it does not report
//! content that is removed meanwhile. Never touches `index.json`.

use crate::error;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use sampan_ipc::announce::Announcer;
use sampan_ipc::engine::{Code, Failure, Phase};
use sampan_ipc::report::chain;
use sampan_job::cancel::{Cancel, Cancelled};
use sampan_job::progress::Progress;
use sampan_layer::compare::compare;
use sampan_layer::decompress;
use sampan_layer::tar::TarError;
use sampan_layer::unpack::{self, UnpackError};
use sampan_oci::Descriptor;
use sampan_oci::digest::{Digest, Hasher};
use sampan_os::syscall;
use sampan_store::images::{self, ImageError};
use sampan_store::{Store, StoreError, Temp, file_error};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// Most progress rows, so that an answer fits into a frame; further blobs and layers share the last row.
const ROWS_MAX: usize = 2000;
/// Longest note of a row, in characters, so that an answer fits into a frame.
const NOTE_MAX: usize = 160;
/// Most findings that a report lists; the report counts all findings.
const FINDINGS_MAX: usize = 100;
/// Most findings in the job's error message.
const MESSAGE_FINDINGS_MAX: usize = 5;
/// Size of the read buffer, in bytes.
const BUFFER: usize = 128 << 10;

/// A blob or layer that is damaged or could not be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The blob or layer: `blob sha256:…` or `layer sha256:…`.
    pub what: String,
    /// The image that needs the blob or layer: a reference or a digest; empty if no image needs it.
    pub image: String,
    /// Description of the damage and of the repair.
    pub why: String,
}

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of blobs and layers that were checked.
    pub seen: u64,
    /// Number of damaged blobs and layers.
    pub broken: u64,
    /// The first damaged blobs and layers.
    pub findings: Vec<Finding>,
    /// Number of blobs and layers that could not be checked.
    pub unknown: u64,
    /// The first blobs and layers that could not be checked.
    pub unknowns: Vec<Finding>,
}

impl Report {
    /// The job's failure; `None` if all parts were checked and none is damaged.
    pub fn failure(&self) -> Option<Failure> {
        let summary = |count: u64, findings: &[Finding], what: &str| {
            let named: Vec<String> = findings.iter().take(MESSAGE_FINDINGS_MAX).map(Finding::line).collect();
            let more = count.saturating_sub(named.len() as u64);
            let more = if more == 0 { String::new() } else { format!("; and {more} more") };
            format!(
                "{count} of {} blobs and layers in the store {what}: {}{more}",
                self.seen,
                named.join("; ")
            )
        };
        let unknown = || summary(self.unknown, &self.unknowns, "could not be verified");
        let broken = || summary(self.broken, &self.findings, "are damaged");
        let (message, hint) = match (self.broken, self.unknown) {
            (0, 0) => return None,
            (0, _) => (unknown(), "no damage was found; verify again once the reason is gone"),
            (_, 0) => (broken(), PULL_AGAIN),
            (_, _) => (format!("{}; {}", broken(), unknown()), PULL_AGAIN),
        };
        Some(error::new(Code::Failed, message, hint))
    }
}

const PULL_AGAIN: &str =
    "'sampan pull' the images again, which fetches and unpacks what is missing, or 'sampan rmi' them";

impl Finding {
    fn line(&self) -> String {
        let Finding { what, image, why } = self;
        let of = if image.is_empty() { String::new() } else { format!(" of {image}") };
        format!("{what}{of} {why}")
    }
}

/// Announces each damaged blob and layer.
pub fn announce(announcer: &Announcer, report: &Report) {
    for Finding { what, image, why } in &report.findings {
        announcer.image("verify-error", image, &[("part", what), ("reason", why)], None);
    }
}

/// Why the store could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// `index.json` or a directory cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The parameters of a verification.
pub struct Verify<'a> {
    /// The store to verify.
    pub store: &'a Store,
    /// Largest accepted zstd window, as a power of two.
    pub window_log: u32,
    /// Whether to compare unpacked layers with their blobs.
    pub deep: bool,
    /// The job's progress.
    pub progress: &'a Progress,
    /// Cancels the job.
    pub cancel: &'a Cancel,
}

/// An image that needs a blob or layer.
struct Owner {
    digest: Digest,
    name: String,
}

/// A blob or layer to check.
enum Part {
    Blob {
        digest: Digest,
        size: Option<u64>,
    },
    /// An unpacked layer. `stack` holds the chain ids of all layers of its image.
    Layer {
        chain_id: Digest,
        blob: Descriptor,
        diff_id: Digest,
        stack: Arc<[Digest]>,
    },
}

/// All blobs and layers to check, each with the index of an image that needs it.
#[derive(Default)]
struct Plan {
    owners: Vec<Owner>,
    parts: Vec<(Part, Option<usize>)>,
    /// The reason why an image's documents cannot be parsed, by the digest of the image's manifest.
    unreadable: HashMap<Digest, String>,
}

/// The result of checking a blob or layer.
enum Verdict {
    Fine,
    /// The blob or layer was removed during the verification, and no image needs it.
    Gone,
    Broken(String),
    /// The blob or layer could not be checked and may be intact; the text says why.
    Unknown(String),
}

impl Verify<'_> {
    /// Checks all blobs and layers. Lowers the calling thread's priority and does not restore it.
    ///
    /// # Errors
    /// [`VerifyError`]: the job was cancelled, or the store cannot be listed. A damaged blob or layer is no error: the
    /// report lists it.
    pub fn run(&self) -> Result<Report, VerifyError> {
        syscall::lower_priority();
        let plan = self.plan()?;
        self.progress.begin(rows(&plan.parts));
        let mut report = Report::default();
        let mut broken: HashSet<&Digest> = HashSet::new();
        let mut shared_row_failed = false;
        for (nth, (part, owner)) in plan.parts.iter().enumerate() {
            let row = nth.min(ROWS_MAX - 1);
            let owner = owner.and_then(|owner| plan.owners.get(owner));
            self.progress.phase(row, Phase::Verifying);
            let verdict = match part {
                Part::Blob { digest, size } => {
                    match (self.blob(digest, *size, owner, row)?, plan.unreadable.get(digest)) {
                        (Verdict::Fine, Some(why)) => Verdict::Broken(why.clone()),
                        (verdict, _) => verdict,
                    }
                }
                Part::Layer { blob, .. } if broken.contains(&blob.digest) => {
                    Verdict::Unknown("cannot be compared: its blob is damaged".to_owned())
                }
                Part::Layer { chain_id, blob, diff_id, stack } => {
                    self.layer(chain_id, blob, diff_id, stack, owner, row)?
                }
            };
            report.seen += 1;
            if let (Verdict::Broken(_), Part::Blob { digest, .. }) = (&verdict, part) {
                broken.insert(digest);
            }
            if let Verdict::Broken(why) | Verdict::Unknown(why) = &verdict {
                shared_row_failed |= row == ROWS_MAX - 1;
                self.progress.fail(row, &why.chars().take(NOTE_MAX).collect::<String>());
                report.add(part, owner, &verdict);
            } else if row < ROWS_MAX - 1 || (nth + 1 == plan.parts.len() && !shared_row_failed) {
                self.progress.phase(row, Phase::Complete);
            }
        }
        Ok(report)
    }

    /// Lists all blobs that images need, all other blobs, and the layers.
    fn plan(&self) -> Result<Plan, VerifyError> {
        let mut plan = Plan::default();
        let mut known: HashSet<Digest> = HashSet::new();
        let mut layers: Vec<(Part, Option<usize>)> = Vec::new();
        for (entry, references) in images::entries(self.store)? {
            self.cancel.check()?;
            let owner = plan.owners.len();
            let name = references.into_iter().next().unwrap_or_else(|| entry.digest.to_string());
            plan.owners.push(Owner { digest: entry.digest.clone(), name });
            plan.blob(&mut known, &entry.digest, entry.size, owner);
            let manifest = match images::manifest(self.store, &entry) {
                Ok(manifest) => manifest,
                Err(error) => {
                    plan.note(&entry.digest, &error);
                    continue;
                }
            };
            for blob in [&manifest.config].into_iter().chain(&manifest.layers) {
                plan.blob(&mut known, &blob.digest, blob.size, owner);
            }
            let config = match images::config(self.store, &entry, &manifest) {
                Ok(config) => config,
                Err(error) => {
                    plan.note(&entry.digest, &error);
                    continue;
                }
            };
            let chain_ids: Arc<[Digest]> = config.chain_ids().into();
            // An image that was never unpacked has no layers in the store. An image with a layer in the store also
            // needs all layers below that layer.
            let unpacked = chain_ids.iter().rposition(|id| self.store.has_layer(id)).map_or(0, |top| top + 1);
            let parts = chain_ids.iter().zip(&manifest.layers).zip(&config.rootfs.diff_ids).take(unpacked);
            for ((chain_id, blob), diff_id) in parts {
                if (self.deep || !self.store.has_layer(chain_id)) && known.insert(layer_key(chain_id)) {
                    let (chain_id, blob, diff_id) = (chain_id.clone(), blob.clone(), diff_id.clone());
                    let stack = Arc::clone(&chain_ids);
                    layers.push((Part::Layer { chain_id, blob, diff_id, stack }, Some(owner)));
                }
            }
        }
        for digest in self.stray_blobs()? {
            if known.insert(digest.clone()) {
                plan.parts.push((Part::Blob { digest, size: None }, None));
            }
        }
        plan.parts.append(&mut layers);
        Ok(plan)
    }

    fn stray_blobs(&self) -> Result<Vec<Digest>, StoreError> {
        let mut digests = Vec::new();
        for algorithm in ["sha256", "sha512"] {
            let dir = self.store.root().join("blobs").join(algorithm);
            let entries = match fs::read_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(file_error("list", &dir))?,
            };
            for entry in entries {
                let name = entry.map_err(file_error("list", &dir))?.file_name();
                let digest =
                    name.to_str().and_then(|name| Digest::parse(&format!("{algorithm}:{name}")).ok());
                digests.extend(digest);
            }
        }
        digests.sort();
        Ok(digests)
    }

    /// Hashes a blob, and checks its digest and its size.
    fn blob(
        &self,
        digest: &Digest,
        size: Option<u64>,
        owner: Option<&Owner>,
        row: usize,
    ) -> Result<Verdict, Cancelled> {
        let path = self.store.blob_path(digest);
        let file = match open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(self.missing(owner)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Ok(Verdict::Broken(self.discard_blob(digest, "is no regular file")));
            }
            Err(error) => return Ok(Verdict::Broken(format!("cannot be opened: {error}"))),
        };
        let mut hasher = Hasher::new(digest.algorithm());
        let mut from = Watched { from: &file, cancel: self.cancel, progress: self.progress, row, count: 0 };
        let mut buffer = vec![0; BUFFER];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => hasher.update(buffer.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.cancel.check()?;
                    return Ok(Verdict::Broken(
                        self.discard_blob(digest, &format!("cannot be read: {error}")),
                    ));
                }
            }
        }
        let (found, len) = (hasher.finish(), from.count);
        forget(&file);
        if found != *digest {
            return Ok(Verdict::Broken(self.discard_blob(digest, &format!("has digest {found}"))));
        }
        match size.filter(|size| *size != len) {
            Some(size) => Ok(Verdict::Broken(format!("has {len} bytes, its image expects {size}"))),
            None => Ok(Verdict::Fine),
        }
    }

    fn missing(&self, owner: Option<&Owner>) -> Verdict {
        let wanted = owner.is_some_and(|owner| match images::entries(self.store) {
            Ok(entries) => entries.iter().any(|(entry, _)| entry.digest == owner.digest),
            Err(_) => true,
        });
        if wanted { Verdict::Broken("is missing".to_owned()) } else { Verdict::Gone }
    }

    /// Unpacks a layer's blob again and compares the layer with it.
    fn layer(
        &self,
        chain_id: &Digest,
        blob: &Descriptor,
        diff_id: &Digest,
        stack: &[Digest],
        owner: Option<&Owner>,
        row: usize,
    ) -> Result<Verdict, Cancelled> {
        let is_there = self.store.has_layer(chain_id);
        if !is_there && matches!(self.missing(owner), Verdict::Gone) {
            return Ok(Verdict::Gone);
        }
        // Comparing extended attributes needs /proc/self/fd: no system call takes a directory's descriptor and a name.
        if is_there && !Path::new("/proc/self/fd").exists() {
            return Ok(Verdict::Unknown(
                "cannot be compared: /proc is not mounted for the engine".to_owned(),
            ));
        }
        if !is_there && !self.deep {
            return Ok(Verdict::Broken(self.discard_layer(chain_id, "is missing")));
        }
        let since = SystemTime::now();
        let fresh = match self.unpack(blob, diff_id, row) {
            Ok(fresh) => fresh,
            Err(error) => {
                self.cancel.check()?;
                let why = format!("its blob cannot be unpacked: {}", chain(&error));
                return Ok(match error {
                    _ if !is_there => Verdict::Broken(format!("is missing, and {why}")),
                    // An error of this process, such as a full disk, does not show that the layer is damaged.
                    UnpackError::File { .. } | UnpackError::InNamespace(_) => {
                        Verdict::Unknown(format!("cannot be compared, since {why}"))
                    }
                    UnpackError::Tar(_) | UnpackError::Refused { .. } => {
                        Verdict::Broken(format!("cannot be compared, since {why}"))
                    }
                });
            }
        };
        let below = stack.split(|id| id == chain_id).next().unwrap_or_default();
        let settled = self.store.complete_layer(fresh.path(), below, self.cancel);
        self.cancel.check()?;
        if !is_there {
            // `settled` may be an error here, because a lower layer may be missing as well. A later pull of the missing
            // layer then completes this layer.
            return Ok(Verdict::Broken(self.replace_layer(chain_id, fresh, "is missing")));
        }
        if let Err(error) = settled {
            return Ok(Verdict::Unknown(format!("cannot be compared: {}", chain(&error))));
        }
        let path = self.store.layer_path(chain_id).join("diff");
        let expected = fresh.path().join("diff");
        let compared = match self.store.namespace() {
            Some(namespace) => namespace.compare(&expected, &path, since),
            None => compare(&expected, &path, since, self.cancel),
        };
        self.cancel.check()?;
        match compared {
            Ok(differences) if differences.count == 0 => Ok(Verdict::Fine),
            Ok(differences) => {
                let count = differences.count;
                let why =
                    format!("differs from its blob in {count} entries: {}", differences.first.join(", "));
                Ok(Verdict::Broken(self.replace_layer(chain_id, fresh, &why)))
            }
            Err(_) if !path.exists() => Ok(self.missing(owner)),
            Err(error) => Ok(Verdict::Unknown(format!("cannot be compared: {error}"))),
        }
    }

    /// Unpacks a blob into a temporary, and checks the diff id.
    fn unpack(&self, blob: &Descriptor, diff_id: &Digest, row: usize) -> Result<Temp, UnpackError> {
        let read = |error| UnpackError::Tar(TarError::Read(error));
        let file = open(&self.store.blob_path(&blob.digest)).map_err(read)?;
        let from = Watched { from: &file, cancel: self.cancel, progress: self.progress, row, count: 0 };
        let (_, decoded) = decompress::open(from, self.window_log).map_err(read)?;
        let temp = self.store.temp_layer().map_err(|error| UnpackError::InNamespace(chain(&error)))?;
        let mut hashed = Hashed { from: decoded, hasher: Hasher::new(diff_id.algorithm()) };
        let root = temp.path().join("diff");
        match self.store.namespace() {
            Some(namespace) => namespace.unpack(&mut hashed, &root)?,
            None => unpack::unpack(BufReader::with_capacity(BUFFER, &mut hashed), &root)?.0,
        };
        io::copy(&mut hashed, &mut io::sink()).map_err(read)?;
        let found = hashed.hasher.finish();
        forget(&file);
        match found == *diff_id {
            true => Ok(temp),
            false => Err(read(io::Error::other(format!("it has diff id {found}, expected {diff_id}")))),
        }
    }

    fn discard_blob(&self, digest: &Digest, why: &str) -> String {
        format!("{why}{}", removal_note(self.store.discard_blob(digest)))
    }

    /// Removes a file or directory that is no layer from a layer's path, because it would prevent a pull from creating
    /// the layer.
    fn discard_layer(&self, chain_id: &Digest, why: &str) -> String {
        match self.store.layer_path(chain_id).symlink_metadata() {
            Ok(_) => format!("{why}{}", removal_note(self.store.discard_layer(chain_id))),
            Err(_) => why.to_owned(),
        }
    }

    /// Replaces a missing or damaged layer by the newly unpacked layer `fresh`.
    fn replace_layer(&self, chain_id: &Digest, fresh: Temp, why: &str) -> String {
        if self.store.layer_path(chain_id).symlink_metadata().is_ok() {
            match self.store.discard_layer(chain_id) {
                Ok(true) => {}
                other => return format!("{why}{}", removal_note(other)),
            }
        }
        // `index.json` already lists an image with this layer, so the layer must be on the disk before it gets its
        // final name.
        match self.store.sync().and_then(|()| self.store.name_layer(fresh, chain_id)) {
            Ok(()) => format!("{why}; it was unpacked again"),
            Err(error) => format!("{why}; it was removed and could not be replaced: {}", chain(&error)),
        }
    }
}

fn removal_note(discarded: Result<bool, StoreError>) -> String {
    match discarded {
        Ok(true) => "; it was removed".to_owned(),
        Ok(false) => "; a job is using it, so it was kept: verify again later".to_owned(),
        Err(error) => format!("; it cannot be removed: {}", chain(&error)),
    }
}

impl Plan {
    fn blob(&mut self, known: &mut HashSet<Digest>, digest: &Digest, size: u64, owner: usize) {
        if known.insert(digest.clone()) {
            self.parts.push((Part::Blob { digest: digest.clone(), size: Some(size) }, Some(owner)));
        }
    }

    /// Records that an image's documents cannot be parsed. Ignores a missing blob and a wrong digest: hashing the blob
    /// finds these errors.
    fn note(&mut self, manifest: &Digest, error: &ImageError) {
        if let ImageError::Unreadable { source, .. } = error {
            self.unreadable.insert(
                manifest.clone(),
                format!("is of an image with an invalid document: {}", chain(source)),
            );
        }
    }
}

impl Report {
    /// Adds a blob or layer that is not intact to the report: counts it, and lists the first [`FINDINGS_MAX`].
    fn add(&mut self, part: &Part, owner: Option<&Owner>, verdict: &Verdict) {
        let (count, findings, why) = match verdict {
            Verdict::Fine | Verdict::Gone => return,
            Verdict::Broken(why) => (&mut self.broken, &mut self.findings, why),
            Verdict::Unknown(why) => (&mut self.unknown, &mut self.unknowns, why),
        };
        *count += 1;
        if findings.len() < FINDINGS_MAX {
            let what = match part {
                Part::Blob { digest, .. } => format!("blob {digest}"),
                Part::Layer { chain_id, .. } => format!("unpacked layer {chain_id}"),
            };
            let image = owner.map(|owner| owner.name.clone()).unwrap_or_default();
            findings.push(Finding { what, image, why: why.clone() });
        }
    }
}

/// The key of a layer in a set that also contains blobs. The chain id cannot be the key, because it may equal the
/// digest of the layer's blob.
fn layer_key(chain_id: &Digest) -> Digest {
    Digest::of(format!("layer {chain_id}").as_bytes())
}

/// The label and the total size of each progress row.
fn rows(parts: &[(Part, Option<usize>)]) -> Vec<(String, u64)> {
    let mut rows: Vec<(String, u64)> = Vec::with_capacity(parts.len().min(ROWS_MAX));
    for (part, _) in parts {
        let (id, total) = match part {
            Part::Blob { digest, size } => (digest.short(), size.unwrap_or(0)),
            Part::Layer { chain_id, blob, .. } => (chain_id.short(), blob.size),
        };
        match rows.get_mut(ROWS_MAX - 1) {
            None => rows.push((id.to_owned(), total)),
            Some((id, sum)) => {
                "others".clone_into(id);
                *sum = sum.saturating_add(total);
            }
        }
    }
    rows
}

/// Opens a regular file, and drops it from the page cache so that reads come from the disk.
fn open(path: &Path) -> io::Result<File> {
    // O_NONBLOCK: opening a FIFO in the file's place must not block.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => Err(io::ErrorKind::InvalidData.into()),
        other => other,
    }?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    forget(&file);
    Ok(file)
}

/// Drops the file from the page cache, because it will not be read again soon.
fn forget(file: &File) {
    let _ = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

/// A reader that reports the bytes as progress, and fails after the job was cancelled.
struct Watched<'a> {
    from: &'a File,
    cancel: &'a Cancel,
    progress: &'a Progress,
    row: usize,
    count: u64,
}

impl Read for Watched<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.cancel.check().map_err(io::Error::other)?;
        let len = self.from.read(into)?;
        self.count += len as u64;
        self.progress.add(self.row, len as u64);
        Ok(len)
    }
}

/// A reader that hashes the bytes.
struct Hashed<R> {
    from: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.from.read(into)?;
        self.hasher.update(into.get(..len).unwrap_or_default());
        Ok(len)
    }
}
