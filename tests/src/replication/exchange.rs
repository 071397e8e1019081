//! One client's connection to a recorder: forwards a request and its answer, one after the other, and does to them what
//! the fault of a rule says.
//!
//! Called by the recorder, with a thread for each connection.

use super::fault::{Fault, Moment, Reply, Rules};
use super::message::{Body, Head, Wire};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A recorded request. Its numbers grow while the request is under way.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// When its head arrived, since the recorder's start.
    pub at: Duration,
    /// Method, such as GET or HEAD.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers; their names are in lower case.
    pub headers: BTreeMap<String, String>,
    /// Bytes of the body that were forwarded to the server.
    pub body_bytes: u64,
    /// Status of the answer that the client got; 0 if it has got none.
    pub status: u16,
    /// Headers of that answer; their names are in lower case.
    pub answer_headers: BTreeMap<String, String>,
    /// Bytes of the answer's body that were forwarded to the client.
    pub answer_bytes: u64,
    /// Whether a fault happened to this request.
    pub is_faulty: bool,
}

impl Request {
    /// `METHOD /path?query`.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// What all connections of a recorder share.
#[derive(Debug)]
pub(super) struct Ledger {
    /// When the recorder was started.
    pub since: Instant,
    /// Whether TLS ends in front of the recorder, so that the server must be told that its URLs begin with `https:`.
    pub is_behind_tls: bool,
    /// The requests so far.
    pub requests: Mutex<Vec<Request>>,
    /// The rules for faults.
    pub rules: Mutex<Rules>,
    /// Number of faults that have happened.
    pub faults: AtomicUsize,
}

/// Locks a mutex of the recorder.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread of the recorder panics")
}

/// Makes close(2) send RST instead of FIN. socket(7).
pub(super) fn reset(stream: &TcpStream) {
    let _ = setsockopt(stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
}

/// How a connection goes on after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// With the next request.
    Next,
    /// It is closed in order.
    Close,
    /// It is reset.
    Reset,
    /// It stays open, and nothing is sent or read.
    Stall,
}

/// One client's connection and the one to the server.
pub(super) struct Conversation<'a> {
    ledger: &'a Ledger,
    client: Wire<&'a TcpStream>,
    server: Wire<&'a TcpStream>,
    /// Index of the request under way.
    nth: usize,
    /// Number of the rule that applies to it.
    rule: Option<usize>,
}

impl<'a> Conversation<'a> {
    /// Begins to serve a client with a connection to the server.
    pub fn new(ledger: &'a Ledger, client: &'a TcpStream, server: &'a TcpStream) -> Self {
        Conversation { ledger, client: Wire::new(client), server: Wire::new(server), nth: 0, rule: None }
    }

    /// Serves requests until one side ends, or a fault ends the connection.
    ///
    /// # Errors A connection fails, or a peer does not speak HTTP.
    pub fn converse(&mut self) -> io::Result<After> {
        loop {
            if !self.client.has_bytes() && self.wait()?.1 {
                // The server closes a connection that was idle for too long.
                return Ok(After::Close);
            }
            let Some(head) = self.client.head()? else { return Ok(After::Close) };
            let after = self.exchange(head)?;
            if after != After::Next {
                return Ok(after);
            }
        }
    }

