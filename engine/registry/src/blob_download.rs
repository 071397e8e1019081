//! One blob from a registry as one stream of bytes, however often the connection breaks.
//!
//! The pull of a layer reads it; the pipeline after that notices nothing of cuts, stalls and restarts.
//! A break goes on with `Range`; a registry that ignores it sends the blob again, of which what was here before
//! is skipped. Holds one of the engine's download slots for as long as bytes may come, not while it waits for
//! its next try. Digests are compared by the pipeline, never here.

use crate::access::BlobBody;
use crate::error::RegistryError;
use crate::mirrors::Mirrors;
use crate::retry::Backoff;
use sampan_job::cancel::Cancel;
use sampan_job::cpu;
use sampan_job::limits::{Limits, Slot};
use sampan_job::rate_limit::RateLimit;
use sampan_oci::digest::Digest;
use std::io::{self, Read};
use std::time::Duration;

/// Bytes after which failures before are forgotten: a long download on a bad line ends, one that gets nowhere does
/// not go on for ever.
pub const HEADWAY: u64 = 64 << 10;

/// Which blob, and for whom.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Who has it.
    pub registry: &'a Mirrors,
    /// What it shares with other downloads.
    pub limits: &'a Limits,
    /// Bytes per second of its own job.
    pub rate: &'a RateLimit,
    /// Ends it, and the waits between tries at once.
    pub cancel: &'a Cancel,
    /// Its digest.
    pub digest: &'a Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Told once bytes may come: a slot is taken.
    pub on_begin: &'a (dyn Fn() + Sync),
    /// Told before each new try when and why it is.
    pub on_retry: &'a (dyn Fn(&str) + Sync),
    /// Told the ETag that the bytes from now on come with.
    pub on_etag: &'a (dyn Fn(Option<&str>) + Sync),
}

/// A download under way.
pub struct Download<'a> {
    wanted: Wanted<'a>,
    slot: Option<Slot<'a>>,
    body: BlobBody,
    /// Offset of the byte that the reader gets next.
    at: u64,
    /// Bytes of the body that come before it.
    skip: u64,
    /// Where it was when it failed last.
    failed_at: u64,
    backoff: Backoff,
    pace: Pace,
}

impl<'a> Download<'a> {
    /// Begins at byte `at`; what was there before came with `etag`.
    ///
    /// # Errors
    /// [`RegistryError`] that no other try will mend.
    pub fn begin(wanted: Wanted<'a>, at: u64, etag: Option<&str>) -> Result<Self, RegistryError> {
        let (mut backoff, mut slot) = (Backoff::default(), None);
        let body = cpu::idle(|| connect(&wanted, at, etag, &mut backoff, &mut slot))?;
        let pace = Pace::new(wanted.limits);
        let skip = at.saturating_sub(body.starts);
        Ok(Download { wanted, slot, body, at, skip, failed_at: at, backoff, pace })
    }

    fn resume(&mut self, source: io::Error) -> Result<(), RegistryError> {
        if self.at.saturating_sub(self.failed_at) >= HEADWAY {
            self.backoff.reset();
            self.failed_at = self.at;
        }
        let error = self.wanted.registry.broken(self.wanted.digest, source);
        self.slot = None;
        self.backoff.wait(error, self.wanted.cancel, self.wanted.on_retry)?;
        let etag = self.body.etag.take();
        self.body = connect(&self.wanted, self.at, etag.as_deref(), &mut self.backoff, &mut self.slot)?;
        self.skip = self.at.saturating_sub(self.body.starts);
        self.pace = Pace::new(self.wanted.limits);
        Ok(())
    }

