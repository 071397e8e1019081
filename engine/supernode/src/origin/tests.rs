//! Requests to a small origin in this process.

mod trust;

use super::*;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request that the origin has received.
#[derive(Clone, Debug)]
struct Received {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    /// The number of its connection.
    connection: usize,
}

impl Received {
    fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

type Handler = dyn Fn(&Received, &mut TcpStream) + Send + Sync;

/// An origin that answers by a function, and remembers the requests.
struct Origin {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Origin {
    fn start(handler: impl Fn(&Received, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (received, handler) = (Arc::new(Mutex::new(Vec::new())), Arc::new(handler) as Arc<Handler>);
        let origin = Origin { address, received: Arc::clone(&received) };
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let (received, handler) = (Arc::clone(&received), Arc::clone(&handler));
                thread::spawn(move || {
                    serve(&mut stream.expect("a connection"), connection, &received, &handler)
                });
            }
        });
        origin
    }

    /// An origin that gives one answer to all requests.
    fn fixed(answer: impl Into<String>) -> Self {
        let answer = answer.into();
        Origin::start(move |_, stream| drop(stream.write_all(answer.as_bytes())))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn request(&self) -> Request {
        request(&self.url("/file?sig=secret"))
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().expect("no panic").clone()
    }

    fn methods(&self) -> String {
        let words = |r: Received| match r.get("range") {
            Some(range) => format!("{} {range}", r.method),
            None => r.method,
        };
        self.received().into_iter().map(words).collect::<Vec<_>>().join(", ")
    }
}

fn serve(stream: &mut TcpStream, connection: usize, received: &Mutex<Vec<Received>>, handler: &Arc<Handler>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
    let mut line = move || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        Some(line.trim_end().to_owned())
    };
    while let Some(first) = line() {
        let mut words = first.split(' ').map(str::to_owned);
        let (method, path) = (words.next().expect("a method"), words.next().expect("a path"));
        let headers = std::iter::from_fn(&mut line).take_while(|line| !line.is_empty());
        let headers = headers.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        let request = Received { method, path, headers: headers.collect(), connection };
        received.lock().expect("no panic").push(request.clone());
        handler(&request, stream);
    }
}

