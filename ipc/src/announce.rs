//! Makes the events of the engine and its shims, and writes them into the monitor FIFO: one event per operation, also
//! if the operation fails.
//!
//! Called by the engine's jobs and event loop, and by shims. Never blocks, and reports no error to its caller. If an
//! event is too large for a record, labels are left out, largest first; the attribute `labelsDropped` has their number.

use crate::Event;
use crate::record::RecordError;
use crate::sender::FifoSender;
use crate::shim::Identity;
use crate::text::head;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest reason in an event, in bytes. An event has at most 4096 bytes.
const REASON_MAX: usize = 1500;
/// Longest name in an event, in bytes. A valid reference is shorter, but a client may request any name.
const NAME_MAX: usize = 500;

/// Makes and writes events. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Announcer {
    sender: FifoSender,
}

impl Announcer {
    /// Makes an announcer that writes events by `sender`.
    pub fn new(sender: FifoSender) -> Self {
        Announcer { sender }
    }

    /// The sender that writes the events.
    pub fn sender(&self) -> &FifoSender {
        &self.sender
    }

    /// Number of events that wait to be written, and number of events dropped since the start.
    pub fn backlog(&self) -> (u64, u64) {
        (self.sender.spooled() as u64, self.sender.dropped())
    }

    /// Waits until all events are written, for at most `timeout`.
    pub fn flush(&self, timeout: Duration) {
        if !self.sender.flush(timeout) {
            let (events, path) = (self.sender.spooled(), self.sender.path().display());
            let why = self.sender.problem().unwrap_or_else(|| "it is full".to_owned());
            log::warn!("{events} events could not be written into the monitor FIFO {path}: {why}");
        }
    }

    /// Announces an event of the image `name`.
    pub fn image(
        &self,
        action: &str,
        name: &str,
        facts: &[(&str, &str)],
        labels: Option<&BTreeMap<String, String>>,
    ) {
        let name = head(name, NAME_MAX);
        let mut event = Event::new("image", action, name);
        if !name.is_empty() {
            event = event.with("name", name);
        }
        for (key, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
            event = event.with(*key, head(value, REASON_MAX));
        }
        for (key, value) in labels.into_iter().flatten() {
            // The image's author chose the labels. A label whose key is not allowed must not prevent the event.
            if !key.is_empty()
                && !key.contains(|c: char| c == '=' || c.is_control())
                && event.labels.len() < 200
            {
                event = event.label(key, value);
            }
        }
        self.send(event);
    }

    /// Announces that a prune has removed containers. Like docker's, the event has no container's ID.
    pub fn pruned_containers(&self, freed: u64) {
        self.send(Event::new("container", "prune", "").with("reclaimed", freed));
    }

    /// Announces an event of job `id`.
    pub fn job(&self, action: &str, id: u64, kind: &str, subject: &str, facts: &[(&str, &str)]) {
        let mut event = Event::new("job", action, id.to_string())
            .with("kind", kind)
            .with("name", head(subject, NAME_MAX));
        for (key, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
            event = event.with(*key, head(value, REASON_MAX));
        }
        self.send(event);
    }

    /// Announces an event of the task `id` of a supernode.
    pub fn task(&self, action: &str, id: &str, facts: &[(&str, &str)]) {
        self.fact("task", action, id, facts);
    }

    /// Announces an event of the peer `id` of a supernode.
    pub fn peer(&self, action: &str, id: &str, facts: &[(&str, &str)]) {
        self.fact("peer", action, id, facts);
    }

    fn fact(&self, kind: &str, action: &str, id: &str, facts: &[(&str, &str)]) {
        let mut event = Event::new(kind, action, head(id, NAME_MAX));
        for (key, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
            event = event.with(*key, head(value, REASON_MAX));
        }
        self.send(event);
    }

    /// Announces that the daemon `program` starts or stops.
    pub fn daemon(&self, action: &str, program: &str) {
        let event = Event::new("daemon", action, program);
        self.send(event.with("pid", std::process::id()).with("version", env!("CARGO_PKG_VERSION")));
    }

