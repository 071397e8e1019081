//! The bytes of a client of an HTTP server: what is asked does not depend on how the bytes are cut.

use crate::random::Random;
use sampan_http::answer::Answer;
use sampan_http::connection::{Connection, Phase, Reply, Unlimited, WaitsFor};
use sampan_http::request::Limits;
use sampan_http::transport::Transport;
use std::fs::File;
use std::io::{self, Read, Write};

/// Longest body of the server, in bytes.
const BODY_MAX: usize = 1000;

/// A stream in memory.
struct Pipe {
    incoming: Vec<u8>,
    /// Bytes of `incoming` that were read.
    read: usize,
    outgoing: Vec<u8>,
    /// Most bytes that one write takes; after each one, the next would block.
    room: usize,
    would_block: bool,
}

impl Pipe {
    fn is_empty(&self) -> bool {
        self.read == self.incoming.len()
    }
}

impl Read for Pipe {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let len = (&self.incoming[self.read..]).read(bytes)?;
        self.read += len;
        if len == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(len) }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.would_block = !self.would_block;
        if !self.would_block {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = bytes.len().min(self.room);
        self.outgoing.extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Pipe {
    fn send_file(&mut self, _: &File, _: u64, _: u64) -> io::Result<u64> {
        unreachable!("no answer has a file")
    }

    fn end_sending(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a server made of the bytes of its client.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    asked: Vec<String>,
    statuses: Vec<String>,
    /// Whether the server has refused something, and reads no further.
    refused: bool,
}

/// Feeds `input` in pieces whose lengths `piece` says, to a server whose peer takes `room` bytes at a time.
fn serve(input: &[u8], limits: Limits, room: usize, mut piece: impl FnMut() -> usize) -> Outcome {
    let pipe = Pipe { incoming: Vec::new(), read: 0, outgoing: Vec::new(), room, would_block: false };
    let mut connection = Connection::new(pipe, limits);
    let (mut outcome, mut rest, mut is_over) = (Outcome::default(), input, false);
    while !rest.is_empty() && !is_over {
        let (now, later) = rest.split_at(piece().clamp(1, rest.len()));
        connection.stream().incoming.extend_from_slice(now);
        rest = later;
        loop {
            connection.mark_ready(true, true, false);
            let step = connection.step(&mut Unlimited, &mut |request| {
                assert!(request.body().len() <= limits.body_max);
                outcome.asked.push(format!("{request:?}"));
                if request.uri().path().len() % 2 == 0 {
                    Reply::Later
                } else {
                    Reply::Now(Answer::empty(204))
                }
            });
            match step {
                Ok(WaitsFor::Peer)
                    if connection.phase() != Phase::Sending && connection.stream().is_empty() =>
                {
                    break;
                }
                Ok(WaitsFor::Answer) => connection.answer(Answer::new(200, "text/plain", "late")),
                Ok(_) => {}
                // Too much came after the last answer.
                Err(_) => {
                    is_over = true;
                    break;
                }
            }
        }
    }
    let output = String::from_utf8(std::mem::take(&mut connection.stream().outgoing)).expect("text");
    let statuses = output.lines().filter_map(|line| line.split_once("HTTP/1.1 ").map(|(_, status)| status));
    outcome.statuses = statuses.filter(|status| *status != "100 Continue").map(str::to_owned).collect();
    outcome.refused = outcome.statuses.len() > outcome.asked.len();
    outcome
}

/// Bytes of a client: each request is answered once, and the requests are the same however the bytes are cut.
pub(super) fn http(input: &[u8], random: &mut Random) -> bool {
    let limits = if random.one_in(4) { Limits::READ_ONLY } else { Limits::with_bodies(BODY_MAX) };
    let whole = serve(input, limits, usize::MAX, || usize::MAX);
    let (most, room) = (1 + random.below(300), 1 + random.below(50));
    let cut = serve(input, limits, room, || 1 + random.below(most));
    for outcome in [&whole, &cut] {
        let refusals =
            outcome.statuses.len().checked_sub(outcome.asked.len()).expect("each is answered once");
        assert!(refusals <= 1, "{outcome:?}");
    }
    // What is too long may be noticed sooner if it comes in pieces.
    let same = whole.asked.iter().zip(&cut.asked).take_while(|(a, b)| a == b).count();
    assert_eq!(same, whole.asked.len().min(cut.asked.len()), "{whole:?} {cut:?}");
    if !whole.refused && !cut.refused {
        assert_eq!(whole, cut);
    }
    !whole.asked.is_empty()
}
