//! Finds and reads files in a root file system that is not mounted: a stack of overlayfs directories.
//!
//! Returns the files that the mounted root file system would show: the uppermost layer wins, directories are merged,
//! whiteouts and opaque directories hide the files below, and symbolic links are resolved inside the root. Used for
//! /etc/passwd and /etc/group, and to check paths.
//!
//! Neither the layers nor the directory that a running container writes can be trusted. Therefore each component of a
//! path is opened separately, the kernel follows no link, and only regular files are opened for reading.

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::geteuid;
use sampan_ipc::text::excerpt;
use sampan_os::xattr;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Most symbolic links that one lookup follows, as in the kernel. path_resolution(7).
const LINKS_MAX: usize = 40;
/// Longest path, in bytes. The targets of all links of one lookup may have [`LINKS_MAX`] times this length.
const PATH_MAX: usize = 4096;

/// Why a root file system cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The path has too many symbolic links, or is not a regular file.
    #[error("cannot find {path:?} in the root file system: {why}")]
    Refused {
        /// The requested path.
        path: String,
        /// The rule that the path breaks.
        why: &'static str,
    },
    /// The file is longer than the caller allows.
    #[error("cannot read {path:?} of the root file system: it has more than {max} bytes")]
    TooLong {
        /// The requested path.
        path: String,
        /// Most bytes that the caller allows.
        max: u64,
    },
    /// A system call failed.
    #[error("cannot read {path:?} of the root file system")]
    System {
        /// The requested path.
        path: String,
        /// The error of the system call.
        source: io::Error,
    },
}

/// The kind of file at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A device, a socket or a FIFO.
    Other,
}

/// A root file system: a stack of directories.
#[derive(Clone, Debug, Default)]
pub struct Root {
    layers: Vec<PathBuf>,
}

/// The entry of a merged directory for one name.
enum Entry {
    Missing,
    /// A directory, with the positions of the layers that contain it, uppermost layer first.
    Directory(Vec<usize>),
    /// A symbolic link, with its target.
    Link(OsString),
    /// Any other file.
    Leaf(OwnedFd, FileStat),
}

/// The result of looking up a path.
enum Found {
    Missing,
    Directory,
    Leaf(OwnedFd, FileStat),
}

impl Root {
    /// Makes the root file system of `layers`. The first layer is the uppermost one, to which the container writes.
    pub fn new(layers: impl IntoIterator<Item = PathBuf>) -> Self {
        Root { layers: layers.into_iter().collect() }
    }

    /// The kind of the file at `path`; `None` if there is no file.
    ///
    /// # Errors
    /// [`LookupError`] if the path has too many symbolic links, or if a system call fails.
    pub fn kind(&self, path: &str) -> Result<Option<Kind>, LookupError> {
        Ok(match self.find(path)? {
            Found::Missing => None,
            Found::Directory => Some(Kind::Directory),
            Found::Leaf(_, stat) if is(&stat, SFlag::S_IFREG) => Some(Kind::File),
            Found::Leaf(..) => Some(Kind::Other),
        })
    }

    /// The content of the regular file at `path`, of at most `max` bytes; `None` if there is no file.
    ///
    /// # Errors
    /// [`LookupError`] if the file is not regular or is too long, if the path has too many symbolic links, or if a
    /// system call fails.
    pub fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>, LookupError> {
        let fd = match self.find(path)? {
            Found::Missing => return Ok(None),
            Found::Leaf(fd, stat) if is(&stat, SFlag::S_IFREG) => fd,
            Found::Directory | Found::Leaf(..) => return Err(refused(path, "it is no regular file")),
        };
        // Open by the descriptor: another file may have taken the name meanwhile.
        let file = File::open(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(|e| system(path, e))?;
        let mut bytes = Vec::new();
        file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| system(path, e))?;
        match bytes.len() as u64 > max {
            true => Err(LookupError::TooLong { path: short(path), max }),
            false => Ok(Some(bytes)),
        }
    }

    fn find(&self, path: &str) -> Result<Found, LookupError> {
        let mut left: Vec<OsString> = components(OsStr::new(path));
        let mut at: Vec<(OsString, Vec<usize>)> = Vec::new();
        let all: Vec<usize> = (0..self.layers.len()).collect();
        let (mut links, mut spent) = (0, path.len());
        while let Some(name) = left.pop() {
            if name == ".." {
                at.pop();
                continue;
            }
            let layers = at.last().map_or(&all, |(_, layers)| layers);
            match self.entry(&at, &name, layers).map_err(|e| system(path, e.into()))? {
                Entry::Missing => return Ok(Found::Missing),
                Entry::Directory(layers) => at.push((name, layers)),
                Entry::Link(target) => {
                    links += 1;
                    spent += target.len();
                    if links > LINKS_MAX || spent > PATH_MAX * LINKS_MAX {
                        return Err(refused(path, "too many symbolic links are on the way"));
                    }
                    if target.as_bytes().first() == Some(&b'/') {
                        at.clear();
                    }
                    left.extend(components(&target));
                }
                Entry::Leaf(fd, stat) if left.is_empty() => return Ok(Found::Leaf(fd, stat)),
                // A component is not a directory, so the path does not exist (ENOTDIR).
                Entry::Leaf(..) => return Ok(Found::Missing),
            }
        }
        Ok(Found::Directory)
    }

