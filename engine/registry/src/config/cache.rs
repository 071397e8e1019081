//! The files, read once for as long as they stay what they were.
//!
//! Owned by the engine's configuration and asked for each pull. Every file that was read or looked for is looked at
//! again (stat(2)); one that differs in anything, or changed so lately that its time may not tell, has all of them
//! read anew. Keeps what was understood, never a refusal.

use crate::config::error::RegistriesError;
use crate::config::registries_conf::Registries;
use sampan_os::mutex::lock;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// Times of files are as fine as a tick of the kernel; a change within it keeps them. Some file systems know whole
/// seconds alone.
const DOUBTFUL: Duration = Duration::from_secs(2);

/// Where the files are, and what they said last. Clones share that.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Instead of the host's.
    conf: Option<PathBuf>,
    kept: Arc<Mutex<Option<Kept>>>,
}

#[derive(Debug)]
struct Kept {
    seen: Vec<Seen>,
    registries: Arc<Registries>,
}

/// A file or directory as it was.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    /// Device, inode, size, mtime and ctime; `None` if it was not there.
    stamp: Option<[u64; 7]>,
}

impl PartialEq for Files {
    fn eq(&self, other: &Self) -> bool {
        self.conf == other.conf
    }
}

impl Eq for Files {}

impl Files {
    /// Those of `conf`, or else the host's. Nothing is read yet.
    pub fn new(conf: Option<PathBuf>) -> Self {
        Files { conf, kept: Arc::default() }
    }

    /// What they say now.
    ///
    /// # Errors
    /// As [`Registries::load`].
    pub fn load(&self) -> Result<Arc<Registries>, RegistriesError> {
        let mut kept = lock(&self.kept);
        if let Some(kept) = kept.as_ref().filter(|kept| kept.seen.iter().all(Seen::is_still)) {
            return Ok(Arc::clone(&kept.registries));
        }
        *kept = None;
        // Looked at before they are read: what changes in between is another file the next time.
        let seen: Vec<Seen> = Registries::files(self.conf.as_deref())?.into_iter().map(Seen::now).collect();
        let registries = Arc::new(Registries::load(self.conf.as_deref())?);
        if !seen.iter().any(|seen| seen.is_doubtful()) {
            *kept = Some(Kept { seen, registries: Arc::clone(&registries) });
        }
        Ok(registries)
    }
}

impl Seen {
    fn now(path: PathBuf) -> Self {
        let stamp = stamp(&path);
        Seen { path, stamp }
    }

    fn is_still(&self) -> bool {
        stamp(&self.path) == self.stamp
    }

    fn is_doubtful(&self) -> bool {
        let Some([.., mtime, _, ctime, _]) = self.stamp else {
            return false;
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        mtime.max(ctime) >= now.saturating_sub(DOUBTFUL).as_secs()
    }
}

fn stamp(path: &Path) -> Option<[u64; 7]> {
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
    fn what_changes_is_read_again_however_soon() {
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
    fn what_stays_is_read_once_and_what_comes_or_goes_is_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        let conf = dir.path().join("r.conf");
        write(&conf, "a.example");
        let files = Files::new(Some(conf.clone()));
        let registries = files.load().expect("good");
        // As they will be when nothing has changed for a while.
        let seen = Registries::files(Some(&conf)).expect("listed").into_iter().map(Seen::now).collect();
        *lock(&files.kept) = Some(Kept { seen, registries: Arc::clone(&registries) });
        assert!(Arc::ptr_eq(&registries, &files.load().expect("good")));
        std::fs::create_dir(dir.path().join("r.conf.d")).expect("made");
        assert!(!Arc::ptr_eq(&registries, &files.load().expect("good")));
    }

    #[test]
    fn a_file_that_changed_just_now_is_doubtful_and_one_that_did_long_ago_is_not() {
        let seen = |mtime, ctime| Seen { path: PathBuf::new(), stamp: Some([0, 0, 0, mtime, 0, ctime, 0]) };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after it").as_secs();
        assert!(seen(now, now).is_doubtful() && seen(0, now).is_doubtful() && seen(now + 9, 0).is_doubtful());
        assert!(!seen(now - 9, now - 9).is_doubtful());
        assert!(!Seen { path: PathBuf::new(), stamp: None }.is_doubtful());
    }
}
