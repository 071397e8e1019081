//! The clients of one task: which client has or fetches which piece.
//!
//! Owned by [`super::Progress`]; the managers record in it what clients report, and the scheduler starts pieces.
//! Keeps every count in step with the members. Chooses nothing.

use super::member::{Holder, Member, Running, SKIP_TIME, STALLED_SKIP_TIME, Slot};
use crate::piece_set::PieceSet;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Most pieces that a member uploads at a time.
pub const UPLOADS_MAX: usize = 5;
/// Most pieces of one task that the supernode uploads at a time.
pub const SUPERNODE_UPLOADS_MAX: u32 = 4;
/// Failures of a client in a row after which it gets pieces from the supernode alone.
pub const CLIENT_FAILURES_MAX: u32 = 5;
/// Failures of a holder in a row, with different clients, after which it is skipped by all.
pub const HOLDER_FAILURES_MAX: u32 = 5;
/// Number of such failures after which a holder is no longer one.
const HOLDER_FAILURES_END: u32 = 2 * HOLDER_FAILURES_MAX;

/// The clients of one task and their pieces.
#[derive(Debug, Default)]
pub struct Swarm {
    members: Vec<Option<Member>>,
    free: Vec<Slot>,
    by_cid: HashMap<String, Slot>,
    /// Pieces that the supernode can give.
    ready: PieceSet,
    /// For each piece, the members that can upload it.
    holders: Vec<PieceSet>,
    /// For each piece, the number of clients that fetch it.
    fetched_by: Vec<u32>,
    /// For each load, the members with that load that upload.
    by_load: [PieceSet; UPLOADS_MAX + 1],
    supernode_load: u32,
    /// The number of members so far.
    joined: u64,
    total: Option<u32>,
    /// The ends of all leases.
    leases: BTreeSet<(Instant, Slot, u32)>,
}

impl Swarm {
    /// Adds the client `cid`. A client that joins again counts as a new one, and reports its pieces again.
    pub fn join(&mut self, cid: &str, uploads: bool, now: Instant) -> Slot {
        if let Some(slot) = self.slot(cid) {
            self.leave(slot);
        }
        let slot = self.free.pop().unwrap_or(u32::try_from(self.members.len()).unwrap_or(u32::MAX));
        self.joined += 1;
        let mut member = Member::new(cid, self.joined, uploads, now);
        for piece in self.ready.iter() {
            member.wanted.insert(piece);
        }
        for (piece, _) in (0..).zip(&self.holders).filter(|(_, holders)| !holders.is_empty()) {
            member.wanted.insert(piece);
        }
        match self.members.get_mut(slot as usize) {
            Some(place) => *place = Some(member),
            None => self.members.push(Some(member)),
        }
        self.by_cid.insert(cid.to_owned(), slot);
        if uploads {
            self.count_load(slot, 0);
        }
        slot
    }

    /// The member with the client ID `cid`.
    pub fn slot(&self, cid: &str) -> Option<Slot> {
        self.by_cid.get(cid).copied()
    }

    /// The member `slot`.
    pub fn member(&self, slot: Slot) -> Option<&Member> {
        self.members.get(slot as usize)?.as_ref()
    }

    fn member_mut(&mut self, slot: Slot) -> Option<&mut Member> {
        self.members.get_mut(slot as usize)?.as_mut()
    }

    /// All members.
    pub fn members(&self) -> impl Iterator<Item = (Slot, &Member)> {
        (0..).zip(&self.members).filter_map(|(slot, member)| Some((slot, member.as_ref()?)))
    }

    /// The number of members.
    pub fn len(&self) -> usize {
        self.by_cid.len()
    }

    /// Whether the swarm has no member.
    pub fn is_empty(&self) -> bool {
        self.by_cid.is_empty()
    }

