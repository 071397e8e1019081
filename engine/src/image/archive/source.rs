//! The interface to archives: a stream, a seekable file, or the directory of an OCI image layout.
//!
//! [`crate::image::archive::manifest`] and [`crate::image::archive::load`] use only [`Source`]: documents and layers by
//! their names in the archive. [`crate::image::archive::streamed`], [`crate::image::archive::seekable`] and
//! [`crate::image::archive::oci_layout`] implement it.

use crate::image::archive::entries::{self, EntryError};
use crate::image::pull::pipeline::{LayerError, Streamed};
use sampan_job::cancel::Cancelled;
use sampan_layer::decompress::Format;
use sampan_layer::tar::{TarError, begins_tar};
use sampan_layer::unpack::UnpackError;
use sampan_oci::digest::{Algorithm, Digest};
use sampan_store::{StoreError, Temp};
use std::io::{self, Read};

/// Number of bytes at the start of a file that tell the file's kind: one block of a tar.
pub const START: usize = 512;

/// Why an archive, or a file in it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// The archive's file or pipe cannot be read.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// The archive is not a tar, or is damaged.
    #[error(transparent)]
    Tar(TarError),
    /// A name or an entry in the archive is refused.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// A file in the archive cannot be read.
    #[error("cannot read {name:?} in the archive")]
    File {
        /// Name of the file.
        name: String,
        /// Error of the read.
        source: io::Error,
    },
    /// A document names a file that the archive does not have.
    #[error("{0:?} is not in the archive")]
    Missing(String),
    /// A document is longer than allowed.
    #[error("{name:?} has {size} bytes, at most {max} are allowed")]
    TooLong {
        /// Name of the document.
        name: String,
        /// Size of the document, in bytes.
        size: u64,
        /// Longest accepted document, in bytes.
        max: u64,
    },
    /// A layer cannot be loaded.
    #[error("cannot load layer {name:?}")]
    Layer {
        /// Name of the layer in the archive.
        name: String,
        /// Error of the pipeline.
        source: Box<LayerError>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<TarError> for ArchiveError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Read(source) => ArchiveError::Read(source),
            other => ArchiveError::Tar(other),
        }
    }
}

/// A layer as a [`Source`] hands it out: already stored, or still to be read.
pub enum Found<'a> {
    /// The layer was read, hashed and unpacked already.
    Kept(Box<Kept>),
    /// The store has a blob of this digest and size, so the source did not read the layer.
    Stored(Digest, u64),
    /// A reader of the layer's blob, and the blob's size in bytes.
    Reader(Box<dyn Read + Send + 'a>, u64),
}

/// A layer that was stored before the archive's documents said which image it belongs to.
pub struct Kept {
    /// The blob, without its final name.
    pub blob: Temp,
    /// The blob's digests, and the layer unpacked from the blob.
    pub streamed: Streamed,
}

/// An archive or a layout. Names are the names that the archive's documents use; a "resolved" name is a name that
/// [`Source::resolve`] has returned.
pub trait Source {
    /// Follows the archive's links from `name` to a file, and returns the file's name; `None` if the archive has no
    /// such file.
    ///
    /// # Errors
    /// [`ArchiveError::Entry`]: the name or a link leads out of the archive.
    fn resolve(&self, name: &str) -> Result<Option<String>, ArchiveError>;

    /// Reads a document whose name is resolved.
    ///
    /// # Errors
    /// [`ArchiveError::TooLong`]: the document has more than `max` bytes.
    fn document(&mut self, name: &str, max: u64) -> Result<Vec<u8>, ArchiveError>;

    /// Hands out the layer whose name is resolved. The caller calls this function at most once for each layer, and
    /// keeps the result.
    ///
    /// # Errors
    /// [`ArchiveError::Layer`]: the layer was read before and cannot be used.
    fn layer(&mut self, name: &str) -> Result<Found<'_>, ArchiveError>;
}

