//! The routes of the download port: pieces of files, wrapped or raw, by sendfile(2). docs/peers.md
//!
//! Only pieces that are on the disk are sent. A protected file, raw content, and with a shared secret any file,
//! needs a ticket in its path or query.

use super::core::Core;
use crate::origin::Validators;
use crate::piece::{HEAD, Pieces, TAIL, WRAPPING, head};
use crate::task_id::TaskId;
use crate::v1;
use ::http::{Method, Request, header};
use sampan_http::answer::{Answer, Body, Segment};
use sampan_http::range::Range;
use std::fs::File;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// A request for the content of a task.
struct ContentRequest<'a> {
    task: TaskId,
    ticket: Option<&'a str>,
    /// Whether the pieces are sent as Dragonfly's clients expect them, and not raw.
    is_wrapped: bool,
}

impl<'a> ContentRequest<'a> {
    /// Parses `/download/XXX/TASK[/TICKET]` or `/content/TASK`. `ticket` is the one in the query, if there is one.
    fn parse(path: &'a str, ticket: Option<&'a str>) -> Option<Self> {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let (id, ticket, is_wrapped) = match parts.as_slice() {
            ["download", _, id] => (id, ticket, true),
            ["download", _, id, ticket] => (id, Some(*ticket), true),
            ["content", id] => (id, ticket, false),
            _ => return None,
        };
        TaskId::parse(id).map(|task| ContentRequest { task, ticket, is_wrapped })
    }
}

impl Core {
    /// Answers a request to the download port.
    pub fn download(&mut self, request: &Request<&[u8]>, remote: IpAddr, clock: SystemTime) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Answer::empty(405);
        }
        let query = v1::parse_query(request.uri().query().unwrap_or_default());
        let wanted = ContentRequest::parse(request.uri().path(), query.get("ticket").map(String::as_str));
        let Some(wanted) = wanted else { return Answer::empty(404) };
        let Some(task) = self.managers.tasks.get(&wanted.task) else { return Answer::empty(404) };
        if task.is_protected || !wanted.is_wrapped || self.managers.settings.demands_tickets {
            let is_valid = |ticket: &str| self.managers.is_ticket_valid(ticket, task, remote, clock);
            if !wanted.ticket.is_some_and(is_valid) {
                return Answer::empty(403);
            }
        }
        let (pieces, known_length) = (task.pieces, task.length);
        let validators = match wanted.is_wrapped {
            true => Validators::default(),
            false => task.validators.clone(),
        };
        let Some(file) = self.managers.cdn.content(&wanted.task) else { return Answer::empty(404) };
        let is_ready = |piece: u32| self.managers.cdn.piece(&wanted.task, piece).is_some();
        // While the length is unknown, only full pieces are there.
        let length = known_length.unwrap_or(u64::MAX / 2);
        let size = if wanted.is_wrapped { wrapped_len(pieces, length) } else { length };
        let range = request.headers().get(header::RANGE).and_then(|value| value.to_str().ok());
        let (status, first, end) = match range.map_or(Range::All, |range| Range::parse(range, size)) {
            Range::All => (200, 0, size),
            Range::Part(first, last) => (206, first, last + 1),
            Range::Outside => return outside(known_length.map(|_| size)),
        };
        let body = match wanted.is_wrapped {
            true => wrapped(&file, pieces, length, first, end, &is_ready),
            false => raw(&file, pieces, first, end, &is_ready),
        };
        let Some(body) = body else { return outside(known_length.map(|_| size)) };
        if *request.method() == Method::GET {
            self.managers.metrics.pieces_sent_bytes += body.len();
        }
        let mut answer = Answer::new(status, "application/octet-stream", body);
        answer.headers.push(("accept-ranges", "bytes".to_owned()));
        if status == 206 {
            let total = known_length.map_or("*".to_owned(), |_| size.to_string());
            answer.headers.push(("content-range", format!("bytes {first}-{}/{total}", end - 1)));
        }
        // By these a reader notices that the file has changed between two requests.
        answer.headers.extend(validators.etag.map(|etag| ("etag", etag)));
        answer.headers.extend(validators.last_modified.map(|date| ("last-modified", date)));
        answer
    }
}

/// The answer to a request for bytes that are not there, of a file of `size` bytes.
fn outside(size: Option<u64>) -> Answer {
    let mut answer = Answer::empty(416);
    answer.headers.extend(size.map(|size| ("content-range", format!("bytes */{size}"))));
    answer
}

fn wrapped_len(pieces: Pieces, length: u64) -> u64 {
    let full = length / pieces.content();
    let rest = length % pieces.content();
    let last = if rest > 0 || full == 0 { rest + WRAPPING } else { 0 };
    full.saturating_mul(pieces.size).saturating_add(last)
}

