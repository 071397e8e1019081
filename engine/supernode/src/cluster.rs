//! Which supernode owns a task: rendezvous hashing of the task's ID and the supernodes' addresses.
//!
//! Each supernode has the same list of addresses, so all of them choose the same owner without asking each other.
//! If a supernode is added or removed, only the tasks that it owns move. Pure: the caller knows
//! which supernodes answer.

use crate::task_id::TaskId;
use ring::digest::{Context, SHA256};

/// Most supernodes of a cluster.
pub const MEMBERS_MAX: usize = 64;

/// The supernodes that share the tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// `HOST:PORT` of each, as in the configuration; sorted, each once.
    members: Vec<String>,
    /// Which of them is this one.
    own: Option<usize>,
}

impl Cluster {
    /// The cluster of `members`, of which this supernode is `own`. Without members, this supernode owns all tasks.
    ///
    /// The case of letters does not count. At most [`MEMBERS_MAX`] members are used.
    pub fn new(members: &[String], own: &str) -> Self {
        let mut members: Vec<String> = members.iter().map(|member| member.to_ascii_lowercase()).collect();
        members.sort();
        members.dedup();
        members.truncate(MEMBERS_MAX);
        let own = members.iter().position(|member| member.eq_ignore_ascii_case(own));
        Cluster { members, own }
    }

    /// Whether this supernode is in the list. If it is not, it owns no task of the cluster.
    pub fn has_self(&self) -> bool {
        self.own.is_some()
    }

    /// The supernode that owns `task` among those for which `is_alive` returns true; `None` if that is this
    /// supernode, or if no supernode is alive. This supernode is always alive.
    pub fn owner(&self, task: &TaskId, is_alive: &dyn Fn(&str) -> bool) -> Option<&str> {
        let candidates = self.members.iter().enumerate();
        let alive = candidates.filter(|(at, member)| Some(*at) == self.own || is_alive(member));
        // Two members never have equal addresses, so the address decides between equal hashes.
        let owner = alive.max_by_key(|(_, member)| (weight(task, member), member.as_str()));
        owner.filter(|(at, _)| Some(*at) != self.own).map(|(_, member)| member.as_str())
    }

    /// The addresses of the other supernodes.
    pub fn others(&self) -> impl Iterator<Item = &str> {
        let others = self.members.iter().enumerate().filter(|(at, _)| Some(*at) != self.own);
        others.map(|(_, member)| member.as_str())
    }
}

/// The weight of `member` for `task`: the first 8 bytes of a hash of both.
fn weight(task: &TaskId, member: &str) -> u64 {
    let mut context = Context::new(&SHA256);
    context.update(task.as_bytes());
    context.update(member.as_bytes());
    let hash = context.finish();
    hash.as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn members(count: usize) -> Vec<String> {
        (1..=count).map(|n| format!("10.0.0.{n}:8002")).collect()
    }

    fn task(n: u32) -> TaskId {
        TaskId::new(&n.to_string(), "", "")
    }

    /// The owner of each task, as the supernode `own` sees it.
    fn owners(members: &[String], own: &str, is_alive: &dyn Fn(&str) -> bool) -> Vec<String> {
        let cluster = Cluster::new(members, own);
        (0..3000).map(|n| cluster.owner(&task(n), is_alive).unwrap_or(own).to_owned()).collect()
    }

    #[test]
    fn all_supernodes_agree_and_share_evenly() {
        let members = members(5);
        let first = owners(&members, &members[0], &|_| true);
        let reversed: Vec<String> = members.iter().rev().cloned().collect();
        for own in &members[1..] {
            assert_eq!(owners(&reversed, own, &|_| true), first, "{own}");
        }
        let mut counts = HashMap::new();
        first.iter().for_each(|owner| *counts.entry(owner).or_insert(0) += 1);
        assert_eq!(counts.len(), 5);
        assert!(counts.values().all(|count| (450..750).contains(count)), "{counts:?}");
    }

    #[test]
    fn only_the_tasks_of_a_dead_supernode_move() {
        let members = members(4);
        let before = owners(&members, &members[0], &|_| true);
        let after = owners(&members, &members[0], &|member| member != members[3]);
        for (before, after) in before.iter().zip(&after) {
            assert!(after != &members[3] && (before == after || before == &members[3]));
        }
        let removed = owners(&members[..3], &members[0], &|_| true);
        assert_eq!(removed, after, "a dead supernode is like a removed one");
    }

    #[test]
    fn a_supernode_alone_owns_all() {
        let cluster = Cluster::new(&[], "10.0.0.1:8002");
        assert_eq!(cluster.owner(&task(0), &|_| true), None);
        assert!(!cluster.has_self() && cluster.others().next().is_none());
        let cluster = Cluster::new(&members(3), "10.0.0.2:8002");
        assert!(cluster.has_self());
        assert_eq!(cluster.others().collect::<Vec<_>>(), ["10.0.0.1:8002", "10.0.0.3:8002"]);
        assert!((0..100).all(|n| cluster.owner(&task(n), &|_| false).is_none()), "the others are dead");
        let outside = Cluster::new(&members(3), "10.0.0.9:8002");
        assert!((0..100).all(|n| outside.owner(&task(n), &|_| true).is_some()));
    }
}
