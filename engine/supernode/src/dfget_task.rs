//! Downloads: which client downloads which task, on which peer, and with which status.
//!
//! Owned by the event loop. A download is named by client ID and task ID. This module never schedules.

use crate::task_id::TaskId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// The status of a download. docs/peers.md, "States".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DfgetStatus {
    /// Registered.
    #[default]
    Waiting,
    /// The client asks for pieces.
    Running,
    /// The client has all pieces.
    Success,
    /// The client has given up.
    Failed,
}

/// One download.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DfgetTask {
    /// The client's ID, which the client has made.
    pub cid: String,
    /// The file.
    pub task: TaskId,
    /// The client's peer.
    pub peer: String,
    /// The path of the file at the client's upload server.
    pub path: String,
    /// The address by which the client knows this supernode.
    pub supernode_ip: String,
    /// The program for which the client downloads.
    pub call_system: String,
    /// Whether `dfdaemon` started the client.
    pub is_dfdaemon: bool,
    /// The address from which the client has registered; only that address may speak for the client.
    pub remote: IpAddr,
    /// The status of the download.
    pub status: DfgetStatus,
}

/// All downloads.
#[derive(Debug, Default)]
pub struct DfgetTasks {
    /// By task, then by client ID.
    tasks: HashMap<TaskId, HashMap<String, DfgetTask>>,
    by_peer: HashMap<String, BTreeSet<(String, TaskId)>>,
    count: usize,
}

impl DfgetTasks {
    /// Adds a download. Replaces and returns an earlier download of this task by this client.
    pub fn add(&mut self, download: DfgetTask) -> Option<DfgetTask> {
        let replaced = self.delete(&download.cid, &download.task);
        self.by_peer.entry(download.peer.clone()).or_default().insert((download.cid.clone(), download.task));
        self.tasks.entry(download.task).or_default().insert(download.cid.clone(), download);
        self.count += 1;
        replaced
    }

    /// The download of `task` by `cid`.
    pub fn get(&self, cid: &str, task: &TaskId) -> Option<&DfgetTask> {
        self.tasks.get(task)?.get(cid)
    }

    /// The clients that download `task`.
    pub fn cids_by_task(&self, task: &TaskId) -> Vec<&str> {
        self.tasks.get(task).into_iter().flat_map(HashMap::keys).map(String::as_str).collect()
    }

    /// The downloads on the peer `peer`, each with client ID and task.
    pub fn by_peer(&self, peer: &str) -> Vec<(String, TaskId)> {
        self.by_peer.get(peer).into_iter().flatten().cloned().collect()
    }

    /// All downloads that `filter` accepts.
    pub fn list(&self, filter: impl Fn(&DfgetTask) -> bool) -> Vec<&DfgetTask> {
        self.tasks.values().flat_map(HashMap::values).filter(|download| filter(download)).collect()
    }

    /// Removes a download.
    pub fn delete(&mut self, cid: &str, task: &TaskId) -> Option<DfgetTask> {
        let of_task = self.tasks.get_mut(task)?;
        let download = of_task.remove(cid)?;
        if of_task.is_empty() {
            self.tasks.remove(task);
        }
        if let Some(of_peer) = self.by_peer.get_mut(&download.peer) {
            of_peer.remove(&(download.cid.clone(), download.task));
            if of_peer.is_empty() {
                self.by_peer.remove(&download.peer);
            }
        }
        self.count -= 1;
        Some(download)
    }

    /// Changes the status of a download. Success is final. Returns true if the status has changed.
    pub fn update_status(&mut self, cid: &str, task: &TaskId, status: DfgetStatus) -> bool {
        let Some(download) = self.tasks.get_mut(task).and_then(|of_task| of_task.get_mut(cid)) else {
            return false;
        };
        if download.status == status || download.status == DfgetStatus::Success {
            return false;
        }
        download.status = status;
        true
    }

    /// The number of downloads.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no download.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn download(cid: &str, url: &str, peer: &str) -> DfgetTask {
        DfgetTask {
            cid: cid.to_owned(),
            task: TaskId::new(url, "", ""),
            peer: peer.to_owned(),
            path: String::new(),
            supernode_ip: String::new(),
            call_system: String::new(),
            is_dfdaemon: false,
            remote: std::net::Ipv4Addr::LOCALHOST.into(),
            status: DfgetStatus::Waiting,
        }
    }

    #[test]
    fn downloads_are_found_by_client_task_and_peer() {
        let mut downloads = DfgetTasks::default();
        for (cid, url, peer) in [("a", "u", "p"), ("b", "u", "q"), ("a", "v", "p")] {
            assert_eq!(downloads.add(download(cid, url, peer)), None);
        }
        let (u, v) = (TaskId::new("u", "", ""), TaskId::new("v", "", ""));
        assert_eq!(downloads.by_peer("q"), [("b".to_owned(), u)]);
        assert_eq!((downloads.cids_by_task(&u).len(), downloads.by_peer("p").len()), (2, 2));
        assert_eq!(downloads.list(|d| d.peer == "p").len(), 2);
        assert_eq!(downloads.add(download("a", "u", "r")).map(|d| d.peer), Some("p".to_owned()));
        assert_eq!((downloads.len(), downloads.by_peer("p").len()), (3, 1));
        for (cid, task) in [("a", u), ("b", u), ("a", v)] {
            assert!(downloads.delete(cid, &task).is_some() && downloads.delete(cid, &task).is_none());
        }
        assert!(downloads.is_empty() && downloads.tasks.is_empty() && downloads.by_peer.is_empty());
    }

    #[test]
    fn success_is_final() {
        let (mut downloads, task) = (DfgetTasks::default(), TaskId::new("u", "", ""));
        downloads.add(download("a", "u", "p"));
        assert!(downloads.update_status("a", &task, DfgetStatus::Running));
        assert!(!downloads.update_status("a", &task, DfgetStatus::Running));
        assert!(downloads.update_status("a", &task, DfgetStatus::Success));
        assert!(!downloads.update_status("a", &task, DfgetStatus::Failed));
        assert!(!downloads.update_status("b", &task, DfgetStatus::Failed));
    }
}
