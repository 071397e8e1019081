//! The configuration of registries: containers-registries.conf(5), version 2, and registries.conf.d.
//!
//! Each pull calls [`Files::load`], which returns [`Registries`]. They turn the name that a person typed into
//! references, and a reference into [`Endpoint`]s. This module reads files, never the network.

mod cache;
mod error;
mod file;
mod registries_conf;
mod table;

pub use self::cache::Files;
pub use self::error::RegistriesError;
pub use self::registries_conf::{CONF, CONF_VARIABLE, Registries};
pub use self::table::Endpoint;
