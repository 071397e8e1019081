//! Operations on containers: one file for each.

pub mod attach;
pub mod create;
pub mod inspect;
pub mod lifecycle;
pub mod list;
pub mod logs;
pub mod prune;
pub mod remove;
pub mod resize;
pub mod top;
pub mod wait;
