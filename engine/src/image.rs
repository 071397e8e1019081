//! What the engine does with images. A module a verb; what several of them need is below.
//!
//! | module | what it owns |
//! |---|---|
//! | [`pull`] | from a registry into the store |
//! | [`push`] | from the store to a registry |
//! | [`import`] | from a tar of a root file system |
//! | [`archive`] | from and to archives of docker and OCI |
//! | [`serve`] | the store as a registry |
//! | [`verify`] | the store compared with its digests |
//! | [`queries`] | short requests: list, inspect, tag, remove |
//! | [`prune`] | images that nobody needs go |
//! | [`disk_space`] | room on the disk, before and while something comes |
//! | [`policy`] | whose signature an image needs |
//! | [`resolve`] | what a name means, and how its registry is reached |
//! | [`login`] | whether a registry takes a credential |

pub mod archive;
pub mod disk_space;
pub mod import;
pub mod login;
pub mod policy;
pub mod prune;
pub mod pull;
pub mod push;
pub mod queries;
pub mod resolve;
pub mod serve;
pub mod verify;
