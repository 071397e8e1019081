//! The columns of `system df`.

use sampan_ipc::image::Usage;
use serde::Serialize;

/// Names and headers of the columns.
pub const HEADERS: [(&str, &str); 5] = [
    ("Active", "ACTIVE"),
    ("Reclaimable", "RECLAIMABLE"),
    ("Size", "SIZE"),
    ("TotalCount", "TOTAL"),
    ("Type", "TYPE"),
];

/// A row of `system df`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct UsageColumns {
    /// Number of objects that something uses.
    pub active: String,
    /// Bytes that a prune would free, and their part of the size.
    pub reclaimable: String,
    /// Bytes on the disk.
    pub size: String,
    /// Number of objects.
    pub total_count: String,
    /// The kind of objects.
    #[serde(rename = "Type")]
    pub kind: String,
}

impl UsageColumns {
    /// Makes the columns of a kind of objects.
    pub fn new(usage: &Usage) -> Self {
        UsageColumns {
            active: usage.active.to_string(),
            reclaimable: format!("{} ({}%)", super::size(usage.reclaimable), percent(usage)),
            size: super::size(usage.size),
            total_count: usage.count.to_string(),
            kind: kind(&usage.kind).to_owned(),
        }
    }
}

/// Returns the part of the size that a prune would free, in percent.
pub fn percent(usage: &Usage) -> u64 {
    usage.reclaimable.saturating_mul(100).checked_div(usage.size).unwrap_or(0)
}

/// Returns the name of a kind of objects, in docker's words where docker has the kind.
pub fn kind(kind: &str) -> &str {
    match kind {
        "images" => "Images",
        "layers" => "Unpacked layers",
        "partials" => "Partial downloads",
        "containers" => "Containers",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_reclaimed_has_a_percentage() {
        let usage = Usage { kind: "images".to_owned(), count: 3, active: 1, size: 2000, reclaimable: 500 };
        let columns = UsageColumns::new(&usage);
        assert_eq!((columns.kind.as_str(), columns.reclaimable.as_str()), ("Images", "500B (25%)"));
        let empty = UsageColumns::new(&Usage::default());
        assert_eq!((empty.size.as_str(), empty.reclaimable.as_str()), ("0B", "0B (0%)"));
        let keys = serde_json::to_value(&columns).expect("JSON");
        assert!(HEADERS.iter().all(|(name, _)| keys.get(name).is_some()));
    }
}
