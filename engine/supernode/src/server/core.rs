//! The managers, the requests that wait for an answer, and the threads that probe origins.
//!
//! Owned by the event loop, which passes requests in and takes answers out. Knows connections only as numbers.
//!
//! A registration: `control` → `Core::register` → `Managers::begin_registration`. If it needs a probe, a thread
//! runs it; [`Core::on_message`] → `Managers::end_registrations` → [`Core::answers`]. A pull: `control` →
//! `Managers::pull`. If there is no piece, [`Waiters`] keeps the connection; [`Core::run_due`] tries it again when
//! its task has changed.

use super::message::{Message, Outbox};
use super::waiters::{Need, Waiter, Waiters};
use crate::access::Secret;
use crate::gc::Gc;
use crate::managers::Managers;
use crate::managers::pull::PullOutcome;
use crate::origin::{OriginError, Origins, ProbeResult};
use crate::own_wire;
use crate::registration::{BeginOutcome, PendingRegistration, Probe, ProbeKey, RegistrationOutcome};
use crate::reply::Reply;
use crate::task_id::TaskId;
use crate::url;
use crate::v1::code;
use sampan_http::answer::Answer;
use sampan_job::cancel::Cancel;
use sampan_os::thread;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Most probes of origins that run at a time.
const PROBES_MAX: usize = 32;
/// Most probes of one server at a time.
const PROBES_PER_HOST: usize = 16;
/// Most probes for one client at a time.
const PROBES_PER_CLIENT: usize = 8;
/// Most probes that wait for a thread. A further one fails, and with it its registrations.
const PROBES_QUEUED_MAX: usize = 10_000;
/// Stack of a thread that probes an origin, in bytes.
const PROBE_STACK: usize = 512 << 10;
/// How long a pull waits for a piece. Dragonfly's clients give up after 5 s.
pub const POLL_TIME: Duration = Duration::from_secs(4);
/// How long a pull waits if its client has running pieces: the client reports a failure only after the answer.
pub const POLL_TIME_RUNNING: Duration = Duration::from_secs(1);
/// How long a registration waits for the origin. Then the client asks again.
const REGISTER_TIME: Duration = Duration::from_secs(4);

/// A request whose answer comes later: its values for the metrics.
#[derive(Debug)]
struct Later {
    handler: &'static str,
    began: Instant,
    request_bytes: u64,
}

/// A probe that a thread sends.
struct RunningProbe {
    probe: Probe,
    cancel: Arc<Cancel>,
}

/// Everything but connections.
pub struct Core {
    /// The managers.
    pub managers: Managers,
    /// Pulls that wait.
    pub waiters: Waiters,
    /// When tasks and peers are to be forgotten.
    pub gc: Gc,
    /// The shared secret, if one is demanded.
    pub secret: Option<Secret>,
    /// The connections that are open.
    pub open: HashSet<usize>,
    /// Answers that are ready to be sent, by connection.
    pub answers: Vec<(usize, Answer)>,
    outbox: Outbox,
    origins: Arc<Origins>,
    /// Probes that wait for a thread.
    probes: VecDeque<Probe>,
    /// Probes that a thread sends now.
    probing: HashMap<ProbeKey, RunningProbe>,
    /// Registrations that wait for an origin.
    registering: HashMap<usize, Instant>,
    register_deadlines: BTreeSet<(Instant, usize)>,
    later: HashMap<usize, Later>,
}

impl Core {
    /// Puts the parts together.
    pub fn new(
        managers: Managers,
        gc: Gc,
        secret: Option<Secret>,
        outbox: Outbox,
        origins: Arc<Origins>,
    ) -> Self {
        Core {
            managers,
            waiters: Waiters::default(),
            gc,
            secret,
            open: HashSet::new(),
            answers: Vec::new(),
            outbox,
            origins,
            probes: VecDeque::new(),
            probing: HashMap::new(),
            registering: HashMap::new(),
            register_deadlines: BTreeSet::new(),
            later: HashMap::new(),
        }
    }

    /// Remembers that the request of connection `token` is answered later.
    pub(super) fn set_later(
        &mut self,
        token: usize,
        handler: &'static str,
        request_bytes: u64,
        now: Instant,
    ) {
        self.later.insert(token, Later { handler, began: now, request_bytes });
    }

    /// Sends an answer to a request that waited.
    pub(super) fn answer_later(&mut self, token: usize, reply: Reply, now: Instant) {
        let later = self.later.remove(&token);
        let reply = match &later {
            Some(later) if later.handler == own_wire::TASKS => own_wire::with_status(reply),
            _ => reply,
        };
        if let Some(later) = later {
            let took = now.saturating_duration_since(later.began);
            let len = reply.body.len() as u64;
            self.managers.metrics.record_request(later.handler, reply.status, took, later.request_bytes, len);
        }
        self.answers.push((token, json(reply)));
    }

