//! One blob as one stream of bytes: the reader does not notice broken connections, stalls and retries.
//!
//! The engine's pull of a layer reads it. After a broken connection, the download continues with a `Range` request. If
//! the registry ignores the range and sends the whole blob, the download skips the bytes that were read before. A
//! download holds one of the engine's download slots while it is connected, but not while it waits for its next
//! attempt. It never compares digests; the reader does.

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

/// Progress in bytes after which earlier failures no longer count. A long download over a bad line then finishes, and
/// a download without progress gives up.
pub const PROGRESS_BYTES: u64 = 64 << 10;

/// The blob to download, and the limits, callbacks and registries of its job.
#[derive(Clone, Copy)]
pub struct BlobRequest<'a> {
    /// The registries to download from.
    pub registry: &'a Mirrors,
    /// The limits that all downloads of the engine share.
    pub limits: &'a Limits,
    /// The rate limit of the job.
    pub rate: &'a RateLimit,
    /// Ends the download at once, even while it waits for its next attempt.
    pub cancel: &'a Cancel,
    /// Digest of the blob.
    pub digest: &'a Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// Called when the download has got a slot.
    pub on_begin: &'a (dyn Fn() + Sync),
    /// Called before each new attempt, with a message that has the wait and the reason.
    pub on_retry: &'a (dyn Fn(&str) + Sync),
    /// Called with the ETag of the bytes that the reader gets next.
    pub on_etag: &'a (dyn Fn(Option<&str>) + Sync),
}

/// A running download, to be read as a stream.
pub struct Download<'a> {
    request: BlobRequest<'a>,
    slot: Option<Slot<'a>>,
    body: BlobBody,
    /// Offset in the blob of the next byte for the reader.
    offset: u64,
    /// Bytes of the body before `offset`, which are dropped.
    skip: u64,
    /// The value of `offset` at the last failure that counts.
    failed_at: u64,
    backoff: Backoff,
    stall: StallDetector,
}

impl<'a> Download<'a> {
    /// Starts the download at byte `offset`; the bytes before it came with `etag`.
    ///
    /// # Errors
    /// [`RegistryError`] if the failure is permanent or there were too many, or the job was cancelled.
    pub fn begin(request: BlobRequest<'a>, offset: u64, etag: Option<&str>) -> Result<Self, RegistryError> {
        let (mut backoff, mut slot) = (Backoff::default(), None);
        let body = cpu::idle(|| connect(&request, offset, etag, &mut backoff, &mut slot))?;
        let stall = StallDetector::new(request.limits);
        let skip = offset.saturating_sub(body.starts);
        Ok(Download { request, slot, body, offset, skip, failed_at: offset, backoff, stall })
    }

    /// Connects again after `source` broke the connection and the backoff's wait is over.
    fn resume(&mut self, source: io::Error) -> Result<(), RegistryError> {
        if self.offset.saturating_sub(self.failed_at) >= PROGRESS_BYTES {
            self.backoff.reset();
            self.failed_at = self.offset;
        }
        let error = self.request.registry.blob_read_error(self.request.digest, source);
        self.slot = None;
        self.backoff.wait(error, self.request.cancel, self.request.on_retry)?;
        let etag = self.body.etag.take();
        self.body = connect(&self.request, self.offset, etag.as_deref(), &mut self.backoff, &mut self.slot)?;
        self.skip = self.offset.saturating_sub(self.body.starts);
        self.stall = StallDetector::new(self.request.limits);
        Ok(())
    }

