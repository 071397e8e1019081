//! A thread for slow work on the disk that no client waits for: removals, and writing of access times.

use super::record::AccessTimes;
use super::task_dir::TaskDir;
use sampan_os::{remove_tree, thread};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};

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

/// Starts the thread. It ends when all senders are gone and all work is done.
///
/// # Errors
/// The thread cannot be started.
pub(super) fn start() -> io::Result<Sender<Work>> {
    let (sender, receiver) = channel();
    thread::spawn("cdn-disk", STACK, move || run(&receiver))?;
    Ok(sender)
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
