//! Caches the parsed registries.conf files for as long as they do not change.
//!
//! The engine's configuration owns a [`Files`]; each pull calls [`Files::load`], which calls stat(2) on every file and
//! directory of the last load. All files are read again if one has changed, or if its time stamp is too recent to
//! prove that it has not changed. Only successful results are cached, never errors.

use crate::config::error::RegistriesError;
use crate::config::registries_conf::Registries;
use sampan_os::mutex::lock;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// Age of a time stamp below which it does not prove an unchanged file: two changes within one tick of the kernel get
/// one time stamp, and some file systems store only whole seconds.
const STAMP_AGE_MIN: Duration = Duration::from_secs(2);

/// The paths of the files, and the cached result of the last load. Clones share the cache.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Path of the main file; `None` means the host's main file.
    conf: Option<PathBuf>,
    cached: Arc<Mutex<Option<CachedFiles>>>,
}

#[derive(Debug)]
struct CachedFiles {
    stamps: Vec<FileStamp>,
    registries: Arc<Registries>,
}

/// The state of a file or directory when it was read.
#[derive(Debug, PartialEq, Eq)]
struct FileStamp {
    path: PathBuf,
    /// Device, inode, size, mtime and ctime; `None` if there was no file.
    stamp: Option<[u64; 7]>,
}

impl PartialEq for Files {
    fn eq(&self, other: &Self) -> bool {
        self.conf == other.conf
    }
}

impl Eq for Files {}

impl Files {
    /// Makes the cache for the files that start at `conf`; `None` means the host's main file. Reads nothing yet.
    pub fn new(conf: Option<PathBuf>) -> Self {
        Files { conf, cached: Arc::default() }
    }

    /// The current content of the files.
    ///
    /// # Errors
    /// The errors of [`Registries::load`]. The next call reads the files again.
    pub fn load(&self) -> Result<Arc<Registries>, RegistriesError> {
        let mut cached = lock(&self.cached);
        if let Some(cached) = cached.as_ref().filter(|cached| cached.stamps.iter().all(FileStamp::is_current))
        {
            return Ok(Arc::clone(&cached.registries));
        }
        *cached = None;
        // Take the time stamps before reading: a change between the two then shows as a change at the next call.
        let files = Registries::files(self.conf.as_deref())?;
        let stamps: Vec<FileStamp> = files.into_iter().map(FileStamp::take).collect();
        let registries = Arc::new(Registries::load(self.conf.as_deref())?);
        if !stamps.iter().any(|stamp| stamp.is_too_recent()) {
            *cached = Some(CachedFiles { stamps, registries: Arc::clone(&registries) });
        }
        Ok(registries)
    }
}

impl FileStamp {
    fn take(path: PathBuf) -> Self {
        let stamp = read_stamp(&path);
        FileStamp { path, stamp }
    }

    fn is_current(&self) -> bool {
        read_stamp(&self.path) == self.stamp
    }

    /// Whether the file has changed so recently that another change might not change its time stamp.
    fn is_too_recent(&self) -> bool {
        let Some([.., mtime, _, ctime, _]) = self.stamp else {
            return false;
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        mtime.max(ctime) >= now.saturating_sub(STAMP_AGE_MIN).as_secs()
    }
}

fn read_stamp(path: &Path) -> Option<[u64; 7]> {
    let meta = std::fs::metadata(path).ok()?;
    let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()].map(i64::cast_unsigned);
    let [mtime, mtime_nsec, ctime, ctime_nsec] = times;
    Some([meta.dev(), meta.ino(), meta.size(), mtime, mtime_nsec, ctime, ctime_nsec])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, host: &str) {
        std::fs::write(path, format!("unqualified-search-registries = ['{host}']")).expect("written");
    }

    fn first(files: &Files) -> String {
        files.load().expect("good").candidates("i").expect("one").remove(0).to_string()
    }

    #[test]
    fn a_changed_file_is_read_again_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let conf = dir.path().join("r.conf");
        write(&conf, "a.example");
        let files = Files::new(Some(conf.clone()));
        assert_eq!(first(&files), "a.example/i:latest");
        write(&conf, "b.example");
        assert_eq!(first(&files), "b.example/i:latest");
        let below = dir.path().join("r.conf.d");
        std::fs::create_dir(&below).expect("made");
        write(&below.join("1.conf"), "c.example");
        assert_eq!(first(&files), "c.example/i:latest");
        std::fs::remove_file(below.join("1.conf")).expect("there");
        assert_eq!(first(&files), "b.example/i:latest");
        std::fs::remove_file(&conf).expect("there");
        assert!(files.load().is_err());
    }

    #[test]
    fn unchanged_files_are_read_once_and_a_new_directory_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let conf = dir.path().join("r.conf");
        write(&conf, "a.example");
        let files = Files::new(Some(conf.clone()));
        let registries = files.load().expect("good");
        // The files are too new to be cached, so the test fills the cache as a later load would.
        let stamps =
            Registries::files(Some(&conf)).expect("listed").into_iter().map(FileStamp::take).collect();
        *lock(&files.cached) = Some(CachedFiles { stamps, registries: Arc::clone(&registries) });
        assert!(Arc::ptr_eq(&registries, &files.load().expect("good")));
        std::fs::create_dir(dir.path().join("r.conf.d")).expect("made");
        assert!(!Arc::ptr_eq(&registries, &files.load().expect("good")));
    }

    #[test]
    fn a_file_that_changed_just_now_is_not_cached() {
        let is_too_recent = |mtime, ctime| {
            let stamp = Some([0, 0, 0, mtime, 0, ctime, 0]);
            FileStamp { path: PathBuf::new(), stamp }.is_too_recent()
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after it").as_secs();
        assert!(is_too_recent(now, now) && is_too_recent(0, now) && is_too_recent(now + 9, 0));
        assert!(!is_too_recent(now - 9, now - 9));
        assert!(!FileStamp { path: PathBuf::new(), stamp: None }.is_too_recent());
    }
}
