//! `sampan replicate` and `sampan replication`: copies images between places, and shows what the engine replicates.

pub(crate) mod executions;
pub(crate) mod follow;
pub(crate) mod graph;
pub(crate) mod json_report;
pub(crate) mod place;
pub(crate) mod policies;
pub(crate) mod replicate;
pub(crate) mod report;
pub(crate) mod table_report;
