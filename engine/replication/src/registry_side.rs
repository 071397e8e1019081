//! A registry as a side of a replication.
//!
//! Made by the engine's manager, one place for each side of an execution; called by the threads of tasks. Translates
//! between the copier and `sampan-registry`, and says of each error what the copier does about it. Mirrors of
//! registries.conf serve reads of a source; a destination is always the registry itself.

use crate::side::{
    Begin, BlobReader, FailureKind, Head, Manifest, Place, Repository, Session, SideError, Stored,
};
use sampan_job::cancel::Cancel;
use sampan_oci::Descriptor;
use sampan_oci::digest::Digest;
use sampan_oci::reference::Reference;
use sampan_registry::mirrors::Mirrors;
use sampan_registry::retry;
use sampan_registry::{Access, Payload, Registry, RegistryError, Upload, UploadStart};
use std::io::Read;
use std::sync::Arc;

/// A registry.
pub struct RegistryPlace {
    host: String,
    access: Access,
}

struct RegistryRepository {
    registry: Registry,
    /// The mirrors of a source, if registries.conf names any. Tags are resolved at the registry itself, since a mirror
    /// may be late; what has a digest comes from a mirror.
    mirrors: Option<Mirrors>,
    name: String,
}

impl RegistryPlace {
    /// The registry at `host`, reached by `access`. Connects to nothing yet.
    pub fn new(host: String, access: Access) -> Self {
        RegistryPlace { host, access }
    }

    fn reference(&self, repository: &str) -> Result<Reference, SideError> {
        Reference::parse(&format!("{}/{repository}", self.host))
            .map_err(|error| SideError { kind: FailureKind::Refused, source: Box::new(error) })
    }
}

impl Place for RegistryPlace {
    fn name(&self) -> String {
        self.host.clone()
    }

    fn repositories(&self, stop: &Cancel) -> Result<Vec<String>, SideError> {
        // The list belongs to no repository; this name is only the way to make a client.
        let registry = Arc::new(Registry::new(&self.reference("catalog")?, &self.access).for_catalog());
        let to_shut = Arc::clone(&registry);
        let _link = stop.link(move || to_shut.shutdown());
        Ok(registry.catalog()?)
    }

    fn repository(&self, name: &str, is_destination: bool) -> Result<Arc<dyn Repository>, SideError> {
        let reference = self.reference(name)?;
        let registry = Registry::new(&reference, &self.access);
        let registry = if is_destination { registry.for_push([]) } else { registry };
        let has_mirrors = self.access.registries.endpoints(&reference).is_ok_and(|all| all.len() > 1);
        let mirrors = (has_mirrors && !is_destination).then(|| Mirrors::new(&reference, &self.access));
        Ok(Arc::new(RegistryRepository { registry, mirrors, name: reference.name() }))
    }
}

impl From<RegistryError> for SideError {
    fn from(error: RegistryError) -> Self {
        SideError { kind: kind(&error), source: Box::new(error) }
    }
}

/// What the copier does about an error. OCI distribution-spec, "Error Codes".
fn kind(error: &RegistryError) -> FailureKind {
    match error.last() {
        RegistryError::Status { status: 416, .. } => FailureKind::LostSession,
        RegistryError::Status { code, detail, .. } if names_unknown_blob(code, detail) => {
            FailureKind::BlobUnknown
        }
        RegistryError::Status { retry_after, .. } if retry::is_passing(error) => {
            FailureKind::Temporary(*retry_after)
        }
        _ if retry::is_passing(error) => FailureKind::Temporary(None),
        RegistryError::Denied { .. } => FailureKind::Denied,
        RegistryError::NotFound { .. } => FailureKind::NotFound,
        RegistryError::Digest { .. } => FailureKind::Corrupt,
        _ => FailureKind::Refused,
    }
}

/// Whether the registry refuses a manifest because it lacks something that the manifest names. docker-registry answers
/// 400, and 500 for a missing foreign layer.
fn names_unknown_blob(code: &str, detail: &str) -> bool {
    code == "MANIFEST_BLOB_UNKNOWN" || detail.to_ascii_lowercase().contains("blob unknown to registry")
}

/// The kind of an error while bytes are sent to a session: one that the registry does not know is begun anew.
fn upload_error(error: RegistryError) -> SideError {
    let kind = match &error {
        RegistryError::NotFound { .. } | RegistryError::Status { status: 400 | 404 | 410 | 416, .. } => {
            FailureKind::LostSession
        }
        other => kind(other),
    };
    SideError { kind, source: Box::new(error) }
}

impl RegistryRepository {
    fn upload(session: &Session) -> Result<Upload, SideError> {
        Upload::restore(session.location.clone()).ok_or_else(|| {
            SideError::new(FailureKind::LostSession, format!("{:?} is no upload session", session.location))
        })
    }
}

impl Repository for RegistryRepository {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn tags(&self) -> Result<Vec<String>, SideError> {
        match self.registry.tags() {
            Err(RegistryError::NotFound { .. }) => Ok(Vec::new()),
            other => Ok(other?),
        }
    }

