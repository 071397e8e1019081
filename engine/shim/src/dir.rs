//! A container's directory, which shim and engine both write: [`state_file`] holds the container's state,
//! [`event_spool`] keeps events that the monitor could not take, [`remove`] removes the directory.

pub mod event_spool;
pub mod remove;
pub mod state_file;
