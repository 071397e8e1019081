//! Bytes that say where they stand: what the tests of [`crate::image::pull::read_ahead`] and [`crate::image::pull::decompress_ahead`] read.

use std::io::{self, Read};

/// So many of them, in reads of odd sizes; in the end it may break.
pub(crate) struct Numbers {
    /// How many were read.
    pub at: usize,
    len: usize,
    breaks: bool,
}

impl Numbers {
    /// `len` of them, and then the end or an error.
    pub fn new(len: usize, breaks: bool) -> Self {
        Numbers { at: 0, len, breaks }
    }
}

/// The one at `at`.
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
