//! Filters: which repositories, tags and artifacts a policy copies. Pure: the caller gives what registries told.
//!
//! Used by `file` and by executions. All keys that are given must match; an empty list matches everything.

use crate::policy::glob::Glob;
use sampan_oci::platform::Platform;
use semver::{Version, VersionReq};
use std::cmp::Reverse;
use std::fmt;

/// The `[filter]` of a policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Globs over repositories, one of which must match.
    pub name: Vec<Glob>,
    /// Globs over repositories, none of which may match.
    pub exclude_name: Vec<Glob>,
    /// Globs over tags, one of which must match.
    pub tag: Vec<Glob>,
    /// Globs over tags, none of which may match.
    pub exclude_tag: Vec<Glob>,
    /// The versions that a tag must be one of.
    pub semver: Option<VersionRange>,
    /// The platforms, one of which must match.
    pub platform: Vec<Platform>,
    /// The labels, all of which an image must have.
    pub label: Vec<Label>,
    /// Globs over media types, one of which must match.
    pub media_type: Vec<Glob>,
    /// How many tags of each repository are copied.
    pub newest: Option<usize>,
}

/// A label that an image must have, with this value if there is one; written `KEY` or `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The key.
    pub key: String,
    /// The value; `None` allows each value.
    pub value: Option<String>,
}

/// A range of semantic versions in Cargo's notation, such as `>=1.2, <2`; `||` separates alternatives.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionRange {
    text: String,
    alternatives: Vec<VersionReq>,
}

/// The error for text that is not a range of versions.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a range of versions ({source})")]
pub struct RangeError {
    /// The text, cut to 100 characters.
    pub text: String,
    /// The rule that the text breaks.
    pub source: semver::Error,
}

impl Filter {
    /// Whether a repository is copied, as far as its name tells.
    pub fn has_name(&self, repository: &str) -> bool {
        is_selected(&self.name, &self.exclude_name, repository)
    }

    /// Whether a tag is copied, as far as its text tells; [`Filter::newest`] selects among those that are.
    pub fn has_tag(&self, tag: &str) -> bool {
        is_selected(&self.tag, &self.exclude_tag, tag)
            && self
                .semver
                .as_ref()
                .is_none_or(|range| version(tag).is_some_and(|version| range.has(&version)))
    }

    /// Whether an image with these labels is copied; `value` returns the value of a label.
    pub fn has_labels<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.label.iter().all(|label| {
            value(&label.key).is_some_and(|value| label.value.as_deref().is_none_or(|own| own == value))
        })
    }

    /// Whether an artifact is copied that has this media type of its manifest and this type of artifact.
    pub fn has_media_type(&self, media_type: &str, artifact_type: Option<&str>) -> bool {
        let fits =
            |glob: &Glob| glob.is_match(media_type) || artifact_type.is_some_and(|kind| glob.is_match(kind));
        self.media_type.is_empty() || self.media_type.iter().any(fits)
    }

    /// Whether an image for `image` is copied. A filter without a variant allows each variant; arm64 alone means v8.
    pub fn has_platform(&self, image: &Platform) -> bool {
        let fits = |own: &Platform| {
            let implied = (image.architecture == "arm64").then_some("v8");
            own.os == image.os
                && own.architecture == image.architecture
                && (own.variant.is_none() || own.variant.as_deref() == image.variant.as_deref().or(implied))
        };
        self.platform.is_empty() || self.platform.iter().any(fits)
    }

    /// Whether [`Filter::newest`] needs the times at which these tags' images were created.
    pub fn is_newest_by_time(&self, tags: &[&str]) -> bool {
        self.newest.is_some_and(|count| tags.len() > count) && tags.iter().any(|tag| version(tag).is_none())
    }

    /// Returns the newest of the tags that [`Filter::has_tag`] allows, the newest first; without a count, all as they are.
    ///
    /// If all tags are versions, the highest is the newest. Otherwise the image that was created last is, where `created`
    /// returns the time in any unit; a tag without a time is older than each with one. Equal tags are in order of their
    /// text, so two runs select the same ones.
    pub fn newest<'a, T: Ord>(&self, tags: &[&'a str], created: impl Fn(&str) -> Option<T>) -> Vec<&'a str> {
        let mut tags = tags.to_vec();
        let Some(count) = self.newest.filter(|count| tags.len() > *count) else {
            return tags;
        };
        if self.is_newest_by_time(&tags) {
            tags.sort_by_cached_key(|tag| (Reverse(created(tag)), *tag));
        } else {
            tags.sort_by_cached_key(|tag| (Reverse(version(tag)), *tag));
        }
        tags.truncate(count);
        tags
    }
}

