//! The directories of containers: made whole, read back, removed whole.
//!
//! `DATA/containers/ID` keeps what outlives a reboot, `RUN/containers/…` what does not. A directory is made, and
//! goes, under the name `.ID`: what has that name at start-up is litter. Knows files, and no container's meaning.

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

/// Digits of an id in the name of a run directory: paths of sockets are short. unix(7).
const RUN_DIGITS: usize = 16;
/// The file in a run directory that names the control group of the unit of systemd's that the container is.
const UNIT: &str = "unit";
/// Longest such file, in bytes.
const UNIT_MAX: u64 = 64 << 10;
/// Where it is tried out what the file system can do.
const TRIAL: &str = ".trial";

/// Why a container's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The system refuses.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// `container.json` makes no sense.
    #[error("cannot use {}", path.display())]
    Definition {
        /// Which.
        path: PathBuf,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// The image's files cannot be copied.
    #[error("cannot copy the image")]
    Copy(#[from] CopyError),
}

pub(crate) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::File { doing, path, source }
}

/// Where all containers are.
#[derive(Clone, Debug)]
pub struct Directories {
    data: PathBuf,
    run: PathBuf,
    replay: EventReplay,
}

impl Directories {
    /// Below `data` (`DATA/containers`) and `run` (`RUN`); makes both, for their owner alone.
    ///
    /// # Errors
    /// [`DirectoryError::File`].
    pub fn open(data: &Path, run: &Path) -> Result<Self, DirectoryError> {
        let directories = Directories {
            data: data.to_owned(),
            run: run.join("containers"),
            replay: EventReplay::new(data),
        };
        for dir in [&directories.data, &directories.run] {
            // Setuid programs of images lie below: no other user of the host may come by.
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(failed("make the directory", dir))?;
        }
        Ok(directories)
    }

    /// The directory of container `id`.
    pub fn dir(&self, id: &str) -> PathBuf {
        self.data.join(id)
    }

    /// Its run directory.
    pub fn run(&self, id: &str) -> PathBuf {
        self.run.join(id.get(..RUN_DIGITS).unwrap_or(id))
    }

    /// Where what container `definition` writes is.
    pub fn written(&self, definition: &Definition) -> PathBuf {
        let dir = self.dir(&definition.id);
        match definition.rootfs {
            Form::Overlay => dir.join("upper"),
            Form::Copy => dir.join("rootfs"),
        }
    }

