//! The client of a registry: one repository, one job. OCI distribution-spec, "Pull".
//!
//! Blocking, for worker threads; [`Registry::shutdown`] breaks off whatever is under way. Redirects are followed
//! here, one by one, so that no credential ever reaches another host. HTTPS with the host's CA bundle and what
//! containers-certs.d(5) adds; plain HTTP for this host's own loopback, and for registries that the operator calls
//! insecure. Knows nothing of the store, nor of other registries: [`crate::sources`] does.

mod authorize;
mod certs;
mod dial;
mod location;
mod proxy;
mod stream;
mod tls;
mod transport;
mod tunnel;
mod upload;

use self::authorize::Session;
use self::transport::{Agents, is_loopback};
pub use self::upload::{Begun, Payload, Upload};
use crate::credentials::Credentials;
use crate::registries::{Endpoint, Registries, RegistriesError};
use crate::retry;
use ::http::{Response, StatusCode, header};
use sampan_http::range;
use sampan_oci as oci;
use sampan_oci::digest::{Digest, Hasher};
use sampan_oci::reference::{self, Reference};
use sampan_os::mutex::lock;
use serde::Deserialize;
use std::collections::HashSet;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use ureq::Body;

/// Most bytes of an error's or a token's body that are read.
const SMALL_BODY_MAX: u64 = 256 << 10;
/// Fewest bytes of a small body that come in the time in which one may be late.
const SMALL_BODY_PACE: usize = 1024;
/// Tags that a registry is asked for at a time.
const TAGS_PER_PAGE: usize = 1000;
/// Most bytes of one page of tags; a registry that does not page gives all at once.
const TAG_PAGE_MAX: u64 = 16 << 20;
/// Most pages of tags.
const TAG_PAGES_MAX: usize = 1000;
/// Most tags of a repository.
pub const TAGS_MAX: usize = 100_000;

/// Why a registry did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached, or stopped in the middle.
    #[error("cannot fetch {what} from {host}")]
    Transport {
        /// What was asked for.
        what: String,
        /// Of whom.
        host: String,
        /// Why not.
        source: Failed,
    },
    /// What it was sent did not get there.
    #[error("cannot send {what} to {host}")]
    Send {
        /// What was sent.
        what: String,
        /// To whom.
        host: String,
        /// Why not.
        source: Failed,
    },
    /// It has no such image.
    #[error("{what} is not in registry {host}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// Of whom.
        host: String,
    },
    /// It refuses us.
    #[error("registry {host} denies access to {what}{detail}")]
    Denied {
        /// What was asked for.
        what: String,
        /// Of whom.
        host: String,
        /// Its own words, behind a colon; or empty.
        detail: String,
    },
    /// It answers with another status than success.
    #[error("registry {host} answers {status} to a request for {what}{detail}")]
    Status {
        /// What was asked for.
        what: String,
        /// Of whom.
        host: String,
        /// HTTP status.
        status: u16,
        /// Its own words, behind a colon; or empty.
        detail: String,
        /// How long it asks to wait before the next try.
        retry_after: Option<Duration>,
    },
    /// It answers with something that makes no sense.
    #[error("registry {host} {wrong}")]
    Answer {
        /// Who.
        host: String,
        /// What is wrong.
        wrong: String,
    },
    /// A manifest is not what its name says.
    #[error("manifest {expected} has digest {found}")]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The files about registries forbid it, or make no sense.
    #[error(transparent)]
    Registries(Arc<RegistriesError>),
    /// What the operator gave to reach it with cannot be used.
    #[error("cannot use {} for registry {host}: {why}", path.display())]
    Certificate {
        /// Which file or directory.
        path: PathBuf,
        /// For whom.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// The environment names a proxy that cannot be used.
    #[error("cannot reach registry {host}: {why}")]
    Proxy {
        /// Whom.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// Neither a mirror nor the registry itself gave it.
    #[error("{}; tried before: {}", sampan_ipc::report::chain(last.as_ref()), all(others))]
    Everywhere {
        /// What happened at the others, in the order in which they were tried.
        others: Vec<RegistryError>,
        /// What happened last.
        last: Box<RegistryError>,
    },
}

/// What broke a request, in words for people: ureq's own begin with the name of its variant.
#[derive(Debug)]
pub struct Failed(pub ureq::Error);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ureq::Error::Io(error) => match tls_error(error) {
                Some(error) => tls_words(error, f),
                None => error.fmt(f),
            },
            ureq::Error::Timeout(ureq::Timeout::Connect) => f.write_str("no connection in time"),
            ureq::Error::Timeout(ureq::Timeout::Resolve) => f.write_str("its name is not resolved in time"),
            ureq::Error::Timeout(ureq::Timeout::RecvResponse) => f.write_str("no answer in time"),
            ureq::Error::Timeout(ureq::Timeout::PerRead) => f.write_str("no byte came in time"),
            ureq::Error::Timeout(ureq::Timeout::PerWrite) => f.write_str("no byte was taken in time"),
            other => other.fmt(f),
        }
    }
}

