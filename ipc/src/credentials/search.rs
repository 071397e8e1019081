//! Where credentials are looked for: the files of containers-auth.json(5) in order, and their helpers.

use crate::credentials::file::AuthFile;
use crate::credentials::matching::{self, DOCKER_HUB_KEY};
use crate::credentials::{Credential, Helper};
use crate::report::chain;
use std::env;
use std::path::{Path, PathBuf};

/// The files that are read, the first with an answer wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    files: Vec<PathBuf>,
}

/// What a [`Search`] came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The credential, if there is one.
    pub credential: Option<Credential>,
    /// What stood in the way: files and helpers that cannot be used; without secrets.
    pub problems: Vec<String>,
}

impl Search {
    /// `first`, if it is given, and then what this process's environment and user give.
    pub fn from_env(first: Option<&Path>) -> Self {
        let var = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        Search::resolve(first, nix::unistd::geteuid().as_raw(), var)
    }

    /// One file and no other.
    pub fn only(file: impl Into<PathBuf>) -> Self {
        Search { files: vec![file.into()] }
    }

    fn resolve(first: Option<&Path>, uid: u32, var: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let mut files: Vec<PathBuf> = first.map(Path::to_owned).into_iter().collect();
        files.extend(var("REGISTRY_AUTH_FILE"));
        files.push(run_file(uid, &var));
        let config = var("XDG_CONFIG_HOME").or_else(|| var("HOME").map(|home| home.join(".config")));
        files.extend(config.map(|dir| dir.join("containers/auth.json")));
        let docker = var("DOCKER_CONFIG").or_else(|| var("HOME").map(|home| home.join(".docker")));
        files.extend(docker.map(|dir| dir.join("config.json")));
        Search { files }
    }

    /// The file that a login is saved in: `$REGISTRY_AUTH_FILE`, else podman's own, which is gone after a reboot.
    pub fn default_file() -> PathBuf {
        let var = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let uid = nix::unistd::geteuid().as_raw();
        var("REGISTRY_AUTH_FILE").unwrap_or_else(|| run_file(uid, &var))
    }

    /// The files, in order; they need not be there.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// All files that are there and can be read.
    pub fn read(&self, problems: &mut Vec<String>) -> Vec<AuthFile> {
        let mut read = Vec::new();
        for path in &self.files {
            match AuthFile::read(path) {
                Ok(Some(file)) => read.push(file),
                Ok(None) => {}
                Err(error) => problems.push(chain(&error)),
            }
        }
        read
    }

    /// What the repository `host/path` gets.
    pub fn find(&self, host: &str, path: &str) -> Found {
        let mut problems = Vec::new();
        let mut credential = None;
        for file in self.read(&mut problems) {
            credential = in_file(&file, host, path, &mut problems);
            if credential.is_some() {
                break;
            }
        }
        Found { credential, problems }
    }

    /// What a client hands to the engine for a job on `host/path`: all entries for that host, and its helper's
    /// answer; without a host (a short name may be completed to any), all entries.
    pub fn entries(&self, name: Option<(&str, &str)>) -> (Vec<Credential>, Vec<String>) {
        let mut problems = Vec::new();
        let mut entries: Vec<Credential> = Vec::new();
        for file in self.read(&mut problems) {
            let known: Vec<Credential> = file.entries(&mut problems);
            let wanted = |entry: &Credential| match name {
                Some((host, _)) => matching::host_of(&entry.registry) == matching::normalize(host),
                None => true,
            };
            entries.extend(known.into_iter().filter(wanted));
            let (host, path) = name.unwrap_or(("docker.io", "library"));
            if let Some(found) = in_file(&file, host, path, &mut problems)
                && !entries.contains(&found)
            {
                entries.insert(0, found);
            }
            // What a later file holds would win with a longer key.
            if name.is_some() && matching::best(&entries, host, path).is_some() {
                break;
            }
        }
        (entries, problems)
    }
}

