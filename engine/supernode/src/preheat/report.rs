//! What `GET /preheats` and `GET /preheats/ID` answer.
//!
//! Pure types; made by `manager`. The names and types of the fields are Dragonfly's. Headers are never shown.

use sampan_oci::timestamp;
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

/// One preheat, as `GET /preheats/ID` answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PreheatInfo {
    /// The ID.
    #[serde(rename = "ID")]
    pub id: String,
    /// When the preheat began, in RFC 3339 with milliseconds.
    pub start_time: String,
    /// When the preheat ended. As in Dragonfly, 1970 means that it has not ended.
    pub finish_time: String,
    /// `WAITING`, `RUNNING`, `SUCCESS` or `FAILED`.
    pub status: &'static str,
    /// Why the preheat failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error_msg: String,
}

/// One preheat, as `GET /preheats` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PreheatTask {
    /// The ID.
    #[serde(rename = "ID")]
    pub id: String,
    /// The URL, without user, password and query.
    #[serde(rename = "URL")]
    pub url: String,
    /// `file` or `image`.
    pub r#type: &'static str,
    /// The parameters that do not distinguish files.
    pub filter: String,
    /// What distinguishes files of one URL.
    pub identifier: String,
    /// Always null: headers may contain a credential.
    pub headers: Option<()>,
    /// The preheat of the image that this blob belongs to; empty if an operator asked for the file.
    #[serde(rename = "ParentID")]
    pub parent_id: String,
    /// The preheats of the image's blobs.
    pub children: Vec<String>,
    /// `WAITING`, `RUNNING`, `SUCCESS` or `FAILED`.
    pub status: &'static str,
    /// When the preheat began, in milliseconds since the epoch.
    pub start_time: i64,
    /// When the preheat ended, in milliseconds since the epoch; 0 if it has not ended.
    pub finish_time: i64,
    /// Why the preheat failed.
    pub error_msg: String,
}

/// Milliseconds since the epoch; 0 for `None` and for times before it.
pub(super) fn millis(time: Option<SystemTime>) -> i64 {
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// RFC 3339 in UTC with milliseconds, as Dragonfly writes times.
pub(super) fn rfc3339(millis: i64) -> String {
    let text = timestamp::format(millis.saturating_mul(1_000_000));
    // Nine digits after the point, of which the last six are zeros, and `Z`.
    text.get(..text.len().saturating_sub(7)).map_or_else(String::new, |start| format!("{start}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_those_of_dragonfly() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_600_000_000_007), "2020-09-13T12:26:40.007Z");
        assert_eq!(millis(None), 0);
        assert_eq!(millis(Some(UNIX_EPOCH + Duration::from_micros(5_999))), 5);
        assert_eq!(millis(Some(UNIX_EPOCH - Duration::from_secs(1))), 0);
    }
}
