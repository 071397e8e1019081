//! Rules of registrations, pulls and reports, with origins and time under control.

use super::*;
use crate::access::Cidr;
use crate::cdn::{CdnMessage, CdnSettings, Fetch, Source};
use crate::managers::pull::{PullOutcome, PullRequest};
use crate::origin::{Body, OriginError, OriginFile, ProbeResult, Request, Validators};
use crate::registration::{BeginOutcome, Caller, Probe, RegistrationOutcome};
use crate::reply::Reply;
use crate::task::WantedFile;
use crate::v1::{PieceResult, Registration};
use sampan_ipc::sender::FifoSender;
use sampan_job::cancel::Cancel;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};
use tempfile::TempDir;

const MIB: usize = 1 << 20;

/// An origin in memory. `None`: it fails.
struct Memory(Mutex<Option<Vec<u8>>>);

impl Source for Memory {
    fn fetch<'a>(&'a self, fetch: &Fetch<'_>, _: &'a Cancel) -> Result<Body<'a>, OriginError> {
        let content = self.0.lock().expect("a lock").clone();
        let url = fetch.request.printable_url();
        let content = content.ok_or(OriginError::NotFound { url })?;
        let (from, len) = (fetch.from as usize, content.len() as u64);
        let to = fetch.to.unwrap_or(len) as usize;
        let part = std::io::Cursor::new(content[from..to].to_vec());
        Ok(Body::of_supernode(part, fetch.from, Some(len), Validators::default()))
    }
}

/// The managers, and the messages of their fetches.
struct Running {
    managers: Managers,
    messages: Receiver<CdnMessage>,
}

impl Running {
    /// Waits until all fetches have ended.
    fn end_fetches(&mut self, now: Instant, clock: SystemTime) {
        while self.managers.cdn.is_fetching() {
            let message = self.messages.recv_timeout(Duration::from_secs(60)).expect("a message");
            self.managers.on_cdn(message, now, clock);
        }
    }
}

impl std::ops::Deref for Running {
    type Target = Managers;

    fn deref(&self) -> &Managers {
        &self.managers
    }
}

impl std::ops::DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Managers {
        &mut self.managers
    }
}

impl Drop for Running {
    /// A fetch that ends later would write into the directory while it is removed.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end_fetches(Instant::now(), SystemTime::now());
        }
    }
}

struct Rig {
    managers: Running,
    origin: Arc<Memory>,
    now: Instant,
    clock: SystemTime,
    dir: TempDir,
}

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn cid(client: u8) -> String {
    format!("10.0.0.{client}-26462-1795229659.132")
}

impl Rig {
    fn new(content: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let origin = Arc::new(Memory(Mutex::new(Some(vec![7; content]))));
        let managers = Rig::open(&dir, &origin);
        Rig { managers, origin, now: Instant::now(), clock: SystemTime::now(), dir }
    }

    fn open(dir: &TempDir, origin: &Arc<Memory>) -> Running {
        let (sender, messages) = channel();
        let source: Arc<dyn Source> = Arc::<Memory>::clone(origin);
        let send = move |message| drop(sender.send(message));
        let cdn = Cdn::open(dir.path(), source, send, CdnSettings::default()).expect("opened");
        let (journal, registered) = Journal::open(dir.path());
        let settings = ManagerSettings {
            advertise_ip: ip(1),
            download_port: 8001,
            is_source_pattern: false,
            demands_tickets: false,
            revalidate_after: Duration::from_secs(5),
        };
        let managers = Managers::new(
            settings,
            Parts {
                cdn,
                resolver: Resolver::new(sampan_registry::Access::default(), |_| ()),
                journal,
                registered,
                tickets: Tickets::open(dir.path()).expect("a key"),
                admins: Admins::new(Vec::<Cidr>::new(), &[]),
                addresses: PeerAddresses::new(Vec::new()),
                announcer: Announcer::new(FifoSender::new(dir.path().join("no.fifo"))),
                owned: OwnedTasks::default(),
            },
        );
        Running { managers, messages }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.clock += Duration::from_secs(seconds);
    }