    /// The number of places for members, free ones included.
    pub fn slots(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX)
    }

    /// Pieces that the supernode can give.
    pub fn ready(&self) -> &PieceSet {
        &self.ready
    }

    /// Pieces that the supernode uploads now.
    pub fn supernode_load(&self) -> u32 {
        self.supernode_load
    }

    /// The members that can upload `piece`.
    pub fn holders(&self, piece: u32) -> Option<&PieceSet> {
        self.holders.get(piece as usize).filter(|holders| !holders.is_empty())
    }

    /// The members that upload and have this load.
    pub fn with_load(&self, load: usize) -> Option<&PieceSet> {
        self.by_load.get(load)
    }

    /// The number of members that have `piece` or fetch it.
    pub fn copies(&self, piece: u32) -> u32 {
        let fetched = self.fetched_by.get(piece as usize).copied().unwrap_or(0);
        self.holders.get(piece as usize).map_or(0, PieceSet::len) + fetched
    }

    /// Records that the client may have pieces that the swarm does not know.
    pub fn set_cautious(&mut self, slot: Slot) {
        if let Some(member) = self.member_mut(slot) {
            member.is_cautious = true;
        }
    }

    /// Sets the number of the file's pieces, once it is known.
    pub fn set_total(&mut self, total: u32) {
        self.total = Some(total);
    }

    /// Whether `piece` is a piece of the file. While the number of pieces is unknown, only those that somebody has
    /// are.
    pub fn is_piece(&self, piece: u32) -> bool {
        let is_known = || self.ready.contains(piece) || self.holders(piece).is_some();
        self.total.map_or_else(is_known, |total| piece < total)
    }

    /// Records that the client was heard of.
    pub fn touch(&mut self, slot: Slot, now: Instant) {
        if let Some(member) = self.member_mut(slot) {
            member.seen = now;
        }
    }

    /// Records that the supernode can give `piece`.
    pub fn on_ready(&mut self, piece: u32) {
        if self.ready.insert(piece) && self.holders(piece).is_none() {
            self.offer(piece);
        }
    }

    /// Records that the supernode cannot give `piece` any more.
    pub fn on_lost(&mut self, piece: u32) {
        if self.ready.remove(piece) && self.holders(piece).is_none() {
            self.withdraw(piece);
        }
    }

    /// Lets `slot` fetch `piece` from `holder`. Returns the end of the lease.
    pub fn start(&mut self, slot: Slot, piece: u32, holder: Holder, now: Instant) -> Option<Instant> {
        let member = self.member_mut(slot)?;
        if !member.wanted.remove(piece) {
            return None;
        }
        let until = now + member.lease();
        member.running.push(Running { piece, holder, began: now, until });
        self.leases.insert((until, slot, piece));
        *entry(&mut self.fetched_by, piece) += 1;
        match holder {
            Holder::Supernode => self.supernode_load += 1,
            Holder::Member(of) => self.add_load(of, true),
            Holder::Gone => {}
        }
        Some(until)
    }

    /// Ends the download of `piece` by `slot`, and returns it. The piece is neither wanted nor held then.
    fn end(&mut self, slot: Slot, piece: u32) -> Option<Running> {
        let member = self.member_mut(slot)?;
        let at = member.running.iter().position(|running| running.piece == piece)?;
        let running = member.running.swap_remove(at);
        self.leases.remove(&(running.until, slot, piece));
        if let Some(count) = self.fetched_by.get_mut(piece as usize) {
            *count = count.saturating_sub(1);
        }
        match running.holder {
            Holder::Supernode => self.supernode_load = self.supernode_load.saturating_sub(1),
            Holder::Member(of) => self.add_load(of, false),
            Holder::Gone => {}
        }
        self.want(slot, piece);
        Some(running)
    }

    /// Records that `slot` has received `piece`, though perhaps not on its disk. Returns false if that was known.
    pub fn on_received(&mut self, slot: Slot, piece: u32, now: Instant) -> bool {
        let running = self.end(slot, piece);
        let Some(member) = self.member_mut(slot) else { return false };
        member.seen = now;
        member.wanted.remove(piece);
        member.overdue.remove(piece);
        let is_new = member.have.insert(piece);
        if let Some(running) = running {
            (member.client_failures, member.expired) = (0, 0);
            let took = now.saturating_duration_since(running.began).max(Duration::from_millis(1));
            member.usual = if member.usual.is_zero() { took } else { (member.usual * 3 + took) / 4 };
            if let Holder::Member(of) = running.holder
                && let Some(holder) = self.member_mut(of)
            {
                (holder.holder_failures, holder.failed_for, holder.skipped_until) = (0, None, None);
                holder.seen = now;
            }
        }
        is_new
    }

    /// Records that `slot` has `piece` on its disk, so that others can fetch it there. Returns false if that was
    /// known.
    pub fn on_stored(&mut self, slot: Slot, piece: u32, now: Instant) -> bool {
        self.on_received(slot, piece, now);
        let Some(member) = self.member_mut(slot) else { return false };
        member.is_cautious = false;
        if !member.uploads {
            return false;
        }
        if !member.stored.insert(piece) {
            return false;
        }
        let was_available = self.ready.contains(piece) || self.holders(piece).is_some();
        entry(&mut self.holders, piece).insert(slot);
        if !was_available {
            self.offer(piece);
        }
        true
    }

    /// Records that `slot` could not fetch `piece` from `holder`. Ignored unless the piece runs: a client repeats a report
    /// until it gets a piece. Returns false then. If the piece runs from another holder by now, its lease ends all the
    /// same: the client has ignored that offer, since it was still waiting for the first holder.
    pub fn on_failed(&mut self, slot: Slot, piece: u32, holder: Holder, now: Instant) -> bool {
        let Some(running) = self.end(slot, piece) else { return false };
        if let Some(member) = self.member_mut(slot) {
            member.seen = now;
            member.overdue.remove(piece);
            member.client_failures += 1;
        }
        if running.holder == holder {
            self.fail(slot, holder, now);
        }
        true
    }

    fn fail(&mut self, slot: Slot, holder: Holder, now: Instant) {
        let Holder::Member(of) = holder else { return };
        let Some(number) = self.skip(slot, of, now, now + SKIP_TIME) else { return };
        let Some(failed) = self.member_mut(of) else { return };
        if failed.failed_for != Some(number) {
            failed.failed_for = Some(number);
            failed.holder_failures += 1;
        }
        if failed.holder_failures >= HOLDER_FAILURES_END {
            self.set_uploads(of, false);
        } else if failed.holder_failures >= HOLDER_FAILURES_MAX {
            failed.skipped_until = Some(now + SKIP_TIME);
        }
    }

    /// Lets the client `slot` skip the holder `of` until `until`. Returns the client's number.
    fn skip(&mut self, slot: Slot, of: Slot, now: Instant, until: Instant) -> Option<u64> {
        let holder = self.member(of)?.number;
        let member = self.member_mut(slot)?;
        member.skip(holder, now, until);
        Some(member.number)
    }

    /// Ends all leases that are over at `now`: the pieces are wanted again. Returns true if a lease was over.
    pub fn expire(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some((_, slot, piece)) = self.leases.first().copied().filter(|(until, ..)| *until <= now) {
            self.leases.pop_first();
            any = true;
            let Some(running) = self.end(slot, piece) else { continue };
            let Some(member) = self.member_mut(slot) else { continue };
            member.expired += 1;
            if !member.overdue.insert(piece) {
                // The client may have ignored this offer, since it still waits for the first holder. That is not the
                // fault of the second one.
                continue;
            }
            if member.seen > running.began {
                // The client lives. It may have the piece, and have told of another one only. Otherwise the holder is
                // slow or stalled.
                member.is_cautious = true;
                self.fail(slot, running.holder, now);
            }
            if let Holder::Member(of) = running.holder {
                self.skip(slot, of, now, now + STALLED_SKIP_TIME);
            }
        }
        any
    }

    /// When the next lease is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.leases.first().map(|(until, ..)| *until)
    }

    /// Lets other clients fetch from `slot`, or no longer.
    pub fn set_uploads(&mut self, slot: Slot, uploads: bool) {
        let Some(member) = self.member_mut(slot).filter(|member| member.uploads != uploads) else { return };
        member.uploads = uploads;
        let load = member.load;
        let stored = std::mem::take(&mut member.stored);
        if uploads {
            self.count_load(slot, load);
            return;
        }
        if let Some(set) = self.by_load.get_mut(load.min(UPLOADS_MAX)) {
            set.remove(slot);
        }
        for piece in stored.iter() {
            if let Some(holders) = self.holders.get_mut(piece as usize) {
                holders.remove(slot);
            }
            if self.holders(piece).is_none() && !self.ready.contains(piece) {
                self.withdraw(piece);
            }
        }
    }

    /// Removes the member `slot` with all that it has and fetches.
    pub fn leave(&mut self, slot: Slot) -> Option<Member> {
        let running = self.member(slot).map(pieces)?;
        for piece in running {
            self.end(slot, piece);
        }
        self.set_uploads(slot, false);
        let member = self.members.get_mut(slot as usize)?.take()?;
        self.by_cid.remove(&member.cid);
        // Only while somebody fetches from it: a crowd that leaves would look at each other in vain.
        if member.load > 0 {
            let all = self.members.iter_mut().flatten().flat_map(|other| &mut other.running);
            all.filter(|running| running.holder == Holder::Member(slot))
                .for_each(|running| running.holder = Holder::Gone);
        }
        self.free.push(slot);
        if self.by_cid.is_empty() {
            (self.members, self.free) = (Vec::new(), Vec::new());
            self.by_load = Default::default();
            self.holders.clear();
            self.fetched_by.clear();
        }
        Some(member)
    }

    /// Makes `piece` wanted by `slot` if it lacks the piece and somebody has it.
    fn want(&mut self, slot: Slot, piece: u32) {
        let is_available = self.ready.contains(piece) || self.holders(piece).is_some();
        if let Some(member) = self.member_mut(slot).filter(|_| is_available)
            && !member.have.contains(piece)
        {
            member.wanted.insert(piece);
        }
    }

    /// Makes `piece` wanted by all members that lack it.
    fn offer(&mut self, piece: u32) {
        for member in self.members.iter_mut().flatten() {
            if !member.have.contains(piece) && !member.running.iter().any(|running| running.piece == piece) {
                member.wanted.insert(piece);
            }
        }
    }

    fn withdraw(&mut self, piece: u32) {
        for member in self.members.iter_mut().flatten() {
            member.wanted.remove(piece);
        }
    }

    fn count_load(&mut self, slot: Slot, load: usize) {
        if let Some(set) = self.by_load.get_mut(load.min(UPLOADS_MAX)) {
            set.insert(slot);
        }
    }

    fn add_load(&mut self, slot: Slot, is_more: bool) {
        let Some(member) = self.member_mut(slot) else { return };
        let before = member.load;
        member.load = if is_more { before + 1 } else { before.saturating_sub(1) };
        let (after, uploads) = (member.load, member.uploads);
        if uploads {
            if let Some(set) = self.by_load.get_mut(before.min(UPLOADS_MAX)) {
                set.remove(slot);
            }
            self.count_load(slot, after);
        }
    }
}

