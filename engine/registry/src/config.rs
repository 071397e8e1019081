//! The configuration of registries: containers-registries.conf(5), version 2, and registries.conf.d.
//!
//! Each pull calls [`Files::load`], which returns [`Registries`]. [`Registries`] convert the name that a person typed
//! to references, and a reference to [`Endpoint`]s. This module reads files, never the network.

mod cache;
mod error;
mod file;
mod registries_conf;
mod table;

pub use self::cache::Files;
pub use self::error::RegistriesError;
pub use self::registries_conf::{CONF, CONF_VARIABLE, Registries};
pub use self::table::Endpoint;
