//! `sampan system`, `info`, `version`, `monitor` and `up`.

pub mod info;
pub mod up;