    fn head(&self, target: &str) -> Result<Option<Head>, SideError> {
        Ok(self.registry.manifest_head(target)?.map(|head| Head { digest: head.digest }))
    }

    fn manifest(&self, target: &str) -> Result<Manifest, SideError> {
        let raw = match &self.mirrors {
            Some(mirrors) if Digest::parse(target).is_ok() => mirrors.manifest(target)?,
            _ => self.registry.manifest(target)?,
        };
        let declared = crate::artifact::media_type(&raw.bytes);
        let served = raw.content_type.as_deref().map(|text| text.split(';').next().unwrap_or(text).trim());
        let media_type = declared.or_else(|| served.map(str::to_owned)).unwrap_or_default();
        Ok(Manifest { bytes: raw.bytes, digest: raw.digest, media_type })
    }

    fn blob(&self, blob: &Descriptor, offset: u64, etag: Option<&str>) -> Result<BlobReader, SideError> {
        let body = match &self.mirrors {
            Some(mirrors) => mirrors.blob(&blob.digest, blob.size, offset, etag)?,
            None => self.registry.blob(&blob.digest, blob.size, offset, etag)?,
        };
        Ok(BlobReader { starts: body.starts, etag: body.etag, reader: body.reader })
    }

    fn referrers(&self, subject: &Digest) -> Result<Option<Vec<Descriptor>>, SideError> {
        let listed = self.registry.referrers(subject, None)?;
        Ok(listed.map(|all| all.into_iter().map(|referrer| referrer.descriptor).collect()))
    }

    fn has_blob(&self, blob: &Descriptor) -> Result<bool, SideError> {
        let head = self.registry.blob_head(&blob.digest)?;
        // A blob of another size is another blob, or a broken one: it must be sent.
        Ok(head.is_some_and(|head| head.size.is_none_or(|size| size == blob.size)))
    }

    fn wait_until_open(&self) {
        self.registry.wait_until_open();
    }

    fn check_writable(&self) -> Result<(), SideError> {
        // Only a write shows whether the registry allows one: the first upload asks for a token with that right.
        Ok(())
    }

    fn begin(&self, blob: &Descriptor, from: Option<&str>) -> Result<Begin, SideError> {
        if let Some(from) = from {
            self.registry.add_pull_scope(from);
        }
        match self.registry.begin_upload(&blob.digest, from)? {
            UploadStart::Mounted => Ok(Begin::Mounted),
            UploadStart::Upload(upload) => Ok(Begin::Session(Session {
                location: upload.location().to_owned(),
                chunk_min: upload.chunk_min(),
            })),
        }
    }

    fn offset(&self, session: &mut Session) -> Result<Option<u64>, SideError> {
        let mut upload = Self::upload(session)?;
        let offset = match self.registry.upload_offset(&mut upload) {
            // docker-registry answers this for ever when it was killed in the middle of the upload.
            Err(RegistryError::Status { status: 500, .. }) => None,
            other => other?,
        };
        session.location = upload.location().to_owned();
        Ok(offset)
    }

    fn send(
        &self,
        session: &mut Session,
        blob: &Descriptor,
        at: u64,
        bytes: &[u8],
    ) -> Result<u64, SideError> {
        let mut upload = Self::upload(session)?;
        let sent = self.registry.upload_bytes(&mut upload, &blob.digest, at, bytes);
        session.location = upload.location().to_owned();
        sent.map_err(upload_error)
    }

    fn finish(&self, session: &Session, blob: &Descriptor) -> Result<(), SideError> {
        let upload = Self::upload(session)?;
        self.registry.finish_upload(&upload, &blob.digest, None).map_err(upload_error)
    }

    fn send_whole(&self, session: &mut Session, blob: &Descriptor, bytes: &[u8]) -> Result<(), SideError> {
        let upload = Self::upload(session)?;
        let open = || Ok(Box::new(bytes) as Box<dyn Read + '_>);
        let payload = Payload { len: bytes.len() as u64, open: &open };
        self.registry.finish_upload(&upload, &blob.digest, Some(&payload)).map_err(upload_error)
    }

    fn cancel(&self, session: &Session) -> Result<bool, SideError> {
        Ok(self.registry.cancel_upload(&Self::upload(session)?)?)
    }

    fn put_manifest(&self, target: &str, manifest: &Manifest) -> Result<Stored, SideError> {
        let (digest, media_type) = (&manifest.digest, manifest.media_type.as_str());
        let stored = self.registry.put_manifest(target, digest, media_type, &manifest.bytes)?;
        Ok(Stored { indexes_subject: stored.is_listed_by_subject })
    }

    fn delete(&self, target: &str) -> Result<bool, SideError> {
        Ok(self.registry.delete_manifest(target)?)
    }

    fn shutdown(&self) {
        self.registry.shutdown();
        self.mirrors.iter().for_each(Mirrors::shutdown);
    }
}
