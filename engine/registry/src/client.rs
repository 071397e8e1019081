//! What a [`Registry`] is asked: manifests, blobs, tags. OCI distribution-spec, "Pull" and "Content Discovery".
//!
//! Blocking, for worker threads; [`Registry::shutdown`] breaks off whatever is under way. The first request finds out how
//! the registry is spoken to: HTTPS, or plain HTTP for this host's own loopback and for registries that the operator
//! calls insecure. Knows nothing of other registries: [`crate::mirrors`] does.

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

/// Tags that a registry is asked for at a time.
const TAGS_PER_PAGE: usize = 1000;
/// Most bytes of one page of tags; a registry that does not page gives all at once.
const TAG_PAGE_MAX: u64 = 16 << 20;
/// Most pages of tags.
const TAG_PAGES_MAX: usize = 1000;
/// Most tags of a repository.
pub const TAGS_MAX: usize = 100_000;

impl Registry {
    /// Finds out whether it is a registry, and takes what we are. OCI distribution-spec, "Determining Support".
    ///
    /// # Errors
    /// [`RegistryError::Denied`] if it does not.
    pub fn check(&self) -> Result<(), RegistryError> {
        let scheme = self.reach("its front page")?;
        let response = self.follow("its front page", &format!("{scheme}://{}/v2/", self.authority), &[])?;
        match response.status() {
            StatusCode::OK => Ok(()),
            _ => Err(self.refusal("its front page", response)),
        }
    }

