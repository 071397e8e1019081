//! Decides which failed requests are tried again, and after which wait: backoff, status 429 and `Retry-After`.
//!
//! A busy registry answers 429 or 503, often with a `Retry-After` header. [`Backoff`] computes the wait after such an
//! answer and after a broken connection. Called by [`crate::blob_download`] for blobs, and by the engine's jobs for
//! manifests and configs. This module decides and waits; it sends no request.

use crate::error::{Failed, RegistryError};
use chrono::NaiveDateTime;
use sampan_job::cancel::Cancel;
use std::collections::hash_map::RandomState;
use std::error::Error;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Most attempts of one request, including the first. A download begins to count again after
/// [`crate::blob_download::PROGRESS_BYTES`].
pub const TRIES: u32 = 5;
/// Wait before the second attempt; each later wait is twice as long. Every wait is shortened by a random part, up to a
/// half, so that hosts whose requests failed at one moment do not retry at one moment.
pub const FIRST: Duration = Duration::from_millis(500);
/// Longest wait without a `Retry-After` header.
pub const LONGEST: Duration = Duration::from_secs(30);
/// Longest wait because of a registry's `Retry-After` header; a longer demand is cut to this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);

/// Counts the failed attempts of one request.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failed: u32,
}

impl Backoff {
    /// Forgets all failures, because the transfer has made progress since the last one.
    pub fn reset(&mut self) {
        self.failed = 0;
    }

    /// The wait before the next attempt after `error`; `None` to give up.
    pub fn after(&mut self, error: &RegistryError) -> Option<Duration> {
        self.failed += 1;
        if self.failed >= TRIES || !is_passing(error) {
            return None;
        }
        let whole = FIRST.saturating_mul(1 << (self.failed - 1).min(16)).min(LONGEST);
        let requested = match error.last() {
            RegistryError::Status { retry_after, .. } => retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        Some(whole.mul_f64(0.5 + 0.5 * random_fraction()).max(requested.min(RETRY_AFTER_MAX)))
    }

    /// Passes a message about the wait to `on_retry`, and waits for the time that [`Backoff::after`] returns.
    ///
    /// # Errors
    /// `error` itself, if no attempt is left, if the error is permanent, or if `cancel` was called.
    pub fn wait(
        &mut self,
        error: RegistryError,
        cancel: &Cancel,
        on_retry: &dyn Fn(&str),
    ) -> Result<(), RegistryError> {
        let Some(wait) = self.after(&error).filter(|_| !cancel.is_cancelled()) else {
            return Err(error);
        };
        on_retry(&retry_message(wait, &error));
        cancel.wait(wait).map_err(|_| error)
    }
}

/// Calls `request` until it succeeds, fails permanently, or has failed [`TRIES`] times.
///
/// # Errors
/// The [`RegistryError`] of the last attempt.
pub fn persist<T>(
    cancel: &Cancel,
    on_retry: &dyn Fn(&str),
    mut request: impl FnMut() -> Result<T, RegistryError>,
) -> Result<T, RegistryError> {
    let mut backoff = Backoff::default();
    loop {
        match request() {
            Err(error) => backoff.wait(error, cancel, on_retry)?,
            done => return done,
        }
    }
}

/// Whether a later attempt may succeed: the network failed, or the registry is overloaded (408, 429, 5xx).
pub fn is_passing(error: &RegistryError) -> bool {
    match error.last() {
        // TLS reports an untrusted certificate as invalid data. Another attempt would get the same certificate.
        RegistryError::Transport { source: Failed(ureq::Error::Io(io)), .. }
        | RegistryError::Send { source: Failed(ureq::Error::Io(io)), .. } => {
            io.kind() != io::ErrorKind::InvalidData
        }
        RegistryError::Transport { source, .. } | RegistryError::Send { source, .. } => matches!(
            source.0,
            ureq::Error::Timeout(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed
        ),
        RegistryError::Status { status, .. } => matches!(status, 408 | 429 | 500..=599),
        _ => false,
    }
}

/// Makes a message such as `retrying in 3 s: connection reset`.
fn retry_message(wait: Duration, error: &RegistryError) -> String {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    format!("retrying in {} s: {cause}", wait.as_millis().div_ceil(1000))
}

/// The wait that a `Retry-After` header demands at the time `now`: seconds, or a date. RFC 9110, section 10.2.3.
pub(crate) fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let now = now.duration_since(UNIX_EPOCH).ok()?;
    Some(parse_http_date(value)?.saturating_sub(now))
}

/// Time since the epoch of `Sun, 06 Nov 1994 08:49:37 GMT`: RFC 9110, section 5.6.7, without the obsolete forms.
fn parse_http_date(value: &str) -> Option<Duration> {
    // The day of the week adds no information, so it is not checked.
    let (_, rest) = value.split_once(", ")?;
    let date = NaiveDateTime::parse_from_str(rest, "%d %b %Y %H:%M:%S GMT").ok()?;
    u64::try_from(date.and_utc().timestamp()).ok().map(Duration::from_secs)
}

/// A number between 0 and 1. The random keys of the standard library's hash maps are good enough for a random wait.
fn random_fraction() -> f64 {
    f64::from((RandomState::new().build_hasher().finish() >> 32) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<Duration>) -> RegistryError {
        let (what, host, detail) = ("x".to_owned(), "r".to_owned(), String::new());
        RegistryError::Status { what, host, status, detail, retry_after }
    }

    #[test]
    fn waits_double_and_end_after_five_tries() {
        let mut backoff = Backoff::default();
        for whole in [500, 1000, 2000, 4000] {
            let wait = backoff.after(&status(503, None)).expect("one more try").as_millis();
            assert!((whole / 2..=whole).contains(&wait), "{wait} of {whole}");
        }
        assert_eq!(backoff.after(&status(503, None)), None);
    }

    #[test]
    fn what_will_not_change_is_not_tried_again() {
        for (code, again) in [(400, false), (404, false), (408, true), (418, false), (429, true), (500, true)]
        {
            assert_eq!(Backoff::default().after(&status(code, None)).is_some(), again, "{code}");
        }
    }

    #[test]
    fn a_registry_may_ask_for_patience_within_bounds() {
        let busy = |seconds| status(429, Some(Duration::from_secs(seconds)));
        assert_eq!(Backoff::default().after(&busy(7)), Some(Duration::from_secs(7)));
        assert_eq!(Backoff::default().after(&busy(u64::MAX)), Some(RETRY_AFTER_MAX));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777 - 5);
        for (value, seconds) in [
            ("0", Some(0)),
            (" 12 ", Some(12)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(5)),
            ("Sun, 06 Nov 1993 08:49:37 GMT", Some(0)),
            ("Sun, 99 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49 GMT", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(parse_retry_after(value, now), seconds.map(Duration::from_secs), "{value:?}");
        }
    }
}
