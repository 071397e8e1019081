//! A small fuzzer: mutates committed seeds and feeds them to the parsers of all untrusted input.
//!
//! Run by `make fuzz` (a minute per target) and by the tests (seconds per target). It runs on the stable toolchain,
//! without coverage: seeds, and words of each grammar, reach the deeper code instead. A failure is a panic; the input
//! that caused it is saved first. The targets are in [`crate::targets`].

use crate::random::Random;
use crate::targets::Target;
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest input, in bytes.
const INPUT_MAX: usize = 64 << 10;
/// Most mutations of one seed.
const MUTATIONS_MAX: usize = 8;
/// Longest time that one input may take: far more than any input needs, on any machine.
const INPUT_TIME: Duration = Duration::from_secs(5);
/// Numbers at which lengths and counts often fail.
const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0xfff, 0x1000, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];

thread_local! {
    /// Target and input of this thread, for the panic hook.
    static CURRENT: RefCell<Option<(&'static str, Vec<u8>)>> = const { RefCell::new(None) };
}

/// Counters of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Number of inputs that were tried.
    pub inputs: u64,
    /// Number of inputs that a parser accepted.
    pub accepted: u64,
}

/// The committed seeds of a target, in the order of their file names.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("cannot read {}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("readable")).collect()
}

/// Feeds mutated seeds to `target` for `time`; an equal `seed` gives equal inputs.
///
/// Panics if the target does, after the input was saved and its path printed.
pub fn run(target: &Target, time: Duration, seed: u64) -> Report {
    let seeds = seeds(target.name);
    assert!(!seeds.is_empty(), "{} has no seeds", target.name);
    let mut random = Random::new(seed);
    let (started, mut report) = (Instant::now(), Report::default());
    while started.elapsed() < time {
        let mut input = random.pick(&seeds).clone();
        mutate(&mut input, &seeds, target.words, &mut random);
        if !random.one_in(3) {
            (target.repair)(&mut input);
        }
        report.inputs += 1;
        report.accepted += u64::from(try_input(target, input, &mut random));
    }
    report
}

/// Feeds one input to `target`; true if the target accepted it.
pub fn try_input(target: &Target, input: Vec<u8>, random: &mut Random) -> bool {
    CURRENT.with_borrow_mut(|current| *current = Some((target.name, input.clone())));
    let started = Instant::now();
    let accepted = (target.run)(&input, random);
    assert!(started.elapsed() < INPUT_TIME, "{} took {:?}", target.name, started.elapsed());
    CURRENT.with_borrow_mut(|current| *current = None);
    accepted
}

/// Installs a panic hook that saves the current input; it runs even if panics abort.
pub fn save_inputs_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        if let Some((name, input)) = CURRENT.take() {
            let path = std::env::temp_dir().join(format!("sampan-fuzz-{name}-{}", std::process::id()));
            match fs::write(&path, &input) {
                Ok(()) => eprintln!("{name}: the input is in {}", path.display()),
                Err(error) => eprintln!("{name}: cannot save the input: {error}; it is {input:?}"),
            }
        }
    }));
}

/// Changes `input` in a few places.
fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], words: &[&str], random: &mut Random) {
    for _ in 0..=random.below(MUTATIONS_MAX) {
        let at = random.below(input.len() + 1);
        let end = at + random.below((input.len() - at).min(64) + 1);
        match random.below(9) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.number() as u8,
            2 => drop(input.drain(at..end)),
            3 => {
                let twice = input[at..end].to_vec();
                insert(input, at, &twice);
            }
            4 => {
                let len = random.below(16);
                insert(input, at, &random.bytes(len));
            }
            5 => overwrite_with_edge(input, at, random),
            6 if !words.is_empty() => insert(input, at, random.pick(words).as_bytes()),
            7 => {
                let other = random.pick(seeds);
                let from = random.below(other.len() + 1);
                insert(input, at, &other[from..]);
            }
            8 if random.one_in(4) => input.truncate(at),
            _ => {}
        }
        input.truncate(INPUT_MAX);
    }
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}

fn overwrite_with_edge(input: &mut [u8], at: usize, random: &mut Random) {
    let width = 1 << random.below(4);
    let bytes = random.pick(&EDGES).to_le_bytes();
    if let Some(place) = input.get_mut(at..at + width) {
        place.copy_from_slice(&bytes[..width]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_breaks_a_target_is_saved() {
        let broken = Target {
            name: "broken",
            words: &[],
            repair: |_| {},
            run: |input, _| {
                assert_ne!(input, b"bad", "as this test wants it");
                true
            },
        };
        save_inputs_on_panic();
        let mut random = Random::new(1);
        assert!(try_input(&broken, b"good".to_vec(), &mut random));
        let outcome = std::panic::catch_unwind(|| try_input(&broken, b"bad".to_vec(), &mut Random::new(1)));
        assert!(outcome.is_err());
        let saved = std::env::temp_dir().join(format!("sampan-fuzz-broken-{}", std::process::id()));
        assert_eq!(fs::read(&saved).expect("saved"), b"bad");
        fs::remove_file(saved).expect("ours");
    }

    #[test]
    fn one_seed_makes_the_same_inputs() {
        let seeds = [b"one seed".to_vec(), b"another seed".to_vec()];
        let inputs = |seed| {
            let (mut random, mut input) = (Random::new(seed), seeds[0].clone());
            (0..50).for_each(|_| mutate(&mut input, &seeds, &["word"], &mut random));
            input
        };
        assert_eq!(inputs(3), inputs(3));
        assert_ne!(inputs(3), inputs(4));
    }
}
