//! A stream whose bytes encode their offset, for the tests of [`crate::image::pull::read_ahead`] and
//! [`crate::image::pull::decompress_ahead`].

use std::io::{self, Read};

/// A reader of bytes that encode their offset. A read returns at most 40,001 bytes, so pieces do not align; the last
/// read may fail.
pub(crate) struct Numbers {
    /// Number of bytes read so far.
    pub at: usize,
    len: usize,
    breaks: bool,
}

impl Numbers {
    /// Makes a reader of `len` bytes, followed by the end or, with `breaks`, by an error.
    pub fn new(len: usize, breaks: bool) -> Self {
        Numbers { at: 0, len, breaks }
    }
}

/// The byte at offset `at`.
pub(crate) fn number(at: usize) -> u8 {
    at.wrapping_mul(31) as u8
}

impl Read for Numbers {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = into.len().min(40_001).min(self.len - self.at);
        if len == 0 && self.breaks {
            return Err(io::Error::other("broken"));
        }
        for (nth, byte) in into.iter_mut().take(len).enumerate() {
            *byte = number(self.at + nth);
        }
        self.at += len;
        Ok(len)
    }
}
