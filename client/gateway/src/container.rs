//! Operations on containers: one file for each.

pub mod attach;
pub mod create;
mod create_body;
mod create_fields;
mod create_mounts;
pub(crate) mod failure;
pub mod frame;
pub mod inspect;
pub mod lifecycle;
pub mod list;
pub mod log_lines;
pub mod logs;
pub mod prune;
pub mod remove;
pub mod resize;
pub mod session;
pub mod settings;
pub mod shim_link;
pub mod top;
pub mod wait;
