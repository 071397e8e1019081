use super::*;
use crate::answer::Body;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

/// A stream in memory: the test gives what can be read, and takes what was written.
#[derive(Default)]
pub(super) struct Pipe {
    pub(super) incoming: VecDeque<u8>,
    pub(super) is_closed: bool,
    pub(super) outgoing: Vec<u8>,
    /// Number of bytes that the peer still takes.
    pub(super) room: usize,
}

impl Read for Pipe {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self.incoming.read(bytes)? {
            0 if !self.is_closed => Err(io::ErrorKind::WouldBlock.into()),
            len => Ok(len),
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(self.room);
        if len == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.room -= len;
        self.outgoing.extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Pipe {
    fn send_file(&mut self, file: &File, offset: u64, count: u64) -> io::Result<u64> {
        let mut bytes = vec![0; count as usize];
        let len = file.read_at(&mut bytes, offset)?;
        if len == 0 { Ok(0) } else { Ok(self.write(&bytes[..len])? as u64) }
    }

    fn end_sending(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection, and what its server was asked.
pub(super) struct Server {
    pub(super) connection: Connection<Pipe>,
    pub(super) asked: Vec<String>,
}

impl Server {
    pub(super) fn new(limits: Limits) -> Self {
        let pipe = Pipe { room: usize::MAX, ..Pipe::default() };
        Server { connection: Connection::new(pipe, limits), asked: Vec::new() }
    }

    /// The peer sends `bytes`, and the connection has its turns until it waits. The path decides about the answer.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> io::Result<WaitsFor> {
        self.connection.stream().incoming.extend(bytes);
        self.connection.mark_ready(true, true, false);
        self.turns()
    }

    pub(super) fn turns(&mut self) -> io::Result<WaitsFor> {
        loop {
            let asked = &mut self.asked;
            let wait = self.connection.step(&mut Unlimited, &mut |request| {
                let body = String::from_utf8_lossy(request.body()).into_owned();
                asked.push(format!("{} {} {body}", request.method(), request.uri().path()));
                match request.uri().path() {
                    path if path.starts_with("/later") => Reply::Later,
                    "/large" => Reply::Now(Answer::new(200, "text/plain", vec![b'x'; 3_000_000])),
                    path => Reply::Now(Answer::new(200, "text/plain", path)),
                }
            })?;
            if wait != WaitsFor::Turn {
                return Ok(wait);
            }
        }
    }

    pub(super) fn output(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.connection.stream().outgoing)).expect("text")
    }
}

pub(super) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\ncontent-type: text/plain\r\n\r\n{body}", body.len())
}

fn refused(text: &str, limits: Limits) -> String {
    let mut server = Server::new(limits);
    server.feed(text.as_bytes()).expect("it lingers");
    assert_eq!(server.connection.phase(), Phase::Lingering);
    assert!(server.asked.is_empty(), "{:?}", server.asked);
    let output = server.output();
    assert!(output.ends_with("connection: close\r\n\r\n"), "{output}");
    output.lines().next().expect("a status").to_owned()
}

#[test]
fn a_small_answer_does_not_wait_for_the_peer_to_acknowledge_its_head() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let _peer = std::net::TcpStream::connect(listener.local_addr().expect("its address")).expect("connected");
    let (stream, _) = listener.accept().expect("accepted");
    stream.set_nonblocking(true).expect("set");
    let mut connection = Connection::new(TcpStream::from_std(stream), Limits::READ_ONLY);
    assert!(connection.stream().nodelay().expect("asked"));
}

#[test]
fn requests_with_bodies_are_answered_however_they_are_cut() {
    let text = "\r\nPOST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\n\r\n\
        PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nsum: 1\r\n\r\n\
        POST /d HTTP/1.1\r\n\r\nDELETE /e HTTP/1.1\r\nContent-Length: 1\r\n\r\nz\
        POST /f HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    for piece in [1, 2, 3, 7, 50, text.len()] {
        let mut server = Server::new(Limits::with_bodies(5));
        for part in text.as_bytes().chunks(piece) {
            assert_eq!(server.feed(part).expect("open"), WaitsFor::Peer);
        }
        assert_eq!(
            server.asked,
            ["POST /a abc", "GET /b ", "PUT /c hello", "POST /d ", "DELETE /e z", "POST /f "]
        );
        assert_eq!(server.output(), ["/a", "/b", "/c", "/d", "/e", "/f"].map(ok).concat());
        assert_eq!(server.connection.phase(), Phase::Idle);
    }
}

