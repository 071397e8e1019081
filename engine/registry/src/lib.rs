//! The client of OCI registries (OCI distribution-spec): pulls from them, pushes to them, logs in at them.
//!
//! Called by the engine's jobs. All calls block, so jobs make them on worker threads. This crate knows no store, no
//! layer and no container.
//!
//! | module | what it owns |
//! |---|---|
//! | [`config`] | registries.conf: short names, mirrors, blocked registries |
//! | [`credentials`] | the credentials of one job |
//! | `access`, `error` | the settings for reaching a registry, and the errors (re-exported here) |
//! | `registry` | one repository of one registry ([`Registry`]) |
//! | `at_url` | one repository as a URL names it |
//! | `transport` | sends one request and follows redirects |
//! | `auth`, `session`, `challenge` | authentication: challenges, passwords, tokens |
//! | `client` | fetches blobs, and sends each GET and HEAD |
//! | `manifest` | fetches, sends and deletes manifests |
//! | `list`, `referrers` | lists tags, repositories and referrers |
//! | `upload` | sends blobs |
//! | `send` | sends each POST, PATCH, PUT and DELETE |
//! | `headers`, `redirect`, `warning` | parsers for the headers of answers |
//! | [`host_gate`] | the pauses and the rates of requests of each host, for all jobs |
//! | `address` | which addresses may be connected to |
//! | `agents`, `certs`, `shared_tls`, `net` | connections: certificates, TLS, proxies, name resolution |
//! | [`mirrors`] | one image's repository, at its mirrors and at its registry |
//! | [`blob_download`] | one blob as one stream of bytes, across broken connections |
//! | [`web`] | requests to any HTTP server, without the protocol of registries |
//! | [`retry`] | which failures are tried again, and after which wait: status 429, `Retry-After`, backoff |
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]
#![warn(clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing))]

mod access;
mod address;
mod agents;
mod at_url;
mod auth;
pub mod blob_download;
mod certs;
pub mod challenge;
mod client;
pub mod config;
pub mod credentials;
mod error;
mod headers;
pub mod host_gate;
mod list;
mod manifest;
pub mod mirrors;
mod net;
mod redirect;
mod referrers;
mod registry;
pub mod retry;
mod send;
mod session;
mod shared_tls;
mod transport;
mod upload;
mod warning;
pub mod web;

pub use access::{
    Access, BlobBody, BlobHead, CERTS_DIRS, ManifestHead, Payload, RawManifest, StoredManifest,
};
pub use address::{AddressFilter, AddressRefused};
pub use error::{Failed, RegistryError};
pub use list::{REPOSITORIES_MAX, TAGS_MAX};
pub use referrers::{REFERRERS_MAX, Referrer};
pub use registry::Registry;
pub use upload::{Upload, UploadStart};
