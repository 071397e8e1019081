//! A decompressor that two threads may run: the one that wants its bytes, and one that runs ahead of it.
//!
//! While all processors have work, the first does it alone, piece by piece, and what it has just decompressed is
//! still in its cache when it goes on with it. A processor to spare ([`sampan_job::cpu::Cpus::take_spare`]) goes to the second, which
//! then decompresses the next pieces meanwhile, a few at most; it stops when somebody else wants the processor. So a
//! single layer takes two processors, and many layers take one each, without a hand-over.
//!
//! All bytes are shown to a *witness* in order: the digest of them. Whoever has time for it does that: the second thread
//! where it is ahead by pieces, else the first when it takes one. So both have as much to do, whether it is decompressing
//! that takes longer or what the first does with the bytes. Where the first would have to wait all the same it does
//! something else meanwhile: it fetches ([`crate::image::pull::read_ahead`]) what is to be decompressed next. Called by
//! [`crate::image::pull::pipeline`]; knows nothing of what they are.

use crate::image::pull::cpu_affinity;
use sampan_job::cpu;
use sampan_job::limits::Limits;
use sampan_os::mutex::{self, lock};
use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

/// Bytes of a piece.
const PIECE: usize = 128 << 10;
/// Most pieces that wait to be taken.
const AHEAD: usize = 4;
/// Who has run so far ahead goes on when so many are left: a wake-up for several pieces, not for each.
const GO_ON: usize = 1;
/// With so many waiting the second thread has time for the witness.
const AT_EASE: usize = 2;
/// How often the second thread leaves a processor for another one.
const MOVES_MAX: usize = 16;

/// What both threads share.
pub struct Relay<'a, D, W> {
    state: Mutex<State<D, W>>,
    /// For the reader: a piece is ready, or the decompressor is free.
    ready: Condvar,
    /// For the one ahead: there is room, and the decompressor is free.
    room: Condvar,
    /// Nobody wants more.
    done: AtomicBool,
    limits: &'a Limits,
    /// What the reader may do while it would have to wait; false if there is nothing.
    meanwhile: &'a (dyn Fn() -> bool + Sync),
    /// Told once all is decompressed.
    on_end: &'a (dyn Fn() + Sync),
}

struct State<D, W> {
    /// Away while one of the threads runs it.
    decoder: Option<D>,
    /// Away while one of the threads shows it something.
    witness: Option<W>,
    pieces: VecDeque<Piece>,
    /// How many were taken before the first of those that wait.
    taken: usize,
    used: Vec<Vec<u8>>,
    end: Option<io::Result<()>>,
    reader_waits: bool,
    /// The processor that the reader was on when it was last seen, if it does not wait.
    reader_on: Option<usize>,
    other_waits: bool,
    /// Likewise, the second thread.
    other_on: Option<usize>,
    /// How often it has left one.
    moves: usize,
}

/// Decompressed bytes.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    /// The witness has seen them.
    is_seen: bool,
    /// The second thread has the bytes, to show them.
    is_away: bool,
}

type Guard<'a, D, W> = MutexGuard<'a, State<D, W>>;

impl<D, W> State<D, W> {
    fn may_run_ahead(&self) -> bool {
        self.end.is_none() && self.decoder.is_some() && self.pieces.len() < AHEAD
    }

    /// Which of the pieces the second thread may show now.
    fn to_show(&self) -> Option<usize> {
        let is_at_ease = self.witness.is_some() && !self.reader_waits && self.pieces.len() >= AT_EASE;
        self.pieces.iter().position(|piece| !piece.is_seen).filter(|_| is_at_ease)
    }
}

