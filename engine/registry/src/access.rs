//! The settings for reaching registries ([`Access`]), and the types that requests take and return.
//!
//! The engine makes an [`Access`] for each job, from its own configuration and the client's request.

use crate::address::AddressFilter;
use crate::config::Registries;
use crate::credentials::Credentials;
use crate::host_gate::HostGates;
use ::http::header;
use sampan_oci::digest::Digest;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Directories of registries' certificates, in the order of search. containers-certs.d(5); dockerd uses the second
/// directory.
pub const CERTS_DIRS: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

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
    /// The pauses and the rates of requests of each host. All jobs of a process share them.
    pub gates: Arc<HostGates>,
    /// The addresses that may be connected to.
    pub addresses: AddressFilter,
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

/// A manifest or index that a registry has, as the registry describes it. This process does not verify it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    /// The digest that the registry states; `None` if it states none.
    pub digest: Option<Digest>,
    /// The media type of the `Content-Type` header, without parameters.
    pub media_type: Option<String>,
    /// The size in bytes.
    pub size: Option<u64>,
}

/// A blob that a registry has, as the registry describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobHead {
    /// The size in bytes; `None` if the registry states none. A size other than the descriptor's means that the
    /// registry has something else.
    pub size: Option<u64>,
}

/// The answer to a manifest that a registry has stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredManifest {
    /// The digest that the registry states; `None` if it states none. It is never another digest of the algorithm of
    /// the digest that was sent.
    pub digest: Option<Digest>,
    /// Whether the registry has added the manifest to the referrers of its `subject`. If not, the client must add it
    /// to the index with the tag `sha256-<hex>`. OCI distribution-spec, "Pushing Manifests with Subject".
    pub is_listed_by_subject: bool,
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

/// The body of a request, which can be opened again for each attempt.
pub struct Payload<'a> {
    /// Length in bytes. The reader must fail if it cannot return all of them.
    pub len: u64,
    /// Opens the body, at its first byte.
    pub open: &'a dyn Fn() -> io::Result<Box<dyn Read + 'a>>,
}

/// Extra headers of one request.
pub(crate) type Headers<'a> = &'a [(header::HeaderName, &'a str)];
