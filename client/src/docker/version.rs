//! Versions of the programs: `GET /version`. Docker Engine API, "SystemVersion".

use super::host::Host;
use sampan_ipc::details::EngineDetails;
use serde::Serialize;
use std::collections::BTreeMap;

/// The newest version of docker's API that Sampan speaks.
pub const API_VERSION: &str = "1.50";
/// The oldest version of docker's API that Sampan speaks.
pub const API_VERSION_MIN: &str = "1.24";

/// Versions of the programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Version {
    /// The product.
    pub platform: Platform,
    /// The programs.
    pub components: Vec<Component>,
    /// The engine's version.
    pub version: String,
    /// [`API_VERSION`].
    pub api_version: String,
    /// [`API_VERSION_MIN`].
    #[serde(rename = "MinAPIVersion")]
    pub min_api_version: String,
    /// `linux`.
    pub os: String,
    /// The host's architecture, by Go's name.
    pub arch: String,
    /// The release of the kernel.
    pub kernel_version: String,
}

/// The product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Platform {
    /// The product's name.
    pub name: String,
}

/// One of the programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Component {
    /// The program.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Further facts.
    pub details: BTreeMap<String, String>,
}

impl Component {
    fn new(name: &str, version: &str) -> Self {
        Component { name: name.to_owned(), version: version.to_owned(), details: BTreeMap::new() }
    }
}

impl Version {
    /// Describes the engine, its runtime, and monitord if its version is known.
    pub fn new(engine: &EngineDetails, monitord: Option<&str>, host: &Host) -> Self {
        let version = engine.info.version.clone();
        let details = [
            ("ApiVersion", API_VERSION.to_owned()),
            ("MinAPIVersion", API_VERSION_MIN.to_owned()),
            ("Os", "linux".to_owned()),
            ("Arch", host.go_architecture().to_owned()),
            ("KernelVersion", host.kernel.clone()),
        ];
        let details = details.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        // Clients of docker look for a component with the name `Engine`.
        let mut components = vec![Component { details, ..Component::new("Engine", &version) }];
        components.extend(monitord.map(|version| Component::new("monitord", version)));
        if !engine.runtime.is_empty() {
            components.push(Component::new(&engine.runtime, &engine.runtime_version));
        }
        Version {
            platform: Platform { name: "Sampan".to_owned() },
            components,
            version,
            api_version: API_VERSION.to_owned(),
            min_api_version: API_VERSION_MIN.to_owned(),
            os: "linux".to_owned(),
            arch: host.go_architecture().to_owned(),
            kernel_version: host.kernel.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_are_not_there_are_left_out() {
        let engine = EngineDetails::default();
        let names = |engine: &EngineDetails, monitord| -> Vec<String> {
            let version = Version::new(engine, monitord, &Host::default());
            version.components.into_iter().map(|one| one.name).collect()
        };
        assert_eq!(names(&engine, None), ["Engine"]);
        let crun = EngineDetails { runtime: "crun".to_owned(), ..engine };
        assert_eq!(names(&crun, Some("1")), ["Engine", "monitord", "crun"]);
    }
}
