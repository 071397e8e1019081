//! The engine: pulls, keeps and serves images, and tells of it.
#![warn(missing_docs)]

pub mod cancel;
pub mod challenge;
pub mod decode;
pub mod digest;
pub mod failure;
pub mod images;
pub mod limits;
pub mod oci;
pub mod pipeline;
pub mod platform;
pub mod progress;
pub mod pull;
pub mod reference;
pub mod registry;
pub mod stamp;
pub mod store;
mod sys;
pub mod tarball;
pub mod tree;
pub mod unpack;
