//! A decompressor that two threads may run: the one that wants its bytes, and one that runs ahead of it.
//!
//! While all processors have work, the first does it alone, piece by piece, and what it has just decompressed is
//! still in its cache when it goes on with it. A processor to spare ([`Limits::spare_cpu`]) goes to the second, which
//! then decompresses the next pieces meanwhile, a few at most; it stops when somebody else wants the processor. So a
//! single layer takes two processors, and many layers take one each, without a hand-over. Called by
//! [`crate::pipeline`]; knows nothing of what the bytes are.

use crate::limits::{self, Limits};
use crate::store::lock;
use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

/// Bytes of a piece.
const PIECE: usize = 128 << 10;
/// Most pieces that wait to be taken.
const AHEAD: usize = 4;
/// Who has run so far ahead goes on when so many are left: a wake-up for several pieces, not for each.
const GO_ON: usize = 2;

/// What both threads share.
pub struct Relay<'a, D> {
    state: Mutex<State<D>>,
    /// For the reader: a piece is ready, or the decompressor is free.
    ready: Condvar,
    /// For the one ahead: there is room, and the decompressor is free.
    room: Condvar,
    /// Nobody wants more.
    done: AtomicBool,
    limits: &'a Limits,
    /// Told once all is decompressed.
    on_end: &'a (dyn Fn() + Sync),
}

struct State<D> {
    /// Away while one of the threads runs it.
    decoder: Option<D>,
    pieces: VecDeque<Vec<u8>>,
    used: Vec<Vec<u8>>,
    end: Option<io::Result<()>>,
    reader_waits: bool,
    other_waits: bool,
}

impl<D> State<D> {
    fn may_run_ahead(&self) -> bool {
        self.decoder.is_some() && self.pieces.len() < AHEAD
    }
}

impl<'a, D: Read> Relay<'a, D> {
    /// Nothing is read yet.
    pub fn new(decoder: D, limits: &'a Limits, on_end: &'a (dyn Fn() + Sync)) -> Self {
        let state = State {
            decoder: Some(decoder),
            pieces: VecDeque::new(),
            used: Vec::new(),
            end: None,
            reader_waits: false,
            other_waits: false,
        };
        Relay {
            state: Mutex::new(state),
            ready: Condvar::new(),
            room: Condvar::new(),
            done: AtomicBool::new(false),
            limits,
            on_end,
        }
    }

    /// The next bytes, none at the end; `used` is what was read of the last ones.
    fn next(&self, mut used: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut state = lock(&self.state);
        loop {
            if let Some(piece) = state.pieces.pop_front() {
                state.used.push(used);
                if state.pieces.len() <= GO_ON {
                    self.let_run_ahead(&mut state);
                }
                return Ok(piece);
            }
            match &state.end {
                Some(Ok(())) => return Ok(Vec::new()),
                // Why is told by [`Relay::end`].
                Some(Err(_)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => {}
            }
            if let Some(decoder) = state.decoder.take() {
                drop(state);
                let got = piece(decoder, &mut used);
                state = self.take_back(got, |_| {});
                self.let_run_ahead(&mut state);
                if state.end.is_none() {
                    return Ok(used);
                }
            } else {
                state.reader_waits = true;
                // Let go of all before the processor is taken again: who has that may want what we hold.
                limits::idle(|| drop(self.ready.wait(state)));
                state = lock(&self.state);
            }
        }
    }

    /// Puts the decompressor back, and notes what became of its piece.
    fn take_back(
        &self,
        (decoder, got): (D, io::Result<usize>),
        keep: impl FnOnce(&mut State<D>),
    ) -> MutexGuard<'_, State<D>> {
        if matches!(got, Ok(0)) {
            (self.on_end)();
        }
        let mut state = lock(&self.state);
        state.decoder = Some(decoder);
        match got {
            Ok(1..) => keep(&mut state),
            Ok(0) => state.end = Some(Ok(())),
            Err(error) => state.end = Some(Err(error)),
        }
        state
    }

    fn let_run_ahead(&self, state: &mut State<D>) {
        if std::mem::take(&mut state.other_waits) {
            self.room.notify_one();
        }
    }

    /// Runs ahead of the reader whenever there is a processor to spare, until all is decompressed or
    /// [`Relay::close`] is called.
    pub fn run_ahead(&self) {
        while self.await_room()
            && let Some(_cpu) = self.limits.spare_cpu(&self.done)
        {
            self.stint();
        }
    }