impl<'a, D: Read, W: FnMut(&[u8])> Relay<'a, D, W> {
    /// Nothing is read yet.
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
            reader_on: cpu_affinity::current(),
            other_waits: false,
            other_on: None,
            moves: 0,
        };
        Relay {
            state: Mutex::new(state),
            ready: Condvar::new(),
            room: Condvar::new(),
            done: AtomicBool::new(false),
            limits,
            meanwhile,
            on_end,
        }
    }

    /// The next bytes, none at the end; `used` is what was read of the last ones.
    fn next(&self, mut used: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut state = lock(&self.state);
        let mut has_nothing_else = false;
        loop {
            state = self.make_way(state);
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

    /// What is there, or what this thread decompresses now; the lock back if the other one is at what comes next.
    fn get<'b>(
        &'b self,
        mut state: Guard<'b, D, W>,
        used: &mut Vec<u8>,
    ) -> Result<io::Result<Vec<u8>>, Guard<'b, D, W>> {
        if state.pieces.front().is_some_and(|piece| !piece.is_away) {
            return Ok(Ok(self.take(state, std::mem::take(used))));
        }
        if !state.pieces.is_empty() {
            return Err(state);
        }
        match &state.end {
            Some(Ok(())) => return Ok(Ok(Vec::new())),
            // Why is told by [`Relay::end`].
            Some(Err(_)) => return Ok(Err(io::ErrorKind::UnexpectedEof.into())),
            None => {}
        }
        let Some(decoder) = state.decoder.take() else { return Err(state) };
        drop(state);
        let state = self.take_back(piece(decoder, used));
        if state.end.is_some() {
            self.let_run_ahead(state);
            return Err(lock(&self.state));
        }
        let piece = Piece { bytes: std::mem::take(used), ..Piece::default() };
        Ok(Ok(self.show(state, piece)))
    }

    /// Sleeps until the other thread has done something.
    fn await_piece<'b>(&'b self, mut state: Guard<'b, D, W>) -> Guard<'b, D, W> {
        state.reader_waits = true;
        // Where it wakes up is the kernel's affair.
        state.reader_on = None;
        // Let go of all before the processor is taken again: who has that may want what we hold.
        cpu::idle(|| drop(self.ready.wait(state)));
        lock(&self.state)
    }

    /// Lets the second thread have the reader's processor for as long as it takes to leave it, if that is where it waits.
    fn make_way<'b>(&'b self, mut state: Guard<'b, D, W>) -> Guard<'b, D, W> {
        state.reader_on = cpu_affinity::current();
        if state.reader_on.is_none() || state.other_on != state.reader_on {
            return state;
        }
        drop(state);
        std::thread::yield_now();
        lock(&self.state)
    }

    /// The first of the pieces that wait, which is there.
    fn take(&self, mut state: Guard<'_, D, W>, used: Vec<u8>) -> Vec<u8> {
        let piece = state.pieces.pop_front().unwrap_or_default();
        state.taken += 1;
        state.used.push(used);
        self.show(state, piece)
    }

    /// Shows the witness a piece that is the reader's now, if it has not seen it; all before it was shown.
    fn show(&self, mut state: Guard<'_, D, W>, piece: Piece) -> Vec<u8> {
        // The other one has it only while a piece before this is away, and then this is not ours yet.
        let witness = (!piece.is_seen).then(|| state.witness.take().expect("nobody else shows a piece now"));
        if state.pieces.len() <= GO_ON {
            self.let_run_ahead(state);
        } else {
            drop(state);
        }
        if let Some(mut witness) = witness {
            witness(&piece.bytes);
            lock(&self.state).witness = Some(witness);
        }
        piece.bytes
    }

    /// Puts the decompressor back, and notes how it ended, if it has.
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

    fn let_run_ahead(&self, mut state: Guard<'_, D, W>) {
        let is_awaited = std::mem::take(&mut state.other_waits);
        // First: who wakes up wants it.
        drop(state);
        if is_awaited {
            self.room.notify_one();
        }
    }

    fn let_read<'b>(&'b self, mut state: Guard<'b, D, W>) -> Guard<'b, D, W> {
        if !std::mem::take(&mut state.reader_waits) {
            return state;
        }
        drop(state);
        self.ready.notify_one();
        lock(&self.state)
    }

    /// Runs ahead of the reader whenever there is a processor to spare, until all is decompressed or
    /// [`Relay::close`] is called.
    pub fn run_ahead(&self) {
        while self.await_room()
            && let Some(_cpu) = self.limits.cpus.take_spare(&self.done)
        {
            self.stint();
        }
    }

    /// Waits until there is something to do ahead; false if there never will be.
    fn await_room(&self) -> bool {
        let mut state = lock(&self.state);
        loop {
            if self.done.load(Ordering::SeqCst) {
                return false;
            }
            if state.may_run_ahead() || state.to_show().is_some() {
                return true;
            }
            if state.end.is_some() {
                return false;
            }
            state.other_waits = true;
            state.other_on = None;
            state = mutex::wait(&self.room, state);
        }
    }

    /// Works ahead while nobody else wants the processor.
    fn stint(&self) {
        self.work_ahead(lock(&self.state)).other_on = None;
    }

    /// Decompresses pieces while there is room for them, and shows them.
    fn work_ahead<'b>(&'b self, mut state: Guard<'b, D, W>) -> Guard<'b, D, W> {
        while !self.done.load(Ordering::SeqCst) {
            state = self.move_away(state);
            if let Some(at) = state.to_show() {
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
            state = self.let_read(state);
            if self.limits.cpus.is_wanted() {
                return state;
            }
        }
        state
    }

    /// Leaves the processor that the reader is on. After so many times the kernel, which has brought it back, has its way.
    fn move_away<'b>(&'b self, mut state: Guard<'b, D, W>) -> Guard<'b, D, W> {
        state.other_on = cpu_affinity::current().filter(|_| state.moves < MOVES_MAX);
        let Some(shared) = state.reader_on.filter(|on| state.other_on == Some(*on)) else { return state };
        state.moves += 1;
        drop(state);
        cpu_affinity::leave(shared);
        let mut state = lock(&self.state);
        state.other_on = cpu_affinity::current();
        state
    }

    /// Shows the piece at `at`, which stays where it is.
    fn show_ahead<'b>(&'b self, mut state: Guard<'b, D, W>, at: usize) -> Guard<'b, D, W> {
        let number = state.taken + at;
        let (Some(piece), Some(mut witness)) =
            (state.pieces.get_mut(at).map(std::mem::take), state.witness.take())
        else {
            return state;
        };
        if let Some(place) = state.pieces.get_mut(at) {
            place.is_away = true;
        }
        drop(state);
        witness(&piece.bytes);
        let mut state = lock(&self.state);
        state.witness = Some(witness);
        // The reader may have taken some before it; it waits for one that is away.
        let at = number - state.taken;
        if let Some(place) = state.pieces.get_mut(at) {
            *place = Piece { is_seen: true, ..piece };
        }
        state
    }

    /// Nobody reads any more: lets [`Relay::run_ahead`] return.
    pub fn close(&self) {
        self.done.store(true, Ordering::SeqCst);
        self.let_run_ahead(lock(&self.state));
        self.limits.cpus.recheck();
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

/// The reading end: all bytes, in order.
pub struct Reader<'a, D, W> {
    relay: &'a Relay<'a, D, W>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<'a, D: Read, W: FnMut(&[u8])> Reader<'a, D, W> {
    /// Reads from the first byte on; there is to be one of them.
    pub fn new(relay: &'a Relay<'a, D, W>) -> Self {
        Reader { relay, piece: Vec::new(), at: 0, ended: false }
    }
}

impl<D: Read, W: FnMut(&[u8])> BufRead for Reader<'_, D, W> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.len() && !self.ended {
            cpu::share();
            self.piece = self.relay.next(std::mem::take(&mut self.piece))?;
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

    /// What is read of so many bytes, what the witness saw, and how it ended. The reader is slow or fast by turns.
    fn read_all(cpus: usize, len: usize, breaks: bool) -> Outcome {
        let limits = Limits::new(Bounds { cpus, ..Bounds::default() });
        let (_cpu, on_end) = (limits.cpus.take(), || {});
        let seen = Mutex::new(Vec::new());
        let witness = |bytes: &[u8]| lock(&seen).extend_from_slice(bytes);
        let relay = Relay::new(Numbers::new(len, breaks), witness, &limits, &|| false, &on_end);
        let read = std::thread::scope(|scope| {
            scope.spawn(|| relay.run_ahead());
            let (mut all, mut reader) = (Vec::new(), Reader::new(&relay));
            let read = loop {
                match reader.fill_buf().map(<[u8]>::to_vec) {
                    Ok(piece) if piece.is_empty() => break Ok(all),
                    Ok(piece) => {
                        reader.consume(piece.len());
                        all.extend(piece);
                        // Until the other one is as far ahead as it may be, or sleeps since it was.
                        while all.len() % (3 * PIECE) == 0 && cpus > 1 && all.len() + AHEAD * PIECE < len {
                            let state = lock(&relay.state);
                            if state.pieces.len() == AHEAD || state.other_waits {
                                break;
                            }
                            drop(state);
                            std::thread::yield_now();
                        }
                    }
                    Err(error) => break Err(error),
                }
            };
            relay.close();
            read
        });
        let end = relay.end();
        (read, seen.into_inner().expect("no panic"), end)
    }

    #[test]
    fn all_bytes_come_in_order_to_reader_and_witness_whoever_decompresses_and_shows_them() {
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

    /// Has nothing before `may_come` is set.
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
    fn who_would_have_to_wait_does_something_else_as_long_as_there_is_something() {
        let limits = Limits::new(Bounds { cpus: 2, ..Bounds::default() });
        let (_cpu, on_end) = (limits.cpus.take(), || {});
        let [is_wanted, may_come] = [const { AtomicBool::new(false) }; 2];
        let did = std::sync::atomic::AtomicUsize::new(0);
        // What the reader waits for comes once it has done all there was.
        let meanwhile = || {
            let is_more = did.fetch_add(1, Ordering::SeqCst) < 3;
            may_come.store(!is_more, Ordering::SeqCst);
            is_more
        };
        let held = Held { is_wanted: &is_wanted, may_come: &may_come };
        let relay = Relay::new(held, |_: &[u8]| {}, &limits, &meanwhile, &on_end);
        std::thread::scope(|scope| {
            scope.spawn(|| relay.run_ahead());
            while !is_wanted.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            let mut byte = [0];
            Reader::new(&relay).read_exact(&mut byte).expect("read");
            relay.close();
            assert_eq!(byte, [7]);
            assert!(did.load(Ordering::SeqCst) > 3, "all there was, and then it asked once more");
        });
    }

    #[test]
    fn who_reads_no_more_lets_the_other_thread_go() {
        let limits = Limits::new(Bounds { cpus: 2, ..Bounds::default() });
        let (_cpu, on_end) = (limits.cpus.take(), || {});
        let relay = Relay::new(io::repeat(7), |_: &[u8]| {}, &limits, &|| false, &on_end);
        std::thread::scope(|scope| {
            scope.spawn(|| relay.run_ahead());
            let mut reader = Reader::new(&relay);
            reader.read_exact(&mut [0; 1000]).expect("read");
            relay.close();
        });
        assert!(relay.end().is_none());
    }
}
