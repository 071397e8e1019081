//! One blob from a registry as one stream of bytes, however often the connection breaks.
//!
//! A [`crate::pull`] reads it; the [`crate::pipeline`] behind that notices nothing of cuts, stalls and restarts.
//! A break goes on with `Range`; a registry that ignores it sends the blob again, of which what was here before
//! is skipped. Digests are compared by the pipeline, never here.

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::registry::{BlobBody, Registry, RegistryError};
use crate::retry::Backoff;
use std::io::{self, Read};

/// Bytes after which failures before are forgotten: a long download on a bad line ends, a trickle does not go on
/// for ever.
pub const HEADWAY: u64 = 1 << 20;

/// Which blob, and for whom.
pub struct Wanted<'a> {
    /// Who has it.
    pub registry: &'a Registry,
    /// Ends it, and the waits between tries at once.
    pub cancel: &'a Cancel,
    /// Its digest.
    pub digest: &'a Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Told before each new try when and why it is.
    pub on_retry: &'a dyn Fn(&str),
}

/// A download under way.
pub struct Download<'a> {
    wanted: Wanted<'a>,
    body: BlobBody,
    /// Offset of the byte that the reader gets next.
    at: u64,
    /// Bytes of the body that come before it.
    skip: u64,
    /// Where it was when it failed last.
    failed_at: u64,
    etag: Option<String>,
    backoff: Backoff,
}

impl<'a> Download<'a> {
    /// Begins at byte `at`.
    ///
    /// # Errors
    /// [`RegistryError`] that no other try will mend.
    pub fn begin(wanted: Wanted<'a>, at: u64) -> Result<Self, RegistryError> {
        let mut backoff = Backoff::default();
        let body = connect(&wanted, at, None, &mut backoff)?;
        let (skip, etag) = (at.saturating_sub(body.starts), body.etag.clone());
        Ok(Download { wanted, body, at, skip, failed_at: at, etag, backoff })
    }

    fn resume(&mut self, source: io::Error) -> Result<(), RegistryError> {
        if self.at.saturating_sub(self.failed_at) >= HEADWAY {
            self.backoff.reset();
            self.failed_at = self.at;
        }
        let error = self.wanted.registry.broken(self.wanted.digest, source);
        self.backoff.wait(error, self.wanted.cancel, self.wanted.on_retry)?;
        self.body = connect(&self.wanted, self.at, self.etag.as_deref(), &mut self.backoff)?;
        self.etag = self.body.etag.clone();
        self.skip = self.at.saturating_sub(self.body.starts);
        Ok(())
    }

    /// Some bytes that the reader has not had; none at the body's end.
    fn step(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.skip > 0 {
            let most = usize::try_from(self.skip).unwrap_or(usize::MAX).min(into.len());
            match self.body.reader.read(into.get_mut(..most).unwrap_or_default())? {
                0 => return Ok(0),
                len => self.skip -= len as u64,
            }
        }
        self.body.reader.read(into)
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
            self.resume(source).map_err(io::Error::other)?;
        }
    }
}

fn connect(
    wanted: &Wanted<'_>,
    at: u64,
    etag: Option<&str>,
    backoff: &mut Backoff,
) -> Result<BlobBody, RegistryError> {
    loop {
        match wanted.registry.blob(wanted.digest, wanted.size, at, etag) {
            Err(error) => backoff.wait(error, wanted.cancel, wanted.on_retry)?,
            done => return done,
        }
    }
}
