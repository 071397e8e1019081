//! The directory of an OCI layout: reads its files, and replaces them so that a kill leaves a readable layout.
//!
//! Called by `oci_layout_side`. The directory may be a stick that somebody else wrote: every path is opened beneath its
//! descriptor, openat2(2), and nothing is written through a symbolic link. Writes only these names: `oci-layout`,
//! `index.json`, `blobs/ALGORITHM/HEX`, and temporary files in `.sampan-uploads`, from where a rename gives them their
//! names. Changes of `index.json` are made under a lock of the directory, flock(2), which excludes every other engine on
//! this host. Other tools take no lock, so the index is read again before each change, and once more before its rename.

use crate::image::archive::manifest::blob_name;
use crate::image::archive::oci_layout::open_beneath;
use crate::replication::fault::fault;
use crate::replication::layout_index::LayoutIndex;
use crate::replication::upload::Uploads;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, renameat};
use nix::sys::stat::{Mode, fstat, mkdirat, stat};
use nix::unistd::{AccessFlags, UnlinkatFlags, access, unlinkat};
use sampan_oci::MANIFEST_MAX;
use sampan_oci::digest::{Algorithm, Digest};
use sampan_os::mutex::lock;
use sampan_os::small_file;
use sampan_replication::side::{FailureKind, SideError};
use serde::Deserialize;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

/// Longest `index.json`, in bytes, like that of an archive.
pub const INDEX_MAX: u64 = MANIFEST_MAX;
/// Longest `oci-layout`, in bytes.
const LAYOUT_MAX: u64 = 4096;
/// The only version of layouts. OCI image-spec, "oci-layout file".
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// The directory of temporary files and of uploads.
const UPLOADS: &str = ".sampan-uploads";
/// The temporary file of everything that is written under the lock; one is enough.
const STAGED: &str = "staged";
/// Bytes of an upload between two syncs: a slow stick writes them in a few seconds, so that a stop need not wait longer.
const SYNC_BYTES: u64 = 32 << 20;
/// How long an upload stays that no replication continues.
const UPLOAD_AGE: Duration = Duration::from_secs(7 * 86_400);
/// How long another engine may hold the lock of the directory.
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// Pause between two attempts to take the lock.
const LOCK_RETRY: Duration = Duration::from_millis(10);
/// How often the index is read again because another tool has changed it meanwhile.
const CHANGES_MAX: usize = 20;
/// Age at which a file's times tell its versions apart: FAT counts in units of two seconds.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// The directory, which need not exist yet.
pub struct LayoutDir {
    path: PathBuf,
    dir: OnceLock<OwnedFd>,
    /// Set once the directory was prepared for writing.
    uploads: OnceLock<Uploads>,
    preparing: Mutex<()>,
    /// The index as it was last read.
    cached: Mutex<Option<(Stamp, Arc<LayoutIndex>)>>,
}

