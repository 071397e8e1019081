//! Which tasks have a thread, and which wait for one.
//!
//! Pure; the manager starts the threads and says when they end. One thread at most works for a task, even if the task was
//! deleted and made again meanwhile: two would write to one directory.

use crate::task_id::TaskId;
use sampan_job::cancel::Cancel;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// A running thread.
struct Worker {
    job: u64,
    cancel: Arc<Cancel>,
}

/// The running threads and the tasks that wait.
pub(super) struct Workers {
    running: HashMap<TaskId, Worker>,
    /// Tasks that wait, in order, each once.
    queue: VecDeque<TaskId>,
    max: usize,
}

impl Workers {
    /// At most `max` threads run at a time.
    pub(super) fn new(max: usize) -> Self {
        Workers { running: HashMap::new(), queue: VecDeque::new(), max: max.max(1) }
    }

    /// The number of tasks that wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Lets a task wait for a thread behind the others.
    pub(super) fn push(&mut self, task: &TaskId) {
        if !self.queue.contains(task) {
            self.queue.push_back(*task);
        }
    }

    /// Lets a task wait for a thread before the others.
    pub(super) fn push_front(&mut self, task: &TaskId) {
        self.queue.retain(|queued| queued != task);
        self.queue.push_front(*task);
    }

    /// Takes the next task for which a thread may start.
    pub(super) fn next(&mut self) -> Option<TaskId> {
        if self.running.len() >= self.max {
            return None;
        }
        let next = self.queue.iter().position(|task| !self.running.contains_key(task))?;
        self.queue.remove(next)
    }

    /// Records the start of a thread.
    pub(super) fn begin(&mut self, task: &TaskId, job: u64, cancel: Arc<Cancel>) {
        self.running.insert(*task, Worker { job, cancel });
    }

    /// Records the end of the thread of `job`.
    pub(super) fn end(&mut self, task: &TaskId, job: u64) {
        if self.running.get(task).is_some_and(|worker| worker.job == job) {
            self.running.remove(task);
        }
    }

    /// Cancels the thread of a task, which still counts until it ends, and lets the task wait no more.
    pub(super) fn cancel(&mut self, task: &TaskId) {
        self.queue.retain(|queued| queued != task);
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
    pub(super) fn works_for(&self, task: &TaskId) -> bool {
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
        (1..=4).for_each(|number| workers.push(&task(number)));
        workers.push(&task(1));
        workers.push_front(&task(3));
        assert_eq!(workers.waiting(), 4);
        let mut job = 0;
        let mut begin = |workers: &mut Workers| {
            let next = workers.next()?;
            job += 1;
            workers.begin(&next, job, Arc::default());
            Some(next)
        };
        assert_eq!(begin(&mut workers), Some(task(3)));
        assert_eq!(begin(&mut workers), Some(task(1)));
        assert_eq!(begin(&mut workers), None, "two run");
        workers.cancel(&task(1));
        workers.cancel(&task(2));
        workers.push_front(&task(1));
        workers.end(&task(3), 1);
        assert_eq!(begin(&mut workers), Some(task(4)), "the thread of task 1 has not ended");
        workers.end(&task(1), 1);
        assert!(workers.works_for(&task(1)), "the end of another job");
        workers.end(&task(1), 2);
        assert_eq!(begin(&mut workers), Some(task(1)));
        workers.end(&task(1), 4);
        workers.end(&task(4), 3);
        assert!(workers.is_idle() && workers.waiting() == 0);
    }
}
