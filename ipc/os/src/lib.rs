//! What every process of the project asks of the kernel. All `unsafe` of the project is here.
//!
//! Called by every other crate; knows none of them, no format, no protocol and no log.
//!
//! | module | what it owns |
//! |---|---|
//! | [`syscall`] | the calls that nix lacks, one function a call |
//! | [`xattr`] | extended attributes |
//! | [`memory`] | what an idle process gives back: heap, stack, pages of code |
//! | [`receive`] | bytes and descriptors from a Unix socket |
//! | [`spawn`] | starts a program without a copy of this process |
//! | [`thread`] | starts threads, each with a name and a small stack |
//! | [`mutex`] | locks and waits that a panic elsewhere does not close |
//! | [`file_lock`] | lock files that say which process is the one |
//! | [`small_file`] | reads a small file whole |
//! | [`sparse`] | where a sparse file has data |
//! | [`open_beneath`] | directories beneath another one, by names that a stranger chose |
//! | [`walk_tree`], [`remove_tree`] | directory trees that somebody else made: visited, measured, removed |
//! | [`cgroup`] | a container's control groups: found, emptied, removed |
//! | [`boot_id`] | which boot of the host this is |
//! | [`io_error`] | what an error of the file system means |

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
