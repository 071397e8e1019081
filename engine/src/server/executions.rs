//! The replication's executions and policies that the event loop knows: running ones, and those that wait.
//!
//! Owned by the event loop; `replications` changes it. Data only: starts and stops nothing.

use crate::config::Config;
use crate::replication::triggers::Policies;
use sampan_ipc::replication::State;
use sampan_replication::control::Control;
use sampan_replication::journal::Journal;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most executions that run at a time, each with a thread and its tasks' threads; further ones wait.
const RUNNING_MAX: usize = 32;
/// Most executions that wait; further ones are refused.
const WAITING_MAX: usize = 1000;
/// Longest sleep before the clock is looked at again: it may have been set.
const CLOCK_CHECK: Duration = Duration::from_secs(3600);

/// The executions and policies of one engine.
pub(super) struct Replications {
    pub(super) policies: Policies,
    pub(super) running: HashMap<u64, Running>,
    /// The policies of executions that are being written into their journals.
    pub(super) beginning: Vec<String>,
    /// Executions that wait for their turn, the oldest first: their policy is busy, or too many run.
    pub(super) waiting: VecDeque<Waiting>,
    /// The last execution of each policy, and its state.
    pub(super) last: HashMap<String, (u64, State)>,
    pub(super) watches_events: bool,
}

pub(super) struct Running {
    pub(super) policy: String,
    pub(super) control: Arc<Control>,
}

pub(super) struct Waiting {
    pub(super) id: u64,
    pub(super) policy: String,
    pub(super) journal: Arc<Journal>,
    /// False if an earlier engine has begun it.
    pub(super) is_new: bool,
}

impl Replications {
    pub(super) fn new(config: &Config) -> Self {
        Replications {
            policies: Policies::load(&config.replication_policies, sampan_ipc::time::now()),
            running: HashMap::new(),
            beginning: Vec::new(),
            waiting: VecDeque::new(),
            last: HashMap::new(),
            watches_events: false,
        }
    }

    /// When the next policy is due, or the clock must be looked at.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let wait = self.policies.wait(sampan_ipc::time::now())?;
        Some(Instant::now() + wait.min(CLOCK_CHECK))
    }

    fn running_of(&self, policy: &str) -> usize {
        let running = self.running.values().filter(|running| running.policy == policy).count();
        running + self.beginning.iter().filter(|beginning| *beginning == policy).count()
    }

    /// Takes note that an execution is in its journal, or will never be.
    pub(super) fn forget_beginning(&mut self, policy: &str) {
        if let Some(at) = self.beginning.iter().position(|beginning| beginning == policy) {
            self.beginning.swap_remove(at);
        }
    }

    /// Whether no further execution can wait.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() + self.beginning.len() >= WAITING_MAX
    }

    /// Takes the oldest execution that waits and may run now.
    pub(super) fn take_next(&mut self) -> Option<Waiting> {
        let at = self.waiting.iter().position(|waiting| self.has_room(&waiting.policy))?;
        self.waiting.remove(at)
    }

    /// Whether one more execution of the policy may run now.
    pub(super) fn has_room(&self, policy: &str) -> bool {
        let most = self.policies.get(policy).map_or(1, |policy| policy.executions_max);
        self.running.len() < RUNNING_MAX && (policy.is_empty() || self.running_of(policy) < most as usize)
    }
}
