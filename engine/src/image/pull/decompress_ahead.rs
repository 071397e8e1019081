//! A decompressor that two threads share: the reader of the decompressed bytes, and a helper thread that decompresses
//! ahead of the reader.
//!
//! While all processors are busy, the reader decompresses alone, piece by piece, and each piece is still in the
//! processor's cache when the reader uses it. A spare processor ([`sampan_job::cpu::Cpus::take_spare`]) goes to the
//! helper, which then decompresses the next pieces, at most `AHEAD` of them; the helper stops when another job wants
//! the processor. A single layer thus uses two processors. Of many layers, each uses one processor and passes no data
//! between threads.
//!
//! A *witness* is a function that gets all decompressed bytes in order; the pipeline's witness computes their digest.
//! The helper calls the witness when the helper is some pieces ahead; otherwise the reader calls the witness when it
//! takes a piece. This choice balances the two threads, whether decompressing or unpacking is slower. When the reader
//! would have to wait, it first fetches compressed bytes ([`crate::image::pull::read_ahead`]). Called by
//! [`crate::image::pull::pipeline`]; knows nothing of the bytes' meaning.

use crate::image::pull::cpu_affinity;
use sampan_job::cpu;
use sampan_job::limits::Limits;
use sampan_os::mutex::{self, lock};
use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

/// Size of a piece, in bytes.
const PIECE: usize = 128 << 10;
/// Most pieces that wait for the reader.
const AHEAD: usize = 4;
/// After filling the queue, the helper sleeps until only this many pieces are left, so that one wake-up serves several
/// pieces.
const RESUME_AT: usize = 1;
/// With at least this many pieces in the queue, the helper calls the witness instead of decompressing.
const FAR_AHEAD: usize = 2;
/// Most moves of the helper to another processor. If the kernel moves the helper back each time, the helper stays where
/// it is after this number of moves.
const MOVES_MAX: usize = 16;

/// The state that reader and helper share.
pub struct DecompressAhead<'a, D, W> {
    state: Mutex<State<D, W>>,
    /// Wakes the reader when a piece is ready or the decompressor is free.
    ready: Condvar,
    /// Wakes the helper when the queue has room and the decompressor is free, or when the reader has ended.
    room: Condvar,
    /// Whether the reader has ended and wants no more pieces.
    done: AtomicBool,
    limits: &'a Limits,
    /// Does useful work in place of a reader's wait; returns false if no work is left.
    meanwhile: &'a (dyn Fn() -> bool + Sync),
    /// Called when all bytes are decompressed.
    on_end: &'a (dyn Fn() + Sync),
}

struct State<D, W> {
    /// The decompressor; `None` while one of the threads is using it.
    decoder: Option<D>,
    /// The witness; `None` while one of the threads is calling it.
    witness: Option<W>,
    pieces: VecDeque<Piece>,
    /// Number of pieces that the reader has taken. Pieces are numbered from 0, so this is also the number of the first
    /// piece in the queue.
    taken: usize,
    used: Vec<Vec<u8>>,
    end: Option<io::Result<()>>,
    reader_waits: bool,
    /// The reader's processor when it was last checked; `None` while the reader waits.
    reader_cpu: Option<usize>,
    helper_waits: bool,
    /// The helper's processor when it was last checked; `None` while the helper waits.
    helper_cpu: Option<usize>,
    /// Number of moves of the helper to another processor.
    moves: usize,
}

/// A piece of decompressed bytes in the queue.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    /// Whether the witness has seen the bytes.
    is_shown: bool,
    /// Whether the helper has taken the bytes out of the queue for the time of the call of the witness.
    is_taken_out: bool,
}

type Guard<'a, D, W> = MutexGuard<'a, State<D, W>>;

impl<D, W> State<D, W> {
    fn may_run_ahead(&self) -> bool {
        self.end.is_none() && self.decoder.is_some() && self.pieces.len() < AHEAD
    }

