//! A thread for slow work on the disk that no client waits for: removals, and writing of access times.

use super::record::AccessTimes;
use super::task_dir::TaskDir;
use sampan_os::{remove_tree, thread};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Stack of the thread in bytes.
const STACK: usize = 128 << 10;

/// Something to do. The queue has no bound: the event loop adds a removal for each task that it deletes, and at
/// most one access a minute for each task.
pub(super) enum Work {
    /// Remove a directory in the trash.
    Remove(PathBuf),
    /// Write the access times of a task.
    WriteAccessTimes(TaskDir, AccessTimes),
    /// Signal a test that all earlier work is done.
    #[cfg(test)]
    Signal(Sender<()>),
}

/// The thread, which ends with its owner.
pub(super) struct DiskThread {
    /// `None` only while this is dropped.
    sender: Option<Sender<Work>>,
    handle: Option<JoinHandle<()>>,
}

impl DiskThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start() -> io::Result<Self> {
        let (sender, receiver) = channel();
        let handle = thread::spawn("cdn-disk", STACK, move || run(&receiver))?;
        Ok(DiskThread { sender: Some(sender), handle: Some(handle) })
    }

    /// Gives the thread something to do.
    pub(super) fn send(&self, work: Work) {
        // The thread takes work for as long as there is a sender.
        let _ = self.sender.as_ref().map(|sender| sender.send(work));
    }
}

impl Drop for DiskThread {
    /// Waits until all work is done: nothing is written into the directory after its owner has let it go.
    fn drop(&mut self) {
        self.sender = None;
        let _ = self.handle.take().map(JoinHandle::join);
    }
}

fn run(receiver: &Receiver<Work>) {
    for work in receiver {
        match work {
            Work::Remove(path) => {
                if let Err(error) = remove_tree::remove(&path) {
                    log::warn!("cannot remove {}; the next start tries again: {error}", path.display());
                }
            }
            Work::WriteAccessTimes(dir, access) => dir.write_access(&access),
            #[cfg(test)]
            Work::Signal(sender) => drop(sender.send(())),
        }
    }
}
