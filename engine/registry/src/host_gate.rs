//! The gate in front of each host: no request passes while the host has asked for a pause, and never more requests than
//! its limit allows.
//!
//! A host that answers 429 or 503 speaks to all of this computer, so all jobs of a process share one [`HostGates`], by
//! [`crate::Access`]. `transport` passes the gate before each request and tells it of each answer. [`crate::retry`]
//! decides whether the refused request is sent again; this module only delays. It keeps no request and no answer.

use crate::retry::{RETRY_AFTER_MAX, random_fraction, refused_pause};
use sampan_job::cancel::{Cancel, Cancelled};
use sampan_job::cpu;
use sampan_os::mutex::lock;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Most hosts with a gate. More hosts than that are not delayed: a registry may redirect to any number of hosts.
const HOSTS_MAX: usize = 1024;
/// Most requests per second that a limit can state; a higher limit is none.
const RATE_MAX: f64 = 1000.0;

/// The gates of all hosts, shared by all jobs of a process.
#[derive(Debug, Default)]
pub struct HostGates {
    gates: Mutex<HashMap<String, Gate>>,
}

/// The gate of one host.
#[derive(Debug, Default)]
struct Gate {
    /// The end of the pause.
    opens: Option<Instant>,
    /// Answers 429 without a `Retry-After` header since the last success. Requests that were under way together count
    /// once.
    refusals: u32,
    /// The time of the last of `refusals`.
    refused: Option<Instant>,
    /// Time between two requests; zero without a limit.
    interval: Duration,
    /// The time at which the next request may be sent, under the limit.
    next: Option<Instant>,
}

/// What an answer says about the load of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// The host answers. Its answer may be an error.
    Bearable,
    /// The host demands a pause of this length: status 429 or 503 with a `Retry-After` header.
    Pause(Duration),
    /// Status 429 without a `Retry-After` header.
    Refused,
    /// The host has failed, which says nothing about its load.
    Failed,
}

impl Load {
    /// What an answer with `status` and this `Retry-After` header says.
    pub(crate) fn of(status: u16, retry_after: Option<Duration>) -> Self {
        match (status, retry_after) {
            (429 | 503, Some(pause)) => Load::Pause(pause),
            (429, None) => Load::Refused,
            (500.., _) => Load::Failed,
            _ => Load::Bearable,
        }
    }
}

impl HostGates {
    /// Limits the requests of all jobs to `host` (`HOST[:PORT]` as in a reference) to `requests_per_second`, evenly
    /// spaced. A later call replaces the limit; 0, or more than 1000, removes it.
    pub fn limit(&self, host: &str, requests_per_second: f64) {
        let is_limit = requests_per_second > 0.0 && requests_per_second <= RATE_MAX;
        // A day between two requests is as good as none; the bound keeps the conversion from failing.
        let interval = Duration::from_secs_f64((1.0 / requests_per_second.max(1.0 / 86_400.0)).min(86_400.0));
        let mut gates = lock(&self.gates);
        if is_limit {
            gates.entry(host.to_owned()).or_default().interval = interval;
        } else if let Some(gate) = gates.get_mut(host) {
            (gate.interval, gate.next) = (Duration::ZERO, None);
        }
    }

    /// The rest of the pause of `host`; zero if there is none.
    pub fn pause(&self, host: &str) -> Duration {
        lock(&self.gates).get(host).map_or(Duration::ZERO, |gate| gate.pause(Instant::now()))
    }

    /// Waits until the pause of `host` is over.
    ///
    /// # Errors
    /// [`Cancelled`]: `closed` was cancelled during the wait.
    pub(crate) fn wait(&self, host: &str, closed: &Cancel) -> Result<(), Cancelled> {
        loop {
            match self.pause(host) {
                Duration::ZERO => return Ok(()),
                pause => cpu::idle(|| closed.wait(pause))?,
            }
        }
    }

    /// Waits until a request to `host` may be sent. Returns the time of its beginning, for [`HostGates::record`].
    ///
    /// # Errors
    /// [`Cancelled`]: `closed` was cancelled during the wait.
    pub(crate) fn pass(&self, host: &str, closed: &Cancel) -> Result<Instant, Cancelled> {
        let mut turn = None;
        loop {
            let now = Instant::now();
            let wait =
                lock(&self.gates).get_mut(host).map_or(Duration::ZERO, |gate| gate.step(now, &mut turn));
            match wait {
                Duration::ZERO => return Ok(now),
                wait => cpu::idle(|| closed.wait(wait))?,
            }
        }
    }

