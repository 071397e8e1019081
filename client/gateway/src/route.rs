//! Method and path to endpoint: versions, names with slashes.
//!
//! Called by the loop for each request; starts operations, and answers at once what needs none.

use crate::api_version::{VERSION, VERSION_MIN, Version};
use crate::call::{Call, Result, Started};
use crate::exchange::Shared;
use crate::query::{Query, decode};
use crate::refusal::Refusal;
use crate::{container, event, exec, image, system};
use http::{Method, Request};

/// Whether the body of a request is streamed to its operation.
pub fn is_streamed(head: &Request<()>) -> bool {
    let (path, query) = (head.uri().path(), head.uri().query().unwrap_or_default());
    let is_import = path.ends_with("/images/create") && Query::parse(query).get("fromSrc").is_some();
    let is_load = path.ends_with("/images/load") || path.ends_with("/build");
    head.method() == Method::PUT || (head.method() == Method::POST && (is_load || is_import))
}

/// Whether a client that waits for the answer has gone when it sends no more. Clients that watch something end with their
/// connection, and docker, too, takes the end of a client's bytes for the client's end there. Other answers come soon, and
/// reach a client that has ended its own direction right after the request.
pub fn is_long_poll(head: &Request<()>) -> bool {
    let (path, query) = (head.uri().path(), head.uri().query().unwrap_or_default());
    let is_pull = path.ends_with("/images/create") && !is_streamed(head);
    let follows = path.ends_with("/logs") && Query::parse(query).is_set("follow");
    path.ends_with("/events") || path.ends_with("/wait") || path.ends_with("/push") || is_pull || follows
}

/// Starts what answers `request`.
pub fn start(request: &Request<&[u8]>, shared: &mut Shared) -> Started {
    dispatch(request, shared).unwrap_or_else(Started::from)
}

fn dispatch(request: &Request<&[u8]>, shared: &mut Shared) -> Result {
    let path = decode(request.uri().path());
    let (version, path) = split_version(&path)?;
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let call = Call { version, query, request };
    let not_found = || Refusal::not_found(format!("page not found: {} {path}", request.method()));
    // docker answers HEAD for a ping alone; HEAD of a stream would never end.
    let method = match *request.method() {
        Method::HEAD if path == "/_ping" => "GET",
        _ => request.method().as_str(),
    };
    let (area, rest) =
        path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    match area {
        "_ping" | "version" | "info" | "system" | "auth" | "events" => {
            host(&call, method, area, rest, shared)
        }
        "images" | "distribution" => images(&call, method, area, rest, shared),
        "containers" | "commit" => containers(&call, method, area, rest, shared),
        "exec" => execs(&call, method, rest, shared),
        _ => system::absent::answer(&call, method, area, rest),
    }?
    .ok_or_else(not_found)
}

/// Splits the version off a path: `/v1.41/info`. A path without one means [`VERSION`].
fn split_version(path: &str) -> std::result::Result<(Version, &str), Refusal> {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let Some(minor) = first.strip_prefix("v1.").and_then(|minor| minor.parse().ok()) else {
        return Ok((VERSION, path));
    };
    let version = Version { minor };
    if version < VERSION_MIN {
        let message = format!(
            "client version 1.{minor} is too old. Minimum supported API version is 1.{}, please upgrade your client to a newer version",
            VERSION_MIN.minor
        );
        return Err(Refusal::bad(message));
    }
    let rest = path.trim_start_matches('/').strip_prefix(first).unwrap_or_default();
    Ok((version, rest))
}

type Found = std::result::Result<Option<Started>, Refusal>;

fn host(call: &Call<'_>, method: &str, area: &str, rest: &str, shared: &mut Shared) -> Found {
    match (method, area, rest) {
        ("GET", "_ping", "") => system::ping::start(call),
        ("GET", "version", "") => system::version::start(call, shared),
        ("GET", "info", "") => system::info::start(call, shared),
        ("GET", "system", "df") => system::disk_usage::start(call, shared),
        ("POST", "auth", "") => system::login::start(call, shared),
        ("GET", "events", "") => event::stream::start(call, shared),
        _ => return Ok(None),
    }
    .map(Some)
}