    fn entry(&self, at: &[(OsString, Vec<usize>)], name: &OsStr, layers: &[usize]) -> Result<Entry, Errno> {
        let inside: PathBuf = at.iter().map(|(name, _)| name.as_os_str()).chain([name]).collect();
        let mut merged = Vec::new();
        for &index in layers {
            let Some(layer) = self.layers.get(index) else { continue };
            let Some((fd, stat)) = open_inside(layer, &inside)? else { continue };
            if is(&stat, SFlag::S_IFDIR) {
                merged.push(index);
                let this = CString::new(format!("/proc/self/fd/{}/.", fd.as_raw_fd()));
                if this.is_ok_and(|this| is_opaque(&this)) {
                    break;
                }
            } else if !merged.is_empty() || is_whiteout(&stat) {
                // Stop here: directories hide a file in the layers below, and a whiteout hides everything below.
                break;
            } else if is(&stat, SFlag::S_IFLNK) {
                return readlinkat(&fd, "").map(Entry::Link);
            } else {
                return Ok(Entry::Leaf(fd, stat));
            }
        }
        Ok(if merged.is_empty() { Entry::Missing } else { Entry::Directory(merged) })
    }
}

/// Removes the layers below the uppermost layer whose root directory is opaque. The first of `layers` is the uppermost
/// one.
///
/// Overlayfs ignores an opaque mark on the root of a layer. Therefore callers must cut the list before they mount it
/// and before they pass it to [`Root::new`].
pub fn visible(layers: Vec<PathBuf>) -> Vec<PathBuf> {
    let is_last =
        |layer: &PathBuf| CString::new(layer.as_os_str().as_bytes()).is_ok_and(|dir| is_opaque(&dir));
    let count = layers.iter().position(is_last).map_or(layers.len(), |at| at + 1);
    layers.into_iter().take(count).collect()
}

/// Whether overlayfs treats the directory as opaque, according to the extended attribute that this process's user can
/// set. Linux, filesystems/overlayfs.rst.
fn is_opaque(path: &CStr) -> bool {
    xattr::lgetxattr(path, marks().opaque).is_ok_and(|value| value == b"y")
}

/// Names of extended attributes that overlayfs reads.
pub struct Marks {
    /// The attribute that marks a directory as opaque.
    pub opaque: &'static CStr,
    /// The attribute that marks an empty file as a whiteout.
    pub whiteout: &'static CStr,
}

/// The names of the attributes for mounts by this process's user: root has other names than an ordinary user.
pub fn marks() -> Marks {
    match geteuid().is_root() {
        true => Marks { opaque: c"trusted.overlay.opaque", whiteout: c"trusted.overlay.whiteout" },
        false => Marks { opaque: c"user.overlay.opaque", whiteout: c"user.overlay.whiteout" },
    }
}