    /// Position in the queue of the piece that the helper may show to the witness now.
    fn next_to_show(&self) -> Option<usize> {
        let is_far_ahead = self.witness.is_some() && !self.reader_waits && self.pieces.len() >= FAR_AHEAD;
        self.pieces.iter().position(|piece| !piece.is_shown).filter(|_| is_far_ahead)
    }
}

impl<'a, D: Read, W: FnMut(&[u8])> DecompressAhead<'a, D, W> {
    /// Makes the shared state without reading any byte.
    pub fn new(
        decoder: D,
        witness: W,
        limits: &'a Limits,
        meanwhile: &'a (dyn Fn() -> bool + Sync),
        on_end: &'a (dyn Fn() + Sync),
    ) -> Self {
        let state = State {
            decoder: Some(decoder),
            witness: Some(witness),
            pieces: VecDeque::new(),
            taken: 0,
            used: Vec::new(),
            end: None,
            reader_waits: false,
            reader_cpu: cpu_affinity::current(),
            helper_waits: false,
            helper_cpu: None,
            moves: 0,
        };
        DecompressAhead {
            state: Mutex::new(state),
            ready: Condvar::new(),
            room: Condvar::new(),
            done: AtomicBool::new(false),
            limits,
            meanwhile,
            on_end,
        }
    }

    /// Returns the next piece of bytes; empty at the end. `used` is the previous piece, whose buffer is reused.
    fn next(&self, mut used: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut state = lock(&self.state);
        let mut has_nothing_else = false;
        loop {
            state = self.yield_to_helper(state);
            state = match self.get(state, &mut used) {
                Ok(got) => return got,
                Err(state) => state,
            };
            if std::mem::take(&mut has_nothing_else) {
                state = self.await_piece(state);
            } else {
                drop(state);
                has_nothing_else = !(self.meanwhile)();
                state = lock(&self.state);
            }
        }
    }