/// Names of images have slashes and colons, so the verb is the last segment.
fn images(call: &Call<'_>, method: &str, area: &str, rest: &str, shared: &mut Shared) -> Found {
    let (name, verb) = rest.rsplit_once('/').unwrap_or(("", rest));
    match (method, area, name, verb) {
        ("GET", "images", "", "json") => image::list::start(call, shared),
        ("POST", "images", "", "create") if call.query.get("fromSrc").is_some() => {
            image::import::start(call, shared)
        }
        ("POST", "images", "", "create") => image::pull::start(call, shared),
        ("POST", "images", "", "load") => image::load::start(call, shared),
        ("POST", "images", "", "prune") => image::prune::start(call, shared),
        ("GET", "images", "", "get") => image::save::start(call, "", shared),
        ("GET", "images", "", "search") => Err(Refusal::missing("a search for images")),
        ("GET", "images", name, "json") if !name.is_empty() => image::inspect::start(call, name, shared),
        ("GET", "images", name, "history") if !name.is_empty() => image::history::start(call, name, shared),
        ("GET", "images", name, "get") if !name.is_empty() => image::save::start(call, name, shared),
        ("POST", "images", name, "tag") if !name.is_empty() => image::tag::start(call, name, shared),
        ("POST", "images", name, "push") if !name.is_empty() => image::push::start(call, name, shared),
        ("DELETE", "images", _, _) if !rest.is_empty() => image::remove::start(call, rest, shared),
        ("GET", "distribution", _, "json") => Err(Refusal::missing("the manifest of an image in a registry")),
        _ => return Ok(None),
    }
    .map(Some)
}

fn containers(call: &Call<'_>, method: &str, area: &str, rest: &str, shared: &mut Shared) -> Found {
    let (name, verb) = rest.split_once('/').unwrap_or((rest, ""));
    match (method, area, name, verb) {
        ("POST", "commit", "", "") => Err(Refusal::missing("commit")),
        (_, "commit", _, _) => return Ok(None),
        ("GET", _, "json", "") => container::list::start(call, shared),
        ("POST", _, "create", "") => container::create::start(call, shared),
        ("POST", _, "prune", "") => container::prune::start(call, shared),
        (_, _, "", _) => return Ok(None),
        ("DELETE", _, name, "") => container::remove::start(call, name, shared),
        ("GET", _, name, "json") => container::inspect::start(call, name, shared),
        ("GET", _, name, "logs") => container::logs::start(call, name, shared),
        ("GET", _, name, "top") => container::top::start(call, name, shared),
        ("POST", _, name, "start" | "stop" | "restart" | "kill" | "pause" | "unpause" | "rename") => {
            container::lifecycle::start(call, name, verb, shared)
        }
        ("POST", _, name, "wait") => container::wait::start(call, name, shared),
        ("POST", _, name, "resize") => container::resize::start(call, name, shared),
        ("POST", _, name, "attach") => container::attach::start(call, name, shared),
        ("POST", _, name, "exec") => exec::create::start(call, name, shared),
        ("GET", _, _, "stats") => Err(Refusal::missing("stats")),
        ("GET", _, _, "changes") => Err(Refusal::missing("the list of changed files")),
        ("GET", _, _, "export") => Err(Refusal::missing("export")),
        ("GET" | "PUT", _, _, "archive") => Err(Refusal::missing("copying files in and out of a container")),
        ("POST", _, _, "update") => Err(Refusal::missing("update")),
        ("GET", _, _, "attach/ws") => Err(Refusal::missing("attaching by WebSocket")),
        ("POST" | "GET", _, _, "checkpoints") => Err(Refusal::missing("checkpoint")),
        _ => return Ok(None),
    }
    .map(Some)
}

fn execs(call: &Call<'_>, method: &str, rest: &str, shared: &mut Shared) -> Found {
    match (method, rest.split_once('/')) {
        ("POST", Some((id, "start"))) => exec::start::start(call, id, shared),
        ("POST", Some((id, "resize"))) => exec::resize::start(call, id, shared),
        ("GET", Some((id, "json"))) => exec::inspect::start(call, id, shared),
        _ => return Ok(None),
    }
    .map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_from_1_24_on_and_none_are_accepted() {
        assert_eq!(split_version("/v1.41/info"), Ok((Version { minor: 41 }, "/info")));
        assert_eq!(split_version("/v1.99/info"), Ok((Version { minor: 99 }, "/info")));
        assert_eq!(split_version("/info"), Ok((VERSION, "/info")));
        assert_eq!(split_version("/v1.23/info").map_err(|refusal| refusal.status), Err(400));
    }
}
