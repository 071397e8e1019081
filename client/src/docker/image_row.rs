//! An image in a list: `GET /images/json`, and `images` of the command line. Docker Engine API, "ImageList".

use sampan_ipc::details::ImageDetail;
use sampan_ipc::image_name::{familiar, repository};
use serde::Serialize;
use std::collections::BTreeMap;

/// Nanoseconds in a second.
const SECOND: i64 = 1_000_000_000;
/// Docker's number for a value that the request did not ask for.
const NOT_COUNTED: i64 = -1;

/// An image in a list. bollard refuses a list if one of these keys is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageRow {
    /// Digest of the image's config.
    pub id: String,
    /// The image that this one was built on; always empty, since no image in the store was built there.
    pub parent_id: String,
    /// Familiar names with a tag.
    pub repo_tags: Vec<String>,
    /// Familiar names with the digest by which their registry has the image.
    pub repo_digests: Vec<String>,
    /// When the image was built, in seconds since the epoch; 0 if the image does not say.
    pub created: i64,
    /// Bytes on the disk, including content that other images share.
    pub size: u64,
    /// The size once more, for clients of old versions of the API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<u64>,
    /// The part of `size` that other images share; -1 if the request did not ask for it.
    pub shared_size: i64,
    /// The image's labels.
    pub labels: BTreeMap<String, String>,
    /// Number of containers of the image; -1 if the request did not ask for it.
    pub containers: i64,
}

impl ImageRow {
    /// Describes an image without the values that are only counted on request.
    pub fn new(detail: &ImageDetail) -> Self {
        let image = &detail.image;
        ImageRow {
            id: image.id.clone(),
            parent_id: String::new(),
            repo_tags: repo_tags(&image.references),
            repo_digests: repo_digests(detail),
            created: image.created.unwrap_or(0).div_euclid(SECOND),
            size: image.size,
            virtual_size: None,
            shared_size: NOT_COUNTED,
            labels: detail.labels.iter().cloned().collect(),
            containers: NOT_COUNTED,
        }
    }

    /// Describes an image of which `unique` bytes belong to no other image.
    pub fn with_usage(detail: &ImageDetail, size: u64, unique: u64) -> Self {
        let shared = size.saturating_sub(unique);
        ImageRow {
            size,
            shared_size: i64::try_from(shared).unwrap_or(i64::MAX),
            containers: i64::from(detail.containers),
            ..ImageRow::new(detail)
        }
    }
}

/// The familiar form of the references that have a tag and no digest.
pub fn repo_tags(references: &[String]) -> Vec<String> {
    let tags = references.iter().filter(|reference| !reference.contains('@'));
    tags.map(|reference| familiar(reference).to_owned()).collect()
}

/// The image's repositories, each with the digest by which the registry has the image: that of the index if the image
/// was chosen from one, otherwise that of the manifest.
pub fn repo_digests(detail: &ImageDetail) -> Vec<String> {
    let digest = detail.index.as_deref().unwrap_or(&detail.image.digest);
    let mut names: Vec<String> =
        detail.image.references.iter().map(|name| format!("{}@{digest}", repository(name))).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_ipc::image::Image;

    fn detail() -> ImageDetail {
        let image = Image {
            references: vec![
                "docker.io/library/alpine:3".to_owned(),
                "docker.io/library/alpine:latest".to_owned(),
                "localhost:5000/a@sha256:03".to_owned(),
            ],
            digest: "sha256:02".to_owned(),
            id: "sha256:01".to_owned(),
            size: 10,
            created: Some(1_999_999_999),
            ..Image::default()
        };
        ImageDetail { image, containers: 2, ..ImageDetail::default() }
    }

    #[test]
    fn names_are_familiar_and_digests_are_the_registry_s() {
        let row = ImageRow::new(&detail());
        assert_eq!(row.repo_tags, ["alpine:3", "alpine:latest"]);
        assert_eq!(row.repo_digests, ["alpine@sha256:02", "localhost:5000/a@sha256:02"]);
        let index = ImageDetail { index: Some("sha256:04".to_owned()), ..detail() };
        assert_eq!(ImageRow::new(&index).repo_digests[0], "alpine@sha256:04");
    }

    #[test]
    fn a_row_has_all_keys_and_counts_only_on_request() {
        let row = serde_json::to_value(ImageRow::new(&detail())).expect("JSON");
        for key in ["Id", "ParentId", "RepoTags", "RepoDigests", "Created", "Size", "SharedSize", "Labels"] {
            assert!(row.get(key).is_some(), "{key}");
        }
        assert_eq!(
            (&row["SharedSize"], &row["Containers"], &row["Created"]),
            (&(-1).into(), &(-1).into(), &1.into())
        );
        let counted = ImageRow::with_usage(&detail(), 10, 4);
        assert_eq!((counted.shared_size, counted.containers, counted.size), (6, 2, 10));
    }
}
