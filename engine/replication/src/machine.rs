//! A small state machine: edges between states, a handler for each state, and a driver.
//!
//! Generic: knows nothing of replication, does no I/O and starts no thread. The caller registers edges and handlers,
//! then calls [`Machine::start`], which enters one state after another until a handler ends the machine. Any thread can
//! ask for another state through [`Desired`]; the driver takes that wish between two states.

use sampan_os::mutex::lock;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};

/// What a state may be.
pub trait StateName: Copy + Ord + fmt::Display {}
impl<S: Copy + Ord + fmt::Display> StateName for S {}

/// What follows after a handler has done its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<S> {
    /// Go to this state.
    To(S),
    /// Go to the only state that an edge leads to; an error if there are several or none.
    Continue,
    /// The machine ends here.
    End,
}

/// Works in one state.
pub trait Handler<S, C, E> {
    /// Does the work of the state. The edge to it has been checked, and the observer has recorded the transition.
    fn enter(&mut self, context: &mut C) -> Result<Next<S>, E>;

    /// Cleans up when the machine leaves the state. May be called again after an error, so it must be idempotent.
    fn exit(&mut self, _context: &mut C) -> Result<(), E> {
        Ok(())
    }
}

/// A wish for another state, shared between the driver and those who wish.
#[derive(Debug)]
pub struct Desired<S>(Arc<Mutex<Option<S>>>);

impl<S> Clone for Desired<S> {
    fn clone(&self) -> Self {
        Desired(Arc::clone(&self.0))
    }
}

impl<S> Default for Desired<S> {
    fn default() -> Self {
        Desired(Arc::default())
    }
}

impl<S: Copy> Desired<S> {
    /// Asks for `state`, after the current handler. A later wish replaces an earlier one.
    pub fn set(&self, state: S) {
        *lock(&self.0) = Some(state);
    }

    /// Whether there is a wish that the driver has not taken.
    pub fn is_set(&self) -> bool {
        lock(&self.0).is_some()
    }

    fn take(&self) -> Option<S> {
        lock(&self.0).take()
    }
}

/// Why the machine itself failed: a mistake in its table or in a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MachineError<S: StateName> {
    /// There is no edge, and the target is not forced.
    #[error("there is no transition from {from} to {to}")]
    NoEdge {
        /// The current state.
        from: S,
        /// The state that should be entered.
        to: S,
    },
    /// A handler said *continue*, and there is not exactly one edge.
    #[error("cannot continue from {from}: {successors} transitions lead on")]
    NoSingleSuccessor {
        /// The current state.
        from: S,
        /// The number of edges that leave it.
        successors: usize,
    },
}

/// Called with a context and a transition before it happens.
type Observer<S, C, E> = Box<dyn FnMut(&mut C, S, S) -> Result<(), E>>;

/// The machine. `S` is a state, `C` what handlers work on, `E` what they fail with.
pub struct Machine<S: StateName, C, E> {
    current: S,
    edges: BTreeMap<S, BTreeSet<S>>,
    forced: BTreeSet<S>,
    handlers: BTreeMap<S, Box<dyn Handler<S, C, E>>>,
    desired: Desired<S>,
    /// Chooses the state after a failure.
    on_failure: fn(&E) -> S,
    observer: Observer<S, C, E>,
}

impl<S: StateName, C, E: From<MachineError<S>>> Machine<S, C, E> {
    /// Makes a machine in the state `initial`, without edges. After a failure it goes to the state that `on_failure`
    /// chooses, which must be forced.
    pub fn new(initial: S, on_failure: fn(&E) -> S) -> Self {
        Machine {
            current: initial,
            edges: BTreeMap::new(),
            forced: BTreeSet::new(),
            handlers: BTreeMap::new(),
            desired: Desired::default(),
            on_failure,
            observer: Box::new(|_, _, _| Ok(())),
        }
    }

    /// Calls `observer` before each transition, after its edge was checked. If the observer fails, the transition does
    /// not happen.
    pub fn observe(&mut self, observer: impl FnMut(&mut C, S, S) -> Result<(), E> + 'static) {
        self.observer = Box::new(observer);
    }

    /// Adds an edge, and the handler of its target. A later handler of a state replaces an earlier one.
    pub fn add_transition(&mut self, from: S, to: S, handler: Box<dyn Handler<S, C, E>>) {
        self.edges.entry(from).or_default().insert(to);
        self.handlers.insert(to, handler);
    }

    /// Removes an edge. The handler of its target stays, since other edges may lead there.
    pub fn remove_transition(&mut self, from: S, to: S) {
        if let Some(targets) = self.edges.get_mut(&from) {
            targets.remove(&to);
        }
    }