    /// Begins a registration; `Some` if it is answered at once.
    pub(super) fn register(
        &mut self,
        pending: PendingRegistration,
        now: Instant,
        clock: SystemTime,
    ) -> Option<Reply> {
        let token = pending.token;
        let begun = self.managers.begin_registration(pending, now, clock);
        if let BeginOutcome::Ended(outcome) = begun {
            return self.end_registration(outcome, now, clock);
        }
        if let Some(token) = token {
            let until = now + REGISTER_TIME;
            self.registering.insert(token, until);
            self.register_deadlines.insert((until, token));
        }
        // After the deadline is set: a question that cannot be asked answers the registration at once.
        if let BeginOutcome::Probe(probe) = begun {
            self.enqueue_probe(probe, now, clock);
        }
        None
    }

    fn end_registration(
        &mut self,
        outcome: RegistrationOutcome,
        now: Instant,
        clock: SystemTime,
    ) -> Option<Reply> {
        self.gc.on_use(now);
        if outcome.token.is_none() {
            self.managers.on_preheat_registered(&outcome, clock);
        }
        outcome.token?;
        Some(outcome.result.unwrap_or_else(|refused| refused))
    }

    fn enqueue_probe(&mut self, probe: Probe, now: Instant, clock: SystemTime) {
        if self.probes.len() >= PROBES_QUEUED_MAX {
            self.on_probed(&probe.key, Err(OriginError::Cancelled), now, clock);
            return;
        }
        self.probes.push_back(probe);
        self.start_probes(now, clock);
    }

    /// The next probe for a thread. A server that does not answer, or one client, gets only a part of the threads.
    fn next_probe(&mut self) -> Option<Probe> {
        let is_possible = |probe: &Probe| {
            let running = || self.probing.values().map(|running| &running.probe);
            let host = url::authority(&probe.request.url);
            let same_host = running().filter(|other| url::authority(&other.request.url) == host).count();
            let same_client = running().filter(|other| other.remote == probe.remote).count();
            same_host < PROBES_PER_HOST && (probe.remote.is_none() || same_client < PROBES_PER_CLIENT)
        };
        let at = self.probes.iter().position(is_possible)?;
        self.probes.remove(at)
    }

    /// Cancels probes for which nobody waits any more.
    fn cancel_probes(&mut self, unwanted: &[ProbeKey], now: Instant, clock: SystemTime) {
        for key in unwanted {
            if let Some(running) = self.probing.get(key) {
                running.cancel.cancel();
            } else if let Some(at) = self.probes.iter().position(|probe| probe.key == *key) {
                self.probes.remove(at);
                self.on_probed(key, Err(OriginError::Cancelled), now, clock);
            }
        }
    }

    fn start_probes(&mut self, now: Instant, clock: SystemTime) {
        while self.probing.len() < PROBES_MAX
            && let Some(probe) = self.next_probe()
        {
            let (origins, outbox, key) = (Arc::clone(&self.origins), self.outbox.clone(), probe.key);
            let running = RunningProbe { probe: probe.clone(), cancel: Arc::default() };
            let cancel = Arc::clone(&running.cancel);
            let work = move || {
                let answer = origins.probe(&probe.request, probe.known.as_ref(), &cancel);
                outbox.send(Message::Probed { key: probe.key, answer });
            };
            match thread::spawn("probe-origin", PROBE_STACK, work) {
                Ok(_) => drop(self.probing.insert(key, running)),
                Err(error) => {
                    log::warn!(
                        "cannot start a thread to probe an origin, so its clients are refused: {error}"
                    );
                    self.on_probed(&key, Err(OriginError::Cancelled), now, clock);
                }
            }
        }
    }

    fn on_probed(
        &mut self,
        key: &ProbeKey,
        answer: Result<ProbeResult, OriginError>,
        now: Instant,
        clock: SystemTime,
    ) {
        let open = &self.open;
        let outcomes =
            self.managers.end_registrations(key, answer, &|token| open.contains(&token), now, clock);
        for outcome in outcomes {
            let token = outcome.token;
            let reply = self.end_registration(outcome, now, clock);
            if let (Some(token), Some(reply)) = (token, reply) {
                self.forget_registration(token);
                self.answer_later(token, reply, now);
            }
        }
    }

    fn forget_registration(&mut self, token: usize) {
        if let Some(until) = self.registering.remove(&token) {
            self.register_deadlines.remove(&(until, token));
        }
    }

    /// Answers a pull, or parks its connection if there is no piece.
    pub(super) fn pull_or_wait(
        &mut self,
        pulled: PullOutcome,
        task: TaskId,
        cid: &str,
        token: usize,
        now: Instant,
    ) -> Option<Reply> {
        let has_running = match pulled {
            PullOutcome::Reply(reply) => return Some(reply),
            PullOutcome::Wait { has_running } => has_running,
        };
        let time = if has_running { POLL_TIME_RUNNING } else { POLL_TIME };
        let need = Need::Piece(cid.to_owned());
        self.waiters.park(task, Waiter { token, need }, now + time);
        None
    }

