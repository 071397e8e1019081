//! The engine: pulls, keeps and serves images, and tells of it.
//!
//! The program is `main.rs`; this library lets its pieces be tested and fuzzed. From above to below:
//! [`server`] is the event loop and calls the rest; [`work`] is what its threads do; [`pull`] and [`import`]
//! send layers through the [`pipeline`] into the [`store`], whose names [`images`] keeps; [`serve`] gives them
//! out again. [`registry`] is the client of other people's registries, [`sources`] of several that have the
//! same image, as [`registries`] says. [`load`] and [`save`] carry images from and to archives, whose documents
//! [`bundle`] reads. [`announce`] says what happened.
//! A module imports only what lies below it.

pub mod announce;
pub mod archive;
pub mod attributes;
mod awaited;
pub mod bundle;
pub mod cancel;
pub mod challenge;
pub mod client;
pub mod compare;
pub mod config;
pub mod container;
pub mod credentials;
pub mod decode;
pub mod digest;
mod directories;
pub mod download;
pub mod failure;
pub mod farewell;
pub mod feed;
pub mod fifos;
pub mod fit;
mod garbage;
mod holes;
pub mod images;
pub mod implied;
pub mod import;
mod index;
pub mod jobs;
pub mod layer;
pub mod layout;
pub mod leftovers;
pub mod limits;
pub mod load;
pub mod lock;
pub mod login;
pub mod members;
mod mutex;
pub mod namespace;
#[cfg(test)]
mod numbers;
pub mod oci;
pub mod outlet;
pub mod partial;
pub mod pipeline;
pub mod place;
pub mod platform;
pub mod policy;
mod processor;
pub mod progress;
pub mod prune;
pub mod pull;
pub mod push;
pub mod rate;
pub mod reach;
pub mod reference;
pub mod registries;
pub mod registry;
pub mod relay;
pub mod retry;
pub mod rights;
pub mod room;
pub mod roots;
pub mod save;
pub mod seekable;
pub mod serve;
pub mod server;
mod settling;
pub mod shim;
pub mod signature;
pub mod small_file;
pub mod socket;
pub mod sources;
mod spare;
pub mod staged;
pub mod stamp;
pub mod state_file;
pub mod store;
pub mod subid;
mod sys;
pub mod tarball;
pub mod tree;
pub mod unpack;
pub mod unsaid;
pub mod unsynced;
pub mod usage;
pub mod verify;
pub mod walk;
pub mod work;

/// Bounds what the allocator keeps; to be called first thing, before any thread.
pub fn limit_memory() {
    sys::limit_arenas();
}

/// Gives back memory that starting up, or a job, needed and an idle engine does not.
pub fn trim_memory() {
    sys::trim_memory();
}
