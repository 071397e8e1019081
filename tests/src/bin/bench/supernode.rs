//! The supernode: its control port under many synthetic peers, and a swarm of real downloads.
//!
//! The first table has the load of many downloads whose pieces take no time: each peer registers, asks for pieces, and
//! reports each one as soon as it is offered. The pieces come from the origin (pattern `source`), so that only the
//! scheduling is measured. What counts is a piece that a peer did not have, and a report that is accepted. The time of a
//! request includes the time for which the supernode held it because no holder was free.
//!
//! The second table has downloads of a file at a limited rate, by the tests' client of Dragonfly's wire.

use crate::options::Options;
use crate::server::cpu_seconds;
use crate::table::{number, print, row};
use crate::{cost, swarm};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use sampan_tests::dragonfly::Offer;
use sampan_tests::http_client::open;
use sampan_tests::origin_server::{Origin, Resource};
use sampan_tests::process::pss_bytes;
use sampan_tests::supernode::Supernode;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

/// Longest time without an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes in a MiB.
const MIB: u64 = 1 << 20;

/// A size of the load.
struct Load {
    /// Length of the file in MiB.
    mib: u64,
    peers: usize,
    /// Pieces that each peer gets before it leaves.
    pieces: usize,
}

const LOADS: [Load; 6] = [
    Load { mib: 200, peers: 100, pieces: 40 },
    Load { mib: 200, peers: 300, pieces: 40 },
    Load { mib: 15 << 10, peers: 20, pieces: 40 },
    Load { mib: 15 << 10, peers: 100, pieces: 40 },
    Load { mib: 15 << 10, peers: 300, pieces: 40 },
    Load { mib: 15 << 10, peers: 300, pieces: 1024 },
];

/// Measures and prints both tables.
///
/// # Errors The supernode does not serve.
pub fn run(options: &Options) -> io::Result<()> {
    let mut rows = vec![row([
        "file",
        "peers",
        "pieces each",
        "counted/s",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "CPU µs/request",
        "PSS MiB",
        "peak MiB",
    ])];
    for load in &LOADS {
        let mut runs = Vec::new();
        for _ in 0..options.runs {
            runs.push(measure(load)?);
        }
        let median =
            |value: fn(&Measured) -> f64| number(crate::table::median(runs.iter().map(value).collect()));
        let mut cells =
            row([&format!("{} MiB", load.mib), &load.peers.to_string(), &load.pieces.to_string()]);
        cells.extend([
            median(|run| run.counted),
            median(|run| run.requests),
            median(|run| run.p50),
            median(|run| run.p99),
            median(|run| run.cpu),
            median(|run| run.pss),
            median(|run| run.peak),
        ]);
        rows.push(cells);
    }
    print("Supernode: scheduling for synthetic peers", &rows);
    swarm::run()
}

struct Measured {
    counted: f64,
    requests: f64,
    p50: f64,
    p99: f64,
    cpu: f64,
    pss: f64,
    peak: f64,
}

fn measure(load: &Load) -> io::Result<Measured> {
    let origin = Origin::start();
    origin.put("/file", Resource::zeros(load.mib * MIB));
    let supernode = Supernode::start(1, &["--cdn-pattern", "source"]);
    let pid = supernode.pid();
    let mut generator = Generator::new(supernode.control(), &origin.url("/file"), load)?;
    let (cpu, start) = (cpu_seconds(pid)?, Instant::now());
    generator.run()?;
    let seconds = start.elapsed().as_secs_f64();
    let (cpu, requests) = (cpu_seconds(pid)? - cpu, generator.times.len() as f64);
    generator.times.sort_unstable();
    let quantile = |q: f64| {
        let last = generator.times.len().saturating_sub(1);
        let time = generator.times.get(((last as f64) * q) as usize).copied().unwrap_or_default();
        time.as_secs_f64() * 1e3
    };
    Ok(Measured {
        counted: generator.counted as f64 / seconds,
        requests: requests / seconds,
        p50: quantile(0.5),
        p99: quantile(0.99),
        cpu: cpu * 1e6 / requests,
        pss: pss_bytes(pid) as f64 / MIB as f64,
        peak: cost::peak_mib(pid)?,
    })
}

/// What a peer has asked for last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Registry,
    Pieces,
    Success,
}

struct Synthetic {
    stream: TcpStream,
    cid: String,
    port: u16,
    ip: Ipv4Addr,
    task: String,
    asked: Asked,
    sent: Instant,
    received: Vec<u8>,
    /// Pieces that are not yet reported.
    unreported: Vec<Offer>,
    /// The piece that was reported last.
    last: Option<Offer>,
    pieces: HashSet<String>,
    is_done: bool,
}

/// Plays all peers in one thread.
struct Generator {
    epoll: Epoll,
    peers: Vec<Synthetic>,
    pieces: usize,
    url: String,
    counted: u64,
    times: Vec<Duration>,
}

#[derive(Deserialize)]
struct Code {
    code: i64,
}