#[test]
fn a_body_that_is_too_long_is_refused_before_it_arrives() {
    let limits = Limits::with_bodies(5);
    let too_large = "HTTP/1.1 413 Payload Too Large";
    for text in [
        "POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n",
        "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 6\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n",
    ] {
        assert_eq!(refused(text, limits), too_large, "{text}");
    }
    assert_eq!(refused("GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\na", Limits::READ_ONLY), too_large);
}

#[test]
fn a_request_whose_end_is_doubtful_is_refused() {
    let bad = "HTTP/1.1 400 Bad Request";
    for text in [
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        "POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\na",
        "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\na",
        "POST / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\na",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        "\x16\x03\x01\n",
        "GET / HTTP/1.1\r\nbad header\r\n\r\n",
    ] {
        assert_eq!(refused(text, Limits::with_bodies(100)), bad, "{text}");
    }
    let gzip = "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n";
    assert_eq!(refused(gzip, Limits::with_bodies(100)), "HTTP/1.1 501 Not Implemented");
    let endless = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;{}", "x".repeat(2000));
    assert_eq!(refused(&endless, Limits::with_bodies(100)), bad);
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    let long = format!("GET / HTTP/1.1\r\na: {}", "x".repeat(16 << 10));
    let too_large = "HTTP/1.1 431 Request Header Fields Too Large";
    assert_eq!(refused(&long, Limits::READ_ONLY), too_large);
    assert_eq!(refused(&format!("{long}\r\n\r\n"), Limits::READ_ONLY), too_large);
}

