//! Registries and images for tests: Debian's docker-registry, a registry with chosen replies, and layers made on the
//! spot.
//!
//! All servers listen on 127.0.0.1 and keep their files in the test's directory.

use flate2::{Compression, write::GzEncoder};
use sampan_oci as oci;
use sampan_oci::digest::Digest;
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest wait for a server to start.
const START: Duration = Duration::from_secs(20);

/// Compression of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// No compression: a plain tar.
    Plain,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// A layer: its tar, and the blob that a registry stores.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The uncompressed tar.
    pub tar: Vec<u8>,
    /// The compressed tar.
    pub blob: Vec<u8>,
    /// Compression of the blob.
    pub packing: Packing,
}

impl Layer {
    /// Makes a layer of files with content.
    pub fn of(files: &[(&str, &[u8])], packing: Packing) -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            // Written directly, since `set_path` refuses the names of a hostile layer.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1_600_000_000);
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, *content).expect("to memory");
        }
        Layer::of_tar(builder.into_inner().expect("to memory"), packing)
    }

    /// Makes a layer of a tar.
    pub fn of_tar(tar: Vec<u8>, packing: Packing) -> Self {
        let blob = match packing {
            Packing::Plain => tar.clone(),
            Packing::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(&tar).expect("to memory");
                encoder.finish().expect("to memory")
            }
            Packing::Zstd => zstd::encode_all(tar.as_slice(), 3).expect("to memory"),
        };
        Layer { tar, blob, packing }
    }

    /// Makes a layer whose blob has about `bytes` bytes: its content does not compress.
    pub fn large(name: &str, bytes: usize, packing: Packing) -> Self {
        let mut state = bytes as u64 ^ 0x9e37_79b9_7f4a_7c15 ^ name.len() as u64;
        let content: Vec<u8> = (0..bytes)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        Layer::of(&[(name, &content)], packing)
    }

    fn media_type(&self) -> &'static str {
        match self.packing {
            Packing::Plain => oci::LAYER[0],
            Packing::Gzip => oci::LAYER[1],
            Packing::Zstd => oci::LAYER[2],
        }
    }
}

/// An image's documents and blobs.
#[derive(Clone, Debug)]
pub struct Image {
    /// Blobs by digest, config included.
    pub blobs: Vec<(Digest, Vec<u8>)>,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// OCI name of the architecture.
    pub architecture: String,
}

impl Image {
    /// Makes an image of `layers` for linux and `architecture`.
    pub fn of(layers: &[Layer], architecture: &str) -> Self {
        let diff_ids: Vec<Digest> = layers.iter().map(|l| Digest::of(&l.tar)).collect();
        Image::with_diff_ids(layers, architecture, &diff_ids)
    }

    /// Makes an image whose config has these `diff_ids`, right or wrong.
    pub fn with_diff_ids(layers: &[Layer], architecture: &str, diff_ids: &[Digest]) -> Self {
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux",
            "config": {"Cmd": ["/bin/true"], "Labels": {"org.example.made": "here"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = serde_json::to_vec(&config).expect("JSON");
        let describe = |layer: &Layer| {
            serde_json::json!({
                "mediaType": layer.media_type(), "digest": Digest::of(&layer.blob), "size": layer.blob.len(),
            })
        };
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": oci::MANIFEST,
            "config": {"mediaType": oci::CONFIG, "digest": Digest::of(&config), "size": config.len()},
            "layers": layers.iter().map(describe).collect::<Vec<_>>(),
        });
        let mut blobs: Vec<(Digest, Vec<u8>)> =
            layers.iter().map(|l| (Digest::of(&l.blob), l.blob.clone())).collect();
        blobs.push((Digest::of(&config), config));
        let manifest = serde_json::to_vec(&manifest).expect("JSON");
        Image { blobs, manifest, architecture: architecture.to_owned() }
    }

    /// Digest of the manifest.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    fn descriptor(&self) -> serde_json::Value {
        serde_json::json!({
            "mediaType": oci::MANIFEST, "digest": self.digest(), "size": self.manifest.len(),
            "platform": {"os": "linux", "architecture": self.architecture},
        })
    }
}

/// Encodes an index of `images`.
pub fn index_of(images: &[Image]) -> Vec<u8> {
    let manifests: Vec<_> = images.iter().map(Image::descriptor).collect();
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": oci::INDEX, "manifests": manifests});
    serde_json::to_vec(&index).expect("JSON")
}