    fn pending(&self, token: usize, client: u8, change: &dyn Fn(&mut Registration)) -> PendingRegistration {
        let mut registration = Registration {
            raw_url: "http://origin/file".to_owned(),
            task_url: "http://origin/file".to_owned(),
            cid: cid(client),
            ip: ip(client).to_string(),
            port: 15_001,
            path: "/peer/file/x".to_owned(),
            host_name: "host".to_owned(),
            ..Registration::default()
        };
        change(&mut registration);
        let headers = registration.headers.iter().filter_map(|line| Request::split_header(line));
        let file = WantedFile {
            request: Request::new(&registration.raw_url, headers).expect("a request"),
            task_url: registration.task_url.clone(),
            sign: registration.sign().to_owned(),
            is_md5: !registration.md5.is_empty(),
        };
        PendingRegistration {
            token: Some(token),
            caller: Caller::Client(Box::new(registration), ip(client)),
            file,
        }
    }

    fn begin(&mut self, token: usize, client: u8, change: &dyn Fn(&mut Registration)) -> BeginOutcome {
        let pending = self.pending(token, client, change);
        self.managers.begin_registration(pending, self.now, self.clock)
    }

    fn probe(&mut self, token: usize, client: u8, change: &dyn Fn(&mut Registration)) -> Probe {
        match self.begin(token, client, change) {
            BeginOutcome::Probe(probe) => probe,
            other => panic!("{other:?}"),
        }
    }

    fn complete(
        &mut self,
        probe: &Probe,
        answer: Result<ProbeResult, OriginError>,
    ) -> Vec<RegistrationOutcome> {
        self.managers.end_registrations(&probe.key, answer, &|_| true, self.now, self.clock)
    }

    fn found(&self, etag: &str) -> Result<ProbeResult, OriginError> {
        let length = self.origin.0.lock().expect("a lock").as_ref().map(|content| content.len() as u64);
        let validators = Validators { etag: Some(etag.to_owned()), last_modified: None };
        Ok(ProbeResult::Found(OriginFile { length, takes_ranges: true, validators }))
    }

    /// Registers a client for the first time, and lets the fetch end.
    fn first(&mut self, client: u8) -> TaskId {
        let probe = self.probe(1, client, &|_| ());
        let answer = self.found("\"1\"");
        let outcomes = self.complete(&probe, answer);
        assert_eq!(code(&outcomes[0]), 200);
        self.fetched();
        outcomes[0].task
    }

    fn fetched(&mut self) {
        self.managers.end_fetches(self.now, self.clock);
    }

    fn pull(&mut self, client: u8, task: TaskId, report: Option<(&str, PieceResult, &str)>) -> PullOutcome {
        let (range, result, holder) = report.unwrap_or(("", PieceResult::None, ""));
        let request = PullRequest {
            task,
            cid: cid(client),
            range: range.to_owned(),
            result,
            holder: holder.to_owned(),
            begins: report.is_none(),
            ends: false,
        };
        self.managers.pull(&request, ip(client), self.now, self.clock)
    }
}

fn body(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).expect("JSON")
}

fn code(outcome: &RegistrationOutcome) -> u64 {
    let reply = outcome.result.as_ref().unwrap_or_else(|refused| refused);
    body(reply)["code"].as_u64().expect("a code")
}

fn pieces(pulled: &PullOutcome) -> Vec<Value> {
    match pulled {
        PullOutcome::Reply(reply) => body(reply)["data"].as_array().cloned().unwrap_or_default(),
        PullOutcome::Wait { .. } => Vec::new(),
    }
}

fn is_code(pulled: &PullOutcome, expected: u64) -> bool {
    matches!(pulled, PullOutcome::Reply(reply) if body(reply)["code"] == expected)
}

