//! Reads and parses one file in the format of containers-registries.conf(5), version 2, and checks each value.
//!
//! Called by `registries_conf`. Errors name the file and the line.

use crate::config::error::RegistriesError;
use crate::config::table::{Location, Mirror, Pulls, Table};
use sampan_oci::reference::{self, Reference};
use sampan_os::small_file;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// Largest file in bytes.
const FILE_MAX: u64 = 4 << 20;
/// Most files in a drop-in directory.
const FILES_MAX: usize = 1024;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct File {
    pub(crate) unqualified_search_registries: Option<Vec<Spanned<String>>>,
    pub(crate) credential_helpers: Option<Vec<String>>,
    pub(crate) short_name_mode: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) registry: Vec<Spanned<RawRegistry>>,
    #[serde(default)]
    pub(crate) aliases: BTreeMap<String, Spanned<String>>,
    /// The table of version 1 of the format, which is refused.
    pub(crate) registries: Option<Spanned<toml::Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct RawRegistry {
    prefix: Option<Spanned<String>>,
    location: Option<Spanned<String>>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Spanned<RawMirror>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawMirror {
    location: Spanned<String>,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<Spanned<String>>,
}

impl RawRegistry {
    pub(crate) fn check(self, text: &str, path: &Path) -> Result<Table, RegistriesError> {
        let wrong = |span: Range<usize>, why: String| parse_error(path, text, span, why);
        let non_empty = |value: Option<Spanned<String>>| value.filter(|value| !value.get_ref().is_empty());
        let (prefix, location) = (non_empty(self.prefix), non_empty(self.location));
        let Some(key) = prefix.as_ref().or(location.as_ref()) else {
            let span = prefix.or(location).map_or(0..0, |value| value.span());
            return Err(wrong(span, "a [[registry]] has neither prefix nor location".to_owned()));
        };
        let span = key.span();
        let prefix = check_prefix(key.get_ref()).map_err(|why| wrong(span.clone(), why))?;
        let location = match location {
            Some(location) if location.get_ref() != key.get_ref() => {
                Some(check_location(location.get_ref()).map_err(|why| wrong(location.span(), why))?)
            }
            _ => None,
        };
        let mut mirrors = Vec::new();
        for mirror in self.mirror {
            mirrors.push(mirror.into_inner().check(self.mirror_by_digest_only, text, path)?);
        }
        let (insecure, blocked) = (self.insecure, self.blocked);
        Ok(Table {
            prefix,
            location,
            insecure,
            blocked,
            mirrors,
            path: path.to_owned(),
            line: line(text, &span),
        })
    }
}

impl RawMirror {
    fn check(self, by_digest_only: bool, text: &str, path: &Path) -> Result<Mirror, RegistriesError> {
        let location = check_location(self.location.get_ref())
            .map_err(|why| parse_error(path, text, self.location.span(), why))?;
        let value = self.pull_from_mirror.filter(|value| !value.get_ref().is_empty());
        if let Some(value) = value.as_ref().filter(|_| by_digest_only) {
            let why = "pull-from-mirror and the registry's mirror-by-digest-only exclude each other";
            return Err(parse_error(path, text, value.span(), why));
        }
        let pulls = match value.as_ref().map(|value| value.get_ref().as_str()) {
            None if by_digest_only => Pulls::DigestOnly,
            None | Some("all") => Pulls::All,
            Some("digest-only") => Pulls::DigestOnly,
            Some("tag-only") => Pulls::TagOnly,
            Some(other) => {
                let why = format!("pull-from-mirror {other:?} is none of all, digest-only and tag-only");
                return Err(parse_error(path, text, value.as_ref().map_or(0..0, Spanned::span), why));
            }
        };
        Ok(Mirror { location, insecure: self.insecure, pulls, line: line(text, &self.location.span()) })
    }
}

/// Checks a prefix, `host[:port][/namespace...][:tag]` or `*.host`, and returns it without trailing slashes.
fn check_prefix(text: &str) -> Result<String, String> {
    let prefix = text.trim_end_matches('/');
    if prefix.starts_with("unix://") {
        return Err(format!("location {text:?} is a socket: a prefix has to say for which names it is"));
    }
    if let Some(domain) = prefix.strip_prefix("*.") {
        return match Reference::parse(&format!("{domain}/x")) {
            Ok(_) if !domain.contains([':', '/', '@', '*']) => Ok(prefix.to_owned()),
            _ => Err(format!("prefix {text:?} is not \"*.\" and the name of a host")),
        };
    }
    check_name_prefix(prefix, text)?;
    Ok(prefix.to_owned())
}

fn check_location(text: &str) -> Result<Location, String> {
    if let Some(rest) = text.strip_prefix("unix://") {
        let (path, namespace) = rest.split_once(':').unwrap_or((rest, ""));
        let namespace = namespace.trim_matches('/');
        if !path.starts_with('/') || path.contains('\0') {
            return Err(format!("location {text:?} is not unix:// and a path from the root"));
        }
        if !namespace.is_empty() {
            check_name_prefix(&format!("localhost/{namespace}"), text)?;
        }
        return Ok(Location::Socket(PathBuf::from(path), namespace.to_owned()));
    }
    let location = text.trim_end_matches('/');
    check_name_prefix(location, text)?;
    Ok(Location::Host(location.to_owned()))
}

/// Checks that `prefix` is a host, or a host and the beginning of a name. Errors quote `text`.
fn check_name_prefix(prefix: &str, text: &str) -> Result<(), String> {
    if prefix.contains("://") {
        return Err(format!("{text:?} has a scheme; remove it, and set insecure = true to allow HTTP"));
    }
    // Only a host with a name is a reference, so a bare host is checked with a made-up name. A bare host needs no dot.
    let whole = if prefix.contains('/') { prefix.to_owned() } else { format!("{prefix}/x") };
    match Reference::parse(&whole) {
        Ok(reference) if whole.starts_with(reference.host()) || reference.host() == "docker.io" => {
            match reference::is_short(&whole) {
                true => {
                    Err(format!("{text:?} begins with no host: a host has a dot or a port, or is localhost"))
                }
                false => Ok(()),
            }
        }
        Ok(_) => Err(format!("{text:?} begins with no host")),
        Err(error) => Err(error.to_string()),
    }
}

pub(crate) fn check_search(host: &str) -> Result<(), String> {
    match host.contains('/') {
        true => Err(format!("unqualified-search-registries has {host:?}, which is no host[:port]")),
        false => check_name_prefix(host, host),
    }
}

pub(crate) fn check_alias(name: &str, value: &str) -> Result<(), String> {
    let is_untagged = |text: &str| !text.split('/').next_back().unwrap_or(text).contains([':', '@']);
    if Reference::parse(name).is_err() || !reference::is_short(name) || !is_untagged(name) {
        return Err(format!("alias {name:?} is no short name without tag and digest"));
    }
    let is_full =
        |text: &str| Reference::parse(text).is_ok() && !reference::is_short(text) && is_untagged(text);
    match value.is_empty() || is_full(value) {
        true => Ok(()),
        false => Err(format!("alias {name:?} = {value:?} is no full name without tag and digest")),
    }
}

pub(crate) fn read(path: &Path) -> io::Result<String> {
    // Refuse a FIFO, on which open(2) would block a thread that serves other requests. A device such as /dev/null is
    // allowed.
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_fifo() || kind.is_dir() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let bytes = small_file::read(std::fs::File::open(path)?, FILE_MAX)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::Error::other(format!("it has more than {} MiB", FILE_MAX >> 20)));
    }
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The directory of drop-in files that belongs to the file `main`. containers-registries.conf.d(5).
pub(crate) fn drop_in_directory(main: &Path) -> PathBuf {
    let mut dir = main.as_os_str().to_owned();
    dir.push(".d");
    PathBuf::from(dir)
}

