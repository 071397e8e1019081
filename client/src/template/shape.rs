//! What JSON does not say about docker's objects: which members are maps, and what `null` stands for.
//!
//! The names are those of the Docker Engine API and of the OCI image specification. A name means the same in each of
//! docker's objects, so that the name alone tells the shape.

/// How a template treats an object, an array or `null`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// An object with known fields: another field is an error. As `null`, a pointer to nothing.
    Object,
    /// A map to text: an absent key gives empty text to `index`.
    Texts,
    /// A map to objects or lists.
    Map,
    /// A list.
    List,
}

const TEXTS: [&str; 12] = [
    "Annotations",
    "Attributes",
    "BuildArgs",
    "Data",
    "Details",
    "DriverOpts",
    "Labels",
    "LogOpts",
    "Options",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
];

const MAPS: [&str; 8] = [
    "Containers",
    "ExposedPorts",
    "IndexConfigs",
    "Networks",
    "PortBindings",
    "Ports",
    "Runtimes",
    "Volumes",
];

/// Members that are objects or single values, and `null` if they are absent.
const POINTERS: [&str; 15] = [
    "BindOptions",
    "ContainerIDFile",
    "Health",
    "Healthcheck",
    "IPAMConfig",
    "Init",
    "MemorySwappiness",
    "OomKillDisable",
    "PidsLimit",
    "SizeRootFs",
    "SizeRw",
    "StopTimeout",
    "TmpfsOptions",
    "VolumeOptions",
    "NetworkingConfig",
];

/// Returns the shape of the member `name`.
pub(super) fn of(name: &str) -> Shape {
    if TEXTS.contains(&name) {
        Shape::Texts
    } else if MAPS.contains(&name) {
        Shape::Map
    } else if POINTERS.contains(&name) || !name.starts_with(|c: char| c.is_ascii_uppercase()) {
        Shape::Object
    } else {
        Shape::List
    }
}
