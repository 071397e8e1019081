//! Fetches manifests, blobs and tags from a [`Registry`]. OCI distribution-spec, "Pull" and "Content Discovery".
//!
//! The calls block, so callers use worker threads; [`Registry::shutdown`] aborts the calls. The first request detects
//! whether the registry speaks HTTPS or plain HTTP. HTTP is tried only on loopback and at registries that are marked
//! insecure. This module handles one registry; [`crate::mirrors`] chooses among several.

use crate::access::{BlobBody, Headers, RawManifest};
use crate::error::{Failed, RegistryError, crop};
use crate::headers::{is_rest, next_page};
use crate::registry::{Registry, is_loopback};
use ::http::uri::Authority;
use ::http::{Response, StatusCode, header};
use sampan_oci as oci;
use sampan_oci::digest::{Digest, Hasher};
use sampan_oci::reference;
use sampan_os::mutex::lock;
use serde::Deserialize;
use std::collections::HashSet;
use ureq::Body;

/// Tags requested per page.
const TAGS_PER_PAGE: usize = 1000;
/// Longest page of tags in bytes. A registry without paging sends all tags as one page.
const TAG_PAGE_MAX: u64 = 16 << 20;
/// Most pages of tags that are read.
const TAG_PAGES_MAX: usize = 1000;
/// Most tags of one repository that are read.
pub const TAGS_MAX: usize = 100_000;

impl Registry {
    /// Checks that the host is a registry and accepts the credential. OCI distribution-spec, "Determining Support".
    ///
    /// # Errors
    /// [`RegistryError::Denied`] if the registry refuses the credential.
    pub fn check(&self) -> Result<(), RegistryError> {
        let scheme = self.detect_scheme("its front page")?;
        let response = self.follow("its front page", &format!("{scheme}://{}/v2/", self.authority), &[])?;
        match response.status() {
            StatusCode::OK => Ok(()),
            _ => Err(self.status_error("its front page", response)),
        }
    }

