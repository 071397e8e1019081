//! A credential file: containers-auth.json(5), whose format is a part of docker's config.json.
//!
//! Edits the file as JSON, so that its other settings stay, and replaces the file atomically. Only the owner may read
//! a new file. An existing file keeps its owner and its mode, but loses the permissions for others.

use crate::credentials::matching;
use crate::engine::Credential;
use crate::named_file;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Map, Value};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Longest file, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// Why a credential file cannot be used. Never contains a secret.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A system call failed.
    #[error("cannot {doing} credentials in {}", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is not in the format of containers-auth.json(5).
    #[error("cannot read credentials in {}: {wrong}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        wrong: String,
    },
}

/// The content of a credential file.
#[derive(Clone)]
pub struct AuthFile {
    path: PathBuf,
    document: Map<String, Value>,
}

impl AuthFile {
    /// Reads the file at `path`; returns `None` if it does not exist.
    ///
    /// # Errors
    /// [`FileError`] if the file cannot be read, is not a regular file, is too long, or is not a JSON object.
    pub fn read(path: &Path) -> Result<Option<Self>, FileError> {
        let io = |source| FileError::Io { doing: "read", path: path.to_owned(), source };
        let broken = |wrong: String| FileError::Broken { path: path.to_owned(), wrong };
        if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
            return Err(broken("it is no regular file".to_owned()));
        }
        // O_NONBLOCK, because a FIFO may have taken the file's place after the check: open(2) would wait for its
        // writer.
        let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
        let file = match file {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            other => other.map_err(io)?,
        };
        if !file.metadata().map_err(io)?.is_file() {
            return Err(broken("it is no regular file".to_owned()));
        }
        let mut text = String::new();
        file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(io)?;
        if text.len() as u64 > FILE_MAX {
            return Err(broken(format!("it is longer than {FILE_MAX} bytes")));
        }
        if text.trim().is_empty() {
            return Ok(Some(AuthFile { path: path.to_owned(), document: Map::new() }));
        }
        // Not the parser's message, which may quote the file. The position is enough.
        let place =
            |e: serde_json::Error| broken(format!("no JSON at line {} column {}", e.line(), e.column()));
        match serde_json::from_str(&text).map_err(place)? {
            Value::Object(document) => Ok(Some(AuthFile { path: path.to_owned(), document })),
            _ => Err(broken("it is no JSON object".to_owned())),
        }
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All entries that have a credential. Adds a message to `problems` for each malformed entry.
    pub fn entries(&self, problems: &mut Vec<String>) -> Vec<Credential> {
        let auths = self.document.get("auths").and_then(Value::as_object);
        let mut entries = Vec::new();
        for (key, value) in auths.into_iter().flatten() {
            match decode(key, value) {
                Ok(entry) => entries.extend(entry),
                Err(wrong) => {
                    let key: String = key.chars().take(200).collect();
                    problems.push(format!("the credential for {key:?} in {} {wrong}", self.path.display()));
                }
            }
        }
        entries
    }

    /// The helper that is configured for `host`: the key of the server in the file, and the helper's name.
    pub fn helper(&self, host: &str) -> Option<(String, String)> {
        let helpers = self.document.get("credHelpers")?.as_object()?;
        let host = matching::normalize(host);
        let (server, name) = helpers.iter().find(|(key, _)| matching::normalize(key) == host)?;
        Some((server.clone(), name.as_str()?.to_owned()))
    }

    /// All servers for which a helper is configured, each with the helper's name.
    pub fn helpers(&self) -> Vec<(String, String)> {
        let helpers = self.document.get("credHelpers").and_then(Value::as_object);
        let pair = |(server, name): (&String, &Value)| Some((server.clone(), name.as_str()?.to_owned()));
        helpers.into_iter().flatten().filter_map(pair).collect()
    }

    /// Name of the helper for all servers without a helper of their own.
    pub fn store(&self) -> Option<String> {
        self.document.get("credsStore")?.as_str().filter(|name| !name.is_empty()).map(str::to_owned)
    }

    /// Whether there is an entry for exactly `key`.
    pub fn has(&self, key: &str) -> bool {
        let auths = self.document.get("auths").and_then(Value::as_object);
        auths.is_some_and(|auths| auths.keys().any(|k| matching::normalize(k) == matching::normalize(key)))
    }

