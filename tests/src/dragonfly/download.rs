//! One download: reports, and moves between supernodes.
//!
//! One thread pulls; a thread for each piece gets it, writes it, and reports that it is on disk. Only the last of several
//! successes is reported by a pull, as in dfget.

use super::outcome::End;
use super::piece::{Item, Shared, hex, lock};
use super::wire::{Offer, Pull, Pulled, WireError};
use md5::{Digest, Md5};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for a report of a piece before the last one is sent all the same.
const MERGE: Duration = Duration::from_secs(2);
/// Most running pieces with which a success is reported by a pull.
const MERGE_RUNNING: usize = 2;
/// First and longest wait after the answer "wait".
const WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(800));

/// Downloads; `supernodes` are tried in this order, each once.
pub fn run(shared: &Arc<Shared>, supernodes: &[SocketAddrV4]) -> End {
    let until = Instant::now() + shared.wish.patience;
    let mut nodes: VecDeque<SocketAddrV4> = supernodes.iter().copied().collect();
    let mut pulling = match Pulling::register(shared, &mut nodes) {
        Ok(pulling) => pulling,
        Err(End::Source(_, why)) => return End::Source(1, why),
        Err(end) => return end,
    };
    shared.queue.push(pulling.item(502, 700));
    let mut last = None;
    let end = loop {
        if shared.is_killed() {
            return End::Killed;
        }
        if Instant::now() > until {
            break End::TimedOut;
        }
        if !pulling.next_item(&mut last) {
            continue;
        }
        let Some(item) = last.take() else { continue };
        match pulling.pull(item, &mut nodes, until) {
            Ok(None) => {}
            Ok(Some(md5)) => break pulling.finish(&md5),
            Err(end) => break end,
        }
    };
    if shared.is_killed() {
        return End::Killed;
    }
    let success = end == End::Complete;
    let (ip, port, length) = (shared.ip, shared.port, pulling.file_length);
    shared.with_wire(pulling.node, |wire| {
        wire.metrics(&shared.cid, ip, port, &pulling.task, length, success);
    });
    end
}

/// The state of the pulling thread.
struct Pulling {
    shared: Arc<Shared>,
    node: SocketAddrV4,
    task: String,
    is_source: bool,
    file_length: i64,
    /// The size of the pieces that the file is made of now, and the one of the last registration.
    piece_sizes: (i32, i32),
    /// The pieces that run (false) or are there (true).
    pieces: HashMap<String, bool>,
    wait: Duration,
}

impl Pulling {
    fn register(shared: &Arc<Shared>, nodes: &mut VecDeque<SocketAddrV4>) -> Result<Self, End> {
        let mut why = "no supernode is left".to_owned();
        while let Some(node) = nodes.pop_front() {
            let body = shared.registration(node);
            match shared.with_wire(node, |wire| wire.register(&body)) {
                Ok((200, Some(registered))) => {
                    shared.count(|counts| counts.registrations += 1);
                    lock(&shared.tasks).push((node, registered.task_id.clone()));
                    return Ok(Pulling {
                        shared: Arc::clone(shared),
                        node,
                        task: registered.task_id,
                        is_source: registered.cdn_source == "source",
                        file_length: registered.file_length,
                        piece_sizes: (registered.piece_size, registered.piece_size),
                        pieces: HashMap::new(),
                        wait: WAIT.0,
                    });
                }
                Ok((607, _)) => return Err(End::Source(1, "the origin has no such file".to_owned())),
                Ok((608, _)) => return Err(End::NeedsCredentials),
                Ok((code, _)) => why = format!("{node}: code {code}"),
                Err(WireError::Broken(why)) => return Err(End::Broken(why)),
                Err(error) => why = format!("{node}: {error}"),
            }
        }
        Err(End::Source(3, why))
    }

    fn item(&self, result: u16, status: u16) -> Item {
        Item {
            dst: String::new(),
            range: String::new(),
            result,
            status,
            piece_size: None,
            node: self.node,
            task: self.task.clone(),
        }
    }

    fn running(&self) -> usize {
        self.pieces.values().filter(|is_there| !**is_there).count()
    }

