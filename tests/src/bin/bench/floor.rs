//! The floor of every pull: a minimal program that does only what a pull with unpacking must do.
//!
//! The benchmark runs itself as `bench floor THREADS files|synced|stream TARGET SOURCE...`, in a separate process. A
//! SOURCE is the file of a layer's blob, or `http://HOST:PORT/NAME:TAG`, an image of a registry. For each layer's blob,
//! in pieces of 64 KiB, in one pass:
//!
//! 1. read the blob: from a file (with a warm page cache, no HTTP, no sockets), or from a registry: first manifest and
//!    config, which are written to files, then the layers, one request after the other over one connection
//!    ([`crate::get`]);
//! 2. SHA-256 of the compressed bytes, and a copy of them into a file;
//! 3. inflate (zlib-rs) or zstd;
//! 4. SHA-256 of the unpacked bytes (the diff ID);
//! 5. `files`: each tar entry becomes a file with mode and time, without owners, xattrs or checks of its path;
//!    `stream`: all unpacked bytes go into one file per layer instead.
//!
//! With one thread, all of this happens in sequence; from a registry, that is *the one-thread floor* of the bars
//! (network, SHA-256, disk, inflate, diff ID, untar). With two threads, each takes whole layers. Nothing is synced,
//! except at the end with `synced` (which is `files` otherwise): this is the cost of durability, which only Sampan's
//! pull ensures. No digest is compared. The libraries are the engine's, since other libraries would give another floor.

use crate::get::{self, Connection};
use sampan_layer::decompress;
use sampan_oci as oci;
use sampan_oci::digest::{Algorithm, Digest, Hasher};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use tar::{Archive, EntryType};

/// Bytes per read.
const PIECE: usize = 64 << 10;
/// Largest zstd window, as a power of two.
const WINDOW_LOG: u32 = 27;

/// Runs the floor.
///
/// # Errors A file cannot be read or written, or the arguments are wrong.
pub fn run(args: &[String]) -> io::Result<()> {
    let [threads, what, target, sources @ ..] = args else {
        return Err(io::Error::other("usage: bench floor THREADS files|synced|stream TARGET SOURCE..."));
    };
    let target = Path::new(target);
    if let [source] = sources
        && let Some(image) = source.strip_prefix("http://")
    {
        return fetch(image, target, what != "stream");
    }
    let threads: usize = threads.parse().map_err(io::Error::other)?;
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<()> {
        while let Some(blob) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
            let name = Path::new(blob).parent().and_then(Path::file_name).unwrap_or_default();
            layer(File::open(blob)?, &target.join(name), what != "stream")?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mine = work();
        let theirs = others.into_iter().map(|other| other.join().expect("no panic"));
        theirs.chain([mine]).collect::<io::Result<()>>()
    })?;
    if what == "synced" {
        nix::unistd::syncfs(File::open(target)?)?;
    }
    Ok(())
}

/// Fetches a whole image, `HOST:PORT/NAME:TAG`, over one connection.
fn fetch(image: &str, target: &Path, files: bool) -> io::Result<()> {
    let (host, name, tag) = get::parts(image)?;
    let mut connection = Connection::open(host)?;
    let manifest = connection.document(&format!("/v2/{name}/manifests/{tag}"), oci::MANIFEST)?;
    fs::write(target.join("manifest"), &manifest)?;
    let manifest: oci::Manifest = serde_json::from_slice(&manifest)?;
    let blob = |digest: &Digest| format!("/v2/{name}/blobs/{digest}");
    let config = connection.document(&blob(&manifest.config.digest), "*/*")?;
    fs::write(target.join("config"), &config)?;
    for each in &manifest.layers {
        let body = connection.get(&blob(&each.digest), "*/*")?;
        layer(body, &target.join(each.digest.hex()), files)?;
    }
    Ok(())
}

fn layer(from: impl Read + Send, dir: &Path, files: bool) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let mut packed = Tee { from, hasher: sha256(), copy: Some(File::create(dir.join("blob"))?) };
    let diff = unpack(&mut packed, dir, files)?;
    println!("{} {diff}", packed.hasher.finish());
    Ok(())
}

/// Steps 3 to 5; returns the diff ID.
fn unpack(packed: impl Read + Send, dir: &Path, files: bool) -> io::Result<Digest> {
    let (_, unpacked) = decompress::open(packed, WINDOW_LOG)?;
    let copy = if files { None } else { Some(File::create(dir.join("layer.tar"))?) };
    let mut unpacked = Tee { from: unpacked, hasher: sha256(), copy };
    if files {
        untar(&mut unpacked, &dir.join("diff"))?;
    }
    let mut piece = vec![0; PIECE];
    while unpacked.read(&mut piece)? > 0 {}
    Ok(unpacked.hasher.finish())
}

fn sha256() -> Hasher {
    Hasher::new(Algorithm::Sha256)
}

/// A reader that hashes the bytes it reads and copies them into a file.
struct Tee<R> {
    from: R,
    hasher: Hasher,
    copy: Option<File>,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.from.read(into)?;
        let bytes = &into[..len];
        self.hasher.update(bytes);
        if let Some(copy) = &mut self.copy {
            copy.write_all(bytes)?;
        }
        Ok(len)
    }
}

/// Unpacks a tar that the benchmark itself has made; not safe for any other.
fn untar(from: impl Read, dir: &Path) -> io::Result<()> {
    let mut archive = Archive::new(io::BufReader::with_capacity(PIECE, from));
    let mut piece = vec![0; PIECE];
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path: PathBuf = dir.join(entry.path()?);
        let link = entry.link_name()?.map(|link| link.into_owned()).unwrap_or_default();
        let mode = entry.header().mode()?;
        match entry.header().entry_type() {
            EntryType::Directory => fs::create_dir_all(&path)?,
            EntryType::Symlink => symlink(link, &path)?,
            EntryType::Link => fs::hard_link(dir.join(link), &path)?,
            _ => {
                let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
                loop {
                    match entry.read(&mut piece)? {
                        0 => break,
                        len => file.write_all(&piece[..len])?,
                    }
                }
                file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(entry.header().mtime()?))?;
            }
        }
    }
    Ok(())
}