    /// Some bytes that the reader has not had; none at the body's end.
    fn step(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let skip = usize::try_from(self.skip).unwrap_or(usize::MAX);
            let most = if skip > 0 { skip.min(into.len()) } else { into.len() };
            let len = self.some(into.get_mut(..most).unwrap_or_default())?;
            if skip == 0 || len == 0 {
                return Ok(len);
            }
            self.skip -= len as u64;
        }
    }

    /// Some bytes of the body, no faster than they may come and no slower than they must.
    fn some(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rates = [self.wanted.rate, &self.wanted.limits.rate];
        let most = rates.iter().map(|rate| rate.part()).fold(into.len(), usize::min);
        let into = into.get_mut(..most).unwrap_or_default();
        let (read, waited) = cpu::timed(|| self.body.reader.read(into));
        let len = read.map_err(|error| self.pace.silent(error))?;
        self.pace.moved(len, waited)?;
        for rate in rates {
            rate.take(len, self.wanted.cancel).map_err(io::Error::other)?;
        }
        Ok(len)
    }
}

impl Read for Download<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            let source = match self.step(into) {
                Ok(0) if self.at < self.wanted.size => {
                    io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended early")
                }
                Ok(len) => {
                    self.at += len as u64;
                    return Ok(len);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            cpu::idle(|| self.resume(source)).map_err(io::Error::other)?;
        }
    }
}

fn connect<'a>(
    wanted: &Wanted<'a>,
    at: u64,
    etag: Option<&str>,
    backoff: &mut Backoff,
    slot: &mut Option<Slot<'a>>,
) -> Result<BlobBody, RegistryError> {
    loop {
        let cancelled = |error| wanted.registry.broken(wanted.digest, io::Error::other(error));
        *slot = Some(wanted.limits.slot(wanted.cancel).map_err(cancelled)?);
        (wanted.on_begin)();
        match wanted.registry.blob(wanted.digest, wanted.size, at, etag) {
            Err(error) => {
                *slot = None;
                backoff.wait(error, wanted.cancel, wanted.on_retry)?;
            }
            Ok(body) => {
                (wanted.on_etag)(body.etag.as_deref());
                return Ok(body);
            }
        }
    }
}

/// Finds out that too few bytes come. Counts the time spent waiting for the network alone: one whose disk is slow,
/// or whose processors others have, is not stalled.
struct Pace {
    time: Duration,
    bytes: u64,
    waited: Duration,
    moved: u64,
}

impl Pace {
    fn new(limits: &Limits) -> Self {
        let (time, bytes) = (limits.bounds.stall_time, limits.bounds.stall_bytes);
        Pace { time, bytes, waited: Duration::ZERO, moved: 0 }
    }

    /// What a read that took too long is called: the HTTP library's word is for its programmers.
    fn silent(&self, error: io::Error) -> io::Error {
        match error.get_ref().and_then(|source| source.downcast_ref::<ureq::Error>()) {
            Some(ureq::Error::Timeout(_)) => {
                let stalled = format!("stalled: no byte in {} s", self.time.as_secs());
                io::Error::new(io::ErrorKind::TimedOut, stalled)
            }
            _ => error,
        }
    }

    fn moved(&mut self, bytes: usize, waited: Duration) -> io::Result<()> {
        self.moved += bytes as u64;
        self.waited += waited;
        if self.waited < self.time || bytes == 0 {
            return Ok(());
        }
        let (moved, waited) = (self.moved, self.waited);
        (self.moved, self.waited) = (0, Duration::ZERO);
        if moved >= self.bytes {
            return Ok(());
        }
        let stalled = format!("stalled: {moved} bytes in {} s", waited.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, stalled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_job::limits::Bounds;

    #[test]
    fn a_trickle_is_a_stall_and_a_steady_stream_is_none() {
        let bounds = Bounds { stall_time: Duration::from_secs(10), stall_bytes: 100, ..Bounds::default() };
        let mut pace = Pace::new(&Limits::new(bounds));
        for _ in 0..9 {
            pace.moved(1, Duration::from_secs(1)).expect("not long enough");
        }
        let error = pace.moved(1, Duration::from_secs(1)).expect_err("stalled");
        assert_eq!(error.to_string(), "stalled: 10 bytes in 10 s");
        for _ in 0..30 {
            pace.moved(10, Duration::from_secs(1)).expect("fast enough");
        }
    }
}
