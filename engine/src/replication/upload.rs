//! Upload files: blobs that a replication writes into a directory of this host piece by piece.
//!
//! Called by `oci_layout_side` and `store_side`. The name of the file is the location of the session: it holds the
//! blob's digest and a number that no other session has, so that several tasks may send the same blob. The length of
//! the file is the offset: a session survives its task and the engine. A file gets the blob's name only after its size
//! was compared, and its digest as well unless this process itself wrote all bytes, which the copier has hashed.

use crate::image::archive::oci_layout::open_beneath;
use crate::replication::fault::fault;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use sampan_oci::Descriptor;
use sampan_oci::digest::{Digest, Hasher};
use sampan_os::mutex::lock;
use sampan_replication::side::{FailureKind, SideError};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// What stands between digest and number in the name of a file.
const MARK: &str = ".upload-";
/// Most files of one digest that are tried before a name is free.
const ATTEMPTS: usize = 16;

/// The upload files of one directory.
pub struct Uploads {
    dir: OwnedFd,
    /// For each session, how many bytes from the start this process has written.
    written: Mutex<HashMap<String, u64>>,
    /// After how many bytes a file is synced; `None` leaves that to the caller.
    sync_every: Option<u64>,
}

impl Uploads {
    /// Makes the upload files of the directory `dir`. With `sync_every`, a file is synced after each so many bytes, so
    /// that a slow disk takes its time while the bytes come, and not at the end.
    pub fn new(dir: OwnedFd, sync_every: Option<u64>) -> Self {
        Uploads { dir, written: Mutex::default(), sync_every }
    }

    /// The directory.
    pub fn dir(&self) -> impl AsFd {
        &self.dir
    }

