//! nginx as the registry that the benchmark pulls its images from.
//!
//! docker-registry, in which the images are made, would be a part of what is measured: it takes a buffer of 4 MiB for
//! each blob, and collects that garbage afterwards, which for an image of 2 MB takes a third of the time, on the two
//! CPUs that a puller with two threads uses. nginx replies within a tenth of a millisecond.
//!
//! ```text
//! ROOT/v2/NAME/manifests/TAG, ROOT/v2/NAME/manifests/DIGEST    their media type and digest are in the configuration
//! ROOT/v2/NAME/blobs/DIGEST
//! ```
//! OCI distribution-spec, "Pull"; no other part of the specification.

use crate::get::{self, Connection};
use sampan_oci as oci;
use sampan_oci::digest::Digest;
use std::fs::{self, File};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// A running nginx; it ends when this is dropped.
pub struct Nginx {
    child: Option<Child>,
    dir: PathBuf,
    /// `location` blocks of its configuration, one for each manifest.
    manifests: String,
    /// `HOST:PORT` where it listens.
    pub address: String,
}

impl Nginx {
    /// Prepares an nginx without images that keeps its files below `dir`. It starts with the first image.
    ///
    /// # Errors The directory cannot be made.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let dir = dir.join("nginx");
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        Ok(Nginx { child: None, dir, manifests: String::new(), address })
    }

    /// Copies an image of another registry, `HOST:PORT/NAME:TAG`; its name here is `NAME:TAG`.
    ///
    /// # Errors The image cannot be fetched, or nginx does not start.
    pub fn take(&mut self, reference: &str) -> io::Result<()> {
        let (host, name, tag) = get::parts(reference)?;
        let mut from = Connection::open(host)?;
        let manifest = from.document(&format!("/v2/{name}/manifests/{tag}"), oci::MANIFEST)?;
        let read: oci::Manifest = serde_json::from_slice(&manifest)?;
        let digest = Digest::of(&manifest);
        let below = self.dir.join("root/v2").join(name);
        fs::create_dir_all(below.join("manifests"))?;
        fs::create_dir_all(below.join("blobs"))?;
        for reference in [tag.to_owned(), digest.to_string()] {
            fs::write(below.join("manifests").join(&reference), &manifest)?;
            self.manifests.push_str(&format!(
                "location = /v2/{name}/manifests/{reference} {{ types {{}} default_type {}; \
                 add_header Docker-Content-Digest {digest}; }}\n",
                read.media_type
            ));
        }
        for blob in read.layers.iter().chain([&read.config]) {
            let mut body = from.get(&format!("/v2/{name}/blobs/{}", blob.digest), "*/*")?;
            io::copy(&mut body, &mut File::create(below.join("blobs").join(blob.digest.to_string()))?)?;
        }
        self.restart()
    }

    /// Restarts nginx with a configuration for the present images.
    fn restart(&mut self) -> io::Result<()> {
        self.stop();
        let config = self.dir.join("nginx.conf");
        let (dir, address, manifests) = (self.dir.display(), &self.address, &self.manifests);
        let temporaries: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {dir}/{kind};\n"))
            .concat();
        fs::write(
            &config,
            format!(
                "worker_processes 1; daemon off; user root;\npid {dir}/pid; error_log {dir}/log;\n\
                 events {{ worker_connections 256; }}\n\
                 http {{\naccess_log off; sendfile on;\n{temporaries}\
                 server {{\nlisten {address}; root {dir}/root; types {{}} default_type application/octet-stream;\n\
                 location = /v2/ {{ return 200 '{{}}'; }}\n{manifests}}}\n}}\n"
            ),
        )?;
        let mut nginx = Command::new("nginx");
        nginx.arg("-e").arg(self.dir.join("log")).arg("-c").arg(&config);
        self.child = Some(nginx.stdin(Stdio::null()).spawn()?);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(&self.address).is_err() {
            if Instant::now() > deadline {
                let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                return Err(io::Error::other(format!("nginx does not listen on {}: {log}", self.address)));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// nginx's worker ends with its master.
    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = child.wait();
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
