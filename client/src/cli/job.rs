//! `sampan jobs`, `watch` and `cancel`, and how every command follows the progress of the jobs that it starts.

pub mod bars;
pub mod commands;
pub mod follow;
pub mod lines;
pub mod rows;
pub mod transfer_rate;
pub mod view;
