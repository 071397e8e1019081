//! Docker's objects: what the Docker Engine API sends, made from the answers of the engine and monitord.
//!
//! Used by the gateway, which sends them, and by the command line, which formats them.

pub mod columns;
pub mod container_row;
pub mod disk_usage;
pub mod event;
pub mod history;
pub mod host;
pub mod image_row;
pub mod info;
pub mod mount_point;
pub mod status;
pub mod top;
pub mod version;

pub use sampan_ipc::image_name::{familiar, repository};