    /// Bytes that the container has written; of a copy, by how much it has grown.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn written_bytes(&self, definition: &Definition) -> io::Result<u64> {
        let size = walk_tree::size_on_disk(&self.written(definition))?;
        Ok(size.saturating_sub(definition.copied))
    }

    /// Makes the directory of a container with all that is in it from the beginning; `layers` are its image's, the
    /// uppermost first. How many extended attributes could not be kept.
    ///
    /// `is_durable`: it is on the disk when this returns.
    ///
    /// # Errors
    /// [`DirectoryError::File`], [`DirectoryError::Copy`]; nothing is left then.
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
            // The files of a copy are too many to be synced one by one.
            (true, Form::Copy) => File::open(draft)
                .and_then(|dir| syscall::sync_file_system(dir.as_fd()))
                .map_err(failed("sync", draft))?,
            (true, Form::Overlay) => sync_dir(draft)?,
            (false, _) => {}
        }
        Ok(left_out)
    }

    /// Makes directories in which overlayfs can be tried; whoever asks removes them.
    ///
    /// # Errors
    /// [`DirectoryError::File`].
    pub(super) fn make_trial(&self) -> Result<PathBuf, DirectoryError> {
        let dir = self.data.join(TRIAL);
        remove_tree::remove(&dir).map_err(failed("remove", &dir))?;
        make_dir(&dir, 0o700)?;
        for name in ["upper", "work", "rootfs"] {
            make_dir(&dir.join(name), 0o700)?;
        }
        Ok(dir)
    }

    /// Replaces `container.json`, durably.
    ///
    /// # Errors
    /// [`DirectoryError::File`]; the old one stays then.
    pub fn redefine(&self, definition: &Definition) -> Result<(), DirectoryError> {
        replace(&self.dir(&definition.id), definition::FILE, &json(definition))
    }

    /// Makes the run directory of container `id`, or empties it.
    ///
    /// # Errors
    /// [`DirectoryError::File`].
    pub fn make_run(&self, id: &str) -> Result<PathBuf, DirectoryError> {
        let run = self.run(id);
        self.remove_run(id);
        make_dir(&run, 0o700)?;
        Ok(run)
    }

    /// Writes down, until its shim has ended, which unit of systemd's container `id` is: the unit's control group.
    ///
    /// # Errors
    /// [`DirectoryError::File`].
    pub fn set_unit_group(&self, id: &str, group: &str) -> Result<(), DirectoryError> {
        write(&self.run(id).join(UNIT), group.as_bytes(), false)
    }

    /// The control group of the unit that container `id` is, if it is one.
    pub fn unit_group(&self, id: &str) -> Option<String> {
        let bytes = read(&self.run(id).join(UNIT), UNIT_MAX).ok()?;
        String::from_utf8(bytes).ok().filter(|group| group.starts_with('/'))
    }

    /// Removes the run directory of container `id`.
    pub fn remove_run(&self, id: &str) {
        let _ = remove_tree::remove(&self.run(id));
    }

    /// Takes container `id` out of sight, and then away with all it has, and calls `announce` when that is done,
    /// unless somebody has announced it before; the bytes that became free.
    ///
    /// # Errors
    /// [`DirectoryError::File`]; it may be gone in part, and goes for good when the engine starts the next time.
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

    /// What shims have kept for the monitor.
    pub fn replay(&self) -> &EventReplay {
        &self.replay
    }

    /// How container `id` was made, if it was made and announced, and is half gone.
    pub fn removed_definition(&self, id: &str) -> Option<Definition> {
        let draft = self.draft(id);
        let state = state_file::read(&draft.join(shim::STATE))?;
        let is_known = state.started != 0 || state.is_announced || !state.error.is_empty();
        let bytes = read(&draft.join(definition::FILE), definition::FILE_MAX).ok()?;
        serde_json::from_slice(&bytes).ok().filter(|_| is_known)
    }

    /// Removes what is left of container `id`, which was half made, or half gone and said to be.
    pub fn clear(&self, id: &str) {
        for path in [self.draft(id), self.run(id)] {
            if let Err(error) = remove_tree::remove(&path) {
                log::warn!("cannot remove {}: {error}", path.display());
            }
        }
    }

    /// Removes run directories that belong to none of `ids`; `is_used` has the last word.
    pub fn clear_runs(&self, ids: &[String], is_used: impl Fn(&Path) -> bool) {
        let known: HashSet<PathBuf> = ids.iter().map(|id| self.run(id)).collect();
        for entry in fs::read_dir(&self.run).into_iter().flatten().flatten() {
            if !known.contains(&entry.path()) && !is_used(&entry.path()) {
                let _ = remove_tree::remove(&entry.path());
            }
        }
    }

    /// Ids of all containers that are there, and of those that are half made or half gone.
    ///
    /// # Errors
    /// [`DirectoryError::File`].
    pub fn list(&self) -> Result<(Vec<String>, Vec<String>), DirectoryError> {
        let entries = fs::read_dir(&self.data).map_err(failed("list", &self.data))?;
        let (mut ids, mut incomplete) = (Vec::new(), Vec::new());
        for entry in entries {
            let entry = entry.map_err(failed("list", &self.data))?;
            match entry.file_name().into_string() {
                Ok(name) if is_id(&name) => ids.push(name),
                Ok(name) if name.strip_prefix('.').is_some_and(is_id) => {
                    incomplete.push(name[1..].to_owned())
                }
                Ok(name) if name == event_spool::DIR => {}
                // The next trial removes it.
                Ok(name) if name == TRIAL => {}
                _ => log::warn!("{} is no container, and is left alone", entry.path().display()),
            }
        }
        ids.sort_unstable();
        Ok((ids, incomplete))
    }

    /// How container `id` was made.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn definition(&self, id: &str) -> Result<Definition, DirectoryError> {
        let path = self.dir(id).join(definition::FILE);
        let bytes = read(&path, definition::FILE_MAX)?;
        serde_json::from_slice(&bytes).map_err(|source| DirectoryError::Definition { path, source })
    }

    /// What of the store all containers need that can be read.
    pub fn needs(&self) -> Vec<Digest> {
        let (ids, _) = self.list().unwrap_or_default();
        let definitions = ids.iter().filter_map(|id| self.definition(id).ok());
        definitions.flat_map(|definition| definition.needs().collect::<Vec<_>>()).collect()
    }

    /// Where container `id` stands, as the file says; `None` if there is none that can be used.
    pub fn state(&self, id: &str) -> Option<State> {
        state_file::read(&self.dir(id).join(shim::STATE))
    }

    /// Writes down where container `id` stands.
    ///
    /// # Errors
    /// [`DirectoryError::File`].
    pub fn set_state(&self, id: &str, state: &State) -> Result<(), DirectoryError> {
        let path = self.dir(id).join(shim::STATE);
        StateFile::open(&path).and_then(|mut file| file.write(state)).map_err(failed("write", &path))
    }

    fn draft(&self, id: &str) -> PathBuf {
        remove::hidden_path(&self.dir(id))
    }
}

/// The root will be what the image's is, as a copy would have it.
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

/// For its owner alone: there may be setuid programs in it, and it is not mounted anywhere.
fn fill_copy(draft: &Path, layers: &[PathBuf]) -> Result<u64, DirectoryError> {
    make_dir(draft, 0o700)?;
    let rootfs = draft.join("rootfs");
    make_dir(&rootfs, 0o755)?;
    Ok(copy::copy(layers, &rootfs, &draft.join("copy"))?)
}

/// True for 64 hexadecimal digits.
fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

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

/// Writes a whole small file.
///
/// # Errors
/// [`DirectoryError::File`].
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