    /// Fetches the manifest or index called `target`: a tag or a digest. A digest is verified here.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn manifest(&self, target: &str) -> Result<RawManifest, RegistryError> {
        let what = match target.contains(':') {
            true => format!("manifest {}@{target}", self.repository),
            false => format!("manifest {}:{target}", self.repository),
        };
        let response =
            self.get(&what, &format!("manifests/{target}"), &[(header::ACCEPT, &oci::ACCEPT.join(", "))])?;
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|v| v.to_str().ok()).map(str::to_owned);
        let bytes = self.read_small(response, &what, oci::MANIFEST_MAX)?;
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

    /// The tags of the repository. OCI distribution-spec, "Listing tags".
    ///
    /// # Errors
    /// [`RegistryError::Answer`] if they are more than [`TAGS_MAX`], or are no tags.
    pub fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let what = format!("tags of {}", self.repository);
        let (mut tags, mut seen) = (Vec::new(), HashSet::new());
        let mut below = format!("tags/list?n={TAGS_PER_PAGE}");
        let mut pages = HashSet::new();
        for _ in 0..TAG_PAGES_MAX {
            if !pages.insert(below.clone()) {
                return Err(
                    self.wrong(format!("lists tags of {} on pages that link in a circle", self.repository))
                );
            }
            let response = self.get(&what, &below, &[(header::ACCEPT, "application/json")])?;
            let next = next_page(&response).map(str::to_owned);
            for tag in self.page(response, &what)? {
                if tags.len() >= TAGS_MAX {
                    return Err(self.wrong(format!("lists more than {TAGS_MAX} tags of {}", self.repository)));
                }
                if seen.insert(tag.clone()) {
                    tags.push(tag);
                }
            }
            let Some(next) = next else {
                return Ok(tags);
            };
            below = self.page_below(&next)?;
        }
        Err(self.wrong(format!("lists tags of {} on more than {TAG_PAGES_MAX} pages", self.repository)))
    }

    /// One page of tags, each of which is one.
    fn page(&self, response: Response<Body>, what: &str) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            // Go writes an empty list as null.
            tags: Option<Vec<String>>,
        }
        let bytes = self.read_small(response, what, TAG_PAGE_MAX)?;
        let page: Page = serde_json::from_slice(&bytes)
            .map_err(|e| self.wrong(format!("gives a list of tags that is no JSON: {e}")))?;
        let tags = page.tags.unwrap_or_default();
        match tags.iter().find(|tag| !reference::is_tag(tag)) {
            Some(bad) => Err(self.wrong(format!("lists {:?}, which is no tag", crop(bad)))),
            None => Ok(tags),
        }
    }

    /// What stands behind the repository in a `Link` to the next page. It leads nowhere else: a list of tags
    /// is no redirect.
    fn page_below(&self, link: &str) -> Result<String, RegistryError> {
        let query = link.split_once('?').map(|(_, query)| query).unwrap_or_default();
        let clean =
            |b: u8| b.is_ascii_graphic() && !matches!(b, b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`');
        if query.is_empty() || query.len() > 4096 || !query.bytes().all(clean) {
            return Err(self.wrong(format!("links to {:?} as the next page of tags", crop(link))));
        }
        Ok(format!("tags/list?{query}"))
    }

    /// Fetches a small blob whole; the caller compares its digest.
    ///
    /// # Errors
    /// [`RegistryError::Answer`] if it is larger than `max`.
    pub fn small_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, RegistryError> {
        let what = format!("blob {digest}");
        let response = self.get(&what, &format!("blobs/{digest}"), &[])?;
        self.read_small(response, &what, max)
    }

    /// Begins to fetch a blob of `size` bytes, from byte `offset` on if the registry can do that and else from
    /// its beginning. With `etag`, it goes on only if the blob still has that one.
    ///
    /// OCI distribution-spec, "Pulling blobs"; RFC 9110, section 14.
    ///
    /// # Errors
    /// [`RegistryError::Answer`] if the registry announces another size.
    pub fn blob(
        &self,
        digest: &Digest,
        size: u64,
        offset: u64,
        etag: Option<&str>,
    ) -> Result<BlobBody, RegistryError> {
        let (what, below) = (format!("blob {digest}"), format!("blobs/{digest}"));
        let range = format!("bytes={offset}-");
        let mut headers = vec![(header::RANGE, range.as_str())];
        headers.extend(etag.map(|etag| (header::IF_RANGE, etag)));
        let mut starts = offset;
        let mut response = match offset {
            0 => self.get(&what, &below, &[])?,
            _ => match self.get(&what, &below, &headers) {
                Err(RegistryError::Status { status: 416, .. }) => self.get(&what, &below, &[])?,
                other => other?,
            },
        };
        if response.status() == StatusCode::PARTIAL_CONTENT && !is_rest(&response, offset, size) {
            // Not what was asked for: the whole is.
            response = self.get(&what, &below, &[])?;
        }
        if response.status() == StatusCode::OK {
            starts = 0;
        } else if !is_rest(&response, offset, size) {
            return Err(self.wrong(format!("gives a part of blob {digest} that was not asked for")));
        }
        let announced = response.body().content_length();
        if let Some(announced) = announced.filter(|announced| *announced != size - starts) {
            return Err(self.wrong(format!("offers {announced} bytes for blob {digest}, expected {size}")));
        }
        let etag = response.headers().get(header::ETAG).and_then(|v| v.to_str().ok());
        // A weak one cannot vouch for bytes. RFC 9110, section 13.1.5.
        let etag = etag.filter(|etag| etag.starts_with('"')).map(str::to_owned);
        let reader = response.into_body().into_with_config().limit(u64::MAX).reader();
        Ok(BlobBody { starts, etag, reader: Box::new(reader) })
    }

    /// What broke in the middle of a blob's body.
    pub fn broken(&self, digest: &Digest, source: std::io::Error) -> RegistryError {
        self.transport(&format!("blob {digest}"), ureq::Error::Io(source))
    }

    /// One GET below `/v2/<repository>/`. The first one finds out how the registry is spoken to, if its answer leaves
    /// no doubt about that: it is not asked for its front page then, which would be one more round trip.
    fn ask(&self, what: &str, below: &str, headers: Headers<'_>) -> Result<Response<Body>, RegistryError> {
        let url = |scheme| format!("{scheme}://{}/v2/{}/{below}", self.authority, self.repository);
        let (known, schemes) = (lock(&self.state).scheme, self.schemes());
        let mut doubtful = None;
        if known.is_none() && (schemes.len() == 1 || is_loopback(&self.host)) {
            let scheme = schemes[0];
            match self.follow(what, &url(scheme), headers) {
                Ok(response) if schemes.len() == 1 || speaks(response.status()) => {
                    lock(&self.state).scheme = Some(scheme);
                    return Ok(response);
                }
                Ok(response) => doubtful = Some((scheme, response)),
                Err(error) if schemes.len() == 1 || lock(&self.state).shut => return Err(error),
                Err(_) => {}
            }
        }
        let scheme = self.reach(what)?;
        match doubtful {
            // It was the registry, which knows nothing more of us than it did.
            Some((asked, response)) if asked == scheme && self.authorization()?.is_none() => Ok(response),
            _ => self.follow(what, &url(scheme), headers),
        }
    }

    /// Asks for the front page, and says who we are if it wants to know; true if there is something new to say.
    fn introduce(&self, what: &str) -> Result<bool, RegistryError> {
        // Not under the lock: who we are may be known to a helper alone, which takes its time.
        let known = lock(&self.state).scheme;
        let Some(scheme) = known.filter(|_| self.has_credential()) else {
            return Ok(false);
        };
        let response = self.follow(what, &format!("{scheme}://{}/v2/", self.authority), &[])?;
        let is_asked = response.status() == StatusCode::UNAUTHORIZED;
        let is_known = is_asked && self.authenticate(&response, None)?;
        self.read_out(response);
        Ok(is_known)
    }

    fn schemes(&self) -> &'static [&'static str] {
        match (self.is_socket, self.plain_allowed) {
            (true, _) => &["http"],
            // Nobody listens in between, and most registries there speak no TLS: what only that would need (all
            // the certificates of the host) is not read for nothing.
            (false, true) if is_loopback(&self.host) => &["http", "https"],
            (false, true) => &["https", "http"],
            (false, false) => &["https"],
        }
    }

    /// Finds out once whether the registry speaks HTTPS or, where that is allowed, HTTP; and which token it wants.
    pub(crate) fn reach(&self, what: &str) -> Result<&'static str, RegistryError> {
        let known = lock(&self.state).scheme;
        if let Some(scheme) = known {
            return Ok(scheme);
        }
        let schemes = self.schemes();
        let mut first = None;
        for scheme in schemes {
            let is_choice = *scheme == "http" && schemes.len() > 1;
            match self.follow(what, &format!("{scheme}://{}/v2/", self.authority), &[]) {
                // An HTTPS server answers plain HTTP with 400: what is wrong with HTTPS is the news then.
                Ok(response) if is_choice && !speaks(response.status()) => {}
                Ok(response) => {
                    lock(&self.state).scheme = Some(scheme);
                    if response.status() == StatusCode::UNAUTHORIZED {
                        self.authenticate(&response, None)?;
                    }
                    self.read_out(response);
                    return Ok(scheme);
                }
                Err(error) if lock(&self.state).shut => return Err(error),
                // Whoever does not even answer there is not asked the same again in plain text.
                Err(error) if is_late(&error) && self.has_port() => return Err(error),
                // Where nobody speaks TLS, what plain HTTP came to is the news.
                Err(error) => first = first.filter(|first| !speaks_no_tls(first)).or(Some(error)),
            }
        }
        Err(first.expect("there is one scheme at least"))
    }

    /// True if HTTPS and HTTP would go to the same port.
    fn has_port(&self) -> bool {
        self.authority.parse::<Authority>().is_ok_and(|authority| authority.port().is_some())
    }

    /// GET below `/v2/<repository>/`, with a token if the registry wants one; success or an error.
    fn get(&self, what: &str, below: &str, headers: Headers<'_>) -> Result<Response<Body>, RegistryError> {
        let sent = self.authorization()?;
        let mut response = self.ask(what, below, headers)?;
        let is_known = match response.status() {
            StatusCode::UNAUTHORIZED => self.authenticate(&response, sent)?,
            // Some hide what a stranger may not see, and ask who it is on their front page alone.
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN if sent.is_none() => self.introduce(what)?,
            _ => false,
        };
        if is_known {
            self.read_out(response);
            response = self.ask(what, below, headers)?;
        }
        if matches!(response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Ok(response);
        }
        Err(self.refusal(what, response))
    }
}

fn is_late(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::Transport { source: Failed(ureq::Error::Timeout(ureq::Timeout::Connect)), .. }
    )
}

/// True if what came back is no TLS at all.
fn speaks_no_tls(error: &RegistryError) -> bool {
    let RegistryError::Transport { source: Failed(ureq::Error::Io(io)), .. } = error else { return false };
    let tls = io.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidMessage(_)))
}

/// True for what a registry answers to `/v2/`, and no other server: OCI distribution-spec, "Determining Support". For
/// what is below, it is the answer that leaves no doubt.
fn speaks(status: StatusCode) -> bool {
    matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::UNAUTHORIZED)
}
