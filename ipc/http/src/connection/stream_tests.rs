//! Tests of streamed answers, streamed bodies and connections that the program takes over.

use super::tests::{Pipe, Server, ok};
use super::*;
use std::time::Duration;

const RULES: Rules = Rules {
    is_streamed: |head| head.uri().path() == "/later/body",
    is_long_poll: |head| head.uri().path() == "/later/poll",
    write_headers: |out| out.extend_from_slice(b"api-version: 1\r\n"),
    refusal: |status| Answer::new(status, "text/plain", format!("refused: {status}")),
};

fn server(text: &str) -> Server {
    let mut server = Server::new(Limits::with_bodies(5));
    server.connection.set_rules(&RULES);
    assert_eq!(server.feed(text.as_bytes()).expect("open"), WaitsFor::Answer);
    server
}

fn head(more: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{more}api-version: 1\r\n")
}

const CHUNKED: &str = "transfer-encoding: chunked\r\n";

/// Receives until nothing more comes now; returns the bytes and the last result.
fn received(connection: &mut Connection<Pipe>) -> io::Result<(Vec<u8>, Received)> {
    let mut bytes = Vec::new();
    loop {
        match connection.receive(&mut bytes)? {
            Received::Bytes => {}
            last => return Ok((bytes, last)),
        }
    }
}

#[test]
fn a_streamed_answer_is_chunked_and_the_next_request_waits_for_its_end() {
    let mut server = server("GET /later HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n");
    assert!(server.connection.begin(&Answer::empty(200)));
    assert_eq!(server.turns().expect("open"), WaitsFor::Answer);
    assert_eq!(server.output(), head(CHUNKED) + "\r\n", "the head goes before the first chunk");
    for message in ["one", "", "two and more"] {
        server.connection.send_bytes(message.as_bytes());
        assert_eq!(server.turns().expect("open"), WaitsFor::Answer);
    }
    assert_eq!(server.output(), "3\r\none\r\nc\r\ntwo and more\r\n");
    assert_eq!(server.asked.len(), 1);
    server.connection.finish();
    assert_eq!(server.turns().expect("open"), WaitsFor::Peer);
    let next = ok("/b").replacen("content-type", "api-version: 1\r\ncontent-type", 1);
    assert_eq!(server.output(), format!("0\r\n\r\n{next}"));
}

