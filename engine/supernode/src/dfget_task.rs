//! dfget_task.
