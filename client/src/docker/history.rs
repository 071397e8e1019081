//! A step in the history of an image: `GET /images/NAME/history`. Docker Engine API, "ImageHistory".

use super::image_row::repo_tags;
use sampan_ipc::details::Step;
use sampan_ipc::image::Image;
use serde::Serialize;

/// Nanoseconds in a second.
const SECOND: i64 = 1_000_000_000;
/// Docker's word for the ID of an image that is not in the store.
const MISSING: &str = "<missing>";

/// A step in which an image was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HistoryRow {
    /// The image's ID for the newest step, `<missing>` for the others.
    pub id: String,
    /// When the step was made, in seconds since the epoch; 0 if the image does not say.
    pub created: i64,
    /// The command of the step.
    pub created_by: String,
    /// The image's names for the newest step, otherwise none.
    pub tags: Option<Vec<String>>,
    /// Bytes on the disk of the layer that the step made.
    pub size: u64,
    /// The step's comment.
    pub comment: String,
}

/// Describes the steps in which `image` was built, the newest first.
pub fn history(image: &Image, steps: &[Step]) -> Vec<HistoryRow> {
    let tags = Some(repo_tags(&image.references)).filter(|tags| !tags.is_empty());
    let row = |(nth, step): (usize, &Step)| HistoryRow {
        id: if nth == 0 { image.id.clone() } else { MISSING.to_owned() },
        created: step.created.unwrap_or(0).div_euclid(SECOND),
        created_by: step.created_by.clone(),
        tags: tags.clone().filter(|_| nth == 0),
        size: step.size,
        comment: step.comment.clone(),
    };
    steps.iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_step_is_an_image_with_names() {
        let image = Image {
            id: "sha256:01".to_owned(),
            references: vec!["docker.io/library/a:1".to_owned()],
            ..Image::default()
        };
        let step = |created_by: &str| Step { created_by: created_by.to_owned(), size: 7, ..Step::default() };
        let rows = history(&image, &[step("CMD"), step("COPY")]);
        assert_eq!((rows[0].id.as_str(), rows[1].id.as_str()), ("sha256:01", "<missing>"));
        assert_eq!(rows[0].tags.as_deref(), Some(&["a:1".to_owned()][..]));
        assert_eq!(serde_json::to_value(&rows[1]).expect("JSON")["Tags"], serde_json::Value::Null);
        assert!(history(&Image::default(), &[step("x")])[0].tags.is_none());
    }
}
