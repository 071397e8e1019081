//! The directories of containers: created and removed completely, and read when the engine starts.
//!
//! Called by the manager and its threads. `DATA/containers/ID` contains the files that survive a reboot,
//! `RUN/containers/…` the other files. A directory has the name `.ID` while it is created or removed: if the engine
//! finds such a name when it starts, the directory is incomplete. Never starts or ends a process.

use super::definition::{self, Definition};
use super::event_replay::EventReplay;
use super::rootfs::copy::{self, CopyError};
use sampan_ipc::shim::{self, State};
use sampan_oci::digest::Digest;
use sampan_os::{remove_tree, small_file, syscall, walk_tree};
use sampan_shim::dir::state_file::{self, StateFile};
use sampan_shim::dir::{event_spool, remove};
use sampan_spec::host::Host;
use sampan_spec::relabel;
use sampan_spec::settings::Form;
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Number of digits of an ID in the name of a run directory. The path of the socket in it may have at most 107 bytes.
/// unix(7).
const RUN_DIGITS: usize = 16;
/// The file in a run directory that names the control group of the systemd unit that runs the container.
const UNIT: &str = "unit";
/// Longest file [`UNIT`] that is read, in bytes.
const UNIT_MAX: u64 = 64 << 10;
/// The directory in which overlayfs is tried.
const TRIAL: &str = ".trial";

/// Why a container's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A system call failed.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was attempted.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// `container.json` cannot be parsed.
    #[error("cannot parse {}", path.display())]
    Definition {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: serde_json::Error,
    },
    /// The image's files cannot be copied to the container.
    #[error("cannot copy the image")]
    Copy(#[from] CopyError),
}

pub(crate) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::File { doing, path, source }
}

/// The directories of all containers. Cheap to clone; threads get a clone.
#[derive(Clone, Debug)]
pub struct Directories {
    data: PathBuf,
    run: PathBuf,
    replay: EventReplay,
}

impl Directories {
    /// Opens the directories `data` (`DATA/containers`) and `run`/containers; creates them with mode 0700.
    ///
    /// # Errors
    /// [`DirectoryError::File`] if a directory cannot be created.
    pub fn open(data: &Path, run: &Path) -> Result<Self, DirectoryError> {
        let directories = Directories {
            data: data.to_owned(),
            run: run.join("containers"),
            replay: EventReplay::new(data),
        };
        for dir in [&directories.data, &directories.run] {
            // Images contain setuid programs, so no other user of the host may reach the files.
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(failed("make the directory", dir))?;
        }
        Ok(directories)
    }

    /// Returns the directory of container `id`.
    pub fn dir(&self, id: &str) -> PathBuf {
        self.data.join(id)
    }

    /// Returns the run directory of container `id`, which has the shim's socket and does not survive a reboot.
    pub fn run(&self, id: &str) -> PathBuf {
        self.run.join(id.get(..RUN_DIGITS).unwrap_or(id))
    }

    /// Returns the directory to which the container's changes are written.
    pub fn written(&self, definition: &Definition) -> PathBuf {
        let dir = self.dir(&definition.id);
        match definition.rootfs {
            Form::Overlay => dir.join("upper"),
            Form::Copy => dir.join("rootfs"),
        }
    }

