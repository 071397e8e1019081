//! Open files of content, for the download port: a cache of at most 256 files.
//!
//! Owned by the manager. Opens nothing itself: the caller says how.

use crate::task_id::TaskId;
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

/// Most open files.
pub(super) const FILES_MAX: usize = 256;

/// The open files of tasks, by task.
#[derive(Debug, Default)]
pub(super) struct ContentFiles {
    files: HashMap<TaskId, (Arc<File>, u64)>,
    /// Number of uses so far, by which the file that was used longest ago is found.
    uses: u64,
}

impl ContentFiles {
    /// The file of `task`; calls `open` if it is not open.
    pub(super) fn get(&mut self, task: &TaskId, open: impl FnOnce() -> Option<File>) -> Option<Arc<File>> {
        self.uses += 1;
        if let Some((file, used)) = self.files.get_mut(task) {
            *used = self.uses;
            return Some(Arc::clone(file));
        }
        let file = Arc::new(open()?);
        if self.files.len() >= FILES_MAX
            && let Some(oldest) = self.files.iter().min_by_key(|(_, (_, used))| *used).map(|(task, _)| *task)
        {
            // A connection that still sends from the file holds it open.
            self.files.remove(&oldest);
        }
        self.files.insert(*task, (Arc::clone(&file), self.uses));
        Some(file)
    }

    /// Closes the file of `task`.
    pub(super) fn remove(&mut self, task: &TaskId) {
        self.files.remove(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_was_used_longest_ago_is_closed() {
        let mut files = ContentFiles::default();
        let task = |number: usize| TaskId::new(&number.to_string(), "", "");
        let open = || File::open("/dev/null").ok();
        for number in 0..FILES_MAX {
            assert!(files.get(&task(number), open).is_some());
        }
        assert!(files.get(&task(0), || None).is_some(), "it is open");
        assert!(files.get(&task(FILES_MAX), open).is_some());
        assert!(files.get(&task(0), || None).is_some());
        assert!(files.get(&task(1), || None).is_none(), "it was closed");
        assert_eq!(files.files.len(), FILES_MAX);
        files.remove(&task(0));
        assert!(files.get(&task(0), || None).is_none());
    }
}
