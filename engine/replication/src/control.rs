//! Stops a running execution, from any thread.
//!
//! A stop is a wish for a final state, which each task's machine takes between two states. Waits end at once; a running
//! chunk may end within a grace time, and then its connection is shut down. When the engine ends, it *suspends* its
//! executions instead: they keep their states, and the next engine takes them up.

use crate::machine::Desired;
use sampan_ipc::replication::State;
use sampan_job::cancel::Cancel;
use sampan_os::mutex::lock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a running chunk may go on after a stop.
pub const GRACE: Duration = Duration::from_millis(3500);

/// The means to stop one execution.
#[derive(Default)]
pub struct Control {
    state: Mutex<Wish>,
    /// Ends waits, and is checked between chunks.
    pub soft: Arc<Cancel>,
    /// Ends running requests.
    pub hard: Arc<Cancel>,
    /// Set when the execution has ended, so that the grace time need not.
    ended: Arc<Cancel>,
    is_suspended: AtomicBool,
}

#[derive(Default)]
struct Wish {
    /// The final state that was asked for.
    wanted: Option<State>,
    machines: Vec<Desired<State>>,
}

impl Control {
    /// Asks the execution to end in `state`, which is [`State::Stopped`] or [`State::Canceled`]. Returns at once.
    pub fn stop(&self, state: State) {
        {
            let mut wish = lock(&self.state);
            // A stop can become a cancellation, and not the other way round: the sessions may be gone by then.
            if wish.wanted != Some(State::Canceled) {
                wish.wanted = Some(state);
            }
            let state = wish.wanted.unwrap_or(state);
            wish.machines.iter().for_each(|machine| machine.set(state));
        }
        self.end_with_grace();
    }

    /// Ends the threads of the execution, and leaves its state as it is.
    pub fn suspend(&self) {
        self.is_suspended.store(true, Ordering::SeqCst);
        self.end_with_grace();
    }

    fn end_with_grace(&self) {
        if self.soft.is_cancelled() {
            return;
        }
        self.soft.cancel();
        let (ended, hard) = (Arc::clone(&self.ended), Arc::clone(&self.hard));
        let grace = move || {
            if ended.wait(GRACE).is_ok() {
                hard.cancel();
            }
        };
        if sampan_os::thread::spawn("grace", 64 << 10, grace).is_err() {
            self.hard.cancel();
        }
    }

    /// The final state that was asked for, if any.
    pub fn wanted(&self) -> Option<State> {
        lock(&self.state).wanted
    }

    /// Whether the engine ends.
    pub fn is_suspended(&self) -> bool {
        self.is_suspended.load(Ordering::SeqCst)
    }

    pub(crate) fn suspended(&self) -> &AtomicBool {
        &self.is_suspended
    }

    /// Makes a task's machine hear of stops, also of one that came before.
    pub(crate) fn add_machine(&self, machine: Desired<State>) {
        let mut wish = lock(&self.state);
        if let Some(wanted) = wish.wanted {
            machine.set(wanted);
        }
        wish.machines.push(machine);
    }

    pub(crate) fn end(&self) {
        self.ended.cancel();
    }
}
