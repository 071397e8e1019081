//! Writes saved images: into a tar in a file or a pipe, or into the directory of an OCI image layout.
//!
//! The caller gives documents and blobs the names that they have in an OCI layout. The output depends only on the
//! images: a tar contains no times and no owners of this host. [`LayoutWriter`] writes only beneath the directory's
//! descriptor; if the save fails, it removes the files that it added. Called by [`crate::image::archive::save`].

use crate::image::archive::manifest::{CONTAINERD_NAME, REF_NAME};
use crate::image::archive::oci_layout::open_beneath;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, renameat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, SFlag, fchmod, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use sampan_job::cancel::{Cancel, Cancelled};
use sampan_oci as oci;
use sampan_os::file_lock;
use sampan_os::walk_tree::kind;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

/// Number of bytes that a write into a pipe takes without blocking after poll(2) has reported the pipe as writable.
/// pipe(7), "PIPE_BUF".
const ATOMIC: usize = 4096;
/// How often a writer to a full pipe checks whether the job was cancelled, in milliseconds.
const LOOK_MS: u16 = 200;
/// How long a replication may hold the lock of the directory, which it does while it changes the index.
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// Name of an incomplete file. One name is enough: only one save at a time writes into a directory.
const PARTIAL: &str = ".sampan-partial";

/// The target of a save.
pub trait ArchiveWriter {
    /// Writes a small file.
    ///
    /// # Errors
    /// The target cannot be written.
    fn document(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Whether the target already has the blob `name` with `size` bytes, so that the caller need not write the blob.
    fn has_blob(&mut self, name: &str, size: u64) -> bool;

    /// Writes a file of `size` bytes from `from`.
    ///
    /// # Errors
    /// `from` cannot be read, or the target cannot be written; [`io::ErrorKind::UnexpectedEof`] if `from` ends early.
    fn blob(&mut self, name: &str, size: u64, from: &mut dyn Read) -> io::Result<()>;

    /// Completes the target: adds the tar's end mark or the layout's index. A reader sees the new images only after
    /// this call.
    ///
    /// # Errors
    /// The target cannot be written.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// Writes a tar, in order.
pub struct TarWriter<'a> {
    builder: tar::Builder<CancellableWriter<'a>>,
}

impl<'a> TarWriter<'a> {
    /// Makes a writer into `file`, a file or a pipe.
    pub fn new(file: File, cancel: &'a Cancel) -> Self {
        let is_file = file.metadata().is_ok_and(|meta| meta.is_file());
        TarWriter {
            builder: tar::Builder::new(CancellableWriter { file, is_file, is_closed: false, cancel }),
        }
    }

    /// Writes an empty directory.
    ///
    /// # Errors
    /// The tar cannot be written.
    pub fn directory(&mut self, name: &str) -> io::Result<()> {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        self.builder.append_data(&mut header, name, io::empty())
    }
}

/// A tar header without time and owner, so that equal files give equal bytes.
fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

impl ArchiveWriter for TarWriter<'_> {
    fn document(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.blob(name, bytes.len() as u64, &mut &*bytes)
    }

    fn has_blob(&mut self, _name: &str, _size: u64) -> bool {
        false
    }

    fn blob(&mut self, name: &str, size: u64, from: &mut dyn Read) -> io::Result<()> {
        let mut header = header(tar::EntryType::Regular, 0o444, size);
        let mut exact = Exact { from, left: size };
        self.builder.append_data(&mut header, name, &mut exact)?;
        exact.check()
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.builder.finish()
    }
}

impl Drop for TarWriter<'_> {
    fn drop(&mut self) {
        // Without this flag, the builder would write an end mark, and a reader would take an incomplete tar for a
        // complete one.
        self.builder.get_mut().is_closed = true;
    }
}

/// A reader of exactly as many bytes as the tar header announces.
struct Exact<'a> {
    from: &'a mut dyn Read,
    left: u64,
}

impl Exact<'_> {
    fn check(&self) -> io::Result<()> {
        if self.left == 0 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl Read for Exact<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let len = self.from.read(into.get_mut(..want).unwrap_or_default())?;
        self.left -= len as u64;
        Ok(len)
    }
}

/// A writer into a descriptor that may be a full pipe; a write fails after the job was cancelled.
struct CancellableWriter<'a> {
    file: File,
    is_file: bool,
    is_closed: bool,
    cancel: &'a Cancel,
}

impl Write for CancellableWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        loop {
            self.cancel.check().map_err(|Cancelled| io::Error::other("cancelled"))?;
            if self.is_file {
                return self.file.write(bytes);
            }
            let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut fds, PollTimeout::from(LOOK_MS))? == 0 {
                continue;
            }
            match self.file.write(bytes.get(..bytes.len().min(ATOMIC)).unwrap_or_default()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Adds images to the directory of an OCI image layout.
pub struct LayoutWriter<'a> {
    dir: OwnedFd,
    cancel: &'a Cancel,
    /// Owner and group of the directory, which every new file gets.
    owner: (u32, u32),
    /// The files that this writer added; if the save fails, `drop` removes them.
    made: Vec<String>,
    finished: bool,
    index: Vec<u8>,
}

