//! Connections to registries: name to address to TLS, through proxies, each byte with a time limit.

pub(crate) mod dial;
pub(crate) mod proxy;
pub(crate) mod stream;
pub(crate) mod tls;
pub(crate) mod tunnel;
