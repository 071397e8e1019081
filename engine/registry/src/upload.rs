//! What a [`Registry`] is sent: blobs and manifests. OCI distribution-spec, "Push".
//!
//! One request a method; [`crate::push`] decides which comes next and what is tried again. A request whose body
//! is refused or redirected is made anew from its [`Payload`].

use crate::access::Headers;
use crate::error::{Failed, RegistryError};
use crate::redirect::join;
use crate::registry::Registry;
use crate::transport::REDIRECTS_MAX;
use ::http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use sampan_oci::digest::Digest;
use std::io::{self, Read};
use ureq::{Body, SendBody};

const OCTETS: &str = "application/octet-stream";
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// The body of a request, opened anew for each time that it is sent.
pub struct Payload<'a> {
    /// How many bytes it has; the reader fails rather than give fewer.
    pub len: u64,
    /// Opens it.
    pub open: &'a dyn Fn() -> io::Result<Box<dyn Read + 'a>>,
}

/// A blob's upload under way: where the registry wants its next request.
#[derive(Clone, Debug)]
pub struct Upload {
    location: String,
}

/// How an upload begins.
#[derive(Debug)]
pub enum Begun {
    /// Not at all: the registry had the blob in the other repository.
    Mounted,
    /// With no bytes there yet.
    Upload(Upload),
}

