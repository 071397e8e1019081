//! A queue of a layer's compressed bytes, which either of the layer's two threads reads ahead.
//!
//! Either thread may read the next piece: the decompressor when the queue is empty, the unpacker when it would
//! otherwise wait for decompressed bytes ([`crate::image::pull::decompress_ahead`]). At most `AHEAD` pieces are
//! queued. The source hashes and writes each piece while reading, so only one thread at a time reads, and the bytes are
//! written in order. Sharing this work balances the two threads even if decompressing is the slowest step. Used by
//! [`crate::image::pull::pipeline`]; knows nothing of the bytes' meaning.

use sampan_job::cpu;
use sampan_os::mutex::lock;
use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::{Condvar, Mutex, MutexGuard};

/// Size of the largest piece, in bytes.
const PIECE: usize = 64 << 10;
/// Most pieces in the queue.
const AHEAD: usize = 4;

/// The state that both threads share: the source, and the queue of its pieces.
pub struct ReadAhead<R> {
    state: Mutex<State<R>>,
    /// Wakes a thread that waits for a piece, when a piece was queued or the other thread stopped reading the source.
    ready: Condvar,
}

struct State<R> {
    /// The source of the bytes; `None` while one of the threads reads from the source.
    source: Option<R>,
    pieces: VecDeque<Piece>,
    used: Vec<Piece>,
    /// How the source has ended; the first thread that reads to the end takes the error.
    end: Option<io::Result<()>>,
    reader_waits: bool,
}

/// A buffer of which the first `len` bytes are filled.
#[derive(Default)]
struct Piece {
    buffer: Vec<u8>,
    len: usize,
}

impl Piece {
    fn fill(&mut self, source: &mut impl Read) -> io::Result<()> {
        self.buffer.resize(PIECE, 0);
        self.len = loop {
            match source.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                got => break got?,
            }
        };
        Ok(())
    }
}

impl<R: Read> ReadAhead<R> {
    /// Makes an empty queue without reading from `source`.
    pub fn new(source: R) -> Self {
        let (pieces, used) = (VecDeque::new(), Vec::new());
        let state = State { source: Some(source), pieces, used, end: None, reader_waits: false };
        ReadAhead { state: Mutex::new(state), ready: Condvar::new() }
    }

    /// Reads the next piece from the source into the queue. Returns false if the queue is full, if the other thread is
    /// reading, or if the source has ended.
    pub fn fetch(&self) -> bool {
        let state = lock(&self.state);
        if state.pieces.len() >= AHEAD {
            return false;
        }
        self.fetch_now(state).is_ok()
    }

    /// Reads the next piece from the source into the queue. Returns the lock as an error if the other thread is
    /// reading, or if the source has ended.
    fn fetch_now<'a>(&'a self, mut state: Guard<'a, R>) -> Result<Guard<'a, R>, Guard<'a, R>> {
        if state.end.is_some() {
            return Err(state);
        }
        let Some(mut source) = state.source.take() else { return Err(state) };
        let mut piece = state.used.pop().unwrap_or_default();
        drop(state);
        let got = piece.fill(&mut source);
        let mut state = lock(&self.state);
        state.source = Some(source);
        match got {
            Ok(()) if piece.len > 0 => state.pieces.push_back(piece),
            ended => state.end = Some(ended),
        }
        if std::mem::take(&mut state.reader_waits) {
            self.ready.notify_one();
        }
        Ok(state)
    }

    /// Takes the next piece; returns an empty piece at the end. `used` is the previous piece, whose buffer is reused.
    fn next(&self, used: Piece) -> io::Result<Piece> {
        let mut state = lock(&self.state);
        state.used.push(used);
        loop {
            if let Some(piece) = state.pieces.pop_front() {
                return Ok(piece);
            }
            if let Some(end) = &mut state.end {
                return std::mem::replace(end, Ok(())).map(|()| Piece::default());
            }
            state = self.fetch_now(state).unwrap_or_else(|mut state| {
                state.reader_waits = true;
                // Release the lock before taking a processor again: the thread that has the processor may want this
                // lock.
                cpu::idle(|| drop(self.ready.wait(state)));
                lock(&self.state)
            });
        }
    }

    /// Returns the source, positioned after all pieces that were read. Neither thread may read from the queue at this
    /// time.
    #[expect(clippy::expect_used, reason = "no thread keeps the source: a failed read returns it as well")]
    pub fn into_source(self) -> R {
        let state = self.state.into_inner().unwrap_or_else(|e| e.into_inner());
        state.source.expect("each thread puts the source back after its read")
    }
}

type Guard<'a, R> = MutexGuard<'a, State<R>>;

/// The reading end of the queue: all bytes, in order.
pub struct ReadAheadReader<'a, R> {
    queue: &'a ReadAhead<R>,
    piece: Piece,
    at: usize,
}

impl<'a, R: Read> ReadAheadReader<'a, R> {
    /// Makes the only reader of `queue`, which starts at the first byte.
    pub fn new(queue: &'a ReadAhead<R>) -> Self {
        ReadAheadReader { queue, piece: Piece::default(), at: 0 }
    }
}

impl<R: Read> BufRead for ReadAheadReader<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.len {
            let used = std::mem::take(&mut self.piece);
            self.at = 0;
            self.piece = self.queue.next(used)?;
        }
        Ok(self.piece.buffer.get(self.at..self.piece.len).unwrap_or_default())
    }

    fn consume(&mut self, len: usize) {
        self.at = self.piece.len.min(self.at + len);
    }
}

impl<R: Read> Read for ReadAheadReader<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(into)?;
        self.consume(len);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::pull::test_stream::{Numbers, number};

    #[test]
    fn all_bytes_come_in_order_whichever_thread_reads_them() {
        for len in [0, 1, PIECE, 5_000_000] {
            let queue = ReadAhead::new(Numbers::new(len, false));
            let mut read = Vec::new();
            std::thread::scope(|scope| {
                let fetch = || while queue.fetch() || lock(&queue.state).end.is_none() {};
                scope.spawn(fetch);
                ReadAheadReader::new(&queue).read_to_end(&mut read).expect("read");
            });
            assert!(read.iter().enumerate().all(|(at, byte)| *byte == number(at)));
            assert_eq!((read.len(), queue.into_source().at), (len, len));
        }
    }

    #[test]
    fn no_more_than_a_few_pieces_are_fetched_ahead() {
        let queue = ReadAhead::new(io::repeat(7));
        let fetched = std::iter::from_fn(|| queue.fetch().then_some(())).take(100).count();
        assert_eq!(fetched, AHEAD);
        let mut reader = ReadAheadReader::new(&queue);
        reader.read_exact(&mut [0; PIECE]).expect("read");
        assert!(queue.fetch() && !queue.fetch(), "room for one more");
    }

    #[test]
    fn bytes_before_a_failure_are_read_and_then_the_failure_is_returned() {
        let queue = ReadAhead::new(Numbers::new(100_000, true));
        while queue.fetch() && lock(&queue.state).end.is_none() {}
        let (mut reader, mut read) = (ReadAheadReader::new(&queue), Vec::new());
        assert_eq!(reader.read_to_end(&mut read).expect_err("broken").to_string(), "broken");
        assert_eq!(read.len(), 100_000);
        assert!(!queue.fetch(), "nothing is read after it");
        assert_eq!(reader.read(&mut [0; 1]).expect("returned once"), 0);
    }
}
