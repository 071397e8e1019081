//! Other people's registries: found by name, reached, asked, and sent to. OCI distribution-spec.
//!
//! Called by the engine's jobs. Blocking, for worker threads; knows no store, no layer and no container.
//!
//! | module | what it owns |
//! |---|---|
//! | [`config`] | registries.conf: what a name means, mirrors, what is blocked |
//! | [`credentials`] | who we are, where a registry asks |
//! | `access`, `error` | how a registry may be reached, and why it was not (the items below) |
//! | `registry` | one repository of one registry (below, as all of its requests) |
//! | `transport` | sends a request, through redirects |
//! | `auth`, `session`, `challenge` | who we are: challenges met with passwords and tokens |
//! | `client` | asks for manifests, blobs and tags |
//! | `upload` | sends blobs and manifests |
//! | `headers`, `redirect` | what answers say, and where they lead |
//! | `agents`, `certs`, `net` | connections: certificates, TLS, proxies, names |
//! | [`mirrors`] | one image's repository wherever it may be had |
//! | [`blob_download`] | one blob as one stream of bytes, however often the connection breaks |
//! | [`retry`] | what is tried again, and when |
#![forbid(unsafe_code)]

mod access;
mod agents;
mod auth;
pub mod blob_download;
mod certs;
pub mod challenge;
mod client;
pub mod config;
pub mod credentials;
mod error;
mod headers;
pub mod mirrors;
mod net;
mod redirect;
mod registry;
pub mod retry;
mod session;
mod transport;
mod upload;

pub use access::{Access, BlobBody, RawManifest};
pub use client::TAGS_MAX;
pub use error::{Failed, RegistryError};
pub use registry::Registry;
pub use upload::{Begun, Payload, Upload};