    /// Lets the machine enter `state` from every other state without an edge.
    pub fn add_forced(&mut self, state: S, handler: Box<dyn Handler<S, C, E>>) {
        self.forced.insert(state);
        self.handlers.insert(state, handler);
    }

    /// The current state.
    pub fn current(&self) -> S {
        self.current
    }

    /// The wish of other threads for another state.
    pub fn desired(&self) -> Desired<S> {
        self.desired.clone()
    }

    /// All edges, in the order of their states.
    pub fn edges(&self) -> impl Iterator<Item = (S, S)> {
        self.edges.iter().flat_map(|(from, targets)| targets.iter().map(|to| (*from, *to)))
    }

    /// Goes to `state`: checks the edge, calls the observer, leaves the current state and works in the new one.
    ///
    /// # Errors
    /// [`MachineError::NoEdge`], before anything else is called; or the error of the observer or of a handler.
    pub fn enter_state(&mut self, context: &mut C, state: S) -> Result<Next<S>, E> {
        let from = self.current;
        let has_edge = self.edges.get(&from).is_some_and(|targets| targets.contains(&state));
        if !has_edge && !self.forced.contains(&state) {
            return Err(MachineError::NoEdge { from, to: state }.into());
        }
        (self.observer)(context, from, state)?;
        if let Some(handler) = self.handlers.get_mut(&from) {
            handler.exit(context)?;
        }
        self.current = state;
        match self.handlers.get_mut(&state) {
            Some(handler) => handler.enter(context),
            None => Ok(Next::Continue),
        }
    }

    /// Enters `first`, then one state after another, until a handler ends the machine.
    ///
    /// Between two states, a desired state replaces the next one, also after a failure: a stop is never lost. A failure
    /// leads to the state that the machine's `on_failure` chooses.
    ///
    /// # Errors
    /// The error of entering the state after a failure: there is no third state to go to.
    pub fn start(&mut self, context: &mut C, first: S) -> Result<(), E> {
        let mut next = self.enter_state(context, first);
        let mut is_after_failure = false;
        loop {
            let step = match next {
                Ok(Next::End) => return Ok(()),
                Ok(step) => self.desired.take().map_or_else(|| self.resolve(step).map_err(E::from), Ok),
                Err(error) => self.desired.take().ok_or(error),
            };
            let (state, is_failure) = match step {
                Ok(state) => (state, false),
                Err(error) if is_after_failure => return Err(error),
                Err(error) => ((self.on_failure)(&error), true),
            };
            is_after_failure = is_failure;
            next = self.enter_state(context, state);
        }
    }

