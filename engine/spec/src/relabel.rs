//! Sets SELinux labels of the host's files that a container uses: mounts with `:z` or `:Z`, and its files in /etc.
//!
//! Called at each start, before the shim starts. A running container may have the directory mounted and may change it
//! meanwhile. Therefore no symbolic link below the mounted path is followed, and each entry is labelled through the
//! open descriptor of its directory.

use super::error::SpecError;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use sampan_os::open_beneath::{open_beneath, open_top};
use sampan_os::xattr;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The extended attribute that contains the label of a file.
const SELINUX_XATTR: &std::ffi::CStr = c"security.selinux";
/// Directories whose own labels the host depends on. Directories below them may be relabelled.
const HOST_DIRECTORIES: [&str; 15] = [
    "/", "/bin", "/boot", "/home", "/lib", "/lib64", "/media", "/opt", "/root", "/run", "/sbin", "/srv",
    "/tmp", "/var", "/var/lib",
];
/// Directories that the host depends on, together with everything below them.
const HOST_TREES: [&str; 5] = ["/dev", "/etc", "/proc", "/sys", "/usr"];

/// A file that gets a label, or a directory that gets a label together with everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relabel {
    /// The path in the mount option.
    pub source: PathBuf,
    /// The label.
    pub label: String,
}

impl Relabel {
    /// Sets the labels. Returns a warning if the file system does not keep labels.
    ///
    /// # Errors
    /// [`SpecError::Option`] if the host depends on the directory, or a file cannot be labelled. Other files may have
    /// the new label already.
    pub fn run(&self) -> Result<Option<String>, SpecError> {
        let text = self.source.to_string_lossy();
        let bad = |why: String| {
            SpecError::option("--volume", &text, format!("its files cannot be relabelled: {why}"))
        };
        let path = std::fs::canonicalize(&self.source).map_err(|error| bad(error.to_string()))?;
        if is_host_directory(&path) {
            return Err(bad(
                "the host depends on their labels; mount a directory below it, or without 'z'".to_owned()
            ));
        }
        match label_tree(&path, &self.label) {
            Ok(()) => Ok(None),
            Err(Errno::EOPNOTSUPP) => {
                Ok(Some(format!("{text} is not relabelled: its file system does not keep labels")))
            }
            Err(errno) => Err(bad(errno.desc().to_owned())),
        }
    }
}

fn is_host_directory(path: &Path) -> bool {
    HOST_DIRECTORIES.iter().any(|other| path == Path::new(other))
        || HOST_TREES.iter().any(|other| path.starts_with(other))
}

/// Calls `make`. Every file that this thread creates meanwhile has `label` from its beginning. An empty label changes
/// nothing.
///
/// # Errors
/// The kernel refuses the label. `make` was not called.
pub fn creating_as<T>(label: &str, make: impl FnOnce() -> T) -> io::Result<T> {
    // An attribute of the thread and not of the process. proc_pid_attr(5), "fscreate".
    const NEXT: &str = "/proc/thread-self/attr/fscreate";
    if label.is_empty() {
        return Ok(make());
    }
    std::fs::write(NEXT, label)?;
    let made = make();
    // A line feed alone clears the attribute: new files again get the label that the policy gives them.
    if let Err(error) = std::fs::write(NEXT, "\n") {
        log::error!(
            "cannot clear {NEXT}: {error}; files that this thread of the engine creates will have the SELinux label {label}: \
             restart sampan-engine"
        );
    }
    Ok(made)
}

/// Sets the label of one file, such as the container's own /etc/hosts.
///
/// # Errors
/// lsetxattr(2) fails.
pub fn label_file(path: &Path, label: &str) -> Result<(), Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    xattr::lsetxattr(&path, SELINUX_XATTR, label.as_bytes())
}

/// Labels `path` and everything below it. `path` itself comes last: if it has the label, all files below have the
/// label, too.
fn label_tree(path: &Path, label: &str) -> Result<(), Errno> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::EINVAL) };
    let parent = open_top(parent)?;
    let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(&parent, name.as_c_str(), flags, Mode::empty()) {
        Ok(top) => label_below(&top, label)?,
        Err(Errno::ENOTDIR) => {}
        Err(errno) => return Err(errno),
    }
    label_entry(&parent, &name, label)
}

