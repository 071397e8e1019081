//! Manifests of a [`Registry`]: fetches, sends and deletes them, and asks for them. OCI distribution-spec, "Pulling
//! manifests", "Pushing Manifests" and "Deleting Manifests".
//!
//! Each method sends one request. A manifest is bytes here: nothing is parsed except its `mediaType`, and nothing is
//! changed.

use crate::access::{ManifestHead, Payload, RawManifest, StoredManifest};
use crate::error::{RegistryError, crop};
use crate::headers::{content_length, content_type, stated_digest, without_parameters};
use crate::registry::Registry;
use ::http::{HeaderName, Method, StatusCode, header};
use sampan_oci as oci;
use sampan_oci::digest::{Algorithm, Digest};
use serde::Deserialize;
use std::io::Read;

/// The header by which a registry confirms that it lists a manifest as a referrer of this digest.
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

impl Registry {
    /// Fetches the manifest or index `target`, which is a tag or a digest. Verifies the bytes if `target` is a digest.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] if there is no such manifest, [`RegistryError::Digest`] if the bytes have another
    /// digest, [`RegistryError::Answer`] if the `Content-Type` contradicts the `mediaType` in the bytes.
    pub fn manifest(&self, target: &str) -> Result<RawManifest, RegistryError> {
        let what = self.manifest_name(target);
        let response = self.get(&what, &self.manifest_path(target), &[(header::ACCEPT, &accept())])?;
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|v| v.to_str().ok()).map(str::to_owned);
        let bytes = self.read_bounded(response, &what, oci::MANIFEST_MAX)?;
        let expected = Digest::parse(target).ok();
        let digest = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm).digest(&bytes);
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(RegistryError::Digest { expected, found: digest });
        }
        if let Some((stated, declared)) = contradiction(content_type.as_deref(), &bytes) {
            let problem =
                format!("sends {what} as {stated:?}, but the document is of media type {declared:?}");
            return Err(self.bad_answer(problem));
        }
        Ok(RawManifest { bytes, digest, content_type })
    }

    /// Asks for the manifest `target`, which is a tag or a digest, without fetching it; `None` if the registry has no
    /// such manifest. OCI distribution-spec, "Checking if content exists in the registry".
    ///
    /// # Errors
    /// [`RegistryError`] if the registry answers with a status other than 200 and 404.
    pub fn manifest_head(&self, target: &str) -> Result<Option<ManifestHead>, RegistryError> {
        let what = self.manifest_name(target);
        let found = self.head(&what, &self.manifest_path(target), &[(header::ACCEPT, &accept())])?;
        Ok(found.map(|response| ManifestHead {
            digest: stated_digest(&response),
            media_type: content_type(&response).map(str::to_owned),
            size: content_length(&response),
        }))
    }

    /// The digest of the manifest `target`, which is a tag or a digest; `None` if the registry has no such manifest, or
    /// does not state its digest.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry answers with a status other than 200 and 404.
    pub fn manifest_digest(&self, target: &str) -> Result<Option<Digest>, RegistryError> {
        Ok(self.manifest_head(target)?.and_then(|head| head.digest))
    }

    /// Sends a manifest and stores it as `target`, which is a tag or the manifest's digest.
    ///
    /// # Errors
    /// [`RegistryError::Digest`] if the registry computed another digest.
    pub fn put_manifest(
        &self,
        target: &str,
        digest: &Digest,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<StoredManifest, RegistryError> {
        let what = self.manifest_name(target);
        let url = self.url(&what, &self.manifest_path(target))?;
        let payload =
            Payload { len: bytes.len() as u64, open: &|| Ok(Box::new(bytes) as Box<dyn Read + '_>) };
        let headers = [(header::CONTENT_TYPE, media_type)];
        let response = self.send(&what, &Method::PUT, &url, &headers, Some(&payload))?;
        match response.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED => {
                self.check_digest(digest, &response)?;
                let is_listed_by_subject = response.headers().contains_key(SUBJECT);
                let digest = stated_digest(&response);
                self.drain(response);
                Ok(StoredManifest { digest, is_listed_by_subject })
            }
            _ => Err(self.status_error(&what, response)),
        }
    }

    /// Deletes the manifest `target`. A digest deletes the manifest with all of its tags; a tag deletes the tag alone,
    /// which few registries do. Returns false if the registry has no such manifest.
    ///
    /// # Errors
    /// [`RegistryError::Unsupported`] if the registry deletes no manifests, or no tags.
    pub fn delete_manifest(&self, target: &str) -> Result<bool, RegistryError> {
        let what = self.manifest_name(target);
        let url = self.url(&what, &self.manifest_path(target))?;
        let response = self.send(&what, &Method::DELETE, &url, &[], None)?;
        match response.status() {
            StatusCode::ACCEPTED | StatusCode::OK | StatusCode::NO_CONTENT => {
                self.drain(response);
                Ok(true)
            }
            StatusCode::NOT_FOUND => {
                self.drain(response);
                Ok(false)
            }
            StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED => {
                let operation =
                    if Digest::parse(target).is_ok() { "delete manifests" } else { "delete tags" };
                Err(self.unsupported(operation, response))
            }
            _ => Err(self.status_error(&what, response)),
        }
    }

    fn manifest_name(&self, target: &str) -> String {
        let joint = if target.contains(':') { '@' } else { ':' };
        format!("manifest {}{joint}{target}", self.repository)
    }

    fn manifest_path(&self, target: &str) -> String {
        self.path(&format!("manifests/{target}"))
    }
}

/// Without all of these types, a registry may answer 404 for a manifest that it has.
fn accept() -> String {
    oci::ACCEPT.join(", ")
}

/// The media types of the `Content-Type` and of the document, if the document states one and they differ.
///
/// OCI distribution-spec, "Pulling manifests", requires equal types. General types, which servers of plain files send,
/// contradict nothing.
fn contradiction(content_type: Option<&str>, bytes: &[u8]) -> Option<(String, String)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Declared {
        media_type: Option<String>,
    }
    let stated = without_parameters(content_type?);
    let is_general = matches!(stated, "" | "application/json" | "application/octet-stream")
        || stated.starts_with("text/")
        || stated.starts_with("binary/");
    // A document that is no JSON declares nothing. The caller parses it and reports the error.
    let declared = serde_json::from_slice::<Declared>(bytes).ok()?.media_type?;
    let is_equal = declared.is_empty() || declared.eq_ignore_ascii_case(stated);
    (!is_general && !is_equal).then(|| (crop(stated), crop(&declared)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_that_contradicts_the_document_is_found() {
        let document = format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, oci::INDEX);
        let is_contradicted =
            |content_type, document: &str| contradiction(content_type, document.as_bytes()).is_some();
        assert!(is_contradicted(Some(oci::MANIFEST), &document));
        for content_type in [
            None,
            Some(oci::INDEX),
            Some("application/vnd.oci.image.index.v1+json; charset=utf-8"),
            Some("application/json"),
            Some("text/plain; charset=utf-8"),
            Some(""),
        ] {
            assert!(!is_contradicted(content_type, &document), "{content_type:?}");
        }
        for silent in [r#"{"schemaVersion":2}"#, r#"{"mediaType":null}"#, r#"{"mediaType":""}"#, "no JSON"] {
            assert!(!is_contradicted(Some(oci::MANIFEST), silent), "{silent}");
        }
    }
}