#[test]
fn clients_that_come_together_cause_one_question() {
    let mut rig = Rig::new(9 * MIB);
    let probe = rig.probe(1, 2, &|_| ());
    for (token, client) in [(2, 3), (3, 4)] {
        assert!(matches!(rig.begin(token, client, &|_| ()), BeginOutcome::Waits));
    }
    // A client with a credential needs an answer of its own.
    let own = rig.probe(4, 5, &|r| r.headers = vec!["Authorization: Bearer x".to_owned()]);
    assert_ne!(own.key, probe.key);
    rig.managers.abandon_registration(3);
    let answer = rig.found("\"1\"");
    let outcomes = rig.complete(&probe, answer);
    let told: Vec<_> = outcomes.iter().map(|outcome| (outcome.token, code(outcome))).collect();
    assert_eq!(told, [(Some(1), 200), (Some(2), 200)]);
    assert_eq!((rig.managers.downloads.len(), rig.managers.peers.len()), (2, 2));
}

#[test]
fn errors_of_an_origin_have_codes_of_their_own() {
    let url = || "http://origin/file".to_owned();
    let mut rig = Rig::new(9 * MIB);
    for (error, expected) in [
        (OriginError::NotFound { url: url() }, 607),
        (OriginError::Denied { url: url(), status: 401 }, 608),
        (OriginError::Forbidden { host: "origin".to_owned(), address: ip(9) }, 403),
        (OriginError::Cancelled, 500),
    ] {
        let probe = rig.probe(1, 2, &|_| ());
        assert_eq!(code(&rig.complete(&probe, Err(error))[0]), expected);
    }
    assert!(
        rig.managers.tasks.is_empty() && rig.managers.peers.is_empty() && rig.managers.downloads.is_empty()
    );
    assert!(
        matches!(rig.begin(1, 2, &|r| r.port = 80), BeginOutcome::Ended(outcome) if code(&outcome) == 400)
    );
}

#[test]
fn an_origin_is_asked_again_only_after_a_while() {
    let mut rig = Rig::new(9 * MIB);
    rig.first(2);
    rig.pass(4);
    assert!(matches!(rig.begin(1, 3, &|_| ()), BeginOutcome::Ended(outcome) if code(&outcome) == 200));
    rig.pass(1);
    let probe = rig.probe(1, 4, &|_| ());
    assert!(probe.known.is_some(), "it may answer that nothing has changed");
    assert_eq!(code(&rig.complete(&probe, Ok(ProbeResult::Unchanged))[0]), 200);
    rig.pass(5);
    let probe = rig.probe(1, 5, &|_| ());
    assert_eq!(code(&rig.complete(&probe, Err(OriginError::Cancelled))[0]), 500);
    let probe = rig.probe(1, 5, &|_| ());
    let broken = OriginError::Status { url: String::new(), status: 503, retry_after: None };
    assert!(broken.is_temporary());
    assert_eq!(
        code(&rig.complete(&probe, Err(broken))[0]),
        200,
        "a finished public file is given all the same"
    );
}

#[test]
fn a_changed_file_is_another_one_for_all() {
    let mut rig = Rig::new(9 * MIB);
    let task = rig.first(2);
    *rig.origin.0.lock().expect("a lock") = Some(vec![8; 5 * MIB]);
    rig.pass(10);
    let probe = rig.probe(1, 3, &|_| ());
    let answer = rig.found("\"2\"");
    let outcomes = rig.complete(&probe, answer);
    assert_eq!(body(outcomes[0].result.as_ref().expect("admitted"))["data"]["fileLength"], 5 * MIB);
    rig.fetched();
    assert!(is_code(&rig.pull(2, task, None), 502), "the first client has pieces of the old file");
    assert_eq!(pieces(&rig.pull(3, task, None)).len(), 2);
}