fn label_below(top: &OwnedFd, label: &str) -> Result<(), Errno> {
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let directory = match open_beneath(top, &path) {
            // Another process has removed or replaced the entry meanwhile.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
            other => other?,
        };
        // Open a second descriptor, since the listing closes its descriptor.
        let mut listing = Dir::from_fd(open_beneath(&directory, b"")?)?;
        for entry in listing.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match label_entry(&directory, name, label) {
                Err(Errno::ENOENT) => continue,
                other => other?,
            }
            let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
            let is_directory = fstatat(&directory, name, flags)
                .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR);
            if is_directory {
                let mut full = path.clone();
                if !full.is_empty() {
                    full.push(b'/');
                }
                full.extend_from_slice(name.to_bytes());
                pending.push(full);
            }
        }
    }
    Ok(())
}

/// Labels an entry of an open directory. No system call sets a label by a directory's descriptor and a name, so the
/// path is made of /proc/self/fd and the name. lsetxattr(2) does not follow a link at the end of that path.
fn label_entry(directory: &OwnedFd, name: &std::ffi::CStr, label: &str) -> Result<(), Errno> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
    xattr::lsetxattr(&path, SELINUX_XATTR, label.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";

    fn label(path: &Path) -> Option<Vec<u8>> {
        let path = CString::new(path.as_os_str().as_bytes()).expect("a path");
        xattr::lgetxattr(&path, SELINUX_XATTR).ok()
    }

    fn run(source: &Path) -> Result<Option<String>, SpecError> {
        Relabel { source: source.to_owned(), label: LABEL.to_owned() }.run()
    }

    /// Whether this process may set labels: it needs root, a file system with labels, and a policy that allows it.
    fn may_label(dir: &Path) -> bool {
        let file = dir.join("probe");
        fs::write(&file, "").expect("written");
        label_file(&file, LABEL).is_ok()
    }

    #[test]
    fn all_of_a_tree_is_labelled_and_nothing_that_its_links_lead_to() {
        let dir = tempfile::tempdir().expect("a directory");
        if !nix::unistd::geteuid().is_root() {
            assert!(run(dir.path()).is_err(), "an ordinary user may not");
            return;
        }
        assert!(may_label(dir.path()), "root may");
        let (top, outside) = (dir.path().join("top"), dir.path().join("outside"));
        fs::create_dir_all(top.join("a/b/c")).expect("made");
        fs::create_dir_all(&outside).expect("made");
        for file in [top.join("a/b/c/file"), top.join("file"), outside.join("file")] {
            fs::write(file, "").expect("written");
        }
        std::os::unix::fs::symlink(&outside, top.join("a/link")).expect("linked");
        std::os::unix::fs::symlink(&top, dir.path().join("named")).expect("linked");
        // The path that the person named may be a link: it is followed, as the mount follows it.
        assert_eq!(run(&dir.path().join("named")).expect("labelled"), None);
        for below in ["", "a", "a/b", "a/b/c", "a/b/c/file", "file", "a/link"] {
            assert_eq!(label(&top.join(below)).as_deref(), Some(LABEL.as_bytes()), "{below}");
        }
        for kept in [outside.clone(), outside.join("file"), dir.path().join("named")] {
            assert_ne!(label(&kept).as_deref(), Some(LABEL.as_bytes()), "{}", kept.display());
        }
        assert_eq!(run(&outside.join("file")).expect("one file"), None);
        assert_eq!(label(&outside.join("file")).as_deref(), Some(LABEL.as_bytes()));
    }

    #[test]
    fn without_a_label_files_are_made_as_ever() {
        assert_eq!(creating_as("", || 7).expect("made"), 7);
    }

    #[test]
    fn directories_of_the_host_are_refused_by_name_however_they_are_spelled() {
        for path in
            ["/", "/etc", "/etc/ssl", "/usr/bin", "/usr/../etc/", "/proc/self/root", "/tmp/../var/lib"]
        {
            let error = run(Path::new(path)).expect_err(path).to_string();
            assert!(error.contains(path) && error.contains("relabelled"), "{error}");
        }
        assert!(run(Path::new("/nonexistent-sampan")).is_err());
    }
}
