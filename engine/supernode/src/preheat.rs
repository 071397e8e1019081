//! Preheats: downloads that an operator asks for in advance, of one file or of all blobs of an image.
//!
//! [`Preheats`] decides: it is pure, owned by the event loop, and returns [`Action`]s that the loop carries out.
//! [`Resolver`] asks a registry, on threads, which blobs an image has. A preheat of an image is the parent of one
//! preheat for each blob. The preheat of a file is the task with the same ID, so a client that asks for the file
//! later finds it. docs/peers.md, "Preheats".

mod action;
mod entry;
mod image;
mod manager;
mod report;
mod request;
mod resolve;

pub use self::action::{Action, ImageBlobs, TaskFailure, TaskRequest};
pub use self::image::{BLOBS_MAX, ImageError, MANIFESTS_MAX};
pub use self::manager::{ENTRIES_MAX, PREHEATS_MAX, Preheats};
pub use self::report::{PreheatInfo, PreheatTask};
pub use self::request::{Headers, ImageUrl, Kind, PreheatError, PreheatRequest};
pub use self::resolve::{Resolution, Resolver};
