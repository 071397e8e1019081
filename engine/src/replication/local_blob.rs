//! A reader of a blob in a file of this host.
//!
//! Called by `oci_layout_side` and `store_side`. Compares the size, never the digest.

use crate::replication::fault::fault;
use sampan_oci::Descriptor;
use sampan_replication::side::{BlobReader, FailureKind, SideError};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Reads the file until `stopped` is set.
struct StoppableReader {
    file: io::Take<File>,
    stopped: Arc<AtomicBool>,
}

impl Read for StoppableReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(io::Error::other("stopped"));
        }
        self.file.read(into)
    }
}

/// Makes a reader of `blob` from `offset` on. `size` is the size of the file, and `side` names the side in errors.
///
/// # Errors
/// [`FailureKind::Corrupt`]: the file has another size than the blob.
pub fn reader(
    mut file: File,
    size: u64,
    blob: &Descriptor,
    offset: u64,
    side: &str,
    stopped: &Arc<AtomicBool>,
) -> Result<BlobReader, SideError> {
    let Descriptor { digest, size: expected, .. } = blob;
    if size != *expected {
        let why = format!("blob {digest} in {side} has {size} bytes, expected {expected}");
        return Err(SideError::new(FailureKind::Corrupt, why));
    }
    let starts = file
        .seek(SeekFrom::Start(offset.min(size)))
        .map_err(|source| fault(format!("read blob {digest} in {side}"), source))?;
    let reader = StoppableReader { file: file.take(size - starts), stopped: Arc::clone(stopped) };
    Ok(BlobReader { starts, etag: None, reader: Box::new(reader) })
}