impl Registry {
    /// True if the repository has the blob.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let what = format!("blob {digest}");
        self.exists(&what, &format!("blobs/{digest}"), &[]).map(|found| found.is_some())
    }

    /// The digest of the manifest that `target`, a tag or a digest, stands for; `None` if there is none.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn manifest_digest(&self, target: &str) -> Result<Option<Digest>, RegistryError> {
        let what = format!("manifest {}:{target}", self.repository);
        let accept = sampan_oci::ACCEPT.join(", ");
        let found = self.exists(&what, &format!("manifests/{target}"), &[(header::ACCEPT, &accept)])?;
        Ok(found.as_ref().and_then(digest_of))
    }

    /// Begins the upload of a blob; or finds it in the repository `from` of the same registry.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn begin_upload(&self, digest: &Digest, from: Option<&str>) -> Result<Begun, RegistryError> {
        let what = format!("blob {digest}");
        let query = from.map_or(String::new(), |from| format!("?mount={digest}&from={from}"));
        let url = format!("{}/blobs/uploads/{query}", self.base(&what)?);
        let response = self.send(&what, &Method::POST, &url, &[], None)?;
        match (response.status(), from) {
            (StatusCode::CREATED, Some(_)) => Ok(Begun::Mounted),
            (StatusCode::ACCEPTED, _) => self.upload_of(&url, &response).map(Begun::Upload),
            _ => Err(self.refusal(&what, response)),
        }
    }

    /// How many bytes of an upload have arrived; `None` if the registry knows nothing of it any more.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn upload_offset(&self, upload: &mut Upload) -> Result<Option<u64>, RegistryError> {
        let what = "how much of a blob has arrived";
        let response = self.send(what, &Method::GET, &upload.location, &[], None)?;
        match response.status() {
            StatusCode::NO_CONTENT | StatusCode::OK | StatusCode::ACCEPTED => {
                self.go_on(upload, &response)?;
                Ok(Some(offset(&response)))
            }
            // Debian's docker-registry forgets an upload that broke within a request, and says 400.
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST | StatusCode::GONE => Ok(None),
            _ => Err(self.refusal(what, response)),
        }
    }

    /// Sends the bytes of a blob from `at` on; gives how many of it have arrived then.
    ///
    /// # Errors
    /// [`RegistryError::Status`] with 416 if the registry has another number of them than `at`.
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
                self.go_on(upload, &response)?;
                // One that does not say how much it took has taken all.
                let told = response.headers().contains_key(header::RANGE);
                Ok(if told { offset(&response) } else { at + payload.len })
            }
            _ => Err(self.refusal(&what, response)),
        }
    }

    /// Ends an upload, with all of the blob if it is small, and else with nothing more.
    ///
    /// # Errors
    /// [`RegistryError::Digest`] if the registry has got something else.
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
            StatusCode::CREATED | StatusCode::NO_CONTENT => self.compare(digest, &response),
            _ => Err(self.refusal(&what, response)),
        }
    }

    /// Names a manifest `target`, a tag or its digest.
    ///
    /// # Errors
    /// [`RegistryError::Digest`] if the registry has got something else.
    pub fn put_manifest(
        &self,
        target: &str,
        digest: &Digest,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        let what = format!("manifest {}:{target}", self.repository);
        let url = format!("{}/manifests/{target}", self.base(&what)?);
        let payload =
            Payload { len: bytes.len() as u64, open: &|| Ok(Box::new(bytes) as Box<dyn Read + '_>) };
        let headers = [(header::CONTENT_TYPE, media_type)];
        let response = self.send(&what, &Method::PUT, &url, &headers, Some(&payload))?;
        match response.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED => self.compare(digest, &response),
            _ => Err(self.refusal(&what, response)),
        }
    }

    /// HEAD below `/v2/<repository>/`; `None` if it is not there.
    fn exists(
        &self,
        what: &str,
        below: &str,
        headers: Headers<'_>,
    ) -> Result<Option<Response<Body>>, RegistryError> {
        let url = format!("{}/{below}", self.base(what)?);
        let response = self.send(what, &Method::HEAD, &url, headers, None)?;
        match response.status() {
            StatusCode::OK => Ok(Some(response)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.refusal(what, response)),
        }
    }

    fn base(&self, what: &str) -> Result<String, RegistryError> {
        // It is found out by a GET, and it is for sending all the same.
        let scheme = self.reach(what).map_err(|error| match error {
            RegistryError::Transport { what, host, source } => RegistryError::Send { what, host, source },
            other => other,
        })?;
        Ok(format!("{scheme}://{}/v2/{}", self.authority, self.repository))
    }

    /// The digest that the registry has computed must be ours; one that says none is believed.
    fn compare(&self, expected: &Digest, response: &Response<Body>) -> Result<(), RegistryError> {
        match digest_of(response) {
            // It may prefer another algorithm for the same bytes.
            Some(found) if found != *expected && found.algorithm() == expected.algorithm() => {
                Err(RegistryError::Digest { expected: expected.clone(), found })
            }
            _ => Ok(()),
        }
    }

    fn upload_of(&self, url: &str, response: &Response<Body>) -> Result<Upload, RegistryError> {
        let mut upload = Upload { location: url.to_owned() };
        if !response.headers().contains_key(header::LOCATION) {
            return Err(self.wrong("begins an upload and does not say where".to_owned()));
        }
        self.go_on(&mut upload, response)?;
        Ok(upload)
    }

    /// Where the next request of an upload goes; the same place if the answer names none.
    fn go_on(&self, upload: &mut Upload, response: &Response<Body>) -> Result<(), RegistryError> {
        if let Some(location) = response.headers().get(header::LOCATION) {
            upload.location = self.next(&upload.location, location)?;
        }
        Ok(())
    }

    fn next(&self, url: &str, location: &HeaderValue) -> Result<String, RegistryError> {
        let no_url = || self.wrong("sends an upload to where no URL leads".to_owned());
        let base: Uri = url.parse().map_err(|_| no_url())?;
        let next = join(&base, location.as_bytes()).ok_or_else(no_url)?;
        if next.parse::<Uri>().is_err() {
            return Err(no_url());
        }
        // What is sent is somebody's image: not from HTTPS into the open.
        if url.starts_with("https://") && !next.starts_with("https://") && !self.insecure {
            return Err(self.wrong("sends an upload from HTTPS to plain HTTP".to_owned()));
        }
        Ok(next)
    }

    /// Makes a request; with a new token if the registry wants one, and where it redirects to.
    fn send(
        &self,
        what: &str,
        method: &Method,
        url: &str,
        headers: Headers<'_>,
        payload: Option<&Payload<'_>>,
    ) -> Result<Response<Body>, RegistryError> {
        let sent = self.authorization()?;
        let response = self.send_through(what, method, url, headers, payload)?;
        if response.status() == StatusCode::UNAUTHORIZED && self.authenticate(&response, sent)? {
            return self.send_through(what, method, url, headers, payload);
        }
        Ok(response)
    }

    fn send_through(
        &self,
        what: &str,
        method: &Method,
        url: &str,
        headers: Headers<'_>,
        payload: Option<&Payload<'_>>,
    ) -> Result<Response<Body>, RegistryError> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send_once(what, method, &url, headers, payload)?;
            let goes_on = match response.status() {
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
                // Others may turn a method into GET. RFC 9110, section 15.4.
                status => status.is_redirection() && matches!(*method, Method::HEAD | Method::GET),
            };
            let location = response.headers().get(header::LOCATION).filter(|_| goes_on);
            let Some(location) = location else {
                return Ok(response);
            };
            url = self.next(&url, location)?;
        }
        Err(self.wrong(format!("redirects more than {REDIRECTS_MAX} times")))
    }

    fn send_once(
        &self,
        what: &str,
        method: &Method,
        url: &str,
        headers: Headers<'_>,
        payload: Option<&Payload<'_>>,
    ) -> Result<Response<Body>, RegistryError> {
        let failed = |source| self.unsent(what, source);
        let invalid = |error| self.unsent(what, ureq::Error::Http(error));
        let uri: Uri = url.parse().map_err(|error| invalid(::http::Error::from(error)))?;
        let mut request = Request::builder().method(method).uri(&uri);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        if let Some(authorization) = self.authorization_for(&uri) {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if matches!(*method, Method::HEAD | Method::GET) {
            return self.run(&uri, request.body(()).map_err(invalid)?, &failed);
        }
        let mut reader = match payload {
            Some(payload) => (payload.open)().map_err(|error| failed(ureq::Error::Io(error)))?,
            None => Box::new(io::empty()),
        };
        request = request.header(header::CONTENT_LENGTH, payload.map_or(0, |payload| payload.len));
        let body = SendBody::from_reader(&mut reader);
        self.run(&uri, request.body(body).map_err(invalid)?, &failed)
    }

    fn unsent(&self, what: &str, source: ureq::Error) -> RegistryError {
        RegistryError::Send { what: what.to_owned(), host: self.host.clone(), source: Failed(source) }
    }
}

fn digest_of(response: &Response<Body>) -> Option<Digest> {
    Digest::parse(response.headers().get(DIGEST)?.to_str().ok()?).ok()
}

/// How many bytes have arrived: `Range: 0-N` counts N as well, and is `0-0` also for none.
fn offset(response: &Response<Body>) -> u64 {
    let range = response.headers().get(header::RANGE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    offset_in(range)
}

fn offset_in(range: &str) -> u64 {
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
    use crate::access::Access;
    use sampan_oci::reference::Reference;

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
            assert_eq!(offset_in(range), count, "{range}");
        }
    }

    #[test]
    fn an_upload_goes_where_the_registry_says_and_not_into_the_open() {
        let registry = Registry::new(&Reference::parse("r.example/a").expect("good"), &Access::default());
        let next = |location: &'static str| {
            registry.next("https://r.example/v2/a/blobs/uploads/", &HeaderValue::from_static(location))
        };
        assert_eq!(next("/v2/a/x?_state=y").expect("good"), "https://r.example/v2/a/x?_state=y");
        assert_eq!(next("https://store.example/x").expect("good"), "https://store.example/x");
        assert!(next("http://r.example/x").is_err());
        assert!(next("https://[").is_err());
    }
}
