//! The state of replication that all threads share: journals, memory for chunks, known blobs.
//!
//! Made once, in `main`; in [`crate::context::Shared`]. Runs nothing.

use sampan_job::buffers::Buffers;
use sampan_os::mutex::lock;
use sampan_replication::blob::CHUNK;
use sampan_replication::journal::{Journal, JournalError, Journals};
use sampan_replication::known_blobs::KnownBlobs;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Chunks of full size that all executions may hold at a time.
const CHUNKS: usize = 2;

/// The state that all executions share.
pub struct ReplicationState {
    /// The executions on the disk.
    pub journals: Journals,
    /// The memory for chunks.
    pub buffers: Buffers,
    /// Locked while an execution takes over what an earlier one has left.
    pub continuing: Mutex<()>,
    dir: PathBuf,
    known: Mutex<HashMap<String, Arc<KnownBlobs>>>,
}

impl ReplicationState {
    /// Opens the directory of journals. Also returns the executions that an earlier engine has not finished.
    ///
    /// # Errors
    /// [`JournalError`]: another engine has the directory, or it cannot be read.
    pub fn open(dir: &Path) -> Result<(Self, Vec<Arc<Journal>>), JournalError> {
        let (journals, unfinished) = Journals::open(dir)?;
        let buffers = Buffers::new(CHUNKS * usize::try_from(CHUNK).unwrap_or(usize::MAX));
        let state = ReplicationState {
            journals,
            buffers,
            continuing: Mutex::default(),
            dir: dir.to_owned(),
            known: Mutex::default(),
        };
        Ok((state, unfinished))
    }

    /// The blobs that this engine has put into the destination `key`.
    pub fn known(&self, key: &str) -> Arc<KnownBlobs> {
        let mut known = lock(&self.known);
        let open = || Arc::new(KnownBlobs::open(&self.dir, key));
        Arc::clone(known.entry(key.to_owned()).or_insert_with(open))
    }
}