    fn set(&mut self, credential: &Credential) -> Result<(), FileError> {
        self.unset(Some(&credential.registry));
        let mut entry = Map::new();
        let pair = format!("{}:{}", credential.username, credential.password);
        entry.insert("auth".to_owned(), STANDARD.encode(pair).into());
        if !credential.identity_token.is_empty() {
            entry.insert("identitytoken".to_owned(), credential.identity_token.clone().into());
        }
        let auths = self.document.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        let Some(auths) = auths.as_object_mut() else {
            let wrong = "its \"auths\" is no JSON object".to_owned();
            return Err(FileError::Broken { path: self.path.clone(), wrong });
        };
        auths.insert(credential.registry.clone(), Value::Object(entry));
        Ok(())
    }

    /// Removes the entry for `key`, or all entries if `key` is `None`. Returns whether there was an entry.
    fn unset(&mut self, key: Option<&str>) -> bool {
        let Some(auths) = self.document.get_mut("auths").and_then(Value::as_object_mut) else {
            return false;
        };
        let before = auths.len();
        let key = key.map(matching::normalize);
        auths.retain(|k, _| key.as_ref().is_some_and(|key| matching::normalize(k) != *key));
        auths.len() != before
    }

    fn write(&self) -> Result<(), FileError> {
        let io = |source| FileError::Io { doing: "write", path: self.path.clone(), source };
        let mut text = serde_json::to_vec_pretty(&self.document).map_err(|error| io(error.into()))?;
        text.push(b'\n');
        named_file::replace_secret(&self.path, &text).map_err(io)
    }
}

/// Saves `credential` in the file at `path`, and creates the file if it does not exist.
///
/// # Errors
/// [`FileError`] if the file cannot be read, locked or replaced. After an error the file is unchanged.
pub fn save(path: &Path, credential: &Credential) -> Result<(), FileError> {
    edit(path, |file| file.set(credential))
}

/// Removes the entry for `key` from the file at `path`, or all entries if `key` is `None`. Returns whether there was
/// an entry.
///
/// # Errors
/// [`FileError`] if the file cannot be read, locked or replaced. After an error the file is unchanged.
pub fn remove(path: &Path, key: Option<&str>) -> Result<bool, FileError> {
    let Some(mut file) = AuthFile::read(path)? else {
        return Ok(false);
    };
    if !file.unset(key) {
        return Ok(false);
    }
    let mut removed = false;
    edit(path, |file| {
        removed = file.unset(key);
        Ok(())
    })?;
    Ok(removed)
}

/// Reads, changes and replaces the file under a lock, so that no concurrent change is lost.
fn edit(path: &Path, change: impl FnOnce(&mut AuthFile) -> Result<(), FileError>) -> Result<(), FileError> {
    let io = |source| FileError::Io { doing: "write", path: path.to_owned(), source };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
    // Locks the directory, since the file itself is replaced. All links to the file resolve to this directory.
    let target = named_file::resolve(path).map_err(io)?;
    let lock = File::open(target.parent().unwrap_or(dir)).map_err(io)?;
    let _lock =
        Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| io(io::Error::from(errno)))?;
    let empty = || AuthFile { path: path.to_owned(), document: Map::new() };
    let mut file = AuthFile::read(path)?.unwrap_or_else(empty);
    change(&mut file)?;
    file.write()
}