#[test]
fn a_stream_to_http_1_0_and_to_head_has_no_chunks() {
    let mut old = server("GET /later HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    old.connection.begin(&Answer::empty(200));
    old.connection.send_bytes(b"text");
    old.connection.finish();
    old.turns().expect("it lingers");
    assert_eq!(old.output(), head("") + "connection: close\r\n\r\ntext");
    assert_eq!(old.connection.phase(), Phase::Lingering);
    let mut only_head = server("HEAD /later HTTP/1.1\r\n\r\n");
    only_head.connection.begin(&Answer::empty(200));
    only_head.connection.send_bytes(b"text");
    only_head.connection.finish();
    assert_eq!(only_head.turns().expect("open"), WaitsFor::Peer);
    assert_eq!(only_head.output(), head(CHUNKED) + "\r\n");
}

#[test]
fn a_stream_that_breaks_off_has_no_last_chunk_and_ends_the_connection() {
    let mut server = server("GET /later HTTP/1.1\r\n\r\n");
    server.connection.begin(&Answer::empty(200));
    server.connection.send_bytes(b"half");
    server.connection.break_off();
    assert_eq!(server.turns().expect_err("over").kind(), io::ErrorKind::ConnectionAborted);
    assert_eq!(server.output(), head(CHUNKED) + "\r\n4\r\nhalf\r\n");
}

#[test]
fn a_slow_peer_gets_every_chunk_and_the_backlog_says_how_far_it_is() {
    let mut server = server("GET /later HTTP/1.1\r\n\r\n");
    server.connection.stream().room = 0;
    server.connection.begin(&Answer::empty(200));
    let mut expected = head(CHUNKED) + "\r\n";
    let (mut sent, mut most) = (0, 0);
    while sent < 500 || server.connection.backlog() > 0 {
        while server.connection.backlog() < 1000 && sent < 500 {
            let message = format!("message {sent}");
            expected += &format!("{:x}\r\n{message}\r\n", message.len());
            server.connection.send_bytes(message.as_bytes());
            sent += 1;
        }
        most = most.max(server.connection.out.len());
        server.connection.stream().room = 77;
        server.connection.mark_ready(false, true, false);
        let wait = server.turns().expect("open");
        assert!(wait == WaitsFor::Peer || (wait == WaitsFor::Answer && server.connection.backlog() == 0));
    }
    assert_eq!(server.output(), expected);
    assert!(most < 3000, "bytes that were sent are dropped: {most}");
}

#[test]
fn a_chunked_body_of_several_megabytes_is_streamed_however_it_is_cut() {
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut text = Vec::new();
    for chunk in content.chunks(70_000) {
        text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        text.extend_from_slice(chunk);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"0\r\n\r\nGET /b HTTP/1.1\r\n\r\n");
    for piece in [1000, 4096, 65_536, text.len()] {
        let mut server = server("POST /later/body HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(server.asked, ["POST /later/body "], "the program gets the head at once");
        let mut body = Vec::new();
        for part in text.chunks(piece) {
            assert_eq!(server.feed(part).expect("open"), WaitsFor::Answer);
            body.extend(received(&mut server.connection).expect("well framed").0);
        }
        assert_eq!(received(&mut server.connection).expect("ended"), (Vec::new(), Received::End));
        assert!(body == content, "{piece}");
        server.connection.answer(Answer::empty(204));
        assert_eq!(server.turns().expect("open"), WaitsFor::Peer);
        assert_eq!(server.asked.last().expect("one"), "GET /b ", "the request behind the body");
    }
}

#[test]
fn a_body_with_a_length_ends_there_and_its_end_is_said_once_more() {
    let mut server = server("POST /later/body HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc");
    assert_eq!(received(&mut server.connection).expect("open"), (b"abc".to_vec(), Received::Nothing));
    server.feed(b"defghiGET /b HTTP/1.1\r\n\r\n").expect("open");
    for expected in [(b"defghi".to_vec(), Received::End), (Vec::new(), Received::End)] {
        assert_eq!(received(&mut server.connection).expect("open"), expected);
    }
    server.connection.begin(&Answer::empty(200));
    server.connection.finish();
    server.turns().expect("open");
    assert_eq!(server.asked, ["POST /later/body ", "GET /b "]);
}

#[test]
fn the_first_receive_asks_for_a_body_that_waits_for_a_word() {
    let text = "POST /later/body HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let mut asked = server(text);
    assert_eq!(asked.output(), "", "the program may refuse the request without the body");
    received(&mut asked.connection).expect("open");
    asked.turns().expect("open");
    assert_eq!(asked.output(), "HTTP/1.1 100 Continue\r\n\r\n");
    asked.feed(b"ab").expect("open");
    assert_eq!(received(&mut asked.connection).expect("open").0, b"ab");
    let mut begun = server(text);
    begun.connection.begin(&Answer::empty(200));
    received(&mut begun.connection).expect("open");
    begun.turns().expect("open");
    assert!(!begun.output().contains("100 Continue"), "not in the middle of the answer");
}

#[test]
fn a_body_that_is_cut_or_badly_framed_is_an_error_and_not_an_end() {
    let mut cut = server("POST /later/body HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc");
    cut.connection.stream().is_closed = true;
    cut.connection.mark_ready(true, false, true);
    assert_eq!(cut.turns().expect("a client that ends its direction may wait"), WaitsFor::Answer);
    let error = received(&mut cut.connection).expect_err("cut");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    let chunked = "POST /later/body HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for text in ["zz\r\n", "3\r\nabcd\r\n", &format!("1;{}", "x".repeat(2000))] {
        let mut bad = server(&format!("{chunked}{text}"));
        assert_eq!(received(&mut bad.connection).expect_err(text).kind(), io::ErrorKind::InvalidData);
    }
}

#[test]
fn an_answer_before_the_end_of_the_body_ends_the_connection() {
    let mut server = server("POST /later/body HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc");
    server.connection.answer(Answer::new(409, "text/plain", "no"));
    assert_eq!(server.turns().expect("it lingers"), WaitsFor::Peer);
    assert!(server.output().ends_with("connection: close\r\n\r\nno"));
    assert_eq!(server.connection.phase(), Phase::Lingering);
    server.feed(b"defghiGET /b HTTP/1.1\r\n\r\n").expect("it lingers");
    assert_eq!(server.asked.len(), 1, "nobody knows where the body ends");
}

#[test]
fn a_connection_that_is_taken_over_carries_bytes_in_both_directions() {
    let mut server = server("POST /later HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}early");
    server.connection.take_over(b"HTTP/1.1 101 UPGRADED\r\n\r\n");
    assert_eq!(received(&mut server.connection).expect("open"), (b"early".to_vec(), Received::Nothing));
    server.connection.send_bytes(b"out");
    server.feed(b"GET / HTTP/1.1\r\n\r\n").expect("open");
    assert_eq!(server.output(), "HTTP/1.1 101 UPGRADED\r\n\r\nout");
    assert_eq!(received(&mut server.connection).expect("open").0, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(server.asked.len(), 1);
    // The peer ends its direction: it still gets what the program sends.
    server.connection.stream().is_closed = true;
    server.connection.mark_ready(true, false, true);
    assert_eq!(server.turns().expect("open"), WaitsFor::Answer);
    assert_eq!(received(&mut server.connection).expect("open"), (Vec::new(), Received::End));
    server.connection.send_bytes(b"last");
    server.connection.finish();
    assert_eq!(server.turns().expect_err("both ends").kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(server.output(), "last");
}

#[test]
fn the_last_bytes_of_a_peer_that_has_gone_reach_the_program() {
    let mut server = server("POST /later HTTP/1.1\r\n\r\n");
    server.connection.take_over(b"");
    let pipe = server.connection.stream();
    pipe.incoming.extend(b"input");
    pipe.is_closed = true;
    server.connection.mark_ready(true, true, true);
    server.connection.is_gone = true;
    assert_eq!(server.turns().expect("bytes are left"), WaitsFor::Answer);
    assert_eq!(received(&mut server.connection).expect("open"), (b"input".to_vec(), Received::End));
    assert_eq!(server.turns().expect_err("over").kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_client_that_sends_no_more_waits_for_a_short_answer_but_has_left_a_long_poll() {
    for (path, is_gone, stays) in
        [("/later", false, true), ("/later", true, false), ("/later/poll", false, false)]
    {
        let mut server = server(&format!("GET {path} HTTP/1.1\r\n\r\n"));
        server.connection.stream().is_closed = true;
        server.connection.mark_ready(true, true, true);
        server.connection.is_gone = is_gone;
        assert_eq!(server.turns().is_ok(), stays, "{path} {is_gone}");
        if stays {
            server.connection.answer(Answer::new(200, "text/plain", "there"));
            assert_eq!(server.turns().expect_err("after the answer").kind(), io::ErrorKind::UnexpectedEof);
            assert!(server.output().ends_with("\r\n\r\nthere"));
        }
    }
}

#[test]
fn no_time_limit_ends_a_stream_but_a_lingering_peer_has_one() {
    let second = Duration::from_secs(1);
    let timeouts = Timeouts { idle: second, request: 10 * second, send: 100 * second };
    let mut stream = server("GET /later HTTP/1.1\r\n\r\n");
    stream.connection.stream().room = 0;
    stream.connection.begin(&Answer::empty(200));
    stream.turns().expect("open");
    assert_eq!((stream.connection.phase(), stream.connection.deadline(&timeouts)), (Phase::Sending, None));
    let mut answer = server("GET /later HTTP/1.1\r\n\r\n");
    answer.connection.stream().room = 0;
    answer.connection.answer(Answer::empty(204));
    answer.turns().expect("open");
    let deadline = answer.connection.deadline(&timeouts);
    assert_eq!(deadline, Some(answer.connection.active_at + 100 * second));
    let mut refused = Server::new(Limits::with_bodies(5));
    refused.feed(b"garbage\r\n\r\n").expect("it lingers");
    let deadline = refused.connection.deadline(&timeouts);
    assert_eq!(deadline, Some(refused.connection.since + 10 * second));
}

#[test]
fn a_refusal_has_the_headers_and_the_body_of_the_program() {
    let mut server = Server::new(Limits::with_bodies(5));
    server.connection.set_rules(&RULES);
    server.feed(b"POST /a HTTP/1.1\r\nContent-Length: 6\r\n\r\n").expect("it lingers");
    let output = server.output();
    assert!(output.starts_with("HTTP/1.1 413 ") && output.ends_with("\r\n\r\nrefused: 413"), "{output}");
    assert!(output.contains("api-version: 1\r\n") && output.contains("content-length: 12\r\n"), "{output}");
}
