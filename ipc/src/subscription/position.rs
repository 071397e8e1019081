//! The position of a reader: up to which event the reader has received, returned and committed events.
//!
//! A subscription owns the position. This module does no I/O. docs/events.md draws the transitions. Invariant:
//! `committed ≤ returned ≤ received`.

use crate::watch::Lineage;

/// A lineage that no journal has.
const NO_LINEAGE: u64 = 0;

/// The three sequence numbers, and the lineage of the journal to which they belong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    lineage: Option<u64>,
    /// monitord has checked all events up to this number.
    received: Option<u64>,
    /// The iterator has returned all events up to this number to the program.
    returned: Option<u64>,
    /// The program has committed all events up to this number.
    committed: Option<u64>,
    /// Whether a time alone says where the stream begins. The number before the first event must then not be stored: a
    /// run that resumes at that number would also get events from before the time.
    by_time: bool,
}

impl Position {
    /// Makes the position that a cursor file contains.
    pub(super) fn of_file(lineage: Option<u64>, seq: u64) -> Self {
        Position { lineage, received: Some(seq), returned: Some(seq), committed: Some(seq), by_time: false }
    }

    /// The number after which a new connection continues, and the number's lineage.
    pub(super) fn resume(&self) -> (Option<u64>, Option<u64>) {
        let after = self.received.filter(|_| !self.by_time || self.waits());
        (after, self.lineage.filter(|_| after.is_some()))
    }

    /// Replaces the lineage by one that no journal has, so that monitord reports a replaced journal.
    pub(super) fn forget_journal(&mut self) {
        self.lineage = Some(NO_LINEAGE);
    }

    /// Records that a connection to a monitord without lineages begins after the number `head`.
    pub(super) fn begin_at(&mut self, head: u64) {
        *self = Position { lineage: None, ..Position::of_file(None, head) };
    }

    /// Records where a connection begins, as monitord has reported. `by_time`: the program requested a time, not a
    /// number.
    ///
    /// If the journal is the same, events that were returned and not committed stay uncommitted. In a replaced
    /// journal, nothing is committed.
    pub(super) fn begin(&mut self, lineage: Lineage, by_time: bool) {
        let waits = self.waits() && !lineage.replaced;
        let committed =
            if waits { self.committed.map(|seq| seq.min(lineage.after)) } else { Some(lineage.after) };
        *self = Position {
            lineage: Some(lineage.id),
            committed,
            by_time,
            ..Position::of_file(None, lineage.after)
        };
    }

    /// Records that the program got an event, or a notice of lost events, with numbers up to `seq`.
    pub(super) fn returns(&mut self, seq: u64) {
        (self.received, self.returned) = (Some(seq), Some(seq));
    }

    /// Records that monitord has checked all events up to `seq`, and that none of them matches the filters.
    pub(super) fn looked(&mut self, seq: u64) {
        let waits = self.waits();
        self.received = self.received.max(Some(seq));
        if !waits {
            self.by_time = false;
            (self.returned, self.committed) = (self.received, self.received);
        }
    }

    /// Commits all events up to `seq`. Ignores a number that the program did not get.
    pub(super) fn commit(&mut self, seq: u64) {
        if Some(seq) > self.received {
            return;
        }
        let all = Some(seq) >= self.returned;
        self.by_time &= Some(seq) <= self.committed;
        self.committed = self.committed.max(if all { self.received } else { Some(seq) });
        if all {
            self.returned = self.received;
        }
    }

    /// Whether the program got an event that it has not committed.
    pub(super) fn waits(&self) -> bool {
        self.committed < self.returned
    }

    /// The number of the last event that the program got, or the number after which the stream began.
    pub(super) fn returned(&self) -> Option<u64> {
        self.returned
    }

    /// The lineage of the journal to which the numbers belong.
    pub(super) fn lineage(&self) -> Option<u64> {
        self.lineage
    }

    /// The content of a cursor file: the committed number and its lineage.
    pub(super) fn committed(&self) -> Option<(u64, Option<u64>)> {
        self.committed.filter(|_| !self.by_time).map(|seq| (seq, self.lineage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(id: u64, after: u64, replaced: bool) -> Lineage {
        Lineage { id, after, replaced }
    }

    #[test]
    fn nothing_but_a_commit_moves_past_an_event() {
        let mut position = Position::default();
        position.begin(lineage(1, 10, false), false);
        position.returns(12);
        position.looked(20);
        assert_eq!((position.committed(), position.waits()), (Some((10, Some(1))), true));
        position.commit(11);
        assert_eq!(position.committed(), Some((11, Some(1))));
        position.commit(12);
        assert_eq!((position.committed(), position.waits()), (Some((20, Some(1))), false));
        position.looked(30);
        assert_eq!(position.committed(), Some((30, Some(1))), "nothing waits: looking is enough");
        position.commit(31);
        assert_eq!(position.committed(), Some((30, Some(1))), "31 was never given");
        assert_eq!(position.resume(), (Some(30), Some(1)));
    }

    #[test]
    fn a_new_connection_keeps_what_waits_and_a_replaced_journal_begins_anew() {
        let mut position = Position::of_file(Some(1), 5);
        position.returns(9);
        position.begin(lineage(1, 9, false), false);
        assert_eq!((position.committed(), position.waits()), (Some((5, Some(1))), true));
        position.begin(lineage(2, 7, false), false);
        assert_eq!(position.committed(), Some((5, Some(2))), "the numbers go on in another lineage");
        position.begin(lineage(3, 0, true), false);
        assert_eq!((position.committed(), position.waits()), (Some((0, Some(3))), false));
        position.commit(9);
        assert_eq!(position.committed(), Some((0, Some(3))), "9 is a number of the old journal");
    }

    #[test]
    fn a_stream_that_begins_by_time_has_no_position_before_its_first_event() {
        let mut position = Position::default();
        position.begin(lineage(1, 10, false), true);
        assert_eq!((position.committed(), position.resume()), (None, (None, None)));
        position.returns(15);
        assert_eq!((position.committed(), position.resume()), (None, (Some(15), Some(1))));
        position.commit(15);
        assert_eq!(position.committed(), Some((15, Some(1))));
        position.begin(lineage(1, 10, false), true);
        position.looked(12);
        assert_eq!(
            position.committed(),
            Some((12, Some(1))),
            "monitord has looked, and the time no longer counts"
        );
    }

    /// For every order of events: `committed ≤ returned ≤ received`, and no event counts as committed without a
    /// commit.
    #[test]
    fn a_random_walk_never_commits_what_was_not_dealt_with() {
        let mut seed = 7u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let (mut position, mut next, mut open) = (Position::default(), 1u64, Vec::new());
        position.begin(lineage(1, 0, false), false);
        for _ in 0..100_000 {
            next += random(3);
            match random(4) {
                0 => {
                    next += 1;
                    position.returns(next);
                    open.push(next);
                }
                1 => position.looked(next),
                2 if !open.is_empty() => {
                    let seq = open[random(open.len() as u64) as usize];
                    position.commit(seq);
                    open.retain(|event| *event > seq);
                }
                _ => position.begin(lineage(1, position.resume().0.unwrap_or(0), false), false),
            }
            assert!(position.committed <= position.returned && position.returned <= position.received);
            let committed = position.committed().map_or(0, |(seq, _)| seq);
            assert!(open.iter().all(|event| *event > committed), "{position:?} passes one of {open:?}");
        }
    }
}
