//! The bytes that a decompressor wants, which either of a layer's two threads fetches.
//!
//! Who decompresses fetches them itself where there are none; who would have to wait for decompressed bytes
//! ([`crate::image::pull::decompress_ahead`]) fetches the next ones meanwhile, a few pieces at most. To fetch is to receive, to digest and to write
//! a piece, by one thread at a time: what lands in a file lands as it comes, in order. So both threads have as
//! much to do also where it is decompressing that takes longest. Used by [`crate::image::pull::pipeline`]; knows nothing of what the
//! bytes are.

use sampan_job::cpu;
use sampan_os::mutex::lock;
use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::{Condvar, Mutex, MutexGuard};

/// Most bytes of a piece.
const PIECE: usize = 64 << 10;
/// Most pieces that wait to be taken.
const AHEAD: usize = 4;

/// What both threads share: the source, and the pieces that came from it.
pub struct Feed<R> {
    state: Mutex<State<R>>,
    /// For who wants a piece: there is one, or the source is free.
    ready: Condvar,
}

struct State<R> {
    /// Away while one of the threads reads from it.
    source: Option<R>,
    pieces: VecDeque<Piece>,
    used: Vec<Piece>,
    /// How the source has ended; the error is for who comes to it first.
    end: Option<io::Result<()>>,
    is_awaited: bool,
}

/// Room for bytes, of which the first `len` are some.
#[derive(Default)]
struct Piece {
    room: Vec<u8>,
    len: usize,
}

impl Piece {
    fn fill(&mut self, source: &mut impl Read) -> io::Result<()> {
        self.room.resize(PIECE, 0);
        self.len = loop {
            match source.read(&mut self.room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                got => break got?,
            }
        };
        Ok(())
    }
}

impl<R: Read> Feed<R> {
    /// Nothing is read yet.
    pub fn new(source: R) -> Self {
        let (pieces, used) = (VecDeque::new(), Vec::new());
        let state = State { source: Some(source), pieces, used, end: None, is_awaited: false };
        Feed { state: Mutex::new(state), ready: Condvar::new() }
    }

    /// Fetches the next piece; false if there is no room for it, the other thread is at it, or there are no more.
    pub fn fetch(&self) -> bool {
        let state = lock(&self.state);
        if state.pieces.len() >= AHEAD {
            return false;
        }
        self.fetch_now(state).is_ok()
    }

    /// Fetches a piece; as it was if the other thread is at it, or there are no more.
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
        if std::mem::take(&mut state.is_awaited) {
            self.ready.notify_one();
        }
        Ok(state)
    }

    /// The next piece, an empty one at the end; `used` is one that was read.
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
                state.is_awaited = true;
                // Let go of all before the processor is taken again: who has that may want what we hold.
                cpu::idle(|| drop(self.ready.wait(state)));
                lock(&self.state)
            });
        }
    }

    /// The source, behind all that was fetched. Nobody fetches any more.
    pub fn into_source(self) -> R {
        let state = self.state.into_inner().unwrap_or_else(|e| e.into_inner());
        state.source.expect("who took it has brought it back")
    }
}

type Guard<'a, R> = MutexGuard<'a, State<R>>;

/// The reading end: all bytes, in order.
pub struct Inlet<'a, R> {
    feed: &'a Feed<R>,
    piece: Piece,
    at: usize,
}

impl<'a, R: Read> Inlet<'a, R> {
    /// Reads from the first byte on; there is to be one of them.
    pub fn new(feed: &'a Feed<R>) -> Self {
        Inlet { feed, piece: Piece::default(), at: 0 }
    }
}

impl<R: Read> BufRead for Inlet<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.len {
            let used = std::mem::take(&mut self.piece);
            self.at = 0;
            self.piece = self.feed.next(used)?;
        }
        Ok(self.piece.room.get(self.at..self.piece.len).unwrap_or_default())
    }

    fn consume(&mut self, len: usize) {
        self.at = self.piece.len.min(self.at + len);
    }
}

impl<R: Read> Read for Inlet<'_, R> {
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
    fn all_bytes_come_in_order_whoever_fetches_them() {
        for len in [0, 1, PIECE, 5_000_000] {
            let feed = Feed::new(Numbers::new(len, false));
            let mut read = Vec::new();
            std::thread::scope(|scope| {
                let fetch = || while feed.fetch() || lock(&feed.state).end.is_none() {};
                scope.spawn(fetch);
                Inlet::new(&feed).read_to_end(&mut read).expect("read");
            });
            assert!(read.iter().enumerate().all(|(at, byte)| *byte == number(at)));
            assert_eq!((read.len(), feed.into_source().at), (len, len));
        }
    }

    #[test]
    fn no_more_than_a_few_pieces_are_fetched_ahead() {
        let feed = Feed::new(io::repeat(7));
        let fetched = std::iter::from_fn(|| feed.fetch().then_some(())).take(100).count();
        assert_eq!(fetched, AHEAD);
        let mut inlet = Inlet::new(&feed);
        inlet.read_exact(&mut [0; PIECE]).expect("read");
        assert!(feed.fetch() && !feed.fetch(), "room for one more");
    }

    #[test]
    fn what_came_before_a_failure_is_read_and_then_the_failure_is_told() {
        let feed = Feed::new(Numbers::new(100_000, true));
        while feed.fetch() && lock(&feed.state).end.is_none() {}
        let (mut inlet, mut read) = (Inlet::new(&feed), Vec::new());
        assert_eq!(inlet.read_to_end(&mut read).expect_err("broken").to_string(), "broken");
        assert_eq!(read.len(), 100_000);
        assert!(!feed.fetch(), "nothing is fetched behind it");
        assert_eq!(inlet.read(&mut [0; 1]).expect("told once"), 0);
    }
}
