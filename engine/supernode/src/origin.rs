//! Requests to origins: whether a file exists, whether it has changed, and its bytes.
//!
//! Called on threads by [`crate::cdn`] for fetches and by [`crate::server`] for registrations; the calls block.
//! One call is one attempt: callers decide whether and when to try again. Which addresses may be connected to is
//! in `allow`. The supernode adds no credential of its own, because its clients get what the origin answers.

mod allow;
mod answer;
mod body;
mod error;
mod request;

pub use allow::{AllowedOrigin, AllowedOriginError, address_filter, parse_allowed};
pub use answer::Validators;
pub use body::Body;
pub use error::OriginError;
pub use request::{HEADER_BYTES_MAX, HEADERS_MAX, Request, URL_MAX};

use crate::access::credential;
use crate::piece::LENGTH_MAX;
use answer::ContentRange;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use sampan_job::cancel::Cancel;
use sampan_registry::Access;
use sampan_registry::web::{Answer, Web};
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest time of a probe.
pub const PROBE_TIME: Duration = Duration::from_secs(15);
/// Longest body of an answer that is read only so that its connection can serve another request, in bytes.
const DRAIN_MAX: u64 = 4096;

/// The settings for requests to origins.
#[derive(Clone, Debug)]
pub struct OriginSettings {
    /// The origins that are allowed although their addresses are not public.
    pub allowed: Vec<AllowedOrigin>,
    /// Directories with certificates, in the layout of containers-certs.d(5).
    pub certs: Vec<PathBuf>,
    /// Hosts (`HOST` or `HOST:PORT`) whose certificates are not verified.
    pub insecure_hosts: Vec<String>,
    /// Longest wait for the next byte; `None` means 30 s.
    pub stall: Option<Duration>,
    /// Longest file, in bytes.
    pub length_max: u64,
    /// Longest time of a probe. It is short, because a client waits.
    pub probe_time: Duration,
}

impl Default for OriginSettings {
    fn default() -> Self {
        OriginSettings {
            allowed: Vec::new(),
            certs: Vec::new(),
            insecure_hosts: Vec::new(),
            stall: None,
            length_max: LENGTH_MAX,
            probe_time: PROBE_TIME,
        }
    }
}

/// What an origin says about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginFile {
    /// The length in bytes; `None` if the origin does not state it.
    pub length: Option<u64>,
    /// Whether the origin serves ranges of bytes.
    pub takes_ranges: bool,
    /// What identifies the version of the file.
    pub validators: Validators,
}

/// The result of [`Origins::probe`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// The file is the version that the caller knows.
    Unchanged,
    /// The file exists. If the caller knows a version, this is another one, or the origin does not say which one.
    Found(OriginFile),
}

/// All origins. The threads share one value.
pub struct Origins {
    web: Web,
    length_max: u64,
    probe_time: Duration,
}

/// A way to ask for a file without fetching it, in the order in which they are tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Head,
    /// A GET of the first byte.
    FirstByte,
    /// A GET of which only the head of the answer is read.
    Get,
}

impl Origins {
    /// Connects to nothing yet. Proxies are those of the environment.
    pub fn new(settings: OriginSettings) -> Self {
        let access = Access {
            insecure_hosts: settings.insecure_hosts.into(),
            certs: settings.certs.into(),
            stall: settings.stall,
            addresses: address_filter(settings.allowed),
            ..Access::default()
        };
        let (length_max, probe_time) = (settings.length_max, settings.probe_time);
        Origins { web: Web::new(access), length_max, probe_time }
    }

