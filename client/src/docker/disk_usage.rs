//! How much of the disk images and containers use: `GET /system/df`. Docker Engine API, "SystemDataUsage".

use super::container_row::ContainerRow;
use super::image_row::ImageRow;
use serde::Serialize;
use serde_json::Value;

/// Disk usage by type. A type that the request did not ask for is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DiskUsage {
    /// Bytes of all images; content that images share counts once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_size: Option<u64>,
    /// The images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<ImageRow>>,
    /// The containers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub containers: Option<Vec<ContainerRow>>,
    /// The volumes. Sampan has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<Value>>,
    /// The build cache. Sampan has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_cache: Option<Vec<Value>>,
}