/// `$XDG_RUNTIME_DIR/containers/auth.json`, else `/run/containers/UID/auth.json`. containers-auth.json(5).
fn run_file(uid: u32, var: &impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    match var("XDG_RUNTIME_DIR") {
        Some(dir) => dir.join("containers/auth.json"),
        None => PathBuf::from(format!("/run/containers/{uid}/auth.json")),
    }
}

/// The helper of the very host first, then the file's own entries, then the helper for all the rest.
fn in_file(file: &AuthFile, host: &str, path: &str, problems: &mut Vec<String>) -> Option<Credential> {
    let mut ask = |name: &str, server: &str| {
        let answer = Helper::new(name).and_then(|helper| helper.get(server));
        answer.unwrap_or_else(|error| {
            problems.push(chain(&error));
            None
        })
    };
    if let Some((server, name)) = file.helper(host)
        && let Some(found) = ask(&name, &server)
    {
        return Some(Credential { registry: matching::normalize(host), ..found });
    }
    let mut unreadable = Vec::new();
    if let Some(found) = matching::best(&file.entries(&mut unreadable), host, path) {
        return Some(found.clone());
    }
    let found = file.store().and_then(|name| ask(&name, &server_of(host)));
    problems.extend(unreadable);
    found.map(|found| Credential { registry: matching::normalize(host), ..found })
}

/// What a helper knows a host by.
pub fn server_of(host: &str) -> String {
    match matching::normalize(host).as_str() {
        "docker.io" => DOCKER_HUB_KEY.to_owned(),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_in_the_order_of_containers_auth_json() {
        let vars = [("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/r"), ("XDG_RUNTIME_DIR", "/x")];
        let var = |name: &str| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| PathBuf::from(v));
        let search = Search::resolve(Some(Path::new("/f")), 7, var);
        let paths: Vec<&str> = search.files().iter().filter_map(|p| p.to_str()).collect();
        let expected = [
            "/f",
            "/r",
            "/x/containers/auth.json",
            "/h/.config/containers/auth.json",
            "/h/.docker/config.json",
        ];
        assert_eq!(paths, expected);
        let none = Search::resolve(None, 7, |_| None);
        assert_eq!(none.files(), [PathBuf::from("/run/containers/7/auth.json")]);
    }

    #[test]
    fn a_file_that_is_read_first_wins_over_a_longer_key_in_a_later_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let (first, second) = (dir.path().join("1"), dir.path().join("2"));
        let (one, two) = (base64("a:1"), base64("b:2"));
        std::fs::write(&first, format!(r#"{{"auths":{{"r.example":{{"auth":"{one}"}}}}}}"#))
            .expect("written");
        std::fs::write(&second, format!(r#"{{"auths":{{"r.example/x":{{"auth":"{two}"}}}}}}"#))
            .expect("written");
        let search = Search { files: vec![first, second] };
        let found = search.find("r.example", "x").credential.expect("found");
        assert_eq!(found.username, "a");
        let (entries, problems) = search.entries(Some(("r.example", "x")));
        assert_eq!((entries.len(), problems.len()), (1, 0));
        assert_eq!(search.entries(None).0.len(), 2);
        assert_eq!(search.entries(Some(("other.example", "x"))).0.len(), 0);
    }

    #[test]
    fn a_broken_file_is_a_problem_and_the_next_one_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        let (first, second) = (dir.path().join("1"), dir.path().join("2"));
        std::fs::write(&first, "{").expect("written");
        let auth = base64("u:p:w");
        std::fs::write(&second, format!(r#"{{"auths":{{"r":{{"auth":"{auth}"}}}}}}"#)).expect("written");
        let found = Search { files: vec![first, second] }.find("r", "x");
        assert_eq!(found.problems.len(), 1);
        let credential = found.credential.expect("found");
        assert_eq!((credential.username.as_str(), credential.password.as_str()), ("u", "p:w"));
    }

    fn base64(text: &str) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    }
}