    /// Asks the origin whether the file exists, and whether it is the version `known`. [`ProbeResult::Found`] also
    /// shows that the credential in the request gives access to the file.
    ///
    /// Sends a HEAD. If the origin refuses it or says too little, sends a GET of the first byte, or a GET whose
    /// body is not read. A presigned URL, for example, is valid for one method.
    ///
    /// # Errors
    /// [`OriginError`]: there is no such file, access is denied, or the origin cannot be asked.
    pub fn probe(
        &self,
        request: &Request,
        known: Option<&Validators>,
        cancel: &Cancel,
    ) -> Result<ProbeResult, OriginError> {
        let known = known.filter(|known| !known.is_empty());
        let until = Instant::now() + self.probe_time;
        // A HEAD has no ranges.
        let mut attempt = if request.range().is_some() { Attempt::Get } else { Attempt::Head };
        loop {
            let mut headers = HeaderMap::new();
            if let Some(known) = known {
                add(&mut headers, header::IF_NONE_MATCH, known.etag.as_deref());
                add(&mut headers, header::IF_MODIFIED_SINCE, known.last_modified.as_deref());
            }
            if attempt == Attempt::FirstByte {
                headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
            }
            let method = if attempt == Attempt::Head { Method::HEAD } else { Method::GET };
            let answer = self.send(&method, request, headers, Some(until), cancel)?;
            if answer.status == StatusCode::NOT_MODIFIED && known.is_some() {
                return Ok(ProbeResult::Unchanged);
            }
            let next = match attempt {
                Attempt::Head => Some(Attempt::FirstByte),
                Attempt::FirstByte => Some(Attempt::Get),
                Attempt::Get => None,
            };
            attempt = match (self.found(request, &answer, attempt)?, next) {
                (Some(probe), _) => {
                    drain(answer);
                    let is_known = known.is_some_and(|known| known.is_same(&probe.validators) == Some(true));
                    return Ok(if is_known { ProbeResult::Unchanged } else { ProbeResult::Found(probe) });
                }
                (None, Some(next)) => next,
                (None, None) => return Err(OriginError::of_status(request.printable_url(), &answer)),
            };
        }
    }

    /// Closes connections that are idle for more than some seconds.
    pub fn close_idle(&self) {
        self.web.close_idle();
    }

    /// What an answer says about the file; `None` if the next attempt may say more.
    fn found(
        &self,
        request: &Request,
        answer: &Answer<'_>,
        attempt: Attempt,
    ) -> Result<Option<OriginFile>, OriginError> {
        let range = ContentRange::of(&answer.headers);
        let (length, takes_ranges) = match (answer.status.as_u16(), attempt) {
            (200, Attempt::Head) => {
                let length = answer::content_length(&answer.headers);
                // Some servers state the length 0 for a HEAD whatever the length of the file is.
                match (length.filter(|length| *length > 0), answer::accepts_ranges(&answer.headers)) {
                    (Some(length), Some(accepts)) => (Some(length), accepts),
                    _ => return Ok(None),
                }
            }
            (200, _) => (answer.body_length, false),
            (206, Attempt::Get) if request.range().is_some() => (answer.body_length, false),
            (206, Attempt::FirstByte) => match range {
                Some(ContentRange { part: Some((0, 1)), total }) => (total, true),
                _ => return Ok(None),
            },
            // An empty file has no first byte.
            (416, Attempt::FirstByte) => match range {
                Some(ContentRange { part: None, total: Some(0) }) => (Some(0), true),
                _ => return Ok(None),
            },
            (400 | 403 | 405 | 406 | 500 | 501, Attempt::Head) => return Ok(None),
            (400 | 405 | 406 | 501, Attempt::FirstByte) => return Ok(None),
            _ => return Err(OriginError::of_status(request.printable_url(), answer)),
        };
        self.check_length(request, length)?;
        Ok(Some(OriginFile { length, takes_ranges, validators: answer::validators(&answer.headers) }))
    }

