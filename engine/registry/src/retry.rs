//! Decides which failed requests are tried again, and after which wait: backoff, status 429 and `Retry-After`.
//!
//! A busy registry answers 429 or 503, often with a `Retry-After` header. [`Backoff`] computes the wait after such an
//! answer and after a broken connection. Called by [`crate::blob_download`] for blobs, and by the engine's jobs for
//! manifests and configs. This module decides and waits; it sends no request.

use crate::error::RegistryError;
use chrono::NaiveDateTime;
use sampan_ipc::retry_note;
use sampan_job::cancel::Cancel;
use std::collections::hash_map::RandomState;
use std::error::Error;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Most attempts of one request, including the first. A download begins to count again after
/// [`crate::blob_download::PROGRESS_BYTES`].
pub const TRIES: u32 = 5;
/// Wait before the second attempt; each later wait is twice as long. Every wait is shortened by a random part, up to a
/// half, so that hosts whose requests failed at one moment do not retry at one moment.
pub const FIRST: Duration = Duration::from_millis(500);
/// Longest wait without a `Retry-After` header.
pub const LONGEST: Duration = Duration::from_secs(30);
/// Pause of a host after its first answer 429 without a `Retry-After` header; each later one doubles it. It is shortened
/// by a random part, too.
pub const REFUSED_FIRST: Duration = Duration::from_secs(2);
/// Longest pause of a host because of an answer 429 without a `Retry-After` header.
pub const REFUSED_LONGEST: Duration = Duration::from_secs(60);
/// Longest wait because of a registry's `Retry-After` header; a longer demand is cut to this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
/// Longest time of all pauses of one request that cost no attempt. A registry that demands pauses for ever must not
/// hold a job for ever.
pub const PAUSES_MAX: Duration = Duration::from_secs(900);
/// Shortest pause that costs no attempt. A shorter one is no pause: the requests would follow each other at once.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Counts failed attempts, and computes the waits between them.
///
/// A pause that a `Retry-After` header demands costs no attempt, unless it is longer than [`RETRY_AFTER_MAX`], or the
/// pauses together are longer than [`PAUSES_MAX`]. [`crate::host_gate`] holds all other requests to the host meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waits {
    failed: u32,
    /// Sum of the pauses that cost no attempt.
    paused: Duration,
}

impl Waits {
    /// The wait before the next attempt, after the HTTP status `status` (0 without an answer) and a demand of the
    /// registry (zero without one); `None` if no attempt is left.
    pub fn next(&mut self, status: u16, demanded: Duration) -> Option<Duration> {
        let is_pause = matches!(status, 429 | 503) && (PAUSE_MIN..=RETRY_AFTER_MAX).contains(&demanded);
        if is_pause && self.paused + demanded <= PAUSES_MAX {
            self.paused += demanded;
            return Some(demanded);
        }
        self.failed += 1;
        if self.failed >= TRIES {
            return None;
        }
        let doublings = self.failed - 1;
        let whole = match (status, demanded) {
            // The gate of the host holds the next request at least as long as that.
            (429, Duration::ZERO) => refused_pause(doublings),
            _ => FIRST.saturating_mul(1 << doublings.min(16)).min(LONGEST),
        };
        Some(whole.mul_f64(0.5 + 0.5 * random_fraction()).max(demanded.min(RETRY_AFTER_MAX)))
    }
}

/// Counts the failed attempts of one request, and decides whether another one may help.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    waits: Waits,
}

impl Backoff {
    /// Forgets all failures and pauses, because the transfer has made progress since the last one.
    pub fn reset(&mut self) {
        *self = Backoff::default();
    }

    /// The wait before the next attempt after `error`; `None` to give up.
    pub fn after(&mut self, error: &RegistryError) -> Option<Duration> {
        let (status, demanded) = match error.last() {
            RegistryError::Status { status, retry_after, .. } => (*status, retry_after.unwrap_or_default()),
            _ => (0, Duration::ZERO),
        };
        if is_passing(error) { self.waits.next(status, demanded) } else { None }
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
        RegistryError::Transport { source, .. } | RegistryError::Send { source, .. } => source.is_passing(),
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
    retry_note::format(wait.as_millis().div_ceil(1000), &cause.to_string())
}

/// The wait that a `Retry-After` header demands at the time `now`: seconds, or a date. RFC 9110, section 10.2.3.
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
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

/// The pause after an answer 429 without a `Retry-After` header and `refusals` earlier ones, before a random part is
/// taken off.
pub(crate) fn refused_pause(refusals: u32) -> Duration {
    REFUSED_FIRST.saturating_mul(1 << refusals.min(16)).min(REFUSED_LONGEST)
}

/// A number between 0 and 1. The random keys of the standard library's hash maps are good enough for a random wait.
pub(crate) fn random_fraction() -> f64 {
    f64::from((RandomState::new().build_hasher().finish() >> 32) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<Duration>) -> RegistryError {
        let (what, host) = ("x".to_owned(), "r".to_owned());
        let (code, detail) = (String::new(), String::new());
        RegistryError::Status { what, host, status, code, detail, retry_after }
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
    fn a_pause_costs_no_attempt_within_bounds() {
        let busy = |seconds| status(503, Some(Duration::from_secs(seconds)));
        let mut backoff = Backoff::default();
        for _ in 0..9 {
            assert_eq!(backoff.after(&busy(100)), Some(Duration::from_secs(100)));
        }
        // The pauses have lasted too long, so each further one is an attempt.
        let attempts =
            std::iter::repeat_with(|| backoff.after(&busy(100))).take_while(Option::is_some).count();
        assert_eq!(attempts, TRIES as usize - 1);
        for seconds in [0, 121] {
            let mut backoff = Backoff::default();
            let waits = std::iter::repeat_with(|| backoff.after(&busy(seconds))).take_while(Option::is_some);
            assert_eq!(waits.count(), TRIES as usize - 1, "{seconds}");
        }
        let mut backoff = Backoff { waits: Waits { failed: TRIES - 1, paused: PAUSES_MAX } };
        backoff.reset();
        assert_eq!(backoff.after(&busy(1)), Some(PAUSE_MIN));
    }

    #[test]
    fn a_refusal_without_a_time_waits_longer_than_a_failure() {
        let mut backoff = Backoff::default();
        for whole in [2000, 4000, 8000, 16_000] {
            let wait = backoff.after(&status(429, None)).expect("one more try").as_millis();
            assert!((whole / 2..=whole).contains(&wait), "{wait} of {whole}");
        }
        assert_eq!(backoff.after(&status(429, None)), None);
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
