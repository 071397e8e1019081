//! When a request to a registry is tried again, and how long is waited before.
//!
//! Called by [`crate::blob_download`] for blobs and by the engine's pull for manifests and configs. Decides and waits;
//! never sends anything itself.

use crate::error::{Failed, RegistryError};
use sampan_job::cancel::Cancel;
use std::collections::hash_map::RandomState;
use std::error::Error;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::time::Duration;

/// Tries of one request, the first included. A download counts anew after [`crate::blob_download::HEADWAY`] bytes.
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
}
