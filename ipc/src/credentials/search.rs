//! The search for credentials: the files of containers-auth.json(5) in their order, the helpers that these files name,
//! and the `credential-helpers` of containers-registries.conf(5).

use crate::credentials::file::AuthFile;
use crate::credentials::helper::Helper;
use crate::credentials::matching::{self, DOCKER_HUB_KEY};
use crate::engine::Credential;
use crate::report::chain;
use std::env;
use std::path::{Path, PathBuf};

/// The name in `credential-helpers` that stands for the files of containers-auth.json(5).
pub const FILES: &str = "containers-auth.json";

/// The files and helpers to search, in order. The first one with a matching credential wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    places: Vec<Place>,
}

/// A file or a helper.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    /// The helper's name in `credential-helpers`.
    Helper(String),
}

/// The result of a [`Search`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The credential, if there is one.
    pub credential: Option<Credential>,
    /// Messages about files and helpers that could not be used; without secrets.
    pub problems: Vec<String>,
}

impl Search {
    /// Searches the file `first`, if there is one, then `helpers` in order. [`FILES`] among the helpers stands for the
    /// files of this process's environment and user. If `helpers` is empty, these files follow `first`.
    pub fn from_env(first: Option<&Path>, helpers: &[String]) -> Self {
        let var = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        Search::resolve(first, helpers, nix::unistd::geteuid().as_raw(), var)
    }

    /// Searches only `file`.
    pub fn only(file: impl Into<PathBuf>) -> Self {
        Search { places: vec![Place::File(file.into())] }
    }

    fn resolve(
        first: Option<&Path>,
        helpers: &[String],
        uid: u32,
        var: impl Fn(&str) -> Option<PathBuf>,
    ) -> Self {
        let files: Vec<Place> = own_files(uid, var).into_iter().map(Place::File).collect();
        let mut places: Vec<Place> = first.map(|path| Place::File(path.to_owned())).into_iter().collect();
        for helper in helpers {
            match helper.as_str() {
                FILES => places.extend(files.iter().cloned()),
                name => places.push(Place::Helper(name.to_owned())),
            }
        }
        if helpers.is_empty() {
            places.extend(files);
        }
        Search { places }
    }

    /// The file in which a login is saved: `$REGISTRY_AUTH_FILE`, otherwise podman's default file, which a reboot
    /// removes.
    pub fn default_file() -> PathBuf {
        let var = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let uid = nix::unistd::geteuid().as_raw();
        var("REGISTRY_AUTH_FILE").unwrap_or_else(|| run_file(uid, &var))
    }

    /// The files to search, in order. A file in the list need not exist.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.places.iter().filter_map(|place| match place {
            Place::File(path) => Some(path.as_path()),
            Place::Helper(_) => None,
        })
    }

    /// Reads all files that exist. Adds a message to `problems` for each file that cannot be read.
    pub fn read(&self, problems: &mut Vec<String>) -> Vec<AuthFile> {
        self.files().filter_map(|path| read(path, problems)).collect()
    }

    /// Finds the credential for the repository `host/path`. When `is_over` returns true, kills a running helper and
    /// starts no further helper.
    pub fn find(&self, host: &str, path: &str, is_over: &dyn Fn() -> bool) -> Found {
        let mut problems = Vec::new();
        let mut credential = None;
        for place in &self.places {
            credential = match place {
                Place::File(file) => read(file, &mut problems)
                    .and_then(|file| in_file(&file, host, path, &mut problems, is_over)),
                Place::Helper(name) => of_helper(name, host, &mut problems, is_over),
            };
            if credential.is_some() {
                break;
            }
        }
        Found { credential, problems }
    }

    /// The credentials that a client sends to the engine for a job on the repository `name`, given as host and path:
    /// all entries for the host, and the answer of the host's helper. Without `name` returns all entries, since the
    /// engine may complete a short name with any host. The second value has messages about files and helpers that
    /// could not be used.
    pub fn entries(&self, name: Option<(&str, &str)>) -> (Vec<Credential>, Vec<String>) {
        let mut problems = Vec::new();
        let mut entries: Vec<Credential> = Vec::new();
        let (host, path) = name.unwrap_or(("docker.io", "library"));
        for place in &self.places {
            // Without a name this loop reads all files. The first file with a credential for the assumed host decides
            // whether to run a helper.
            let is_decided = matching::best(&entries, host, path).is_some();
            let (known, found) = match place {
                Place::File(file) => {
                    let Some(file) = read(file, &mut problems) else {
                        continue;
                    };
                    let known = file.entries(&mut problems);
                    match is_decided {
                        true => (known, None),
                        false => (known, in_file(&file, host, path, &mut problems, &|| false)),
                    }
                }
                Place::Helper(_) if is_decided => continue,
                Place::Helper(helper) => (Vec::new(), of_helper(helper, host, &mut problems, &|| false)),
            };
            let wanted = |entry: &Credential| match name {
                Some((host, _)) => matching::host_of(&entry.registry) == matching::normalize(host),
                None => true,
            };
            entries.extend(known.into_iter().filter(wanted));
            if let Some(found) = found
                && !entries.contains(&found)
            {
                entries.insert(0, found);
            }
            // Stop here: an entry of a later file could otherwise win by a longer key.
            if name.is_some() && matching::best(&entries, host, path).is_some() {
                break;
            }
        }
        (entries, problems)
    }
}

