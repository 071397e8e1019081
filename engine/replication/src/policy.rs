//! The policies of `/etc/sampan/replication.d`: what is copied, where to, and when.
//!
//! Called by the engine at its start and on SIGHUP. Reads that directory and the zone files of schedules, and nothing
//! else: no network, no state, no clock.
//!
//! | module | what it owns |
//! |---|---|
//! | [`mod@file`] | one file: its keys, their checks, [`Policy`] and [`PolicyError`] |
//! | `section` | typed values of a table of TOML |
//! | [`place_name`] | the two sides as they are written |
//! | [`filter`], [`glob`] | which repositories, tags and artifacts are copied |
//! | [`target`] | the names of the copies |
//! | [`schedule`] | when the next run is |

pub mod file;
pub mod filter;
pub mod glob;
pub mod place_name;
pub mod schedule;
mod section;
pub mod target;

pub use self::file::{Policy, PolicyError};

use self::schedule::Zone;
use sampan_os::small_file;
use std::io;
use std::path::{Path, PathBuf};

/// Largest file in bytes.
const FILE_MAX: u64 = 256 << 10;
/// Most files in the directory.
const FILES_MAX: usize = 1024;
/// Longest name of a policy in bytes.
const NAME_MAX: usize = 64;

/// Reads each `*.toml` of `directory`, in the order of their names; files whose names begin with a dot are passed over.
///
/// Returns the policies, and an error for each file that cannot be used. Without the directory there are no policies.
pub fn load(directory: &Path) -> (Vec<Policy>, Vec<PolicyError>) {
    let (mut policies, mut errors) = (Vec::new(), Vec::new());
    let paths = files(directory).unwrap_or_else(|source| {
        if source.kind() != io::ErrorKind::NotFound {
            errors.push(PolicyError::Read { path: directory.to_owned(), source });
        }
        Vec::new()
    });
    if paths.len() > FILES_MAX {
        let why = "it has more than 1024 policies, and those beyond are not used";
        errors.push(PolicyError::Name { path: directory.to_owned(), why });
    }
    for path in paths.into_iter().take(FILES_MAX) {
        match read(&path) {
            Ok(policy) => policies.push(policy),
            Err(error) => errors.push(error),
        }
    }
    (policies, errors)
}

fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.ends_with(b".toml") && !name.starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Policy, PolicyError> {
    let unreadable = |source| PolicyError::Read { path: path.to_owned(), source };
    let name = path.file_stem().and_then(|stem| stem.to_str()).filter(|name| is_name(name));
    let name = name.ok_or_else(|| PolicyError::Name {
        path: path.to_owned(),
        why: "the name of a policy has 1 to 64 letters, digits, '_', '.' and '-', and begins with a letter or digit",
    })?;
    let bytes =
        small_file::read(small_file::open(path).map_err(unreadable)?, FILE_MAX).map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > FILE_MAX) {
        return Err(unreadable(io::Error::other("it is longer than 256 KiB")));
    }
    let text = String::from_utf8(bytes).map_err(|_| unreadable(io::Error::other("it is not UTF-8")))?;
    Policy::parse(name, path, &text, Zone::of_host)
}

fn is_name(name: &str) -> bool {
    name.len() <= NAME_MAX
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_file_is_told_and_the_others_are_used() {
        let dir = tempfile::tempdir().expect("a directory");
        let good = "source = \"store:\"\ndestination = \"oci:/mnt/stick\"\n";
        let long = "#".repeat(usize::try_from(FILE_MAX).expect("small") + 1);
        for (name, text) in [
            ("b.toml", good),
            ("a.b-c_1.toml", good),
            ("bad.toml", "source = 1"),
            ("_name.toml", good),
            ("long.toml", &long),
            (".hidden.toml", "source = 1"),
            ("b.toml.bak", "source = 1"),
        ] {
            std::fs::write(dir.path().join(name), text).expect("written");
        }
        std::fs::create_dir(dir.path().join("folder.toml")).expect("made");
        let (policies, errors) = load(dir.path());
        let names: Vec<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
        assert_eq!(names, ["a.b-c_1", "b"]);
        let errors: Vec<String> = errors.iter().map(PolicyError::to_string).collect();
        assert_eq!(errors.len(), 4, "{errors:?}");
        for (error, file) in
            errors.iter().zip(["_name.toml", "bad.toml, line 1, key source", "folder.toml", "long.toml"])
        {
            assert!(error.contains(file), "{error}");
        }
    }

    #[test]
    fn without_the_directory_there_are_no_policies() {
        let dir = tempfile::tempdir().expect("a directory");
        let (policies, errors) = load(&dir.path().join("replication.d"));
        assert!(policies.is_empty() && errors.is_empty());
        std::fs::write(dir.path().join("file"), "").expect("written");
        assert!(matches!(load(&dir.path().join("file")).1.as_slice(), [PolicyError::Read { .. }]));
    }
}