fn pieces(member: &Member) -> Vec<u32> {
    member.running.iter().map(|running| running.piece).collect()
}

/// The element `index`, which is made if it is missing.
fn entry<T: Default + Clone>(list: &mut Vec<T>, index: u32) -> &mut T {
    let index = index as usize;
    if index >= list.len() {
        list.resize(index + 1, T::default());
    }
    #[expect(clippy::indexing_slicing, reason = "the list was made long enough above")]
    &mut list[index]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::progress::member::DOWNLOADS_MAX;

    /// Computes everything that a swarm counts from its members alone, and compares.
    pub(crate) fn check(swarm: &Swarm, context: &str) {
        let (mut loads, mut supernode, mut leases) = (HashMap::<Slot, usize>::new(), 0, 0);
        let mut fetched = HashMap::<u32, u32>::new();
        for (slot, member) in swarm.members() {
            assert!(member.running.len() <= DOWNLOADS_MAX, "{context}");
            for running in &member.running {
                leases += 1;
                *fetched.entry(running.piece).or_default() += 1;
                assert!(!member.have.contains(running.piece), "{context}: {slot} fetches what it has");
                assert!(swarm.leases.contains(&(running.until, slot, running.piece)), "{context}: no lease");
                match running.holder {
                    Holder::Supernode => supernode += 1,
                    Holder::Member(of) => *loads.entry(of).or_default() += 1,
                    Holder::Gone => {}
                }
            }
        }
        assert_eq!((swarm.supernode_load, swarm.leases.len()), (supernode, leases), "{context}");
        let pieces = swarm.holders.len().max(swarm.fetched_by.len()) as u32 + swarm.ready.end();
        for piece in 0..pieces {
            let stored = swarm.members().filter(|(_, m)| m.stored.contains(piece)).map(|(slot, _)| slot);
            let holders = swarm.holders(piece).map(|h| h.iter().collect::<Vec<_>>()).unwrap_or_default();
            assert!(stored.eq(holders.iter().copied()), "{context}: holders of {piece}");
            let expected = holders.len() as u32 + fetched.get(&piece).copied().unwrap_or(0);
            assert_eq!(swarm.copies(piece), expected, "{context}: copies of {piece}");
            let is_available = swarm.ready.contains(piece) || !holders.is_empty();
            for (slot, member) in swarm.members() {
                let runs = member.running.iter().any(|running| running.piece == piece);
                let wants = is_available && !runs && !member.have.contains(piece);
                assert_eq!(member.wanted.contains(piece), wants, "{context}: {slot} wants {piece}");
            }
        }
        for (slot, member) in swarm.members() {
            assert_eq!(member.load, loads.get(&slot).copied().unwrap_or(0), "{context}: load of {slot}");
            for (load, set) in swarm.by_load.iter().enumerate() {
                let is_in = member.uploads && load == member.load.min(UPLOADS_MAX);
                assert_eq!(set.contains(slot), is_in, "{context}: {slot} with load {load}");
            }
        }
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_ends_and_gives_back_piece_and_load() {
        let (mut swarm, start) = (Swarm::default(), Instant::now());
        let (a, b) = (swarm.join("a", true, start), swarm.join("b", true, start));
        swarm.on_ready(0);
        swarm.start(a, 0, Holder::Supernode, start);
        assert_eq!((swarm.supernode_load(), swarm.deadline()), (1, Some(after(start, 10))));
        assert!(!swarm.expire(after(start, 9)) && swarm.expire(after(start, 10)));
        assert_eq!((swarm.supernode_load(), swarm.deadline()), (0, None));
        check(&swarm, "after a lease");
        assert_eq!(swarm.start(a, 0, Holder::Supernode, start), Some(after(start, 20)), "twice as long");
        assert!(swarm.on_stored(a, 0, after(start, 2)) && !swarm.on_stored(a, 0, after(start, 2)));
        swarm.start(b, 0, Holder::Member(a), start);
        assert_eq!(swarm.member(a).map(|m| m.load), Some(1));
        assert_eq!(swarm.leave(b).map(|m| m.cid), Some("b".to_owned()));
        assert_eq!(swarm.member(a).map(|m| m.load), Some(0));
        check(&swarm, "after the client has left");
    }

    #[test]
    fn a_piece_goes_with_its_only_holder() {
        let (mut swarm, now) = (Swarm::default(), Instant::now());
        let (a, b) = (swarm.join("a", true, now), swarm.join("b", true, now));
        swarm.on_ready(3);
        swarm.on_stored(a, 3, now);
        swarm.on_lost(3);
        assert!(swarm.member(b).is_some_and(|m| m.wanted.contains(3)), "a has it");
        swarm.start(b, 3, Holder::Member(a), now);
        swarm.leave(a);
        assert_eq!(swarm.member(b).map(|m| m.running[0].holder), Some(Holder::Gone));
        assert!(swarm.on_failed(b, 3, Holder::Supernode, now), "whatever holder the report names");
        assert!(!swarm.on_failed(b, 3, Holder::Gone, now), "repeated");
        assert!(swarm.member(b).is_some_and(|m| m.wanted.is_empty()));
        let c = swarm.join("c", true, now);
        assert_eq!((c, swarm.member(c).map(|m| m.load)), (a, Some(0)), "the place is used again");
        check(&swarm, "after the holder has left");
    }

    #[test]
    fn a_stalled_holder_costs_a_client_one_of_its_own_time_limits() {
        let (mut swarm, start) = (Swarm::default(), Instant::now());
        let (stalled, good) = (swarm.join("stalled", true, start), swarm.join("good", true, start));
        swarm.on_stored(stalled, 0, start);
        swarm.on_stored(good, 0, start);
        let client = swarm.join("client", true, start);
        swarm.start(client, 0, Holder::Member(stalled), start);
        let skips = |swarm: &Swarm, now| {
            let client = swarm.member(client).expect("it has joined");
            [stalled, good]
                .map(|slot| swarm.member(slot).is_some_and(|holder| client.is_skipping(holder, now)))
        };
        // The client waits 74 s for the first holder, and ignores what it is offered meanwhile.
        while let Some(deadline) = swarm.deadline().filter(|at| *at < start + Duration::from_secs(74)) {
            let now = deadline;
            swarm.touch(client, now);
            assert!(swarm.expire(now));
            assert_eq!(skips(&swarm, now), [true, false]);
            swarm.start(client, 0, Holder::Member(good), now);
        }
        let now = start + Duration::from_secs(74);
        assert!(swarm.on_failed(client, 0, Holder::Member(stalled), now));
        let member = swarm.member(client).expect("it has joined");
        assert!(member.wanted.contains(0) && member.running.is_empty());
        assert_eq!(skips(&swarm, now), [true, false]);
        check(&swarm, "after the report");
    }

    #[test]
    fn a_holder_that_fails_for_many_clients_is_skipped() {
        let (mut swarm, now) = (Swarm::default(), Instant::now());
        let bad = swarm.join("bad", true, now);
        swarm.on_stored(bad, 0, now);
        let clients: Vec<Slot> = (0..10).map(|n| swarm.join(&n.to_string(), true, now)).collect();
        for (failures, client) in (1..).zip(clients) {
            for _ in 0..2 {
                swarm.start(client, 0, Holder::Member(bad), now);
                swarm.on_failed(client, 0, Holder::Member(bad), now);
            }
            let member = swarm.member(bad).expect("there");
            assert_eq!(member.skipped_until.is_some(), failures >= HOLDER_FAILURES_MAX, "{failures}");
            assert_eq!(member.uploads, failures < HOLDER_FAILURES_END, "{failures}");
            assert!(
                swarm
                    .member(client)
                    .is_some_and(|m| m.is_skipping(member, now) && !m.is_skipping(member, now + SKIP_TIME))
            );
        }
        check(&swarm, "after the failures");
    }

    #[test]
    fn a_client_that_registers_again_is_a_new_one() {
        let (mut swarm, now) = (Swarm::default(), Instant::now());
        let a = swarm.join("a", true, now);
        swarm.on_ready(0);
        swarm.on_ready(1);
        swarm.start(a, 0, Holder::Supernode, now);
        swarm.on_received(a, 1, now);
        assert_eq!(swarm.join("a", false, now), a);
        let member = swarm.member(a).expect("there");
        assert!(member.running.is_empty() && member.have.is_empty() && !member.uploads);
        swarm.set_cautious(a);
        assert_eq!(swarm.member(a).map(Member::places), Some(1));
        swarm.on_received(a, 1, now);
        assert_eq!(swarm.member(a).map(Member::places), Some(1), "it may have others");
        swarm.on_stored(a, 0, now);
        assert_eq!(swarm.member(a).map(Member::places), Some(DOWNLOADS_MAX));
        check(&swarm, "after the second registration");
    }
}
