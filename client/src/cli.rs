//! The commands of `sampan`: one folder for each noun, one file for each command or for what several commands share.
//!
//! `main` calls the commands with their parsed arguments. No command prints an error or exits: `main` does, so that
//! every failure looks alike. The modules at this level serve all nouns and know none of them.

pub mod args;
pub mod docker_hints;
pub mod engine;
pub mod error;
pub mod human_units;
pub mod json;
pub mod output;
pub mod prompt;
pub mod signals;
pub mod table;

pub mod container;
pub mod event;
pub mod image;
pub mod job;
pub mod system;
