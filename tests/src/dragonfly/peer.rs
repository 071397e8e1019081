//! A host: an address, an uploader, and its downloads.

use super::download::run;
use super::outcome::{Counts, End, Outcome};
use super::piece::Shared;
use super::uploader::{Upload, Uploader};
use super::wire::Wire;
use super::wish::Wish;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;
use tempfile::TempDir;

/// Numbers the downloads of this process, so that client IDs differ.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A host. It dies when it is dropped.
pub struct Peer {
    ip: Ipv4Addr,
    uploader: Option<Uploader>,
    dir: TempDir,
    downloads: Mutex<Vec<Arc<Shared>>>,
}

impl Peer {
    /// A host at `ip`, an address of loopback, with an uploader.
    pub fn new(ip: Ipv4Addr) -> Self {
        Self::with(ip, Some(Uploader::start(ip)))
    }

    /// A host at `ip` without an uploader: dfget's pattern `cdn`.
    pub fn without_uploader(ip: Ipv4Addr) -> Self {
        Self::with(ip, None)
    }

    fn with(ip: Ipv4Addr, uploader: Option<Uploader>) -> Self {
        let dir = tempfile::Builder::new().prefix("sampan-peer.").tempdir().expect("a private directory");
        Peer { ip, uploader, dir, downloads: Mutex::default() }
    }

    /// Address of the host.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// Starts a download; `supernodes` are tried in this order, each once.
    pub fn download(&self, supernodes: &[SocketAddrV4], wish: Wish) -> Download {
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let sign = format!("{}-{nth:013}.000", std::process::id());
        let (cid, name) = (format!("{}-{sign}", self.ip), format!("out-{sign}"));
        let port = self.uploader.as_ref().map_or(0, Uploader::port);
        let path = self.dir.path().join(&name);
        let shared = Arc::new(Shared::new(self.ip, port, cid, name.clone(), wish, path.clone()));
        if let Some(uploader) = &self.uploader {
            uploader.share(&name, path);
        }
        let mut downloads = self.downloads.lock().expect("no thread panics with the lock");
        downloads.push(Arc::clone(&shared));
        let (start, supernodes, own) = (Instant::now(), supernodes.to_vec(), Arc::clone(&shared));
        let thread = std::thread::spawn(move || (run(&own, &supernodes), start.elapsed()));
        Download { shared, thread }
    }

    /// Uploads in this way from now on.
    pub fn set(&self, upload: Upload) {
        if let Some(uploader) = &self.uploader {
            uploader.set(upload);
        }
    }

    /// Number of pieces that this host has sent to others.
    pub fn uploaded(&self) -> u64 {
        self.uploader.as_ref().map_or(0, Uploader::pieces)
    }

    /// Dies: no download goes on, no piece is sent, and nobody is told.
    pub fn die(&self) {
        for download in self.downloads.lock().expect("no thread panics with the lock").iter() {
            download.is_killed.store(true, Ordering::SeqCst);
        }
        if let Some(uploader) = &self.uploader {
            uploader.end();
        }
    }

    /// Leaves in order: tells the supernodes, and dies.
    pub fn leave(&self) {
        let downloads = self.downloads.lock().expect("no thread panics with the lock").clone();
        for download in downloads {
            for (supernode, task) in download.tasks() {
                Wire::new(self.ip, supernode).down(&task, &download.cid);
            }
        }
        self.die();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.die();
    }
}

/// A download that runs.
pub struct Download {
    shared: Arc<Shared>,
    thread: JoinHandle<(End, std::time::Duration)>,
}

impl Download {
    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// The client ID.
    pub fn cid(&self) -> &str {
        &self.shared.cid
    }

    /// ID of the task; `None` before the registration.
    pub fn task(&self) -> Option<String> {
        Some(self.shared.tasks().pop()?.1)
    }

    /// Path of the file, complete or not.
    pub fn file(&self) -> PathBuf {
        self.shared.path.clone()
    }

    /// True if the download has ended.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the end of the download.
    pub fn wait(self) -> Outcome {
        let (end, time) = self.thread.join().expect("the download does not panic");
        Outcome { end, file: self.shared.path.clone(), counts: self.shared.counts(), time }
    }
}
