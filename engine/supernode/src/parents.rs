//! Peers of Sampan's own wire: which pieces of which task each has, and which parents are named to it.
//!
//! Owned by the event loop. These peers agree on pieces between themselves; the supernode names parents and never
//! a piece. Peers of Dragonfly's wire are in [`crate::progress`]. docs/peers.md, "Wire 2".

use crate::piece_set::PieceSet;
use crate::task_id::TaskId;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::time::{Duration, Instant};

/// Most parents that are named at a time.
pub const PARENTS_MAX: usize = 4;
/// Most peers of one task.
const PEERS_MAX: usize = 20_000;
/// Most memory for the pieces of all peers of all tasks, in bytes.
const HAVE_BYTES_MAX: u64 = 128 << 20;
/// Most peers of a rack, of a zone and of the task that are looked at for one choice.
const LOOKS: usize = 64;

/// A peer of one task.
#[derive(Clone, Debug)]
pub struct OwnPeer {
    /// The ID, which the peer has chosen.
    pub id: String,
    /// The address of the peer's upload server.
    pub ip: IpAddr,
    /// The port of the peer's upload server; 0 if it has none.
    pub port: u16,
    /// The zone of the peer's host; may be empty.
    pub zone: String,
    /// The rack of the peer's host; may be empty.
    pub rack: String,
    /// The pieces that the peer has.
    pub have: PieceSet,
    /// The address from which the peer has registered. Only requests from this address may speak for the peer.
    pub remote: IpAddr,
    /// When the peer was last heard of.
    pub seen: Instant,
}

/// Why a peer is not added or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParentsError {
    /// A peer at another address has this ID.
    Taken,
    /// There is no such peer.
    Unknown,
    /// There are too many peers, or they have too many pieces.
    Full,
}

/// The peers of one task.
#[derive(Debug, Default)]
struct TaskPeers {
    peers: BTreeMap<String, OwnPeer>,
    /// Rack and ID of each peer that has a rack.
    racks: BTreeSet<(String, String)>,
    /// Zone and ID of each peer that has a zone.
    zones: BTreeSet<(String, String)>,
}

/// The peers of all tasks.
#[derive(Debug, Default)]
pub struct Parents {
    tasks: HashMap<TaskId, TaskPeers>,
    /// Memory for the pieces of all peers, in bytes.
    have_bytes: u64,
}

impl TaskPeers {
    fn insert(&mut self, peer: OwnPeer) {
        self.remove(&peer.id);
        for (group, name) in [(&mut self.racks, &peer.rack), (&mut self.zones, &peer.zone)] {
            if !name.is_empty() {
                group.insert((name.clone(), peer.id.clone()));
            }
        }
        self.peers.insert(peer.id.clone(), peer);
    }

    fn remove(&mut self, id: &str) -> Option<OwnPeer> {
        let peer = self.peers.remove(id)?;
        self.racks.remove(&(peer.rack.clone(), peer.id.clone()));
        self.zones.remove(&(peer.zone.clone(), peer.id.clone()));
        Some(peer)
    }

    /// Some peers other than `id`: those of its rack, of its zone, and of the task that follow it in the order of
    /// IDs. So each peer looks at others, and the number of peers does not matter.
    fn candidates(&self, id: &str) -> Vec<&OwnPeer> {
        let near = |group: &BTreeSet<(String, String)>, name: &str| {
            let first = (name.to_owned(), String::new());
            let own = (name.to_owned(), id.to_owned());
            let after = group.range(own.clone()..).take_while(|(of, _)| *of == own.0);
            let around = after.chain(group.range(first..own.clone())).filter(|(_, of)| of != id);
            around.take(LOOKS).filter_map(|(_, id)| self.peers.get(id)).collect::<Vec<_>>()
        };
        let mut found = Vec::new();
        if let Some(own) = self.peers.get(id) {
            for (group, name) in [(&self.racks, &own.rack), (&self.zones, &own.zone)] {
                if !name.is_empty() {
                    found.extend(near(group, name));
                }
            }
        }
        let after = self.peers.range::<str, _>((Bound::Included(id), Bound::Unbounded));
        let before = self.peers.range::<str, _>((Bound::Unbounded, Bound::Excluded(id)));
        found.extend(after.chain(before).filter(|(of, _)| *of != id).take(LOOKS).map(|(_, peer)| peer));
        let mut seen = HashSet::new();
        found.retain(|peer| seen.insert(&peer.id));
        found
    }
}

