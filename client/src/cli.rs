//! The commands of `sampan`: one folder for each noun, one file for each command or for what several commands share.
//!
//! `main` calls the commands with their parsed arguments. No command prints an error or exits: `main` does, so that
//! every failure looks alike. The modules at this level serve all nouns and know none of them.

pub(crate) mod args;
pub(crate) mod docker_hints;
pub(crate) mod engine;
pub(crate) mod error;
pub(crate) mod human_units;
pub(crate) mod json;
pub(crate) mod output;
pub(crate) mod prompt;
pub(crate) mod signals;
pub(crate) mod table;

pub(crate) mod container;
pub(crate) mod event;
pub(crate) mod image;
pub(crate) mod job;
pub(crate) mod system;
