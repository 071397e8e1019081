//! Chooses which pieces a client fetches next, and from whom.
//!
//! Called by the event loop for each pull. Reads a [`Swarm`] and changes nothing in it but the pieces that it
//! starts. The cost does not depend on the number of pieces: at most [`SAMPLE`] pieces are looked at for each
//! choice, and the holder with the least load is found in bit sets. docs/peers.md, "The scheduler".

use crate::progress::{CLIENT_FAILURES_MAX, Holder, Member, SUPERNODE_UPLOADS_MAX, Slot, Swarm, UPLOADS_MAX};
use std::time::Instant;

/// Most pieces that are looked at for each choice.
pub const SAMPLE: usize = 32;
/// Most holders with one load that are looked at for one piece, because the client skips some.
const HOLDERS_TRIED: usize = 8;

/// A generator of random numbers, so that clients do not all begin at one piece and at one holder. xorshift64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator with this seed.
    pub fn new(seed: u64) -> Self {
        Random(seed | 1)
    }

    /// A number below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 % u64::from(end.max(1))).unwrap_or(0)
    }
}

/// A piece and its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The piece.
    pub piece: u32,
    /// From whom to fetch it.
    pub holder: Holder,
}

/// Starts pieces for the client `slot` until all its places are taken or nothing can be chosen, and returns them.
pub fn schedule(swarm: &mut Swarm, slot: Slot, now: Instant, random: &mut Random) -> Vec<Choice> {
    let mut choices = Vec::new();
    while let Some(choice) = choose(swarm, slot, now, random) {
        if swarm.start(slot, choice.piece, choice.holder, now).is_none() {
            break;
        }
        choices.push(choice);
    }
    choices
}

fn choose(swarm: &Swarm, slot: Slot, now: Instant, random: &mut Random) -> Option<Choice> {
    let client = swarm.member(slot).filter(|client| client.running.len() < client.places())?;
    let mean = mean(client);
    let mut sample = sample(client, mean, random);
    sample.sort_unstable_by_key(|piece| (swarm.copies(*piece), piece.abs_diff(mean.unwrap_or(*piece))));
    let only_supernode = client.client_failures > CLIENT_FAILURES_MAX;
    sample.into_iter().find_map(|piece| {
        let member = if only_supernode { None } else { holder(swarm, client, slot, piece, now, random) };
        let holder = member.or_else(|| {
            let has_place = swarm.supernode_load() < SUPERNODE_UPLOADS_MAX;
            (has_place && swarm.ready().contains(piece)).then_some(Holder::Supernode)
        })?;
        Some(Choice { piece, holder })
    })
}

/// The mean of the pieces that the client fetches.
fn mean(client: &Member) -> Option<u32> {
    let count = u64::try_from(client.running.len()).ok().filter(|count| *count > 0)?;
    let sum: u64 = client.running.iter().map(|running| u64::from(running.piece)).sum();
    u32::try_from(sum / count).ok()
}

/// Some of the pieces that the client wants: half of them after a random one, half of them near the pieces that
/// the client fetches.
fn sample(client: &Member, mean: Option<u32>, random: &mut Random) -> Vec<u32> {
    let mut sample = Vec::with_capacity(SAMPLE);
    let end = client.wanted.end();
    let starts = [mean.unwrap_or(0), random.below(end)];
    for (most, start) in [SAMPLE / 2, SAMPLE].into_iter().zip(starts) {
        let mut next = client.wanted.next(start);
        let mut is_wrapped = false;
        while sample.len() < most {
            match next {
                Some(piece) if is_wrapped && piece >= start => break,
                Some(piece) => {
                    sample.push(piece);
                    next = client.wanted.next(piece + 1);
                }
                None if is_wrapped => break,
                None => {
                    is_wrapped = true;
                    next = client.wanted.next(0);
                }
            }
        }
    }
    sample
}