impl Parents {
    /// Adds a peer of `task`, or replaces it.
    ///
    /// # Errors
    /// [`ParentsError::Taken`]: a peer at another address has this ID. [`ParentsError::Full`]: there is no room.
    pub fn announce(&mut self, task: TaskId, peer: OwnPeer) -> Result<(), ParentsError> {
        let known = self.get(&task, &peer.id);
        if known.is_some_and(|known| known.remote != peer.remote) {
            return Err(ParentsError::Taken);
        }
        let before = known.map_or(0, |known| known.have.memory());
        let bytes = self.have_bytes.saturating_sub(before).saturating_add(peer.have.memory());
        let count = self.tasks.get(&task).map_or(0, |task| task.peers.len());
        if bytes > HAVE_BYTES_MAX || known.is_none() && count >= PEERS_MAX {
            return Err(ParentsError::Full);
        }
        self.have_bytes = bytes;
        self.tasks.entry(task).or_default().insert(peer);
        Ok(())
    }

    /// Records which pieces the peer `id` has, which sends this from `remote`.
    ///
    /// # Errors
    /// [`ParentsError`]: there is no such peer, it has another address, or there is no room. Nothing has changed
    /// then.
    pub fn set_have(
        &mut self,
        task: &TaskId,
        id: &str,
        have: PieceSet,
        remote: IpAddr,
        now: Instant,
    ) -> Result<(), ParentsError> {
        let peers = self.tasks.get_mut(task).ok_or(ParentsError::Unknown)?;
        let peer = peers.peers.get_mut(id).ok_or(ParentsError::Unknown)?;
        if peer.remote != remote {
            return Err(ParentsError::Taken);
        }
        let bytes = self.have_bytes.saturating_sub(peer.have.memory()).saturating_add(have.memory());
        if bytes > HAVE_BYTES_MAX {
            return Err(ParentsError::Full);
        }
        self.have_bytes = bytes;
        (peer.have, peer.seen) = (have, now);
        Ok(())
    }

    /// Records that the peer `id` was heard of from `remote`.
    pub fn touch(&mut self, task: &TaskId, id: &str, remote: IpAddr, now: Instant) {
        let peer = self.tasks.get_mut(task).and_then(|peers| peers.peers.get_mut(id));
        if let Some(peer) = peer.filter(|peer| peer.remote == remote) {
            peer.seen = now;
        }
    }

    /// The peer `id` of `task`.
    pub fn get(&self, task: &TaskId, id: &str) -> Option<&OwnPeer> {
        self.tasks.get(task)?.peers.get(id)
    }

    /// Removes the peer `id` of `task`, which asks for this from `remote`.
    ///
    /// # Errors
    /// [`ParentsError::Taken`]: the peer has another address. [`ParentsError::Unknown`]: there is no such peer.
    pub fn remove(&mut self, task: &TaskId, id: &str, remote: IpAddr) -> Result<OwnPeer, ParentsError> {
        let peers = self.tasks.get_mut(task).ok_or(ParentsError::Unknown)?;
        if peers.peers.get(id).is_some_and(|peer| peer.remote != remote) {
            return Err(ParentsError::Taken);
        }
        let removed = peers.remove(id).ok_or(ParentsError::Unknown)?;
        self.have_bytes = self.have_bytes.saturating_sub(removed.have.memory());
        if peers.peers.is_empty() {
            self.tasks.remove(task);
        }
        Ok(removed)
    }

    /// The best parents for the peer `id`, of a bounded number that is looked at: those in its rack first, then
    /// those in its zone, then those with the most pieces that it lacks.
    pub fn choose(&self, task: &TaskId, id: &str) -> Vec<&OwnPeer> {
        let Some(peers) = self.tasks.get(task) else { return Vec::new() };
        let own = peers.peers.get(id);
        let near = |of: fn(&OwnPeer) -> &str, peer: &OwnPeer| {
            own.is_some_and(|own| !of(own).is_empty() && of(own) == of(peer))
        };
        let lacks = |peer: &OwnPeer| own.map_or(peer.have.len(), |own| peer.have.len_without(&own.have));
        let mut parents: Vec<(bool, bool, u32, &OwnPeer)> = peers
            .candidates(id)
            .into_iter()
            .filter(|peer| peer.port != 0)
            .map(|peer| (near(|p| &p.rack, peer), near(|p| &p.zone, peer), lacks(peer), peer))
            .filter(|(_, _, useful, _)| *useful > 0)
            .collect();
        // Between equals, the one whose ID follows: not all peers get the same parents.
        parents.sort_by_key(|(rack, zone, useful, _)| std::cmp::Reverse((*rack, *zone, *useful)));
        parents.into_iter().take(PARENTS_MAX).map(|(.., peer)| peer).collect()
    }

