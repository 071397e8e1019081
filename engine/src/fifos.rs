//! Holds monitord's two FIFOs open, so that the events in them survive a restart of monitord.
//!
//! Owned by the event loop. Creates the FIFOs unless a service manager does. Notices by inotify(7) when one is removed
//! or replaced, and closes the old one: while the engine held it open, senders could write events into it that no
//! monitord would read. Never reads from a FIFO and never writes into one.

use crate::roots::make_parent;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use sampan_ipc::accounts::{FACTS_GROUP, WATCH_GROUP};
use sampan_ipc::{fifo, report};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The inotify events after which a FIFO's path may name another file, and those of the directory itself.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// The FIFOs that the engine holds open, and the inotify instance that reports changes of their directories.
#[derive(Debug)]
pub struct Fifos {
    held: Vec<Held>,
    changes: Option<Inotify>,
}

#[derive(Debug)]
struct Held {
    path: PathBuf,
    file: Option<File>,
    /// Whether a failure to open this FIFO was logged; false again once it is open.
    failure_logged: bool,
}

impl Fifos {
    /// Holds the monitor FIFO and the emit FIFO open; `makes` says whether to create a missing one.
    ///
    /// A failure is logged and not returned: monitord may create the FIFO later, and senders wait for that.
    pub fn open(facts: &Path, emit: &Path, makes: bool) -> Self {
        let mut fifos = Fifos { held: Vec::new(), changes: None };
        for (path, group) in [(facts, FACTS_GROUP), (emit, WATCH_GROUP)] {
            if makes && let Err(error) = make(path, group) {
                log::warn!("{error}");
            }
            fifos.held.push(Held { path: path.to_owned(), file: None, failure_logged: false });
        }
        // Start watching before opening the FIFOs, so that no change in between is missed.
        match fifos.watch() {
            Ok(changes) => fifos.changes = Some(changes),
            Err(errno) => log::warn!(
                "cannot watch for replaced FIFOs: {errno}; events after a replacement are lost until monitord runs"
            ),
        }
        fifos.reopen_changed();
        fifos
    }

    fn watch(&self) -> Result<Inotify, Errno> {
        let changes = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        for held in &self.held {
            let dir = held.path.parent().filter(|dir| !dir.as_os_str().is_empty());
            changes.add_watch(dir.unwrap_or(Path::new(".")), CHANGES)?;
        }
        Ok(changes)
    }

    /// The descriptor to poll: readable when a FIFO may have been removed or replaced.
    pub fn changes(&self) -> Option<BorrowedFd<'_>> {
        self.changes.as_ref().map(AsFd::as_fd)
    }

    /// Reads all pending inotify events, then opens whichever FIFO was replaced.
    pub fn on_change(&mut self) {
        // Which event it was does not matter: every path is checked.
        while self.changes.as_ref().is_some_and(|changes| changes.read_events().is_ok()) {}
        self.reopen_changed();
    }

    fn reopen_changed(&mut self) {
        self.held.iter_mut().for_each(Held::reopen_changed);
    }
}

impl Held {
    /// Opens the file that the path names now, and closes the earlier one if it is another.
    fn reopen_changed(&mut self) {
        let now = std::fs::symlink_metadata(&self.path).ok().map(|meta| (meta.dev(), meta.ino()));
        let held = self.file.as_ref().and_then(|file| file.metadata().ok());
        let held = held.map(|meta| (meta.dev(), meta.ino()));
        if held.is_some() && now == held {
            return;
        }
        if self.file.take().is_some() {
            log::info!("{} was removed or replaced: the engine closes the old FIFO", self.path.display());
        }
        if now.is_none() {
            return;
        }
        match fifo::hold(&self.path) {
            Ok(file) => {
                self.file = Some(file);
                self.failure_logged = false;
            }
            Err(error) if !self.failure_logged => {
                log::warn!("{}: events in this FIFO are lost when monitord stops", report::chain(&error));
                self.failure_logged = true;
            }
            Err(_) => {}
        }
    }
}

/// Creates a missing FIFO with the right owner and mode. Leaves an existing one unchanged.
fn make(path: &Path, group: &str) -> Result<(), String> {
    make_parent(path).map_err(|error| report::chain(&error))?;
    if fifo::make(path).map_err(|error| report::chain(&error))? {
        let file = fifo::hold(path).map_err(|error| report::chain(&error))?;
        fifo::set_owner_and_mode(&file, path, fifo::group(group));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{OFlag, open};
    use nix::sys::stat::Mode;
    use std::io::{Read, Write};

    fn writer(path: &Path) -> Result<File, Errno> {
        open(path, OFlag::O_WRONLY | OFlag::O_NONBLOCK, Mode::empty()).map(File::from)
    }

    fn two(dir: &Path) -> (PathBuf, PathBuf) {
        (dir.join("run/monitor.fifo"), dir.join("run/emit.fifo"))
    }

    #[test]
    fn what_is_in_a_fifo_outlives_its_writers_while_it_is_held() {
        let dir = tempfile::tempdir().expect("a directory");
        let (facts, emit) = two(dir.path());
        let fifos = Fifos::open(&facts, &emit, true);
        for path in [&facts, &emit] {
            writer(path).expect("held, so there is a reader").write_all(b"kept").expect("room");
            let mut bytes = [0; 16];
            let len = fifo::hold(path).expect("ours").read(&mut bytes).expect("not empty");
            assert_eq!(&bytes[..len], b"kept");
        }
        drop(fifos);
        assert_eq!(writer(&facts).expect_err("nobody reads"), Errno::ENXIO);
    }

    #[test]
    fn a_fifo_that_is_replaced_is_held_anew_and_the_old_one_let_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let (facts, emit) = two(dir.path());
        let mut fifos = Fifos::open(&facts, &emit, true);
        for path in [&facts, &emit] {
            let mut old = writer(path).expect("held");
            std::fs::remove_file(path).expect("ours");
            fifos.on_change();
            let error = old.write(b"swallowed").expect_err("nobody will read it");
            assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
            assert!(fifo::make(path).expect("made"), "the engine makes none again");
            fifos.on_change();
            writer(path).expect("held");
            // At once, by a rename.
            let other = dir.path().join("other");
            fifo::make(&other).expect("made");
            std::fs::rename(&other, path).expect("replaced");
            fifos.on_change();
            writer(path).expect("held");
        }
    }

    #[test]
    fn where_a_service_manager_makes_the_fifos_the_engine_makes_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let (facts, emit) = two(dir.path());
        std::fs::create_dir(dir.path().join("run")).expect("made");
        let mut fifos = Fifos::open(&facts, &emit, false);
        assert!(!facts.exists() && !emit.exists());
        fifo::make(&emit).expect("made");
        fifos.on_change();
        writer(&emit).expect("held as soon as it is there");
    }

    #[test]
    fn a_file_in_the_place_of_a_fifo_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let (facts, emit) = two(dir.path());
        std::fs::create_dir(dir.path().join("run")).expect("made");
        std::fs::write(&facts, "precious").expect("written");
        let fifos = Fifos::open(&facts, &emit, true);
        assert!(fifos.held[0].file.is_none() && fifos.held[1].file.is_some());
        assert_eq!(std::fs::read(&facts).expect("there"), b"precious");
    }
}
