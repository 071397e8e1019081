//! The columns of `images`.

use super::NONE;
use crate::docker::image_row::ImageRow;
use sampan_ipc::details::ImageDetail;
use sampan_ipc::image_name::familiar;
use serde::Serialize;

/// Names and headers of the columns.
pub const HEADERS: [(&str, &str); 12] = [
    ("Containers", "CONTAINERS"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedSince", "CREATED"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("Platform", "PLATFORM"),
    ("Repository", "REPOSITORY"),
    ("SharedSize", "SHARED SIZE"),
    ("Size", "SIZE"),
    ("Tag", "TAG"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
];

/// A row of `images`: an image by one of its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageColumns {
    /// Number of containers of the image; `N/A` if the list does not count them.
    pub containers: String,
    /// When the image was built; `N/A` if the image does not say.
    pub created_at: String,
    /// How long ago the image was built; `N/A` if the image does not say.
    pub created_since: String,
    /// The digest by which the registry has the image.
    pub digest: String,
    /// Digest of the image's config.
    #[serde(rename = "ID")]
    pub id: String,
    /// `OS/ARCH`. docker has no such column.
    pub platform: String,
    /// The name without its tag, in familiar form.
    pub repository: String,
    /// Bytes that other images share; `N/A` if the list does not count them.
    pub shared_size: String,
    /// Bytes on the disk.
    pub size: String,
    /// The tag.
    pub tag: String,
    /// Bytes that no other image shares; `N/A` if the list does not count them.
    pub unique_size: String,
    /// Bytes on the disk, by docker's older name.
    pub virtual_size: String,
}

impl ImageColumns {
    /// Makes the rows of an image: one for each of its names, or one if the image has none. `now` is in nanoseconds
    /// since the epoch.
    pub fn rows(detail: &ImageDetail, is_whole: bool, now: i64) -> Vec<Self> {
        let row = ImageRow::new(detail);
        let nameless = [String::new()];
        let references = match detail.image.references.as_slice() {
            [] => &nameless[..],
            references => references,
        };
        references.iter().map(|reference| Self::new(detail, &row, reference, is_whole, now)).collect()
    }

    fn new(detail: &ImageDetail, row: &ImageRow, reference: &str, is_whole: bool, now: i64) -> Self {
        let (repository, tag) = repository_and_tag(familiar(reference));
        let when = |text: String| match detail.image.created {
            Some(_) => text,
            None => super::NOT_COUNTED.to_owned(),
        };
        let counted = |count: i64| u64::try_from(count).ok();
        let bytes = |count: Option<u64>| count.map_or_else(|| super::NOT_COUNTED.to_owned(), super::size);
        let shared = counted(row.shared_size);
        ImageColumns {
            containers: counted(row.containers)
                .map_or_else(|| super::NOT_COUNTED.to_owned(), |count| count.to_string()),
            created_at: when(super::moment(row.created)),
            created_since: when(super::ago(row.created, now)),
            digest: detail.index.clone().unwrap_or_else(|| detail.image.digest.clone()),
            id: super::id(&row.id, is_whole),
            platform: detail.image.platform.clone(),
            repository,
            shared_size: bytes(shared),
            size: super::size(row.size),
            tag,
            unique_size: bytes(shared.map(|shared| row.size.saturating_sub(shared))),
            virtual_size: super::size(row.size),
        }
    }
}

/// Splits a reference into the columns repository and tag. A reference with a digest shows no tag.
pub fn repository_and_tag(reference: &str) -> (String, String) {
    let none = || NONE.to_owned();
    let (name, has_digest) = reference.split_once('@').map_or((reference, false), |(name, _)| (name, true));
    match name.rsplit_once(':') {
        _ if name.is_empty() => (none(), none()),
        Some((repository, tag)) if !tag.contains('/') => {
            (repository.to_owned(), if has_digest { none() } else { tag.to_owned() })
        }
        _ => (name.to_owned(), none()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_ipc::image::Image;

    #[test]
    fn an_image_has_a_row_for_each_name() {
        let image = Image {
            references: vec!["docker.io/library/alpine:3".to_owned(), "host:5000/a@sha256:00".to_owned()],
            id: "sha256:0123456789abcdef".to_owned(),
            digest: "sha256:02".to_owned(),
            size: 7_800_000,
            created: Some(0),
            ..Image::default()
        };
        let detail = ImageDetail { image, ..ImageDetail::default() };
        let rows = ImageColumns::rows(&detail, false, 3_000_000_000);
        let names: Vec<_> = rows.iter().map(|row| format!("{} {}", row.repository, row.tag)).collect();
        assert_eq!(names, ["alpine 3", "host:5000/a <none>"]);
        assert_eq!((rows[0].size.as_str(), rows[0].created_since.as_str()), ("7.8MB", "3 seconds ago"));
        assert_eq!((rows[0].containers.as_str(), rows[0].unique_size.as_str()), ("N/A", "N/A"));
        let nameless = ImageColumns::rows(&ImageDetail::default(), true, 0);
        assert_eq!((nameless.len(), nameless[0].repository.as_str()), (1, "<none>"));
        assert_eq!(nameless[0].created_at, "N/A");
        let keys = serde_json::to_value(&rows[0]).expect("JSON");
        assert!(HEADERS.iter().all(|(name, _)| keys.get(name).is_some()));
    }

    #[test]
    fn a_reference_is_split_behind_its_port() {
        let split = |reference| {
            let (repository, tag) = repository_and_tag(reference);
            format!("{repository} {tag}")
        };
        assert_eq!(split("host:5000/a/b:1"), "host:5000/a/b 1");
        assert_eq!(split("host:5000/a/b"), "host:5000/a/b <none>");
        assert_eq!(split("docker.io/library/alpine@sha256:00"), "docker.io/library/alpine <none>");
        assert_eq!(split("host:5000/a/b:1@sha256:00"), "host:5000/a/b <none>");
        assert_eq!(split(""), "<none> <none>");
    }
}