/// Writes an OCI layout of `images` with the tag `t`; several images are in one index.
pub fn write_layout(dir: &Path, images: &[Image]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a directory");
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
    let put = |bytes: &[u8]| fs::write(blobs.join(Digest::of(bytes).hex()), bytes).expect("written");
    for image in images {
        image.blobs.iter().for_each(|(_, bytes)| put(bytes));
        put(&image.manifest);
    }
    let mut top = match images {
        [one] => one.descriptor(),
        several => {
            let index = index_of(several);
            put(&index);
            serde_json::json!({"mediaType": oci::INDEX, "digest": Digest::of(&index), "size": index.len()})
        }
    };
    top["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "t"});
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": oci::INDEX, "manifests": [top]});
    fs::write(dir.join("index.json"), index.to_string()).expect("written");
}

/// A running docker-registry of Debian.
pub struct DockerRegistry {
    child: Child,
    dir: PathBuf,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl DockerRegistry {
    /// Starts a docker-registry that keeps its blobs below `dir`.
    pub fn start(dir: &Path) -> Self {
        DockerRegistry::start_tls(dir, None)
    }

    /// Starts a docker-registry with HTTPS if a certificate and its key are given.
    pub fn start_tls(dir: &Path, tls: Option<(&Path, &Path)>) -> Self {
        let tls = tls.map_or(String::new(), |(cert, key)| {
            format!("tls: {{certificate: {}, key: {}}}", cert.display(), key.display())
        });
        DockerRegistry::start_with(dir, "127.0.0.1", &tls)
    }

    /// Starts a docker-registry on an address of this host, with additional lines in the section `http:` of its
    /// configuration.
    pub fn start_with(dir: &Path, address: &str, http: &str) -> Self {
        DockerRegistry::start_configured(dir, address, http, "")
    }

    /// Starts a docker-registry on a Unix socket; the socket's path is its `address`.
    pub fn start_unix(dir: &Path, socket: &Path) -> Self {
        let (address, http) =
            (socket.display().to_string(), format!("net: unix, addr: {}", socket.display()));
        let registry = DockerRegistry::spawn(dir, address, &http, "");
        registry.await_listening(|| UnixStream::connect(socket).is_ok());
        registry
    }

    /// Starts a docker-registry that accepts one user, by Basic authentication.
    pub fn start_for(dir: &Path, username: &str, password: &str) -> Self {
        let path = dir.join("htpasswd");
        let line = Command::new("htpasswd").args(["-Bbn", username, password]).output();
        fs::write(&path, line.expect("htpasswd of Debian's package apache2-utils").stdout).expect("written");
        let auth = format!("auth: {{htpasswd: {{realm: 'a \"test\"', path: {}}}}}\n", path.display());
        DockerRegistry::start_configured(dir, "127.0.0.1", "", &auth)
    }

    /// Starts a docker-registry with additional lines in its configuration.
    pub fn start_configured(dir: &Path, address: &str, http: &str, more: &str) -> Self {
        let port = TcpListener::bind((address, 0)).and_then(|l| l.local_addr()).expect("a port").port();
        let address = match address.contains(':') {
            true => format!("[{address}]:{port}"),
            false => format!("{address}:{port}"),
        };
        let below = if http.is_empty() { String::new() } else { format!(", {http}") };
        let registry =
            DockerRegistry::spawn(dir, address.clone(), &format!("addr: '{address}'{below}"), more);
        registry.await_listening(|| TcpStream::connect(&address).is_ok());
        registry
    }

    fn spawn(dir: &Path, address: String, http: &str, more: &str) -> Self {
        let dir = dir.join("registry");
        fs::create_dir_all(&dir).expect("a directory");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{{http}}}\n{more}",
            dir.join("data").display()
        );
        fs::write(dir.join("config.yml"), config).expect("written");
        let child = Command::new("docker-registry")
            .args(["serve".as_ref(), dir.join("config.yml").as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry of Debian's package docker-registry");
        DockerRegistry { child, dir, address }
    }

    fn await_listening(&self, mut listens: impl FnMut() -> bool) {
        let deadline = Instant::now() + START;
        while !listens() {
            assert!(Instant::now() < deadline, "docker-registry does not listen on {}", self.address);
            std::thread::yield_now();
        }
    }

    /// Pushes `images` as `name` with skopeo, several of them as one index. Returns the reference.
    pub fn push(&self, name: &str, images: &[Image]) -> String {
        self.push_as(name, images, None)
    }

    /// Pushes `images` like [`DockerRegistry::push`], with `USER:PASSWORD`.
    pub fn push_as(&self, name: &str, images: &[Image], user: Option<&str>) -> String {
        let layout = self.dir.join(name.replace(['/', ':'], "_"));
        write_layout(&layout, images);
        let reference = format!("{}/{name}", self.address);
        let status = Command::new("skopeo")
            .args(["copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false"])
            .args(user.map(|user| format!("--dest-creds={user}")))
            .arg(format!("oci:{}:t", layout.display()))
            .arg(format!("docker://{reference}"))
            .status()
            .expect("skopeo of Debian's package skopeo");
        assert!(status.success(), "skopeo cannot push {reference}");
        reference
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A reply of a [`ScriptedRegistry`] to requests for one path.
#[derive(Clone, Debug)]
pub enum Reply {
    /// 200 with this media type and body.
    Ok(String, Vec<u8>),
    /// This status, with an OCI error body.
    Status(u16),
    /// 200 with the length of the whole body, of which this number of bytes is sent; then the connection is closed.
    Cut(Vec<u8>, usize),
    /// 200 with the length of the whole body, of which this number of bytes is sent; the connection stays open.
    Hang(Vec<u8>, usize),
    /// 206 with the bytes that `Range: bytes=N-` requests; 200 with the whole body for a request without a range.
    Ranged(Vec<u8>),
    /// 200 with the whole body; for a request with a range, this head (status and headers) and these bytes instead.
    Parted(Vec<u8>, String, Vec<u8>),
    /// This status, with this `Retry-After`.
    Later(u16, String),
    /// 200, and this number of bytes per second.
    Slow(Vec<u8>, usize),
    /// A redirect to this URL.
    Redirect(String),
    /// 401 with this `WWW-Authenticate`.
    Challenge(String),
}

/// A registry whose replies the test chooses; it handles each connection in a thread.
#[derive(Debug)]
pub struct ScriptedRegistry {
    /// `127.0.0.1:PORT`.
    pub address: String,
    state: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Replies by path, used in order; the last one is used again.
    replies: Mutex<HashMap<String, VecDeque<Reply>>>,
    /// Request lines, each with its `Authorization` header.
    requests: Mutex<Vec<(String, Option<String>)>>,
    sent: AtomicU64,
    /// The token that every path below `/v2/` requires, and the URL of its realm.
    token: Mutex<Option<(String, String)>>,
}

impl ScriptedRegistry {
    /// Starts a registry that replies 404 to every path.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let state = Arc::new(Shared::default());
        let shared = Arc::clone(&state);
        // This thread ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || converse(stream, &shared));
            }
        });
        ScriptedRegistry { address, state }
    }

    /// Sets the reply to requests for `path` (below `/v2/`).
    pub fn answer(&self, path: &str, reply: Reply) {
        self.answer_in_turn(path, [reply]);
    }

    /// Sets the replies to successive requests for `path`; the last one is used again.
    pub fn answer_in_turn(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        let replies = replies.into_iter().collect();
        self.state.replies.lock().expect("no panic").insert(format!("/v2/{path}"), replies);
    }

    /// Number of requests for `path`.
    pub fn request_count(&self, path: &str) -> usize {
        let path = format!("/v2/{path}");
        self.requests().iter().filter(|(requested, _)| *requested == path).count()
    }

    /// Requires `token` for every path below `/v2/` from now on; `/token` issues it.
    pub fn want_token(&self, token: &str) {
        let realm = format!("http://{}/token", self.address);
        *self.state.token.lock().expect("no panic") = Some((token.to_owned(), realm));
    }

    /// Publishes `image` as `name:t`, with correct replies.
    pub fn publish(&self, name: &str, image: &Image) {
        let manifest = Reply::Ok(oci::MANIFEST.to_owned(), image.manifest.clone());
        self.answer(&format!("{name}/manifests/t"), manifest.clone());
        self.answer(&format!("{name}/manifests/{}", image.digest()), manifest);
        for (digest, bytes) in &image.blobs {
            let reply = Reply::Ok("application/octet-stream".to_owned(), bytes.clone());
            self.answer(&format!("{name}/blobs/{digest}"), reply);
        }
    }

    /// `ADDRESS/name:t`.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}:t", self.address)
    }

    /// Requests so far, each with its `Authorization` header.
    pub fn requests(&self) -> Vec<(String, Option<String>)> {
        self.state.requests.lock().expect("no panic").clone()
    }

    /// Number of body bytes sent so far.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::SeqCst)
    }
}