    /// Takes the first piece from the queue, or decompresses a piece on this thread if the queue is empty. Returns the
    /// lock if the helper holds the piece or the decompressor.
    fn get<'b>(
        &'b self,
        mut state: Guard<'b, D, W>,
        used: &mut Vec<u8>,
    ) -> Result<io::Result<Vec<u8>>, Guard<'b, D, W>> {
        if state.pieces.front().is_some_and(|piece| !piece.is_taken_out) {
            return Ok(Ok(self.take(state, std::mem::take(used))));
        }
        if !state.pieces.is_empty() {
            return Err(state);
        }
        match &state.end {
            Some(Ok(())) => return Ok(Ok(Vec::new())),
            // The reader gets only a stand-in: [`DecompressAhead::end`] returns the original error.
            Some(Err(_)) => return Ok(Err(io::ErrorKind::UnexpectedEof.into())),
            None => {}
        }
        let Some(decoder) = state.decoder.take() else { return Err(state) };
        drop(state);
        let state = self.take_back(piece(decoder, used));
        if state.end.is_some() {
            self.wake_helper(state);
            return Err(lock(&self.state));
        }
        let piece = Piece { bytes: std::mem::take(used), ..Piece::default() };
        Ok(Ok(self.show(state, piece)))
    }

    /// Sleeps until the helper has made progress.
    fn await_piece<'b>(&'b self, mut state: Guard<'b, D, W>) -> Guard<'b, D, W> {
        state.reader_waits = true;
        // The kernel decides on which processor the reader wakes up.
        state.reader_cpu = None;
        // Release the lock before taking a processor again: the thread that has the processor may want this lock.
        cpu::idle(|| drop(self.ready.wait(state)));
        lock(&self.state)
    }

    /// If the helper is queued on the reader's processor, yields once so that the helper can move to another one.
    fn yield_to_helper<'b>(&'b self, mut state: Guard<'b, D, W>) -> Guard<'b, D, W> {
        state.reader_cpu = cpu_affinity::current();
        if state.reader_cpu.is_none() || state.helper_cpu != state.reader_cpu {
            return state;
        }
        drop(state);
        std::thread::yield_now();
        lock(&self.state)
    }

    /// Takes the first piece from the queue; the caller has checked that the queue has a piece.
    fn take(&self, mut state: Guard<'_, D, W>, used: Vec<u8>) -> Vec<u8> {
        let piece = state.pieces.pop_front().unwrap_or_default();
        state.taken += 1;
        state.used.push(used);
        self.show(state, piece)
    }

    /// Shows the reader's piece to the witness, unless the helper has done so. All earlier pieces were shown before.
    #[expect(
        clippy::expect_used,
        reason = "each thread puts the witness back, and only one uses it at a time"
    )]
    fn show(&self, mut state: Guard<'_, D, W>, piece: Piece) -> Vec<u8> {
        // While the helper is using the witness, an earlier piece is out of the queue, and the reader cannot have taken
        // this piece. So the witness is here.
        let witness =
            (!piece.is_shown).then(|| state.witness.take().expect("no other thread shows a piece now"));
        if state.pieces.len() <= RESUME_AT {
            self.wake_helper(state);
        } else {
            drop(state);
        }
        if let Some(mut witness) = witness {
            witness(&piece.bytes);
            lock(&self.state).witness = Some(witness);
        }
        piece.bytes
    }

    /// Puts the decompressor back into the shared state, and records the end of the stream or the error.
    fn take_back(&self, (decoder, got): (D, io::Result<usize>)) -> Guard<'_, D, W> {
        if matches!(got, Ok(0)) {
            (self.on_end)();
        }
        let mut state = lock(&self.state);
        state.decoder = Some(decoder);
        match got {
            Ok(1..) => {}
            Ok(0) => state.end = Some(Ok(())),
            Err(error) => state.end = Some(Err(error)),
        }
        state
    }

    fn wake_helper(&self, mut state: Guard<'_, D, W>) {
        let is_awaited = std::mem::take(&mut state.helper_waits);
        // Unlock first: the helper wants the lock as soon as it wakes up.
        drop(state);
        if is_awaited {
            self.room.notify_one();
        }
    }

    fn wake_reader<'b>(&'b self, mut state: Guard<'b, D, W>) -> Guard<'b, D, W> {
        if !std::mem::take(&mut state.reader_waits) {
            return state;
        }
        drop(state);
        self.ready.notify_one();
        lock(&self.state)
    }

    /// Runs ahead of the reader whenever a processor is spare, until everything is decompressed or
    /// [`DecompressAhead::close`] is called. The helper thread's main function.
    pub fn run_ahead(&self) {
        while self.await_room()
            && let Some(_cpu) = self.limits.cpus.take_spare(&self.done)
        {
            self.work_until_wanted();
        }
    }

    /// Waits until the helper has something to do; returns false if the stream has ended or the reader has stopped.
    fn await_room(&self) -> bool {
        let mut state = lock(&self.state);
        loop {
            if self.done.load(Ordering::SeqCst) {
                return false;
            }
            if state.may_run_ahead() || state.next_to_show().is_some() {
                return true;
            }
            if state.end.is_some() {
                return false;
            }
            state.helper_waits = true;
            state.helper_cpu = None;
            state = mutex::wait(&self.room, state);
        }
    }

    /// Decompresses ahead until another job wants the processor.
    fn work_until_wanted(&self) {
        self.work_ahead(lock(&self.state)).helper_cpu = None;
    }

    /// Decompresses pieces while the queue has room, and shows them to the witness.
    fn work_ahead<'b>(&'b self, mut state: Guard<'b, D, W>) -> Guard<'b, D, W> {
        while !self.done.load(Ordering::SeqCst) {
            state = self.move_away(state);
            if let Some(at) = state.next_to_show() {
                state = self.show_ahead(state, at);
            } else if state.may_run_ahead()
                && let Some(decoder) = state.decoder.take()
            {
                let mut bytes = state.used.pop().unwrap_or_default();
                drop(state);
                let got = piece(decoder, &mut bytes);
                state = self.take_back(got);
                if state.end.is_none() {
                    state.pieces.push_back(Piece { bytes, ..Piece::default() });
                }
            } else {
                return state;
            }
            state = self.wake_reader(state);
            if self.limits.cpus.is_wanted() {
                return state;
            }
        }
        state
    }

    /// Moves the helper off the reader's processor, at most [`MOVES_MAX`] times.
    fn move_away<'b>(&'b self, mut state: Guard<'b, D, W>) -> Guard<'b, D, W> {
        state.helper_cpu = cpu_affinity::current().filter(|_| state.moves < MOVES_MAX);
        let Some(shared) = state.reader_cpu.filter(|on| state.helper_cpu == Some(*on)) else { return state };
        state.moves += 1;
        drop(state);
        cpu_affinity::leave(shared);
        let mut state = lock(&self.state);
        state.helper_cpu = cpu_affinity::current();
        state
    }

    /// Shows the piece at `at` to the witness. The piece keeps its place in the queue.
    fn show_ahead<'b>(&'b self, mut state: Guard<'b, D, W>, at: usize) -> Guard<'b, D, W> {
        let number = state.taken + at;
        let (Some(piece), Some(mut witness)) =
            (state.pieces.get_mut(at).map(std::mem::take), state.witness.take())
        else {
            return state;
        };
        if let Some(place) = state.pieces.get_mut(at) {
            place.is_taken_out = true;
        }
        drop(state);
        witness(&piece.bytes);
        let mut state = lock(&self.state);
        state.witness = Some(witness);
        // Meanwhile the reader may have taken earlier pieces, but not this piece: the reader waits for a piece that is
        // out of the queue.
        let at = number - state.taken;
        if let Some(place) = state.pieces.get_mut(at) {
            *place = Piece { is_shown: true, ..piece };
        }
        state
    }

    /// Ends the stream from the reader's side: [`DecompressAhead::run_ahead`] returns.
    pub fn close(&self) {
        self.done.store(true, Ordering::SeqCst);
        self.wake_helper(lock(&self.state));
        self.limits.cpus.recheck();
    }

    /// The result of decompression; `None` if the reader stopped before the end.
    pub fn end(self) -> Option<io::Result<()>> {
        self.state.into_inner().unwrap_or_else(|e| e.into_inner()).end
    }
}

