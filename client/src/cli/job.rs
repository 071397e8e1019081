//! `sampan jobs`, `watch` and `cancel`, and how every command follows the progress of the jobs that it starts.

pub(crate) mod bars;
pub(crate) mod commands;
pub(crate) mod follow;
pub(crate) mod lines;
pub(crate) mod rows;
pub(crate) mod transfer_rate;
pub(crate) mod view;
