//! How a registry may be reached, and what comes of it.
//!
//! [`Access`] is made by the engine for each job, from its configuration and its client's request.

use crate::config::Registries;
use crate::credentials::Credentials;
use ::http::header;
use sampan_oci::digest::Digest;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How registries may be reached.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Plain HTTP, or a certificate that nobody vouches for, will do for the registry that the image is of.
    pub insecure: bool,
    /// Hosts (with port) that it will do for always.
    pub insecure_hosts: Arc<[String]>,
    /// Directories as containers-certs.d(5) has them; the first that knows a host is the one.
    pub certs: Arc<[PathBuf]>,
    /// Mirrors, and what is blocked.
    pub registries: Arc<Registries>,
    /// Who we are, where a registry asks.
    pub credentials: Credentials,
    /// How long a read or write may take; 30 s if it is not said.
    pub stall: Option<Duration>,
}

/// A manifest or index as it came, with its digest computed here.
pub struct RawManifest {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
    /// What the registry calls it.
    pub content_type: Option<String>,
}

/// A blob's bytes on their way.
pub struct BlobBody {
    /// Offset in the blob of the first byte that comes.
    pub starts: u64,
    /// What the registry vouches with that a later part is of the same bytes.
    pub etag: Option<String>,
    /// The bytes.
    pub reader: Box<dyn Read + Send>,
}

/// Headers of a request beyond those that all have.
pub(crate) type Headers<'a> = &'a [(header::HeaderName, &'a str)];
