//! `sampan system`, `info`, `version`, `monitor` and `up`.

pub(crate) mod disk_usage;
pub(crate) mod info;
pub(crate) mod up;
