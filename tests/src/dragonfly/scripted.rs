//! Tests of the client against a supernode that follows a script.

use super::uploader::Uploader;
use super::{End, Outcome, Peer, Wish};
use crate::acceptor::Acceptor;
use crate::random::Random;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::{Arc, Mutex};

const SIZE: usize = 1 << 20;
const TASK: &str = "abcdef";

/// A supernode that gives each pull the next answer of a script, and notes the pulls.
struct Scripted {
    acceptor: Acceptor,
    pulls: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    fn start(script: Vec<Value>) -> Self {
        let pulls = Arc::new(Mutex::new(Vec::new()));
        let (noted, script) = (Arc::clone(&pulls), Arc::new(Mutex::new(script.into_iter())));
        let acceptor = Acceptor::start(move |client| {
            let (noted, script) = (Arc::clone(&noted), Arc::clone(&script));
            std::thread::spawn(move || {
                let mut reader = BufReader::new(&client);
                while let Some(target) = read_target(&mut reader) {
                    let body = match target.split('?').next().unwrap_or_default() {
                        "/peer/registry" => json!({ "code": 200, "data": {
                            "taskId": TASK, "fileLength": 3_000_000, "pieceSize": SIZE, "cdnSource": "supernode",
                        }}),
                        "/peer/task" => {
                            noted.lock().expect("no panic").push(target.clone());
                            script.lock().expect("no panic").next().unwrap_or(json!({ "code": 500 }))
                        }
                        "/peer/piece/suc" => json!({ "code": 611 }),
                        _ => json!({ "code": 1 }),
                    };
                    answer(&client, &body.to_string());
                }
            });
        });
        Scripted { acceptor, pulls }
    }

    fn address(&self) -> SocketAddrV4 {
        self.acceptor.address().parse().expect("an address")
    }

    fn pulls(&self) -> Vec<String> {
        self.pulls.lock().expect("no panic").clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.acceptor.stop();
    }
}

fn read_target(reader: &mut BufReader<&TcpStream>) -> Option<String> {
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let target = line.split(' ').nth(1)?.to_owned();
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
    Some(target)
}

fn answer(mut client: &TcpStream, body: &str) {
    let _ = write!(client, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}

/// A holder of a file of three pieces, and the offers of these pieces.
fn holder() -> (Uploader, tempfile::TempDir, Vec<u8>, Vec<Value>) {
    let (uploader, dir) = (Uploader::start(Ipv4Addr::LOCALHOST), tempfile::tempdir().expect("a directory"));
    let content = Random::new(1).bytes(3_000_000);
    let path = dir.path().join("file");
    std::fs::write(&path, &content).expect("written");
    uploader.share("held", path);
    let offer = |number: usize| {
        json!({
            "range": format!("{}-{}", number * SIZE, number * SIZE + SIZE - 1), "pieceNum": number, "pieceSize": SIZE,
            "pieceMd5": "", "cid": "127.0.0.1-12345-1795229659.132", "peerIp": "127.0.0.1",
            "peerPort": uploader.port(), "path": "/peer/file/held", "downLink": 0,
        })
    };
    let offers = (0..3).map(offer).collect();
    (uploader, dir, content, offers)
}

fn download(supernodes: &[&Scripted]) -> Outcome {
    let peer = Peer::new(Ipv4Addr::LOCALHOST);
    let addresses: Vec<SocketAddrV4> = supernodes.iter().map(|supernode| supernode.address()).collect();
    let outcome = peer.download(&addresses, Wish::of("http://example.test/file")).wait();
    if outcome.end == End::Complete {
        let (_, _, content, _) = holder();
        assert!(std::fs::read(&outcome.file).expect("the file") == content);
    }
    outcome
}

fn finished() -> Value {
    json!({ "code": 600, "data": { "md5": "", "fileLength": 3_000_015 } })
}

#[test]
fn a_client_gets_its_pieces_and_repeats_a_pull_after_wait() {
    let (_uploader, _dir, _, offers) = holder();
    let supernode = Scripted::start(vec![
        json!({ "code": 602 }),
        json!({ "code": 601, "data": [offers[0]] }),
        json!({ "code": 602 }),
        json!({ "code": 601, "data": [offers[1]] }),
        json!({ "code": 601, "data": [offers[2]] }),
        finished(),
    ]);
    let outcome = download(&[&supernode]);
    assert_eq!((outcome.end, outcome.counts.from_peers), (End::Complete, 3));
    let pulls = supernode.pulls();
    assert_eq!((pulls.len(), &pulls[0]), (6, &pulls[1]));
    assert_eq!(pulls[2], pulls[3]);
    assert!(pulls[2].contains("range=0-1048575&result=503&status=701"), "{}", pulls[2]);
}

#[test]
fn a_client_continues_with_another_supernode_and_keeps_its_pieces() {
    let (_uploader, _dir, _, offers) = holder();
    let first = Scripted::start(vec![json!({ "code": 601, "data": [offers[0]] }), json!({ "code": 604 })]);
    let second = Scripted::start(vec![
        json!({ "code": 601, "data": [offers[0]] }),
        json!({ "code": 601, "data": [offers[1], offers[2]] }),
        finished(),
        finished(),
    ]);
    let outcome = download(&[&first, &second]);
    assert_eq!((outcome.end, outcome.counts.pieces(), outcome.counts.repeated), (End::Complete, 3, 1));
    let pulls = second.pulls();
    assert!(pulls[0].contains("range=0-1048575&result=503&status=700"), "{}", pulls[0]);
}

#[test]
fn a_client_says_where_dfget_would_hang_or_crash() {
    let (_uploader, _dir, _, offers) = holder();
    for (script, word) in [
        (vec![json!({ "code": 601 })], "nothing to do"),
        (vec![json!({ "code": 601, "data": [] })], "nothing to do"),
        (vec![json!({ "code": 603 })], "nothing to do"),
        (vec![json!({ "code": 600 })], "invalid type"),
        (vec![json!({ "msg": "?" })], "without a code"),
        (vec![json!({ "code": 601, "data": [{ "range": "0-1" }] })], "missing field"),
        (
            vec![
                json!({ "code": 601, "data": offers }),
                json!({ "code": 600, "data": { "md5": "00", "fileLength": 1 } }),
            ],
            "MD5",
        ),
    ] {
        let end = download(&[&Scripted::start(script.clone())]).end;
        assert!(matches!(&end, End::Broken(why) if why.contains(word)), "{script:?}: {end:?}");
    }
    let end = download(&[&Scripted::start(vec![json!({ "code": 502 })])]).end;
    assert!(matches!(end, End::Source(3, _)), "{end:?}");
}