    /// Waits until client or server have sent something; whether the client has, and whether the server has.
    fn wait(&mut self) -> io::Result<(bool, bool)> {
        if self.client.has_bytes() || self.server.has_bytes() {
            return Ok((self.client.has_bytes(), self.server.has_bytes()));
        }
        let mut fds = [&self.client, &self.server]
            .map(|wire| PollFd::new(wire.stream_ref().as_fd(), PollFlags::POLLIN));
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => {}
                polled => {
                    polled?;
                    let [client, server] = fds.map(|fd| fd.any().unwrap_or(true));
                    return Ok((client, server));
                }
            }
        }
    }

    fn update(&self, change: impl FnOnce(&mut Request)) {
        // The test may have forgotten the request meanwhile.
        if let Some(request) = lock(&self.ledger.requests).get_mut(self.nth) {
            change(request);
        }
    }

    /// Marks the fault as having happened.
    fn happened(&self) {
        self.update(|request| request.is_faulty = true);
        self.ledger.faults.fetch_add(1, Ordering::SeqCst);
    }

    fn exchange(&mut self, mut head: Head) -> io::Result<After> {
        let (method, target) = (head.word(0).to_owned(), head.word(1).to_owned());
        self.nth = {
            let mut requests = lock(&self.ledger.requests);
            let headers = lower(&head);
            requests.push(Request {
                at: self.ledger.since.elapsed(),
                method: method.clone(),
                target: target.clone(),
                headers,
                ..Request::default()
            });
            requests.len() - 1
        };
        let chosen = lock(&self.ledger.rules).fault_of(&format!("{method} {target}"));
        let (rule, fault) = chosen.map_or((None, None), |(rule, fault)| (Some(rule), Some(fault)));
        self.rule = rule;
        let mut keeps_open = head.keeps_open();
        if head.header("expect").is_some() {
            head.remove("expect");
            self.client.stream().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = head.request_body();
        match &fault {
            Some(Fault::Refuse) => {
                self.happened();
                return Ok(After::Reset);
            }
            Some(Fault::Answer(reply)) => {
                self.happened();
                self.discard_request(body)?;
                self.reply(reply, &method, !keeps_open)?;
                return Ok(if keeps_open { After::Next } else { After::Close });
            }
            Some(Fault::StripQuery) => {
                self.happened();
                let path = target.split('?').next().unwrap_or_default();
                head.line = head.line.replacen(&target, path, 1);
            }
            Some(Fault::StripHeader(name)) => {
                self.happened();
                head.remove(name);
            }
            Some(Fault::Slow(_)) => self.happened(),
            Some(Fault::Call(Moment::Head, call)) => {
                self.happened();
                if !call() {
                    return Ok(After::Reset);
                }
            }
            _ => {}
        }
        if self.ledger.is_behind_tls {
            head.headers.push(("X-Forwarded-Proto".to_owned(), "https".to_owned()));
        }
        self.server.stream().write_all(&head.encode())?;
        match self.forward_request(body, fault.as_ref())? {
            Sent::Whole => {}
            // What is left of the request stays unread, so the connection cannot be used again.
            Sent::AnsweredEarly => keeps_open = false,
            Sent::Ended(after) => return Ok(after),
        }
        match &fault {
            Some(Fault::LoseAnswer) => {
                // The answer's head shows that the server has done its work.
                self.server.head()?;
                self.happened();
                return Ok(After::Reset);
            }
            Some(Fault::Replace(reply)) => {
                self.happened();
                let answer = self.server.head()?.ok_or(ErrorKind::UnexpectedEof)?;
                let mut body = answer.answer_body(&method);
                while self.server.piece(&mut body, u64::MAX)?.is_some() {}
                self.reply(reply, &method, !keeps_open)?;
                return Ok(if keeps_open { After::Next } else { After::Close });
            }
            _ => {}
        }
        let answer = loop {
            let answer = self.server.head()?.ok_or(ErrorKind::UnexpectedEof)?;
            if !answer.word(1).starts_with('1') {
                break answer;
            }
        };
        if let Some(Fault::Call(Moment::Answer, call)) = &fault {
            self.happened();
            if !call() {
                return Ok(After::Reset);
            }
        }
        let after = self.forward_answer(&answer, &method, fault.as_ref())?;
        Ok(match after {
            After::Next if !keeps_open || !answer.keeps_open() => After::Close,
            after => after,
        })
    }

    /// Whether the fault in a body happens now.
    fn claim(&self) -> bool {
        let is_due = self.rule.is_some_and(|rule| lock(&self.ledger.rules).claim(rule));
        if is_due {
            self.happened();
        }
        is_due
    }

    fn discard_request(&mut self, mut body: Body) -> io::Result<()> {
        while self.client.piece(&mut body, u64::MAX)?.is_some() {}
        Ok(())
    }

    fn reply(&mut self, reply: &Reply, method: &str, closes: bool) -> io::Result<()> {
        let bytes = reply.encode(method, closes);
        self.update(|request| request.status = reply.status);
        self.client.stream().write_all(&bytes)
    }

    fn forward_request(&mut self, mut body: Body, fault: Option<&Fault>) -> io::Result<Sent> {
        let limit = match fault {
            Some(
                Fault::CutRequest(at)
                | Fault::StallRequest(at)
                | Fault::AnswerAt(at, _)
                | Fault::Call(Moment::Body(at), _),
            ) => Some(*at),
            _ => None,
        };
        let (mut pace, mut sent, mut limit) = (Pace::of(fault), 0, limit);
        loop {
            if limit == Some(sent) && body != Body::Length(0) && body != Body::Trailers {
                limit = None;
                if !self.claim() {
                    continue;
                }
                match fault {
                    Some(Fault::CutRequest(_)) => {
                        reset(self.server.stream());
                        return Ok(Sent::Ended(After::Reset));
                    }
                    Some(Fault::StallRequest(_)) => return Ok(Sent::Ended(After::Stall)),
                    Some(Fault::AnswerAt(_, reply)) => {
                        let method = lock(&self.ledger.requests).get(self.nth).map(|r| r.method.clone());
                        self.reply(reply, &method.unwrap_or_default(), true)?;
                        return Ok(Sent::Ended(After::Close));
                    }
                    Some(Fault::Call(_, call)) if !call() => {
                        reset(self.server.stream());
                        return Ok(Sent::Ended(After::Reset));
                    }
                    _ => {}
                }
            }
            if body == Body::Length(0) {
                return Ok(Sent::Whole);
            }
            if self.wait()?.1 {
                return Ok(Sent::AnsweredEarly);
            }
            let most = limit.map_or(u64::MAX, |limit| limit - sent);
            let Some(piece) = self.client.piece(&mut body, most)? else { return Ok(Sent::Whole) };
            pace.wait_for(piece.content);
            if self.server.stream().write_all(&piece.raw).is_err() {
                // A server that refuses the rest of a body has often sent an answer first.
                return Ok(Sent::AnsweredEarly);
            }
            sent += piece.content as u64;
            self.update(|request| request.body_bytes += piece.content as u64);
        }
    }

    fn forward_answer(&mut self, answer: &Head, method: &str, fault: Option<&Fault>) -> io::Result<After> {
        let status = answer.word(1).parse().unwrap_or(0);
        self.update(|request| {
            request.status = status;
            request.answer_headers = lower(answer);
        });
        self.client.stream().write_all(&answer.encode())?;
        let mut body = answer.answer_body(method);
        let ends_with_connection = body == Body::UntilEnd;
        let mut limit = match fault {
            Some(Fault::CutAnswer(at) | Fault::StallAnswer(at)) => *at,
            _ => u64::MAX,
        };
        let (mut pace, mut sent) = (Pace::of(fault), 0);
        loop {
            if sent == limit && body != Body::Length(0) {
                if !self.claim() {
                    limit = u64::MAX;
                    continue;
                }
                return Ok(match fault {
                    Some(Fault::StallAnswer(_)) => After::Stall,
                    _ => After::Reset,
                });
            }
            let Some(mut piece) = self.server.piece(&mut body, limit - sent)? else { break };
            if let Some(Fault::Corrupt(at)) = fault
                && (sent..sent + piece.content as u64).contains(at)
                && self.claim()
            {
                piece.raw[(at - sent) as usize] ^= 1;
            }
            pace.wait_for(piece.content);
            self.client.stream().write_all(&piece.raw)?;
            sent += piece.content as u64;
            self.update(|request| request.answer_bytes += piece.content as u64);
        }
        Ok(if ends_with_connection { After::Close } else { After::Next })
    }
}

/// How the forwarding of a request ended.
enum Sent {
    Whole,
    AnsweredEarly,
    Ended(After),
}

/// The pace at which bytes pass.
struct Pace {
    rate: Option<u64>,
    since: Instant,
    passed: u64,
}

impl Pace {
    fn of(fault: Option<&Fault>) -> Self {
        let rate = match fault {
            Some(Fault::Slow(rate)) => Some((*rate).max(1)),
            _ => None,
        };
        Pace { rate, since: Instant::now(), passed: 0 }
    }

    fn wait_for(&mut self, bytes: usize) {
        self.passed += bytes as u64;
        if let Some(rate) = self.rate {
            let due = Duration::from_secs_f64(self.passed as f64 / rate as f64);
            // The delay is the fault itself; no test waits for it.
            std::thread::sleep(due.saturating_sub(self.since.elapsed()));
        }
    }
}

fn lower(head: &Head) -> BTreeMap<String, String> {
    head.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect()
}
