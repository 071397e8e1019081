//! What Sampan does not have: networks, volumes, plugins, swarms, builds.
//!
//! Lists are empty, and a prune finds nothing, so that programs that look everywhere go on. Names are not found. Changes
//! are refused with what is missing.

use crate::call::{Call, Started};
use crate::refusal::Refusal;
use sampan_http::answer::Answer;
use serde_json::{Value, json};

type Found = Result<Option<Started>, Refusal>;

/// Filters of the lists and of the prunes, as docker's daemon knows them.
const NETWORK_FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];
const NETWORK_PRUNE_FILTERS: &[&str] = &["label", "label!", "until"];
const VOLUME_FILTERS: &[&str] = &["dangling", "driver", "label", "name"];
const VOLUME_PRUNE_FILTERS: &[&str] = &["all", "label", "label!"];
const PLUGIN_FILTERS: &[&str] = &["capability", "enabled"];
const BUILD_PRUNE_FILTERS: &[&str] = &[
    "description",
    "id",
    "inuse",
    "label",
    "label!",
    "parent",
    "private",
    "shared",
    "type",
    "until",
    "unused-for",
];

/// Answers a request to the area `area` of the API; `None` if docker has no such path.
///
/// # Errors
/// The request asks for what Sampan does not have.
pub fn answer(call: &Call<'_>, method: &str, area: &str, rest: &str) -> Found {
    match area {
        "networks" => network(call, method, rest),
        "volumes" => volume(call, method, rest),
        "plugins" => plugin(call, method, rest),
        "swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs" => swarm(method, area, rest),
        "build" => build(call, method, rest),
        // Both are connections to BuildKit.
        "session" | "grpc" if method == "POST" && rest.is_empty() => Err(no_build()),
        _ => Ok(None),
    }
}

fn ok(value: &Value) -> Found {
    Ok(Some(Started::Answer(Answer::new(200, "application/json", format!("{value}\n")))))
}

fn network(call: &Call<'_>, method: &str, rest: &str) -> Found {
    match (method, rest) {
        ("GET", "") => {
            call.query.filters_among(NETWORK_FILTERS)?;
            ok(&json!([]))
        }
        ("POST", "prune") => {
            call.query.filters_among(NETWORK_PRUNE_FILTERS)?;
            ok(&json!({"NetworksDeleted": null}))
        }
        ("POST", "create") => Err(Refusal::missing("the creation of networks")),
        ("POST", name) if name.ends_with("/connect") || name.ends_with("/disconnect") => {
            Err(Refusal::missing("the connection of containers to networks"))
        }
        ("GET" | "DELETE", name) => Err(Refusal::not_found(format!("network {name} not found"))),
        _ => Ok(None),
    }
}

fn volume(call: &Call<'_>, method: &str, rest: &str) -> Found {
    match (method, rest) {
        ("GET", "") => {
            call.query.filters_among(VOLUME_FILTERS)?;
            ok(&json!({"Volumes": [], "Warnings": null}))
        }
        ("POST", "prune") => {
            call.query.filters_among(VOLUME_PRUNE_FILTERS)?;
            ok(&json!({"VolumesDeleted": [], "SpaceReclaimed": 0}))
        }
        ("POST", "create") => Err(Refusal::missing("the creation of volumes")),
        ("PUT", _) => Err(Refusal::missing("the update of cluster volumes")),
        // docker volume rm --force succeeds if there is no such volume.
        ("DELETE", _) if call.query.is_set("force") => Ok(Some(Started::Answer(Answer::empty(204)))),
        ("GET" | "DELETE", name) => Err(Refusal::not_found(format!("get {name}: no such volume"))),
        _ => Ok(None),
    }
}

fn plugin(call: &Call<'_>, method: &str, rest: &str) -> Found {
    let (name, verb) = rest.rsplit_once('/').unwrap_or((rest, ""));
    match (method, name, verb) {
        ("GET", "", "") => {
            call.query.filters_among(PLUGIN_FILTERS)?;
            ok(&json!([]))
        }
        ("GET", "privileges", "") | ("POST", "pull" | "create", "") => {
            Err(Refusal::missing("the installation of plugins"))
        }
        ("GET", name, "json") | ("POST", name, "enable" | "disable" | "push" | "set" | "upgrade") => {
            no_plugin(name)
        }
        ("DELETE", ..) if !rest.is_empty() => no_plugin(rest),
        _ => Ok(None),
    }
}

fn no_plugin(name: &str) -> Found {
    Err(Refusal::not_found(format!("plugin {name:?} not found")))
}

/// Answers as a host that is in no swarm.
fn swarm(method: &str, area: &str, rest: &str) -> Found {
    match (method, area, rest) {
        ("POST", "swarm", "init" | "join" | "unlock") => Err(Refusal::missing("swarm mode")),
        ("POST", "swarm", "leave") => Err(Refusal::new(503, "This node is not part of a swarm")),
        ("GET" | "POST" | "DELETE", ..) => {
            Err(Refusal::new(503, "This node is not a swarm manager: swarm mode is not supported by sampan"))
        }
        _ => Ok(None),
    }
}

fn build(call: &Call<'_>, method: &str, rest: &str) -> Found {
    match (method, rest) {
        ("POST", "prune") => {
            call.query.filters_among(BUILD_PRUNE_FILTERS)?;
            ok(&json!({"CachesDeleted": null, "SpaceReclaimed": 0}))
        }
        ("POST", "" | "cancel") => Err(no_build()),
        _ => Ok(None),
    }
}

fn no_build() -> Refusal {
    let hint = "build the image with 'buildah build', which needs no daemon, and load it: \
         'buildah push IMAGE docker-archive:FILE:NAME' and 'docker load -i FILE'";
    Refusal::new(501, format!("building images is not supported by sampan ({hint})"))
}
