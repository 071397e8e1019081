//! Which images a list has: the filters of `GET /images/json`.
//!
//! Several values of `reference` are alternatives; several labels must all be there.

use crate::glob;
use crate::query::{Filters, Query};
use crate::refusal::Refusal;
use sampan_client::docker::familiar;
use sampan_client::engine::ImageDetail;
use sampan_client::time;

/// The filters of a list of images.
const KEYS: [&str; 6] = ["before", "dangling", "label", "reference", "since", "until"];

/// The filters of a list of images.
#[derive(Debug, Default)]
pub struct Selection {
    filters: Filters,
    dangling: Option<bool>,
    /// Only images that were built before this time, in nanoseconds since the epoch.
    until: Option<i64>,
}

impl Selection {
    /// Reads the filters.
    ///
    /// # Errors
    /// A filter is unknown, or its value is not valid.
    pub fn parse(query: &Query) -> Result<Self, Refusal> {
        let filters = query.filters_among(&KEYS)?;
        let dangling = filters.get("dangling").map(|values| boolean("dangling", values)).transpose()?;
        let now = time::now();
        let times = filters.get("until").into_iter().flatten();
        let until = times
            .map(|value| {
                time::parse(value, now)
                    .map_err(|error| Refusal::bad(format!("invalid filter 'until': {error}")))
            })
            .collect::<Result<Vec<i64>, Refusal>>()?
            .into_iter()
            .min();
        for pattern in filters.get("reference").into_iter().flatten() {
            glob::matches(pattern, "").ok_or_else(|| {
                Refusal::bad(format!("invalid filter 'reference={pattern}': malformed pattern"))
            })?;
        }
        Ok(Selection { filters, dangling, until })
    }

    /// Keeps the selected images, and of their names only those that the filter `reference` selects. The newest image
    /// comes first.
    ///
    /// # Errors
    /// The image of the filter `before` or `since` does not exist.
    pub fn apply(&self, all: &mut Vec<ImageDetail>) -> Result<(), Refusal> {
        let before = self.age(all, "before")?.into_iter().chain(self.until).min();
        let since = self.age(all, "since")?;
        let patterns = self.filters.get("reference");
        if let Some(patterns) = patterns {
            all.iter_mut().for_each(|one| one.image.references.retain(|name| is_meant(patterns, name)));
        }
        all.retain(|one| {
            let created = one.image.created.unwrap_or(0);
            before.is_none_or(|before| created < before)
                && since.is_none_or(|since| created > since)
                && self.dangling.is_none_or(|dangling| dangling == is_dangling(one))
                && (patterns.is_none() || !one.image.references.is_empty())
                && self.filters.get("label").into_iter().flatten().all(|label| has_label(&one.labels, label))
        });
        all.sort_by_key(|one| std::cmp::Reverse(one.image.created.unwrap_or(0)));
        Ok(())
    }

    /// When the image was built that a filter names.
    fn age(&self, all: &[ImageDetail], key: &str) -> Result<Option<i64>, Refusal> {
        let Some(name) = self.filters.get(key).and_then(|values| values.first()) else { return Ok(None) };
        let found = all.iter().find(|one| is_called(one, name));
        let found = found.ok_or_else(|| Refusal::not_found(format!("No such image: {name}")))?;
        Ok(Some(found.image.created.unwrap_or(0)))
    }
}

/// Reads a filter that is true or false.
///
/// # Errors
/// There is no such value, or there are two different ones.
pub fn boolean(key: &str, values: &[String]) -> Result<bool, Refusal> {
    let invalid = || Refusal::bad(format!("invalid filter '{key}={values:?}': expected true or false"));
    let read = |value: &String| match value.as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    };
    let first = values.first().and_then(read).ok_or_else(invalid)?;
    match values.iter().all(|value| read(value) == Some(first)) {
        true => Ok(first),
        false => Err(invalid()),
    }
}

/// Whether no tag names the image.
fn is_dangling(one: &ImageDetail) -> bool {
    one.image.references.iter().all(|name| name.contains('@'))
}

