//! The newest frames, in memory.
//!
//! Owned by the store. A ring of whole frames; an append evicts the oldest ones. Every frame has an absolute
//! position: how many bytes of frames went before it in this process's life. Knows nothing of readers.

use sampan_ipc::frame;

/// A place between two frames: the position, and the sequence number of the frame that begins there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Bytes of frames before this place.
    pub pos: u64,
    /// Sequence number of the frame that begins, or will begin, here.
    pub seq: u64,
}

/// A ring of frames of a fixed capacity.
#[derive(Debug)]
pub struct Ring {
    bytes: Box<[u8]>,
    start: Cursor,
    end: Cursor,
}

impl Ring {
    /// An empty ring of `capacity` bytes (rounded up to a power of two) whose first frame will be at `at`.
    pub fn new(capacity: usize, at: Cursor) -> Self {
        Ring { bytes: vec![0; capacity.next_power_of_two()].into_boxed_slice(), start: at, end: at }
    }

    /// Where the oldest frame begins.
    pub fn start(&self) -> Cursor {
        self.start
    }

    /// Where the newest frame ends.
    pub fn end(&self) -> Cursor {
        self.end
    }

    /// Bytes that fit.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the frame that is made of `parts`; it carries sequence number `self.end().seq`.
    pub fn append(&mut self, parts: [&[u8]; 3]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        debug_assert!(len <= self.capacity());
        while self.end.pos + len as u64 - self.start.pos > self.capacity() as u64 {
            self.start.pos += self.frame_len(self.start.pos);
            self.start.seq += 1;
        }
        let mut at = self.index(self.end.pos);
        for part in parts {
            let first = part.len().min(self.bytes.len() - at);
            self.bytes[at..at + first].copy_from_slice(&part[..first]);
            self.bytes[..part.len() - first].copy_from_slice(&part[first..]);
            at = (at + part.len()) & (self.bytes.len() - 1);
        }
        self.end.pos += len as u64;
        self.end.seq += 1;
    }

    /// The bytes from `from` to `to`, which lie within the ring, in two parts.
    pub fn slices(&self, from: u64, to: u64) -> (&[u8], &[u8]) {
        debug_assert!(self.start.pos <= from && from <= to && to <= self.end.pos);
        let (at, len) = (self.index(from), (to - from) as usize);
        let first = len.min(self.bytes.len() - at);
        (&self.bytes[at..at + first], &self.bytes[..len - first])
    }

    /// Length of the frame that begins at `pos`, header included.
    pub fn frame_len(&self, pos: u64) -> u64 {
        let byte = |nth: u64| self.bytes[self.index(pos + nth)];
        frame::HEADER_LEN as u64 + u64::from(u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]))
    }

    /// The first place at or behind byte `pos`, coming from the frame at `from`.
    pub fn align(&self, from: Cursor, pos: u64) -> Cursor {
        let mut at = from;
        while at.pos < pos {
            at.pos += self.frame_len(at.pos);
            at.seq += 1;
        }
        at
    }

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
