//! Connections to registries: name resolution, TCP, proxies and TLS, with a time limit for every read and write.

pub(crate) mod dial;
pub(crate) mod proxy;
pub(crate) mod stream;
pub(crate) mod tls;
pub(crate) mod tunnel;
