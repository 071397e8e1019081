//! The commands of `sampan`: a folder for each noun, and a file for each command or for code that several commands
//! share.
//!
//! `main` calls the commands with their parsed arguments. No command prints an error or exits: `main` does both, so
//! that all failures have one form. The modules at this level serve all nouns and know none of them.

pub(crate) mod args;
pub(crate) mod docker_hints;
pub(crate) mod engine;
pub(crate) mod error;
pub(crate) mod format;
pub(crate) mod human_units;
pub(crate) mod inspection;
pub(crate) mod json;
pub(crate) mod output;
pub(crate) mod prompt;
pub(crate) mod signals;
pub(crate) mod table;

pub(crate) mod container;
pub(crate) mod event;
pub(crate) mod image;
pub(crate) mod job;
pub(crate) mod replication;
pub(crate) mod system;
