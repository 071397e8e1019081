//! The gateway `sampan-docker-api`: the Docker Engine API over the engine's and monitord's sockets.
//!
//! | module | owns |
//! |---|---|
//! | [`config`] | the options of the program |
//! | [`server`] | the event loop, the clients' connections |
//! | [`exchange`] | what an operation may do to its client; the trait of operations |
//! | [`route`] | method and path to endpoint |
//! | [`call`], [`api_version`] | a request as operations see it; versions of the API |
//! | [`query`], [`refusal`] | parameters of a request; errors as docker's answers |
//! | [`engine_call`], [`question`] | requests to the engine that have a short answer; that are a part of more |
//! | [`daemon_call`] | requests to both daemons that have a short answer |
//! | [`json`], [`glob`] | answers that are one document; patterns of filters |
//! | [`system`], [`event`], [`image`], [`container`], [`exec`] | one file for each operation |
//!
//! See `docs/docker-api.md`. The gateway knows the client library, `ipc`, `ipc/http` and `ipc/daemon`, never the engine.

#![forbid(unsafe_code)]
#![warn(unreachable_pub)]
// A client's bytes must never cause a panic.
#![cfg_attr(not(test), warn(clippy::expect_used, clippy::indexing_slicing))]

pub mod api_version;
pub mod call;
pub mod config;
pub mod container;
pub mod daemon_call;
pub mod engine_call;
pub mod event;
pub mod exchange;
pub mod exec;
pub mod glob;
pub mod image;
pub mod json;
pub mod query;
pub mod question;
pub mod refusal;
pub mod route;
pub mod server;
pub mod system;
