//! Operations on the whole host: one file for each.

pub mod absent;
pub mod disk_usage;
pub mod info;
pub mod login;
pub mod ping;
pub mod version;
