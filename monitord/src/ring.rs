//! The newest frames, in memory.
//!
//! The store owns the ring. It is a ring buffer of complete frames: an append removes the oldest frames. The position
//! of a frame is the number of bytes of all frames before it since this process started, so it never changes. This
//! module does not know readers.

use sampan_ipc::frame;

/// A boundary between two frames: its position, and the sequence number of the frame that begins there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Bytes of frames before this boundary.
    pub(crate) pos: u64,
    /// Sequence number of the frame that begins, or will begin, at this boundary.
    pub(crate) seq: u64,
}

/// A ring buffer of frames; its capacity is a power of two.
#[derive(Debug)]
pub(crate) struct Ring {
    bytes: Box<[u8]>,
    start: Cursor,
    end: Cursor,
}

impl Ring {
    /// Makes an empty ring of at least `capacity` bytes, whose first frame will be at `at`.
    pub(crate) fn new(capacity: usize, at: Cursor) -> Self {
        Ring { bytes: vec![0; capacity.next_power_of_two()].into_boxed_slice(), start: at, end: at }
    }

    /// Where the oldest frame begins.
    pub(crate) fn start(&self) -> Cursor {
        self.start
    }

    /// Where the newest frame ends.
    pub(crate) fn end(&self) -> Cursor {
        self.end
    }

    /// Capacity in bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Appends a frame that consists of `parts` and has the sequence number `self.end().seq`.
    pub(crate) fn append(&mut self, parts: [&[u8]; 3]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        debug_assert!(len <= self.capacity());
        while self.end.pos + len as u64 - self.start.pos > self.capacity() as u64 {
            self.start.pos += self.frame_len(self.start.pos);
            self.start.seq += 1;
        }
        let mut at = self.index(self.end.pos);
        for part in parts {
            self.copy_in(at, part);
            at = (at + part.len()) & (self.bytes.len() - 1);
        }
        self.end.pos += len as u64;
        self.end.seq += 1;
    }

    /// Copies `part` to offset `at` of the buffer. The bytes that do not fit there go to the buffer's front.
    fn copy_in(&mut self, at: usize, part: &[u8]) {
        let (front, back) = self.bytes.split_at_mut(at);
        let (first, second) = part.split_at(part.len().min(back.len()));
        for (slot, bytes) in [(back, first), (front, second)] {
            // A frame is shorter than the ring, so both parts fit.
            if let Some(slot) = slot.get_mut(..bytes.len()) {
                slot.copy_from_slice(bytes);
            }
        }
    }

    /// The bytes from position `from` to `to`, in two parts. Both positions must be within the ring.
    pub(crate) fn slices(&self, from: u64, to: u64) -> (&[u8], &[u8]) {
        debug_assert!(self.start.pos <= from && from <= to && to <= self.end.pos);
        let (at, len) = (self.index(from), (to - from) as usize);
        let first = len.min(self.bytes.len() - at);
        let part = |range: std::ops::Range<usize>| self.bytes.get(range).unwrap_or_default();
        (part(at..at + first), part(0..len - first))
    }

    /// Length of the frame that begins at `pos`, including the header.
    pub(crate) fn frame_len(&self, pos: u64) -> u64 {
        let byte = |nth: u64| self.bytes.get(self.index(pos + nth)).copied().unwrap_or_default();
        frame::HEADER_LEN as u64 + u64::from(u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]))
    }

    /// The first frame boundary at position `pos` or later. The search begins at `from`.
    pub(crate) fn align(&self, from: Cursor, pos: u64) -> Cursor {
        let mut at = from;
        while at.pos < pos {
            at.pos += self.frame_len(at.pos);
            at.seq += 1;
        }
        at
    }

    /// Offset in the buffer of the byte at position `pos`; always less than the capacity.
    fn index(&self, pos: u64) -> usize {
        (pos as usize) & (self.bytes.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_holds_the_newest_frames_whole() {
        let mut ring = Ring::new(256, Cursor { pos: 0, seq: 1 });
        for nth in 0..100u32 {
            let body = vec![nth as u8; 10 + (nth as usize * 7) % 40];
            ring.append([&(body.len() as u32).to_le_bytes(), &[0; 4], &body]);
            let mut at = ring.start();
            assert!(ring.end().pos - at.pos <= 256);
            while at != ring.end() {
                let len = ring.frame_len(at.pos);
                let (one, two) = ring.slices(at.pos, at.pos + len);
                let frame = [one, two].concat();
                assert!(frame[8..].iter().all(|byte| u64::from(*byte) == at.seq - 1));
                assert_eq!(ring.align(ring.start(), at.pos + 1).seq, at.seq + 1);
                at = Cursor { pos: at.pos + len, seq: at.seq + 1 };
            }
        }
        assert_eq!(ring.end().seq, 101);
    }
}
