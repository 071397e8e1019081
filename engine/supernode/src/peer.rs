//! Peers: the upload servers of clients, each with the address at which others reach it.
//!
//! Owned by the event loop. A client of Dragonfly gets a new peer for each registration. This module knows no task
//! and no piece. docs/peers.md, "The model".

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Most peers that are remembered; a further one is refused.
pub const PEERS_MAX: usize = 200_000;
/// Most peers on a page of a list.
pub const PAGE_MAX: usize = 1000;

/// A peer to register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRequest {
    /// The address that others connect to.
    pub ip: IpAddr,
    /// The port of its upload server; 0 if it has none.
    pub port: u16,
    /// The name of its host.
    pub host_name: String,
    /// The version of its program.
    pub version: String,
}

/// A registered peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its ID: `HOST-IP-NANOSECONDS`.
    pub id: String,
    /// What it registered.
    pub request: PeerRequest,
    /// When it registered.
    pub created: SystemTime,
    /// When the peer last sent a request.
    pub seen: Instant,
    /// When it said that its upload server ends.
    pub down: Option<Instant>,
}

/// All peers, in the order of their registration.
#[derive(Debug, Default)]
pub struct Peers {
    by_id: HashMap<String, u64>,
    list: BTreeMap<u64, Peer>,
    next: u64,
    last_nanos: u128,
}

impl Peers {
    /// Registers a peer and returns its new ID; `None` if there are too many.
    pub fn register(&mut self, request: PeerRequest, clock: SystemTime, now: Instant) -> Option<String> {
        if self.list.len() >= PEERS_MAX {
            return None;
        }
        // Two registrations of one host within a nanosecond get different IDs, also when the clock was set back.
        let nanos = clock.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        self.last_nanos = nanos.max(self.last_nanos + 1);
        let id = format!("{}-{}-{}", request.host_name, request.ip, self.last_nanos);
        let peer = Peer { id: id.clone(), request, created: clock, seen: now, down: None };
        self.insert(peer);
        Some(id)
    }

    /// Brings back a peer that was registered before this process began. Ignored if the ID is known.
    pub fn restore(&mut self, peer: Peer) {
        let nanos = peer.id.rsplit('-').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0);
        self.last_nanos = self.last_nanos.max(nanos);
        if self.by_id.contains_key(&peer.id) {
            return;
        }
        self.insert(peer);
    }

    fn insert(&mut self, peer: Peer) {
        self.by_id.insert(peer.id.clone(), self.next);
        self.list.insert(self.next, peer);
        self.next += 1;
    }

    /// Removes a peer.
    pub fn deregister(&mut self, id: &str) -> Option<Peer> {
        self.list.remove(&self.by_id.remove(id)?)
    }

    /// The peer `id`.
    pub fn get(&self, id: &str) -> Option<&Peer> {
        self.list.get(self.by_id.get(id)?)
    }

    /// Records that the peer has sent a request.
    pub fn touch(&mut self, id: &str, now: Instant) {
        if let Some(peer) = self.by_id.get(id).and_then(|at| self.list.get_mut(at)) {
            peer.seen = now;
        }
    }

    /// Records that the peer's upload server ends.
    pub fn set_down(&mut self, id: &str, now: Instant) {
        if let Some(peer) = self.by_id.get(id).and_then(|at| self.list.get_mut(at)) {
            peer.down.get_or_insert(now);
        }
    }

    /// All peers, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.list.values()
    }

    /// Page `number` of the peers, with `size` peers a page (0 means all, at most [`PAGE_MAX`]); newest first if
    /// `descending`. Pages begin at 0.
    pub fn list(&self, number: usize, size: usize, descending: bool) -> Vec<&Peer> {
        let size = if size == 0 { PAGE_MAX } else { size.min(PAGE_MAX) };
        let skip = number.saturating_mul(size);
        match descending {
            false => self.list.values().skip(skip).take(size).collect(),
            true => self.list.values().rev().skip(skip).take(size).collect(),
        }
    }

    /// The number of peers.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is no peer.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn request(host: u8) -> PeerRequest {
        let ip = Ipv4Addr::new(10, 0, 0, host).into();
        PeerRequest { ip, port: 15001, host_name: format!("host{host}"), version: "1.0.6".to_owned() }
    }

    #[test]
    fn each_registration_has_an_id_of_its_own() {
        let (mut peers, clock, now) = (Peers::default(), UNIX_EPOCH, Instant::now());
        let first = peers.register(request(1), clock, now).expect("room");
        let second = peers.register(request(1), clock, now).expect("room");
        assert_ne!(first, second);
        assert!(first.starts_with("host1-10.0.0.1-"), "{first}");
        assert!(peers.deregister(&first).is_some() && peers.deregister(&first).is_none());
        assert_eq!((peers.len(), peers.get(&second).map(|p| p.request.port)), (1, Some(15001)));
    }

    #[test]
    fn pages_cover_all_peers_in_both_directions() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        for host in 0..5 {
            peers.register(request(host), UNIX_EPOCH, now);
        }
        let hosts =
            |page: Vec<&Peer>| page.iter().map(|p| p.request.host_name.clone()).collect::<Vec<_>>().join(" ");
        assert_eq!(hosts(peers.list(0, 2, false)), "host0 host1");
        assert_eq!(hosts(peers.list(2, 2, false)), "host4");
        assert_eq!(hosts(peers.list(0, 2, true)), "host4 host3");
        assert_eq!(hosts(peers.list(3, 2, true)), "");
        assert_eq!(peers.list(usize::MAX, usize::MAX, false).len(), 0);
        assert_eq!(peers.list(0, 0, false).len(), 5);
    }
}
