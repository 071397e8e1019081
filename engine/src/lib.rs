//! The engine: pulls, keeps and serves images, and tells of it.
#![warn(missing_docs)]

pub mod digest;
pub mod oci;
pub mod platform;
pub mod reference;
pub mod stamp;
mod sys;
pub mod tarball;
pub mod tree;
pub mod unpack;