    /// Forgets the peers that were not heard of for `idle`.
    pub fn expire(&mut self, now: Instant, idle: Duration) {
        let silent = |peer: &OwnPeer| now.saturating_duration_since(peer.seen) >= idle;
        for peers in self.tasks.values_mut() {
            let ended: Vec<String> =
                peers.peers.values().filter(|peer| silent(peer)).map(|peer| peer.id.clone()).collect();
            for peer in ended.iter().filter_map(|id| peers.remove(id)) {
                self.have_bytes = self.have_bytes.saturating_sub(peer.have.memory());
            }
        }
        self.tasks.retain(|_, peers| !peers.peers.is_empty());
    }

    /// Forgets all peers of `task`.
    pub fn forget(&mut self, task: &TaskId) {
        for peer in self.tasks.remove(task).into_iter().flat_map(|peers| peers.peers.into_values()) {
            self.have_bytes = self.have_bytes.saturating_sub(peer.have.memory());
        }
    }

    /// The number of peers of all tasks.
    pub fn len(&self) -> usize {
        self.tasks.values().map(|peers| peers.peers.len()).sum()
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
            remote: ip,
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
            parents.announce(task, peer(id, rack, zone, pieces, now)).expect("room");
        }
        let mut silent = peer("silent", "r1", "z1", &[5], now);
        silent.port = 0;
        parents.announce(task, silent).expect("room");
        let ids = |of: &Parents, id| {
            of.choose(&task, id).iter().map(|p| p.id.clone()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(ids(&parents, "me"), "rack zone far farther");
        assert!(ids(&parents, "unknown").starts_with("far "));
        parents.remove(&task, "rack", Ipv4Addr::LOCALHOST.into()).expect("there");
        assert!(ids(&parents, "me").starts_with("zone "));
        parents.expire(now + Duration::from_secs(5), Duration::from_secs(5));
        assert!(parents.is_empty());
    }

    #[test]
    fn a_peer_is_spoken_for_from_its_own_address_only() {
        let (mut parents, task, now) = (Parents::default(), TaskId::new("u", "", ""), Instant::now());
        let (own, other): (IpAddr, IpAddr) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        parents.announce(task, peer("a", "", "", &[], now)).expect("room");
        let foreign = OwnPeer { remote: other, ..peer("a", "", "", &[1], now) };
        assert_eq!(parents.announce(task, foreign), Err(ParentsError::Taken));
        assert_eq!(parents.remove(&task, "a", other).err(), Some(ParentsError::Taken));
        let have = PieceSet::from_bytes(&[0b111], 3);
        assert_eq!(parents.set_have(&task, "a", have.clone(), other, now), Err(ParentsError::Taken));
        assert_eq!(parents.set_have(&task, "b", have.clone(), own, now), Err(ParentsError::Unknown));
        let later = now + Duration::from_secs(1);
        parents.touch(&task, "a", other, later);
        assert_eq!(parents.get(&task, "a").expect("there").seen, now);
        parents.set_have(&task, "a", have, own, later).expect("its own");
        assert_eq!(parents.get(&task, "a").expect("there").have.len(), 3);
    }

    #[test]
    fn memory_for_pieces_is_bounded_and_returned() {
        let (mut parents, task, now) = (Parents::default(), TaskId::new("u", "", ""), Instant::now());
        let large = |id: &str| peer(id, "r", "z", &[(8 << 20) * 8 - 1], now);
        let full = (0..1000).find(|n| parents.announce(task, large(&n.to_string())).is_err());
        assert!(full.is_some_and(|n| (10..=16).contains(&n)), "{full:?}");
        parents.announce(task, peer("0", "r", "z", &[], now)).expect("replaced by less");
        parents.announce(task, large("more")).expect("room again");
        parents.remove(&task, "more", Ipv4Addr::LOCALHOST.into()).expect("there");
        parents.expire(now + Duration::from_secs(9), Duration::from_secs(9));
        assert_eq!((parents.have_bytes, parents.len()), (0, 0));
        parents.announce(task, large("again")).expect("room");
        parents.forget(&task);
        assert_eq!((parents.have_bytes, parents.len()), (0, 0));
    }

    #[test]
    fn many_peers_look_at_different_ones() {
        let (mut parents, task, now) = (Parents::default(), TaskId::new("u", "", ""), Instant::now());
        for n in 0..2000_u32 {
            let rack = format!("r{}", n % 40);
            parents.announce(task, peer(&format!("{n:04}"), &rack, "", &[n % 7], now)).expect("room");
        }
        let mut named = std::collections::HashSet::new();
        for n in 0..2000_u32 {
            let id = format!("{n:04}");
            let chosen = parents.choose(&task, &id);
            assert_eq!(chosen.len(), PARENTS_MAX);
            let rack = format!("r{}", n % 40);
            assert!(chosen.iter().all(|peer| peer.rack == rack && peer.id != id), "{id}: {chosen:?}");
            named.extend(chosen.iter().map(|peer| peer.id.clone()));
        }
        assert!(named.len() > 1000, "{} of 2000 peers are parents", named.len());
    }
}
