//! A random walk through the table of docs/events.md: reader, monitord, consumer and disk are killed at any step, and
//! in the end every event in the journal has been processed. Needs root, for mount(2).

use sampan_ipc::Event;
use sampan_ipc::sender::FifoSender;
use sampan_ipc::watch::{Item, Subscribe};
use sampan_tests::disk::Disk;
use sampan_tests::host::{Host, PATIENCE, binary, need_root};
use sampan_tests::random::Random;
use std::collections::HashSet;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How events are processed and acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `--exec`: a command for up to eight events.
    Exec,
    /// `--ack-fd`: a shell at the end of a pipe.
    Ack,
}

/// The parts of a walk that can be killed.
struct Walk {
    host: Host,
    disk: Disk,
    form: Form,
    sync: &'static str,
    boots: u32,
    sender: FifoSender,
    reader: Option<Child>,
    consumer: Option<Child>,
}

/// The consumer's work takes a moment, in which it can be killed.
const WORK: &str = "i=0; while [ $i -lt 200 ]; do i=$((i+1)); done";

impl Walk {
    fn start(form: Form, sync: &'static str) -> Self {
        let (host, disk) = (Host::new(), Disk::new("mkfs.ext4", "defaults"));
        let sender = FifoSender::new(host.fifo());
        let mut walk = Walk { host, disk, form, sync, boots: 0, sender, reader: None, consumer: None };
        walk.start_monitord();
        walk
    }

    /// Starts monitord on the disk that fails, with a boot ID of its own.
    fn start_monitord(&mut self) {
        let boot = self.host.path("boot_id");
        fs::write(&boot, format!("00000000-0000-4000-8000-{:012}\n", self.boots + 1)).expect("written");
        let script = "mount --bind \"$1\" /proc/sys/kernel/random/boot_id; shift; exec \"$@\"";
        let mut command = self.host.command_of(Path::new("unshare"));
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(boot).arg(binary("sampan-monitord"));
        command.args(["--sync", self.sync]).env("SAMPAN_STATE_DIR", self.disk.target.join("state"));
        self.host.start(command);
    }

    fn done(&self) -> PathBuf {
        self.host.path("done")
    }

