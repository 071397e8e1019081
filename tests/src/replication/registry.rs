//! A docker-registry of Debian that can be stopped, started again and emptied, with deletion enabled.
//!
//! [`crate::registry::DockerRegistry`] is the simpler one for tests of pulls. This one keeps its port over a restart,
//! writes an access log, and shows its upload sessions.

use super::client::Client;
use super::message::without_host;
use crate::host::wait_until;
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What a registry requires of its clients, and what it accepts.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The only user and the password, by Basic authentication.
    pub login: Option<(String, String)>,
    /// Certificate and key, for TLS by the registry itself.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Whether manifests may name layers that the registry does not have, if they have URLs.
    pub allows_foreign_layers: bool,
    /// Whether URLs in answers have no host.
    pub has_relative_urls: bool,
}

/// A running docker-registry.
pub struct Registry {
    child: Option<Child>,
    dir: PathBuf,
    settings: Settings,
    /// `127.0.0.1:PORT`, also after a restart.
    pub address: String,
}

impl Registry {
    /// Starts a registry that keeps all of its files below `dir`.
    pub fn start(dir: &Path, settings: Settings) -> Self {
        fs::create_dir_all(dir).expect("a directory");
        let address =
            TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").to_string();
        let mut registry = Registry { child: None, dir: dir.to_owned(), settings, address };
        registry.configure();
        registry.run();
        registry
    }

    fn configure(&self) {
        let mut text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: false}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n",
            self.data().display()
        );
        let mut http = format!("addr: '{}', relativeurls: {}", self.address, self.settings.has_relative_urls);
        if let Some((cert, key)) = &self.settings.tls {
            http += &format!(", tls: {{certificate: {}, key: {}}}", cert.display(), key.display());
        }
        text += &format!("http: {{{http}}}\n");
        if let Some((username, password)) = &self.settings.login {
            let file = self.dir.join("htpasswd");
            let line = Command::new("htpasswd").args(["-Bbn", "-C", "4", username, password]).output();
            let line = line.expect("htpasswd of Debian's package apache2-utils").stdout;
            fs::write(&file, line).expect("written");
            text += &format!("auth: {{htpasswd: {{realm: a test, path: {}}}}}\n", file.display());
        }
        if self.settings.allows_foreign_layers {
            text += "validation: {manifests: {urls: {allow: ['^https?://']}}}\n";
        }
        fs::write(self.dir.join("config.yml"), text).expect("written");
    }

    fn run(&mut self) {
        let log = |name: &str| {
            File::options().create(true).append(true).open(self.dir.join(name)).expect("a log file")
        };
        let child = Command::new("docker-registry")
            .args(["serve".as_ref(), self.dir.join("config.yml").as_os_str()])
            .stdin(Stdio::null())
            .stdout(log("access.log"))
            .stderr(log("error.log"))
            .spawn()
            .expect("docker-registry of Debian's package docker-registry");
        let (child, address) = (self.child.insert(child), &self.address);
        let log = || fs::read_to_string(self.dir.join("error.log")).unwrap_or_default();
        wait_until(&format!("a registry on {address}"), log, || {
            let ended = child.try_wait().expect("ours");
            assert!(ended.is_none(), "no registry on {address}: {ended:?}\n{}", log());
            TcpStream::connect(address).is_ok()
        });
    }

    /// Process ID.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Kills the registry by SIGKILL; its files and its address stay.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts the registry again on its files; stops it before if it runs.
    pub fn restart(&mut self) {
        self.stop();
        self.run();
    }

    /// Removes all content, and starts the registry again.
    pub fn wipe(&mut self) {
        self.stop();
        if let Err(error) = fs::remove_dir_all(self.data()) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
        fs::write(self.dir.join("access.log"), "").expect("written");
        self.run();
    }

    /// A client that talks to the registry itself, with its login and its certificate.
    pub fn client(&self) -> Client {
        let mut client = Client::new(&self.address);
        if let Some((username, password)) = &self.settings.login {
            client = client.with_login(username, password);
        }
        if let Some((cert, _)) = &self.settings.tls {
            client = client.with_authority(cert);
        }
        client
    }

    /// Directory of the content.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Number of bytes of all blobs.
    pub fn blob_bytes(&self) -> u64 {
        bytes_below(&self.data().join("docker/registry/v2/blobs"))
    }

    /// Upload sessions with bytes on the disk, as `/v2/NAME/blobs/uploads/UUID`, sorted; also those that the registry
    /// no longer answers for. docker-registry 2.8.2 leaves an empty directory of a session that was deleted, which does
    /// not count.
    pub fn sessions(&self) -> Vec<String> {
        let root = self.data().join("docker/registry/v2/repositories");
        let mut sessions = Vec::new();
        let mut dirs = vec![root.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                if entry.file_name() == "_uploads" {
                    let name = dir.strip_prefix(&root).expect("below").display().to_string();
                    let uploads = fs::read_dir(entry.path()).into_iter().flatten().flatten();
                    let uploads = uploads.filter(|id| id.path().join("data").exists());
                    sessions.extend(
                        uploads.map(|id| format!("/v2/{name}/blobs/uploads/{}", id.file_name().display())),
                    );
                } else if entry.file_type().is_ok_and(|kind| kind.is_dir())
                    && !entry.file_name().to_string_lossy().starts_with('_')
                {
                    dirs.push(entry.path());
                }
            }
        }
        sessions.sort();
        sessions
    }

    /// Of these locations, those that the registry still answers for.
    pub fn living<'a>(&self, locations: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        let client = self.client();
        let lives = |location: &&str| client.request("GET", without_host(location), &[], &[]).status() == 204;
        locations.into_iter().filter(lives).collect()
    }

    /// Number of lines of the access log; see [`Registry::requests_since`].
    pub fn request_count(&self) -> usize {
        self.access_log().lines().count()
    }

    /// Method, target and status of each request after the first `before` ones, from the access log. The registry
    /// writes a line when it has answered.
    pub fn requests_since(&self, before: usize) -> Vec<(String, String, u16)> {
        self.access_log().lines().skip(before).filter_map(parse_access).collect()
    }

    fn access_log(&self) -> String {
        fs::read_to_string(self.dir.join("access.log")).unwrap_or_default()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Parses a line in Apache's combined log format.
fn parse_access(line: &str) -> Option<(String, String, u16)> {
    let (_, rest) = line.split_once('"')?;
    let (request, rest) = rest.split_once('"')?;
    let mut words = request.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    Some((method, target, rest.split_whitespace().next()?.parse().ok()?))
}

fn bytes_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
