//! Which tasks have a thread, and which wait for one.
//!
//! Pure; the manager starts the threads and says when they end. One thread at most works for a task, even if the
//! task was deleted and made again meanwhile: two would write to one directory. Threads that read from other
//! supernodes have places of their own: otherwise all threads of two supernodes could wait for each other. One origin
//! gets three quarters of the other places: a slow one must not stop the fetches from all others.

use crate::task_id::TaskId;
use sampan_job::cancel::Cancel;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// What a thread reads from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReadsFrom {
    /// Another supernode.
    Supernode,
    /// The origin with this host and port.
    Origin(String),
    /// The disk: a check.
    Disk,
}

/// A running thread.
struct Worker {
    job: u64,
    from: ReadsFrom,
    cancel: Arc<Cancel>,
}

/// The running threads and the tasks that wait.
pub(super) struct Workers {
    running: HashMap<TaskId, Worker>,
    /// Tasks that wait, in order, each once.
    queue: VecDeque<(TaskId, ReadsFrom)>,
    max: usize,
}

impl Workers {
    /// At most `max` threads read from supernodes at a time, and as many from origins and the disk.
    pub(super) fn new(max: usize) -> Self {
        Workers { running: HashMap::new(), queue: VecDeque::new(), max: max.max(1) }
    }

    /// The number of tasks that wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Puts a task at the end of the queue.
    pub(super) fn push(&mut self, task: &TaskId, from: ReadsFrom) {
        if !self.queue.iter().any(|(queued, _)| queued == task) {
            self.queue.push_back((*task, from));
        }
    }

    /// Puts a task at the front of the queue.
    pub(super) fn push_front(&mut self, task: &TaskId, from: ReadsFrom) {
        self.queue.retain(|(queued, _)| queued != task);
        self.queue.push_front((*task, from));
    }

    /// Takes the next task for which a thread may start, and what it reads from.
    pub(super) fn next(&mut self) -> Option<(TaskId, ReadsFrom)> {
        let count = |from: &ReadsFrom| self.running.values().filter(|worker| worker.from == *from).count();
        let near = count(&ReadsFrom::Supernode);
        let far = self.running.len() - near;
        if near >= self.max && far >= self.max {
            return None;
        }
        let has_place = |from: &ReadsFrom| match from {
            ReadsFrom::Supernode => near < self.max,
            ReadsFrom::Disk => far < self.max,
            ReadsFrom::Origin(_) => far < self.max && count(from) < (self.max * 3).div_ceil(4),
        };
        let may_start =
            |(task, from): &(TaskId, ReadsFrom)| has_place(from) && !self.running.contains_key(task);
        let next = self.queue.iter().position(may_start)?;
        self.queue.remove(next)
    }

    /// Records the start of a thread.
    pub(super) fn begin(&mut self, task: &TaskId, job: u64, from: ReadsFrom, cancel: Arc<Cancel>) {
        self.running.insert(*task, Worker { job, from, cancel });
    }

    /// Records the end of the thread of `job`.
    pub(super) fn end(&mut self, task: &TaskId, job: u64) {
        if self.running.get(task).is_some_and(|worker| worker.job == job) {
            self.running.remove(task);
        }
    }

    /// Cancels the thread of a task, which counts as running until it ends, and removes the task from the queue.
    pub(super) fn cancel(&mut self, task: &TaskId) {
        self.queue.retain(|(queued, _)| queued != task);
        if let Some(worker) = self.running.get(task) {
            worker.cancel.cancel();
        }
    }

    /// Cancels all threads.
    pub(super) fn cancel_all(&mut self) {
        self.queue.clear();
        self.running.values().for_each(|worker| worker.cancel.cancel());
    }

    /// Whether a thread works for the task.
    pub(super) fn has_thread(&self, task: &TaskId) -> bool {
        self.running.contains_key(task)
    }

    /// Whether no thread runs.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(number: u32) -> TaskId {
        TaskId::new(&number.to_string(), "", "")
    }

    #[test]
    fn a_task_waits_for_a_place_and_for_the_end_of_its_last_thread() {
        let mut workers = Workers::new(2);
        let origin = || ReadsFrom::Origin("o".to_owned());
        (1..=4).for_each(|number| workers.push(&task(number), origin()));
        workers.push(&task(1), origin());
        workers.push_front(&task(3), ReadsFrom::Disk);
        assert_eq!(workers.waiting(), 4);
        let mut job = 0;
        let mut begin = |workers: &mut Workers| {
            let (next, from) = workers.next()?;
            job += 1;
            workers.begin(&next, job, from, Arc::default());
            Some(next)
        };
        assert_eq!(begin(&mut workers), Some(task(3)));
        assert_eq!(begin(&mut workers), Some(task(1)));
        assert_eq!(begin(&mut workers), None, "two run");
        workers.cancel(&task(1));
        workers.cancel(&task(2));
        workers.push_front(&task(1), origin());
        workers.end(&task(3), 1);
        assert_eq!(begin(&mut workers), Some(task(4)), "the thread of task 1 has not ended");
        workers.end(&task(1), 1);
        assert!(workers.has_thread(&task(1)), "the end of another job");
        workers.end(&task(1), 2);
        assert_eq!(begin(&mut workers), Some(task(1)));
        workers.end(&task(1), 4);
        workers.end(&task(4), 3);
        assert!(workers.is_idle() && workers.waiting() == 0);
    }

    #[test]
    fn threads_that_wait_for_supernodes_keep_no_place_from_others() {
        let mut workers = Workers::new(1);
        let from = |number| match number {
            1 | 2 | 5 => ReadsFrom::Supernode,
            _ => ReadsFrom::Origin("o".to_owned()),
        };
        (1..=5).for_each(|number| workers.push(&task(number), from(number)));
        let mut begun = Vec::new();
        while let Some((next, from)) = workers.next() {
            workers.begin(&next, begun.len() as u64, from, Arc::default());
            begun.push(next);
        }
        assert_eq!(begun, [task(1), task(3)], "one of each kind");
        workers.end(&task(3), 1);
        assert_eq!(workers.next(), Some((task(4), from(4))));
        workers.end(&task(1), 0);
        assert_eq!(workers.next(), Some((task(2), ReadsFrom::Supernode)));
    }
    #[test]
    fn one_slow_origin_leaves_places_for_others() {
        let mut workers = Workers::new(8);
        let origin = |name: &str| ReadsFrom::Origin(name.to_owned());
        (0..20).for_each(|number| workers.push(&task(number), origin("slow")));
        workers.push(&task(20), origin("good"));
        workers.push(&task(21), origin("good"));
        let mut begun = Vec::new();
        while let Some((next, from)) = workers.next() {
            workers.begin(&next, 0, from.clone(), Arc::default());
            begun.push(from);
        }
        assert_eq!(begun, [vec![origin("slow"); 6], vec![origin("good"); 2]].concat());
    }
}