    /// Makes an empty file for a blob, and returns the location of the session.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(&self, digest: &Digest) -> Result<String, SideError> {
        let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        for nth in 0..ATTEMPTS as u128 {
            let number = clock.wrapping_add(nth);
            let name = format!("{}-{}{MARK}{number:x}", digest.algorithm().word(), digest.hex());
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
            match open_beneath(&self.dir, &name, flags, Mode::from_bits_truncate(0o644)) {
                Ok(_) => {
                    lock(&self.written).insert(name.clone(), 0);
                    return Ok(name);
                }
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(fault(format!("make a file for blob {digest}"), errno.into())),
            }
        }
        Err(fault(format!("make a file for blob {digest}"), Errno::EEXIST.into()))
    }

    /// The number of bytes of a session; `None` if there is no such session.
    ///
    /// # Errors
    /// The file cannot be examined.
    pub fn len(&self, location: &str) -> Result<Option<u64>, SideError> {
        Ok(self.open(location, OFlag::O_RDONLY)?.map(|(_, len)| len))
    }

    /// Writes `bytes` at the offset `at`, and drops what the file has behind them. Returns the new length.
    ///
    /// # Errors
    /// [`FailureKind::LostSession`]: there is no such session, or it has fewer than `at` bytes.
    /// [`FailureKind::Corrupt`]: the blob has fewer bytes. [`FailureKind::Host`]: the disk is full.
    pub fn write(&self, location: &str, blob: &Descriptor, at: u64, bytes: &[u8]) -> Result<u64, SideError> {
        let end = at.saturating_add(bytes.len() as u64);
        if end > blob.size {
            let why = format!("blob {} has more than {} bytes", blob.digest, blob.size);
            return Err(SideError::new(FailureKind::Corrupt, why));
        }
        let found =
            if belongs_to(location, &blob.digest) { self.open(location, OFlag::O_WRONLY)? } else { None };
        let Some((file, len)) = found.filter(|(_, len)| *len >= at) else {
            let why = format!("the upload of blob {} does not have its first {at} bytes", blob.digest);
            return Err(SideError::new(FailureKind::LostSession, why));
        };
        let failed = |source| fault(format!("write blob {}", blob.digest), source);
        if len > at {
            file.set_len(at).map_err(failed)?;
        }
        {
            // Bytes that another process wrote are not known to be right.
            let mut written = lock(&self.written);
            let known = written.entry(location.to_owned()).or_default();
            *known = if *known >= at { at } else { *known };
        }
        file.write_all_at(bytes, at).map_err(failed)?;
        if let Some(known) = lock(&self.written).get_mut(location).filter(|known| **known == at) {
            *known = end;
        }
        if self.sync_every.is_some_and(|every| at / every != end / every) {
            file.sync_data().map_err(failed)?;
        }
        Ok(end)
    }

    /// Checks that a session has the whole blob, and the right bytes; returns the file. Ends with an error once `stop`
    /// is set.
    ///
    /// # Errors
    /// [`FailureKind::LostSession`]: there is no such session, or it has other bytes. Wrong bytes are removed.
    pub fn check(&self, location: &str, blob: &Descriptor, stop: &AtomicBool) -> Result<File, SideError> {
        let lost = |what: String| SideError::new(FailureKind::LostSession, what);
        let found =
            if belongs_to(location, &blob.digest) { self.open(location, OFlag::O_RDWR)? } else { None };
        let Some((mut file, len)) = found else {
            return Err(lost(format!("the upload of blob {} is gone", blob.digest)));
        };
        if len != blob.size {
            return Err(lost(format!("the upload of blob {} has {len} of {} bytes", blob.digest, blob.size)));
        }
        let is_known = lock(&self.written).get(location).is_some_and(|written| *written == len);
        if !is_known {
            let found = digest_of(&mut file, &blob.digest, stop)
                .map_err(|source| fault(format!("read blob {}", blob.digest), source))?;
            if found != blob.digest {
                self.remove(location)?;
                return Err(lost(format!("the upload of blob {} has other bytes", blob.digest)));
            }
        }
        Ok(file)
    }

    /// Forgets a session whose file has the blob's name now.
    pub fn forget(&self, location: &str) {
        lock(&self.written).remove(location);
    }

    /// Removes the file of a session. Returns false if there is none.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self, location: &str) -> Result<bool, SideError> {
        self.forget(location);
        if !is_location(location) {
            return Ok(false);
        }
        match unlinkat(&self.dir, location, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(fault(format!("remove the upload {location}"), errno.into())),
        }
    }

    /// Removes the upload files that nothing has written to for `age`. Never removes another file.
    pub fn collect(&self, age: Duration) {
        let Some(oldest) = SystemTime::now().checked_sub(age) else { return };
        // A descriptor of its own: one that was duplicated would share its position in the list.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let listed = open_beneath(&self.dir, ".", flags, Mode::empty()).and_then(nix::dir::Dir::from_fd);
        for entry in listed.into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().to_str() else { continue };
            let Ok(Some((file, _))) = self.open(name, OFlag::O_RDONLY) else { continue };
            if file.metadata().and_then(|meta| meta.modified()).is_ok_and(|modified| modified <= oldest) {
                log::info!("removing the upload {name}: no replication has continued it");
                // An upload that stays takes space, and is looked at again by the next collection.
                let _ = self.remove(name);
            }
        }
    }

    /// Opens the file of a session, and returns its length; `None` if there is none.
    fn open(&self, location: &str, flags: OFlag) -> Result<Option<(File, u64)>, SideError> {
        if !is_location(location) {
            return Ok(None);
        }
        let failed = |source| fault(format!("open the upload {location}"), source);
        let file = match open_beneath(&self.dir, location, flags | OFlag::O_NOFOLLOW, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(failed(errno.into())),
        };
        let meta = file.metadata().map_err(failed)?;
        Ok(meta.is_file().then_some((file, meta.len())))
    }
}

/// Whether a location has the form of those that [`Uploads::create`] makes. Journals and directories of others may hold
/// anything.
fn is_location(location: &str) -> bool {
    let Some((digest, number)) = location.split_once(MARK) else { return false };
    Digest::parse(&digest.replacen('-', ":", 1)).is_ok()
        && !number.is_empty()
        && number.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether the session is one for the blob `digest`.
fn belongs_to(location: &str, digest: &Digest) -> bool {
    let of = location.split_once(MARK).map(|(of, _)| of);
    of.is_some_and(|of| of == format!("{}-{}", digest.algorithm().word(), digest.hex()))
}

/// Computes the digest of a file with the algorithm of `like`.
fn digest_of(file: &mut File, like: &Digest, stop: &AtomicBool) -> io::Result<Digest> {
    file.rewind()?;
    let mut hasher = Hasher::new(like.algorithm());
    let mut buffer = vec![0; 256 << 10];
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            len => hasher.update(buffer.get(..len).unwrap_or_default()),
        }
    }
}
