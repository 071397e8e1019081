//! Peers of Sampan's own wire: who has which pieces of which task, and who is named as a parent of whom.
//!
//! Owned by the event loop. These peers agree on pieces between themselves; the supernode names parents and never a piece.
//! Peers of Dragonfly's wire are in [`crate::progress`]. docs/peers.md, "Wire 2".

use crate::piece_set::PieceSet;
use crate::task_id::TaskId;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Most parents that are named at a time.
pub const PARENTS_MAX: usize = 4;
/// Most peers of one task.
const PEERS_MAX: usize = 20_000;

/// A peer of one task.
#[derive(Clone, Debug)]
pub struct OwnPeer {
    /// Its ID, which it has chosen.
    pub id: String,
    /// The address of its upload server.
    pub ip: IpAddr,
    /// The port of its upload server; 0 if it has none.
    pub port: u16,
    /// The zone of its host; may be empty.
    pub zone: String,
    /// The rack of its host; may be empty.
    pub rack: String,
    /// The pieces that it has.
    pub have: PieceSet,
    /// When it was last heard of.
    pub seen: Instant,
}

/// The peers of all tasks.
#[derive(Debug, Default)]
pub struct Parents {
    tasks: HashMap<TaskId, BTreeMap<String, OwnPeer>>,
}

impl Parents {
    /// Adds a peer of `task`, or replaces it. Returns false if the task has too many.
    pub fn announce(&mut self, task: TaskId, peer: OwnPeer) -> bool {
        let peers = self.tasks.entry(task).or_default();
        if peers.len() >= PEERS_MAX && !peers.contains_key(&peer.id) {
            return false;
        }
        peers.insert(peer.id.clone(), peer);
        true
    }

    /// The peer `id` of `task`, to change what it has.
    pub fn get_mut(&mut self, task: &TaskId, id: &str) -> Option<&mut OwnPeer> {
        self.tasks.get_mut(task)?.get_mut(id)
    }

    /// The peer `id` of `task`.
    pub fn get(&self, task: &TaskId, id: &str) -> Option<&OwnPeer> {
        self.tasks.get(task)?.get(id)
    }

    /// Removes the peer `id` of `task`.
    pub fn remove(&mut self, task: &TaskId, id: &str) -> Option<OwnPeer> {
        let peers = self.tasks.get_mut(task)?;
        let removed = peers.remove(id);
        if peers.is_empty() {
            self.tasks.remove(task);
        }
        removed
    }

    /// The best parents for the peer `id`: those in its rack first, then those in its zone, then those with the most
    /// pieces that it lacks.
    pub fn choose(&self, task: &TaskId, id: &str) -> Vec<&OwnPeer> {
        let Some(peers) = self.tasks.get(task) else { return Vec::new() };
        let own = peers.get(id);
        let near = |of: fn(&OwnPeer) -> &str, peer: &OwnPeer| {
            own.is_some_and(|own| !of(own).is_empty() && of(own) == of(peer))
        };
        let lacks = |peer: &OwnPeer| match own {
            Some(own) => peer.have.iter().filter(|piece| !own.have.contains(*piece)).count(),
            None => peer.have.len() as usize,
        };
        let mut parents: Vec<(bool, bool, usize, &OwnPeer)> = peers
            .values()
            .filter(|peer| peer.id != id && peer.port != 0)
            .map(|peer| (near(|p| &p.rack, peer), near(|p| &p.zone, peer), lacks(peer), peer))
            .filter(|(_, _, useful, _)| *useful > 0)
            .collect();
        parents
            .sort_by_key(|(rack, zone, useful, peer)| std::cmp::Reverse((*rack, *zone, *useful, peer.seen)));
        parents.into_iter().take(PARENTS_MAX).map(|(.., peer)| peer).collect()
    }

    /// Forgets the peers that were not heard of for `idle`.
    pub fn expire(&mut self, now: Instant, idle: Duration) {
        for peers in self.tasks.values_mut() {
            peers.retain(|_, peer| now.saturating_duration_since(peer.seen) < idle);
        }
        self.tasks.retain(|_, peers| !peers.is_empty());
    }

    /// Forgets all peers of `task`.
    pub fn forget(&mut self, task: &TaskId) {
        self.tasks.remove(task);
    }

    /// The number of peers of all tasks.
    pub fn len(&self) -> usize {
        self.tasks.values().map(BTreeMap::len).sum()
    }

    /// Whether there is no peer.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn peer(id: &str, rack: &str, zone: &str, pieces: &[u32], now: Instant) -> OwnPeer {
        let mut have = PieceSet::default();
        for piece in pieces {
            have.insert(*piece);
        }
        let ip = Ipv4Addr::LOCALHOST.into();
        OwnPeer {
            id: id.to_owned(),
            ip,
            port: 1,
            zone: zone.to_owned(),
            rack: rack.to_owned(),
            have,
            seen: now,
        }
    }

    #[test]
    fn parents_are_near_and_have_what_is_lacking() {
        let (mut parents, task, now) = (Parents::default(), TaskId::new("u", "", ""), Instant::now());
        for (id, rack, zone, pieces) in [
            ("me", "r1", "z1", &[0, 1][..]),
            ("rack", "r1", "z1", &[2]),
            ("zone", "r2", "z1", &[2, 3]),
            ("far", "r3", "z2", &[2, 3, 4]),
            ("useless", "r1", "z1", &[0, 1]),
            ("farther", "r4", "z2", &[2, 3]),
        ] {
            assert!(parents.announce(task, peer(id, rack, zone, pieces, now)));
        }
        let mut silent = peer("silent", "r1", "z1", &[5], now);
        silent.port = 0;
        parents.announce(task, silent);
        let ids = |of: &Parents, id| {
            of.choose(&task, id).iter().map(|p| p.id.clone()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(ids(&parents, "me"), "rack zone far farther");
        assert!(ids(&parents, "unknown").starts_with("far "));
        parents.remove(&task, "rack");
        assert!(ids(&parents, "me").starts_with("zone "));
        parents.expire(now + Duration::from_secs(5), Duration::from_secs(5));
        assert!(parents.is_empty());
    }
}