#[test]
fn a_protected_file_is_for_those_who_have_shown_access() {
    let mut rig = Rig::new(9 * MIB);
    let with = |token: &'static str| {
        move |r: &mut Registration| r.headers = vec![format!("Authorization: Bearer {token}")]
    };
    let probe = rig.probe(1, 2, &with("a"));
    let answer = rig.found("\"1\"");
    let outcomes = rig.complete(&probe, answer);
    let task = outcomes[0].task;
    rig.fetched();
    let offered = pieces(&rig.pull(2, task, None));
    let path = offered[0]["path"].as_str().expect("a path");
    let ticket = path.rsplit('/').next().expect("a ticket");
    let is_valid = |rig: &Rig, client: u8| {
        let task = rig.managers.tasks.get(&task).expect("a task");
        rig.managers.is_ticket_valid(ticket, task, ip(client), rig.clock)
    };
    assert!(is_valid(&rig, 2));
    assert!(!is_valid(&rig, 3), "the ticket is for one address");
    assert!(matches!(rig.begin(1, 3, &with("a")), BeginOutcome::Ended(outcome) if code(&outcome) == 200));
    let probe = rig.probe(1, 4, &with("b"));
    assert!(probe.known.is_none(), "the origin must look at the credential");
    let denied = OriginError::Denied { url: String::new(), status: 403 };
    assert_eq!(code(&rig.complete(&probe, Err(denied))[0]), 608);
    let anonymous = rig.probe(1, 5, &|_| ());
    let denied = OriginError::Denied { url: String::new(), status: 401 };
    assert_eq!(code(&rig.complete(&anonymous, Err(denied))[0]), 608);
    rig.pass(301);
    assert!(matches!(rig.begin(1, 6, &with("a")), BeginOutcome::Probe(_)), "a proof does not last for ever");
}

fn with(token: &'static str) -> impl Fn(&mut Registration) {
    move |registration| registration.headers = vec![format!("Authorization: Bearer {token}")]
}

fn denied() -> Result<ProbeResult, OriginError> {
    Err(OriginError::Denied { url: String::new(), status: 401 })
}

#[test]
fn a_file_of_another_server_is_never_the_task() {
    let mut rig = Rig::new(9 * MIB);
    rig.first(2);
    for raw in ["http://evil/file", "http://origin/other", "http://origin/file/../x", "https://origin/file"] {
        let begun = rig.begin(1, 3, &|r| r.raw_url = raw.to_owned());
        assert!(matches!(begun, BeginOutcome::Ended(outcome) if code(&outcome) == 400), "{raw}");
    }
}

#[test]
fn an_identifier_never_passes_for_a_checked_md5() {
    let mut rig = Rig::new(9 * MIB);
    let sum = "d41d8cd98f00b204e9800998ecf8427e";
    let probe = rig.probe(1, 2, &|r| r.identifier = sum.to_owned());
    let answer = rig.found("\"1\"");
    assert_eq!(code(&rig.complete(&probe, answer)[0]), 200);
    let begun = rig.begin(1, 3, &|r| r.md5 = sum.to_owned());
    assert!(matches!(begun, BeginOutcome::Ended(outcome) if code(&outcome) == 606));
}

#[test]
fn a_public_file_that_becomes_private_is_given_to_nobody_else() {
    let mut rig = Rig::new(9 * MIB);
    let task = rig.first(2);
    rig.pass(10);
    let probe = rig.probe(1, 3, &|_| ());
    assert_eq!(code(&rig.complete(&probe, denied())[0]), 608);
    assert!(rig.managers.tasks.get(&task).is_some_and(|task| task.is_protected));
    let again = rig.probe(1, 4, &|_| ());
    assert!(again.known.is_none(), "an answer \"unchanged\" would prove nothing");
    assert_eq!(code(&rig.complete(&again, denied())[0]), 608);
    // A login page was there first; the private file comes with a token.
    *rig.origin.0.lock().expect("a lock") = Some(vec![8; 5 * MIB]);
    let private = rig.probe(1, 5, &with("a"));
    let answer = rig.found("\"2\"");
    assert_eq!(code(&rig.complete(&private, answer)[0]), 200);
    assert!(rig.managers.tasks.get(&task).is_some_and(|task| task.is_protected));
    let stranger = rig.probe(1, 6, &|_| ());
    assert_eq!(code(&rig.complete(&stranger, denied())[0]), 608);
}