/// Reads up to [`PIECE`] bytes into `buffer`; fewer only at the end of the stream.
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

/// The reader's side: all decompressed bytes, in order.
pub struct Reader<'a, D, W> {
    decompressor: &'a DecompressAhead<'a, D, W>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<'a, D: Read, W: FnMut(&[u8])> Reader<'a, D, W> {
    /// Makes the only reader of `decompressor`, which starts at the first byte.
    pub fn new(decompressor: &'a DecompressAhead<'a, D, W>) -> Self {
        Reader { decompressor, piece: Vec::new(), at: 0, ended: false }
    }
}

impl<D: Read, W: FnMut(&[u8])> BufRead for Reader<'_, D, W> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.len() && !self.ended {
            cpu::share();
            self.piece = self.decompressor.next(std::mem::take(&mut self.piece))?;
            self.at = 0;
            self.ended = self.piece.is_empty();
        }
        Ok(self.piece.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, len: usize) {
        self.at = self.piece.len().min(self.at + len);
    }
}

impl<D: Read, W: FnMut(&[u8])> Read for Reader<'_, D, W> {
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
    use sampan_job::limits::Bounds;

    type Outcome = (io::Result<Vec<u8>>, Vec<u8>, Option<io::Result<()>>);

    /// Reads `len` bytes through a decompressor, with a reader that is slow and fast by turns. Returns the bytes that
    /// were read, the bytes that the witness saw, and how the stream ended.
    fn read_all(cpus: usize, len: usize, breaks: bool) -> Outcome {
        let limits = Limits::new(Bounds { cpus, ..Bounds::default() });
        let (_cpu, on_end) = (limits.cpus.take(), || {});
        let seen = Mutex::new(Vec::new());
        let witness = |bytes: &[u8]| lock(&seen).extend_from_slice(bytes);
        let decompressor =
            DecompressAhead::new(Numbers::new(len, breaks), witness, &limits, &|| false, &on_end);
        let read = std::thread::scope(|scope| {
            scope.spawn(|| decompressor.run_ahead());
            let (mut all, mut reader) = (Vec::new(), Reader::new(&decompressor));
            let read = loop {
                match reader.fill_buf().map(<[u8]>::to_vec) {
                    Ok(piece) if piece.is_empty() => break Ok(all),
                    Ok(piece) => {
                        reader.consume(piece.len());
                        all.extend(piece);
                        // Wait until the helper has filled the queue, or sleeps because it filled the queue before.
                        while all.len() % (3 * PIECE) == 0 && cpus > 1 && all.len() + AHEAD * PIECE < len {
                            let state = lock(&decompressor.state);
                            if state.pieces.len() == AHEAD || state.helper_waits {
                                break;
                            }
                            drop(state);
                            std::thread::yield_now();
                        }
                    }
                    Err(error) => break Err(error),
                }
            };
            decompressor.close();
            read
        });
        let end = decompressor.end();
        (read, seen.into_inner().expect("no panic"), end)
    }

    #[test]
    fn reader_and_witness_get_all_bytes_in_order_whichever_thread_works() {
        for (cpus, len) in [(1, 3_000_000), (2, 6_000_000), (2, 0), (2, PIECE), (8, PIECE * AHEAD + 1)] {
            let (read, seen, end) = read_all(cpus, len, false);
            let expected: Vec<u8> = (0..len).map(number).collect();
            assert!(read.expect("read") == expected, "{cpus} processors, {len} bytes");
            assert!(seen == expected, "{cpus} processors, {len} bytes");
            assert!(matches!(end, Some(Ok(()))));
        }
    }

    #[test]
    fn a_decompressor_that_breaks_breaks_the_stream_and_says_why() {
        for cpus in [1, 2] {
            let (read, seen, end) = read_all(cpus, 1_000_000, true);
            assert!(seen.len() <= 1_000_000);
            assert_eq!(read.expect_err("broken").kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(end.expect("known").expect_err("broken").to_string(), "broken");
        }
    }

    /// A decompressor whose reads block until `may_come` is set.
    struct Held<'a> {
        is_wanted: &'a AtomicBool,
        may_come: &'a AtomicBool,
    }

    impl Read for Held<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.is_wanted.store(true, Ordering::SeqCst);
            while !self.may_come.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            io::repeat(7).read(into)
        }
    }

    #[test]
    fn a_reader_that_would_wait_does_other_work_while_there_is_some() {
        let limits = Limits::new(Bounds { cpus: 2, ..Bounds::default() });
        let (_cpu, on_end) = (limits.cpus.take(), || {});
        let [is_wanted, may_come] = [const { AtomicBool::new(false) }; 2];
        let did = std::sync::atomic::AtomicUsize::new(0);
        // The decompressor returns bytes only after the reader has done all other work.
        let meanwhile = || {
            let is_more = did.fetch_add(1, Ordering::SeqCst) < 3;
            may_come.store(!is_more, Ordering::SeqCst);
            is_more
        };
        let held = Held { is_wanted: &is_wanted, may_come: &may_come };
        let decompressor = DecompressAhead::new(held, |_: &[u8]| {}, &limits, &meanwhile, &on_end);
        std::thread::scope(|scope| {
            scope.spawn(|| decompressor.run_ahead());
            while !is_wanted.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            let mut byte = [0];
            Reader::new(&decompressor).read_exact(&mut byte).expect("read");
            decompressor.close();
            assert_eq!(byte, [7]);
            assert!(did.load(Ordering::SeqCst) > 3, "all of it, and then it asked once more");
        });
    }

    #[test]
    fn a_reader_that_stops_ends_the_helper() {
        let limits = Limits::new(Bounds { cpus: 2, ..Bounds::default() });
        let (_cpu, on_end) = (limits.cpus.take(), || {});
        let decompressor = DecompressAhead::new(io::repeat(7), |_: &[u8]| {}, &limits, &|| false, &on_end);
        std::thread::scope(|scope| {
            scope.spawn(|| decompressor.run_ahead());
            let mut reader = Reader::new(&decompressor);
            reader.read_exact(&mut [0; 1000]).expect("read");
            decompressor.close();
        });
        assert!(decompressor.end().is_none());
    }
}