impl Label {
    /// Parses `KEY` or `KEY=VALUE`; `None` if the key is empty.
    pub fn parse(text: &str) -> Option<Self> {
        let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)));
        (!key.is_empty()).then(|| Label { key: key.to_owned(), value: value.map(str::to_owned) })
    }
}

impl VersionRange {
    /// Parses a range in Cargo's notation: `^1.2` (also written `1.2`), `~1.2`, `>=1.2, <2`, `1.*`, `=1.2.3`.
    ///
    /// A pre-release matches only a range that names a pre-release of the same version.
    ///
    /// # Errors
    /// [`RangeError`] if an alternative is not a range.
    pub fn parse(text: &str) -> Result<Self, RangeError> {
        let alternatives =
            text.split("||").map(|part| VersionReq::parse(part.trim())).collect::<Result<_, _>>();
        let alternatives =
            alternatives.map_err(|source| RangeError { text: text.chars().take(100).collect(), source })?;
        Ok(VersionRange { text: text.to_owned(), alternatives })
    }

    fn has(&self, version: &Version) -> bool {
        self.alternatives.iter().any(|range| range.matches(version))
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Returns the version that a tag names: with or without a `v`, with one to three numbers, which may begin with zeros.
///
/// Missing numbers are 0. An `_` before build metadata stands for the `+` that a tag cannot have, as in Helm.
fn version(tag: &str) -> Option<Version> {
    let text = tag.strip_prefix(['v', 'V']).unwrap_or(tag).replacen('_', "+", 1);
    let (numbers, rest) = text.split_at(text.find(['-', '+']).unwrap_or(text.len()));
    let numbers: Vec<u64> = numbers.split('.').map(number).collect::<Option<_>>()?;
    let (major, minor, patch) = match *numbers.as_slice() {
        [major] => (major, 0, 0),
        [major, minor] => (major, minor, 0),
        [major, minor, patch] => (major, minor, patch),
        _ => return None,
    };
    Version::parse(&format!("{major}.{minor}.{patch}{rest}")).ok()
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn is_selected(globs: &[Glob], excluded: &[Glob], text: &str) -> bool {
    (globs.is_empty() || globs.iter().any(|glob| glob.is_match(text)))
        && !excluded.iter().any(|glob| glob.is_match(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(patterns: &[&str]) -> Vec<Glob> {
        patterns.iter().map(|pattern| Glob::parse(pattern).expect("valid")).collect()
    }

    #[test]
    fn an_exclusion_wins_and_an_empty_filter_selects_all() {
        let all = Filter::default();
        assert!(all.has_name("any/thing") && all.has_tag("x") && all.has_labels(|_| None));
        assert!(all.has_media_type("x/y", None) && all.has_platform(&Platform::default()));
        let filter = Filter {
            name: globs(&["team/**", "web"]),
            exclude_name: globs(&["**/test-*"]),
            tag: globs(&["{v,}1*"]),
            exclude_tag: globs(&["*-rc*"]),
            media_type: globs(&["application/vnd.oci.image.*", "application/vnd.example.*"]),
            ..Filter::default()
        };
        assert!(filter.has_name("team/a") && filter.has_name("web"));
        assert!(!filter.has_name("team/a/test-b") && !filter.has_name("other"));
        assert!(
            filter.has_tag("v1.2")
                && filter.has_tag("1.2")
                && !filter.has_tag("1.2-rc1")
                && !filter.has_tag("2")
        );
        assert!(filter.has_media_type("application/vnd.oci.image.index.v1+json", None));
        assert!(filter.has_media_type("a/b", Some("application/vnd.example.sbom")));
        assert!(!filter.has_media_type("a/b", Some("c/d")));
    }

    #[test]
    fn tags_with_and_without_a_v_are_compared_as_versions() {
        let table = [
            (">=1.2, <2", "v1.2.0", true),
            (">=1.2, <2", "1.10", true),
            (">=1.2, <2", "V1", false),
            (">=1.2, <2", "2.0.0", false),
            ("1.2", "1.9.0", true),
            ("~1.2", "1.3.0", false),
            ("=1.2.3", "1.2.3_build5", true),
            ("1.*", "1.2.3-alpine", false),
            (">=1.2.3-a", "1.2.3-alpine", true),
            ("^1 || ^3", "v3.1.4", true),
            ("^1 || ^3", "v2.0", false),
            ("*", "latest", false),
            ("*", "vv1", false),
            ("*", "1..2", false),
            ("*", "1.2.3.4", false),
            ("*", "+1", false),
            ("*", "99999999999999999999", false),
            (">=22.4", "22.04", true),
        ];
        for (range, tag, expected) in table {
            let semver = Some(VersionRange::parse(range).expect("valid"));
            assert_eq!(Filter { semver, ..Filter::default() }.has_tag(tag), expected, "{range} {tag}");
        }
        for range in ["", "latest", ">=1 <2", "1 ||", "v1.2"] {
            assert!(VersionRange::parse(range).is_err(), "{range}");
        }
    }

    #[test]
    fn the_newest_tags_are_the_highest_versions_or_the_youngest_images() {
        let filter = Filter { newest: Some(2), ..Filter::default() };
        let never = |_: &str| -> Option<i64> { panic!("not needed") };
        assert_eq!(filter.newest(&["v1.9", "1.10.0", "1.2", "1.10.0-rc1"], never), ["1.10.0", "1.10.0-rc1"]);
        assert_eq!(filter.newest(&["b", "a"], never), ["b", "a"]);
        assert!(
            filter.is_newest_by_time(&["1.0", "latest", "2.0"]) && !filter.is_newest_by_time(&["a", "b"])
        );
        let created = |tag: &str| {
            [("old", 1), ("new", 9), ("mid", 5)].iter().find(|(t, _)| *t == tag).map(|(_, at)| *at)
        };
        assert_eq!(filter.newest(&["none", "old", "mid", "new"], created), ["new", "mid"]);
        assert_eq!(filter.newest(&["z", "x", "y"], created), ["x", "y"]);
        assert_eq!(Filter::default().newest(&["b", "a"], never), ["b", "a"]);
    }

    #[test]
    fn labels_and_platforms_must_fit() {
        let label = ["stage=prod", "team"].map(|text| Label::parse(text).expect("valid")).to_vec();
        let platform =
            ["linux/arm", "linux/arm64/v8", "linux/amd64"].map(|p| Platform::parse(p).expect("valid"));
        let filter = Filter { label, platform: platform.to_vec(), ..Filter::default() };
        let has = |labels: &[(&'static str, &'static str)]| {
            filter.has_labels(|key| labels.iter().find(|(own, _)| *own == key).map(|(_, value)| *value))
        };
        assert!(has(&[("stage", "prod"), ("team", "")]) && !has(&[("stage", "prod")]));
        assert!(!has(&[("stage", "test"), ("team", "a")]) && Label::parse("=x").is_none());
        for (text, expected) in [
            ("linux/arm/v7", true),
            ("linux/arm64", true),
            ("linux/amd64/v3", true),
            ("linux/s390x", false),
            ("windows/amd64", false),
        ] {
            assert_eq!(filter.has_platform(&Platform::parse(text).expect("valid")), expected, "{text}");
        }
    }
}
