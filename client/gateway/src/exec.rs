//! Executions: additional processes in a container.

pub mod create;
pub mod inspect;
pub mod resize;
pub mod start;
pub mod table;
