//! The sides of a replication: where artifacts come from and where they go, behind one trait.
//!
//! A [`Place`] is a registry, an OCI layout or the local store; a [`Repository`] is one repository of it. This crate
//! implements them for registries (`registry_side`); the engine implements them for layouts and for its store, so that
//! this crate knows no store. Calls block and run on the threads of tasks; [`Repository::shutdown`] ends them at once.
//! A side never retries and never compares the digests of blobs: the copier does both.

use sampan_ipc::replication::ErrorClass;
use sampan_job::cancel::Cancel;
use sampan_oci::Descriptor;
use sampan_oci::digest::Digest;
use std::error::Error;
use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

/// Why a request to a side failed.
#[derive(Debug)]
pub struct SideError {
    /// What the copier does about the failure.
    pub kind: FailureKind,
    /// What was attempted, and why it failed.
    pub source: Box<dyn Error + Send + Sync>,
}

/// What the copier does about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Tries again later; after the wait that the side demands, if it demands one.
    Temporary(Option<Duration>),
    /// Gives up the artifact: the credentials were refused.
    Denied,
    /// Gives up the artifact: something is absent.
    NotFound,
    /// Begins the upload of the same blob again: the destination no longer knows the session, or has other bytes.
    LostSession,
    /// Sends the blobs of the manifest again, once: the destination does not have all of them.
    BlobUnknown,
    /// Gives up the artifact: the bytes are wrong.
    Corrupt,
    /// Gives up the artifact: the side refuses it, or does not support the operation.
    Refused,
    /// Waits and tries again: this host's disk is full or fails.
    Host,
}

impl SideError {
    /// Makes an error from its kind and a message.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        SideError { kind, source: message.into().into() }
    }

    /// The class of the failure in reports.
    pub fn class(&self) -> ErrorClass {
        match self.kind {
            FailureKind::Temporary(_) | FailureKind::LostSession => ErrorClass::Temporary,
            FailureKind::Denied => ErrorClass::Denied,
            FailureKind::NotFound => ErrorClass::NotFound,
            FailureKind::Corrupt => ErrorClass::Corrupt,
            FailureKind::Refused | FailureKind::BlobUnknown => ErrorClass::Refused,
            FailureKind::Host => ErrorClass::Host,
        }
    }
}

impl fmt::Display for SideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.source, f)
    }
}

impl Error for SideError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}

/// What a side says about a manifest without sending it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The manifest's digest; `None` if the side does not state it.
    pub digest: Option<Digest>,
}

/// A manifest or index, byte for byte as the source has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The digest of the bytes, computed by this process.
    pub digest: Digest,
    /// The media type, from the document or else from the answer.
    pub media_type: String,
}

/// The bytes of a blob from an offset on.
pub struct BlobReader {
    /// Offset in the blob of the reader's first byte: the offset that was requested, or 0 if the side cannot skip.
    pub starts: u64,
    /// The side's mark of this version of the blob, for the next request of the rest.
    pub etag: Option<String>,
    /// The bytes.
    pub reader: Box<dyn Read + Send>,
}

/// The answer to the start of an upload.
pub enum Begin {
    /// The destination has taken the blob from its other repository: nothing needs to be sent.
    Mounted,
    /// The destination expects the bytes.
    Session(Session),
}

/// An upload that the destination has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Names the session at the destination: a URL at a registry, a path on this host. Changes with each chunk.
    pub location: String,
    /// Fewest bytes of a chunk that is not the last; 0 if the destination states none.
    pub chunk_min: u64,
}

/// What the destination says about a stored manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Whether the destination lists the manifest among the referrers of its subject by itself.
    pub indexes_subject: bool,
}

/// A place with repositories.
pub trait Place: Send + Sync {
    /// Names the place in messages: the registry's host, or a path.
    fn name(&self) -> String;

    /// Identifies the place among all destinations, for the list of blobs that this engine has put there.
    fn key(&self) -> String {
        self.name()
    }

    /// Lists all repositories. `stop` ends the running requests.
    ///
    /// # Errors
    /// [`FailureKind::Refused`] if the place does not list its repositories.
    fn repositories(&self, stop: &Cancel) -> Result<Vec<String>, SideError>;

    /// Opens a repository, without a request. `is_destination` asks for the right to write.
    ///
    /// # Errors
    /// The name is not valid, or the configuration of this host forbids the place.
    fn repository(&self, name: &str, is_destination: bool) -> Result<Arc<dyn Repository>, SideError>;
}