/// The wrapped bytes from `first` to before `end`; `None` if a piece of them is not ready.
fn wrapped(
    file: &Arc<File>,
    pieces: Pieces,
    length: u64,
    first: u64,
    end: u64,
    is_ready: &dyn Fn(u32) -> bool,
) -> Option<Body> {
    let mut segments = Vec::new();
    let mut at = first;
    while at < end {
        let number = u32::try_from(at / pieces.size).ok()?;
        if !is_ready(number) {
            return None;
        }
        let start = u64::from(number) * pieces.size;
        let content = pieces.content_len(number, length);
        let stop = end.min(start + content + WRAPPING);
        // The parts of this piece in order: head, content, tail. Each is cut to what is asked for.
        let cut = |from: u64, to: u64| {
            (at.max(start + from) - start - from, stop.min(start + to).saturating_sub(start + from))
        };
        let (from, to) = cut(0, HEAD);
        if from < to {
            let bytes = head(content, pieces.size);
            segments.push(Segment::Bytes(
                bytes.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?)?.to_vec(),
            ));
        }
        let (from, to) = cut(HEAD, HEAD + content);
        if from < to {
            let file = Arc::clone(file);
            segments.push(Segment::File { file, offset: pieces.offset(number) + from, len: to - from });
        }
        let (from, to) = cut(HEAD + content, WRAPPING + content);
        if from < to {
            segments.push(Segment::Bytes(vec![TAIL]));
        }
        at = stop;
    }
    Some(segments.into())
}

/// The bytes of the content from `first` to before `end`; `None` if a piece of them is not ready.
fn raw(
    file: &Arc<File>,
    pieces: Pieces,
    first: u64,
    end: u64,
    is_ready: &dyn Fn(u32) -> bool,
) -> Option<Body> {
    let last = end.checked_sub(1)?;
    let numbers =
        u32::try_from(first / pieces.content()).ok()?..=u32::try_from(last / pieces.content()).ok()?;
    numbers.into_iter().all(is_ready).then(|| Body::file(Arc::clone(file), first, end - first))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// What a client would get: the bytes of segments, with the offset for each byte of the file.
    fn describe(body: Option<Body>) -> Vec<String> {
        let segments = body.expect("ready").into_segments();
        let text = |segment: &Segment| match segment {
            Segment::Bytes(bytes) => format!("{bytes:02x?}"),
            Segment::File { offset, len, .. } => format!("{offset}+{len}"),
        };
        segments.iter().map(text).collect()
    }

    #[test]
    fn a_wrapped_range_is_head_content_and_tail() {
        let (length, file) = (20 * MIB, Arc::new(tempfile::tempfile().expect("a file")));
        let pieces = Pieces::of(Some(length), true);
        let size = wrapped_len(pieces, length);
        assert_eq!(size, 20_971_550);
        let get = |first, end| describe(wrapped(&file, pieces, length, first, end, &|_| true));
        assert_eq!(get(0, 4 * MIB), ["[04, 3f, ff, fb]", "0+4194299", "[7f]"]);
        assert_eq!(get(5 * 4 * MIB, size), ["[04, 00, 00, 19]", "20971495+25", "[7f]"]);
        assert_eq!(get(2, 6), ["[ff, fb]", "0+2"]);
        assert_eq!(get(4 * MIB - 2, 4 * MIB + 5), ["4194298+1", "[7f]", "[04, 3f, ff, fb]", "4194299+1"]);
        assert_eq!(get(size - 1, size), ["[7f]"]);
        assert!(wrapped(&file, pieces, length, 0, size, &|piece| piece != 3).is_none());
        let whole = wrapped(&file, pieces, length, 0, size, &|_| true).expect("ready");
        assert_eq!(whole.len(), size);
        assert_eq!(wrapped_len(pieces, 0), 5);
        assert_eq!(describe(wrapped(&file, pieces, 0, 0, 5, &|_| true)), ["[04, 00, 00, 00]", "[7f]"]);
    }

    #[test]
    fn a_raw_range_needs_all_its_pieces() {
        let file = Arc::new(tempfile::tempfile().expect("a file"));
        let pieces = Pieces::of(Some(20 * MIB), true);
        assert_eq!(describe(raw(&file, pieces, 7, 4_194_299, &|piece| piece == 0)), ["7+4194292"]);
        assert!(raw(&file, pieces, 7, 4_194_300, &|piece| piece == 0).is_none());
        assert!(raw(&file, pieces, 0, 0, &|_| true).is_none());
    }
}
