//! A container in a list: `GET /containers/json`, and `ps` of the command line. Docker Engine API, "ContainerList".

use super::mount_point::MountPoint;
use sampan_ipc::details::ContainerDetail;
use sampan_ipc::image_name::familiar;
use serde::Serialize;
use std::collections::BTreeMap;

/// Nanoseconds in a second.
const SECOND: i64 = 1_000_000_000;

/// A container in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerRow {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The name, with a leading slash.
    pub names: Vec<String>,
    /// The image as the request named it, or its ID if the name stands for another image now.
    pub image: String,
    /// The image's ID.
    #[serde(rename = "ImageID")]
    pub image_id: String,
    /// The program and its arguments.
    pub command: String,
    /// When the container was created, in seconds since the epoch.
    pub created: i64,
    /// Published ports. Sampan publishes none.
    pub ports: Vec<Port>,
    /// Bytes that the container wrote to its root file system; only if the request asks for sizes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_rw: Option<u64>,
    /// Bytes of all files of the root file system; only if the request asks for sizes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_root_fs: Option<u64>,
    /// The container's labels.
    pub labels: BTreeMap<String, String>,
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`.
    pub state: String,
    /// The state for people: `Up 2 minutes`.
    pub status: String,
    /// The part of the container's settings that a list shows.
    pub host_config: RowSettings,
    /// The container's networks.
    pub network_settings: RowNetworks,
    /// The container's mounts.
    pub mounts: Vec<MountPoint>,
}

/// The part of a container's settings that a list shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RowSettings {
    /// `none` or `host`.
    pub network_mode: String,
    /// The container's annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A container's networks by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RowNetworks {
    /// The container's end in each network.
    pub networks: BTreeMap<String, Endpoint>,
}

/// A container's end in a network. The networks `none` and `host` have no addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "docker's names; all are empty for the networks that Sampan has")]
pub struct Endpoint {
    #[serde(rename = "IPAMConfig")]
    pub ipam_config: Option<String>,
    pub links: Option<Vec<String>>,
    pub aliases: Option<Vec<String>>,
    pub mac_address: String,
    pub driver_opts: Option<BTreeMap<String, String>>,
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    pub gateway: String,
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: u32,
    #[serde(rename = "IPv6Gateway")]
    pub ipv6_gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: u32,
    #[serde(rename = "DNSNames")]
    pub dns_names: Option<Vec<String>>,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Port {
    /// The port in the container.
    pub private_port: u16,
    /// `tcp`, `udp` or `sctp`.
    #[serde(rename = "Type")]
    pub protocol: String,
}

impl ContainerRow {
    /// Describes a container; `now` is in nanoseconds since the epoch.
    pub fn new(detail: &ContainerDetail, now: i64) -> Self {
        let summary = &detail.summary;
        let networks = BTreeMap::from([(summary.network.clone(), Endpoint::default())]);
        ContainerRow {
            id: summary.id.clone(),
            names: vec![format!("/{}", summary.name)],
            image: image(detail).to_owned(),
            image_id: summary.image_id.clone(),
            command: summary.command.clone(),
            created: summary.created.div_euclid(SECOND),
            ports: Vec::new(),
            size_rw: summary.size,
            size_root_fs: detail.root_size,
            labels: summary.labels.iter().cloned().collect(),
            state: summary.phase.word().to_owned(),
            status: super::status::container(summary, now),
            host_config: RowSettings {
                network_mode: summary.network.clone(),
                annotations: detail.annotations.iter().cloned().collect(),
            },
            network_settings: RowNetworks { networks },
            mounts: detail.mounts.iter().map(MountPoint::new).collect(),
        }
    }
}

/// The image's name in a list: as the request named the image, unless that name stands for another image now.
fn image(detail: &ContainerDetail) -> &str {
    match (detail.has_moved, detail.requested.as_str()) {
        (true, _) => &detail.summary.image_id,
        (false, "") => familiar(&detail.summary.image),
        (false, requested) => requested,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_ipc::container::{Phase, Summary};

    fn detail() -> ContainerDetail {
        let summary = Summary {
            id: "a".repeat(64),
            name: "web".to_owned(),
            image: "docker.io/library/alpine:latest".to_owned(),
            image_id: "sha256:01".to_owned(),
            created: 1_999_999_999,
            phase: Phase::Exited,
            network: "none".to_owned(),
            labels: vec![("a".to_owned(), "b".to_owned())],
            ..Summary::default()
        };
        ContainerDetail { summary, requested: "alpine".to_owned(), ..ContainerDetail::default() }
    }

    #[test]
    fn an_image_is_named_as_requested_or_by_its_id() {
        let name = |detail: &ContainerDetail| ContainerRow::new(detail, 0).image;
        assert_eq!(name(&detail()), "alpine");
        assert_eq!(name(&ContainerDetail { has_moved: true, ..detail() }), "sha256:01");
        assert_eq!(name(&ContainerDetail { requested: String::new(), ..detail() }), "alpine:latest");
    }

    #[test]
    fn a_row_has_docker_s_keys_and_sizes_only_on_request() {
        let row = serde_json::to_value(ContainerRow::new(&detail(), 0)).expect("JSON");
        assert_eq!(row["Names"][0], "/web");
        assert_eq!(row["Created"], 1);
        assert_eq!(row["State"], "exited");
        assert_eq!(row["HostConfig"], serde_json::json!({"NetworkMode": "none"}));
        assert_eq!(row["NetworkSettings"]["Networks"]["none"]["IPPrefixLen"], 0);
        assert_eq!(row["Labels"]["a"], "b");
        assert!(row["Ports"].as_array().is_some_and(Vec::is_empty));
        assert!(row.get("SizeRw").is_none() && row.get("SizeRootFs").is_none());
        let mut sized = detail();
        (sized.summary.size, sized.root_size) = (Some(3), Some(5));
        let row = serde_json::to_value(ContainerRow::new(&sized, 0)).expect("JSON");
        assert_eq!((&row["SizeRw"], &row["SizeRootFs"]), (&3.into(), &5.into()));
    }
}
