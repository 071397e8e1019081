//! The columns of `ps`.

use crate::docker::container_row::ContainerRow;
use serde::Serialize;

/// Most characters of a command that is cut.
const COMMAND: usize = 20;
/// Most characters of a mount's name that is cut.
const MOUNT: usize = 15;

/// Names and headers of the columns.
pub const HEADERS: [(&str, &str); 14] = [
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Labels", "LABELS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Mounts", "MOUNTS"),
    ("Names", "NAMES"),
    ("Networks", "NETWORKS"),
    ("Ports", "PORTS"),
    ("RunningFor", "CREATED"),
    ("Size", "SIZE"),
    ("State", "STATE"),
    ("Status", "STATUS"),
];

/// A row of `ps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerColumns {
    /// The command in quotes.
    pub command: String,
    /// When the container was created.
    pub created_at: String,
    /// The container's ID.
    #[serde(rename = "ID")]
    pub id: String,
    /// The image's name or ID.
    pub image: String,
    /// `KEY=VALUE,…`
    pub labels: String,
    /// Number of the container's local volumes.
    pub local_volumes: String,
    /// The sources of the container's mounts, joined by commas.
    pub mounts: String,
    /// The container's name.
    pub names: String,
    /// The container's networks, joined by commas.
    pub networks: String,
    /// The published ports.
    pub ports: String,
    /// How long ago the container was created.
    pub running_for: String,
    /// Bytes that the container wrote to its root file system.
    pub size: String,
    /// `running`, for example.
    pub state: String,
    /// `Up 2 minutes`, for example.
    pub status: String,
}

impl ContainerColumns {
    /// Makes the columns of a container. `now` is in nanoseconds since the epoch.
    pub fn new(row: &ContainerRow, is_whole: bool, now: i64) -> Self {
        let mounts = row.mounts.iter().filter(|mount| !mount.source.is_empty()).map(|mount| match is_whole {
            true => mount.source.clone(),
            false => super::cut(&mount.source, MOUNT),
        });
        let names = row.names.iter().map(|name| name.trim_start_matches('/'));
        let networks = row.network_settings.networks.keys().cloned();
        ContainerColumns {
            command: command(&row.command, is_whole),
            created_at: super::moment(row.created),
            id: super::id(&row.id, is_whole),
            image: image(&row.image, is_whole),
            labels: super::labels(row.labels.iter()),
            // Sampan has no volumes; a mount of the host is none.
            local_volumes: "0".to_owned(),
            mounts: mounts.collect::<Vec<_>>().join(","),
            names: names.collect::<Vec<_>>().join(","),
            networks: networks.collect::<Vec<_>>().join(","),
            ports: String::new(),
            running_for: super::ago(row.created, now),
            size: size(row.size_rw.unwrap_or(0), row.size_root_fs.unwrap_or(0)),
            state: row.state.clone(),
            status: row.status.clone(),
        }
    }
}

/// Shortens and quotes a command as docker does.
pub fn command(command: &str, is_whole: bool) -> String {
    let text = if is_whole { command.to_owned() } else { super::cut(command, COMMAND) };
    format!("\"{text}\"")
}

fn image(image: &str, is_whole: bool) -> String {
    match image {
        "" => "<no image>".to_owned(),
        image if is_whole => image.to_owned(),
        image if image.starts_with("sha256:") => super::id(image, false),
        // A name with tag and digest loses its digest.
        image => image.split_once('@').map_or(image, |(name, _)| name).to_owned(),
    }
}

fn size(written: u64, all: u64) -> String {
    match all {
        0 => super::size(written),
        all => format!("{} (virtual {})", super::size(written), super::size(all)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_ipc::container::{Phase, Summary};
    use sampan_ipc::details::ContainerDetail;

    #[test]
    fn columns_have_docker_s_words() {
        let summary = Summary {
            id: "0123456789abcdef".to_owned(),
            name: "web".to_owned(),
            command: "sh -c 'sleep 100000'".to_owned() + "xyz",
            phase: Phase::Exited,
            exit_code: 3,
            network: "none".to_owned(),
            labels: vec![("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())],
            ..Summary::default()
        };
        let detail = ContainerDetail { summary, requested: "bb:1".to_owned(), ..ContainerDetail::default() };
        let row = ContainerRow::new(&detail, 5_000_000_000);
        let columns = ContainerColumns::new(&row, false, 5_000_000_000);
        assert_eq!(columns.command, "\"sh -c 'sleep 100000…\"");
        assert_eq!((columns.id.as_str(), columns.names.as_str()), ("0123456789ab", "web"));
        assert_eq!((columns.labels.as_str(), columns.networks.as_str()), ("a=1,b=2", "none"));
        assert_eq!((columns.size.as_str(), columns.running_for.as_str()), ("0B", "5 seconds ago"));
        assert_eq!(columns.status, "Exited (3) 5 seconds ago");
        let keys = serde_json::to_value(&columns).expect("JSON");
        for (name, _) in HEADERS {
            assert!(keys.get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn an_image_without_a_name_shows_its_id() {
        assert_eq!(image("sha256:0123456789abcdef", false), "0123456789ab");
        assert_eq!(image("a:1@sha256:00", false), "a:1");
        assert_eq!(image("a:1@sha256:00", true), "a:1@sha256:00");
        assert_eq!(size(1500, 3_000_000), "1.5kB (virtual 3MB)");
    }

    #[test]
    fn a_long_command_is_cut_between_characters() {
        assert_eq!(command("sh -c ls", false), "\"sh -c ls\"");
        assert_eq!(
            command("\u{e4}\u{e4}\u{e4}456789012345678901", false),
            "\"\u{e4}\u{e4}\u{e4}4567890123456789…\""
        );
        assert_eq!(command("123456789012345678901", true), "\"123456789012345678901\"");
    }
}
