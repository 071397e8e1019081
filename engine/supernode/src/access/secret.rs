//! The shared secret of a fleet, which a client sends as `Authorization: Bearer SECRET`.
//!
//! Read by `main` at the start; the event loop compares each request with it. Never logs or writes the secret.

use http::HeaderValue;
use ring::hmac;
use ring::rand::SystemRandom;
use sampan_os::small_file;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longest file with a secret, in bytes.
const FILE_MAX: u64 = 4096;
/// Shortest secret, in bytes. A shorter one could be guessed.
const SECRET_MIN: usize = 16;
/// Permission of all users to read. inode(7).
const OTHERS_READ: u32 = 0o004;

/// A secret that all clients know.
pub struct Secret {
    /// A random key, so that neither the time of a comparison nor the memory shows the secret.
    key: hmac::Key,
    tag: hmac::Tag,
}

/// Why a file has no usable secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the read.
        source: io::Error,
    },
    /// The file has no usable secret.
    #[error("the secret in {} has fewer than {SECRET_MIN} or more than {FILE_MAX} bytes, or is no printable ASCII", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The kernel has no random bytes.
    #[error("cannot get random bytes from the kernel")]
    Random,
}

impl Secret {
    /// Reads the secret from the file at `path`. White space around the secret does not count. Logs if every user of this
    /// host can read the file.
    ///
    /// # Errors
    /// [`SecretError`]: the file cannot be read, or has no usable secret.
    pub fn open(path: &Path) -> Result<Self, SecretError> {
        let secret = Secret::new(&read(path)?)?;
        if std::fs::metadata(path).is_ok_and(|meta| meta.mode() & OTHERS_READ != 0) {
            let path = path.display();
            log::warn!("every user of this host can read the secret in {path}: chmod o-r {path}");
        }
        Ok(secret)
    }

    /// The `Authorization` header that carries the secret in the file at `path`, for requests to other supernodes.
    ///
    /// # Errors
    /// [`SecretError`]: the file cannot be read, or has no usable secret.
    pub fn authorization(path: &Path) -> Result<HeaderValue, SecretError> {
        let header = [b"Bearer ".as_slice(), &read(path)?].concat();
        HeaderValue::from_bytes(&header).map_err(|_| SecretError::Malformed { path: path.to_owned() })
    }

    fn new(secret: &[u8]) -> Result<Self, SecretError> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let key = key.map_err(|_| SecretError::Random)?;
        let tag = hmac::sign(&key, secret);
        Ok(Secret { key, tag })
    }

    /// Whether the value of an `Authorization` header has the secret. RFC 6750, section 2.1.
    pub fn is_given(&self, authorization: Option<&str>) -> bool {
        let given = authorization.and_then(|value| value.trim().split_once(' '));
        given.is_some_and(|(scheme, given)| {
            scheme.eq_ignore_ascii_case("bearer")
                && hmac::verify(&self.key, given.trim().as_bytes(), self.tag.as_ref()).is_ok()
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, SecretError> {
    let read = small_file::open(path).and_then(|file| small_file::read(file, FILE_MAX));
    let bytes = read.map_err(|source| SecretError::Read { path: path.to_owned(), source })?;
    let secret = bytes.trim_ascii();
    let is_long = secret.len() >= SECRET_MIN && bytes.len() as u64 <= FILE_MAX;
    match is_long && secret.iter().all(u8::is_ascii_graphic) {
        true => Ok(secret.to_vec()),
        false => Err(SecretError::Malformed { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_opens() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("secret");
        std::fs::write(&path, "  0123456789abcdef\n").expect("written");
        let secret = Secret::open(&path).expect("a secret");
        for good in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef "] {
            assert!(secret.is_given(Some(good)), "{good}");
        }
        for bad in [
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcde",
            "Basic 0123456789abcdef",
            "Bearer",
            "",
            "Bearer ",
        ] {
            assert!(!secret.is_given(Some(bad)), "{bad}");
        }
        assert!(!secret.is_given(None));
    }

    #[test]
    fn a_file_without_a_good_secret_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("secret");
        assert!(matches!(Secret::open(&path), Err(SecretError::Read { .. })));
        for bad in [&b"short"[..], b"", b"0123456789 abcdef", b"0123456789abcde\xff", &[b'a'; 5000]] {
            std::fs::write(&path, bad).expect("written");
            assert!(matches!(Secret::open(&path), Err(SecretError::Malformed { .. })), "{bad:?}");
        }
    }
}
