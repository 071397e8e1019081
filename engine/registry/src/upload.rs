//! Sends blobs to a [`Registry`]. OCI distribution-spec, "Pushing Blobs".
//!
//! Each method sends one request; the caller decides which request is next and which is tried again.

use crate::access::Payload;
use crate::error::RegistryError;
use crate::headers::number_in;
use crate::registry::Registry;
use ::http::{HeaderName, Method, Response, StatusCode, Uri, header};
use sampan_oci::digest::Digest;
use std::io::Read;
use ureq::Body;

const OCTETS: &str = "application/octet-stream";
/// The header with the fewest bytes that the registry takes in one part of a blob.
const CHUNK_MIN: HeaderName = HeaderName::from_static("oci-chunk-min-length");

/// A running upload of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The URL of the next request, chosen by the registry.
    location: String,
    chunk_min: u64,
}

impl Upload {
    /// Restores an upload that was stored by its [`Upload::location`]; `None` if `location` is not an HTTP or HTTPS URL.
    ///
    /// The upload may be over. [`Registry::upload_offset`] asks the registry.
    pub fn restore(location: String) -> Option<Self> {
        let uri: Uri = location.parse().ok()?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
        is_http.then_some(Upload { location, chunk_min: 0 })
    }

    /// The URL of the upload's next request. It changes with each request, and may contain a secret of the registry.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Fewest bytes that each part of the blob except the last must have; 0 if the registry states no bound, and after
    /// [`Upload::restore`].
    pub fn chunk_min(&self) -> u64 {
        self.chunk_min
    }
}

/// The answer to the start of an upload.
#[derive(Debug)]
pub enum UploadStart {
    /// The registry has taken the blob from the other repository, so that nothing needs to be sent.
    Mounted,
    /// The registry expects the blob from its first byte on.
    Upload(Upload),
}

impl Registry {
    /// Starts the upload of a blob, or mounts the blob from the repository `from` of the registry. A registry that does
    /// not mount the blob starts an upload instead.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry refuses the upload, or states no URL for it.
    pub fn begin_upload(&self, digest: &Digest, from: Option<&str>) -> Result<UploadStart, RegistryError> {
        let what = format!("blob {digest}");
        let query = from.map_or(String::new(), |from| format!("?mount={digest}&from={from}"));
        let url = self.url(&what, &self.path(&format!("blobs/uploads/{query}")))?;
        let response = self.send(&what, &Method::POST, &url, &[], None)?;
        match (response.status(), from) {
            (StatusCode::CREATED, Some(_)) => Ok(UploadStart::Mounted),
            (StatusCode::ACCEPTED, _) => self.new_upload(&url, &response).map(UploadStart::Upload),
            _ => Err(self.status_error(&what, response)),
        }
    }

    /// Ends an upload and drops its bytes. Returns false if the registry no longer knows the upload.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry answers with an unexpected status.
    pub fn cancel_upload(&self, upload: &Upload) -> Result<bool, RegistryError> {
        let what = "the end of an upload";
        let response = self.send(what, &Method::DELETE, &upload.location, &[], None)?;
        let is_known = match response.status() {
            StatusCode::NO_CONTENT | StatusCode::OK | StatusCode::ACCEPTED => true,
            status if is_unknown_upload(status) => false,
            _ => return Err(self.status_error(what, response)),
        };
        self.drain(response);
        Ok(is_known)
    }

    /// Number of bytes of an upload that the registry has received; `None` if it no longer knows the upload.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry answers with an unexpected status.
    pub fn upload_offset(&self, upload: &mut Upload) -> Result<Option<u64>, RegistryError> {
        let what = "how much of a blob has arrived";
        let response = self.send(what, &Method::GET, &upload.location, &[], None)?;
        match response.status() {
            StatusCode::NO_CONTENT | StatusCode::OK | StatusCode::ACCEPTED => {
                self.update_location(upload, &response)?;
                Ok(Some(received_bytes(&response)))
            }
            status if is_unknown_upload(status) => Ok(None),
            _ => Err(self.status_error(what, response)),
        }
    }

    /// Sends `payload`, the part of a blob from byte `at` on. Returns the number of bytes of the blob that the
    /// registry has.
    ///
    /// # Errors
    /// [`RegistryError::Status`] with status 416 if the registry does not have exactly `at` bytes.
    pub fn upload_part(
        &self,
        upload: &mut Upload,
        digest: &Digest,
        at: u64,
        payload: &Payload<'_>,
    ) -> Result<u64, RegistryError> {
        let what = format!("blob {digest}");
        let range = format!("{at}-{}", (at + payload.len).saturating_sub(1));
        let headers = [(header::CONTENT_TYPE, OCTETS), (header::CONTENT_RANGE, range.as_str())];
        let response = self.send(&what, &Method::PATCH, &upload.location, &headers, Some(payload))?;
        match response.status() {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED => {
                self.update_location(upload, &response)?;
                // Without a `Range` header, a success means that the registry has all bytes.
                let has_range = response.headers().contains_key(header::RANGE);
                Ok(if has_range { received_bytes(&response) } else { at + payload.len })
            }
            _ => Err(self.status_error(&what, response)),
        }
    }