/// A well-behaved origin with one file, whose `ETag` is `"1"`.
fn file_server(content: &'static [u8]) -> Origin {
    Origin::start(move |request, stream| {
        let common = "ETag: \"1\"\r\nAccept-Ranges: bytes\r\n";
        let is_current = request.get("if-range").is_none_or(|etag| etag == "\"1\"");
        let range =
            request.get("range").and_then(|range| range.strip_prefix("bytes=")).filter(|_| is_current);
        let head_and_body = match range {
            _ if request.get("if-none-match") == Some("\"1\"") => {
                (format!("HTTP/1.1 304 Not Modified\r\n{common}\r\n"), &[][..])
            }
            Some(range) => {
                let (first, last) = range.split_once('-').expect("a range");
                let first: usize = first.parse().expect("a number");
                let end = last.parse().map_or(content.len(), |last: usize| (last + 1).min(content.len()));
                if first >= content.len() {
                    let total = content.len();
                    let head = format!(
                        "HTTP/1.1 416 No\r\nContent-Range: bytes */{total}\r\nContent-Length: 0\r\n\r\n"
                    );
                    (head, &[][..])
                } else {
                    let body = &content[first..end];
                    let range = format!("bytes {first}-{}/{}", end - 1, content.len());
                    let head = format!(
                        "HTTP/1.1 206 Part\r\n{common}Content-Range: {range}\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    );
                    (head, body)
                }
            }
            None => {
                (format!("HTTP/1.1 200 OK\r\n{common}Content-Length: {}\r\n\r\n", content.len()), content)
            }
        };
        let (head, body) = head_and_body;
        let body = if request.method == "HEAD" { &[][..] } else { body };
        let _ = stream.write_all(&[head.as_bytes(), body].concat());
    })
}

fn request(url: &str) -> Request {
    Request::new(url, [("Authorization", "Bearer x"), ("User-Agent", "dfget/1.0.6")]).expect("a request")
}

fn origins(allowed: &[&str]) -> Origins {
    let allowed = allowed.iter().map(|text| parse_allowed(text).expect("an origin")).collect();
    Origins::new(OriginSettings { allowed, ..OriginSettings::default() })
}

fn probe(origin: &Origin) -> Result<ProbeResult, OriginError> {
    origins(&["127.0.0.0/8"]).probe(&origin.request(), None, &Cancel::default())
}

fn etag(etag: &str) -> Validators {
    Validators { etag: Some(etag.to_owned()), last_modified: None }
}

fn found(length: Option<u64>, takes_ranges: bool, validators: Validators) -> ProbeResult {
    ProbeResult::Found(OriginFile { length, takes_ranges, validators })
}

/// Fetches a part, and reads it: the offset, the length of the file, the bytes.
fn fetch(
    origin: &Origin,
    from: u64,
    to: Option<u64>,
    known: &Validators,
) -> Result<(u64, Option<u64>, String), OriginError> {
    let cancel = Cancel::default();
    let mut body = origins(&["127.0.0.0/8"]).fetch(&origin.request(), from, to, known, &cancel)?;
    let mut bytes = String::new();
    body.reader.read_to_string(&mut bytes).expect("a whole body");
    Ok((body.starts, body.length, bytes))
}

#[test]
fn a_head_says_all() {
    let origin = file_server(b"0123456789");
    assert_eq!(probe(&origin).expect("found"), found(Some(10), true, etag("\"1\"")));
    assert_eq!(origin.methods(), "HEAD");
    let head = &origin.received()[0];
    assert_eq!(head.path, "/file?sig=secret");
    assert_eq!(head.get("authorization"), Some("Bearer x"));
    assert_eq!(head.get("user-agent"), Some("dfget/1.0.6"));
    assert_eq!(head.get("accept-encoding"), Some("identity"));
}

#[test]
fn a_known_version_is_unchanged() {
    let origin = file_server(b"0123456789");
    let probe = |known: &Validators| {
        origins(&["127.0.0.1"]).probe(&origin.request(), Some(known), &Cancel::default()).expect("found")
    };
    assert_eq!(probe(&etag("\"1\"")), ProbeResult::Unchanged);
    assert_eq!(probe(&etag("\"2\"")), found(Some(10), true, etag("\"1\"")));
    assert_eq!(probe(&Validators::default()), found(Some(10), true, etag("\"1\"")));
    assert_eq!(origin.methods(), "HEAD, HEAD, HEAD");
    // This origin ignores conditions.
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let answer = format!(
        "HTTP/1.1 200 OK\r\nLast-Modified: {date}\r\nAccept-Ranges: bytes\r\nContent-Length: 5\r\n\r\n"
    );
    let origin = Origin::fixed(answer);
    let known = Validators { etag: None, last_modified: Some(date.to_owned()) };
    let probed = origins(&["127.0.0.1"]).probe(&origin.request(), Some(&known), &Cancel::default());
    assert_eq!(probed.expect("found"), ProbeResult::Unchanged);
    assert_eq!(origin.received()[0].get("if-modified-since"), Some(date));
}

#[test]
fn where_a_head_is_refused_the_first_byte_is_asked_for() {
    for status in ["403 No", "405 No", "400 No", "501 No", "500 No"] {
        let origin = Origin::start(move |request, stream| {
            let answer = match request.method.as_str() {
                "HEAD" => format!("HTTP/1.1 {status}\r\nContent-Length: 3\r\n\r\n"),
                _ => "HTTP/1.1 206 Part\r\nETag: \"1\"\r\nContent-Range: bytes 0-0/77\r\nContent-Length: 1\r\n\r\nx"
                    .to_owned(),
            };
            let _ = stream.write_all(answer.as_bytes());
        });
        assert_eq!(probe(&origin).expect("found"), found(Some(77), true, etag("\"1\"")), "{status}");
        assert_eq!(origin.methods(), "HEAD, GET bytes=0-0");
    }
}

#[test]
fn a_head_that_says_too_little_is_followed_by_a_get() {
    for (head, get, expected) in [
        // Neither a length nor ranges; the length is unknown for ever.
        (
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            found(None, false, Validators::default()),
        ),
        // A server that states the length 0 for each HEAD.
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nAccept-Ranges: bytes\r\n\r\n",
            "HTTP/1.1 206 Part\r\nContent-Range: bytes 0-0/9\r\nContent-Length: 1\r\n\r\nx",
            found(Some(9), true, Validators::default()),
        ),
        // A server that does not serve ranges, and does not say so.
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12345",
            found(Some(5), false, Validators::default()),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 206 Part\r\nContent-Range: bytes 0-0/*\r\nContent-Length: 1\r\n\r\nx",
            found(None, true, Validators::default()),
        ),
        // An empty file.
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 416 No\r\nContent-Range: bytes */0\r\nContent-Length: 0\r\n\r\n",
            found(Some(0), true, Validators::default()),
        ),
    ] {
        let origin = Origin::start(move |request, stream| {
            let answer = if request.method == "HEAD" { head } else { get };
            let _ = stream.write_all(answer.as_bytes());
        });
        assert_eq!(probe(&origin).expect("found"), expected);
        assert_eq!(origin.methods(), "HEAD, GET bytes=0-0");
    }
}