    /// Reads some bytes from `offset` on, and drops earlier bytes of the body. Returns 0 at the end of the body.
    fn read_from_offset(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let skip = usize::try_from(self.skip).unwrap_or(usize::MAX);
            let most = if skip > 0 { skip.min(into.len()) } else { into.len() };
            let len = self.read_body(into.get_mut(..most).unwrap_or_default())?;
            if skip == 0 || len == 0 {
                return Ok(len);
            }
            self.skip -= len as u64;
        }
    }

    /// Reads some bytes of the body, within the rate limits; fails if the body stalls.
    fn read_body(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rates = [self.request.rate, &self.request.limits.rate];
        let most = rates.iter().map(|rate| rate.part()).fold(into.len(), usize::min);
        let into = into.get_mut(..most).unwrap_or_default();
        let (read, waited) = cpu::timed(|| self.body.reader.read(into));
        let len = read.map_err(|error| self.stall.describe_timeout(error))?;
        self.stall.record_read(len, waited)?;
        for rate in rates {
            rate.take(len, self.request.cancel).map_err(io::Error::other)?;
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
            let source = match self.read_from_offset(into) {
                Ok(0) if self.offset < self.request.size => {
                    io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended early")
                }
                Ok(len) => {
                    self.offset += len as u64;
                    return Ok(len);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            cpu::idle(|| self.resume(source)).map_err(io::Error::other)?;
        }
    }
}

/// Requests the blob from `offset` on, until an attempt returns a body. Releases the slot during each wait.
fn connect<'a>(
    request: &BlobRequest<'a>,
    offset: u64,
    etag: Option<&str>,
    backoff: &mut Backoff,
    slot: &mut Option<Slot<'a>>,
) -> Result<BlobBody, RegistryError> {
    loop {
        let cancelled = |error| request.registry.blob_read_error(request.digest, io::Error::other(error));
        request.registry.wait_until_open(request.digest);
        *slot = Some(request.limits.slot(request.cancel).map_err(cancelled)?);
        (request.on_begin)();
        match request.registry.blob(request.digest, request.size, offset, etag) {
            Err(error) => {
                *slot = None;
                backoff.wait(error, request.cancel, request.on_retry)?;
            }
            Ok(body) => {
                (request.on_etag)(body.etag.as_deref());
                return Ok(body);
            }
        }
    }
}

/// Detects that fewer than `stall_bytes` bytes came within `stall_time`.
///
/// Counts only the time of waiting for the network: a download on a host with a slow disk or busy processors is not
/// stalled.
struct StallDetector {
    stall_time: Duration,
    stall_bytes: u64,
    /// Time waited and bytes received since the last check.
    waited: Duration,
    received: u64,
}

impl StallDetector {
    fn new(limits: &Limits) -> Self {
        let (stall_time, stall_bytes) = (limits.bounds.stall_time, limits.bounds.stall_bytes);
        StallDetector { stall_time, stall_bytes, waited: Duration::ZERO, received: 0 }
    }

    /// Replaces the text of the HTTP library's timeout by one for people; returns other errors unchanged.
    fn describe_timeout(&self, error: io::Error) -> io::Error {
        match error.get_ref().and_then(|source| source.downcast_ref::<ureq::Error>()) {
            Some(ureq::Error::Timeout(_)) => {
                let stalled = format!("stalled: no byte in {} s", self.stall_time.as_secs());
                io::Error::new(io::ErrorKind::TimedOut, stalled)
            }
            _ => error,
        }
    }

    /// Records a read of `bytes` that waited for `waited`; fails if the download stalls.
    fn record_read(&mut self, bytes: usize, waited: Duration) -> io::Result<()> {
        self.received += bytes as u64;
        self.waited += waited;
        if self.waited < self.stall_time || bytes == 0 {
            return Ok(());
        }
        let (received, waited) = (self.received, self.waited);
        (self.received, self.waited) = (0, Duration::ZERO);
        if received >= self.stall_bytes {
            return Ok(());
        }
        let stalled = format!("stalled: {received} bytes in {} s", waited.as_secs());
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
        let mut stall = StallDetector::new(&Limits::new(bounds));
        for _ in 0..9 {
            stall.record_read(1, Duration::from_secs(1)).expect("not long enough");
        }
        let error = stall.record_read(1, Duration::from_secs(1)).expect_err("stalled");
        assert_eq!(error.to_string(), "stalled: 10 bytes in 10 s");
        for _ in 0..30 {
            stall.record_read(10, Duration::from_secs(1)).expect("fast enough");
        }
    }
}