impl<'a> LayoutWriter<'a> {
    /// Makes a writer beneath `dir`.
    ///
    /// # Errors
    /// `dir` is no directory, or fstat(2) fails.
    pub fn new(dir: OwnedFd, cancel: &'a Cancel) -> io::Result<Self> {
        let file = File::from(dir.try_clone()?);
        let meta = file.metadata()?;
        if !meta.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let owner = (meta.uid(), meta.gid());
        Ok(LayoutWriter { dir, cancel, owner, made: Vec::new(), finished: false, index: Vec::new() })
    }

    fn own(&self, fd: impl AsFd) -> io::Result<()> {
        let (uid, gid) = self.owner;
        match nix::unistd::fchown(fd, Some(uid.into()), Some(gid.into())) {
            // EPERM: the engine is not root. Files that an ordinary user creates already have the right owner.
            Err(Errno::EPERM) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Opens the parent directory of `name` and creates missing directories; also returns the last part of `name`.
    fn parent<'n>(&self, name: &'n str) -> io::Result<(OwnedFd, &'n str)> {
        let mut at = self.dir.try_clone()?;
        let (parents, last) = name.rsplit_once('/').unwrap_or(("", name));
        for part in parents.split('/').filter(|part| !part.is_empty()) {
            let made = match mkdirat(&at, part, Mode::from_bits_truncate(0o755)) {
                Err(Errno::EEXIST) => false,
                other => other.map(|()| true)?,
            };
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
            at = open_beneath(&at, part, flags, Mode::empty())?;
            if made {
                self.own(&at)?;
            }
        }
        Ok((at, last))
    }

    /// Writes a complete file, then renames it to `name`.
    fn put(&mut self, name: &str, from: &mut dyn Read) -> io::Result<()> {
        let (parent, last) = self.parent(name)?;
        // Replace only a regular file, and follow no link: the engine may be root, and could write anywhere.
        let mode = match fstatat(&parent, last, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(there) if kind(&there) == SFlag::S_IFREG => Mode::from_bits_truncate(there.st_mode & 0o777),
            Ok(_) => return Err(io::Error::other(format!("{name} exists and is no regular file"))),
            Err(Errno::ENOENT) => Mode::from_bits_truncate(0o644),
            Err(errno) => return Err(errno.into()),
        };
        let remove = || unlinkat(&parent, PARTIAL, UnlinkatFlags::NoRemoveDir);
        // A killed engine may have left an incomplete file.
        let _ = remove();
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        let mut file = File::from(open_beneath(&parent, PARTIAL, flags, Mode::from_bits_truncate(0o644))?);
        let written = self
            .own(&file)
            .and_then(|()| Ok(fchmod(&file, mode)?))
            .and_then(|()| self.copy(from, &mut file))
            .and_then(|()| file.sync_all());
        let named = written.and_then(|()| Ok(renameat(&parent, PARTIAL, &parent, last)?));
        if named.is_err() {
            let _ = remove();
        }
        named
    }

    fn copy(&self, from: &mut dyn Read, to: &mut File) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            self.cancel.check().map_err(|Cancelled| io::Error::other("cancelled"))?;
            match from.read(&mut buffer)? {
                0 => return Ok(()),
                len => to.write_all(buffer.get(..len).unwrap_or_default())?,
            }
        }
    }

    fn size(&self, name: &str) -> Option<u64> {
        let fd = open_beneath(&self.dir, name, OFlag::O_RDONLY, Mode::empty()).ok()?;
        File::from(fd).metadata().ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len())
    }

    /// The directory's index with the new entries added. A new entry replaces an old entry of the same name.
    fn merged(&self) -> io::Result<Vec<u8>> {
        let Some(size) = self.size("index.json") else { return Ok(self.index.clone()) };
        let bad = |why: String| {
            io::Error::new(io::ErrorKind::InvalidData, format!("the existing index.json {why}"))
        };
        if size > oci::MANIFEST_MAX {
            return Err(bad(format!("has {size} bytes, at most {} are read", oci::MANIFEST_MAX)));
        }
        let file = File::from(open_beneath(&self.dir, "index.json", OFlag::O_RDONLY, Mode::empty())?);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        file.read_exact_at(&mut bytes, 0)?;
        let json = |e: serde_json::Error| bad(format!("is no index: {e}"));
        // Parse a JSON value rather than the type [`Index`], which would drop unknown fields.
        let mut old: serde_json::Value = serde_json::from_slice(&bytes).map_err(json)?;
        let new: serde_json::Value = serde_json::from_slice(&self.index).map_err(json)?;
        let entries = new.get("manifests").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
        let list = old.get_mut("manifests").and_then(serde_json::Value::as_array_mut);
        let list = list.ok_or_else(|| bad("has no list of manifests".to_owned()))?;
        list.retain(|there| !entries.iter().any(|entry| replaces(entry, there)));
        list.extend(entries);
        serde_json::to_vec(&old).map_err(json)
    }
}

