//! When a request to a registry is tried again, and how long is waited before.
//!
//! Called by [`crate::download`] for blobs and by [`crate::pull`] for manifests and configs. Decides and waits;
//! never sends anything itself.

use crate::registry::{Failed, RegistryError};
use sampan_job::cancel::Cancel;
use std::collections::hash_map::RandomState;
use std::error::Error;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tries of one request, the first included. A download counts anew after [`crate::download::HEADWAY`] bytes.
pub const TRIES: u32 = 5;
/// Wait before the second try; each later one doubles. A wait is cut by up to its half, at random, so that
/// hosts that failed together do not come back together.
pub const FIRST: Duration = Duration::from_millis(500);
/// Longest wait that is ours.
pub const LONGEST: Duration = Duration::from_secs(30);
/// Longest wait that a registry's `Retry-After` may ask for; more is cut to this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);

/// The tries of one request.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failed: u32,
}

impl Backoff {
    /// Forgets the failures so far: there was headway.
    pub fn reset(&mut self) {
        self.failed = 0;
    }

    /// How long to wait after `error`, or `None` to give up.
    pub fn after(&mut self, error: &RegistryError) -> Option<Duration> {
        self.failed += 1;
        if self.failed >= TRIES || !is_passing(error) {
            return None;
        }
        let whole = FIRST.saturating_mul(1 << (self.failed - 1).min(16)).min(LONGEST);
        let asked = match error.last() {
            RegistryError::Status { retry_after, .. } => retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        Some(whole.mul_f64(0.5 + 0.5 * chance()).max(asked.min(RETRY_AFTER_MAX)))
    }

    /// Waits as long as [`Backoff::after`] says, telling `tell` so first.
    ///
    /// # Errors
    /// `error` itself, when it is given up or `cancel` was called.
    pub fn wait(
        &mut self,
        error: RegistryError,
        cancel: &Cancel,
        tell: &dyn Fn(&str),
    ) -> Result<(), RegistryError> {
        let Some(wait) = self.after(&error).filter(|_| !cancel.is_cancelled()) else {
            return Err(error);
        };
        tell(&note(wait, &error));
        cancel.wait(wait).map_err(|_| error)
    }
}

/// Makes `request` until it succeeds, or fails for good.
///
/// # Errors
/// The last [`RegistryError`].
pub fn persist<T>(
    cancel: &Cancel,
    tell: &dyn Fn(&str),
    mut request: impl FnMut() -> Result<T, RegistryError>,
) -> Result<T, RegistryError> {
    let mut backoff = Backoff::default();
    loop {
        match request() {
            Err(error) => backoff.wait(error, cancel, tell)?,
            done => return done,
        }
    }
}

/// True if the same request may succeed later: the network failed, or the registry asks for patience.
pub fn is_passing(error: &RegistryError) -> bool {
    match error.last() {
        // TLS reports a certificate that is not trusted as invalid data: it will be no better.
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

/// `retrying in 3 s: connection reset`.
fn note(wait: Duration, error: &RegistryError) -> String {
    let mut why: &dyn Error = error;
    while let Some(source) = why.source() {
        why = source;
    }
    format!("retrying in {} s: {why}", wait.as_millis().div_ceil(1000))
}

/// Between 0 and 1. Keys of the standard library's hash maps are random enough to spread waits.
fn chance() -> f64 {
    f64::from((RandomState::new().build_hasher().finish() >> 32) as u32) / f64::from(u32::MAX)
}

/// How long a `Retry-After` header asks to wait from `now`: seconds, or a date. RFC 9110, section 10.2.3.
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let now = now.duration_since(UNIX_EPOCH).ok()?;
    Some(parse_date(value)?.saturating_sub(now))
}

/// Time since the epoch of `Sun, 06 Nov 1994 08:49:37 GMT`. RFC 9110, section 5.6.7, the form that may be sent.
fn parse_date(value: &str) -> Option<Duration> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let rest = value.split_once(", ")?.1.strip_suffix(" GMT")?;
    let mut parts = rest.split(' ');
    let day: u64 = parts.next()?.parse().ok().filter(|day| (1..=31).contains(day))?;
    let name = parts.next()?;
    let month = MONTHS.iter().position(|month| *month == name)?;
    let year: u64 = parts.next()?.parse().ok().filter(|year| (1970..=9999).contains(year))?;
    let mut clock = parts.next()?.split(':').map(|part| part.parse::<u64>().ok().filter(|n| *n <= 60));
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let of_years: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let lengths = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let of_months: u64 = lengths.iter().take(month).sum();
    let days = of_years + of_months + day - 1;
    Some(Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
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
        let asked = |seconds| status(429, Some(Duration::from_secs(seconds)));
        assert_eq!(Backoff::default().after(&asked(7)), Some(Duration::from_secs(7)));
        assert_eq!(Backoff::default().after(&asked(u64::MAX)), Some(RETRY_AFTER_MAX));
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
