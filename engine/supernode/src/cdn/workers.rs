//! Which tasks have a thread, and which wait for one.
//!
//! Pure; the manager starts the threads and says when they end. One thread at most works for a task, even if the
//! task was deleted and made again meanwhile: two would write to one directory. Threads that read from other
//! supernodes have places of their own: otherwise all threads of two supernodes could wait for each other.

use crate::task_id::TaskId;
use sampan_job::cancel::Cancel;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// A running thread.
struct Worker {
    job: u64,
    /// Whether the thread reads from another supernode.
    is_near: bool,
    cancel: Arc<Cancel>,
}

/// The running threads and the tasks that wait.
pub(super) struct Workers {
    running: HashMap<TaskId, Worker>,
    /// Tasks that wait, in order, each once, and whether they are fetched from another supernode.
    queue: VecDeque<(TaskId, bool)>,
    max: usize,
}

impl Workers {
    /// At most `max` threads of each kind run at a time.
    pub(super) fn new(max: usize) -> Self {
        Workers { running: HashMap::new(), queue: VecDeque::new(), max: max.max(1) }
    }

    /// The number of tasks that wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Puts a task at the end of the queue. `is_near` says whether it is fetched from another supernode.
    pub(super) fn push(&mut self, task: &TaskId, is_near: bool) {
        if !self.queue.iter().any(|(queued, _)| queued == task) {
            self.queue.push_back((*task, is_near));
        }
    }

    /// Puts a task at the front of the queue.
    pub(super) fn push_front(&mut self, task: &TaskId, is_near: bool) {
        self.queue.retain(|(queued, _)| queued != task);
        self.queue.push_front((*task, is_near));
    }

    /// Takes the next task for which a thread may start, and whether it is fetched from another supernode.
    pub(super) fn next(&mut self) -> Option<(TaskId, bool)> {
        let near = self.running.values().filter(|worker| worker.is_near).count();
        let far = self.running.len() - near;
        let has_place = |is_near: bool| if is_near { near < self.max } else { far < self.max };
        if !has_place(true) && !has_place(false) {
            return None;
        }
        let may_start =
            |(task, is_near): &(TaskId, bool)| has_place(*is_near) && !self.running.contains_key(task);
        let next = self.queue.iter().position(may_start)?;
        self.queue.remove(next)
    }

    /// Records the start of a thread; `is_near` says whether it reads from another supernode.
    pub(super) fn begin(&mut self, task: &TaskId, job: u64, is_near: bool, cancel: Arc<Cancel>) {
        self.running.insert(*task, Worker { job, is_near, cancel });
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
        (1..=4).for_each(|number| workers.push(&task(number), false));
        workers.push(&task(1), false);
        workers.push_front(&task(3), false);
        assert_eq!(workers.waiting(), 4);
        let mut job = 0;
        let mut begin = |workers: &mut Workers| {
            let (next, is_near) = workers.next()?;
            job += 1;
            workers.begin(&next, job, is_near, Arc::default());
            Some(next)
        };
        assert_eq!(begin(&mut workers), Some(task(3)));
        assert_eq!(begin(&mut workers), Some(task(1)));
        assert_eq!(begin(&mut workers), None, "two run");
        workers.cancel(&task(1));
        workers.cancel(&task(2));
        workers.push_front(&task(1), false);
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
        (1..=5).for_each(|number| workers.push(&task(number), [1, 2, 5].contains(&number)));
        let mut begun = Vec::new();
        while let Some((next, is_near)) = workers.next() {
            workers.begin(&next, begun.len() as u64, is_near, Arc::default());
            begun.push(next);
        }
        assert_eq!(begun, [task(1), task(3)], "one of each kind");
        workers.end(&task(3), 1);
        assert_eq!(workers.next(), Some((task(4), false)));
        workers.end(&task(1), 0);
        assert_eq!(workers.next(), Some((task(2), true)));
    }
}