    fn resolve(&self, step: Next<S>) -> Result<S, MachineError<S>> {
        let from = self.current;
        let empty = BTreeSet::new();
        let targets = self.edges.get(&from).unwrap_or(&empty);
        match (step, targets.first()) {
            (Next::To(state), _) => Ok(state),
            (_, Some(only)) if targets.len() == 1 => Ok(*only),
            _ => Err(MachineError::NoSingleSuccessor { from, successors: targets.len() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Failure = Result<(), String>;

    impl From<MachineError<char>> for String {
        fn from(error: MachineError<char>) -> Self {
            error.to_string()
        }
    }

    /// Notes each call, and answers what it was told to.
    struct Noting {
        state: char,
        answer: Result<Next<char>, &'static str>,
    }

    impl Handler<char, Vec<String>, String> for Noting {
        fn enter(&mut self, calls: &mut Vec<String>) -> Result<Next<char>, String> {
            calls.push(format!("+{}", self.state));
            self.answer.map_err(str::to_owned)
        }

        fn exit(&mut self, calls: &mut Vec<String>) -> Failure {
            calls.push(format!("-{}", self.state));
            Ok(())
        }
    }

    fn noting(state: char, answer: Result<Next<char>, &'static str>) -> Box<Noting> {
        Box::new(Noting { state, answer })
    }

    /// `a` to `b` to `c`, and the forced states `s` (stopped) and `e` (error).
    fn machine(b: Result<Next<char>, &'static str>) -> Machine<char, Vec<String>, String> {
        let mut machine = Machine::new('a', |_| 'e');
        machine.add_transition('a', 'b', noting('b', b));
        machine.add_transition('b', 'c', noting('c', Ok(Next::End)));
        machine.add_forced('s', noting('s', Ok(Next::End)));
        machine.add_forced('e', noting('e', Ok(Next::End)));
        machine
    }

    fn walk(machine: &mut Machine<char, Vec<String>, String>) -> String {
        let mut calls = Vec::new();
        machine.start(&mut calls, 'b').expect("it ends");
        calls.concat()
    }

    #[test]
    fn a_machine_follows_its_single_edge_until_a_handler_ends_it() {
        assert_eq!(walk(&mut machine(Ok(Next::Continue))), "+b-b+c");
    }

    #[test]
    fn continue_with_several_edges_or_none_is_an_error() {
        let mut fork = machine(Ok(Next::Continue));
        fork.add_transition('b', 'd', noting('d', Ok(Next::End)));
        assert_eq!(walk(&mut fork), "+b-b+e");
        let mut dead_end = machine(Ok(Next::Continue));
        dead_end.remove_transition('b', 'c');
        assert_eq!(walk(&mut dead_end), "+b-b+e");
    }

    #[test]
    fn an_edge_is_checked_before_anything_runs() {
        let mut machine = machine(Ok(Next::Continue));
        machine.observe(|calls: &mut Vec<String>, from, to| {
            calls.push(format!("{from}>{to} "));
            Ok(())
        });
        let mut calls = Vec::new();
        let error = machine.enter_state(&mut calls, 'c').expect_err("there is no edge");
        assert_eq!((error.as_str(), calls.len()), ("there is no transition from a to c", 0));
        assert_eq!(machine.current(), 'a');
    }

    #[test]
    fn a_transition_that_cannot_be_recorded_does_not_happen() {
        let mut machine = machine(Ok(Next::Continue));
        machine.observe(|_, _, to| if to == 'b' { Err("disk full".to_owned()) } else { Ok(()) });
        assert_eq!(walk(&mut machine), "+e");
    }

    #[test]
    fn a_desired_state_replaces_the_next_one_even_after_a_failure() {
        for answer in [Ok(Next::Continue), Ok(Next::To('c')), Err("broken")] {
            let mut machine = machine(answer);
            machine.desired().set('s');
            assert_eq!(walk(&mut machine), "+b-b+s");
        }
    }

    #[test]
    fn a_wish_that_comes_after_the_end_changes_nothing() {
        let mut machine = machine(Ok(Next::Continue));
        assert_eq!(walk(&mut machine), "+b-b+c");
        machine.desired().set('s');
        assert_eq!(machine.current(), 'c');
    }

    #[test]
    fn a_failure_leads_to_the_error_state_and_a_failure_there_ends_the_machine() {
        assert_eq!(walk(&mut machine(Err("broken"))), "+b-b+e");
        let mut twice = machine(Err("broken"));
        twice.add_forced('e', noting('e', Err("also broken")));
        assert_eq!(twice.start(&mut Vec::new(), 'b'), Err("also broken".to_owned()));
    }

    /// Any table, any answers, any wishes: the machine only ever moves along an edge or to a forced state, and each
    /// state that it enters was announced before.
    #[test]
    fn random_walks_keep_to_the_table() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 11) as usize % below
        };
        let states: Vec<char> = ('a'..='f').collect();
        for _ in 0..2000 {
            let mut machine: Machine<char, Vec<(char, char)>, String> = Machine::new('a', |_| 'z');
            let mut edges = BTreeSet::new();
            for _ in 0..random(12) {
                let (from, to) = (states[random(6)], states[random(6)]);
                edges.insert((from, to));
                let answers: Vec<Result<Next<char>, String>> = (0..4)
                    .map(|_| match random(5) {
                        0 => Ok(Next::End),
                        1 => Err("failed".to_owned()),
                        2 => Ok(Next::To(states[random(6)])),
                        _ => Ok(Next::Continue),
                    })
                    .collect();
                machine.add_transition(from, to, Box::new(Scripted(answers)));
            }
            machine.add_forced('s', Box::new(Scripted(Vec::new())));
            machine.add_forced('z', Box::new(Scripted(Vec::new())));
            machine.observe(|walk: &mut Vec<(char, char)>, from, to| {
                walk.push((from, to));
                Ok(())
            });
            if random(3) == 0 {
                machine.desired().set('s');
            }
            let mut walk = Vec::new();
            machine.start(&mut walk, states[random(6)]).expect("the forced states do not fail");
            let mut at = 'a';
            for (from, to) in walk {
                assert_eq!(from, at, "no state is entered without an announcement");
                assert!(edges.contains(&(from, to)) || to == 's' || to == 'z', "{from} to {to}");
                at = to;
            }
            assert_eq!(machine.current(), at);
        }
    }

    /// Gives its answers from the last to the first, then ends.
    struct Scripted(Vec<Result<Next<char>, String>>);

    impl Handler<char, Vec<(char, char)>, String> for Scripted {
        fn enter(&mut self, _: &mut Vec<(char, char)>) -> Result<Next<char>, String> {
            self.0.pop().unwrap_or(Ok(Next::End))
        }
    }
}
