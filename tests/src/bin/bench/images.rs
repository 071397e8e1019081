//! The images of the pull benchmark: made once from a seed, and kept in a registry's directory.
//!
//! Called before anything is measured. Each layer is a tar of many files of mixed sizes, with directories, symbolic and
//! hard links, always packed by the same libraries.

use crate::content::Content;
use flate2::{Compression, write::GzEncoder};
use sampan_oci as oci;
use sampan_oci::digest::{Algorithm, Digest, Hasher};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use tar::{Builder, EntryType, Header};

/// Part of the tag: increase it when the content of images changes, so that they are made again.
const VERSION: &str = "1";
/// Modification time of the first file.
const EPOCH: u64 = 1_700_000_000;

/// The shape of an image.
#[derive(Debug)]
pub struct Shape {
    /// Name in the table.
    pub name: &'static str,
    layers: u64,
    /// Bytes of the files in all layers.
    unpacked: u64,
    zstd: bool,
}

/// All shapes.
pub const SHAPES: [Shape; 4] = [
    Shape { name: "S", layers: 1, unpacked: 5 << 20, zstd: false },
    Shape { name: "M", layers: 5, unpacked: 372 << 20, zstd: false },
    Shape { name: "M-zstd", layers: 5, unpacked: 372 << 20, zstd: true },
    Shape { name: "L", layers: 8, unpacked: 1984 << 20, zstd: false },
];

impl Shape {
    /// Repository and tag of the image.
    pub fn repository(&self) -> (String, String) {
        (format!("bench/{}", self.name.to_lowercase()), format!("v{VERSION}"))
    }

    /// True if the registry with files below `data` has the image.
    fn is_in(&self, data: &Path) -> bool {
        let (name, tag) = self.repository();
        repository(data, &name).join("_manifests/tags").join(tag).join("current/link").is_file()
    }

    /// Makes the image and pushes it to the registry at `address` with files below `data`, unless it is there.
    ///
    /// # Errors A file cannot be written, or skopeo cannot push the image.
    pub fn ensure(&self, address: &str, data: &Path, scratch: &Path) -> io::Result<()> {
        if self.is_in(data) {
            return Ok(());
        }
        eprintln!("making image {} (once)", self.name);
        let dir = tempfile::Builder::new().prefix("layout.").tempdir_in(scratch)?;
        self.write_layout(dir.path())?;
        let (name, tag) = self.repository();
        let status = Command::new("skopeo")
            .args(["copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"])
            .arg(format!("oci:{}:t", dir.path().display()))
            .arg(format!("docker://{address}/{name}:{tag}"))
            .status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other("skopeo cannot push an image")) }
    }

    fn write_layout(&self, dir: &Path) -> io::Result<()> {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        let layers: Vec<Layer> =
            (0..self.layers).map(|nth| self.write_layer(nth, &blobs)).collect::<Result<_, _>>()?;
        let put = |value: &serde_json::Value| -> io::Result<(Digest, usize)> {
            let bytes = value.to_string().into_bytes();
            let digest = Digest::of(&bytes);
            fs::write(blobs.join(digest.hex()), &bytes)?;
            Ok((digest, bytes.len()))
        };
        let (config, size) = put(&serde_json::json!({
            "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
            "os": "linux", "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| &l.diff).collect::<Vec<_>>()},
        }))?;
        let kind = oci::LAYER[if self.zstd { 2 } else { 1 }];
        let describe = |l: &Layer| serde_json::json!({"mediaType": kind, "digest": l.digest, "size": l.size});
        let (manifest, manifest_size) = put(&serde_json::json!({
            "schemaVersion": 2, "mediaType": oci::MANIFEST,
            "config": {"mediaType": oci::CONFIG, "digest": config, "size": size},
            "layers": layers.iter().map(describe).collect::<Vec<_>>(),
        }))?;
        let top = serde_json::json!({
            "mediaType": oci::MANIFEST, "digest": manifest, "size": manifest_size,
            "annotations": {"org.opencontainers.image.ref.name": "t"},
        });
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": oci::INDEX, "manifests": [top]});
        fs::write(dir.join("index.json"), index.to_string())?;
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
    }

    fn write_layer(&self, nth: u64, blobs: &Path) -> io::Result<Layer> {
        let path = blobs.join("layer");
        let file = Hashed::new(BufWriter::with_capacity(1 << 20, File::create(&path)?));
        // M and M-zstd hold equal files.
        let seed = self.layers * 1000 + nth;
        let bytes = self.unpacked / self.layers;
        let (diff, (mut file, digest, size)) = if self.zstd {
            let (diff, encoder) = write_tar(zstd::Encoder::new(file, 3)?, seed, nth, bytes)?;
            (diff, encoder.finish()?.finish())
        } else {
            let (diff, encoder) = write_tar(GzEncoder::new(file, Compression::new(6)), seed, nth, bytes)?;
            (diff, encoder.finish()?.finish())
        };
        file.flush()?;
        fs::rename(path, blobs.join(digest.hex()))?;
        Ok(Layer { diff, digest, size })
    }
}