    /// Waits until there is something to do ahead; false if there never will be.
    fn await_room(&self) -> bool {
        let mut state = lock(&self.state);
        loop {
            if state.end.is_some() || self.done.load(Ordering::SeqCst) {
                return false;
            }
            if state.may_run_ahead() {
                return true;
            }
            state.other_waits = true;
            state = self.room.wait(state).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// Decompresses pieces while there is room for them and nobody else wants the processor.
    fn stint(&self) {
        let mut state = lock(&self.state);
        while state.end.is_none() && state.may_run_ahead() && !self.done.load(Ordering::SeqCst) {
            let Some(decoder) = state.decoder.take() else { return };
            let mut buffer = state.used.pop().unwrap_or_default();
            drop(state);
            let got = piece(decoder, &mut buffer);
            state = self.take_back(got, |state| state.pieces.push_back(buffer));
            if std::mem::take(&mut state.reader_waits) {
                self.ready.notify_one();
            }
            if self.limits.is_wanted() {
                return;
            }
        }
    }

    /// Nobody reads any more: lets [`Relay::run_ahead`] return.
    pub fn close(&self) {
        self.done.store(true, Ordering::SeqCst);
        self.let_run_ahead(&mut lock(&self.state));
        self.limits.recheck();
    }

    /// How decompression ended; `None` if nobody wanted to know.
    pub fn end(self) -> Option<io::Result<()>> {
        self.state.into_inner().unwrap_or_else(|e| e.into_inner()).end
    }
}

/// Fills `buffer` as far as there are bytes.
fn piece<D: Read>(mut decoder: D, buffer: &mut Vec<u8>) -> (D, io::Result<usize>) {
    buffer.resize(PIECE, 0);
    let mut have = 0;
    while have < PIECE {
        match decoder.read(buffer.get_mut(have..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(len) => have += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (decoder, Err(error)),
        }
    }
    buffer.truncate(have);
    (decoder, Ok(have))
}

/// The reading end: all bytes, in order, each told to `on_piece` when it comes.
pub struct Reader<'a, D, F> {
    relay: &'a Relay<'a, D>,
    on_piece: F,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<'a, D: Read, F: FnMut(&[u8])> Reader<'a, D, F> {
    /// Reads from the first byte on; there is to be one of them.
    pub fn new(relay: &'a Relay<'a, D>, on_piece: F) -> Self {
        Reader { relay, on_piece, piece: Vec::new(), at: 0, ended: false }
    }
}

impl<D: Read, F: FnMut(&[u8])> BufRead for Reader<'_, D, F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.len() && !self.ended {
            limits::share();
            self.piece = self.relay.next(std::mem::take(&mut self.piece))?;
            self.at = 0;
            self.ended = self.piece.is_empty();
            (self.on_piece)(&self.piece);
        }
        Ok(self.piece.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, len: usize) {
        self.at = self.piece.len().min(self.at + len);
    }
}

impl<D: Read, F: FnMut(&[u8])> Read for Reader<'_, D, F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(into)?;
        self.consume(len);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Bounds;

    /// Bytes that say where they stand, in reads of odd sizes; it may break.
    struct Numbers {
        at: usize,
        len: usize,
        breaks: bool,
    }

    impl Read for Numbers {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let len = into.len().min(40_001).min(self.len - self.at);
            if len == 0 && self.breaks {
                return Err(io::Error::other("broken"));
            }
            for (nth, byte) in into.iter_mut().take(len).enumerate() {
                *byte = (self.at + nth).wrapping_mul(31) as u8;
            }
            self.at += len;
            Ok(len)
        }
    }

    fn read_all(cpus: usize, len: usize, breaks: bool) -> (io::Result<Vec<u8>>, Option<io::Result<()>>) {
        let limits = Limits::new(Bounds { cpus, ..Bounds::default() });
        let (_cpu, on_end) = (limits.cpu(), || {});
        let relay = Relay::new(Numbers { at: 0, len, breaks }, &limits, &on_end);
        let read = std::thread::scope(|scope| {
            scope.spawn(|| relay.run_ahead());
            let mut all = Vec::new();
            let read = Reader::new(&relay, |_| {}).read_to_end(&mut all).map(|_| all);
            relay.close();
            read
        });
        (read, relay.end())
    }

    #[test]
    fn all_bytes_come_in_order_whoever_decompresses_them() {
        for (cpus, len) in [(1, 3_000_000), (2, 3_000_000), (2, 0), (2, PIECE), (8, PIECE * AHEAD + 1)] {
            let (read, end) = read_all(cpus, len, false);
            let expected: Vec<u8> = (0..len).map(|at| at.wrapping_mul(31) as u8).collect();
            assert!(read.expect("read") == expected, "{cpus} processors, {len} bytes");
            assert!(matches!(end, Some(Ok(()))));
        }
    }

    #[test]
    fn a_decompressor_that_breaks_breaks_the_stream_and_says_why() {
        for cpus in [1, 2] {
            let (read, end) = read_all(cpus, 1_000_000, true);
            assert_eq!(read.expect_err("broken").kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(end.expect("known").expect_err("broken").to_string(), "broken");
        }
    }

    #[test]
    fn who_reads_no_more_lets_the_other_thread_go() {
        let limits = Limits::new(Bounds { cpus: 2, ..Bounds::default() });
        let (_cpu, on_end) = (limits.cpu(), || {});
        let relay = Relay::new(io::repeat(7), &limits, &on_end);
        std::thread::scope(|scope| {
            scope.spawn(|| relay.run_ahead());
            let mut reader = Reader::new(&relay, |_| {});
            reader.read_exact(&mut [0; 1000]).expect("read");
            relay.close();
        });
        assert!(relay.end().is_none());
    }
}