/// The files of containers-auth.json(5), in order.
fn own_files(uid: u32, var: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = var("REGISTRY_AUTH_FILE").into_iter().collect();
    files.push(run_file(uid, &var));
    let config = var("XDG_CONFIG_HOME").or_else(|| var("HOME").map(|home| home.join(".config")));
    files.extend(config.map(|dir| dir.join("containers/auth.json")));
    let docker = var("DOCKER_CONFIG").or_else(|| var("HOME").map(|home| home.join(".docker")));
    files.extend(docker.map(|dir| dir.join("config.json")));
    files
}

/// `$XDG_RUNTIME_DIR/containers/auth.json`, else `/run/containers/UID/auth.json`. containers-auth.json(5).
fn run_file(uid: u32, var: &impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    match var("XDG_RUNTIME_DIR") {
        Some(dir) => dir.join("containers/auth.json"),
        None => PathBuf::from(format!("/run/containers/{uid}/auth.json")),
    }
}

fn read(path: &Path, problems: &mut Vec<String>) -> Option<AuthFile> {
    AuthFile::read(path).unwrap_or_else(|error| {
        problems.push(chain(&error));
        None
    })
}

/// Requests the credential for `host` from the helper `name`. Helpers store credentials of registries, not of
/// repositories.
fn of_helper(
    name: &str,
    host: &str,
    problems: &mut Vec<String>,
    is_over: &dyn Fn() -> bool,
) -> Option<Credential> {
    // Docker uses its own key for Docker Hub; podman(1) and skopeo(1) request the host name from a helper, as here.
    request(name, &matching::normalize(host), problems, is_over)
}

fn request(
    name: &str,
    server: &str,
    problems: &mut Vec<String>,
    is_over: &dyn Fn() -> bool,
) -> Option<Credential> {
    if is_over() {
        return None;
    }
    let answer = Helper::new(name).and_then(|helper| helper.get_unless(server, is_over));
    answer.unwrap_or_else(|error| {
        // A helper that `is_over` has killed is no problem to report.
        if !is_over() {
            problems.push(chain(&error));
        }
        None
    })
}

/// Searches the helper for this host, then the entries of the file, then the helper for all other hosts.
fn in_file(
    file: &AuthFile,
    host: &str,
    path: &str,
    problems: &mut Vec<String>,
    is_over: &dyn Fn() -> bool,
) -> Option<Credential> {
    if let Some((server, name)) = file.helper(host)
        && let Some(found) = request(&name, &server, problems, is_over)
    {
        return Some(Credential { registry: matching::normalize(host), ..found });
    }
    let mut unreadable = Vec::new();
    if let Some(found) = matching::best(&file.entries(&mut unreadable), host, path) {
        return Some(found.clone());
    }
    let found = file.store().and_then(|name| request(&name, &server_of(host), problems, is_over));
    problems.extend(unreadable);
    found.map(|found| Credential { registry: matching::normalize(host), ..found })
}

/// The key under which a helper stores the credential for `host`.
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
        let search = Search::resolve(Some(Path::new("/f")), &[], 7, var);
        let paths: Vec<&str> = search.files().filter_map(Path::to_str).collect();
        let expected = [
            "/f",
            "/r",
            "/x/containers/auth.json",
            "/h/.config/containers/auth.json",
            "/h/.docker/config.json",
        ];
        assert_eq!(paths, expected);
        let none = Search::resolve(None, &[], 7, |_| None);
        let default = Place::File("/run/containers/7/auth.json".into());
        assert_eq!(none.places, std::slice::from_ref(&default));

        let helpers = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let helper = |name: &str| Place::Helper(name.to_owned());
        let mixed = Search::resolve(None, &helpers(&["one", FILES, "two"]), 7, |_| None);
        assert_eq!(mixed.places, [helper("one"), default, helper("two")]);
        let without = Search::resolve(Some(Path::new("/f")), &helpers(&["one"]), 7, var);
        assert_eq!(
            without.places,
            [Place::File("/f".into()), helper("one")],
            "of the files the named one alone"
        );
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
        let search = both(first, second);
        let found = search.find("r.example", "x", &|| false).credential.expect("found");
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
        let found = both(first, second).find("r", "x", &|| false);
        assert_eq!(found.problems.len(), 1);
        let credential = found.credential.expect("found");
        assert_eq!((credential.username.as_str(), credential.password.as_str()), ("u", "p:w"));
    }

    fn both(first: PathBuf, second: PathBuf) -> Search {
        Search { places: vec![Place::File(first), Place::File(second)] }
    }

    fn base64(text: &str) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    }
}
