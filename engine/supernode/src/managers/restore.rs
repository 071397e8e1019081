//! Restarts: writes the journal of registrations, and brings tasks and clients back from the disk.
//!
//! Called once by `main` before the event loop, and by `register` for each registration. Asks no origin: the fetch
//! of a public file goes on, and that of a protected file begins when a client brings its credentials again.

use super::Managers;
use crate::dfget_task::DfgetTask;
use crate::journal::{JournalEntry, PeerRecord, StoredFile};
use crate::peer::Peer;
use crate::task::Task;
use std::time::{Instant, SystemTime};

impl Managers {
    /// Brings back the tasks and the clients that the disk knows, and continues the fetches of public files.
    pub fn restore(&mut self, now: Instant, clock: SystemTime) {
        for record in self.cdn.load() {
            self.tasks.insert(Task::restore(&record, now));
        }
        for entry in std::mem::take(&mut self.registered) {
            self.restore_registration(entry, now);
        }
        let waiting =
            self.tasks.list(|task| self.progress.swarm(&task.id).is_some() && !self.is_complete(&task.id));
        for (id, is_protected) in
            waiting.into_iter().map(|task| (task.id, task.is_protected)).collect::<Vec<_>>()
        {
            // The credentials of a protected file are gone: its clients must bring them again.
            if is_protected || self.fetch_file(&id, clock).is_err() {
                self.forget_task(&id, false, "the supernode has been restarted");
            }
        }
    }

    /// Brings back a client that registered before this process began. The client may have pieces that this
    /// process does not know.
    fn restore_registration(&mut self, entry: JournalEntry, now: Instant) {
        let JournalEntry { download, peer, uploads, file } = entry;
        if self.tasks.get(&download.task).is_none() {
            let Some(file) = file else { return };
            self.tasks.insert(file.into_task(download.task, now));
        }
        // Otherwise the fetch begins when a client registers that has the credentials for it.
        self.cdn.activate(&download.task);
        let PeerRecord { id, request, created } = peer;
        self.peers.restore(Peer { id, request, created, seen: now, down: None });
        let (task, cid) = (download.task, download.cid.clone());
        self.add_download(download, uploads, now);
        if let Some(swarm) = self.progress.swarm_mut(&task)
            && let Some(slot) = swarm.slot(&cid)
        {
            swarm.set_cautious(slot);
        }
    }

    /// Adds a registration to the journal, which is written anew when most of it is about clients that have left.
    pub(super) fn record_registration(&mut self, download: &DfgetTask, uploads: bool, is_new: bool) {
        let Some(peer) = self.peers.get(&download.peer).map(PeerRecord::of) else { return };
        let file = self.tasks.get(&download.task).and_then(StoredFile::of);
        self.journal.add(&JournalEntry { download: download.clone(), peer, uploads, file }, is_new);
        if self.journal.needs_rewrite() {
            let entries = self.entries();
            self.journal.rewrite(entries.iter());
        }
    }

    /// All registrations, for the journal.
    fn entries(&self) -> Vec<JournalEntry> {
        let entry = |download: &DfgetTask| {
            let swarm = self.progress.swarm(&download.task)?;
            let uploads = swarm.member(swarm.slot(&download.cid)?)?.uploads;
            let peer = self.peers.get(&download.peer).map(PeerRecord::of)?;
            let file = self.tasks.get(&download.task).and_then(StoredFile::of);
            Some(JournalEntry { download: download.clone(), peer, uploads, file })
        };
        self.downloads.list(|_| true).into_iter().filter_map(entry).collect()
    }
}
