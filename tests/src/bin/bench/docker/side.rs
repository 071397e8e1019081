//! A server of the Docker API that is measured: Sampan's gateway with engine and monitord, or dockerd with containerd.

use sampan_tests::docker_api::http::{Connection, Reply};
use sampan_tests::docker_api::{DockerApi, busybox_tar};
use sampan_tests::dockerd::Dockerd;
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The two images that a side has; a name is moved between them, so that each tag is a change.
const IMAGES: [&str; 2] = ["box:1", "box:2"];

/// A server of the Docker API, with two images.
pub enum Side {
    /// Sampan.
    Sampan(Box<DockerApi>),
    /// dockerd and containerd.
    Dockerd(Dockerd),
}

impl Side {
    /// Starts Sampan.
    ///
    /// # Errors
    /// An image cannot be imported.
    pub fn sampan() -> io::Result<Self> {
        let side = Side::Sampan(Box::new(DockerApi::quiet("runtime = \"runc\"")));
        side.import()?;
        Ok(side)
    }

    /// Starts dockerd with its files below `dir`.
    ///
    /// # Errors
    /// It is not installed, or does not start here.
    pub fn dockerd(dir: &Path) -> io::Result<Self> {
        let side = Side::Dockerd(Dockerd::start(dir)?);
        side.import()?;
        Ok(side)
    }

    /// Imports the images, by the API itself.
    fn import(&self) -> io::Result<()> {
        for image in IMAGES {
            let (repository, tag) = image.split_once(':').unwrap_or((image, "latest"));
            let target = format!("/images/create?fromSrc=-&repo={repository}&tag={tag}&message={tag}");
            let mut connection = self.connect();
            connection.send("POST", &target, &[("Content-Type", "application/x-tar")], &busybox_tar());
            let reply = connection.reply("POST");
            if reply.status() != 200 || reply.text().contains("errorDetail") {
                return Err(io::Error::other(format!("{} cannot import: {}", self.name(), reply.text())));
            }
        }
        Ok(())
    }

    /// Name in the tables.
    pub fn name(&self) -> &'static str {
        match self {
            Side::Sampan(_) => "sampan",
            Side::Dockerd(_) => "dockerd",
        }
    }

    /// Path of the socket.
    pub fn socket(&self) -> PathBuf {
        match self {
            Side::Sampan(api) => api.socket(),
            Side::Dockerd(dockerd) => dockerd.socket(),
        }
    }

    /// Process IDs of all daemons: the one that answers first.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        match self {
            Side::Sampan(api) => {
                let engine = api.containers.engine_pid().cast_unsigned();
                Ok(vec![api.gateway_pid(), engine, api.containers.host.pid()])
            }
            Side::Dockerd(dockerd) => dockerd.pids(),
        }
    }

    /// Prepares a command of docker's command line, the same program for both sides.
    pub fn docker(&self, args: &[&str]) -> Command {
        match self {
            Side::Sampan(api) => api.docker_command(args),
            Side::Dockerd(dockerd) => {
                let mut command = dockerd.docker();
                command.args(args);
                command
            }
        }
    }

    /// Opens a connection.
    pub fn connect(&self) -> Connection {
        Connection::open(&self.socket())
    }

    /// Creates a container that would sleep; returns its ID.
    ///
    /// # Errors
    /// The server refuses.
    pub fn create(&self, name: &str) -> io::Result<String> {
        let body =
            json!({"Image": IMAGES[0], "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}});
        create(&mut self.connect(), &format!("?name={name}"), &body)
    }
}

/// Sends a request on a connection that stays open.
///
/// # Errors
/// The status is none of success.
pub fn ask(
    connection: &mut Connection,
    method: &str,
    target: &str,
    body: Option<&Value>,
) -> io::Result<Reply> {
    let bytes = body.map(Value::to_string).unwrap_or_default();
    let headers = [("Content-Type", "application/json")];
    connection.send(method, target, if body.is_some() { &headers } else { &[] }, bytes.as_bytes());
    let reply = connection.reply(method);
    match reply.status() {
        200..=299 => Ok(reply),
        status => Err(io::Error::other(format!("{method} {target}: {status} {}", reply.text()))),
    }
}

/// Creates a container; returns its ID.
fn create(connection: &mut Connection, query: &str, body: &Value) -> io::Result<String> {
    let reply = ask(connection, "POST", &format!("/containers/create{query}"), Some(body))?;
    Ok(reply.json()["Id"].as_str().unwrap_or_default().to_owned())
}

/// Moves the name `moved:1` to the other image.
///
/// # Errors
/// The server refuses.
pub fn tag(connection: &mut Connection, nth: usize) -> io::Result<()> {
    let image = IMAGES[nth % IMAGES.len()];
    ask(connection, "POST", &format!("/images/{image}/tag?repo=moved&tag=1"), None).map(|_| ())
}

/// Does what `docker run --rm box:1 true` does, in the same order and on three connections.
///
/// # Errors
/// The container does not end with 0.
pub fn run_true(side: &Side, first: &mut Connection) -> io::Result<()> {
    let body = json!({
        "Image": IMAGES[0], "Cmd": ["true"], "AttachStdout": true, "AttachStderr": true,
        "HostConfig": {"NetworkMode": "none", "AutoRemove": true},
    });
    let id = create(first, "", &body)?;
    let mut attached = side.connect();
    attached.send_upgrade(&format!("/containers/{id}/attach?stdout=1&stderr=1&stream=1"), b"");
    let head = attached.head();
    if head.status != 101 {
        return Err(io::Error::other(format!("attach: {head:?}")));
    }
    attached.half_close();
    first.send("POST", &format!("/containers/{id}/wait?condition=removed"), &[], b"");
    ask(&mut side.connect(), "POST", &format!("/containers/{id}/start"), None)?;
    attached.rest();
    let ended = first.reply("POST");
    match ended.json()["StatusCode"].as_i64() {
        Some(0) => Ok(()),
        _ => Err(io::Error::other(format!("the container ended with {}", ended.text()))),
    }
}