    /// Records the answer of `host` to the request that began at `began`.
    pub(crate) fn record(&self, host: &str, began: Instant, load: Load) {
        let now = Instant::now();
        let mut gates = lock(&self.gates);
        if let Load::Bearable | Load::Failed = load {
            // Most hosts are never busy, and have no gate.
            if let Some(gate) = gates.get_mut(host) {
                gate.on_answer(began, now, load, random_fraction());
            }
            return;
        }
        if gates.len() >= HOSTS_MAX && !gates.contains_key(host) {
            gates.retain(|_, gate| !gate.is_idle(now));
        }
        if gates.len() >= HOSTS_MAX && !gates.contains_key(host) {
            return;
        }
        let gate = gates.entry(host.to_owned()).or_default();
        let was_open = gate.pause(now).is_zero();
        gate.on_answer(began, now, load, random_fraction());
        let pause = gate.pause(now);
        if was_open && !pause.is_zero() {
            let seconds = pause.as_millis().div_ceil(1000);
            log::info!("{host} refuses requests: all requests to it wait {seconds} s");
        }
    }
}

impl Gate {
    /// The rest of the pause at `now`.
    fn pause(&self, now: Instant) -> Duration {
        self.opens.map_or(Duration::ZERO, |opens| opens.saturating_duration_since(now))
    }

    /// How long a request must still wait at `now`; zero if it may be sent. `turn` is the request's time under the
    /// limit, which is assigned when there is no pause.
    fn step(&mut self, now: Instant, turn: &mut Option<Instant>) -> Duration {
        let pause = self.pause(now);
        if !pause.is_zero() {
            // A turn within the pause would let all waiting requests start together after it.
            *turn = None;
            return pause;
        }
        if self.interval.is_zero() {
            return Duration::ZERO;
        }
        let at = *turn.get_or_insert_with(|| {
            let at = self.next.map_or(now, |next| next.max(now));
            self.next = Some(at + self.interval);
            at
        });
        at.saturating_duration_since(now)
    }

    /// Applies the answer at `now` to a request that began at `began`. `random` is a number between 0 and 1.
    fn on_answer(&mut self, began: Instant, now: Instant, load: Load, random: f64) {
        // The answer to a request that began before the last refusal says nothing about the time after it.
        let is_old = self.refused.is_some_and(|refused| began < refused);
        let pause = match load {
            Load::Failed => return,
            Load::Bearable if is_old => return,
            Load::Bearable => {
                self.refusals = 0;
                return;
            }
            Load::Refused if is_old => return,
            Load::Refused => {
                let whole = refused_pause(self.refusals);
                self.refusals += 1;
                self.refused = Some(now);
                whole.mul_f64(0.5 + 0.5 * random)
            }
            Load::Pause(pause) => pause.min(RETRY_AFTER_MAX),
        };
        let opens = now + pause;
        self.opens = Some(self.opens.map_or(opens, |earlier| earlier.max(opens)));
    }

