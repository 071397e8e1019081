//! Helpers of the tests: they start the real programs, registries and other users, read what the kernel reports of a
//! process, and run the fuzzer.

pub mod acceptor;
pub mod command_line;
pub mod containers;
pub mod cursor;
pub mod disk;
pub mod docker_api;
pub mod dockerd;
pub mod dragonfly;
pub mod engine;
pub mod engine_host;
pub mod faults;
pub mod fuzz;
pub mod host;
pub mod http_client;
pub mod installation;
pub mod leaks;
pub mod load;
pub mod machine;
pub mod memory_registry;
pub mod nested;
pub mod origin_server;
pub mod own_wire;
pub mod process;
pub mod random;
pub mod registry;
pub mod replication;
pub mod subscriber;
pub mod supernode;
pub mod targets;
pub mod terminal;
pub mod tls;
pub mod users;
pub mod worker;

/// Number of rounds of a test with random kills, races or storms: all of `full` in `make soak`, otherwise a tenth.
pub fn rounds(full: usize) -> usize {
    match std::env::var_os("SAMPAN_SOAK") {
        Some(_) => full,
        None => full.div_ceil(10),
    }
}
