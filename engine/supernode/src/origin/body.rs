//! The body of an origin's answer, as a bounded stream that fails if the origin is too slow.
//!
//! Made by [`super::Origins::fetch`], or by the source of a cluster; read by the thread of a fetch. Reads block.
//! Never connects anew: the thread decides whether to try again.

use super::answer::Validators;
use std::io::{self, Read};
use std::time::{Duration, Instant};

/// The time in which [`PACE_BYTES`] must come. Only the time of waiting for the origin counts.
const PACE_TIME: Duration = Duration::from_secs(60);
/// Fewest bytes in [`PACE_TIME`]. Without this limit, an origin that sends one byte now and then could occupy a
/// thread for days, and some such origins all threads.
const PACE_BYTES: u64 = 64 << 10;

/// The bytes of a file, from an offset on.
pub struct Body<'a> {
    /// Offset in the file of the first byte that the reader returns: the requested one; or 0, because the origin
    /// serves no ranges of the file, and the caller has to skip what it has already.
    pub starts: u64,
    /// The length of the whole file in bytes; `None` if the origin does not state it.
    pub length: Option<u64>,
    /// What identifies the version of the file.
    pub validators: Validators,
    /// Reads the bytes, at most up to the requested end. A body that ends before the end that the origin has
    /// stated is an error.
    pub reader: Box<dyn Read + Send + 'a>,
}

impl<'a> Body<'a> {
    /// Reads from another supernode, which has limits of its own.
    pub(crate) fn of_supernode(
        reader: impl Read + Send + 'a,
        starts: u64,
        length: Option<u64>,
        validators: Validators,
    ) -> Self {
        Body { starts, length, validators, reader: Box::new(reader) }
    }

    /// Reads from `reader`, which begins at `starts`.
    pub(super) fn new(
        reader: impl Read + Send + 'a,
        starts: u64,
        length: Option<u64>,
        validators: Validators,
    ) -> Self {
        let reader = Box::new(Paced { reader, pace: Pace::default() });
        Body { starts, length, validators, reader }
    }
}

struct Paced<R> {
    reader: R,
    pace: Pace,
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let began = Instant::now();
        let count = self.reader.read(into)?;
        self.pace.record(count, began.elapsed())?;
        Ok(count)
    }
}

/// The time waited and the bytes received since the last check.
#[derive(Default)]
struct Pace {
    waited: Duration,
    received: u64,
}

impl Pace {
    fn record(&mut self, count: usize, waited: Duration) -> io::Result<()> {
        self.received += count as u64;
        self.waited += waited;
        if self.waited < PACE_TIME || count == 0 {
            return Ok(());
        }
        let received = std::mem::take(self).received;
        match received < PACE_BYTES {
            true => {
                let slow = format!("the origin has sent {received} bytes in {} s", PACE_TIME.as_secs());
                Err(io::Error::new(io::ErrorKind::TimedOut, slow))
            }
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_an_error_and_a_slow_stream_is_none() {
        let mut pace = Pace::default();
        for _ in 0..600 {
            pace.record(2 << 10, Duration::from_secs(1)).expect("slow, but not too slow");
        }
        let mut pace = Pace::default();
        let failed = (0..100).find_map(|_| pace.record(1, Duration::from_secs(1)).err()).expect("a trickle");
        assert_eq!(failed.to_string(), "the origin has sent 60 bytes in 60 s");
        pace.record(0, Duration::from_secs(100)).expect("the end is no trickle");
    }
}