#[test]
fn a_protected_file_without_a_version_is_not_shared() {
    let mut rig = Rig::new(9 * MIB);
    let nameless = || {
        let length = Some(9 * MIB as u64);
        Ok(ProbeResult::Found(OriginFile { length, takes_ranges: true, validators: Validators::default() }))
    };
    let probe = rig.probe(1, 2, &with("alice"));
    assert_eq!(code(&rig.complete(&probe, nameless())[0]), 200);
    let probe = rig.probe(1, 3, &with("bob"));
    assert_eq!(code(&rig.complete(&probe, nameless())[0]), 610, "bob may be given another content");
    rig.pass(10);
    let probe = rig.probe(1, 4, &with("alice"));
    assert_eq!(code(&rig.complete(&probe, nameless())[0]), 200);
}

#[test]
fn a_client_id_belongs_to_the_address_that_registered_it_first() {
    let mut rig = Rig::new(9 * MIB);
    let task = rig.first(2);
    let stolen = rig.begin(1, 3, &|r| r.cid = cid(2));
    assert!(matches!(stolen, BeginOutcome::Ended(outcome) if code(&outcome) == 403));
    assert_eq!(pieces(&rig.pull(2, task, None)).len(), 3, "the first client goes on");
}

#[test]
fn a_ticket_is_for_one_version_of_the_file() {
    let mut rig = Rig::new(9 * MIB);
    let probe = rig.probe(1, 2, &with("a"));
    let answer = rig.found("\"1\"");
    let task = rig.complete(&probe, answer)[0].task;
    let ticket = rig.managers.issue_ticket(rig.managers.tasks.get(&task).expect("a task"), ip(2), rig.clock);
    let is_valid = |rig: &Rig| {
        let task = rig.managers.tasks.get(&task).expect("a task");
        rig.managers.is_ticket_valid(&ticket, task, ip(2), rig.clock)
    };
    assert!(is_valid(&rig));
    rig.pass(10);
    let probe = rig.probe(1, 3, &with("b"));
    let answer = rig.found("\"2\"");
    assert_eq!(code(&rig.complete(&probe, answer)[0]), 200);
    assert!(!is_valid(&rig));
}