    /// Fetches the manifest or index `target`, which is a tag or a digest. Verifies the bytes if `target` is a digest.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] if there is no such manifest, [`RegistryError::Digest`] if the bytes have another
    /// digest.
    pub fn manifest(&self, target: &str) -> Result<RawManifest, RegistryError> {
        let what = match target.contains(':') {
            true => format!("manifest {}@{target}", self.repository),
            false => format!("manifest {}:{target}", self.repository),
        };
        let response =
            self.get(&what, &format!("manifests/{target}"), &[(header::ACCEPT, &oci::ACCEPT.join(", "))])?;
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|v| v.to_str().ok()).map(str::to_owned);
        let bytes = self.read_bounded(response, &what, oci::MANIFEST_MAX)?;
        let expected = Digest::parse(target).ok();
        let mut hasher =
            Hasher::new(expected.as_ref().map_or(oci::digest::Algorithm::Sha256, Digest::algorithm));
        hasher.update(&bytes);
        let digest = hasher.finish();
        match expected {
            Some(expected) if expected != digest => Err(RegistryError::Digest { expected, found: digest }),
            _ => Ok(RawManifest { bytes, digest, content_type }),
        }
    }

    /// Lists the tags of the repository. OCI distribution-spec, "Listing tags".
    ///
    /// # Errors
    /// [`RegistryError::Answer`] if there are more than [`TAGS_MAX`] tags, or one of them is not a valid tag.
    pub fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let what = format!("tags of {}", self.repository);
        let (mut tags, mut seen) = (Vec::new(), HashSet::new());
        let mut path = format!("tags/list?n={TAGS_PER_PAGE}");
        let mut pages = HashSet::new();
        for _ in 0..TAG_PAGES_MAX {
            if !pages.insert(path.clone()) {
                return Err(self.bad_answer(format!(
                    "lists tags of {} on pages that link in a circle",
                    self.repository
                )));
            }
            let response = self.get(&what, &path, &[(header::ACCEPT, "application/json")])?;
            let next = next_page(&response).map(str::to_owned);
            for tag in self.read_tag_page(response, &what)? {
                if tags.len() >= TAGS_MAX {
                    return Err(
                        self.bad_answer(format!("lists more than {TAGS_MAX} tags of {}", self.repository))
                    );
                }
                if seen.insert(tag.clone()) {
                    tags.push(tag);
                }
            }
            let Some(next) = next else {
                return Ok(tags);
            };
            path = self.next_page_path(&next)?;
        }
        Err(self.bad_answer(format!("lists tags of {} on more than {TAG_PAGES_MAX} pages", self.repository)))
    }

    /// Reads one page of tags and checks that each is a valid tag.
    fn read_tag_page(&self, response: Response<Body>, what: &str) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            // Go writes an empty list as null.
            tags: Option<Vec<String>>,
        }
        let bytes = self.read_bounded(response, what, TAG_PAGE_MAX)?;
        let page: Page = serde_json::from_slice(&bytes)
            .map_err(|e| self.bad_answer(format!("sends a list of tags that is not valid JSON: {e}")))?;
        let tags = page.tags.unwrap_or_default();
        match tags.iter().find(|tag| !reference::is_tag(tag)) {
            Some(bad) => Err(self.bad_answer(format!("lists {:?}, which is no tag", crop(bad)))),
            None => Ok(tags),
        }
    }

    /// The path of the next page of tags, from a `Link` header. Uses only the query of the link, so that the registry
    /// cannot direct the token to another host.
    fn next_page_path(&self, link: &str) -> Result<String, RegistryError> {
        let query = link.split_once('?').map(|(_, query)| query).unwrap_or_default();
        let allowed =
            |b: u8| b.is_ascii_graphic() && !matches!(b, b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`');
        if query.is_empty() || query.len() > 4096 || !query.bytes().all(allowed) {
            return Err(self.bad_answer(format!("links to {:?} as the next page of tags", crop(link))));
        }
        Ok(format!("tags/list?{query}"))
    }

    /// Fetches a small blob completely. The caller compares its digest.
    ///
    /// # Errors
    /// [`RegistryError::Answer`] if the blob is larger than `max` bytes.
    pub fn small_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, RegistryError> {
        let what = format!("blob {digest}");
        let response = self.get(&what, &format!("blobs/{digest}"), &[])?;
        self.read_bounded(response, &what, max)
    }

    /// Begins to fetch a blob of `size` bytes, from byte `offset` on. The body begins at byte 0 if the registry does
    /// not support ranges, or if the blob no longer has the given `etag`.
    ///
    /// OCI distribution-spec, "Pulling blobs"; RFC 9110, section 14.
    ///
    /// # Errors
    /// [`RegistryError::Answer`] if the registry announces another size than `size`.
    pub fn blob(
        &self,
        digest: &Digest,
        size: u64,
        offset: u64,
        etag: Option<&str>,
    ) -> Result<BlobBody, RegistryError> {
        let (what, path) = (format!("blob {digest}"), format!("blobs/{digest}"));
        let range = format!("bytes={offset}-");
        let mut headers = vec![(header::RANGE, range.as_str())];
        headers.extend(etag.map(|etag| (header::IF_RANGE, etag)));
        let mut starts = offset;
        let mut response = match offset {
            0 => self.get(&what, &path, &[])?,
            _ => match self.get(&what, &path, &headers) {
                Err(RegistryError::Status { status: 416, .. }) => self.get(&what, &path, &[])?,
                other => other?,
            },
        };
        if response.status() == StatusCode::PARTIAL_CONTENT && !is_rest(&response, offset, size) {
            // The registry has sent a wrong part of the blob, so request the whole blob.
            response = self.get(&what, &path, &[])?;
        }
        if response.status() == StatusCode::OK {
            starts = 0;
        } else if !is_rest(&response, offset, size) {
            return Err(self.bad_answer(format!("sends a part of blob {digest} that was not requested")));
        }
        let announced = response.body().content_length();
        if let Some(announced) = announced.filter(|announced| *announced != size - starts) {
            return Err(
                self.bad_answer(format!("offers {announced} bytes for blob {digest}, expected {size}"))
            );
        }
        let etag = response.headers().get(header::ETAG).and_then(|v| v.to_str().ok());
        // Ignore weak ETags (`W/"..."`), which do not promise equal bytes. RFC 9110, section 13.1.5.
        let etag = etag.filter(|etag| etag.starts_with('"')).map(str::to_owned);
        let reader = response.into_body().into_with_config().limit(u64::MAX).reader();
        Ok(BlobBody { starts, etag, reader: Box::new(reader) })
    }

    /// The error for a body that broke off in the middle of a blob.
    pub fn blob_read_error(&self, digest: &Digest, source: std::io::Error) -> RegistryError {
        self.transport_error(&format!("blob {digest}"), ureq::Error::Io(source))
    }

    /// Sends one GET for `path` below `/v2/<repository>/`.
    ///
    /// If the scheme is not known but almost certain, the request itself is used to detect it. That saves a request
    /// for the front page.
    fn request(&self, what: &str, path: &str, headers: Headers<'_>) -> Result<Response<Body>, RegistryError> {
        let url = |scheme: &str| format!("{scheme}://{}/v2/{}/{path}", self.authority, self.repository);
        let known = lock(&self.state).scheme;
        let mut unclear = None;
        if let (None, [scheme, others @ ..]) = (known, self.schemes())
            && (others.is_empty() || is_loopback(&self.host))
        {
            match self.follow(what, &url(scheme), headers) {
                Ok(response) if others.is_empty() || is_registry_status(response.status()) => {
                    lock(&self.state).scheme = Some(scheme);
                    return Ok(response);
                }
                Ok(response) => unclear = Some((*scheme, response)),
                Err(error) if others.is_empty() || lock(&self.state).is_shut_down => return Err(error),
                Err(_) => {}
            }
        }
        let scheme = self.detect_scheme(what)?;
        match unclear {
            // The registry has answered. Without new credentials, another request would get the same answer.
            Some((tried, response)) if tried == scheme && self.authorization()?.is_none() => Ok(response),
            _ => self.follow(what, &url(scheme), headers),
        }
    }

    /// Requests the front page, and authenticates if the answer has a challenge. Returns whether the next request will
    /// have an authorization that the last request did not have.
    fn authenticate_at_front_page(&self, what: &str) -> Result<bool, RegistryError> {
        // Copy the scheme and release the lock, because a credential helper may be slow.
        let known = lock(&self.state).scheme;
        let Some(scheme) = known.filter(|_| self.has_credential()) else {
            return Ok(false);
        };
        let response = self.follow(what, &format!("{scheme}://{}/v2/", self.authority), &[])?;
        let is_challenge = response.status() == StatusCode::UNAUTHORIZED;
        let is_authenticated = is_challenge && self.authenticate(&response, None)?;
        self.drain(response);
        Ok(is_authenticated)
    }

    /// The schemes to try, in order.
    fn schemes(&self) -> &'static [&'static str] {
        match (self.is_socket, self.plain_allowed) {
            (true, _) => &["http"],
            // On loopback nobody can listen in, and most registries there speak plain HTTP. A first try with HTTPS
            // would read all CA certificates of the host for nothing.
            (false, true) if is_loopback(&self.host) => &["http", "https"],
            (false, true) => &["https", "http"],
            (false, false) => &["https"],
        }
    }

    /// Detects whether the registry speaks HTTPS or (if allowed) HTTP, by a request for the front page. Also
    /// authenticates if the answer has a challenge.
    pub(crate) fn detect_scheme(&self, what: &str) -> Result<&'static str, RegistryError> {
        let known = lock(&self.state).scheme;
        if let Some(scheme) = known {
            return Ok(scheme);
        }
        let schemes = self.schemes();
        let mut failure = None;
        for scheme in schemes {
            let is_choice = *scheme == "http" && schemes.len() > 1;
            match self.follow(what, &format!("{scheme}://{}/v2/", self.authority), &[]) {
                // An HTTPS server answers plain HTTP with status 400, so such an answer does not prove that the
                // registry speaks HTTP. The error of the HTTPS attempt is the useful one.
                Ok(response) if is_choice && !is_registry_status(response.status()) => {}
                Ok(response) => {
                    lock(&self.state).scheme = Some(scheme);
                    if response.status() == StatusCode::UNAUTHORIZED {
                        self.authenticate(&response, None)?;
                    }
                    self.drain(response);
                    return Ok(scheme);
                }
                Err(error) if lock(&self.state).is_shut_down => return Err(error),
                // With an explicit port, the other scheme would connect to the port that has just timed out.
                Err(error) if is_connect_timeout(&error) && self.has_explicit_port() => return Err(error),
                // If the server speaks no TLS, the error of the HTTP attempt is the useful one.
                Err(error) => failure = failure.filter(|first| !is_not_tls(first)).or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| self.bad_answer("speaks neither HTTPS nor HTTP".to_owned())))
    }

    /// Whether HTTPS and HTTP would use one port.
    fn has_explicit_port(&self) -> bool {
        self.authority.parse::<Authority>().is_ok_and(|authority| authority.port().is_some())
    }

    /// Sends a GET for `path` below `/v2/<repository>/`. If the registry requires authentication, authenticates and
    /// repeats the request once. Any status except 200 and 206 is an error.
    fn get(&self, what: &str, path: &str, headers: Headers<'_>) -> Result<Response<Body>, RegistryError> {
        let sent = self.authorization()?;
        let mut response = self.request(what, path, headers)?;
        let is_authenticated = match response.status() {
            StatusCode::UNAUTHORIZED => self.authenticate(&response, sent)?,
            // Some registries hide a private repository behind 404 or 403 and send their challenge only on the
            // front page.
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN if sent.is_none() => {
                self.authenticate_at_front_page(what)?
            }
            _ => false,
        };
        if is_authenticated {
            self.drain(response);
            response = self.request(what, path, headers)?;
        }
        if matches!(response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Ok(response);
        }
        Err(self.status_error(what, response))
    }
}

fn is_connect_timeout(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::Transport { source: Failed(ureq::Error::Timeout(ureq::Timeout::Connect)), .. }
    )
}

/// Whether an HTTPS request failed because the server does not speak TLS.
fn is_not_tls(error: &RegistryError) -> bool {
    let RegistryError::Transport { source: Failed(ureq::Error::Io(io)), .. } = error else { return false };
    let tls = io.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidMessage(_)))
}

/// Whether an answer with `status` to `/v2/`, or to a path below it, can only come from a registry. OCI
/// distribution-spec, "Determining Support".
fn is_registry_status(status: StatusCode) -> bool {
    matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::UNAUTHORIZED)
}
