//! The commands: one module a group, each called by `main` with its parsed arguments.
//!
//! None prints errors or exits: that is `main`'s, so that every failure looks the same.

pub mod absent;
pub mod acks;
pub mod archives;
pub mod args;
pub mod attached;
pub mod bars;
pub mod batch;
pub mod board;
pub mod containers;
pub mod credentials;
pub mod disk;
pub mod emit;
pub mod events;
pub mod exec;
pub mod failure;
pub mod follow;
pub mod format;
pub mod images;
pub mod import;
pub mod job;
pub mod keys;
pub mod lines;
pub mod login;
pub mod logs;
pub mod meter;
pub mod options;
pub mod outfile;
pub mod output;
pub mod progress;
pub mod prompt;
pub mod ps;
pub mod pull;
pub mod push;
pub mod run;
pub mod signals;
pub mod state;
pub mod systemd;
pub mod table;
pub mod terminal;
pub mod transport;
pub mod unit;
pub mod units;
pub mod up;