/// Parses an entry. Returns `None` if it has no credential, as for a server whose credential a helper stores.
fn decode(key: &str, value: &Value) -> Result<Option<Credential>, &'static str> {
    let word = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut credential = Credential {
        registry: key.to_owned(),
        username: word("username").to_owned(),
        password: word("password").to_owned(),
        identity_token: word("identitytoken").to_owned(),
    };
    let auth = word("auth").trim();
    if !auth.is_empty() {
        let bytes = STANDARD.decode(auth).map_err(|_| "is not base64")?;
        let pair = String::from_utf8(bytes).map_err(|_| "is no text")?;
        let (username, password) = pair.split_once(':').ok_or("has no ':'")?;
        credential.username = username.to_owned();
        // Old versions of docker pad the password with NUL bytes.
        credential.password = password.trim_matches('\0').to_owned();
    }
    if !credential.identity_token.is_empty() {
        credential.username.clear();
        credential.password.clear();
    }
    let empty = credential.username.is_empty() && credential.identity_token.is_empty();
    Ok((!empty).then_some(credential))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn credential(key: &str, username: &str, password: &str) -> Credential {
        let (registry, username, password) = (key.to_owned(), username.to_owned(), password.to_owned());
        Credential { registry, username, password, ..Credential::default() }
    }

    #[test]
    fn saving_keeps_what_is_not_ours_and_is_for_nobody_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("new/auth.json");
        save(&path, &credential("r.example", "u", "p:\u{e9}")).expect("saved");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let text = r#"{"psFormat":"x","auths":{"https://other/v1/":{"auth":"YTpi","email":"e"}}}"#;
        fs::write(&path, text).expect("written");
        for (before, after) in [(0o640, 0o640), (0o600, 0o600), (0o644, 0o640)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(before)).expect("set");
            save(&path, &credential("r.example", "u", "p:\u{e9}")).expect("saved");
            let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
            assert_eq!(mode, after, "of {before:o}: the group is the owner's own choice");
        }
        let file = AuthFile::read(&path).expect("read").expect("there");
        assert_eq!(file.document.get("psFormat"), Some(&Value::from("x")));
        let entries = file.entries(&mut Vec::new());
        assert_eq!(entries[0].username, "a");
        assert_eq!(entries[1], credential("r.example", "u", "p:\u{e9}"));
        assert!(remove(&path, Some("http://other/")).expect("removed"));
        assert!(!remove(&path, Some("other")).expect("nothing to remove"));
        assert!(remove(&path, None).expect("removed"));
        assert_eq!(fs::read_dir(dir.path().join("new")).expect("listed").count(), 1, "no temporary stays");
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let (link, target) = (dir.path().join("link"), dir.path().join("target"));
        fs::write(&target, "{}").expect("written");
        std::os::unix::fs::symlink(&target, &link).expect("made");
        save(&link, &credential("r", "u", "p")).expect("saved");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert!(AuthFile::read(&target).expect("read").expect("there").has("r"));
        // A link to a file that does not exist yet stays a link, too.
        fs::remove_file(&target).expect("removed");
        save(&link, &credential("r", "u", "p")).expect("saved");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::metadata(&target).expect("made").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 2);
    }

    #[test]
    fn what_is_no_regular_file_is_never_replaced_and_never_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let (fifo, mine) =
            (dir.path().join("fifo"), dir.path().join(format!("auth.json.{}.tmp", std::process::id())));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("made");
        for path in [fifo.as_path(), dir.path(), Path::new("/dev/zero"), Path::new("/dev/null")] {
            assert!(save(path, &credential("r", "u", "p")).is_err(), "{}", path.display());
            assert!(AuthFile::read(path).is_err(), "{}", path.display());
            assert!(remove(path, None).is_err(), "{}", path.display());
        }
        assert!(fs::metadata("/dev/null").expect("there").permissions().mode() & 0o777 == 0o666);
        // Another file in the directory stays unchanged, whatever its name.
        fs::write(&mine, "kept").expect("written");
        save(&dir.path().join("auth.json"), &credential("r", "u", "p")).expect("saved");
        assert_eq!(fs::read(&mine).expect("there"), b"kept");
    }

    #[test]
    fn broken_files_are_refused_without_a_word_of_their_content() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("auth.json");
        let huge = " ".repeat(FILE_MAX as usize + 1);
        for text in ["{\"auths\": hunter2}", "[\"hunter2\"]", "\"hunter2\"", huge.as_str()] {
            fs::write(&path, text).expect("written");
            let Err(error) = AuthFile::read(&path) else { panic!("{text:?}") };
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        assert!(AuthFile::read(dir.path()).is_err(), "a directory");
        fs::write(&path, r#"{"auths":{"a":{"auth":"?"},"b":{"auth":"aHVudGVyMg=="},"c":{},"d":7}}"#)
            .expect("written");
        let mut problems = Vec::new();
        let file = AuthFile::read(&path).expect("read").expect("there");
        assert_eq!((file.entries(&mut problems).len(), problems.len()), (0, 2));
        assert!(!problems.concat().contains("hunter2"));
        fs::write(&path, r#"{"auths":7,"credHelpers":[],"credsStore":7}"#).expect("written");
        let file = AuthFile::read(&path).expect("read").expect("there");
        assert!(
            file.entries(&mut problems).is_empty() && file.helper("a").is_none() && file.store().is_none()
        );
        assert!(matches!(save(&path, &credential("r", "u", "p")), Err(FileError::Broken { .. })));
    }

    #[test]
    fn an_identity_token_is_no_password() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("auth.json");
        fs::write(&path, r#"{"auths":{"r":{"auth":"PHRva2VuPjo=","identitytoken":"t"}}}"#).expect("written");
        let entries = AuthFile::read(&path).expect("read").expect("there").entries(&mut Vec::new());
        assert_eq!((entries[0].identity_token.as_str(), entries[0].username.as_str()), ("t", ""));
    }

    #[test]
    fn logins_at_the_same_time_lose_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("auth.json");
        std::thread::scope(|scope| {
            for nth in 0..8 {
                let path = &path;
                scope.spawn(move || save(path, &credential(&format!("r{nth}"), "u", "p")).expect("saved"));
            }
        });
        let file = AuthFile::read(&path).expect("read").expect("there");
        assert_eq!(file.entries(&mut Vec::new()).len(), 8);
    }
}