    /// Handles a message of a thread.
    pub fn on_message(&mut self, message: Message, now: Instant, clock: SystemTime) {
        match message {
            Message::Probed { key, answer } => {
                let running = self.probing.remove(&key);
                if let (Some(running), Err(OriginError::Cancelled)) = (running, &answer)
                    && self.managers.has_waiting_registrations(&key)
                {
                    // Somebody has come for the answer after the last one had left.
                    self.enqueue_probe(running.probe, now, clock);
                    return;
                }
                self.on_probed(&key, answer, now, clock);
                self.start_probes(now, clock);
            }
            Message::Cdn(message) => {
                self.managers.on_cdn(message, now, clock);
                if self.managers.cdn.is_fetching() {
                    self.gc.on_fetch(now);
                }
            }
            Message::Preheat(message) => self.managers.on_resolution(message, clock),
        }
    }

    /// Does the work that is due: ends leases and waits, forgets idle tasks and peers, and tries waiting pulls
    /// again.
    pub fn run_due(&mut self, now: Instant, clock: SystemTime) {
        self.managers.expire_leases(now);
        self.collect(now, clock);
        for pending in self.managers.take_registrations() {
            self.register(pending, now, clock);
        }
        for task in self.managers.take_changed() {
            self.waiters.mark_changed(task);
        }
        self.answer_waiters(now, clock);
        self.end_late_registrations(now);
    }

    /// Answers the waiting pulls for which there is a piece now, and those that have waited long enough.
    fn answer_waiters(&mut self, now: Instant, clock: SystemTime) {
        let mut answered = Vec::new();
        let managers = &mut self.managers;
        self.waiters.try_changed(|task, waiter| {
            let reply = match &waiter.need {
                Need::Piece(cid) => match managers.pull_again(cid, task, now, clock) {
                    PullOutcome::Reply(reply) => Some(reply),
                    PullOutcome::Wait { .. } => None,
                },
                Need::Version(watch) => managers.own_pieces(task, watch),
            };
            let is_answered = reply.is_some();
            answered.extend(reply.map(|reply| (waiter.token, reply)));
            is_answered
        });
        for (task, waiter) in self.waiters.expire(now) {
            let reply = match &waiter.need {
                Need::Piece(_) => Reply::code(code::WAIT, "no piece can be fetched now"),
                Need::Version(watch) => self.managers.own_state(&task, watch),
            };
            answered.push((waiter.token, reply));
        }
        for (token, reply) in answered {
            self.answer_later(token, reply, now);
        }
    }

    /// Answers the registrations whose probe takes too long. The client asks again, instead of giving up.
    fn end_late_registrations(&mut self, now: Instant) {
        while let Some((_, token)) =
            self.register_deadlines.first().copied().filter(|(until, _)| *until <= now)
        {
            self.forget_registration(token);
            self.managers.abandon_registration(token);
            self.answer_later(token, Reply::code(code::WAIT_AUTH, "the origin has not answered yet"), now);
        }
    }

    fn collect(&mut self, now: Instant, clock: SystemTime) {
        if self.gc.deadline().is_some_and(|at| at <= now) {
            self.origins.close_idle();
            let waiting = self.waiters.tasks();
            self.managers.collect(&mut self.gc, &waiting, now, clock);
        }
    }

    /// When [`Core::run_due`] must be called at the latest.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.waiters.has_untried() || self.managers.has_work() {
            return Some(now);
        }
        let registering = self.register_deadlines.first().map(|(until, _)| *until);
        let all = [self.managers.deadline(), self.waiters.deadline(), self.gc.deadline(), registering];
        all.into_iter().flatten().min()
    }

    /// Logs the number of tasks, peers, connections and waiting requests. SIGUSR1.
    pub fn log_figures(&self) {
        let managers = &self.managers;
        log::info!(
            "{} tasks, {} swarms, {} downloads, {} peers, {} connections, {} waiting pulls, {} waiting registrations, \
             {} probes of origins",
            managers.tasks.len(),
            managers.progress.len(),
            managers.downloads.len(),
            managers.peers.len(),
            self.open.len(),
            self.waiters.len(),
            self.registering.len(),
            self.probes.len() + self.probing.len(),
        );
    }

    /// Forgets the connection `token`, which has ended.
    pub fn on_closed(&mut self, token: usize) {
        self.open.remove(&token);
        self.later.remove(&token);
        self.waiters.remove(token);
        if self.registering.contains_key(&token) {
            self.forget_registration(token);
            let unwanted = self.managers.abandon_registration(token);
            self.cancel_probes(&unwanted, Instant::now(), SystemTime::now());
        }
    }
}

/// The answer that carries a reply.
pub(super) fn json(reply: Reply) -> Answer {
    Answer::new(reply.status, "application/json", reply.body)
}
