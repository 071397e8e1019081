//! Threads that do one thing after the other, and are there only as long as something is to be done.

use crate::work::Shared;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// Most threads at a time.
const THREADS_MAX: usize = 4;
/// Stack of each.
const STACK: usize = 1 << 20;

type Work = Box<dyn FnOnce(&Shared) + Send>;

#[derive(Default)]
struct Backlog {
    works: VecDeque<Work>,
    threads: usize,
}

/// A bounded number of threads.
#[derive(Clone, Default)]
pub struct Workers {
    backlog: Arc<Mutex<Backlog>>,
}

impl Workers {
    /// Does `work` on a thread, now or when one is free.
    pub fn add(&self, shared: &Arc<Shared>, work: impl FnOnce(&Shared) + Send + 'static) {
        let mut backlog = self.lock();
        backlog.works.push_back(Box::new(work));
        if backlog.threads == THREADS_MAX {
            return;
        }
        let (workers, shared) = (self.clone(), Arc::clone(shared));
        let builder = std::thread::Builder::new().name("container".into()).stack_size(STACK);
        match builder.spawn(move || workers.work(&shared)) {
            Ok(_) => backlog.threads += 1,
            // A thread that is at work does it, or the next that can be started.
            Err(error) => log::error!("cannot start a thread: {error}"),
        }
    }

    /// True while something is done or waits for that.
    pub fn is_busy(&self) -> bool {
        let backlog = self.lock();
        backlog.threads > 0 || !backlog.works.is_empty()
    }

    fn work(&self, shared: &Shared) {
        loop {
            let work = {
                let mut backlog = self.lock();
                match backlog.works.pop_front() {
                    Some(work) => work,
                    None => {
                        backlog.threads -= 1;
                        return;
                    }
                }
            };
            work(shared);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