    /// Announces an event of a container, with its name, image and labels, and with its process if `pid` is not 0.
    pub fn container(&self, action: &str, who: &Identity, pid: i32, facts: &[(&str, &str)]) {
        let action: String =
            head(action, REASON_MAX).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut event =
            Event::new("container", action, who.id.as_str()).with("name", head(&who.name, NAME_MAX));
        event = event.with("image", head(&who.image, NAME_MAX));
        if pid > 0 {
            event = event.with("pid", pid);
        }
        for (key, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
            event = event.with(*key, head(value, REASON_MAX));
        }
        for (key, value) in &who.labels {
            if !key.is_empty()
                && !key.contains(|c: char| c == '=' || c.is_control())
                && event.labels.len() < 200
            {
                event = event.label(key, value);
            }
        }
        self.send(event);
    }

    fn send(&self, mut event: Event) {
        let mut dropped = 0u32;
        loop {
            match self.sender.send(event.clone()) {
                Ok(()) => return,
                Err(RecordError::TooLarge { .. }) if !event.labels.is_empty() => {
                    let largest =
                        event.labels.iter().max_by_key(|(k, v)| k.len() + v.len()).map(|(k, _)| k.to_owned());
                    event.labels =
                        event.labels.iter().filter(|(k, _)| Some(*k) != largest.as_deref()).collect();
                    dropped += 1;
                    event.attributes.set("labelsDropped", dropped.to_string());
                }
                Err(error) => {
                    log::warn!("event {} {} cannot be written: {error}", event.kind, event.action);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventView;
    use crate::record::{Scanner, Step};
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;

    /// Checks the event that `announce` writes into a FIFO.
    fn announced(announce: impl FnOnce(&Announcer), check: impl FnOnce(EventView<'_>)) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("made");
        let flags = nix::libc::O_NONBLOCK;
        let mut fifo =
            std::fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path).expect("open");
        announce(&Announcer::new(FifoSender::new(path)));
        let mut bytes = vec![0; 8192];
        let len = fifo.read(&mut bytes).expect("an event");
        let Some(Step::Record(record)) = Scanner::new(&bytes[..len]).next() else { panic!("a record") };
        check(record.event);
    }

    #[test]
    fn an_event_that_does_not_fit_loses_its_largest_labels_and_says_so() {
        let labels = BTreeMap::from([
            ("small".to_owned(), "kept".to_owned()),
            ("big".to_owned(), "x".repeat(3000)),
            ("bigger".to_owned(), "y".repeat(9000)),
            ("bad=key".to_owned(), String::new()),
        ]);
        let reason = "é".repeat(5000);
        let announce = |announcer: &Announcer| {
            announcer.image("pull-error", "a", &[("reason", &reason)], Some(&labels));
        };
        announced(announce, |event| {
            assert_eq!(event.labels().get("small"), Some("kept"));
            assert_eq!(event.labels().len(), 1);
            assert_eq!(event.attributes.get("labelsDropped"), Some("2"));
            assert_eq!(event.attributes.get("reason").map(str::len), Some(REASON_MAX));
        });
    }

    #[test]
    fn events_of_tasks_and_peers_have_the_facts_that_are_known() {
        let long = "é".repeat(5000);
        let facts = [("url", long.as_str()), ("size", ""), ("reason", &long)];
        let announce = |announcer: &Announcer| announcer.task("fail", &"a".repeat(64), &facts);
        announced(announce, |event| {
            assert_eq!((event.kind, event.action), ("task", "fail"));
            assert_eq!(event.attributes.get("url").map(str::len), Some(REASON_MAX), "both fit into a record");
            assert_eq!(event.attributes.get("reason").map(str::len), Some(REASON_MAX));
            assert_eq!(event.attributes.get("size"), None, "an unknown fact is left out");
        });
        let announce = |announcer: &Announcer| announcer.peer("deregister", "p", &[("ip", "10.0.0.1")]);
        announced(announce, |event| {
            assert_eq!((event.kind, event.id), ("peer", "p"));
            assert_eq!(event.attributes.get("ip"), Some("10.0.0.1"));
        });
    }
}
