//! The end of a subscription: at its `until`, at the end of the past events, or where this process stops.
//!
//! [`crate::request`] calls this module when a subscription begins; the event loop calls [`end_at_until`] when the
//! deadline has passed ([`crate::deadlines`] wakes the loop). Only chooses the place: [`crate::clients`] sends the
//! events up to there and the last frame, and closes the connection.

use crate::ring::Cursor;
use sampan_ipc::watch::{End, Subscribe};

/// The end of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    /// Position after the last frame that the subscriber gets.
    pub(crate) pos: u64,
    /// The reason that the subscriber gets.
    pub(crate) reason: End,
}

/// When a new subscription ends, as far as that is known when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndPlan {
    /// At a place that is known: the subscription is for past events only.
    Stop(Stop),
    /// When the clock passes this time, in nanoseconds since the epoch.
    Deadline(i64),
    /// When the subscriber or this process ends the subscription.
    Open,
}

/// Computes when a subscription that begins at time `now` ends. `newest` is the end of the visible events.
pub(crate) fn plan_end(subscribe: &Subscribe, newest: Cursor, now: i64) -> EndPlan {
    match subscribe.until {
        Some(until) if until < now => EndPlan::Stop(Stop { pos: newest.pos, reason: End::Until }),
        _ if !subscribe.follow => EndPlan::Stop(Stop { pos: newest.pos, reason: End::History }),
        Some(until) => EndPlan::Deadline(until),
        None => EndPlan::Open,
    }
}

/// Ends a subscription whose `until` has passed: it gets the events that are committed by now, and no later ones.
pub(crate) fn end_at_until(end: &mut Option<Stop>, committed: Cursor) {
    set_stop(end, Stop { pos: committed.pos, reason: End::Until });
}

/// Ends a subscription because this process stops: it gets the events that are committed by now.
pub(crate) fn end_at_shutdown(end: &mut Option<Stop>, committed: Cursor) {
    set_stop(end, Stop { pos: committed.pos, reason: End::Shutdown });
}

/// Sets the end of a subscription, unless it has one already: the first end is the earliest.
fn set_stop(end: &mut Option<Stop>, stop: Stop) {
    end.get_or_insert(stop);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_past_until_and_history_stop_here_and_a_later_until_waits() {
        let newest = Cursor { pos: 700, seq: 8 };
        let plan =
            |until, follow| plan_end(&Subscribe { until, follow, ..Subscribe::default() }, newest, 1000);
        assert_eq!(plan(Some(999), true), EndPlan::Stop(Stop { pos: 700, reason: End::Until }));
        assert_eq!(plan(Some(1000), true), EndPlan::Deadline(1000));
        assert_eq!(plan(Some(1000), false), EndPlan::Stop(Stop { pos: 700, reason: End::History }));
        assert_eq!(plan(None, true), EndPlan::Open);
    }
}
