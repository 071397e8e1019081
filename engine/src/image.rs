//! Operations on images. Most modules contain one operation; several operations share the other modules.
//!
//! Called by `tasks` and `server`. Knows no container and no client.
//!
//! | module | what it owns |
//! |---|---|
//! | [`pull`] | from a registry into the store |
//! | [`push`] | from the store to a registry |
//! | [`import`] | from a tar of a root file system into the store |
//! | [`archive`] | from and to docker archives, OCI archives and OCI layouts |
//! | [`serve`] | serving the store as a registry |
//! | [`verify`] | comparing the store's content with its digests |
//! | [`queries`] | short requests: list, inspect, tag, remove, disk usage |
//! | [`prune`] | removing unused images |
//! | [`disk_space`] | checking and freeing disk space before and during a job |
//! | [`policy`] | which images need a signature, and whose |
//! | [`resolve`] | which image a name means, and how its registry is reached |
//! | [`login`] | checking a credential at its registry |

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

/// Serializes a document that the engine makes itself.
#[expect(clippy::expect_used, reason = "serde_json fails only on map keys that are no strings")]
fn to_json(document: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("JSON can express documents made here")
}
