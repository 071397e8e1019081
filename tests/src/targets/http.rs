//! The bytes of a client of an HTTP server: what is asked does not depend on how the bytes are cut. Some answers and some
//! bodies are streamed, and some requests take the connection over.

use crate::random::Random;
use sampan_http::answer::Answer;
use sampan_http::connection::{Connection, Phase, Received, Reply, Rules, Unlimited, WaitsFor};
use sampan_http::request::Limits;
use sampan_http::transport::Transport;
use std::fs::File;
use std::io::{self, Read, Write};

/// Longest body of the server, in bytes.
const BODY_MAX: usize = 1000;

/// What the server does with a request, by the length of its path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It is answered at once.
    Now,
    /// It is answered later.
    Later,
    /// Its answer is a stream.
    Stream,
    /// Its body is received as a stream.
    Body,
    /// It takes the connection over.
    TakeOver,
}

fn kind(path: &str) -> Kind {
    match path.len() {
        len if len % 2 == 1 => Kind::Now,
        len if len % 4 == 2 => Kind::Later,
        len if len % 16 == 0 => Kind::TakeOver,
        len if len % 8 == 4 => Kind::Stream,
        _ => Kind::Body,
    }
}

const RULES: Rules = Rules { is_streamed: |head| kind(head.uri().path()) == Kind::Body, ..Rules::PLAIN };

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
    /// The bodies that were streamed, and at last the bytes of one that has not ended.
    bodies: Vec<Vec<u8>>,
    /// Whether a streamed body is not framed correctly.
    is_broken: bool,
    /// Whether the last request has no answer.
    is_unanswered: bool,
    /// Whether the server has refused something, and reads no further.
    refused: bool,
}

/// Goes on with a request that waits. Returns whether it must wait for bytes of the client, or for ever.
fn go_on(
    connection: &mut Connection<Pipe>,
    current: Kind,
    outcome: &mut Outcome,
    body: &mut Vec<u8>,
) -> bool {
    match current {
        Kind::Now | Kind::Later => connection.answer(Answer::new(200, "text/plain", "late")),
        Kind::Stream => {
            connection.begin(&Answer::new(200, "text/plain", ""));
            connection.send_bytes(b"la");
            connection.send_bytes(b"te");
            connection.finish();
        }
        Kind::TakeOver if connection.is_waiting() => connection.take_over(b"HTTP/1.1 101 UPGRADED\r\n\r\n"),
        Kind::Body | Kind::TakeOver => match connection.receive(body) {
            Ok(Received::Bytes) => {}
            Ok(Received::Nothing) => return true,
            Ok(Received::End) => {
                outcome.bodies.push(std::mem::take(body));
                connection.answer(Answer::empty(200));
            }
            Err(_) => {
                outcome.is_broken = true;
                return true;
            }
        },
    }
    false
}

/// Feeds `input` in pieces whose lengths `piece` says, to a server whose peer takes `room` bytes at a time.
fn serve(input: &[u8], limits: Limits, room: usize, mut piece: impl FnMut() -> usize) -> Outcome {
    let pipe = Pipe { incoming: Vec::new(), read: 0, outgoing: Vec::new(), room, would_block: false };
    let mut connection = Connection::new(pipe, limits);
    connection.set_rules(&RULES);
    let (mut outcome, mut rest, mut is_over) = (Outcome::default(), input, false);
    let (mut current, mut body) = (Kind::Now, Vec::new());
    while !rest.is_empty() && !is_over {
        let (now, later) = rest.split_at(piece().clamp(1, rest.len()));
        connection.stream().incoming.extend_from_slice(now);
        rest = later;
        loop {
            connection.mark_ready(true, true, false);
            let step = connection.step(&mut Unlimited, &mut |request| {
                assert!(request.body().len() <= limits.body_max);
                outcome.asked.push(format!("{request:?}"));
                current = kind(request.uri().path());
                if current == Kind::Now { Reply::Now(Answer::empty(204)) } else { Reply::Later }
            });
            match step {
                Ok(WaitsFor::Peer)
                    if connection.phase() != Phase::Sending && connection.stream().is_empty() =>
                {
                    break;
                }
                Ok(WaitsFor::Answer) if go_on(&mut connection, current, &mut outcome, &mut body) => {
                    is_over = outcome.is_broken;
                    break;
                }
                Ok(_) => {}
                // Too much came after the last answer.
                Err(_) => {
                    is_over = true;
                    break;
                }
            }
        }
    }
    // The rest of a body that never came, or the bytes of a connection that was taken over.
    outcome.bodies.push(body);
    let output = String::from_utf8(std::mem::take(&mut connection.stream().outgoing)).expect("text");
    let statuses = output.lines().filter_map(|line| line.split_once("HTTP/1.1 ").map(|(_, status)| status));
    outcome.statuses = statuses.filter(|status| *status != "100 Continue").map(str::to_owned).collect();
    // A body that does not end has no answer.
    outcome.is_unanswered = outcome.is_broken || (current == Kind::Body && connection.is_waiting());
    outcome.refused = outcome.is_broken || outcome.statuses.len() > outcome.asked.len();
    outcome
}

/// Bytes of a client: each request is answered once, and the requests are the same however the bytes are cut.
pub(super) fn http(input: &[u8], random: &mut Random) -> bool {
    let limits = if random.one_in(4) { Limits::READ_ONLY } else { Limits::with_bodies(BODY_MAX) };
    let whole = serve(input, limits, usize::MAX, || usize::MAX);
    let (most, room) = (1 + random.below(300), 1 + random.below(50));
    let cut = serve(input, limits, room, || 1 + random.below(most));
    for outcome in [&whole, &cut] {
        let answered = outcome.asked.len() - usize::from(outcome.is_unanswered);
        let refusals = outcome.statuses.len().checked_sub(answered).expect("each is answered once");
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
