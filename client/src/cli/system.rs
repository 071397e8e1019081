//! `sampan system`, `info`, `version`, `monitor` and `up`.

pub mod disk_usage;
pub mod info;
pub mod up;