/// The holder of `piece` with the least load that the client may use.
fn holder(
    swarm: &Swarm,
    client: &Member,
    slot: Slot,
    piece: u32,
    now: Instant,
    random: &mut Random,
) -> Option<Holder> {
    let holders = swarm.holders(piece)?;
    let start = random.below(swarm.slots());
    let may_use = |candidate: Slot| {
        candidate != slot
            && swarm
                .member(candidate)
                .filter(|m| !client.is_skipping(m, now))
                .is_some_and(|m| m.uploads && m.skipped_until.is_none_or(|until| until <= now))
    };
    (0..UPLOADS_MAX).filter_map(|load| swarm.with_load(load)).find_map(|idle| {
        let after = std::iter::successors(holders.next_in_both(idle, start), |last| {
            holders.next_in_both(idle, last + 1)
        });
        let before =
            std::iter::successors(holders.next_in_both(idle, 0), |last| holders.next_in_both(idle, last + 1));
        let mut candidates =
            after.chain(before.take_while(|candidate| *candidate < start)).take(HOLDERS_TRIED);
        candidates.find(|candidate| may_use(*candidate)).map(Holder::Member)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{DOWNLOADS_MAX, HOLDER_FAILURES_MAX, SKIP_TIME, swarm::tests::check};
    use std::time::Duration;

    fn random() -> Random {
        Random::new(0x5eed)
    }

    fn uploads(swarm: &Swarm) -> usize {
        swarm.members().map(|(_, member)| member.load).sum::<usize>() + swarm.supernode_load() as usize
    }

    #[test]
    fn the_rarest_piece_comes_first_from_the_idlest_holder() {
        let (mut swarm, now) = (Swarm::default(), Instant::now());
        let [a, b, c] = ["a", "b", "c"].map(|cid| swarm.join(cid, true, now));
        for piece in 0..3 {
            swarm.on_stored(a, piece, now);
        }
        swarm.on_stored(b, 0, now);
        swarm.on_stored(b, 1, now);
        let choices = schedule(&mut swarm, c, now, &mut random());
        assert_eq!(choices[0], Choice { piece: 2, holder: Holder::Member(a) });
        assert!(choices[1..].iter().any(|choice| choice.holder == Holder::Member(b)), "{choices:?}");
        assert!(schedule(&mut swarm, c, now, &mut random()).is_empty(), "all pieces run");
        check(&swarm, "scheduled");
    }

    #[test]
    fn the_supernode_is_the_last_choice_and_has_four_places() {
        let (mut swarm, now) = (Swarm::default(), Instant::now());
        (0..20).for_each(|piece| swarm.on_ready(piece));
        let [a, b] = ["a", "b"].map(|cid| swarm.join(cid, true, now));
        let first = schedule(&mut swarm, a, now, &mut random());
        assert_eq!(first.len(), DOWNLOADS_MAX);
        assert!(first.iter().all(|choice| choice.holder == Holder::Supernode));
        assert!(schedule(&mut swarm, b, now, &mut random()).is_empty());
        swarm.on_stored(a, first[0].piece, now);
        let mut second = schedule(&mut swarm, b, now, &mut random());
        second.sort_unstable_by_key(|choice| choice.holder == Holder::Supernode);
        assert_eq!(second.len(), 2, "the piece that a has, and the supernode's free place");
        assert_eq!(second[0], Choice { piece: first[0].piece, holder: Holder::Member(a) });
        check(&swarm, "scheduled");
    }

    #[test]
    fn a_client_that_fails_too_often_gets_the_supernode_alone() {
        let (mut swarm, now) = (Swarm::default(), Instant::now());
        (0..20).for_each(|piece| swarm.on_ready(piece));
        let client = swarm.join("client", true, now);
        let holders: Vec<Slot> = (0..40).map(|n| swarm.join(&n.to_string(), true, now)).collect();
        for holder in holders {
            (0..20).for_each(|piece| assert!(swarm.on_stored(holder, piece, now)));
        }
        let mut failed = 0;
        while failed <= CLIENT_FAILURES_MAX {
            for choice in schedule(&mut swarm, client, now, &mut random()) {
                assert_ne!(choice.holder, Holder::Supernode);
                swarm.on_failed(client, choice.piece, choice.holder, now);
                failed += 1;
            }
        }
        let choices = schedule(&mut swarm, client, now, &mut random());
        assert!(choices.iter().all(|choice| choice.holder == Holder::Supernode) && !choices.is_empty());
        swarm.on_received(client, choices[0].piece, now);
        let next = schedule(&mut swarm, client, now, &mut random());
        assert!(matches!(next[..], [Choice { holder: Holder::Member(_), .. }]), "{next:?}");
    }

    #[test]
    fn a_skipped_holder_is_used_again_later() {
        let (mut swarm, now) = (Swarm::default(), Instant::now());
        let bad = swarm.join("bad", true, now);
        swarm.on_stored(bad, 0, now);
        for n in 0..HOLDER_FAILURES_MAX {
            let client = swarm.join(&n.to_string(), true, now);
            assert_eq!(schedule(&mut swarm, client, now, &mut random()).len(), 1);
            swarm.on_failed(client, 0, Holder::Member(bad), now);
        }
        let other = swarm.join("other", true, now);
        assert!(schedule(&mut swarm, other, now, &mut random()).is_empty());
        assert_eq!(schedule(&mut swarm, other, now + SKIP_TIME, &mut random()).len(), 1);
    }

    /// Clients that join, pull, report, lie, fail, stall and leave at random. After each step the swarm counts
    /// right, and each choice is one that the client may make.
    #[test]
    fn a_random_walk_never_breaks_a_rule() {
        for seed in 1..=30u64 {
            let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let (mut swarm, mut now) = (Swarm::default(), Instant::now());
            let pieces = [3, 40, 200][seed as usize % 3];
            for step in 0..1500 {
                let context = format!("seed {seed}, step {step}");
                now += Duration::from_millis(u64::from(random.below(900)));
                let slot = random.below(swarm.slots().max(1));
                let piece = random.below(pieces);
                match random.below(12) {
                    0 => drop(swarm.join(&format!("c{}", random.below(25)), random.below(5) > 0, now)),
                    1 => swarm.on_ready(piece),
                    2 if random.below(8) == 0 => swarm.on_lost(piece),
                    3 if random.below(6) == 0 => drop(swarm.leave(slot)),
                    4 if random.below(6) == 0 => swarm.set_uploads(slot, false),
                    5 => drop(swarm.on_stored(slot, piece, now)),
                    6 => {
                        let running = swarm.member(slot).and_then(|member| member.running.first().copied());
                        running.map(|running| swarm.on_failed(slot, running.piece, running.holder, now));
                    }
                    7 => drop(swarm.expire(now)),
                    8 | 9 => {
                        let running = swarm.member(slot).and_then(|member| member.running.first().copied());
                        running.map(|running| swarm.on_stored(slot, running.piece, now));
                    }
                    _ => {
                        let had = swarm.member(slot).map(|member| member.have.clone()).unwrap_or_default();
                        let ran = swarm.member(slot).map(|member| member.running.clone()).unwrap_or_default();
                        for choice in schedule(&mut swarm, slot, now, &mut random) {
                            assert!(!had.contains(choice.piece), "{context}: the client has the piece");
                            assert!(!ran.iter().any(|r| r.piece == choice.piece), "{context}: it runs");
                            match choice.holder {
                                Holder::Supernode => {
                                    assert!(swarm.ready().contains(choice.piece), "{context}")
                                }
                                Holder::Member(of) => {
                                    let holder = swarm.member(of).expect("not gone");
                                    assert!(
                                        holder.uploads && holder.stored.contains(choice.piece),
                                        "{context}"
                                    );
                                    assert!(holder.load <= UPLOADS_MAX && of != slot, "{context}");
                                }
                                Holder::Gone => panic!("{context}: gone"),
                            }
                        }
                        assert!(swarm.supernode_load() <= SUPERNODE_UPLOADS_MAX, "{context}");
                    }
                }
                if step % 7 == 0 {
                    check(&swarm, &context);
                }
            }
            for slot in 0..swarm.slots() {
                swarm.leave(slot);
            }
            assert_eq!((uploads(&swarm), swarm.len(), swarm.deadline()), (0, 0, None), "seed {seed}");
            check(&swarm, "all have left");
        }
    }
}