    /// Whether the gate can be forgotten at `now`.
    fn is_idle(&self, now: Instant) -> bool {
        self.interval.is_zero() && self.pause(now).is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_pause_holds_all_requests_until_its_end() {
        let (mut gate, start) = (Gate::default(), Instant::now());
        gate.on_answer(start, start, Load::Pause(7 * SECOND), 1.0);
        assert_eq!(gate.step(start, &mut None), 7 * SECOND);
        assert_eq!(gate.step(start + 5 * SECOND, &mut None), 2 * SECOND);
        // A shorter demand does not end a pause, and neither does a late success.
        gate.on_answer(start, start + SECOND, Load::Pause(SECOND), 1.0);
        gate.on_answer(start, start + SECOND, Load::Bearable, 1.0);
        assert_eq!(gate.step(start + 5 * SECOND, &mut None), 2 * SECOND);
        assert_eq!(gate.step(start + 7 * SECOND, &mut None), Duration::ZERO);
        gate.on_answer(start, start, Load::Pause(Duration::MAX), 1.0);
        assert_eq!(gate.step(start, &mut None), RETRY_AFTER_MAX);
    }

    #[test]
    fn refusals_double_the_pause_and_a_success_resets_it() {
        let (mut gate, mut now) = (Gate::default(), Instant::now());
        for seconds in [2, 4, 8, 16, 32, 60, 60] {
            gate.on_answer(now, now, Load::Refused, 1.0);
            assert_eq!(gate.pause(now), seconds * SECOND);
            now += seconds * SECOND;
        }
        gate.on_answer(now, now, Load::Bearable, 1.0);
        gate.on_answer(now, now, Load::Refused, 0.0);
        assert_eq!(gate.pause(now), SECOND, "a random part is taken off");
    }

    #[test]
    fn requests_under_way_together_are_refused_once() {
        let (mut gate, began) = (Gate::default(), Instant::now());
        let now = began + SECOND;
        gate.on_answer(began, now, Load::Refused, 1.0);
        for _ in 0..5 {
            gate.on_answer(began, now + SECOND, Load::Refused, 1.0);
        }
        assert_eq!((gate.refusals, gate.pause(now)), (1, 2 * SECOND));
        gate.on_answer(began, now + SECOND, Load::Bearable, 1.0);
        gate.on_answer(now, now + SECOND, Load::Failed, 1.0);
        assert_eq!(gate.refusals, 1, "neither says that the host has recovered");
    }

    #[test]
    fn a_limit_spaces_requests_evenly() {
        let gates = HostGates::default();
        gates.limit("r", 4.0);
        let mut gates = lock(&gates.gates);
        let (gate, start) = (gates.get_mut("r").expect("limited"), Instant::now());
        let waits: Vec<_> = (0..3).map(|_| gate.step(start, &mut None)).collect();
        assert_eq!(waits, [Duration::ZERO, SECOND / 4, SECOND / 2]);
        let mut turn = None;
        assert_eq!(gate.step(start, &mut turn), 3 * SECOND / 4);
        assert_eq!(gate.step(start + SECOND / 2, &mut turn), SECOND / 4, "a turn stays");
        assert_eq!(gate.step(start + SECOND, &mut turn), Duration::ZERO);
        assert_eq!(gate.step(start + 60 * SECOND, &mut None), Duration::ZERO, "no burst is saved up,");
        assert_eq!(gate.step(start + 60 * SECOND, &mut None), SECOND / 4, "the next one waits");
        // After a pause, the turns are assigned anew.
        gate.on_answer(start, start + 60 * SECOND, Load::Pause(SECOND), 1.0);
        assert_eq!(gate.step(start + 60 * SECOND, &mut turn), SECOND);
        assert_eq!(turn, None);
    }

    #[test]
    fn a_limit_can_be_removed_and_may_be_nonsense() {
        let gates = HostGates::default();
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            gates.limit("r", 4.0);
            gates.limit("r", rate);
            assert!(lock(&gates.gates)["r"].interval.is_zero(), "{rate}");
        }
        gates.limit("r", f64::MIN_POSITIVE);
        assert_eq!(lock(&gates.gates)["r"].interval, Duration::from_secs(86_400));
    }

    #[test]
    fn the_pause_of_one_host_concerns_no_other_and_ends_with_its_job() {
        let (gates, closed) = (HostGates::default(), Cancel::default());
        let began = gates.pass("busy", &closed).expect("open");
        gates.record("busy", began, Load::Pause(RETRY_AFTER_MAX));
        assert!(!gates.pause("busy").is_zero() && gates.pause("other").is_zero());
        assert!(gates.pass("other", &closed).is_ok());
        closed.cancel();
        assert_eq!(
            (gates.pass("busy", &closed).map(drop), gates.wait("busy", &closed)),
            (Err(Cancelled), Err(Cancelled))
        );
    }

    #[test]
    fn the_number_of_gates_is_bounded() {
        let (gates, now) = (HostGates::default(), Instant::now());
        for host in 0..HOSTS_MAX + 10 {
            gates.record(&host.to_string(), now, Load::Pause(Duration::ZERO));
        }
        assert!(lock(&gates.gates).len() <= HOSTS_MAX);
        for host in 0..HOSTS_MAX + 10 {
            gates.record(&host.to_string(), now, Load::Pause(RETRY_AFTER_MAX));
        }
        assert_eq!(lock(&gates.gates).len(), HOSTS_MAX);
    }

    #[test]
    fn an_answer_tells_the_load_of_its_host() {
        let pause = Some(SECOND);
        for (status, retry_after, load) in [
            (200, None, Load::Bearable),
            (200, pause, Load::Bearable),
            (404, None, Load::Bearable),
            (429, None, Load::Refused),
            (429, pause, Load::Pause(SECOND)),
            (503, pause, Load::Pause(SECOND)),
            (503, None, Load::Failed),
            (500, pause, Load::Failed),
        ] {
            assert_eq!(Load::of(status, retry_after), load, "{status} {retry_after:?}");
        }
    }
}
