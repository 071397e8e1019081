//! Threads that send container requests and continue when the engine is killed meanwhile.
//!
//! Each thread uses its own container names, so threads do not conflict. The seed determines its requests.

use crate::containers::{Containers, sh, try_ask};
use crate::random::Random;
use sampan_ipc::container::{Create, Exec};
use sampan_ipc::engine::{Answer, Request, Start, Stop};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Number of names that each thread uses.
const NAMES: usize = 3;
/// The label with the exit code of a container that ends by itself.
pub const EXIT: &str = "exit";

/// Running threads.
pub struct Workers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<usize>>,
}

impl Workers {
    /// Starts `count` threads, each with its own numbers derived from `seed`.
    pub fn begin(containers: &Containers, count: usize, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let socket = containers.host.path("run/engine.sock");
        let begin = |nth: usize| {
            let (stop, socket) = (Arc::clone(&stop), socket.clone());
            std::thread::spawn(move || work(nth, Random::new(seed ^ nth as u64), &socket, &stop))
        };
        let threads = (0..count).map(begin).collect();
        Workers { stop, threads }
    }

    /// Ends the threads; returns the number of successful requests.
    pub fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    }
}

fn work(nth: usize, mut random: Random, socket: &Path, stop: &AtomicBool) -> usize {
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let name = format!("w{nth}-{}", random.below(NAMES));
        let request = choose(&mut random, name);
        match try_ask(socket, request) {
            Some(answers) => done += usize::from(matches!(answers.last(), Some(Answer::Done(_)))),
            // The engine is down, and will be started again.
            None => std::thread::yield_now(),
        }
    }
    done
}

fn choose(random: &mut Random, container: String) -> Request {
    match random.below(8) {
        0 | 1 => {
            let code = random.below(100);
            let (script, code) = match random.one_in(2) {
                true => ("exec sleep 1000".to_owned(), 137),
                false => (format!("exit {code}"), code),
            };
            let labels = vec![(EXIT.to_owned(), code.to_string())];
            Request::Create(Box::new(Create {
                labels,
                auto_remove: random.one_in(4),
                ..sh(&container, &script)
            }))
        }
        2..=4 => Request::Start(Start { container, ..Start::default() }),
        5 => {
            let command = ["sh", "-c", "exit 3"].map(str::to_owned).to_vec();
            Request::Exec(Box::new(Exec { container, command, detach: true, ..Exec::default() }))
        }
        6 => Request::Stop(Stop { container, timeout: Some(0), signal: None }),
        _ => Request::RemoveContainer { container, force: random.one_in(2) },
    }
}
