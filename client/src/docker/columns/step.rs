//! The columns of `history`.

use crate::docker::history::HistoryRow;
use serde::Serialize;

/// Most characters of a command that is cut.
const COMMAND: usize = 45;

/// Names and headers of the columns.
pub const HEADERS: [(&str, &str); 6] = [
    ("Comment", "COMMENT"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("CreatedSince", "CREATED"),
    ("ID", "IMAGE"),
    ("Size", "SIZE"),
];

/// A row of `history`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StepColumns {
    /// The step's comment.
    pub comment: String,
    /// When the step was made; `N/A` if the image does not say.
    pub created_at: String,
    /// The step's command.
    pub created_by: String,
    /// How long ago the step was made; `N/A` if the image does not say.
    pub created_since: String,
    /// The image's ID, or `<missing>`.
    #[serde(rename = "ID")]
    pub id: String,
    /// Bytes of the layer that the step made.
    pub size: String,
}

impl StepColumns {
    /// Makes the columns of a step. `is_whole` keeps ID and command in full; without `is_human`, sizes are bytes and
    /// times are dates. `now` is in nanoseconds since the epoch.
    pub fn new(row: &HistoryRow, is_whole: bool, is_human: bool, now: i64) -> Self {
        let when = |text: String| if row.created == 0 { super::NOT_COUNTED.to_owned() } else { text };
        let created_by = row.created_by.replace(['\t', '\n'], " ");
        let at = when(super::moment(row.created));
        StepColumns {
            comment: row.comment.clone(),
            created_since: if is_human { when(super::ago(row.created, now)) } else { at.clone() },
            created_at: at,
            created_by: if is_whole { created_by } else { super::cut(&created_by, COMMAND) },
            id: match row.id.starts_with("sha256:") {
                true => super::id(&row.id, is_whole),
                false => row.id.clone(),
            },
            size: if is_human { super::size(row.size) } else { row.size.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_shortened_unless_asked_otherwise() {
        let row = HistoryRow {
            id: "sha256:0123456789abcdef".to_owned(),
            created: 10,
            created_by: format!("RUN\t{}", "x".repeat(50)),
            tags: None,
            size: 1500,
            comment: String::new(),
        };
        let short = StepColumns::new(&row, false, true, 13_000_000_000);
        assert_eq!((short.id.as_str(), short.size.as_str()), ("0123456789ab", "1.5kB"));
        assert_eq!((short.created_by.chars().count(), short.created_since.as_str()), (45, "3 seconds ago"));
        let whole = StepColumns::new(&row, true, false, 13_000_000_000);
        assert_eq!((whole.id.as_str(), whole.size.as_str()), ("sha256:0123456789abcdef", "1500"));
        assert_eq!(whole.created_since, whole.created_at);
        let keys = serde_json::to_value(&short).expect("JSON");
        assert!(HEADERS.iter().all(|(name, _)| keys.get(name).is_some()));
    }
}