    /// Starts reader and consumer, if they are not running.
    fn start_reader(&mut self) {
        let is_over = |child: &mut Child| child.try_wait().expect("ours").is_some();
        if self.reader.as_mut().is_some_and(|reader| !is_over(reader)) {
            return;
        }
        self.kill_consumer();
        let mut command = self.host.command("sampan");
        command.args(["events", "--filter", "type=test", "--after", "0", "--cursor-file"]);
        command.arg(self.disk.target.join("cursor")).stderr(self.host.log_file());
        if self.form == Form::Exec {
            let work = format!("cat >>{}; {WORK}", self.done().display());
            command.args(["--exec-batch", "8", "--exec-retries", "1000", "--exec", &work]);
            self.reader = Some(command.spawn().expect("built"));
            return;
        }
        let work = format!(
            "while read -r line; do printf '%s\\n' \"$line\" >>{}; {WORK}; seq=${{line#*:}}; echo ${{seq%%,*}}; done",
            self.done().display()
        );
        let mut consumer = Command::new("bash");
        consumer.args(["-c", &work]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut consumer = consumer.spawn().expect("bash");
        let lines = OwnedFd::from(consumer.stdin.take().expect("piped"));
        let acks = OwnedFd::from(consumer.stdout.take().expect("piped"));
        command.args(["--format", "json", "--ack-fd", "0"]).stdin(acks).stdout(lines);
        self.reader = Some(command.spawn().expect("built"));
        self.consumer = Some(consumer);
    }

    fn kill_reader(&mut self) {
        if let Some(mut reader) = self.reader.take() {
            reader.kill().expect("ours");
            reader.wait().expect("ours");
        }
    }

    fn kill_consumer(&mut self) {
        if let Some(mut consumer) = self.consumer.take() {
            consumer.kill().expect("ours");
            consumer.wait().expect("ours");
        }
        // With `--exec`, the commands that the reader has started.
        let Some(reader) = &self.reader else { return };
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", reader.id()));
        for child in children.unwrap_or_default().split_whitespace() {
            let _ = Command::new("kill").args(["-9", child]).stderr(Stdio::null()).status();
        }
    }

    fn lose_power(&mut self, is_log_written: bool) {
        self.kill_consumer();
        self.kill_reader();
        self.host.kill9();
        // The content of pipes is lost with the power.
        self.sender = FifoSender::new(self.host.fifo());
        fs::remove_file(self.host.fifo()).expect("monitord made it");
        self.disk.lose_power(is_log_written);
        self.disk.come_back();
        self.boots += 1;
        self.start_monitord();
    }

    fn processed(&self) -> HashSet<String> {
        let text = fs::read_to_string(self.done()).unwrap_or_default();
        text.lines().filter_map(id_of).collect()
    }

    fn journal(&self) -> Vec<String> {
        let filters = vec!["type=test".to_owned()];
        let mut past = self.host.subscribe(Subscribe { after: Some(0), filters, ..Subscribe::default() });
        let mut ids = Vec::new();
        loop {
            match past.item() {
                Item::Event(event) => ids.push(event.id),
                // After a power cut, a torn file end may be reported as lost events.
                Item::Lost { .. } | Item::Welcome { .. } => {}
                Item::End(_) => return ids,
                item => panic!("not expected: {item:?}"),
            }
        }
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        self.kill_reader();
        self.kill_consumer();
    }
}

/// The ID of the event in a line; `None` for a report of lost events.
fn id_of(line: &str) -> Option<String> {
    let event: serde_json::Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert!(event["journal"].is_null(), "the journal was never replaced: {line}");
    let id = event["id"].as_str().map(str::to_owned);
    assert!(id.is_some() || event["lost"].is_object(), "{line}");
    id
}

fn walk(form: Form, sync: &'static str, seed: u64) {
    need_root();
    eprintln!("seed {seed}");
    let mut random = Random::new(seed);
    let mut walk = Walk::start(form, sync);
    File::create(walk.done()).expect("ours");
    let (mut emitted, mut promised) = (0u64, Vec::new());
    for _ in 0..sampan_tests::rounds(200) {
        walk.start_reader();
        let before = walk.host.status().seq;
        let burst = 1 + random.below(20) as u64;
        let ids: Vec<String> = (emitted..emitted + burst).map(|id| id.to_string()).collect();
        for id in &ids {
            walk.sender.send(Event::new("test", "tick", id.as_str())).expect("small");
        }
        emitted += burst;
        let is_awaited = random.one_in(2);
        if is_awaited {
            walk.host.await_seq(before + burst);
        }
        match random.below(6) {
            0 => walk.kill_reader(),
            1 => walk.kill_consumer(),
            2 => {
                walk.host.kill9();
                walk.start_monitord();
            }
            3 => {
                assert!(walk.host.term().success());
                walk.start_monitord();
            }
            4 => {
                // Without a sync for each event, events of the last second before a power cut may be lost.
                if !is_awaited || sync != "always" {
                    promised.retain(|id: &String| sync == "always" && !ids.contains(id));
                } else {
                    promised.extend(ids.clone());
                }
                walk.lose_power(random.one_in(2));
                continue;
            }
            _ => {}
        }
        // Without a power cut, every event in the FIFO arrives, whatever was killed.
        assert!(walk.sender.flush(PATIENCE), "{:?}", walk.sender.problem());
        walk.host.wait_until("the burst", || walk.host.status().seq >= before + burst);
        promised.extend(ids);
    }
    walk.start_reader();
    let journal = walk.journal();
    let held: HashSet<&String> = journal.iter().collect();
    assert_eq!(held.len(), journal.len(), "an event is in the journal twice");
    let missing: Vec<&String> = promised.iter().filter(|id| !held.contains(id)).collect();
    assert!(missing.is_empty(), "the journal lacks {missing:?} of {emitted}");
    // A reader whose consumer was killed may be about to exit.
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        walk.start_reader();
        let processed = walk.processed();
        let missing: Vec<&String> = journal.iter().filter(|id| !processed.contains(*id)).collect();
        if missing.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "not processed: {missing:?}\n{}", walk.host.logs());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_command_processes_every_synced_event_whatever_is_killed() {
    walk(Form::Exec, "always", 181);
}

#[test]
fn an_acknowledging_consumer_misses_no_event_whatever_is_killed() {
    walk(Form::Ack, "interval", 81);
}
