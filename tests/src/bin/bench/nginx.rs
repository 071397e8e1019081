//! The registry that a benchmark's images are pulled from: their files, and nginx.
//!
//! docker-registry, which they are made with, is one of the things that a pull waits for: it takes a buffer of 4 MiB
//! for each blob, however small, and collects its garbage after, which for an image of 2 MB is a third of all, on the
//! two processors that a puller with two threads wants to run on. Here an answer costs a tenth of a millisecond, and it
//! is made by nobody who is measured: so what is measured is who pulls.
//!
//! ```text
//! ROOT/v2/NAME/manifests/TAG, ROOT/v2/NAME/manifests/DIGEST    their media type and digest are in the configuration
//! ROOT/v2/NAME/blobs/DIGEST
//! ```
//! OCI distribution-spec, "Pull"; nothing else of it.

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

/// It, until this goes.
pub struct Nginx {
    child: Option<Child>,
    dir: PathBuf,
    /// `location` blocks, one for each manifest.
    manifests: String,
    /// Where it listens: `HOST:PORT`.
    pub address: String,
}

impl Nginx {
    /// One without images, with all that it has below `dir`. It listens from the first image on.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let dir = dir.join("nginx");
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        Ok(Nginx { child: None, dir, manifests: String::new(), address })
    }

    /// Takes an image of another registry, `HOST:PORT/NAME:TAG`; it is `NAME:TAG` here.
    ///
    /// # Errors
    /// It cannot be fetched, or nginx does not start.
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

    /// Starts it anew: with the images that there are now.
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

    /// Its worker ends with it.
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