    /// Begins to fetch the file from byte `from` on, up to byte `to`, which is not included; `None` means the end.
    ///
    /// The body begins at byte 0 if the origin does not serve ranges, or if the request itself has one: see
    /// [`Body::starts`].
    ///
    /// # Errors
    /// [`OriginError::Changed`]: the origin has another version than `validators`, as far as it says. Other
    /// [`OriginError`]s: there is no such file, access is denied, or the origin cannot be asked.
    pub fn fetch<'a>(
        &self,
        request: &Request,
        from: u64,
        to: Option<u64>,
        validators: &Validators,
        cancel: &'a Cancel,
    ) -> Result<Body<'a>, OriginError> {
        let mut headers = HeaderMap::new();
        let range = match to {
            _ if request.range().is_some() => None,
            Some(to) => Some(format!("bytes={from}-{}", to.saturating_sub(1).max(from))),
            None => Some(format!("bytes={from}-")).filter(|_| from > 0),
        };
        if range.is_some() {
            add(&mut headers, header::RANGE, range.as_deref());
            add(&mut headers, header::IF_RANGE, validators.if_range());
        }
        let answer = self.send(&Method::GET, request, headers, None, cancel)?;
        let changed = || OriginError::Changed { url: request.printable_url() };
        let (starts, length) = match answer.status.as_u16() {
            200 => (0, answer.body_length),
            206 if request.range().is_some() => (0, answer.body_length),
            206 if range.is_some() => match ContentRange::of(&answer.headers) {
                Some(ContentRange { part: Some((starts, _)), total }) if starts == from => (starts, total),
                _ => {
                    return Err(OriginError::Answer {
                        url: request.printable_url(),
                        problem: "sends a part that was not requested",
                    });
                }
            },
            412 => return Err(changed()),
            // The file is shorter than it was.
            416 if range.is_some() => return Err(changed()),
            _ => return Err(OriginError::of_status(request.printable_url(), &answer)),
        };
        let found = answer::validators(&answer.headers);
        if validators.is_same(&found) == Some(false) {
            return Err(changed());
        }
        self.check_length(request, length)?;
        let most = to.unwrap_or(self.length_max.saturating_add(1)).saturating_sub(starts);
        let (reader, body_length) = (answer.reader, answer.body_length);
        // If the body itself ends in time, no limit is put on it: the connection can serve another request only if
        // somebody reads the end.
        Ok(match body_length.is_some_and(|length| length <= most) {
            true => Body::new(reader, starts, length, found),
            false => Body::new(reader.take(most), starts, length, found),
        })
    }

    fn check_length(&self, request: &Request, length: Option<u64>) -> Result<(), OriginError> {
        match length.filter(|length| *length > self.length_max) {
            Some(length) => Err(OriginError::TooLarge { url: request.printable_url(), length }),
            None => Ok(()),
        }
    }

    /// Sends a request with the client's headers and with `headers`.
    fn send<'a>(
        &self,
        method: &Method,
        request: &Request,
        mut headers: HeaderMap,
        until: Option<Instant>,
        cancel: &'a Cancel,
    ) -> Result<Answer<'a>, OriginError> {
        let own: Vec<HeaderName> = headers.keys().cloned().collect();
        // Pieces are ranges of the file itself, and not of a compressed form of it.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        for (name, value) in &request.headers {
            let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { continue };
            let Ok(value) = HeaderValue::from_str(value) else { continue };
            // A client's header never replaces one that this module needs.
            if !own.contains(&name) && name != header::ACCEPT_ENCODING {
                headers.append(name, value);
            }
        }
        let may_leave = |name: &HeaderName| {
            own.contains(name) || *name == header::ACCEPT_ENCODING || credential::is_harmless(name.as_str())
        };
        let sent = self.web.send(method, &request.url, &headers, &may_leave, until, cancel);
        sent.map_err(|error| OriginError::of_web(request.printable_url(), error))
    }
}

fn add(headers: &mut HeaderMap, name: HeaderName, value: Option<&str>) {
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
        headers.insert(name, value);
    }
}

/// Reads and drops a short body, so that its connection can serve the next request.
fn drain(answer: Answer<'_>) {
    if answer.body_length.is_some_and(|length| length <= DRAIN_MAX) {
        let mut reader = answer.reader.take(DRAIN_MAX + 1);
        // If that fails, the connection closes, and the next request makes another one.
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
    }
}

#[cfg(test)]
mod tests;
