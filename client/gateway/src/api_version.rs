//! Versions of the API.
//!
//! Used by `route`, which reads the version in a path, and for the headers of every answer.

/// The API version that the gateway speaks, and that a path without a version means.
pub const VERSION: Version = Version { minor: 50 };
/// The oldest API version that a path may name.
pub const VERSION_MIN: Version = Version { minor: 24 };

/// A version of the API, `1.N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The number after the dot.
    pub minor: u32,
}