#[test]
fn a_server_that_dislikes_ranges_gets_a_plain_get() {
    for refusal in ["400 No", "405 No", "416 No", "501 No", "206 Part\r\nContent-Range: bytes 7-8/9"] {
        let origin = Origin::start(move |request, stream| {
            let answer = match (request.method.as_str(), request.get("range")) {
                ("HEAD", _) => "HTTP/1.1 405 No\r\n\r\n".to_owned(),
                (_, Some(_)) => format!("HTTP/1.1 {refusal}\r\nContent-Length: 2\r\n\r\nno"),
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
            };
            let _ = stream.write_all(answer.as_bytes());
        });
        assert_eq!(probe(&origin).expect("found"), found(Some(0), false, Validators::default()), "{refusal}");
        assert_eq!(origin.methods(), "HEAD, GET bytes=0-0, GET");
    }
}

#[test]
fn refusals_are_told_apart() {
    for (answer, methods) in [
        ("404 Not Found", "HEAD"),
        ("410 Gone", "HEAD"),
        ("401 No\r\nWWW-Authenticate: Bearer realm=\"x\"", "HEAD"),
        ("403 No", "HEAD, GET bytes=0-0"),
        ("503 Busy\r\nRetry-After: 7", "HEAD"),
        ("429 Busy", "HEAD"),
        ("302 Found", "HEAD"),
        ("304 Not Modified", "HEAD"),
        ("500 Oops", "HEAD, GET bytes=0-0"),
    ] {
        let origin = Origin::fixed(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n"));
        let error = probe(&origin).expect_err(answer);
        assert_eq!(origin.methods(), methods, "{answer}");
        let fetched = fetch(&origin, 5, None, &Validators::default()).expect_err(answer);
        for error in [error, fetched] {
            let is = match &error {
                OriginError::NotFound { .. } => answer.starts_with("404") || answer.starts_with("410"),
                OriginError::Denied { status, .. } => answer.starts_with(&status.to_string()),
                OriginError::Status { status, retry_after, .. } => {
                    assert_eq!(retry_after.is_some_and(|wait| wait.as_secs() == 7), *status == 503);
                    assert_eq!(error.is_temporary(), [429, 500, 503].contains(status));
                    answer.starts_with(&status.to_string())
                }
                _ => false,
            };
            assert!(is, "{answer}: {error:?}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}

#[test]
fn a_file_is_fetched_whole_or_in_part() {
    let (origin, none) = (file_server(b"0123456789"), Validators::default());
    for (from, to, expected, asked) in [
        (0, None, "0123456789", "GET"),
        (3, None, "3456789", "GET bytes=3-"),
        (0, Some(4), "0123", "GET bytes=0-3"),
        (3, Some(5), "34", "GET bytes=3-4"),
        (8, Some(99), "89", "GET bytes=8-98"),
    ] {
        let before = origin.received().len();
        assert_eq!(fetch(&origin, from, to, &none).expect("fetched"), (from, Some(10), expected.to_owned()));
        let received = &origin.received()[before..];
        assert_eq!(received.len(), 1);
        assert!(origin.methods().ends_with(asked), "{}", origin.methods());
    }
    assert!(
        matches!(fetch(&origin, 10, None, &none), Err(OriginError::Changed { .. })),
        "the file is shorter"
    );
}

#[test]
fn a_change_at_the_origin_is_noticed() {
    let origin = file_server(b"0123456789");
    let same = fetch(&origin, 5, None, &etag("\"1\"")).expect("fetched");
    assert_eq!(same, (5, Some(10), "56789".to_owned()));
    assert_eq!(origin.received()[0].get("if-range"), Some("\"1\""));
    for (from, to) in [(0, None), (5, None), (0, Some(5))] {
        let changed = fetch(&origin, from, to, &etag("\"2\"")).expect_err("another version");
        assert!(matches!(changed, OriginError::Changed { .. }), "{changed:?}");
        assert!(!changed.is_temporary());
    }
    let origin = Origin::fixed("HTTP/1.1 412 No\r\nContent-Length: 0\r\n\r\n");
    assert!(matches!(fetch(&origin, 1, None, &etag("\"1\"")), Err(OriginError::Changed { .. })));
}

#[test]
fn an_origin_without_ranges_begins_at_byte_zero() {
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: \"1\"\r\n\r\n0123456789");
    let fetched = fetch(&origin, 5, Some(7), &etag("\"1\"")).expect("fetched");
    assert_eq!(fetched, (0, Some(10), "0123456".to_owned()), "the reader stops where it was asked to");
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n012\r\n0\r\n\r\n");
    assert_eq!(fetch(&origin, 0, None, &etag("\"1\"")).expect("fetched"), (0, None, "012".to_owned()));
}

#[test]
fn the_file_of_a_request_with_a_range_is_that_part() {
    let origin = file_server(b"0123456789");
    let request = Request::new(&origin.url("/file"), [("Range", "bytes=4-7")]).expect("a request");
    let (origins, cancel) = (origins(&["127.0.0.1"]), Cancel::default());
    let probed = origins.probe(&request, None, &cancel).expect("found");
    assert_eq!(probed, found(Some(4), false, etag("\"1\"")));
    for from in [0, 2] {
        let mut body = origins.fetch(&request, from, None, &etag("\"1\""), &cancel).expect("fetched");
        let mut bytes = Vec::new();
        body.reader.read_to_end(&mut bytes).expect("read");
        assert_eq!((body.starts, body.length, bytes.as_slice()), (0, Some(4), &b"4567"[..]));
    }
    assert_eq!(origin.methods(), ["GET bytes=4-7"; 3].join(", "));
}

#[test]
fn a_part_that_was_not_requested_is_refused() {
    for range in ["bytes 4-9/10", "bytes */10", "bytes 5-4/10", "nonsense", "bytes 5-10/10"] {
        let origin = Origin::fixed(format!(
            "HTTP/1.1 206 Part\r\nContent-Range: {range}\r\nContent-Length: 5\r\n\r\n56789"
        ));
        let error = fetch(&origin, 5, None, &Validators::default()).expect_err(range);
        assert!(matches!(error, OriginError::Answer { .. }), "{range}: {error:?}");
    }
    let origin =
        Origin::fixed("HTTP/1.1 206 Part\r\nContent-Range: bytes 0-1/2\r\nContent-Length: 2\r\n\r\nab");
    let error = fetch(&origin, 0, None, &Validators::default()).expect_err("no range was requested");
    assert!(matches!(error, OriginError::Status { status: 206, .. }), "{error:?}");
}

#[test]
fn a_body_that_breaks_off_is_an_error() {
    for head in ["Content-Length: 10\r\n\r\n01234", "Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n0"]
    {
        let origin = Origin::start(move |_, stream| {
            let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes());
            let _ = stream.shutdown(std::net::Shutdown::Both);
        });
        let (cancel, mut bytes) = (Cancel::default(), Vec::new());
        let origins = origins(&["127.0.0.1"]);
        let fetched = origins.fetch(&origin.request(), 0, None, &Validators::default(), &cancel);
        let read = fetched.expect("begun").reader.read_to_end(&mut bytes);
        assert!(read.is_err() && bytes.starts_with(b"01234"), "{read:?} {bytes:?}");
    }
    let origin = Origin::start(|_, stream| drop(stream.shutdown(std::net::Shutdown::Both)));
    let error = probe(&origin).expect_err("no answer");
    assert!(matches!(error, OriginError::Transport { .. }) && error.is_temporary(), "{error:?}");
}

#[test]
fn a_file_that_is_too_long_is_refused() {
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 11\r\nAccept-Ranges: bytes\r\n\r\n");
    let allowed = vec![parse_allowed("127.0.0.1").expect("an origin")];
    let origins = Origins::new(OriginSettings { allowed, length_max: 10, ..OriginSettings::default() });
    let cancel = Cancel::default();
    let probed = origins.probe(&origin.request(), None, &cancel);
    assert!(matches!(probed, Err(OriginError::TooLarge { length: 11, .. })), "{probed:?}");
    let fetched = origins.fetch(&origin.request(), 0, None, &Validators::default(), &cancel);
    assert!(matches!(fetched.map(|_| ()), Err(OriginError::TooLarge { length: 11, .. })));
}