/// Opens `inside` below the directory `layer`, with O_PATH. Follows no symbolic link below `layer`. Returns `None` if
/// the path does not exist.
fn open_inside(layer: &Path, inside: &Path) -> Result<Option<(OwnedFd, FileStat)>, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let root = match openat(AT_FDCWD, layer, flags | OFlag::O_DIRECTORY, Mode::empty()) {
        Ok(root) => root,
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let how = OpenHow::new().flags(flags | OFlag::O_NOFOLLOW).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS,
    );
    match openat2(&root, inside, how) {
        Ok(fd) => fstat(&fd).map(|stat| Some((fd, stat))),
        // ELOOP or ENOTDIR means that a running container has just replaced a component.
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        // The file system allows no such name, so no file has it.
        Err(Errno::ENAMETOOLONG | Errno::EINVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn is(stat: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind
}

fn is_whiteout(stat: &FileStat) -> bool {
    is(stat, SFlag::S_IFCHR) && stat.st_rdev == 0
}

/// The components of `path` in reverse order, without `.` and empty components.
fn components(path: &OsStr) -> Vec<OsString> {
    let words = path.as_bytes().split(|b| *b == b'/').filter(|word| !word.is_empty() && *word != b".");
    words.rev().map(|word| OsString::from_vec(word.to_vec())).collect()
}

fn short(path: &str) -> String {
    excerpt(path)
}

fn refused(path: &str, why: &'static str) -> LookupError {
    LookupError::Refused { path: short(path), why }
}

fn system(path: &str, source: io::Error) -> LookupError {
    LookupError::System { path: short(path), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::mknod;
    use std::fs;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    struct Stack {
        dir: TempDir,
    }

    impl Stack {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            for layer in ["upper", "middle", "lower"] {
                fs::create_dir(dir.path().join(layer)).expect("made");
            }
            Stack { dir }
        }

        fn path(&self, inside: &str) -> PathBuf {
            self.dir.path().join(inside)
        }

        fn write(&self, inside: &str, text: &str) {
            let path = self.path(inside);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        }

        fn root(&self) -> Root {
            Root::new(["upper", "middle", "lower"].map(|layer| self.path(layer)))
        }

        fn read(&self, path: &str) -> Option<String> {
            let bytes = self.root().read(path, 1000).expect("readable")?;
            Some(String::from_utf8(bytes).expect("text"))
        }
    }

    #[test]
    fn the_uppermost_file_wins_and_directories_are_merged() {
        let stack = Stack::new();
        stack.write("lower/etc/passwd", "old");
        stack.write("lower/etc/group", "groups");
        stack.write("middle/etc/passwd", "new");
        assert_eq!(stack.read("/etc/passwd").as_deref(), Some("new"));
        assert_eq!(stack.read("etc//./group").as_deref(), Some("groups"));
        assert_eq!(stack.read("/etc/nothing"), None);
        assert_eq!(stack.read("/etc/passwd/more"), None);
        assert_eq!(stack.root().kind("/etc").expect("found"), Some(Kind::Directory));
        assert_eq!(stack.root().kind("/").expect("found"), Some(Kind::Directory));
    }

    #[test]
    fn whiteouts_and_opaque_directories_hide_what_is_below() {
        let stack = Stack::new();
        stack.write("lower/a/one", "1");
        stack.write("lower/b/two", "2");
        stack.write("lower/c/three", "3");
        fs::create_dir(stack.path("middle/b")).expect("made");
        let opaque = CString::new(stack.path("middle/b").as_os_str().as_bytes()).expect("no NUL");
        xattr::lsetxattr(&opaque, c"trusted.overlay.opaque", b"y").expect("as root");
        mknod(&stack.path("middle/a"), SFlag::S_IFCHR, Mode::empty(), 0).expect("as root");
        stack.write("middle/c", "a file now");
        assert_eq!((stack.read("/a/one"), stack.read("/b/two"), stack.read("/c/three")), (None, None, None));
        assert_eq!(stack.read("/c").as_deref(), Some("a file now"));
        // A new directory in a layer above a whiteout begins empty.
        stack.write("upper/a/other", "x");
        assert_eq!((stack.read("/a/one"), stack.read("/a/other").as_deref()), (None, Some("x")));
    }

    #[test]
    fn links_lead_to_places_inside_and_never_to_the_host() {
        let stack = Stack::new();
        fs::write(stack.path("secret"), "the host's").expect("written");
        stack.write("lower/usr/etc/passwd", "inside");
        symlink("/usr/etc", stack.path("upper/etc")).expect("made");
        assert_eq!(stack.read("/etc/passwd").as_deref(), Some("inside"));
        let secret = stack.path("secret");
        symlink(&secret, stack.path("upper/absolute")).expect("made");
        symlink("../../../../../../secret", stack.path("upper/relative")).expect("made");
        symlink("/proc/self/root", stack.path("upper/magic")).expect("made");
        assert_eq!(
            (stack.read("/absolute"), stack.read("/relative"), stack.read("/magic/etc/hostname")),
            (None, None, None)
        );
        assert_eq!(stack.read(secret.to_str().expect("text")), None);
        stack.write("lower/secret", "the container's");
        assert_eq!(stack.read("/relative").as_deref(), Some("the container's"));
        // `..` after a link to a directory is the parent of the link's target.
        assert_eq!(stack.read("/etc/../etc/passwd").as_deref(), Some("inside"));
    }

    #[test]
    fn circles_devices_and_long_files_are_refused() {
        let stack = Stack::new();
        symlink("b", stack.path("upper/a")).expect("made");
        symlink("a", stack.path("upper/b")).expect("made");
        nix::unistd::mkfifo(&stack.path("upper/pipe"), Mode::S_IRWXU).expect("made");
        stack.write("upper/long", &"x".repeat(1001));
        let root = stack.root();
        assert!(matches!(root.read("/a", 10), Err(LookupError::Refused { .. })));
        assert!(matches!(root.read("/pipe", 10), Err(LookupError::Refused { .. })));
        assert!(matches!(root.read("/long", 1000), Err(LookupError::TooLong { .. })));
        assert!(matches!(root.read("/long", 1001), Ok(Some(_))));
        assert_eq!(root.kind("/pipe").expect("found"), Some(Kind::Other));
        assert_eq!(root.kind(&"n".repeat(5000)).expect("looked up"), None);
        assert_eq!(root.kind("/with\0nul").expect("looked up"), None);
    }
}
