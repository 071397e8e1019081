//! Executions: one file for each operation.

pub mod create;
pub mod inspect;
pub mod resize;
pub mod start;
