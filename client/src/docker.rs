//! Docker's objects: what the Docker Engine API sends, made from the answers of the engine and monitord.
//!
//! Used by the gateway, which sends them, and by the command line, which formats them.

pub mod event;
pub mod status;