#[test]
fn a_read_only_server_refuses_other_methods_and_says_which_it_takes() {
    let mut server = Server::new(Limits::READ_ONLY);
    server.feed(b"PUT / HTTP/1.1\r\nContent-Length: 9\r\n\r\n").expect("it lingers");
    let output = server.output();
    assert!(output.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{output}");
    assert!(output.contains("allow: GET, HEAD\r\n"), "{output}");
}

#[test]
fn a_client_that_waits_for_a_word_gets_it_before_its_body() {
    let mut server = Server::new(Limits::with_bodies(5));
    server.feed(b"POST /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").expect("open");
    assert_eq!(server.output(), "HTTP/1.1 100 Continue\r\n\r\n");
    server.feed(b"h").expect("open");
    assert_eq!(server.output(), "");
    server.feed(b"i").expect("open");
    assert_eq!(server.output(), ok("/a"));
    assert_eq!(server.asked, ["POST /a hi"]);
}

#[test]
fn the_answer_to_head_has_a_length_and_no_body() {
    let mut server = Server::new(Limits::with_bodies(5));
    // The body of a HEAD is no request.
    server
        .feed(b"HEAD /large HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\n\r\n")
        .expect("open");
    let large = "HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\ncontent-type: text/plain\r\n\r\n";
    assert_eq!(server.output(), format!("{large}{}", ok("/b")));
}

#[test]
fn a_connection_ends_when_the_client_wants_it() {
    for (text, stays) in [
        ("GET /a HTTP/1.1\r\nConnection: Close\r\n\r\n", false),
        ("GET /a HTTP/1.0\r\n\r\n", false),
        ("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
    ] {
        let mut server = Server::new(Limits::READ_ONLY);
        server.feed(text.as_bytes()).expect("open");
        let word = if stays { "connection: keep-alive" } else { "connection: close" };
        assert!(server.output().contains(word), "{text}");
        assert_eq!(server.connection.phase(), if stays { Phase::Idle } else { Phase::Lingering });
        server.connection.stream().is_closed = true;
        assert!(server.feed(b"").is_err());
    }
}

#[test]
fn a_late_answer_holds_back_the_requests_behind_it() {
    let mut server = Server::new(Limits::READ_ONLY);
    server.connection.answer(Answer::empty(500));
    let text = b"GET /later HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n";
    assert_eq!(server.feed(text).expect("open"), WaitsFor::Answer);
    assert!(server.connection.is_waiting());
    assert_eq!(server.feed(b"GET /c HTTP/1.1\r\n\r\n").expect("open"), WaitsFor::Answer);
    assert_eq!((server.asked.len(), server.output().as_str()), (1, ""));
    server.connection.answer(Answer::new(200, "text/plain", "now"));
    server.connection.answer(Answer::new(200, "text/plain", "once more"));
    assert_eq!(server.turns().expect("open"), WaitsFor::Peer);
    assert_eq!(server.output(), ["now", "/b", "/c"].map(ok).concat());
}

#[test]
fn a_peer_that_hangs_up_while_it_waits_is_noticed() {
    let mut server = Server::new(Limits::READ_ONLY);
    server.feed(b"GET /later HTTP/1.1\r\n\r\n").expect("open");
    server.connection.mark_ready(false, false, true);
    assert_eq!(server.turns().expect_err("over").kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn the_segments_of_a_body_are_sent_in_order_to_a_slow_peer() {
    let mut file = tempfile::tempfile().expect("a file");
    let content: Vec<u8> = (0..600_000_u32).map(|n| (n % 251) as u8).collect();
    file.write_all(&content).expect("written");
    let part = Segment::File { file: Arc::new(file), offset: 1000, len: 500_000 };
    let body = vec![
        Segment::Bytes(vec![4, 3, 2, 1]),
        part,
        Segment::Bytes(vec![0x7f]),
        Segment::Bytes(vec![9; 20_000]),
    ];
    let expected = [&[4, 3, 2, 1], &content[1000..501_000], &[0x7f], &[9; 20_000]].concat();
    let mut server = Server::new(Limits::READ_ONLY);
    server.connection.stream().room = 0;
    server.feed(b"GET /later HTTP/1.1\r\n\r\n").expect("open");
    server.connection.answer(Answer { status: 206, headers: Vec::new(), body: body.into() });
    while server.connection.phase() != Phase::Idle {
        assert_eq!(server.turns().expect("open"), WaitsFor::Peer);
        server.connection.stream().room = 777;
        server.connection.mark_ready(false, true, false);
    }
    let output = std::mem::take(&mut server.connection.stream().outgoing);
    let head = b"HTTP/1.1 206 Partial Content\r\ncontent-length: 520005\r\n\r\n";
    assert!(output.starts_with(head));
    assert!(output[head.len()..] == expected);
}

#[test]
fn a_file_that_was_truncated_ends_the_connection() {
    let file = Arc::new(tempfile::tempfile().expect("a file"));
    let mut server = Server::new(Limits::READ_ONLY);
    server.feed(b"GET /later HTTP/1.1\r\n\r\n").expect("open");
    server.connection.answer(Answer { status: 200, headers: Vec::new(), body: Body::file(file, 0, 5) });
    assert_eq!(server.turns().expect_err("over").kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_peer_that_sends_or_takes_without_end_leaves_turns_to_others() {
    let mut server = Server::new(Limits::READ_ONLY);
    let many = "GET /a HTTP/1.1\r\n\r\n".repeat(100);
    server.connection.stream().incoming.extend(many.as_bytes());
    let mut asked = 0;
    let mut count = |_: &Request<&[u8]>| {
        asked += 1;
        Reply::Now(Answer::empty(204))
    };
    assert_eq!(server.connection.step(&mut Unlimited, &mut count).expect("open"), WaitsFor::Turn);
    assert_eq!(asked, TURN_REQUESTS);
    let mut server = Server::new(Limits::READ_ONLY);
    server.connection.stream().incoming.extend(b"GET /a HTTP/1.1\r\n\r\n");
    let mut large = |_: &Request<&[u8]>| Reply::Now(Answer::new(200, "text/plain", vec![0; 3_000_000]));
    assert_eq!(server.connection.step(&mut Unlimited, &mut large).expect("open"), WaitsFor::Turn);
    let sent = server.connection.stream().outgoing.len() as u64;
    assert!((1..=TURN_BYTES).contains(&sent), "{sent}");
}

#[test]
fn a_request_has_a_deadline_that_its_bytes_do_not_extend() {
    let second = Duration::from_secs(1);
    let timeouts = Timeouts { idle: second, request: 10 * second, send: 100 * second };
    let mut server = Server::new(Limits::with_bodies(9));
    assert_eq!(server.connection.deadline(&timeouts), Some(server.connection.active_at + second));
    server.feed(b"POST /later HTTP/1.1\r\n").expect("open");
    let deadline = server.connection.deadline(&timeouts);
    assert_eq!(deadline, Some(server.connection.active_at + 10 * second));
    server.feed(b"Content-Length: 2\r\n\r\n").expect("open");
    assert_eq!(server.connection.deadline(&timeouts), deadline);
    server.feed(b"a").expect("open");
    assert_eq!(server.connection.deadline(&timeouts), deadline);
    server.feed(b"a").expect("open");
    assert_eq!(server.connection.deadline(&timeouts), None);
}

/// Accepts one connection, and serves it with a poll of its own until it ends. `/later` is never answered.
fn serve_socket(listener: &std::net::TcpListener, file: &Arc<File>) -> (Vec<String>, io::Error) {
    let (socket, _) = listener.accept().expect("accepted");
    socket.set_nonblocking(true).expect("set");
    let mut connection = Connection::new(TcpStream::from_std(socket), Limits::READ_ONLY);
    let mut poll = mio::Poll::new().expect("a poll");
    let interest = mio::Interest::READABLE | mio::Interest::WRITABLE;
    poll.registry().register(connection.stream(), mio::Token(0), interest).expect("registered");
    let (mut events, mut asked) = (mio::Events::with_capacity(8), Vec::new());
    loop {
        let step = connection.step(&mut Unlimited, &mut |request| {
            asked.push(request.uri().path().to_owned());
            match request.uri().path() {
                "/later" => Reply::Later,
                _ => Reply::Now(Answer {
                    status: 200,
                    headers: Vec::new(),
                    body: Body::file(Arc::clone(file), 0, 8 << 20),
                }),
            }
        });
        match step {
            Ok(WaitsFor::Turn) => continue,
            Ok(_) => {}
            Err(error) => return (asked, error),
        }
        poll.poll(&mut events, None).expect("events");
        events.iter().for_each(|event| connection.mark(event));
    }
}

#[test]
fn a_socket_brings_requests_files_and_hang_ups() {
    let file = Arc::new(tempfile::tempfile().expect("a file"));
    file.set_len(8 << 20).expect("sparse");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let connect = move || std::net::TcpStream::connect(address).expect("connected");
    // The end of a client's stream is behind its requests, and may come together with them or after them.
    for is_at_once in [true, false] {
        let client = std::thread::spawn(move || {
            let (mut client, mut answers) = (connect(), Vec::new());
            client.write_all(b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n").expect("written");
            if is_at_once {
                client.shutdown(std::net::Shutdown::Write).expect("shut down");
            } else {
                let mut first = vec![0; 8 << 20];
                client.read_exact(&mut first).expect("read");
                answers = first;
                client.shutdown(std::net::Shutdown::Write).expect("shut down");
            }
            client.read_to_end(&mut answers).expect("read");
            answers.len()
        });
        let (asked, error) = serve_socket(&listener, &file);
        assert_eq!(
            (asked, error.kind()),
            (vec!["/a".to_owned(), "/b".to_owned()], io::ErrorKind::UnexpectedEof)
        );
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 8388608\r\n\r\n".len();
        assert_eq!(client.join().expect("answered"), 2 * (head + (8 << 20)));
    }
    // Requests behind one that waits are not read, but the end of the stream is noticed.
    let mut client = connect();
    client.write_all(b"GET /later HTTP/1.1\r\n\r\nGET /a HTTP/1.1\r\n\r\n").expect("written");
    let server = std::thread::spawn(move || serve_socket(&listener, &file));
    drop(client);
    let (asked, error) = server.join().expect("it ends");
    assert_eq!((asked, error.kind()), (vec!["/later".to_owned()], io::ErrorKind::ConnectionReset));
}
