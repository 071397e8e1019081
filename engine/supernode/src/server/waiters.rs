//! Requests that wait for a piece, or for a newer version of a task, instead of asking again and again.
//!
//! Owned by the event loop. When a task has changed, its waiters are tried again, the one that has waited longest
//! first, a bounded number in each turn of the loop. Holds no connection and answers none: the loop does.

use crate::own_wire::Watch;
use crate::task_id::TaskId;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Instant;

/// Most waiting pulls that are tried in one turn of the loop.
const TRIES_PER_TURN: usize = 256;

/// A request that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// The connection to answer.
    pub token: usize,
    /// What the connection waits for.
    pub need: Need,
}

/// What a connection waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// A piece for this client of Dragonfly's wire.
    Piece(String),
    /// A version of the task other than the one in the watch, for a peer of Sampan's own wire.
    Version(Watch),
}

/// All waiters.
#[derive(Debug, Default)]
pub struct Waiters {
    queues: HashMap<TaskId, VecDeque<Waiter>>,
    /// The task and the deadline of each connection that waits.
    tokens: HashMap<usize, (TaskId, Instant)>,
    deadlines: BTreeSet<(Instant, usize)>,
    /// Tasks that have changed, each with the number of waiters that have not been tried since.
    changed: HashMap<TaskId, usize>,
}

impl Waiters {
    /// Lets the connection `token` wait until `until`.
    pub fn park(&mut self, task: TaskId, waiter: Waiter, until: Instant) {
        let token = waiter.token;
        self.remove(token);
        self.queues.entry(task).or_default().push_back(waiter);
        self.tokens.insert(token, (task, until));
        self.deadlines.insert((until, token));
    }

    /// Removes the connection `token`. Returns its waiter and the task.
    pub fn remove(&mut self, token: usize) -> Option<(TaskId, Waiter)> {
        let (task, until) = self.tokens.remove(&token)?;
        self.deadlines.remove(&(until, token));
        let queue = self.queues.get_mut(&task)?;
        let at = queue.iter().position(|waiter| waiter.token == token)?;
        let waiter = queue.remove(at)?;
        if queue.is_empty() {
            self.queues.remove(&task);
            self.changed.remove(&task);
        }
        Some((task, waiter))
    }

    /// Records that `task` has changed: all its waiters are tried again.
    pub fn mark_changed(&mut self, task: TaskId) {
        if let Some(queue) = self.queues.get(&task) {
            self.changed.insert(task, queue.len());
        }
    }

    /// Whether waiters are left that have not been tried since the last change.
    pub fn has_untried(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Tries waiters of changed tasks: `pull` returns true if it has answered the waiter. At most 256 are
    /// tried; call again while [`Waiters::has_untried`].
    pub fn try_changed(&mut self, mut pull: impl FnMut(&TaskId, &Waiter) -> bool) {
        let mut tries = TRIES_PER_TURN;
        let tasks: Vec<TaskId> = self.changed.keys().copied().collect();
        for task in tasks {
            while tries > 0 && self.changed.get(&task).is_some_and(|left| *left > 0) {
                tries -= 1;
                if let Some(left) = self.changed.get_mut(&task) {
                    *left -= 1;
                }
                let Some(queue) = self.queues.get_mut(&task) else { break };
                let Some(waiter) = queue.pop_front() else { break };
                if !pull(&task, &waiter) {
                    queue.push_back(waiter);
                    continue;
                }
                if queue.is_empty() {
                    self.queues.remove(&task);
                }
                if let Some((_, until)) = self.tokens.remove(&waiter.token) {
                    self.deadlines.remove(&(until, waiter.token));
                }
            }
            if !self.queues.contains_key(&task) || self.changed.get(&task) == Some(&0) {
                self.changed.remove(&task);
            }
        }
    }

    /// Removes the waiters whose time is over at `now`.
    pub fn expire(&mut self, now: Instant) -> Vec<(TaskId, Waiter)> {
        let mut over = Vec::new();
        while let Some((_, token)) = self.deadlines.first().copied().filter(|(until, _)| *until <= now) {
            self.deadlines.pop_first();
            over.extend(self.remove(token));
        }
        over
    }

    /// When the next waiter's time is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    /// The tasks that have waiters.
    pub fn tasks(&self) -> HashSet<TaskId> {
        self.queues.keys().copied().collect()
    }

    /// The number of waiters.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no waiter.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn task(number: u32) -> TaskId {
        TaskId::new(&number.to_string(), "", "")
    }

    fn waiter(token: usize) -> Waiter {
        Waiter { token, need: Need::Piece(token.to_string()) }
    }

    #[test]
    fn only_waiters_of_changed_tasks_are_tried_oldest_first() {
        let (mut waiters, now) = (Waiters::default(), Instant::now());
        for token in 0..5 {
            waiters.park(task(token as u32 % 2), waiter(token), now + Duration::from_secs(4));
        }
        waiters.mark_changed(task(7));
        assert!(!waiters.has_untried());
        waiters.mark_changed(task(0));
        let mut tried = Vec::new();
        waiters.try_changed(|_, waiter| {
            tried.push(waiter.token);
            waiter.token == 2
        });
        assert_eq!((tried.as_slice(), waiters.len(), waiters.has_untried()), (&[0, 2, 4][..], 4, false));
        waiters.mark_changed(task(0));
        tried.clear();
        waiters.try_changed(|_, waiter| {
            tried.push(waiter.token);
            true
        });
        assert_eq!((tried.as_slice(), waiters.len()), (&[0, 4][..], 2));
    }

    #[test]
    fn many_waiters_take_several_turns() {
        let (mut waiters, now) = (Waiters::default(), Instant::now());
        (0..600).for_each(|token| waiters.park(task(0), waiter(token), now));
        waiters.mark_changed(task(0));
        let (mut turns, mut tried) = (0, HashSet::new());
        while waiters.has_untried() {
            turns += 1;
            waiters.try_changed(|_, waiter| {
                assert!(tried.insert(waiter.token));
                false
            });
        }
        assert_eq!((turns, tried.len()), (3, 600));
    }

    #[test]
    fn a_waiter_ends_at_its_deadline_or_when_it_is_gone() {
        let (mut waiters, now) = (Waiters::default(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        waiters.park(task(0), waiter(1), after(4));
        waiters.park(task(0), waiter(2), after(1));
        assert_eq!(waiters.deadline(), Some(after(1)));
        assert_eq!(waiters.expire(after(1)), [(task(0), waiter(2))]);
        waiters.park(task(1), waiter(1), after(5));
        assert_eq!((waiters.len(), waiters.deadline()), (1, Some(after(5))));
        assert_eq!(waiters.remove(1), Some((task(1), waiter(1))));
        assert!(waiters.is_empty() && waiters.queues.is_empty() && waiters.deadlines.is_empty());
    }
}