/// Tells versions of a file apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The exclusive right to change the index; dropping it gives the right back.
pub struct IndexLock(#[expect(dead_code, reason = "dropping it releases the lock")] Flock<File>);

impl LayoutDir {
    /// Makes a layout of the directory `path`, which is opened when it is first needed.
    pub fn new(path: &Path) -> Self {
        LayoutDir {
            path: path.to_owned(),
            dir: OnceLock::new(),
            uploads: OnceLock::new(),
            preparing: Mutex::default(),
            cached: Mutex::default(),
        }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory's descriptor; `None` if there is no directory yet.
    fn dir(&self) -> Result<Option<&OwnedFd>, SideError> {
        if let Some(dir) = self.dir.get() {
            return Ok(Some(dir));
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match nix::fcntl::open(&self.path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(self.dir.get_or_init(|| fd))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(fault(format!("open the OCI layout {}", self.path.display()), errno.into())),
        }
    }

    /// Whether the path still leads to the directory that was opened. A stick may have been taken out.
    pub fn is_current(&self) -> bool {
        let Some(dir) = self.dir.get() else { return true };
        let (Ok(opened), Ok(found)) = (fstat(dir), stat(&self.path)) else { return false };
        (opened.st_dev, opened.st_ino) == (found.st_dev, found.st_ino)
    }

    fn opened(&self) -> Result<&OwnedFd, SideError> {
        let none = || {
            SideError::new(FailureKind::NotFound, format!("there is no OCI layout {}", self.path.display()))
        };
        self.dir()?.ok_or_else(none)
    }

    /// Opens a regular file, and returns its size; `None` if there is none. Never blocks.
    fn open(&self, name: &str) -> Result<Option<(File, u64)>, SideError> {
        let Some(dir) = self.dir()? else { return Ok(None) };
        let failed = |source| fault(format!("open {}", self.path.join(name).display()), source);
        let file = match open_beneath(dir, name, OFlag::O_RDONLY, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(errno) => return Err(failed(errno.into())),
        };
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() {
            let why = format!("{} is no regular file", self.path.join(name).display());
            return Err(SideError::new(FailureKind::Refused, why));
        }
        Ok(Some((file, meta.len())))
    }

    /// Opens a blob, and returns its size; `None` if there is none.
    ///
    /// # Errors
    /// [`FailureKind::Refused`]: the name leads out of the directory, or is no regular file.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<(File, u64)>, SideError> {
        self.open(&blob_name(digest))
    }

    /// Whether the layout has the blob in its full size.
    ///
    /// # Errors
    /// As [`LayoutDir::open_blob`].
    pub fn has_blob(&self, digest: &Digest, size: u64) -> Result<bool, SideError> {
        Ok(self.open_blob(digest)?.is_some_and(|(_, found)| found == size))
    }

    /// Reads a blob of at most `MANIFEST_MAX` bytes; `None` if there is none.
    ///
    /// # Errors
    /// [`FailureKind::Refused`]: it is longer, or as in [`LayoutDir::open_blob`].
    pub fn document(&self, digest: &Digest) -> Result<Option<Vec<u8>>, SideError> {
        let found = self.open_blob(digest)?;
        found.map(|(file, _)| self.read(&blob_name(digest), file, MANIFEST_MAX)).transpose()
    }

    fn read(&self, name: &str, file: File, max: u64) -> Result<Vec<u8>, SideError> {
        let bytes = small_file::read(file, max);
        let bytes =
            bytes.map_err(|source| fault(format!("read {}", self.path.join(name).display()), source))?;
        if bytes.len() as u64 > max {
            let why = format!("{} has more than {max} bytes", self.path.join(name).display());
            return Err(SideError::new(FailureKind::Refused, why));
        }
        Ok(bytes)
    }

    /// The index, possibly from memory; `None` if the layout has none.
    ///
    /// # Errors
    /// [`FailureKind::Refused`]: it is no valid index, or is longer than [`INDEX_MAX`].
    pub fn index(&self) -> Result<Option<Arc<LayoutIndex>>, SideError> {
        let Some((file, _)) = self.open("index.json")? else { return Ok(None) };
        let stamp = self.stamp(&file)?;
        if let Some((_, index)) = lock(&self.cached).as_ref().filter(|(cached, _)| *cached == stamp) {
            return Ok(Some(Arc::clone(index)));
        }
        self.check_version()?;
        let index = Arc::new(self.parse(&self.read("index.json", file, INDEX_MAX)?)?);
        // The times of a file that was just written do not tell its versions apart.
        *lock(&self.cached) = stamp.is_settled().then(|| (stamp, Arc::clone(&index)));
        Ok(Some(index))
    }

    fn parse(&self, bytes: &[u8]) -> Result<LayoutIndex, SideError> {
        LayoutIndex::parse(bytes).map_err(|source| self.json(source))
    }

    fn json(&self, source: serde_json::Error) -> SideError {
        let why = format!("{} is no index: {source}", self.path.join("index.json").display());
        SideError::new(FailureKind::Refused, why)
    }

    fn stamp(&self, file: &File) -> Result<Stamp, SideError> {
        let meta = file.metadata();
        let meta =
            meta.map_err(|source| fault(format!("look at {}/index.json", self.path.display()), source))?;
        Ok(Stamp {
            inode: (meta.dev(), meta.ino()),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    /// Checks that `oci-layout` names a version that this engine knows, if there is one.
    fn check_version(&self) -> Result<(), SideError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            image_layout_version: String,
        }
        let Some((file, _)) = self.open("oci-layout")? else { return Ok(()) };
        let bytes = self.read("oci-layout", file, LAYOUT_MAX)?;
        match serde_json::from_slice::<Version>(&bytes) {
            Ok(version) if version.image_layout_version.starts_with("1.") => Ok(()),
            _ => {
                let why = format!("{} is no OCI layout of version 1", self.path.display());
                Err(SideError::new(FailureKind::Refused, why))
            }
        }
    }

    /// Checks that the directory can be written to, or that it can be made. Changes nothing.
    ///
    /// # Errors
    /// [`FailureKind::Refused`]: it cannot, or it is a layout that this engine cannot read.
    pub fn check_writable(&self) -> Result<(), SideError> {
        let there = self.dir()?.is_some();
        if there {
            self.index()?;
            self.check_version()?;
        }
        // A directory that is missing is made in the closest one that is there.
        let closest = self.path.ancestors().find(|path| there || path.exists() || path.parent().is_none());
        let closest = closest.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        access(closest, AccessFlags::W_OK | AccessFlags::X_OK)
            .map_err(|errno| fault(format!("write to the OCI layout {}", self.path.display()), errno.into()))
    }

    /// Prepares the directory for writing, if that was not done yet: makes the directories, `oci-layout`, and an empty
    /// index. Returns the layout's uploads.
    ///
    /// # Errors
    /// [`FailureKind::Host`], [`FailureKind::Refused`]: a file cannot be made, or a name is a link or of another kind.
    pub fn uploads(&self, stop: &AtomicBool) -> Result<&Uploads, SideError> {
        if let Some(uploads) = self.uploads.get() {
            return Ok(uploads);
        }
        let _one = lock(&self.preparing);
        if let Some(uploads) = self.uploads.get() {
            return Ok(uploads);
        }
        let failed = |source| fault(format!("make the OCI layout {}", self.path.display()), source);
        fs::create_dir_all(&self.path).map_err(failed)?;
        let dir = self.opened()?;
        let lock = self.lock(stop)?;
        self.check_version()?;
        let uploads = Uploads::new(self.subdir(&[UPLOADS]).map_err(failed)?, Some(SYNC_BYTES));
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            // Most layouts have no blob with SHA-512, and need no directory for them.
            if algorithm == Algorithm::Sha256 {
                self.subdir(&["blobs", algorithm.word()]).map_err(failed)?;
            }
        }
        // The index is made last: a directory with an index is a layout.
        if self.open("oci-layout")?.is_none() {
            self.replace(&uploads, dir, "oci-layout", LAYOUT.as_bytes()).map_err(failed)?;
        }
        if self.open("index.json")?.is_none() {
            let bytes = LayoutIndex::empty().and_then(|index| index.to_bytes()).map_err(|e| self.json(e))?;
            self.replace(&uploads, dir, "index.json", &bytes).map_err(failed)?;
        }
        drop(lock);
        uploads.collect(UPLOAD_AGE);
        Ok(self.uploads.get_or_init(|| uploads))
    }

    /// The layout's uploads, if there are any; makes nothing in a directory that has none.
    ///
    /// # Errors
    /// As [`LayoutDir::uploads`].
    pub fn present_uploads(&self, stop: &AtomicBool) -> Result<Option<&Uploads>, SideError> {
        let Some(dir) = self.dir()? else { return Ok(None) };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        match open_beneath(dir, UPLOADS, flags, Mode::empty()) {
            Ok(_) => self.uploads(stop).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Opens a directory beneath the layout, and makes what is missing. Follows no link.
    fn subdir(&self, parts: &[&str]) -> io::Result<OwnedFd> {
        let top = self.dir.get().ok_or(io::ErrorKind::NotFound)?;
        let mut at = top.try_clone()?;
        for part in parts {
            let made = match mkdirat(&at, *part, Mode::from_bits_truncate(0o755)) {
                Err(Errno::EEXIST) => false,
                other => other.map(|()| true)?,
            };
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
            let next = open_beneath(&at, part, flags, Mode::empty())?;
            if made {
                self.own(&next)?;
                File::from(at).sync_all()?;
            }
            at = next;
        }
        Ok(at)
    }

    /// Gives a new file to the owner of the layout's directory, which need not be this process's user.
    fn own(&self, fd: impl AsFd) -> io::Result<()> {
        let dir = self.dir.get().ok_or(io::ErrorKind::NotFound)?;
        let meta = fstat(dir)?;
        match nix::unistd::fchown(fd, Some(meta.st_uid.into()), Some(meta.st_gid.into())) {
            // Not root, or a file system without owners: the file already has the owner that it can have.
            Err(Errno::EPERM) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Writes a temporary file, syncs it, and renames it to `name` in `dir`. The caller holds the lock of the
    /// directory, so no other engine has the temporary file.
    fn replace(&self, uploads: &Uploads, dir: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.stage(uploads, bytes)?;
        renameat(uploads.dir(), STAGED, dir, name)?;
        nix::unistd::fsync(dir)?;
        Ok(())
    }

    /// Writes the temporary file, and syncs it.
    fn stage(&self, uploads: &Uploads, bytes: &[u8]) -> io::Result<()> {
        // A killed engine may have left the file.
        match unlinkat(uploads.dir(), STAGED, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        let mode = Mode::from_bits_truncate(0o644);
        let mut file = File::from(open_beneath(uploads.dir(), STAGED, flags, mode)?);
        self.own(&file)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// Makes an upload the blob `digest`, after syncing it. The caller has checked its bytes.
    ///
    /// # Errors
    /// [`FailureKind::Host`]: the disk fails.
    pub fn name_blob(
        &self,
        uploads: &Uploads,
        location: &str,
        file: &File,
        digest: &Digest,
    ) -> Result<(), SideError> {
        let named = || -> io::Result<()> {
            self.own(file)?;
            file.sync_all()?;
            let dir = self.subdir(&["blobs", digest.algorithm().word()])?;
            renameat(uploads.dir(), location, &dir, digest.hex())?;
            Ok(nix::unistd::fsync(&dir)?)
        };
        named().map_err(|source| fault(format!("store blob {digest} in {}", self.path.display()), source))?;
        uploads.forget(location);
        Ok(())
    }

    /// Stores a small blob, unless the layout has it with these bytes. The caller holds the lock of the directory.
    ///
    /// # Errors
    /// [`FailureKind::Host`]: the disk fails.
    pub fn write_blob(
        &self,
        uploads: &Uploads,
        _lock: &IndexLock,
        digest: &Digest,
        bytes: &[u8],
    ) -> Result<(), SideError> {
        if self.document(digest).is_ok_and(|found| found.as_deref() == Some(bytes)) {
            return Ok(());
        }
        let dir = self.subdir(&["blobs", digest.algorithm().word()]);
        dir.and_then(|dir| self.replace(uploads, &dir, digest.hex(), bytes))
            .map_err(|source| fault(format!("store blob {digest} in {}", self.path.display()), source))
    }

    /// Removes a blob. Returns false if there is none. The caller holds the lock, and knows that no entry needs the
    /// blob.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove_blob(&self, _lock: &IndexLock, digest: &Digest) -> io::Result<bool> {
        let dir = self.subdir(&["blobs", digest.algorithm().word()])?;
        match unlinkat(&dir, digest.hex(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for the right to change the index. Ends with an error once `stop` is set.
    ///
    /// # Errors
    /// [`FailureKind::Temporary`]: another engine has held it for a minute.
    pub fn lock(&self, stop: &AtomicBool) -> Result<IndexLock, SideError> {
        let failed =
            |errno: Errno| fault(format!("lock the OCI layout {}", self.path.display()), errno.into());
        // A lock belongs to an opened directory: each caller opens it anew, so that threads exclude each other as well.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let mut file = File::from(open_beneath(self.opened()?, ".", flags, Mode::empty()).map_err(failed)?);
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(held) => return Ok(IndexLock(held)),
                Err((_, Errno::EWOULDBLOCK)) if stop.load(Ordering::Relaxed) => {
                    return Err(SideError::new(FailureKind::Temporary(None), "stopped"));
                }
                Err((again, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < deadline => file = again,
                Err((_, Errno::EWOULDBLOCK)) => {
                    let why =
                        format!("another engine holds the lock of the OCI layout {}", self.path.display());
                    return Err(SideError::new(FailureKind::Temporary(None), why));
                }
                Err((_, errno)) => return Err(failed(errno)),
            }
            // flock(2) has no timeout, and another engine's unlock is no event, but `stop` must end the wait.
            std::thread::sleep(LOCK_RETRY);
        }
    }

    /// Changes the index: reads it, calls `change`, and replaces the file if `change` returns true. Reads it again if
    /// another tool has changed the file meanwhile.
    ///
    /// # Errors
    /// The error of `change`; [`FailureKind::Refused`]: the index is not valid or too long; [`FailureKind::Host`].
    pub fn change_index(
        &self,
        uploads: &Uploads,
        _lock: &IndexLock,
        change: &mut dyn FnMut(&mut LayoutIndex) -> Result<bool, SideError>,
    ) -> Result<(), SideError> {
        let dir = self.opened()?;
        let failed = |source| fault(format!("write {}", self.path.join("index.json").display()), source);
        for _ in 0..CHANGES_MAX {
            let before = self.open("index.json")?;
            let stamp = before.as_ref().map(|(file, _)| self.stamp(file)).transpose()?;
            let mut index = match before {
                Some((file, _)) => self.parse(&self.read("index.json", file, INDEX_MAX)?)?,
                None => LayoutIndex::empty().map_err(|source| self.json(source))?,
            };
            if !change(&mut index)? {
                return Ok(());
            }
            let bytes = index.to_bytes().map_err(|source| self.json(source))?;
            if bytes.len() as u64 > INDEX_MAX {
                // A longer file could be written but not read again.
                let why = format!("the OCI layout {} has too many tags", self.path.display());
                return Err(SideError::new(FailureKind::Refused, why));
            }
            self.stage(uploads, &bytes).map_err(failed)?;
            let now = self.open("index.json")?.map(|(file, _)| self.stamp(&file)).transpose()?;
            if now == stamp {
                renameat(uploads.dir(), STAGED, dir, "index.json").map_err(|e| failed(e.into()))?;
                return nix::unistd::fsync(dir).map_err(|errno| failed(errno.into()));
            }
        }
        let why = format!("another tool keeps changing {}", self.path.join("index.json").display());
        Err(SideError::new(FailureKind::Temporary(None), why))
    }
}

impl Stamp {
    /// Whether the file is so old that another version of it would have other times.
    fn is_settled(&self) -> bool {
        let modified = u64::try_from(self.modified.0).map(Duration::from_secs).unwrap_or_default();
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + modified);
        age.is_ok_and(|age| age > SETTLED_AFTER)
    }
}