    /// Takes the next result; tells whether it is time to report the last one.
    fn next_item(&mut self, last: &mut Option<Item>) -> bool {
        let mut may_merge = true;
        match self.shared.queue.pop(MERGE) {
            Some(mut item) => {
                if item.piece_size.is_some_and(|size| size != self.piece_sizes.1) {
                    return false;
                }
                if item.node != self.node {
                    item.dst.clear();
                    item.node = self.node;
                    item.task.clone_from(&self.task);
                }
                if !item.range.is_empty() {
                    match self.pieces.get_mut(&item.range) {
                        None => return false,
                        Some(is_there) if item.result == 503 => *is_there = true,
                        Some(true) => {}
                        Some(false) => drop(self.pieces.remove(&item.range)),
                    }
                }
                *last = Some(item);
            }
            None => may_merge = false,
        }
        let Some(item) = last else { return false };
        may_merge &= item.result == 503;
        !may_merge || (self.shared.queue.len() == 0 && self.running() <= MERGE_RUNNING)
    }

    /// Asks for pieces until there is something else to do; `Some` is the MD5 of the finished file.
    fn pull(
        &mut self,
        mut item: Item,
        nodes: &mut VecDeque<SocketAddrV4>,
        until: Instant,
    ) -> Result<Option<String>, End> {
        let shared = Arc::clone(&self.shared);
        loop {
            if shared.is_killed() || Instant::now() > until {
                return Ok(None);
            }
            let (dst, range, task) = (item.dst.clone(), item.range.clone(), item.task.clone());
            let pull = Pull { dst, range, result: item.result, status: item.status, task };
            shared.count(|counts| counts.pulls += 1);
            match shared.with_wire(item.node, |wire| wire.pull(&shared.cid, &pull)) {
                Ok(Pulled::Finished(md5, _)) => return Ok(Some(md5)),
                Ok(Pulled::Get(offers)) => return self.start(&item, offers).map(|()| None),
                Ok(Pulled::Wait) => {
                    shared.count(|counts| counts.waits += 1);
                    if shared.queue.len() > 0 {
                        return Ok(None);
                    }
                    shared.written.pop(self.wait);
                    self.wait = (self.wait * 2).min(WAIT.1);
                }
                Ok(Pulled::Other(code @ (200 | 603))) => self.must_run(&format!("code {code}"))?,
                Err(WireError::Broken(why)) => return Err(End::Broken(why)),
                Ok(Pulled::Other(_)) | Err(_) => {
                    // dfget keeps the kind of source and the length of its first registration.
                    let next = Pulling::register(&shared, nodes)?;
                    self.piece_sizes.1 = next.piece_sizes.1;
                    item.status = 700;
                    item.node = next.node;
                    item.task = next.task;
                }
            }
        }
    }

    /// Without a running piece, dfget would now wait for ever.
    fn must_run(&self, what: &str) -> Result<(), End> {
        if self.running() == 0 && self.shared.queue.len() == 0 {
            return Err(End::Broken(format!("{what}, and the client has nothing to do")));
        }
        Ok(())
    }

    fn start(&mut self, item: &Item, offers: Vec<Offer>) -> Result<(), End> {
        let shared = Arc::clone(&self.shared);
        if self.piece_sizes.0 != self.piece_sizes.1 {
            self.piece_sizes.0 = self.piece_sizes.1;
            self.pieces.clear();
            shared.file.set_len(0).expect("the file is open for writing");
        }
        if self.node != item.node {
            self.node = item.node;
            self.task.clone_from(&item.task);
        }
        for offer in offers {
            if offer.piece_size != self.piece_sizes.1 {
                return Err(End::Broken(format!("piece size {} after another one", offer.piece_size)));
            }
            match self.pieces.get(&offer.range) {
                Some(true) => {
                    shared.count(|counts| counts.repeated += 1);
                    let (dst, range) = (offer.cid, offer.range);
                    shared.queue.push(Item { dst, range, ..self.item(503, 701) });
                }
                Some(false) => {}
                None => {
                    self.pieces.insert(offer.range.clone(), false);
                    let (shared, node, task) = (Arc::clone(&shared), self.node, self.task.clone());
                    let source = self.is_source.then_some(self.file_length);
                    std::thread::spawn(move || shared.get_piece(offer, node, task, source));
                }
            }
        }
        self.must_run("code 601 without a new piece")
    }

    /// Waits until all pieces are written, and compares the MD5.
    fn finish(&self, md5: &str) -> End {
        let (writes, written) = &self.shared.writes;
        let left = written.wait_while(lock(writes), |left| *left > 0);
        drop(left.expect("no thread panics with the lock"));
        let expected = self.shared.wish.md5.as_deref().unwrap_or(md5);
        if !expected.is_empty() {
            let content = std::fs::read(&self.shared.path).expect("the file that was written");
            let real = hex(&Md5::digest(&content));
            if real != expected {
                return End::Broken(format!("the file has the MD5 {real} instead of {expected}"));
            }
        }
        End::Complete
    }
}
