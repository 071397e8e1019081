//! Idle engine and monitord: they return the memory that work needed, and then nothing wakes them up.

use sampan_ipc::container::{AttachMessage, Create};
use sampan_tests::containers::{Containers, IMAGE};
use sampan_tests::{host::wait_until, process};
use std::cell::Cell;
use std::thread;
use std::time::Duration;

/// Most bytes of PSS of an idle engine; a debug build's code alone is larger.
const ENGINE_PSS_MAX: u64 = 3 << 20;
/// Most bytes of PSS of an idle monitord.
const MONITORD_PSS_MAX: u64 = 1 << 20;

fn run_true(containers: &Containers) {
    let command = vec!["true".to_owned()];
    let create = Create { image: IMAGE.to_owned(), command, auto_remove: true, ..Create::default() };
    let (told, ..) = containers.run(create, b"");
    assert_eq!(told, AttachMessage::Exited(0), "{}", containers.log());
}

#[test]
fn daemons_release_memory_after_running_containers_and_sleep() {
    let containers = Containers::quiet("");
    let daemons = [containers.engine_pid().cast_unsigned(), containers.host.pid()];
    let now = || daemons.map(process::code_bytes);
    // Measured right after each run: if runs are slow, a daemon may have released memory before the last one ends.
    let mut busy = now();
    for _ in 0..10 {
        run_true(&containers);
        busy.iter_mut().zip(now()).for_each(|(most, now)| *most = now.max(*most));
    }
    containers.await_no_shim();
    let seen = || format!("code: {busy:?} bytes while busy, {:?} now", now());
    wait_until("pages of code to be given back", seen, || {
        now().iter().zip(busy).all(|(now, busy)| *now < busy * 2 / 3)
    });
    // A daemon that has just woken up to release memory does not do so again.
    let wakeups = || daemons.map(process::context_switches);
    let last = Cell::new(wakeups());
    wait_until(
        "a second without a wake-up",
        || format!("{:?}", last.get()),
        || {
            thread::sleep(Duration::from_secs(1));
            last.replace(wakeups()) == last.get()
        },
    );
    thread::sleep(Duration::from_secs(4));
    assert_eq!(wakeups(), last.get(), "engine or monitord woke up for nothing");
    let [engine, monitord] = daemons.map(process::pss_bytes);
    println!("idle: engine {} KiB PSS, monitord {} KiB", engine >> 10, monitord >> 10);
    assert!(cfg!(debug_assertions) || engine <= ENGINE_PSS_MAX, "the engine has {engine} bytes PSS");
    assert!(cfg!(debug_assertions) || monitord <= MONITORD_PSS_MAX, "monitord has {monitord} bytes PSS");
    // Released memory is allocated again when it is needed.
    run_true(&containers);
}