/// The drop-in files of `main`, in the order in which they are read.
pub(crate) fn drop_ins(main: &Path) -> Result<Vec<PathBuf>, RegistriesError> {
    let dir = drop_in_directory(main);
    let cannot = |source| RegistriesError::Read { path: dir.clone(), source };
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other.map_err(cannot)?,
    };
    let mut files = BTreeSet::new();
    for entry in entries {
        let path = entry.map_err(cannot)?.path();
        if path.extension().is_some_and(|extension| extension == "conf") && path.is_file() {
            files.insert(path);
        }
        if files.len() > FILES_MAX {
            return Err(cannot(io::Error::other(format!("it has more than {FILES_MAX} files"))));
        }
    }
    Ok(files.into_iter().collect())
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> Result<T, RegistriesError> {
    toml::from_str(text)
        .map_err(|error| parse_error(path, text, error.span().unwrap_or(0..0), error.message()))
}

/// Logs unknown keys instead of failing: a person must notice a misspelt key, but a key of a newer version of the
/// format must not make all pulls fail.
pub(crate) fn warn_of_unknown_keys(text: &str, path: &Path) {
    const TOP: [&str; 7] = [
        "unqualified-search-registries",
        "credential-helpers",
        "short-name-mode",
        "registry",
        "aliases",
        "registries",
        "additional-layer-store-auth-helper",
    ];
    const REGISTRY: [&str; 6] =
        ["prefix", "location", "insecure", "blocked", "mirror-by-digest-only", "mirror"];
    const MIRROR: [&str; 3] = ["location", "insecure", "pull-from-mirror"];
    fn tables<'a>(table: &'a toml::Table, key: &str) -> impl Iterator<Item = &'a toml::Table> {
        table.get(key).and_then(toml::Value::as_array).into_iter().flatten().filter_map(toml::Value::as_table)
    }
    let Ok(top) = text.parse::<toml::Table>() else {
        return;
    };
    let warn = |table: &toml::Table, known: &[&str]| {
        for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
            log::warn!("unknown key {key:?} in {} is ignored: check its spelling", path.display());
        }
    };
    warn(&top, &TOP);
    for registry in tables(&top, "registry") {
        warn(registry, &REGISTRY);
        tables(registry, "mirror").for_each(|mirror| warn(mirror, &MIRROR));
    }
}

