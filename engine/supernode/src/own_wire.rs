//! The bodies of Sampan's own wire. docs/peers.md, "Wire 2".
//!
//! Pure. Used by the managers, which answer, and by the cluster's client, which asks.

use crate::reply::Reply;
use crate::v1::code;
use serde::{Deserialize, Serialize};

/// The route of registrations.
pub const TASKS: &str = "/sampan/v1/tasks";

/// A peer as it describes itself.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct PeerBody {
    /// The ID, which the peer has chosen, and uses for all its tasks.
    pub id: String,
    /// The address of the peer's upload server.
    pub ip: String,
    /// The port of the peer's upload server; 0 if it has none.
    pub port: u16,
    /// The zone of the peer's host; empty if it is not known.
    pub zone: String,
    /// The rack of the peer's host; empty if it is not known.
    pub rack: String,
}

/// The body of `POST /sampan/v1/tasks`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct TaskBody {
    /// The URL to fetch.
    pub url: String,
    /// The URL that identifies the file; empty if it is `url`.
    #[serde(rename = "taskurl")]
    pub task_url: String,
    /// The MD5 that the file must have.
    pub md5: String,
    /// What distinguishes files of one URL.
    pub identifier: String,
    /// Headers for the origin, each `NAME:VALUE`.
    pub headers: Vec<String>,
    /// Whether another supernode believes that this one is the owner of the task. Then this one asks the origin.
    #[serde(rename = "asowner")]
    pub as_owner: bool,
    /// The peer; absent if the caller is a supernode.
    pub peer: Option<PeerBody>,
    /// The pieces that the peer has.
    pub have: String,
}

/// A question of a peer: is there another version than the one that it knows?
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// The version that the peer knows.
    pub version: u64,
    /// The first piece whose digest the peer wants.
    pub from: u32,
    /// The peer's ID; empty for a supernode.
    pub peer: String,
}

#[derive(Deserialize)]
struct Refusal {
    code: u16,
    msg: String,
}

/// The answer to a registration by Sampan's own wire, whose HTTP status says why a caller is refused. The
/// managers refuse in Dragonfly's way: with status 200 and a code in the body.
pub fn with_status(reply: Reply) -> Reply {
    if reply.status != 200 {
        return reply;
    }
    let Ok(Refusal { code, msg }) = serde_json::from_slice(&reply.body) else { return reply };
    let status = match code {
        code::NEED_AUTH => 403,
        code::URL_NOT_REACHABLE => 404,
        code::TASK_CONFLICT => 409,
        code::WAIT_AUTH => 503,
        _ => 500,
    };
    Reply::error(status, &msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_its_status() {
        for (reply, status) in [
            (Reply::code(code::NEED_AUTH, "x"), 403),
            (Reply::code(code::URL_NOT_REACHABLE, "x"), 404),
            (Reply::code(code::WAIT_AUTH, "x"), 503),
            (Reply::error(400, "x"), 400),
            (Reply::ok(br#"{"task":"t","length":1}"#.to_vec()), 200),
        ] {
            assert_eq!(with_status(reply).status, status);
        }
    }
}
