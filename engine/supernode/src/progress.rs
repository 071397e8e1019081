//! Which client has which piece, which client fetches a piece from which holder and until when, and the load of
//! each member of a swarm.
//!
//! A [`Swarm`] is the clients of one task, a [`Member`] is one of them. Owned by the event loop. Each change costs
//! a few words, whatever the number of pieces and members; only a member that leaves, or that stops uploading,
//! costs a step for each piece that it has. [`crate::scheduler`] chooses; this module never does. docs/peers.md,
//! "The scheduler".
//!
//! ```text
//! piece of a member:   wanted ──start──▶ running ──received, stored──▶ held
//!                        ▲                 │ failed, lease over
//!                        └─────────────────┘
//! ```

pub mod member;
pub mod swarm;

pub use member::{DOWNLOADS_MAX, Holder, Member, Running, SKIP_TIME, Slot};
pub use swarm::{CLIENT_FAILURES_MAX, HOLDER_FAILURES_MAX, SUPERNODE_UPLOADS_MAX, Swarm, UPLOADS_MAX};

use crate::task_id::TaskId;
use std::collections::HashMap;
use std::time::Instant;

/// The swarms of all tasks.
#[derive(Debug, Default)]
pub struct Progress {
    swarms: HashMap<TaskId, Swarm>,
    /// No lease is over before this time.
    earliest: Option<Instant>,
}

impl Progress {
    /// The swarm of `task`, which is made if it is missing.
    pub fn swarm_or_new(&mut self, task: TaskId) -> &mut Swarm {
        self.swarms.entry(task).or_default()
    }

    /// The swarm of `task`.
    pub fn swarm(&self, task: &TaskId) -> Option<&Swarm> {
        self.swarms.get(task)
    }

    /// The swarm of `task`, to change it.
    pub fn swarm_mut(&mut self, task: &TaskId) -> Option<&mut Swarm> {
        self.swarms.get_mut(task)
    }

    /// Forgets the swarm of `task`.
    pub fn remove(&mut self, task: &TaskId) -> Option<Swarm> {
        self.swarms.remove(task)
    }

    /// Records that pieces of `task` were scheduled.
    pub fn on_scheduled(&mut self, task: &TaskId) {
        let end = self.swarms.get(task).and_then(Swarm::deadline);
        self.earliest = [self.earliest, end].into_iter().flatten().min();
    }

    /// Ends all leases that are over. Returns the tasks in which one was. Costs nothing before
    /// [`Progress::deadline`].
    pub fn expire(&mut self, now: Instant) -> Vec<TaskId> {
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return Vec::new();
        }
        let ended =
            self.swarms.iter_mut().filter_map(|(task, swarm)| swarm.expire(now).then_some(*task)).collect();
        self.earliest = self.swarms.values().filter_map(Swarm::deadline).min();
        ended
    }

    /// The time before which no lease is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.earliest
    }

    /// The number of swarms.
    pub fn len(&self) -> usize {
        self.swarms.len()
    }

    /// Whether there is no swarm.
    pub fn is_empty(&self) -> bool {
        self.swarms.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn leases_of_all_tasks_end_in_time() {
        let (mut progress, now) = (Progress::default(), Instant::now());
        let tasks = [TaskId::new("a", "", ""), TaskId::new("b", "", "")];
        for (task, delay) in tasks.into_iter().zip([3, 0]) {
            let swarm = progress.swarm_or_new(task);
            let slot = swarm.join("client", true, now);
            swarm.on_ready(0);
            swarm.start(slot, 0, Holder::Supernode, now + Duration::from_secs(delay));
            progress.on_scheduled(&task);
        }
        assert_eq!(progress.deadline(), Some(now + Duration::from_secs(10)));
        assert!(progress.expire(now + Duration::from_secs(9)).is_empty());
        assert_eq!(progress.expire(now + Duration::from_secs(10)), [tasks[1]]);
        assert_eq!(progress.deadline(), Some(now + Duration::from_secs(13)));
        assert_eq!(progress.expire(now + Duration::from_secs(20)), [tasks[0]]);
        assert_eq!(progress.deadline(), None);
    }
}
