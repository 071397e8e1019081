//! Mounts the container's root file system in a mount namespace of the shim: if the shim is killed, the kernel removes
//! the mount. The engine also calls this module, to test whether the host can mount overlayfs.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use sampan_ipc::shim::{Overlay, Rootfs};
use sampan_os::syscall;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// Most layers of an overlayfs. Linux, fs/overlayfs, OVL_MAX_STACK.
const LAYERS_MAX: usize = 500;
/// Longest options of mount(2), in bytes: one page, less the NUL at the end.
const OPTIONS_MAX: usize = 4095;

/// Moves this process into a new mount namespace. Mounts that the host makes later still appear in this namespace.
///
/// # Errors
/// The kernel refuses to create the namespace, or to stop its mounts from appearing on the host.
pub fn enter_namespace() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| format!("cannot make a mount namespace: {errno}"))?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(|errno| format!("cannot make / a slave of the host's mounts: {errno}"))
}

/// Mounts `rootfs`, if it is an overlay.
///
/// # Errors
/// There are too many layers, a directory is missing, or the kernel refuses the mount.
pub fn set_up(rootfs: &Rootfs) -> Result<(), String> {
    let Some(Overlay { lower, upper, work, target, label }) = rootfs.overlay() else { return Ok(()) };
    if lower.is_empty() || lower.len() > LAYERS_MAX {
        return Err(format!("the image has {} layers; overlayfs takes 1 to {LAYERS_MAX}", lower.len()));
    }
    let handle = |path: &Path| {
        open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|errno| format!("cannot open {}: {errno}", path.display()))
    };
    // Topmost layer first, as overlayfs expects. Names of descriptors need no escapes, and about 180 fit into a page.
    let lower: Vec<OwnedFd> = lower.iter().rev().map(|path| handle(path)).collect::<Result<_, _>>()?;
    let (upper, work, target) = (handle(upper)?, handle(work)?, handle(target)?);
    if mount_by_fs(&lower, &upper, &work, &target, label).is_ok() {
        return Ok(());
    }
    mount_by_options(&lower, &upper, &work, &target, label)?
        .map_err(|errno| format!("the kernel refuses to mount overlayfs: {errno} (see dmesg)"))
}

/// Refuses a root file system in which `/dev`, `/proc` or `/sys` is not a directory.
///
/// runc creates links in `/dev` by path before it enters the container's root. If `/dev` were a symbolic link, runc
/// would create them in a directory of the host. Call this before every run, since the previous run may have replaced
/// `/dev`.
///
/// # Errors
/// `/dev`, `/proc` or `/sys` is not a directory.
pub fn check(rootfs: &Rootfs) -> Result<(), String> {
    let Some(Overlay { target, .. }) = rootfs.overlay() else { return Ok(()) };
    for name in ["dev", "proc", "sys"] {
        match std::fs::symlink_metadata(target.join(name)) {
            Ok(meta) if !meta.is_dir() => {
                return Err(format!("/{name} in the root file system is not a directory"));
            }
            // The runtime creates a missing path as a directory.
            _ => {}
        }
    }
    Ok(())
}

/// Unmounts `rootfs`, if it is mounted.
///
/// # Errors
/// umount2(2) fails.
pub fn tear_down(rootfs: &Rootfs) -> Result<(), String> {
    let Some(Overlay { target, .. }) = rootfs.overlay() else { return Ok(()) };
    loop {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(format!("cannot unmount {}: {errno}", target.display())),
        }
    }
}

fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Mounts by fsconfig(2), which gets the layers one after the other. Needs Linux 6.5.
fn mount_by_fs(
    lower: &[OwnedFd],
    upper: &OwnedFd,
    work: &OwnedFd,
    target: &OwnedFd,
    label: Option<&str>,
) -> Result<(), Errno> {
    let text = |fd| CString::new(path_of(fd)).map_err(|_| Errno::EINVAL);
    let fs = syscall::fsopen(c"overlay")?;
    if let Some(label) = label {
        let label = CString::new(label).map_err(|_| Errno::EINVAL)?;
        syscall::fsconfig(fs.as_fd(), Some((c"context", &label)))?;
    }
    for layer in lower {
        syscall::fsconfig(fs.as_fd(), Some((c"lowerdir+", &text(layer)?)))?;
    }
    syscall::fsconfig(fs.as_fd(), Some((c"upperdir", &text(upper)?)))?;
    syscall::fsconfig(fs.as_fd(), Some((c"workdir", &text(work)?)))?;
    syscall::fsconfig(fs.as_fd(), None)?;
    syscall::fsmount(fs.as_fd(), target.as_fd())
}

/// Mounts by mount(2). The outer error means that the options are too long for mount(2).
fn mount_by_options(
    lower: &[OwnedFd],
    upper: &OwnedFd,
    work: &OwnedFd,
    target: &OwnedFd,
    label: Option<&str>,
) -> Result<Result<(), Errno>, String> {
    let options = options(lower, upper, work, label);
    if options.len() > OPTIONS_MAX {
        return Err(format!(
            "the image has {} layers; this kernel mounts about 180 (500 since 6.5)",
            lower.len()
        ));
    }
    let target = path_of(target);
    Ok(mount(Some("overlay"), target.as_str(), Some("overlay"), MsFlags::empty(), Some(options.as_str())))
}

/// The options for mount(2). Quotes the label, since a label contains commas. mount(8), "context=".
fn options(lower: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd, label: Option<&str>) -> String {
    let layers: Vec<String> = lower.iter().map(path_of).collect();
    let context = label.map_or_else(String::new, |label| format!(",context=\"{label}\""));
    format!("lowerdir={},upperdir={},workdir={}{context}", layers.join(":"), path_of(upper), path_of(work))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_stands_in_quotes_among_the_options_of_a_mount() {
        let file = || OwnedFd::from(std::fs::File::open("/").expect("a directory"));
        let (lower, upper, work) = ([file(), file()], file(), file());
        let plain = options(&lower, &upper, &work, None);
        assert!(!plain.contains("context"), "{plain}");
        let labelled = options(&lower, &upper, &work, Some("u:object_r:t:s0:c1,c2"));
        assert_eq!(labelled, format!("{plain},context=\"u:object_r:t:s0:c1,c2\""));
    }
}