/// One repository of a place.
pub trait Repository: Send + Sync {
    /// The full name, such as `registry.example/team/app`.
    fn name(&self) -> String;

    /// Lists all tags, in any order; an absent repository has none.
    fn tags(&self) -> Result<Vec<String>, SideError>;

    /// Asks for the manifest of a tag or digest, without its bytes; `None` if it is absent.
    fn head(&self, target: &str) -> Result<Option<Head>, SideError>;

    /// Reads the manifest of a tag or digest. Compares the bytes with a digest.
    ///
    /// # Errors
    /// [`FailureKind::NotFound`] if it is absent.
    fn manifest(&self, target: &str) -> Result<Manifest, SideError>;

    /// Opens a blob at `offset`. `etag` is that of the bytes before, if they came from here.
    fn blob(&self, blob: &Descriptor, offset: u64, etag: Option<&str>) -> Result<BlobReader, SideError>;

    /// Lists the descriptors of the manifests that refer to `subject`; `None` if the side has no such list.
    fn referrers(&self, subject: &Digest) -> Result<Option<Vec<Descriptor>>, SideError>;

    /// Whether the repository has the blob, in its full size.
    fn has_blob(&self, blob: &Descriptor) -> Result<bool, SideError>;

    /// Whether this host keeps the bytes itself, so that they need not go over a network.
    fn is_local(&self) -> bool {
        false
    }

    /// Waits while the side has asked for a pause. Called before a transfer takes its slot, so that a pause of one side
    /// holds no transfer of another.
    fn wait_until_open(&self) {}

    /// Checks that the repository can be written to, as far as that is possible without a change.
    fn check_writable(&self) -> Result<(), SideError>;

    /// Begins an upload, or asks the destination to take the blob from its own repository `from`.
    fn begin(&self, blob: &Descriptor, from: Option<&str>) -> Result<Begin, SideError>;

    /// Asks how many bytes of a session the destination has; `None` if it does not know the session. May replace the
    /// session's location.
    fn offset(&self, session: &mut Session) -> Result<Option<u64>, SideError>;

    /// Sends the bytes from `at` on, and replaces the session's location. Returns how many bytes of the blob the
    /// destination has.
    fn send(&self, session: &mut Session, blob: &Descriptor, at: u64, bytes: &[u8])
    -> Result<u64, SideError>;

    /// Makes the blob visible. All bytes are there, and the copier has compared their digest.
    fn finish(&self, session: &Session, blob: &Descriptor) -> Result<(), SideError>;

    /// Sends a whole blob and makes it visible, in one request where the destination can. The copier has compared its
    /// digest.
    fn send_whole(&self, session: &mut Session, blob: &Descriptor, bytes: &[u8]) -> Result<(), SideError> {
        if !bytes.is_empty() {
            self.send(session, blob, 0, bytes)?;
        }
        self.finish(session, blob)
    }

    /// Deletes a session. Returns false if the destination no longer knows it.
    fn cancel(&self, session: &Session) -> Result<bool, SideError>;

    /// Stores a manifest under `target`, which is a tag or the manifest's digest.
    ///
    /// # Errors
    /// [`FailureKind::BlobUnknown`] if the destination lacks something that the manifest names.
    fn put_manifest(&self, target: &str, manifest: &Manifest) -> Result<Stored, SideError>;

    /// Whether the destination keeps this child of an index. The copier copies no child that the destination leaves out.
    fn keeps_child(&self, _child: &Descriptor) -> bool {
        true
    }

    /// Stores a child of an index, which the copier stores afterwards with [`Repository::put_manifest`]. A destination
    /// with a list of its artifacts does not list the child.
    ///
    /// # Errors
    /// As [`Repository::put_manifest`].
    fn put_child(&self, manifest: &Manifest) -> Result<Stored, SideError> {
        self.put_manifest(&manifest.digest.to_string(), manifest)
    }

    /// Deletes a manifest by digest, or a tag. Returns false if it was absent.
    ///
    /// # Errors
    /// [`FailureKind::Refused`] if the side deletes no manifests, or no tags.
    fn delete(&self, target: &str) -> Result<bool, SideError>;

    /// Ends all running requests; later ones fail at once.
    fn shutdown(&self);
}