impl std::error::Error for Failed {}

impl Failed {
    /// What a person may do about it.
    pub fn hint(&self) -> &'static str {
        let ureq::Error::Io(error) = &self.0 else { return UNREACHABLE };
        match tls_error(error) {
            Some(rustls::Error::InvalidMessage(_)) => {
                "use --tls-verify=false if it speaks plain HTTP, or insecure-registries of the engine's configuration"
            }
            Some(error) if tls::is_authoritys(error) || is_unknown(error) => {
                "put the certificate of its CA into /etc/containers/certs.d/HOST[:PORT]/ca.crt, or its own if it has \
                 signed that itself; --tls-verify=false goes without"
            }
            Some(rustls::Error::InvalidCertificate(_)) => {
                "it needs another certificate, or this host's clock is wrong; --tls-verify=false goes without"
            }
            _ if dial::is_unresolved(error) => "check the registry's name, and this host's DNS",
            _ => UNREACHABLE,
        }
    }
}

const UNREACHABLE: &str =
    "check that the registry is reachable; use --tls-verify=false if it speaks plain HTTP";

/// What TLS says, if it was TLS that failed.
fn tls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn is_unknown(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))
}

/// The words of TLS, where it has some that a person understands.
fn tls_words(error: &rustls::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error {
        rustls::Error::InvalidMessage(_) => write!(f, "it does not speak TLS ({error})"),
        error if is_unknown(error) => f.write_str("nobody whom this host trusts has signed its certificate"),
        error if tls::is_authoritys(error) => {
            f.write_str("its certificate is one that it has signed itself, and is not known here")
        }
        error => fmt::Display::fmt(error, f),
    }
}

fn all(errors: &[RegistryError]) -> String {
    errors.iter().map(|e| sampan_ipc::report::chain(e)).collect::<Vec<_>>().join("; ")
}

impl RegistryError {
    /// What happened at the place that was asked last: the error itself if that was the only one.
    pub fn last(&self) -> &RegistryError {
        match self {
            RegistryError::Everywhere { last, .. } => last.last(),
            other => other,
        }
    }
}

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
type Headers<'a> = &'a [(header::HeaderName, &'a str)];

/// One repository of one registry.
pub struct Registry {
    /// As the reference has it, for messages.
    host: String,
    /// As it is connected to.
    authority: String,
    repository: String,
    /// The tag or digest to ask for, if it is not the reference's.
    target: Option<String>,
    plain_allowed: bool,
    insecure: bool,
    is_socket: bool,
    /// Why nothing may be asked here.
    refused: Option<Arc<RegistriesError>>,
    agents: Agents,
    session: Session,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    scheme: Option<&'static str>,
    shut: bool,
}

impl Registry {
    /// The repository that `reference` is in, at its own registry: to push to, or to log in at. Connects to nothing
    /// yet; if it is blocked, each request says so.
    pub fn new(reference: &Reference, access: &Access) -> Self {
        match access.registries.home(reference) {
            Ok(endpoint) => Registry::at(&endpoint, access),
            Err(why) => {
                let refused = Some(Arc::new(why));
                Registry { refused, ..Registry::at(&Endpoint::of(reference), access) }
            }
        }
    }

    /// The repository that `endpoint` is. Connects to nothing yet.
    pub fn at(endpoint: &Endpoint, access: &Access) -> Self {
        let host = endpoint.host.clone();
        let authority = match &endpoint.socket {
            // What a server behind a socket is called nobody knows; it hears what curl(1) says there.
            Some(_) => "localhost".to_owned(),
            None if host == "docker.io" => "registry-1.docker.io".to_owned(),
            None => host.clone(),
        };
        // What a person says of a registry is not about its mirrors.
        let insecure = endpoint.insecure
            || (access.insecure && !endpoint.mirror)
            || access.insecure_hosts.contains(&endpoint.host);
        let agents =
            Agents::new(&host, &authority, endpoint.socket.clone(), insecure, access, endpoint.mirror);
        Registry {
            plain_allowed: insecure || is_loopback(&host) || endpoint.socket.is_some(),
            host,
            authority,
            session: Session::new(access.credentials.clone(), &endpoint.repository),
            repository: endpoint.repository.clone(),
            target: endpoint.target.clone(),
            insecure,
            is_socket: endpoint.socket.is_some(),
            refused: None,
            agents,
            state: Mutex::default(),
        }
    }

    /// What it is called in messages.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The tag or digest to ask for here, if it is another than the reference's.
    pub fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// Breaks off all requests, now and for ever.
    pub fn shutdown(&self) {
        lock(&self.state).shut = true;
        self.agents.shutdown();
    }

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

    /// That it answers with something that makes no sense.
    pub fn wrong(&self, wrong: String) -> RegistryError {
        RegistryError::Answer { host: self.host.clone(), wrong }
    }

    fn read_small(&self, response: Response<Body>, what: &str, max: u64) -> Result<Vec<u8>, RegistryError> {
        match self.read_body(response, max) {
            Ok(bytes) if bytes.len() as u64 <= max => Ok(bytes),
            Ok(_) | Err(ureq::Error::BodyExceedsLimit(_)) => {
                Err(self.wrong(format!("offers more than {max} bytes for {what}")))
            }
            Err(source) => Err(self.transport(what, source)),
        }
    }

    /// Reads a small body whole, if it comes at a pace: each byte may be late, and not all of them.
    fn read_body(&self, response: Response<Body>, max: u64) -> Result<Vec<u8>, ureq::Error> {
        // One more: ureq's limit is exclusive.
        let mut reader = response.into_body().into_with_config().limit(max + 1).reader();
        let (mut bytes, mut buffer) = (Vec::new(), [0; 8 << 10]);
        let (mut since, mut had) = (Instant::now(), 0);
        loop {
            match reader.read(&mut buffer).map_err(ureq::Error::from)? {
                0 => return Ok(bytes),
                len => bytes.extend_from_slice(buffer.get(..len).unwrap_or_default()),
            }
            if since.elapsed() >= self.agents.stall() {
                if bytes.len() - had < SMALL_BODY_PACE {
                    return Err(ureq::Error::Timeout(ureq::Timeout::RecvBody));
                }
                (since, had) = (Instant::now(), bytes.len());
            }
        }
    }

    fn transport(&self, what: &str, source: ureq::Error) -> RegistryError {
        RegistryError::Transport { what: what.to_owned(), host: self.host.clone(), source: Failed(source) }
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

    fn refusal(&self, what: &str, response: Response<Body>) -> RegistryError {
        let status = response.status();
        let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok());
        let retry_after = retry_after.and_then(|v| retry::parse_retry_after(v, SystemTime::now()));
        let body = self.read_body(response, SMALL_BODY_MAX).unwrap_or_default();
        let (what, host) = (what.to_owned(), self.host.clone());
        let detail = detail(&body);
        match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { what, host },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                RegistryError::Denied { what, host, detail: detail + &self.session.problems() }
            }
            status => RegistryError::Status { what, host, status: status.as_u16(), detail, retry_after },
        }
    }
}