/// Makes an error for the line in which `span` of the file's `text` begins.
pub(crate) fn parse_error(
    path: &Path,
    text: &str,
    span: Range<usize>,
    why: impl Into<String>,
) -> RegistriesError {
    RegistriesError::Parse { path: path.to_owned(), line: line(text, &span), why: why.into() }
}

/// Number of the line in which `span` begins, counted from 1.
fn line(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().get(..span.start.min(text.len())).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::registries_conf::Registries;
    use crate::config::registries_conf::tests::{names, refusal};

    #[test]
    fn a_bad_file_is_refused_with_its_line() {
        for (text, why) in [
            ("x = [", "line 1"),
            ("\n\nunqualified-search-registries = 5", "line 3"),
            ("[registries.search]\nregistries = ['a']", "version 1"),
            ("[[registry]]\ninsecure = true", "neither prefix nor location"),
            ("[[registry]]\nprefix = '*.a.example/x'", "line 2"),
            ("[[registry]]\nprefix = 'a.*.example'", "line 2"),
            ("[[registry]]\nlocation = 'https://a.example'", "scheme"),
            ("[[registry]]\nlocation = 'a.example/UPPER'", "upper-case"),
            ("[[registry]]\nlocation = 'nohost/x'", "no host"),
            ("[[registry]]\nlocation = 'a.example'\n[[registry.mirror]]\ninsecure = true", "location"),
            (
                "[[registry]]\nlocation = 'a.example'\n[[registry.mirror]]\nlocation = 'b.example'\npull-from-mirror = 'x'",
                "line 5",
            ),
            (
                "[[registry]]\nlocation = 'a.example'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'b.example'\npull-from-mirror = 'all'",
                "exclude",
            ),
            (
                "[[registry]]\nlocation = 'a.example'\n[[registry]]\nlocation = 'a.example'\nblocked = true",
                "another",
            ),
            ("[aliases]\n'a' = 'b'", "no full name"),
            ("[aliases]\n'a:b' = 'h.example/b'", "no short name"),
            ("[aliases]\n'h.example/a' = 'h.example/b'", "no short name"),
            ("[aliases]\n'a' = 'h.example/b:tag'", "without tag"),
            ("[aliases]\n'a' = 'h.example/b'\n'a' = 'h.example/c'", "line 3"),
            ("short-name-mode = 'sometimes'", "none of"),
            ("unqualified-search-registries = ['a b']", "line 1"),
            ("unqualified-search-registries = ['a.example/x']", "no host[:port]"),
        ] {
            let refusal = refusal(text);
            assert!(refusal.contains(why) && refusal.contains("/x.conf"), "{text:?}: {refusal}");
        }
    }

    #[test]
    fn files_are_read_in_order_and_only_those_that_end_in_conf() {
        let dir = tempfile::tempdir().expect("a directory");
        let main = dir.path().join("registries.conf");
        assert!(matches!(Registries::load(Some(&main)), Err(RegistriesError::Read { .. })));
        std::fs::write(&main, "unqualified-search-registries = ['main.example']").expect("written");
        assert_eq!(names(&Registries::load(Some(&main)).expect("good"), "i"), ["main.example/i:latest"]);
        let below = dir.path().join("registries.conf.d");
        std::fs::create_dir(&below).expect("made");
        for (name, host) in [("20.conf", "b.example"), ("10.conf", "a.example"), ("30.conf.bak", "c.example")]
        {
            let text = format!("unqualified-search-registries = ['{host}']");
            std::fs::write(below.join(name), text).expect("written");
        }
        assert_eq!(names(&Registries::load(Some(&main)).expect("good"), "i"), ["b.example/i:latest"]);
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("made");
        assert!(matches!(Registries::load(Some(&fifo)), Err(RegistriesError::Read { .. })));
        assert_eq!(Registries::load(Some(Path::new("/dev/null"))).expect("empty"), Registries::default());
        std::fs::write(below.join("99.conf"), "[[registry]\n").expect("written");
        let error = Registries::load(Some(&main)).expect_err("bad").to_string();
        assert!(error.contains("99.conf, line 1"), "{error}");
    }
}
