//! Peers that are registered without a task, and peers that are removed. `/api/v1/peers`.
//!
//! Called by the routes of the control port and by `collect`. A client's peer is registered with its download, in
//! `register`.

use super::Managers;
use crate::peer::PeerRequest;
use crate::reply::Reply;
use serde::Deserialize;
use serde_json::json;
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

/// The body of `POST /api/v1/peers`. Keys are accepted in any case.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PeerBody {
    ip: String,
    #[serde(rename = "hostname")]
    host_name: String,
    port: u16,
    version: String,
}

impl Managers {
    /// Registers a peer without a task. `POST /api/v1/peers`.
    pub fn create_peer(&mut self, body: &PeerBody, remote: IpAddr, now: Instant, clock: SystemTime) -> Reply {
        let Ok(ip) = body.ip.parse::<IpAddr>() else {
            return Reply::error(400, "ip is no address");
        };
        if !self.addresses.is_allowed(ip, remote) {
            return Reply::error(403, "a peer registers the address that it connects from; see --allow-peer");
        }
        if body.host_name.len() > 255 || body.version.len() > 255 {
            return Reply::error(400, "hostName and version have at most 255 bytes");
        }
        let request = PeerRequest {
            ip,
            port: body.port,
            host_name: body.host_name.clone(),
            version: body.version.clone(),
        };
        match self.peers.register(request, clock, now) {
            Some(id) => {
                self.announce_peer("register", &id, &[]);
                Reply { status: 201, body: json!({ "ID": id }).to_string().into_bytes() }
            }
            None => Reply::error(503, "there are too many peers"),
        }
    }

    /// Removes a peer with all its downloads; returns false if there is no such peer. `DELETE /api/v1/peers/ID`.
    pub fn delete_peer(&mut self, id: &str, why: &str) -> bool {
        if self.peers.get(id).is_none() {
            return false;
        }
        self.announce_peer("deregister", id, &[("reason", why)]);
        self.remove_peer(id);
        true
    }

    /// Removes a peer with all its downloads, without an event.
    pub(super) fn remove_peer(&mut self, id: &str) {
        for (cid, task) in self.downloads.by_peer(id) {
            self.remove_download(&cid, &task);
        }
        self.peers.deregister(id);
    }
}