    /// Returns how many bytes on the disk the container's changes take; for a copy, by how many bytes it has grown.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn written_bytes(&self, definition: &Definition) -> io::Result<u64> {
        let size = walk_tree::size_on_disk(&self.written(definition))?;
        Ok(size.saturating_sub(definition.copied))
    }

    /// Creates the directory of a container with its initial files. `layers` are the layers of its image, uppermost
    /// first. Returns the number of extended attributes that the file system did not accept.
    ///
    /// With `is_durable`, the directory survives a power loss after this function has returned.
    ///
    /// # Errors
    /// [`DirectoryError::File`] or [`DirectoryError::Copy`]. After an error no file is left.
    pub fn make(
        &self,
        definition: &mut Definition,
        layers: &[PathBuf],
        state: &State,
        is_durable: bool,
    ) -> Result<u64, DirectoryError> {
        let (draft, dir) = (self.draft(&definition.id), self.dir(&definition.id));
        let made = self.fill(&draft, definition, layers, state, is_durable);
        let named = |left_out| fs::rename(&draft, &dir).map(|()| left_out).map_err(failed("name", &dir));
        let made = made.and_then(named);
        if made.is_err() {
            let _ = remove_tree::remove(&draft);
            return made;
        }
        if is_durable {
            sync_dir(&self.data)?;
        }
        made
    }

    fn fill(
        &self,
        draft: &Path,
        definition: &mut Definition,
        layers: &[PathBuf],
        state: &State,
        is_durable: bool,
    ) -> Result<u64, DirectoryError> {
        let left_out = match definition.rootfs {
            Form::Overlay => fill_overlay(draft, layers)?,
            Form::Copy => {
                let label = if Host::get().selinux { &*definition.selinux.mount } else { "" };
                relabel::creating_as(label, || fill_copy(draft, layers)).map_err(failed("label", draft))??
            }
        };
        if definition.rootfs == Form::Copy {
            let rootfs = draft.join("rootfs");
            definition.copied = walk_tree::size_on_disk(&rootfs).map_err(failed("look at", &rootfs))?;
        }
        write(&draft.join(definition::FILE), &json(definition), is_durable)?;
        let path = draft.join(shim::STATE);
        let file = StateFile::create(&path, state).map_err(failed("write", &path))?;
        if is_durable {
            file.sync().map_err(failed("sync", &path))?;
        }
        match (is_durable, definition.rootfs) {
            // A copy has too many files to call fsync(2) for each; sync the whole file system.
            (true, Form::Copy) => File::open(draft)
                .and_then(|dir| syscall::sync_file_system(dir.as_fd()))
                .map_err(failed("sync", draft))?,
            (true, Form::Overlay) => sync_dir(draft)?,
            (false, _) => {}
        }
        Ok(left_out)
    }

    /// Creates the directories in which overlayfs is tried. The caller removes them.
    ///
    /// # Errors
    /// [`DirectoryError::File`] if a directory cannot be created, or if an older one cannot be removed.
    pub(super) fn make_trial(&self) -> Result<PathBuf, DirectoryError> {
        let dir = self.data.join(TRIAL);
        remove_tree::remove(&dir).map_err(failed("remove", &dir))?;
        make_dir(&dir, 0o700)?;
        for name in ["upper", "work", "rootfs"] {
            make_dir(&dir.join(name), 0o700)?;
        }
        Ok(dir)
    }

    /// Replaces `container.json` by a synced file.
    ///
    /// # Errors
    /// [`DirectoryError::File`]. After an error the old file is unchanged.
    pub fn redefine(&self, definition: &Definition) -> Result<(), DirectoryError> {
        replace(&self.dir(&definition.id), definition::FILE, &json(definition))
    }

    /// Creates an empty run directory for container `id`, and removes an older one.
    ///
    /// # Errors
    /// [`DirectoryError::File`] if the directory cannot be created.
    pub fn make_run(&self, id: &str) -> Result<PathBuf, DirectoryError> {
        let run = self.run(id);
        self.remove_run(id);
        make_dir(&run, 0o700)?;
        Ok(run)
    }

    /// Records the control group of the systemd unit that runs container `id`, in the run directory.
    ///
    /// # Errors
    /// [`DirectoryError::File`] if the file cannot be written.
    pub fn set_unit_group(&self, id: &str, group: &str) -> Result<(), DirectoryError> {
        write(&self.run(id).join(UNIT), group.as_bytes(), false)
    }

    /// Returns the control group of the systemd unit that runs container `id`; `None` if no unit runs it.
    pub fn unit_group(&self, id: &str) -> Option<String> {
        let bytes = read(&self.run(id).join(UNIT), UNIT_MAX).ok()?;
        String::from_utf8(bytes).ok().filter(|group| group.starts_with('/'))
    }

    /// Removes the run directory of container `id`.
    pub fn remove_run(&self, id: &str) {
        let _ = remove_tree::remove(&self.run(id));
    }

    /// Removes all files of container `id`, and returns the number of freed bytes. Calls `announce` when no start of
    /// the engine can find the container any more, unless the removal was announced before.
    ///
    /// # Errors
    /// [`DirectoryError::File`]. After an error files may be left, which the engine removes at its next start.
    pub fn remove(&self, id: &str, announce: impl FnOnce()) -> Result<u64, DirectoryError> {
        let dir = self.dir(id);
        let freed = walk_tree::size_on_disk(&dir).unwrap_or(0);
        let left = remove::hide_and_empty(&dir).map_err(failed("remove", &dir))?;
        self.remove_run(id);
        if let Some(left) = left {
            announce();
            remove::finish(&left).map_err(failed("remove", &left))?;
        }
        Ok(freed)
    }

    /// Returns the events that shims could not write into the FIFO.
    pub fn replay(&self) -> &EventReplay {
        &self.replay
    }

    /// Returns the definition of a container whose creation was announced and whose removal was interrupted.
    pub fn removed_definition(&self, id: &str) -> Option<Definition> {
        let draft = self.draft(id);
        let state = state_file::read(&draft.join(shim::STATE))?;
        let is_known = state.started != 0 || state.is_announced || !state.error.is_empty();
        let bytes = read(&draft.join(definition::FILE), definition::FILE_MAX).ok()?;
        serde_json::from_slice(&bytes).ok().filter(|_| is_known)
    }

    /// Removes the remaining files of container `id`, whose creation was interrupted or whose removal was announced
    /// already.
    pub fn clear(&self, id: &str) {
        for path in [self.draft(id), self.run(id)] {
            if let Err(error) = remove_tree::remove(&path) {
                log::warn!("cannot remove {}: {error}", path.display());
            }
        }
    }

    /// Removes the run directories of containers that are not in `ids`, unless `is_used` is true for the directory.
    pub fn clear_runs(&self, ids: &[String], is_used: impl Fn(&Path) -> bool) {
        let known: HashSet<PathBuf> = ids.iter().map(|id| self.run(id)).collect();
        for entry in fs::read_dir(&self.run).into_iter().flatten().flatten() {
            if !known.contains(&entry.path()) && !is_used(&entry.path()) {
                let _ = remove_tree::remove(&entry.path());
            }
        }
    }

    /// Lists the ids of all complete containers, and the ids of containers whose creation or removal was interrupted.
    ///
    /// # Errors
    /// [`DirectoryError::File`] if the directory cannot be read.
    pub fn list(&self) -> Result<(Vec<String>, Vec<String>), DirectoryError> {
        let entries = fs::read_dir(&self.data).map_err(failed("list", &self.data))?;
        let (mut ids, mut incomplete) = (Vec::new(), Vec::new());
        for entry in entries {
            let entry = entry.map_err(failed("list", &self.data))?;
            let name = entry.file_name().into_string().unwrap_or_default();
            match name.strip_prefix('.').filter(|id| is_id(id)) {
                Some(id) => incomplete.push(id.to_owned()),
                None if is_id(&name) => ids.push(name),
                // The next trial of overlayfs removes its directory.
                None if name == event_spool::DIR || name == TRIAL => {}
                None => log::warn!("ignoring {}: not a container's directory", entry.path().display()),
            }
        }
        ids.sort_unstable();
        Ok((ids, incomplete))
    }

    /// Reads the definition of container `id`.
    ///
    /// # Errors
    /// [`DirectoryError::File`] if `container.json` cannot be read, [`DirectoryError::Definition`] if it cannot be
    /// parsed.
    pub fn definition(&self, id: &str) -> Result<Definition, DirectoryError> {
        let path = self.dir(id).join(definition::FILE);
        let bytes = read(&path, definition::FILE_MAX)?;
        serde_json::from_slice(&bytes).map_err(|source| DirectoryError::Definition { path, source })
    }

    /// Returns the digests that must stay in the store, for all containers whose definitions can be read.
    pub fn needs(&self) -> Vec<Digest> {
        let (ids, _) = self.list().unwrap_or_default();
        let definitions = ids.iter().filter_map(|id| self.definition(id).ok());
        definitions.flat_map(|definition| definition.needs().collect::<Vec<_>>()).collect()
    }

    /// Reads the state file of container `id`; `None` if it is missing or unusable.
    pub fn state(&self, id: &str) -> Option<State> {
        state_file::read(&self.dir(id).join(shim::STATE))
    }

    /// Writes the state file of container `id`. Only for a container without a shim, since a shim writes the file
    /// itself.
    ///
    /// # Errors
    /// [`DirectoryError::File`] if the file cannot be written.
    pub fn set_state(&self, id: &str, state: &State) -> Result<(), DirectoryError> {
        let path = self.dir(id).join(shim::STATE);
        StateFile::open(&path).and_then(|mut file| file.write(state)).map_err(failed("write", &path))
    }

    fn draft(&self, id: &str) -> PathBuf {
        remove::hidden_path(&self.dir(id))
    }
}