fn converse(stream: TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
    let mut stream = stream;
    loop {
        let mut line = String::new();
        // Closes the connection of a client that does not speak HTTP, such as one that begins with a TLS greeting.
        if !matches!(reader.read_line(&mut line), Ok(1..)) || !line.starts_with("GET ") {
            return;
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut authorization = None;
        let mut from = None;
        loop {
            let mut header = String::new();
            if !matches!(reader.read_line(&mut header), Ok(1..)) {
                return;
            }
            let header = header.trim_end();
            if header.is_empty() {
                break;
            }
            if let Some(range) = header.to_ascii_lowercase().strip_prefix("range: bytes=") {
                from = range.strip_suffix('-').and_then(|from| from.parse().ok());
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("authorization")
            {
                authorization = Some(value.trim().to_owned());
            }
        }
        shared.requests.lock().expect("no panic").push((path.clone(), authorization.clone()));
        let token = shared.token.lock().expect("no panic").clone();
        let reply = match token {
            Some((token, _)) if path.starts_with("/token") => {
                let body = format!(r#"{{"access_token":"{token}"}}"#);
                Reply::Ok("application/json".to_owned(), body.into_bytes())
            }
            Some((token, realm)) if authorization != Some(format!("Bearer {token}")) => Reply::Challenge(
                format!(r#"Basic realm="none, really", Bearer realm="{realm}",service="a test""#),
            ),
            _ => {
                let mut replies = shared.replies.lock().expect("no panic");
                let bare = path.split('?').next().unwrap_or_default();
                let key = if replies.contains_key(&path) { &path } else { bare };
                let known = replies.get_mut(key).and_then(|replies| match replies.len() {
                    0 | 1 => replies.front().cloned(),
                    _ => replies.pop_front(),
                });
                known.unwrap_or(Reply::Status(if path == "/v2/" { 200 } else { 404 }))
            }
        };
        if send(&mut stream, reply, from, shared).is_err() {
            return;
        }
    }
}

fn send(stream: &mut TcpStream, reply: Reply, from: Option<usize>, shared: &Shared) -> std::io::Result<()> {
    let head = |len: usize, kind: &str| {
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\n\r\n")
    };
    match reply {
        Reply::Ok(kind, body) => {
            stream.write_all(head(body.len(), &kind).as_bytes())?;
            stream.write_all(&body)?;
            shared.sent.fetch_add(body.len() as u64, Ordering::SeqCst);
            Ok(())
        }
        Reply::Status(status) => {
            let body = r#"{"errors":[{"code":"TEST","message":"refused by the test"}]}"#;
            write!(stream, "HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
        Reply::Cut(body, at) => {
            stream.write_all(head(body.len(), "application/octet-stream").as_bytes())?;
            stream.write_all(&body[..at])?;
            shared.sent.fetch_add(at as u64, Ordering::SeqCst);
            Err(std::io::ErrorKind::ConnectionAborted.into())
        }
        Reply::Hang(body, at) => {
            stream.write_all(head(body.len(), "application/octet-stream").as_bytes())?;
            stream.write_all(&body[..at])?;
            shared.sent.fetch_add(at as u64, Ordering::SeqCst);
            // Waits until the client closes.
            std::io::Read::read(stream, &mut [0]).map(|_| ())
        }
        Reply::Ranged(body) => {
            let total = body.len();
            let rest = &body[from.unwrap_or(0).min(total)..];
            let head = match from {
                None => head(total, "application/octet-stream"),
                Some(from) => format!(
                    "HTTP/1.1 206 Partial\r\nContent-Range: bytes {from}-{}/{total}\r\nContent-Length: {}\r\n\r\n",
                    total - 1,
                    rest.len()
                ),
            };
            stream.write_all(head.as_bytes())?;
            stream.write_all(rest)?;
            shared.sent.fetch_add(rest.len() as u64, Ordering::SeqCst);
            Ok(())
        }
        Reply::Parted(whole, odd, part) => {
            let (head, body) = match from {
                None => (head(whole.len(), "application/octet-stream"), whole),
                Some(_) => (format!("HTTP/1.1 {odd}\r\nContent-Length: {}\r\n\r\n", part.len()), part),
            };
            stream.write_all(head.as_bytes())?;
            stream.write_all(&body)?;
            shared.sent.fetch_add(body.len() as u64, Ordering::SeqCst);
            Ok(())
        }
        Reply::Later(status, after) => {
            write!(stream, "HTTP/1.1 {status} Later\r\nRetry-After: {after}\r\nContent-Length: 0\r\n\r\n")
        }
        Reply::Slow(body, rate) => {
            stream.write_all(head(body.len(), "application/octet-stream").as_bytes())?;
            for part in body.chunks((rate / 50).max(1)) {
                stream.write_all(part)?;
                shared.sent.fetch_add(part.len() as u64, Ordering::SeqCst);
                // The rate is the fault itself; no test waits for it.
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        }
        Reply::Challenge(challenge) => {
            write!(
                stream,
                "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n"
            )
        }
        Reply::Redirect(to) => {
            write!(stream, "HTTP/1.1 307 Temporary Redirect\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
        }
    }
}
