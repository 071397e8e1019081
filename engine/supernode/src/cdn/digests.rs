//! Digests of pieces and of whole files, computed while bytes come.
//!
//! Pure. The MD5 of a piece is that of the wrapped piece, as Dragonfly's clients check it; its SHA-256 is that of
//! the content.

use crate::hex;
use crate::piece::{self, Pieces, TAIL};
use md5::{Digest as _, Md5};
use ring::digest::{Context, SHA256};

/// The digests of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceDigest {
    /// MD5 of the piece as clients get it: wrapped, if the file's pieces are.
    pub md5: [u8; 16],
    /// SHA-256 of the content.
    pub sha256: [u8; 32],
    /// Length of the content in bytes.
    pub content_len: u32,
}

impl PieceDigest {
    /// The MD5 as 32 hexadecimal digits.
    pub fn md5_hex(&self) -> String {
        hex::encode(&self.md5)
    }
}

/// Computes the digests of one piece.
#[derive(Clone)]
pub(super) struct PieceHasher {
    md5: Md5,
    sha256: Context,
    len: u64,
    is_wrapped: bool,
}

impl PieceHasher {
    /// Begins a piece with `content` bytes of content. The wrapping begins with that length, so it must be known.
    pub(super) fn new(pieces: Pieces, content: u64) -> Self {
        let mut md5 = Md5::new();
        if pieces.is_wrapped {
            md5.update(piece::head(content, pieces.size));
        }
        PieceHasher { md5, sha256: Context::new(&SHA256), len: 0, is_wrapped: pieces.is_wrapped }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.sha256.update(bytes);
        self.len += bytes.len() as u64;
    }

    pub(super) fn finish(mut self) -> PieceDigest {
        if self.is_wrapped {
            self.md5.update([TAIL]);
        }
        PieceDigest {
            md5: self.md5.finalize().into(),
            sha256: sha256(self.sha256),
            content_len: u32::try_from(self.len).unwrap_or(u32::MAX),
        }
    }
}

/// Computes the digests of a whole file, whose bytes come in order.
#[derive(Clone)]
pub(super) struct FileHasher {
    md5: Md5,
    /// Only if the URL says which SHA-256 the content must have: it costs time.
    sha256: Option<Context>,
    /// Offset of the next byte.
    pub(super) at: u64,
}

impl FileHasher {
    pub(super) fn new(with_sha256: bool) -> Self {
        FileHasher { md5: Md5::new(), sha256: with_sha256.then(|| Context::new(&SHA256)), at: 0 }
    }

    /// Hashes the bytes at `offset` if they are the next ones. Ignores others, which are read from the disk later.
    pub(super) fn update(&mut self, offset: u64, bytes: &[u8]) {
        if offset == self.at {
            self.md5.update(bytes);
            if let Some(sha256) = &mut self.sha256 {
                sha256.update(bytes);
            }
            self.at += bytes.len() as u64;
        }
    }

    /// The MD5, and the SHA-256 if it was asked for.
    pub(super) fn finish(self) -> ([u8; 16], Option<[u8; 32]>) {
        (self.md5.finalize().into(), self.sha256.map(sha256))
    }
}

/// The value of a finished SHA-256.
pub(super) fn sha256(context: Context) -> [u8; 32] {
    let mut value = [0; 32];
    value.copy_from_slice(context.finish().as_ref());
    value
}

/// The SHA-256 that the content at `url` must have: that of a blob of a registry, whose path ends in
/// `/blobs/sha256:DIGEST`. OCI distribution-spec, Pulling blobs.
pub fn expected_sha256(url: &str) -> Option<[u8; 32]> {
    let path = url.split(['?', '#']).next()?;
    let (rest, digest) = path.rsplit_once('/')?;
    if !rest.ends_with("/blobs") {
        return None;
    }
    let digits = digest.strip_prefix("sha256:").or_else(|| {
        // A client may escape the colon.
        digest.strip_prefix("sha256%3A").or_else(|| digest.strip_prefix("sha256%3a"))
    })?;
    hex::parse(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_md5_of_a_piece_covers_its_wrapping() {
        // { printf '\x04\x00\x00\x03'; printf abc; printf '\x7f'; } | md5sum
        let pieces = Pieces { size: 4 << 20, is_wrapped: true };
        let mut hasher = PieceHasher::new(pieces, 3);
        hasher.update(b"a");
        hasher.update(b"bc");
        let digest = hasher.finish();
        assert_eq!(digest.md5_hex(), "4ec2fdd18fdd19fd8c21560aa31ae81c");
        assert_eq!(
            hex::encode(&digest.sha256),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(digest.content_len, 3);
        let mut hasher = PieceHasher::new(Pieces { is_wrapped: false, ..pieces }, 3);
        hasher.update(b"abc");
        assert_eq!(hasher.finish().md5_hex(), "900150983cd24fb0d6963f7d28e17f72");
    }

    #[test]
    fn only_the_path_of_a_blob_has_a_digest() {
        let digits = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let expected = hex::parse::<32>(digits);
        assert!(expected.is_some());
        for (url, found) in [
            (format!("https://r.io/v2/a/b/blobs/sha256:{digits}"), expected),
            (format!("https://r.io/v2/a/b/blobs/sha256%3A{digits}?ns=x#y"), expected),
            (format!("https://r.io/v2/a/b/manifests/sha256:{digits}"), None),
            (format!("https://r.io/v2/a/b/blobs/sha256:{}", &digits[1..]), None),
            (format!("https://r.io/v2/a/b/blobs/sha256:{digits}/x"), None),
            (format!("https://r.io/x?y=/blobs/sha256:{digits}"), None),
            ("sha256:".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(expected_sha256(&url), found, "{url}");
        }
    }

    #[test]
    fn bytes_out_of_order_are_left_for_later() {
        let mut hasher = FileHasher::new(true);
        hasher.update(0, b"a");
        hasher.update(2, b"c");
        assert_eq!(hasher.at, 1);
        hasher.update(1, b"bc");
        let (md5, sha256) = hasher.finish();
        assert_eq!(hex::encode(&md5), "900150983cd24fb0d6963f7d28e17f72");
        assert!(sha256.is_some_and(|sha256| hex::encode(&sha256).starts_with("ba7816bf")));
    }
}
