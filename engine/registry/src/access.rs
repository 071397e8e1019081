//! The settings for reaching registries ([`Access`]), and the types that fetches return.
//!
//! The engine makes an [`Access`] for each job, from its own configuration and the client's request.

use crate::config::Registries;
use crate::credentials::Credentials;
use ::http::header;
use sampan_oci::digest::Digest;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The settings for reaching registries.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Allows plain HTTP and untrusted certificates for the image's own registry, not for its mirrors.
    pub insecure: bool,
    /// Hosts (`HOST` or `HOST:PORT`) for which plain HTTP and untrusted certificates are always allowed.
    pub insecure_hosts: Arc<[String]>,
    /// Directories in the layout of containers-certs.d(5). The first directory that has an entry for a host is used.
    pub certs: Arc<[PathBuf]>,
    /// The mirrors, aliases and blocked registries of registries.conf.
    pub registries: Arc<Registries>,
    /// The credentials to use when a registry asks for them.
    pub credentials: Credentials,
    /// Longest time for one read or write; `None` means 30 s.
    pub stall: Option<Duration>,
}

/// A manifest or index: the bytes from the registry, and the digest that this process has computed from them.
pub struct RawManifest {
    /// The bytes of the document.
    pub bytes: Vec<u8>,
    /// The digest of `bytes`.
    pub digest: Digest,
    /// The `Content-Type` header of the answer.
    pub content_type: Option<String>,
}

/// The body of an answer with a blob, or with the rest of a blob from an offset on.
pub struct BlobBody {
    /// Offset in the blob of the body's first byte.
    pub starts: u64,
    /// The strong `ETag` of the answer. A later range request sends it back, so that bytes of two versions are never
    /// mixed.
    pub etag: Option<String>,
    /// Reads the body.
    pub reader: Box<dyn Read + Send>,
}

/// Extra headers of one request.
pub(crate) type Headers<'a> = &'a [(header::HeaderName, &'a str)];
