//! What images are read from when it is no registry: a pipe, a file, or the directory of an OCI image layout.
//!
//! [`Source`] is what [`crate::image::archive::manifest`] and [`crate::image::archive::load`] know of each: documents and layers by their names within.
//! It is implemented by [`crate::image::archive::streamed`], [`crate::image::archive::seekable`] and [`crate::image::archive::oci_layout`].

use crate::image::archive::entries::{self, MemberError};
use crate::image::pull::pipeline::{LayerError, Streamed};
use sampan_job::cancel::Cancelled;
use sampan_layer::decompress::Format;
use sampan_layer::tar::{TarError, begins_tar};
use sampan_layer::unpack::UnpackError;
use sampan_oci::digest::{Algorithm, Digest};
use sampan_store::{StoreError, Temp};
use std::io::{self, Read};

/// Bytes that tell what a file of an archive is: one block of a tar.
pub const START: usize = 512;

/// Why an archive, or something in it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The job was ended.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// Its bytes do not come.
    #[error("its bytes do not come")]
    Read(#[source] io::Error),
    /// It is no tar, or a broken one.
    #[error(transparent)]
    Tar(TarError),
    /// Something in it is refused.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// Something in it cannot be read.
    #[error("cannot read {name:?} in it")]
    File {
        /// What.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// Something is named by a document and not there.
    #[error("{0:?} is not in it")]
    Missing(String),
    /// A document is longer than any good one.
    #[error("{name:?} has {size} bytes, at most {max} are read of it")]
    TooLong {
        /// Which.
        name: String,
        /// Its size.
        size: u64,
        /// The most that is read.
        max: u64,
    },
    /// A layer cannot be taken.
    #[error("cannot take layer {name:?}")]
    Layer {
        /// Its name.
        name: String,
        /// Why not.
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

/// A layer's blob as a source has it.
pub enum Found<'a> {
    /// It has come by, was hashed and unpacked.
    Kept(Box<Kept>),
    /// The store has it; so it was not read.
    Stored(Digest, u64),
    /// It can be read, this many bytes.
    Reader(Box<dyn Read + Send + 'a>, u64),
}

/// A layer that came by before anybody knew what it is for.
pub struct Kept {
    /// Its blob.
    pub blob: Temp,
    /// What it is, and what it is unpacked.
    pub streamed: Streamed,
}

/// Something that holds images. Names are those that documents in it use; "resolved" ones are what
/// [`Source::resolve`] gave.
pub trait Source {
    /// The one name of the file that `name` stands for, or `None` if there is none.
    ///
    /// # Errors
    /// [`ArchiveError::Member`] if it leads outside.
    fn resolve(&self, name: &str) -> Result<Option<String>, ArchiveError>;

    /// Reads a document whose name is resolved.
    ///
    /// # Errors
    /// [`ArchiveError::TooLong`] if it has more than `max` bytes.
    fn document(&mut self, name: &str, max: u64) -> Result<Vec<u8>, ArchiveError>;

    /// Gives the layer whose name is resolved; once, the caller remembers what it got.
    ///
    /// # Errors
    /// [`ArchiveError::Layer`] if it came by and was no good.
    fn layer(&mut self, name: &str) -> Result<Found<'_>, ArchiveError>;
}

/// Reads the document that `name` stands for.
///
/// # Errors
/// [`ArchiveError::Missing`] if it is not there.
pub fn document(source: &mut dyn Source, name: &str, max: u64) -> Result<Vec<u8>, ArchiveError> {
    let resolved = source.resolve(name)?.ok_or_else(|| missing(name))?;
    source.document(&resolved, max)
}

/// `name` is not there.
pub fn missing(name: &str) -> ArchiveError {
    ArchiveError::Missing(name.chars().take(300).collect())
}

/// True if a file that begins with `start` is a layer, if it is anything: a tar, plain or compressed.
pub fn begins_layer(start: &[u8]) -> bool {
    Format::of(start) != Format::Plain || begins_tar(start)
}

/// The digest that a file is called after: `blobs/sha256/HEX`, `HEX.json`, `HEX.tar`, `HEX/layer.tar`, `sha256:HEX`.
///
/// Of a layer that may be the digest of its blob, of its tar, or one that means nothing any more: it is a hint
/// where to look, and proves nothing.
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

/// What a row is called before its digest is known.
pub fn row_id(name: &str) -> String {
    named_digest(name).map_or_else(|| name.chars().take(12).collect(), |digest| digest.short().to_owned())
}

/// The pipeline knows a layer of an archive by no digest; this says its name instead.
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

/// True if the layer alone is at fault: whether that matters depends on whether an image needs it.
pub fn is_layers_own(error: &ArchiveError) -> bool {
    let ArchiveError::Layer { source, .. } = error else { return false };
    match &**source {
        LayerError::Decode { .. } => true,
        LayerError::Unpack { source, .. } => matches!(source, UnpackError::Tar(_)),
        _ => false,
    }
}

/// Fills `into` as far as there are bytes; returns how many there were.
///
/// # Errors
/// Those of `from`.
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