/// Reads the document that `name` leads to.
///
/// # Errors
/// [`ArchiveError::Missing`]: the archive has no such document.
pub fn document(source: &mut dyn Source, name: &str, max: u64) -> Result<Vec<u8>, ArchiveError> {
    let resolved = source.resolve(name)?.ok_or_else(|| missing(name))?;
    source.document(&resolved, max)
}

/// Makes the error for a missing file; the name is cut to 300 characters.
pub fn missing(name: &str) -> ArchiveError {
    ArchiveError::Missing(name.chars().take(300).collect())
}

/// Whether a file that begins with `start` may be a layer: a tar, plain or compressed.
pub fn begins_layer(start: &[u8]) -> bool {
    Format::of(start) != Format::Plain || begins_tar(start)
}

/// The digest in a file's name: `blobs/sha256/HEX`, `HEX.json`, `HEX.tar`, `HEX/layer.tar`, `sha256:HEX`.
///
/// A layer's name may contain the digest of its blob, the digest of its tar, or an outdated digest. The digest in a
/// name only hints at which blob of the store to try; it proves nothing.
pub fn named_digest(name: &str) -> Option<Digest> {
    let clean = entries::clean(name, "").ok()?;
    if let Some((word, hex)) = clean.strip_prefix("blobs/").and_then(|rest| rest.split_once('/')) {
        return Digest::parse(&format!("{word}:{hex}")).ok();
    }
    let first = clean.split('/').next().unwrap_or_default();
    let stem = first.split('.').next().unwrap_or_default();
    let hex = stem.strip_prefix("sha256:").unwrap_or(stem);
    Digest::parse(&format!("{}:{hex}", Algorithm::Sha256.word())).ok()
}

/// The ID of a layer's progress row before its digest is known.
pub fn row_id(name: &str) -> String {
    named_digest(name).map_or_else(|| name.chars().take(12).collect(), |digest| digest.short().to_owned())
}

/// Puts the layer's name into an error of the pipeline, which does not know the layer's digest.
pub fn layer_error(name: &str, error: LayerError) -> ArchiveError {
    let blob = || row_id(name);
    let source = match error {
        LayerError::Cancelled(cancelled) => return ArchiveError::Cancelled(cancelled),
        LayerError::Store(error) => return ArchiveError::Store(error),
        LayerError::Read { source, .. } => match source.downcast::<TarError>() {
            Ok(error) => return error.into(),
            Err(source) => return ArchiveError::File { name: name.to_owned(), source },
        },
        LayerError::Decode { source, .. } => LayerError::Decode { blob: blob(), source },
        LayerError::Unpack { source, .. } => LayerError::Unpack { blob: blob(), source },
        LayerError::DiffId { expected, found, .. } => LayerError::DiffId { blob: blob(), expected, found },
        other => other,
    };
    ArchiveError::Layer { name: name.to_owned(), source: Box::new(source) }
}

/// Whether the error means that the layer itself is damaged. Such an error fails the load only if an image needs the
/// layer.
pub fn is_layers_own(error: &ArchiveError) -> bool {
    let ArchiveError::Layer { source, .. } = error else { return false };
    match &**source {
        LayerError::Decode { .. } => true,
        LayerError::Unpack { source, .. } => matches!(source, UnpackError::Tar(_)),
        _ => false,
    }
}

/// Reads into `into` until it is full or `from` ends; returns the number of bytes read.
///
/// # Errors
/// The error of `from`.
pub fn fill(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < into.len() {
        match from.read(into.get_mut(have..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(len) => have += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_to_call_a_file_after_a_digest_are_read() {
        let hex = "0a".repeat(32);
        for name in [
            format!("blobs/sha256/{hex}"),
            format!("./{hex}.json"),
            format!("{hex}.tar.gz"),
            format!("{hex}/layer.tar"),
            format!("sha256:{hex}"),
        ] {
            assert_eq!(named_digest(&name).expect(&name).hex(), hex);
        }
        for name in ["manifest.json", "blobs/sha256/00", "../x", "blobs/md5/00"] {
            assert_eq!(named_digest(name), None);
        }
        assert_eq!(row_id("some-long-name.tar"), "some-long-na");
    }
}
