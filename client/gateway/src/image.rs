//! Operations on images: one file for each.

pub mod history;
pub mod import;
pub mod inspect;
mod job_stream;
pub mod list;
pub mod load;
mod lookup;
mod message;
pub(crate) mod name;
pub mod prune;
pub mod pull;
pub mod pull_messages;
pub mod push;
pub(crate) mod registry_auth;
pub mod remove;
pub mod save;
pub mod selection;
pub mod tag;
mod upload;