/// Whether the entry `new` replaces the entry `old`: their names are equal, or neither has a name and their digests are
/// equal.
fn replaces(new: &serde_json::Value, old: &serde_json::Value) -> bool {
    let word = |entry: &serde_json::Value, key: &str| {
        entry.get("annotations").and_then(|a| a.get(key)).and_then(|v| v.as_str()).map(str::to_owned)
    };
    let name = |entry| word(entry, REF_NAME).or_else(|| word(entry, CONTAINERD_NAME));
    match (name(new), name(old)) {
        (None, None) => new.get("digest") == old.get("digest"),
        (new, old) => new == old,
    }
}

impl ArchiveWriter for LayoutWriter<'_> {
    fn document(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if name == "index.json" {
            // The index names the other files, so `finish` writes it last.
            self.index = bytes.to_vec();
            return Ok(());
        }
        if self.size(name) == Some(bytes.len() as u64) {
            return Ok(());
        }
        self.blob(name, bytes.len() as u64, &mut &*bytes)
    }

    fn has_blob(&mut self, name: &str, size: u64) -> bool {
        self.size(name) == Some(size)
    }

    fn blob(&mut self, name: &str, size: u64, from: &mut dyn Read) -> io::Result<()> {
        let is_new = self.size(name).is_none();
        let mut exact = Exact { from, left: size };
        self.put(name, &mut exact)?;
        if is_new {
            self.made.push(name.to_owned());
        }
        exact.check()
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        // A replication may change the index at the same time; it takes this lock as well.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let dir = File::from(open_beneath(&self.dir, ".", flags, Mode::empty())?);
        let _lock = match file_lock::take_within(dir, LOCK_WAIT) {
            Err(Errno::EWOULDBLOCK) => return Err(Errno::EWOULDBLOCK.into()),
            // A file system without locks.
            other => other.ok(),
        };
        let index = self.merged()?;
        self.put("index.json", &mut &*index)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for LayoutWriter<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        for name in &self.made {
            let removed = self.parent(name).and_then(|(parent, last)| {
                unlinkat(&parent, last, UnlinkatFlags::NoRemoveDir).map_err(io::Error::from)
            });
            if let Err(error) = removed {
                log::warn!("cannot remove {name} of an OCI layout whose save failed: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn entry(name: Option<&str>, digest: &str) -> Value {
        let mut entry = json!({"mediaType": oci::MANIFEST, "digest": digest, "size": 1});
        if let Some(name) = name {
            entry["annotations"] = json!({REF_NAME: name});
        }
        entry
    }

    fn index(entries: &[Value]) -> Vec<u8> {
        json!({"schemaVersion": 2, "manifests": entries}).to_string().into_bytes()
    }

    #[test]
    fn a_layout_keeps_what_it_has_and_an_image_takes_the_place_of_its_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let cancel = Cancel::default();
        let there = index(&[entry(Some("a"), "1"), entry(Some("b"), "2"), entry(None, "3")]);
        let mut there: Value = serde_json::from_slice(&there).expect("JSON");
        there["annotations"] = json!({"by": "somebody"});
        std::fs::write(dir.path().join("index.json"), there.to_string()).expect("written");
        let open = || {
            LayoutWriter::new(File::open(dir.path()).expect("opened").into(), &cancel).expect("a directory")
        };
        let mut outlet = Box::new(open());
        outlet.blob("blobs/sha256/x", 3, &mut &b"abc"[..]).expect("written");
        outlet.document("index.json", &index(&[entry(Some("b"), "9"), entry(None, "3")])).expect("kept");
        outlet.finish().expect("finished");
        let merged: Value =
            serde_json::from_slice(&std::fs::read(dir.path().join("index.json")).expect("read"))
                .expect("JSON");
        let digests: Vec<&str> = merged["manifests"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|e| e["digest"].as_str())
            .collect();
        assert_eq!(digests, ["1", "9", "3"]);
        assert_eq!(merged["annotations"]["by"], "somebody");
        // A failed save removes only the files that it added.
        let mut outlet = open();
        outlet.blob("blobs/sha256/y", 1, &mut &b"y"[..]).expect("written");
        assert!(outlet.blob("blobs/sha256/z", 5, &mut &b"z"[..]).is_err());
        drop(outlet);
        let blobs = std::fs::read_dir(dir.path().join("blobs/sha256")).expect("listed");
        assert_eq!(blobs.map(|e| e.expect("listed").file_name()).collect::<Vec<_>>(), ["x"]);
    }

    #[test]
    fn a_tar_is_whole_or_has_no_end_mark() {
        let cancel = Cancel::default();
        let written = |is_whole: bool| {
            let mut file = tempfile::tempfile().expect("a file");
            let mut outlet = Box::new(TarWriter::new(file.try_clone().expect("a descriptor"), &cancel));
            outlet.document("a", b"1").expect("written");
            match is_whole {
                true => outlet.finish().expect("finished"),
                false => drop(outlet),
            }
            let mut bytes = Vec::new();
            io::Seek::rewind(&mut file).expect("a file");
            file.read_to_end(&mut bytes).expect("read");
            bytes.len()
        };
        assert_eq!((written(true), written(false)), (2048, 1024));
    }
}
