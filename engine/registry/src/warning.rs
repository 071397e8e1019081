//! The `Warning` headers by which a registry speaks to people. OCI distribution-spec, "Warnings".
//!
//! `transport` passes each answer of a registry here. Each text is logged once in the life of the process, since
//! registries repeat it in each answer. Nothing else happens with it.

use ::http::{HeaderMap, header};
use sampan_os::mutex::lock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// Most texts of one registry that are logged.
const TEXTS_MAX: usize = 16;
/// Most registries whose texts are logged.
const HOSTS_MAX: usize = 256;
/// Longest text, in characters; the rest is cut off.
const TEXT_MAX: usize = 500;

static LOGGED: Mutex<Logged> = Mutex::new(Logged(BTreeMap::new()));

/// The texts that were logged, for each registry.
struct Logged(BTreeMap<String, BTreeSet<String>>);

impl Logged {
    /// Records `text` of `host`. Returns whether it is to be logged.
    fn is_new(&mut self, host: &str, text: &str) -> bool {
        if self.0.len() >= HOSTS_MAX && !self.0.contains_key(host) {
            return false;
        }
        let texts = self.0.entry(host.to_owned()).or_default();
        texts.len() < TEXTS_MAX && texts.insert(text.to_owned())
    }
}

/// Logs the warnings in `headers`, an answer of the registry `host`.
pub(crate) fn log(host: &str, headers: &HeaderMap) {
    for value in headers.get_all(header::WARNING) {
        let text = value.to_str().ok().and_then(text);
        if let Some(text) = text.filter(|text| lock(&LOGGED).is_new(host, text)) {
            log::warn!("registry {host} warns: {text}");
        }
    }
}

/// The text of a warning, which is `299 - "TEXT"`. Other codes are for caches.
fn text(value: &str) -> Option<String> {
    let quoted = value.trim().strip_prefix("299 - \"")?.strip_suffix('"')?;
    let mut text = String::new();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        text.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    let text: String = text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_a_quoted_text_with_code_299() {
        for (value, found) in [
            (r#"299 - "This repository moves""#, Some("This repository moves")),
            (r#" 299 - "a \"b\" \\ c" "#, Some(r#"a "b" \ c"#)),
            (r#"110 - "stale""#, None),
            (r#"299 proxy "x""#, None),
            ("299 - unquoted", None),
            (r#"299 - """#, None),
            (r#"299 - ""#, None),
            ("", None),
        ] {
            assert_eq!(text(value).as_deref(), found, "{value}");
        }
        assert_eq!(text(&format!("299 - \"{}\"", "x".repeat(9000))).map(|text| text.len()), Some(TEXT_MAX));
    }

    #[test]
    fn a_text_is_new_once_and_a_registry_has_few_texts() {
        let mut logged = Logged(BTreeMap::new());
        assert!(logged.is_new("a", "x") && logged.is_new("b", "x") && !logged.is_new("a", "x"));
        let new = (0..100).filter(|n| logged.is_new("a", &n.to_string())).count();
        assert_eq!(new, TEXTS_MAX - 1);
        let hosts = (0..1000).filter(|n| logged.is_new(&n.to_string(), "x")).count();
        assert_eq!(hosts, HOSTS_MAX - 2);
    }
}
