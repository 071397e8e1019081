//! Operating system services for every process of the project. All `unsafe` code of the project is in this crate.
//!
//! Every other crate may call it. It depends on none of them, and knows no format, no protocol and no log.
//!
//! | module | what it owns |
//! |---|---|
//! | [`syscall`] | system calls that nix does not offer, one function for each |
//! | [`xattr`] | reads, sets and removes extended attributes |
//! | [`memory`] | returns an idle process's memory to the kernel: heap, stack, pages of code |
//! | [`receive`] | receives bytes and descriptors from a Unix socket |
//! | [`spawn`] | starts a program without copying this process |
//! | [`thread`] | starts threads, each with a name and a small stack |
//! | [`mutex`] | locks and waits that ignore poisoning |
//! | [`file_lock`] | lock files that admit one process at a time |
//! | [`small_file`] | reads a small file whole |
//! | [`sparse`] | finds the data in a sparse file |
//! | [`open_beneath`] | opens a directory beneath another one by an untrusted path |
//! | [`walk_tree`], [`remove_tree`] | visit, measure and remove untrusted directory trees |
//! | [`cgroup`] | finds, empties and removes a container's control groups |
//! | [`boot_id`] | identifies the current boot of the host |
//! | [`io_error`] | classifies file system errors |
#![expect(unsafe_code, reason = "system calls that nix does not offer; every other crate forbids it")]

pub mod boot_id;
pub mod cgroup;
pub mod file_lock;
pub mod io_error;
pub mod memory;
pub mod mutex;
pub mod open_beneath;
pub mod receive;
pub mod remove_tree;
pub mod small_file;
pub mod sparse;
pub mod spawn;
pub mod syscall;
pub mod thread;
pub mod walk_tree;
pub mod xattr;
