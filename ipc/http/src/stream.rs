//! Answers that are streamed, bodies that are streamed, and connections that the program takes over.
//!
//! The second half of [`Connection`]; `connection` has the order of requests and answers, and sends what is queued here.

use crate::answer::{self, Answer, Persistence};
use crate::connection::{Connection, Received, State};
use crate::request::{Exchange, Incoming};
use crate::transport::Transport;
use std::io::{self, Write as _};

impl<T: Transport> Connection<T> {
    /// Begins a streamed answer to the request that waits. The body of `head` is not used. Returns false, and answers
    /// with 500, if the head cannot be sent.
    pub fn begin(&mut self, head: &Answer) -> bool {
        let State::Waiting(exchange, mut body) = std::mem::replace(&mut self.state, State::Ending) else {
            return false;
        };
        if let Some(body) = &mut body {
            // After the head of the answer, 100 Continue would be taken for a part of the answer.
            body.take_wants_continue();
        }
        let ends = exchange.ends || exchange.is_http_10 || body.is_some();
        let exchange = Exchange { ends, ..exchange };
        let persistence = if ends { Persistence::Ends } else { Persistence::Stays };
        let common = self.rules.write_headers;
        if !answer::write_stream_head(head, persistence, !exchange.is_http_10, common, &mut self.out) {
            self.refuse(500);
            return false;
        }
        self.state = State::Streaming(exchange, body);
        true
    }

    /// Takes the connection over from the request that waits: sends `head`, and then the bytes of both sides are the
    /// program's own.
    ///
    /// The connection ends when the peer has closed both directions and the program has received all of its bytes. So a
    /// program that has no use for bytes of the peer receives them, too.
    pub fn take_over(&mut self, head: &[u8]) {
        if self.is_waiting() {
            self.out.extend_from_slice(head);
            self.state = State::TakenOver;
        }
    }

    /// Whether the peer of a connection that was taken over has closed both directions. Bytes that it sent before can
    /// still be received.
    pub fn is_peer_gone(&self) -> bool {
        self.is_gone
    }

    /// Appends `bytes` to the streamed answer, as one chunk, or to the bytes of a connection that was taken over.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        // Sent bytes would otherwise pile up while the peer never takes everything.
        if self.sent > self.out.len() / 2 {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        match self.state {
            State::Streaming(Exchange { is_head: true, .. }, _) => {}
            State::Streaming(Exchange { is_http_10: false, .. }, _) if !bytes.is_empty() => {
                // Writing into a vector never fails.
                let _ = write!(self.out, "{:x}\r\n", bytes.len());
                self.out.extend_from_slice(bytes);
                self.out.extend_from_slice(b"\r\n");
            }
            State::Streaming(..) | State::TakenOver => self.out.extend_from_slice(bytes),
            _ => {}
        }
    }

    /// Ends the streamed answer, or the program's use of a connection that was taken over.
    pub fn finish(&mut self) {
        match std::mem::replace(&mut self.state, State::Ending) {
            State::Streaming(exchange, body) => {
                if !exchange.is_head && !exchange.is_http_10 {
                    self.out.extend_from_slice(b"0\r\n\r\n");
                }
                self.state = if exchange.ends || body.is_some() { State::Ending } else { State::Head };
            }
            State::TakenOver => {}
            other => self.state = other,
        }
    }

    /// Ends the connection after the bytes that were sent so far, so that the peer sees an incomplete answer.
    pub fn break_off(&mut self) {
        self.is_broken_off = true;
        self.state = State::Ending;
    }

    /// Number of bytes that the program has sent and the peer has not taken.
    pub fn backlog(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Appends bytes of a streamed body, or of the peer of a connection that was taken over, to `bytes`.
    ///
    /// # Errors
    /// The connection is broken, or the body is not framed correctly. The connection must be dropped.
    pub fn receive(&mut self, bytes: &mut Vec<u8>) -> io::Result<Received> {
        match std::mem::replace(&mut self.state, State::Ending) {
            State::TakenOver => {
                self.state = State::TakenOver;
                self.receive_raw(bytes)
            }
            State::Waiting(exchange, Some(incoming)) => {
                let (received, body) = self.receive_body(incoming, bytes)?;
                self.state = State::Waiting(exchange, body);
                Ok(received)
            }
            State::Streaming(exchange, Some(incoming)) => {
                let (received, body) = self.receive_body(incoming, bytes)?;
                self.state = State::Streaming(exchange, body);
                Ok(received)
            }
            other => {
                self.state = other;
                Ok(Received::End)
            }
        }
    }

    fn receive_raw(&mut self, bytes: &mut Vec<u8>) -> io::Result<Received> {
        match self.input.is_empty().then(|| self.read()) {
            Some(Ok(0)) => return Ok(Received::Nothing),
            Some(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.has_received_all = true;
                return Ok(Received::End);
            }
            Some(Err(error)) => return Err(error),
            Some(Ok(_)) | None => {}
        }
        bytes.append(&mut self.input);
        Ok(Received::Bytes)
    }

    /// Returns the rest of the body, if it is not complete, beside the result.
    fn receive_body(
        &mut self,
        mut incoming: Box<Incoming>,
        bytes: &mut Vec<u8>,
    ) -> io::Result<(Received, Option<Box<Incoming>>)> {
        if incoming.take_wants_continue() {
            self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        loop {
            let before = bytes.len();
            match incoming.receive_part(&mut self.input, bytes) {
                Err(_) => return Err(io::ErrorKind::InvalidData.into()),
                Ok(true) if bytes.len() == before => return Ok((Received::End, None)),
                Ok(_) if bytes.len() > before => return Ok((Received::Bytes, Some(incoming))),
                Ok(_) => {}
            }
            if self.read()? == 0 {
                return Ok((Received::Nothing, Some(incoming)));
            }
        }
    }
}