/// Creates the overlay's directories. The root directory gets the attributes of the uppermost layer's root.
fn fill_overlay(draft: &Path, layers: &[PathBuf]) -> Result<u64, DirectoryError> {
    make_dir(draft, 0o711)?;
    for (name, mode) in [("upper", 0o755), ("work", 0o700), ("rootfs", 0o755)] {
        make_dir(&draft.join(name), mode)?;
    }
    match layers.first() {
        Some(layer) => Ok(copy::copy_root_attributes(layer, &draft.join("upper"))?),
        None => Ok(0),
    }
}

/// Copies the layers. The copy gets mode 0700, because it may contain setuid programs.
fn fill_copy(draft: &Path, layers: &[PathBuf]) -> Result<u64, DirectoryError> {
    make_dir(draft, 0o700)?;
    let rootfs = draft.join("rootfs");
    make_dir(&rootfs, 0o755)?;
    Ok(copy::copy(layers, &rootfs, &draft.join("copy"))?)
}

/// Whether `name` is 64 lower-case hexadecimal digits.
fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[expect(clippy::expect_used, reason = "serde_json fails only on map keys that are no strings")]
fn json(definition: &Definition) -> Vec<u8> {
    serde_json::to_vec_pretty(definition).expect("a definition has no shape that JSON cannot hold")
}

fn make_dir(path: &Path, mode: u32) -> Result<(), DirectoryError> {
    DirBuilder::new().mode(mode).create(path).map_err(failed("make the directory", path))
}

fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), DirectoryError> {
    let (draft, path) = (dir.join(format!(".{name}")), dir.join(name));
    write(&draft, bytes, true)?;
    fs::rename(&draft, &path).map_err(failed("replace", &path))
}

/// Writes a file with mode 0600.
///
/// # Errors
/// [`DirectoryError::File`]. After an error the file may be incomplete.
pub(crate) fn write(path: &Path, bytes: &[u8], is_durable: bool) -> Result<(), DirectoryError> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = file.map_err(failed("write", path))?;
    file.write_all(bytes).map_err(failed("write", path))?;
    match is_durable {
        true => file.sync_all().map_err(failed("sync", path)),
        false => Ok(()),
    }
}

fn read(path: &Path, max: u64) -> Result<Vec<u8>, DirectoryError> {
    File::open(path).and_then(|file| small_file::read(file, max)).map_err(failed("read", path))
}

fn sync_dir(path: &Path) -> Result<(), DirectoryError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(failed("sync", path))
}