#[derive(Deserialize)]
struct Registry {
    data: Task,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Task {
    task_id: String,
}

#[derive(Deserialize)]
struct Pieces {
    data: Vec<Offer>,
}

impl Generator {
    fn new(server: SocketAddrV4, url: &str, load: &Load) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut peers = Vec::new();
        for nth in 0..load.peers {
            let ip = Ipv4Addr::new(127, 250, (nth / 250) as u8, 1 + (nth % 250) as u8);
            let stream = open(ip, server)?;
            stream.set_nonblocking(true)?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, nth as u64))?;
            peers.push(Synthetic {
                stream,
                cid: format!("{ip}-{nth}-1795229659.{nth:03}"),
                port: 20_000 + nth as u16,
                ip,
                task: String::new(),
                asked: Asked::Registry,
                sent: Instant::now(),
                received: Vec::new(),
                unreported: Vec::new(),
                last: None,
                pieces: HashSet::new(),
                is_done: false,
            });
        }
        let url = url.to_owned();
        Ok(Generator { epoll, peers, pieces: load.pieces, url, counted: 0, times: Vec::new() })
    }

    fn run(&mut self) -> io::Result<()> {
        for nth in 0..self.peers.len() {
            self.register(nth)?;
        }
        let mut left = self.peers.len();
        let mut events = [EpollEvent::empty(); 64];
        let patience = EpollTimeout::try_from(PATIENCE).map_err(|_| io::Error::other("a long time"))?;
        while left > 0 {
            let count = self.epoll.wait(&mut events, patience)?;
            if count == 0 {
                return Err(io::Error::other(format!("{left} peers get no answer")));
            }
            for event in &events[..count] {
                let nth = event.data() as usize;
                self.read(nth)?;
                if self.peers[nth].is_done {
                    self.epoll.delete(&self.peers[nth].stream)?;
                    left -= 1;
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, nth: usize, asked: Asked, text: &str) -> io::Result<()> {
        let peer = &mut self.peers[nth];
        peer.asked = asked;
        peer.sent = Instant::now();
        // The request fits into an empty socket buffer.
        (&peer.stream).write_all(text.as_bytes())
    }

    fn register(&mut self, nth: usize) -> io::Result<()> {
        let peer = &self.peers[nth];
        let body = json!({
            "superNodeIp": "127.0.0.1", "rawUrl": self.url, "taskUrl": self.url, "cid": peer.cid, "ip": peer.ip.to_string(),
            "hostName": "host", "port": peer.port, "path": format!("/peer/file/out-{nth}"), "version": "1.0.6",
        })
        .to_string();
        let length = body.len();
        let text =
            format!("POST /peer/registry HTTP/1.1\r\nHost: s\r\nContent-Length: {length}\r\n\r\n{body}");
        self.send(nth, Asked::Registry, &text)
    }

    /// Reads what has arrived for one peer, and goes on if it is a whole answer.
    fn read(&mut self, nth: usize) -> io::Result<()> {
        let mut chunk = [0; 16 << 10];
        let peer = &mut self.peers[nth];
        loop {
            match (&peer.stream).read(&mut chunk) {
                Ok(0) => return Err(io::Error::other("the supernode has closed a connection")),
                Ok(count) => peer.received.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let Some(head) = peer.received.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            return Ok(());
        };
        let text = String::from_utf8_lossy(&peer.received[..head]).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.and_then(|value| value.trim().parse().ok()).unwrap_or(0);
        if peer.received.len() < head + 4 + length {
            return Ok(());
        }
        let body = peer.received.split_off(head + 4);
        peer.received.clear();
        if !text.starts_with("http/1.1 200") {
            return Err(io::Error::other(format!("{text}\n{}", String::from_utf8_lossy(&body))));
        }
        let time = peer.sent.elapsed();
        self.times.push(time);
        self.on_answer(nth, &body)
    }

    fn on_answer(&mut self, nth: usize, body: &[u8]) -> io::Result<()> {
        let code = serde_json::from_slice::<Code>(body)?.code;
        let peer = &mut self.peers[nth];
        match (peer.asked, code) {
            (Asked::Registry, 200) => {
                peer.task = serde_json::from_slice::<Registry>(body)?.data.task_id;
                self.pull(nth)
            }
            (Asked::Success, 611) => {
                self.counted += 1;
                self.go_on(nth)
            }
            (Asked::Pieces, 601) => {
                let offers = serde_json::from_slice::<Pieces>(body)?.data;
                if offers.is_empty() {
                    return Err(io::Error::other("code 601 without a piece"));
                }
                for offer in offers {
                    self.counted += u64::from(peer.pieces.insert(offer.range.clone()));
                    peer.unreported.push(offer);
                }
                self.go_on(nth)
            }
            (Asked::Pieces, 602) => self.pull(nth),
            (Asked::Pieces, 600) => {
                peer.is_done = true;
                Ok(())
            }
            _ => Err(io::Error::other(String::from_utf8_lossy(body).into_owned())),
        }
    }

    /// Reports the next piece; after the last one, asks for more.
    fn go_on(&mut self, nth: usize) -> io::Result<()> {
        let peer = &mut self.peers[nth];
        let Some(offer) = peer.unreported.pop() else {
            if peer.pieces.len() < self.pieces {
                return self.pull(nth);
            }
            peer.is_done = true;
            return Ok(());
        };
        let (task, cid, dst, range) = (&peer.task, &peer.cid, &offer.cid, &offer.range);
        let text = format!(
            "GET /peer/piece/suc?taskId={task}&cid={cid}&dstCid={dst}&pieceRange={range} HTTP/1.1\r\nHost: s\r\n\r\n"
        );
        peer.last = Some(offer);
        self.send(nth, Asked::Success, &text)
    }

    /// Asks for pieces, and reports the last piece once more, as dfget does.
    fn pull(&mut self, nth: usize) -> io::Result<()> {
        let peer = &self.peers[nth];
        let (task, cid) = (&peer.task, &peer.cid);
        let (dst, range, report) = match &peer.last {
            Some(offer) => (offer.cid.as_str(), offer.range.as_str(), "result=503&status=701"),
            None => ("", "", "result=502&status=700"),
        };
        let text = format!(
            "GET /peer/task?srcCid={cid}&dstCid={dst}&range={range}&{report}&taskId={task} HTTP/1.1\r\nHost: s\r\n\r\n"
        );
        self.send(nth, Asked::Pieces, &text)
    }
}