struct Layer {
    diff: Digest,
    digest: Digest,
    size: u64,
}

fn repository(data: &Path, name: &str) -> PathBuf {
    data.join("docker/registry/v2/repositories").join(name)
}

/// Paths of an image's layer blobs in the registry with files below `data`.
///
/// # Errors The directory does not have the layout of Debian's docker-registry.
pub fn layer_files(data: &Path, shape: &Shape) -> io::Result<Vec<PathBuf>> {
    let (name, tag) = shape.repository();
    let link = repository(data, &name).join("_manifests/tags").join(tag).join("current/link");
    let manifest = fs::read(blob_file(data, fs::read_to_string(link)?.trim())?)?;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest)?;
    let layers = manifest["layers"].as_array().into_iter().flatten();
    layers.map(|layer| blob_file(data, layer["digest"].as_str().unwrap_or_default())).collect()
}

fn blob_file(data: &Path, digest: &str) -> io::Result<PathBuf> {
    let digest = Digest::parse(digest).map_err(io::Error::other)?;
    let start = digest.hex().get(..2).unwrap_or_default();
    Ok(data.join("docker/registry/v2/blobs/sha256").join(start).join(digest.hex()).join("data"))
}

/// A writer that hashes and counts the bytes it writes.
struct Hashed<W> {
    below: W,
    hasher: Hasher,
    len: u64,
}

impl<W: Write> Hashed<W> {
    fn new(below: W) -> Self {
        Hashed { below, hasher: Hasher::new(Algorithm::Sha256), len: 0 }
    }

    fn finish(self) -> (W, Digest, u64) {
        (self.below, self.hasher.finish(), self.len)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.below.write(bytes)?;
        self.hasher.update(&bytes[..len]);
        self.len += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.below.flush()
    }
}

/// Writes the tar of layer `nth`, whose files have about `bytes` bytes; returns its diff ID and the writer.
fn write_tar<W: Write>(to: W, seed: u64, nth: u64, bytes: u64) -> io::Result<(Digest, W)> {
    let mut tar = Builder::new(Hashed::new(to));
    let mut content = Content::new(seed);
    let (mut buffer, mut left, mut number) = (Vec::new(), bytes, 0_u64);
    let mut dir = String::new();
    let mut last = String::new();
    while left > 0 {
        if number % 24 == 0 {
            dir = directory(&mut content, nth);
            let mut header = header(EntryType::Directory, 0o755, number);
            tar.append_data(&mut header, format!("{dir}/"), io::empty())?;
        }
        number += 1;
        let path = format!("{dir}/{}{number:x}", content.random().pick(&["lib", "data-", "mod_", "x"]));
        match content.random().below(100) {
            0 if !last.is_empty() => {
                tar.append_link(&mut header(EntryType::Link, 0o644, number), &path, &last)?;
            }
            1..8 => tar.append_link(&mut header(EntryType::Symlink, 0o777, number), &path, "../lib/there")?,
            _ => {
                let len = (file_size(&mut content)).min(left);
                content.fill(usize::try_from(len).map_err(io::Error::other)?, &mut buffer);
                let mode = if content.random().one_in(6) { 0o755 } else { 0o644 };
                let mut header = header(EntryType::Regular, mode, number);
                header.set_size(len);
                tar.append_data(&mut header, &path, buffer.as_slice())?;
                left -= len;
                last = path;
            }
        }
    }
    let (to, diff, _) = tar.into_inner()?.finish();
    Ok((diff, to))
}

/// A directory of depth three to six; layers share the upper directories.
fn directory(content: &mut Content, nth: u64) -> String {
    let random = content.random();
    let top = *random.pick(&["usr/lib", "usr/share", "usr/bin", "etc", "opt/app", "var/lib"]);
    let mut path = format!("{top}/part{}", random.below(12));
    for _ in 0..random.below(4) {
        path += &format!("/d{}", random.below(8));
    }
    format!("{path}/l{nth}-{:x}", random.below(1 << 24))
}

/// From 64 bytes to 128 KiB, on a logarithmic scale; one in 400 has 1 to 8 MiB. The average is 27 KiB.
fn file_size(content: &mut Content) -> u64 {
    let random = content.random();
    let (least, doublings) = if random.one_in(400) { (1 << 20, 3) } else { (64, 11) };
    let base = least << random.below(doublings);
    (base + random.below(base)) as u64
}

fn header(kind: EntryType, mode: u32, number: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(EPOCH + number);
    header.set_size(0);
    header
}
