//! Which registries stand behind a name: containers-registries.conf(5), version 2, and registries.conf.d.
//!
//! [`Files`] is asked for each pull, and gives [`Registries`]: those give references for what a person typed, and
//! [`Endpoint`]s for a reference. Reads files, never the network.

mod cache;
mod error;
mod file;
mod registries_conf;
mod table;

pub use self::cache::Files;
pub use self::error::RegistriesError;
pub use self::registries_conf::{CONF, CONF_VARIABLE, Registries};
pub use self::table::Endpoint;
