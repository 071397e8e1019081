//! What the threads of a download share, and how one of them gets a piece.

use super::outcome::Counts;
use super::queue::Queue;
use super::uploader::unwrap;
use super::wire::{Offer, Wire};
use super::wish::Wish;
use crate::http_client::{HttpClient, open};
use md5::{Digest, Md5};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Pause before a failure is reported.
const FAILURE: Duration = Duration::from_millis(20);
/// Longest time of a piece: its size at 64 KiB/s, and this.
const PIECE: Duration = Duration::from_secs(10);
/// Lowest rate in bytes a second.
const RATE_MIN: u64 = 64 << 10;

/// The result of a piece, on its way to the pulling thread.
pub struct Item {
    /// Client ID of the holder.
    pub dst: String,
    /// Range of the piece; empty if nothing is reported.
    pub range: String,
    /// 500 failed, 502 nothing to report, 503 in memory.
    pub result: u16,
    /// 700 begins, 701 runs.
    pub status: u16,
    /// Size of the pieces of the registration that the piece belongs to.
    pub piece_size: Option<i32>,
    /// The supernode that has offered the piece.
    pub node: SocketAddrV4,
    /// ID of the task there.
    pub task: String,
}

/// What the threads of a download share.
pub struct Shared {
    /// Address of the host.
    pub ip: Ipv4Addr,
    /// Port of the uploader, or 0.
    pub port: u16,
    /// The client ID.
    pub cid: String,
    /// Name of the file at the uploader.
    pub name: String,
    /// What to download.
    pub wish: Wish,
    /// Path of the file.
    pub path: PathBuf,
    /// The file.
    pub file: File,
    /// True after the client was killed.
    pub is_killed: AtomicBool,
    counts: Mutex<Counts>,
    /// Results of pieces, for the pulling thread.
    pub queue: Queue<Item>,
    /// One for each accepted report of a piece on disk: ends a wait.
    pub written: Queue<()>,
    /// Number of pieces that are not yet written.
    pub writes: (Mutex<usize>, Condvar),
    /// When the next byte may be read.
    budget: Mutex<Instant>,
    wires: Mutex<HashMap<SocketAddrV4, Vec<Wire>>>,
    /// The tasks that this download belongs to, and their supernodes.
    pub tasks: Mutex<Vec<(SocketAddrV4, String)>>,
}

/// Locks what threads of a download share.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread of a download panics with the lock")
}

impl Shared {
    /// A download that has not begun; `file` at `path` is empty.
    pub fn new(ip: Ipv4Addr, port: u16, cid: String, name: String, wish: Wish, path: PathBuf) -> Self {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        Shared {
            ip,
            port,
            cid,
            name,
            wish,
            file: file.expect("a file in the test's directory"),
            path,
            is_killed: AtomicBool::new(false),
            counts: Mutex::default(),
            queue: Queue::default(),
            written: Queue::default(),
            writes: (Mutex::new(0), Condvar::new()),
            budget: Mutex::new(Instant::now()),
            wires: Mutex::default(),
            tasks: Mutex::default(),
        }
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        *lock(&self.counts)
    }

    /// The tasks that this download has registered, with their supernodes.
    pub fn tasks(&self) -> Vec<(SocketAddrV4, String)> {
        lock(&self.tasks).clone()
    }