#[test]
fn a_pull_is_for_the_address_that_has_registered() {
    let mut rig = Rig::new(9 * MIB);
    let task = rig.first(2);
    let request = PullRequest {
        task,
        cid: cid(2),
        range: String::new(),
        result: PieceResult::None,
        holder: String::new(),
        begins: true,
        ends: false,
    };
    let pulled = rig.managers.pull(&request, ip(9), rig.now, rig.clock);
    assert!(is_code(&pulled, 502), "{pulled:?}");
    let range = "0-4194303";
    assert_eq!(rig.managers.on_piece_stored(&task, &cid(2), range, ip(9), rig.now).status, 500);
    assert_eq!(rig.managers.on_piece_stored(&task, &cid(2), range, ip(2), rig.now).body, br#"{"code":611}"#);
}

#[test]
fn a_client_that_has_all_pieces_is_told_so() {
    let mut rig = Rig::new(9 * MIB);
    let task = rig.first(2);
    let mut offered = pieces(&rig.pull(2, task, None));
    assert_eq!(offered.len(), 3);
    let mut last = None;
    for piece in offered.drain(..) {
        let (range, holder) =
            (piece["range"].as_str().expect("a range"), piece["cid"].as_str().expect("a holder"));
        last = Some(rig.pull(2, task, Some((range, PieceResult::Received, holder))));
    }
    assert!(is_code(&last.expect("a pull"), 600));
    assert_eq!(rig.managers.progress.swarm(&task).map(|swarm| swarm.supernode_load()), Some(0));
    // The pieces are in memory only: others are not sent there yet.
    assert!(rig.managers.progress.swarm(&task).is_some_and(|swarm| swarm.holders(0).is_none()));
    rig.managers.on_piece_stored(&task, &cid(2), "0-4194303", ip(2), rig.now);
    assert!(rig.managers.progress.swarm(&task).is_some_and(|swarm| swarm.holders(0).is_some()));
    rig.managers.on_service_down(&task, &cid(2), ip(2), rig.now);
    assert!(rig.managers.progress.swarm(&task).is_some_and(|swarm| swarm.holders(0).is_none()));
}

#[test]
fn a_client_that_comes_from_elsewhere_is_offered_one_piece() {
    let mut rig = Rig::new(20 * MIB);
    let task = rig.first(2);
    let pulled = rig.pull(2, task, Some(("4194304-8388607", PieceResult::Received, "cdnnode:10.0.0.9~x")));
    assert_eq!(pieces(&pulled).len(), 1, "it may have others, and would tell of one only");
    let piece = &pieces(&pulled)[0];
    let range = piece["range"].as_str().expect("a range");
    rig.managers.on_piece_stored(&task, &cid(2), range, ip(2), rig.now);
    assert_eq!(pieces(&rig.pull(2, task, None)).len(), 4);
}

#[test]
fn a_foreign_address_is_never_offered() {
    let mut rig = Rig::new(9 * MIB);
    let task = rig.first(2);
    let strange: [&dyn Fn(&mut Registration); 4] =
        [&|r| r.ip = "10.0.0.77".to_owned(), &|r| r.port = 0, &|r| r.cid = "short".to_owned(), &|r| {
            r.path = "http://10.0.0.77/".to_owned()
        }];
    for change in strange {
        assert!(matches!(rig.begin(1, 3, change), BeginOutcome::Ended(outcome) if code(&outcome) == 200));
        let name =
            if rig.managers.downloads.get("short", &task).is_some() { "short".to_owned() } else { cid(3) };
        rig.managers.on_piece_stored(&task, &name, "0-4194303", ip(3), rig.now);
        assert!(rig.managers.progress.swarm(&task).is_some_and(|swarm| swarm.holders(0).is_none()), "{name}");
        rig.managers.forget_task(&task, false, "a test");
        rig.first_again(2);
    }
}

#[test]
fn a_restart_brings_back_files_and_clients() {
    let mut rig = Rig::new(9 * MIB);
    let task = rig.first(2);
    assert!(matches!(rig.begin(1, 3, &|_| ()), BeginOutcome::Ended(_)));
    rig.managers.remove_download(&cid(3), &task);
    let Rig { managers, origin, dir, now, clock, .. } = rig;
    drop(managers);
    let managers = Rig::open(&dir, &origin);
    let mut rig = Rig { managers, origin, now, clock, dir };
    rig.managers.restore(now, clock);
    assert_eq!((rig.managers.tasks.len(), rig.managers.downloads.len(), rig.managers.peers.len()), (1, 1, 1));
    assert_eq!(pieces(&rig.pull(2, task, None)).len(), 1, "it may have pieces");
    assert!(is_code(&rig.pull(3, task, None), 502));
}

#[test]
fn nothing_is_left_of_a_task_that_is_forgotten() {
    let mut rig = Rig::new(9 * MIB);
    let task = rig.first(2);
    rig.pull(2, task, None);
    rig.managers.forget_task(&task, true, "a test");
    let managers = &rig.managers;
    assert!(managers.tasks.is_empty() && managers.downloads.is_empty() && managers.peers.is_empty());
    assert!(managers.progress.is_empty() && managers.grants.is_empty() && !managers.cdn.has_files());
}

impl Rig {
    /// Registers a client for a task whose file is there.
    fn first_again(&mut self, client: u8) {
        match self.begin(1, client, &|_| ()) {
            BeginOutcome::Ended(outcome) => assert_eq!(code(&outcome), 200),
            other => panic!("{other:?}"),
        }
    }
}