/// Whether `name` is one of the image's names, its ID, or the beginning of its ID.
fn is_called(one: &ImageDetail, name: &str) -> bool {
    let tagged = format!("{name}:latest");
    let is_name = one.image.references.iter().any(|full| {
        let short = familiar(full);
        [full.as_str(), short].iter().any(|own| *own == name || *own == tagged)
    });
    let digits = name.strip_prefix("sha256:").unwrap_or(name);
    let is_id =
        |id: &str| digits.len() >= 4 && id.strip_prefix("sha256:").is_some_and(|id| id.starts_with(digits));
    is_name || is_id(&one.image.id) || is_id(&one.image.digest)
}

/// Whether a pattern matches the name, in its familiar form, with or without its tag.
fn is_meant(patterns: &[String], full: &str) -> bool {
    let names = [familiar(full), sampan_client::docker::repository(full)];
    patterns.iter().any(|pattern| names.iter().any(|name| glob::matches(pattern, name) == Some(true)))
}

fn has_label(labels: &[(String, String)], wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.iter().any(|(k, v)| k == key && v == value),
        None => labels.iter().any(|(key, _)| key == wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_client::engine::Image;

    fn images() -> Vec<ImageDetail> {
        let image = |name: &str, id: &str, created| ImageDetail {
            image: Image {
                references: Some(name.to_owned()).filter(|name| !name.is_empty()).into_iter().collect(),
                id: format!("sha256:{id}"),
                created: Some(created),
                ..Image::default()
            },
            labels: vec![("a".to_owned(), id.to_owned())],
            ..ImageDetail::default()
        };
        vec![
            image("docker.io/library/alpine:latest", "aaaa", 10),
            image("localhost:5000/x/busybox:1", "bbbb", 20),
            image("", "cccc", 30),
        ]
    }

    fn ids(filters: &str) -> Vec<String> {
        let mut all = images();
        let query = Query::parse(&format!("filters={filters}"));
        Selection::parse(&query).expect("valid").apply(&mut all).expect("found");
        all.into_iter().map(|one| one.image.id.replace("sha256:", "")).collect()
    }

    #[test]
    fn each_filter_selects_as_docker_s_does() {
        for (filters, expected) in [
            ("", &["cccc", "bbbb", "aaaa"][..]),
            (r#"{"dangling":["true"]}"#, &["cccc"]),
            (r#"{"dangling":{"false":true}}"#, &["bbbb", "aaaa"]),
            (r#"{"reference":["alpine"]}"#, &["aaaa"]),
            (r#"{"reference":["alp*:*"]}"#, &["aaaa"]),
            (r#"{"reference":["*/x/*"]}"#, &["bbbb"]),
            (r#"{"reference":["docker.io/library/alpine"]}"#, &[]),
            (r#"{"label":["a"]}"#, &["cccc", "bbbb", "aaaa"]),
            (r#"{"label":["a=bbbb"]}"#, &["bbbb"]),
            (r#"{"before":["localhost:5000/x/busybox:1"]}"#, &["aaaa"]),
            (r#"{"since":["alpine"]}"#, &["cccc", "bbbb"]),
            (r#"{"before":["cccc"],"since":["aaaa"]}"#, &["bbbb"]),
        ] {
            assert_eq!(ids(filters), expected, "{filters}");
        }
    }

    #[test]
    fn filters_that_are_not_valid_are_refused() {
        for (filters, status) in [
            (r#"{"colour":["red"]}"#, 400),
            (r#"{"dangling":["perhaps"]}"#, 400),
            (r#"{"dangling":["true","false"]}"#, 400),
            (r#"{"reference":["["]}"#, 400),
            (r#"{"until":["x"]}"#, 400),
            (r#"{"before":["nothing"]}"#, 404),
        ] {
            let query = Query::parse(&format!("filters={filters}"));
            let refusal = Selection::parse(&query).and_then(|selection| selection.apply(&mut images()));
            assert_eq!(refusal.expect_err(filters).status, status, "{filters}");
        }
    }
}
