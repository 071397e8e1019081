//! A container's directory, as shim and engine both write it: [`state_file`] says where the container stands,
//! [`event_spool`] keeps events that could not be written, [`remove`] takes the directory away.

pub mod event_spool;
pub mod remove;
pub mod state_file;