/// The target of a `Link` with `rel="next"`. RFC 8288, section 3.
fn next_page(response: &Response<Body>) -> Option<&str> {
    let values = response.headers().get_all(header::LINK).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(next_links).next()
}

/// The targets of the links in `value` that lead to the next page; a comma or semicolon may be within `<…>`.
fn next_links(value: &str) -> impl Iterator<Item = &str> {
    value.split('<').skip(1).filter_map(|link| {
        let (target, parameters) = link.split_once('>')?;
        let next = |parameter: &str| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = value.trim_matches([' ', '"', ',']);
            name.trim().eq_ignore_ascii_case("rel") && value.eq_ignore_ascii_case("next")
        };
        parameters.split(';').any(next).then_some(target)
    })
}

/// Enough of a stranger's text to recognise it by.
fn crop(text: &str) -> String {
    text.chars().take(200).collect()
}

/// True if `response` brings bytes `offset` to the end of `size`.
fn is_rest(response: &Response<Body>, offset: u64, size: u64) -> bool {
    let content_range = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
    content_range.is_some_and(|content_range| range::is_rest(content_range, offset, size))
}

/// The words of an error's body: OCI distribution-spec, "Error Codes".
fn detail(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Word>,
    }
    #[derive(Deserialize)]
    struct Word {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(errors) = serde_json::from_slice::<Errors>(body) else {
        return String::new();
    };
    let words =
        errors.errors.into_iter().next().map(|w| if w.message.is_empty() { w.code } else { w.message });
    let words: String = words.unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect();
    if words.is_empty() { words } else { format!(": {words}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_too_late_is_said_in_words_for_people() {
        for (reason, words) in [
            (ureq::Timeout::PerRead, "no byte came in time"),
            (ureq::Timeout::PerWrite, "no byte was taken in time"),
            (ureq::Timeout::RecvResponse, "no answer in time"),
        ] {
            assert_eq!(Failed(ureq::Error::Timeout(reason)).to_string(), words);
        }
    }

    #[test]
    fn the_link_to_the_next_page_is_found_among_others() {
        for (value, found) in [
            ("</v2/a/tags/list?n=1&last=x>; rel=\"next\"", Some("/v2/a/tags/list?n=1&last=x")),
            ("<a,b;c?d>; title=x; REL=next", Some("a,b;c?d")),
            ("<one>; rel=prev, <two>; rel=\"next\", <three>; rel=last", Some("two")),
            ("<one>; rel=\"prev\"", None),
            ("one; rel=next", None),
            ("<one; rel=next", None),
            ("", None),
        ] {
            assert_eq!(next_links(value).next(), found, "{value}");
        }
    }
}