    /// Sends `bytes`, the part of a blob from byte `at` on, like [`Registry::upload_part`]. The bytes are copied only
    /// into the buffer of the connection, some KiB at a time.
    ///
    /// # Errors
    /// As [`Registry::upload_part`].
    pub fn upload_bytes(
        &self,
        upload: &mut Upload,
        digest: &Digest,
        at: u64,
        bytes: &[u8],
    ) -> Result<u64, RegistryError> {
        let payload =
            Payload { len: bytes.len() as u64, open: &|| Ok(Box::new(bytes) as Box<dyn Read + '_>) };
        self.upload_part(upload, digest, at, &payload)
    }

    /// Finishes an upload. A small blob is sent as a whole in this request, as `whole`.
    ///
    /// # Errors
    /// [`RegistryError::Digest`] if the registry computed another digest.
    pub fn finish_upload(
        &self,
        upload: &Upload,
        digest: &Digest,
        whole: Option<&Payload<'_>>,
    ) -> Result<(), RegistryError> {
        let what = format!("blob {digest}");
        let joint = if upload.location.contains('?') { '&' } else { '?' };
        let url = format!("{}{joint}digest={digest}", upload.location);
        let headers = [(header::CONTENT_TYPE, OCTETS)];
        let response = self.send(&what, &Method::PUT, &url, &headers, whole)?;
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT => self.check_digest(digest, &response),
            _ => Err(self.status_error(&what, response)),
        }
    }

    fn new_upload(&self, url: &str, response: &Response<Body>) -> Result<Upload, RegistryError> {
        let chunk_min = number_in(response, &CHUNK_MIN).unwrap_or_default();
        let mut upload = Upload { location: url.to_owned(), chunk_min };
        if !response.headers().contains_key(header::LOCATION) {
            return Err(self.bad_answer("starts an upload without saying where to send it".to_owned()));
        }
        self.update_location(&mut upload, response)?;
        Ok(upload)
    }

    /// Stores the URL of the upload's next request from the answer; keeps the current URL if the answer has none.
    fn update_location(&self, upload: &mut Upload, response: &Response<Body>) -> Result<(), RegistryError> {
        if let Some(location) = response.headers().get(header::LOCATION) {
            upload.location = self.resolve_location(&upload.location, location)?;
        }
        Ok(())
    }
}

/// Whether the registry no longer knows the upload. Debian's docker-registry drops an upload whose request broke off;
/// later requests get status 404 or 400.
fn is_unknown_upload(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST | StatusCode::GONE)
}

/// Number of bytes that the registry has received, from the `Range` header of its answer.
fn received_bytes(response: &Response<Body>) -> u64 {
    let range = response.headers().get(header::RANGE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    parse_received(range)
}

/// `0-N` means N + 1 bytes. Registries also send `0-0` for no byte, so `0-0` counts as none.
fn parse_received(range: &str) -> u64 {
    let range = range.trim();
    let last = range.strip_prefix("bytes=").unwrap_or(range).strip_prefix("0-");
    match last.and_then(|last| last.parse::<u64>().ok()) {
        None | Some(0) => 0,
        Some(last) => last.saturating_add(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_how_many_bytes_are_there() {
        for (range, count) in [
            ("0-99", 100),
            ("bytes=0-99", 100),
            ("0-0", 0),
            ("", 0),
            ("5-9", 0),
            ("0--1", 0),
            ("0-18446744073709551615", u64::MAX),
            ("0-18446744073709551616", 0),
        ] {
            assert_eq!(parse_received(range), count, "{range}");
        }
    }

    #[test]
    fn a_stored_upload_is_an_http_url() {
        for good in ["http://r.example/v2/a/x?_state=y", "https://r.example:5000/x"] {
            assert_eq!(Upload::restore(good.to_owned()).expect("good").location(), good);
        }
        for bad in
            ["", "/v2/a/x", "ftp://r.example/x", "file:///etc/passwd", "https://", "https://[", "r:1/x"]
        {
            assert_eq!(Upload::restore(bad.to_owned()), None, "{bad}");
        }
    }
}