    /// Changes the counts.
    pub fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut lock(&self.counts));
    }

    /// True if the client was killed.
    pub fn is_killed(&self) -> bool {
        self.is_killed.load(Ordering::SeqCst)
    }

    /// Calls `ask` with a connection to the supernode `node`, which other threads use later.
    pub fn with_wire<T>(&self, node: SocketAddrV4, ask: impl FnOnce(&mut Wire) -> T) -> T {
        let kept = lock(&self.wires).get_mut(&node).and_then(Vec::pop);
        let mut wire = kept.unwrap_or_else(|| Wire::new(self.ip, node));
        let answer = ask(&mut wire);
        lock(&self.wires).entry(node).or_default().push(wire);
        answer
    }

    /// Waits until `bytes` more bytes are within the rate.
    fn spend(&self, bytes: usize) {
        let Some(rate) = self.wish.rate else { return };
        let due = {
            let mut budget = lock(&self.budget);
            let due = (*budget).max(Instant::now());
            *budget = due + Duration::from_secs_f64(bytes as f64 / rate as f64);
            due
        };
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }

    /// The body of a registration at `supernode`.
    pub fn registration(&self, supernode: SocketAddrV4) -> Value {
        let wish = &self.wish;
        let task_url = if wish.task_url.is_empty() { &wish.url } else { &wish.task_url };
        let mut body = json!({
            "superNodeIp": supernode.ip().to_string(), "rawUrl": wish.url, "taskUrl": task_url, "cid": self.cid,
            "ip": self.ip.to_string(), "hostName": "host", "port": self.port, "path": format!("/peer/file/{}", self.name),
            "version": "1.0.6",
        });
        match (&wish.md5, &wish.identifier) {
            (Some(md5), _) => body["md5"] = json!(md5),
            (None, Some(identifier)) => body["identifier"] = json!(identifier),
            (None, None) => {}
        }
        if !wish.headers.is_empty() {
            body["headers"] = json!(wish.headers);
        }
        body
    }

    /// Gets one piece, writes it, and reports it.
    pub fn get_piece(self: Arc<Self>, offer: Offer, node: SocketAddrV4, task: String, source: Option<i64>) {
        let item = |result, piece_size| Item {
            dst: offer.cid.clone(),
            range: offer.range.clone(),
            result,
            status: 701,
            piece_size,
            node,
            task: task.clone(),
        };
        match self.piece(&offer, node, &task, source) {
            _ if self.is_killed() => {}
            Ok(content) => {
                self.count(|counts| match () {
                    () if offer.path.contains("://") => counts.from_source += 1,
                    () if offer.is_from_supernode() => counts.from_supernode += 1,
                    () => counts.from_peers += 1,
                });
                *lock(&self.writes.0) += 1;
                self.queue.push(item(503, Some(offer.piece_size)));
                let size = u64::from(offer.piece_size.unsigned_abs());
                let content_size = if source.is_some() { size } else { size - 5 };
                let offset = offer.piece_num.unsigned_abs() * content_size;
                self.file.write_all_at(&content, offset).expect("the test's directory has room");
                *lock(&self.writes.0) -= 1;
                self.writes.1.notify_all();
                for wait in [50, 250, 500] {
                    if self.is_killed() {
                        return;
                    }
                    let accepted =
                        self.with_wire(node, |wire| wire.success(&task, &self.cid, &offer.cid, &offer.range));
                    if accepted {
                        self.count(|counts| counts.successes += 1);
                        self.written.push(());
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(wait));
                }
            }
            Err(_) => {
                self.count(|counts| counts.failures += 1);
                std::thread::sleep(FAILURE);
                self.queue.push(item(500, None));
            }
        }
    }

    /// Downloads the content of one piece, and reports what is wrong with it.
    fn piece(
        &self,
        offer: &Offer,
        node: SocketAddrV4,
        task: &str,
        source: Option<i64>,
    ) -> io::Result<Vec<u8>> {
        let bad = |what: &str| io::Error::other(what.to_owned());
        let holder = format!("{}:{}", offer.peer_ip, offer.peer_port);
        if !offer.peer_ip.is_empty() {
            open(self.ip, holder.parse().map_err(io::Error::other)?)?;
        }
        let is_at_source = offer.path.contains("://");
        let (server, target) = if is_at_source {
            let rest = offer.path.strip_prefix("http://").ok_or_else(|| bad("not http"))?;
            let (server, path) = rest.split_once('/').ok_or_else(|| bad("no path"))?;
            (server.to_owned(), format!("/{path}"))
        } else {
            (holder, offer.path.clone())
        };
        let mut range = offer.range.clone();
        if let (Some(length), Some((first, last))) = (source, offer.range.split_once('-'))
            && length > 0
        {
            let last: i64 = last.parse().map_err(io::Error::other)?;
            range = format!("{first}-{}", last.min(length - 1));
        }
        let (number, size) = (offer.piece_num.to_string(), offer.piece_size.to_string());
        let range = format!("bytes={range}");
        let mut headers = vec![
            ("Range", range.as_str()),
            ("Piecenum", &number),
            ("Piecesize", &size),
            ("User-Agent", "dfget/1.0.6"),
        ];
        if source.is_some() {
            headers.push(("Cdnsource", "source"));
            headers.extend(self.wish.headers.iter().filter_map(|header| header.split_once(':')));
        }
        let bytes = u64::from(offer.piece_size.unsigned_abs());
        let (mut hash, mut piece) = (Md5::new(), Vec::new());
        let mut http = HttpClient::from(self.ip, server.parse().map_err(io::Error::other)?)
            .with_timeout(PIECE + Duration::from_secs(bytes / RATE_MIN));
        let response = http.stream("GET", &target, &headers, b"", &mut |chunk| {
            if self.is_killed() {
                return Err(bad("killed"));
            }
            self.spend(chunk.len());
            hash.update(chunk);
            piece.extend_from_slice(chunk);
            Ok(())
        })?;
        let from = format!("srcCid={}&dstCid={}&taskId={task}", self.cid, offer.cid);
        if response.status == 404 {
            let empty = "dstIp=&range=&realMd5=&expectedMd5=";
            self.with_wire(node, |wire| wire.error(&format!("errorType=FILE_NOT_EXIST&{from}&{empty}")));
        }
        if !(200..300).contains(&response.status) {
            return Err(bad(&format!("status {}", response.status)));
        }
        let (real, expected) = (hex(&hash.finalize()), offer.piece_md5.split(':').next().unwrap_or_default());
        if !expected.is_empty() && real != expected {
            let (ip, range) = (&offer.peer_ip, &offer.range);
            let rest = format!("dstIp={ip}&range={range}&realMd5={real}&expectedMd5={expected}");
            self.with_wire(node, |wire| wire.error(&format!("errorType=FILE_MD5_NOT_MATCH&{from}&{rest}")));
            return Err(bad("the MD5 is wrong"));
        }
        if source.is_some() {
            return Ok(piece);
        }
        let content = unwrap(&piece, bytes).ok_or_else(|| bad("the head or the tail is wrong"))?;
        Ok(content.to_vec())
    }
}

/// Hexadecimal digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
