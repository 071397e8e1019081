//! System calls that nix does not offer, one function for each.
//!
//! Called by every process. No function here keeps state or retries.

use nix::errno::Errno;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Takes ownership of an open descriptor that this process inherited or received and that nothing owns yet.
///
/// Returns `None` if the number is not an open descriptor, or is 0, 1 or 2.
pub fn adopt(raw: RawFd) -> Option<OwnedFd> {
    if raw <= 2 {
        return None;
    }
    // SAFETY: F_GETFD only reads a flag; it fails with EBADF if the number is not an open descriptor.
    if unsafe { libc::fcntl(raw, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: the descriptor is open. Callers get the number from the kernel, from systemd (LISTEN_FDS) or from the
    // process that started this one, and call this once for each number, before anything else can own it.
    Some(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Makes the program that `command` starts inherit `fd` under its present number. `fd` must stay open until the start.
pub fn pass_on(command: &mut Command, fd: BorrowedFd<'_>) {
    let raw = fd.as_raw_fd();
    let keep_open = move || {
        // SAFETY: F_SETFD changes a flag of a descriptor of the new process, and touches no memory.
        match unsafe { libc::fcntl(raw, libc::F_SETFD, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec, `keep_open` makes one async-signal-safe system call and does not allocate: an
    // io::Error from the operating system is an integer.
    unsafe {
        command.pre_exec(keep_open);
    }
}

/// Gives the calling thread the lowest priority (nice 19) for the rest of its life, and with it, under most I/O
/// schedulers, the lowest disk priority. Other threads are not affected. setpriority(2), "C library/kernel
/// differences".
pub fn lower_priority() {
    // SAFETY: setpriority takes three integers; 0 means the calling thread. Failure is ignored: only speed depends on
    // the priority.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
    }
}

/// Makes all data written to the file system of `file` durable. syncfs(2).
///
/// # Errors
/// The error of syncfs(2). Since Linux 5.8 it reports a write to any file of the file system that failed since the
/// previous call on this descriptor, or since the descriptor was opened. So keep one descriptor open: a new one does
/// not report earlier failures.
pub fn sync_file_system(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: syncfs takes a descriptor, which is open while it is borrowed, and touches no memory of ours.
    if unsafe { libc::syncfs(file.as_raw_fd()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The number of bytes that can be read from a pipe, socket or terminal without waiting. ioctl_tty(2), FIONREAD,
/// pipe(7).
///
/// # Errors
/// The errno of ioctl(2).
pub fn bytes_waiting(fd: impl AsFd) -> Result<usize, Errno> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD stores one int in `count`, which outlives the call.
    let ret = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut count) };
    Errno::result(ret).map(|_| usize::try_from(count).unwrap_or(0))
}

/// The size of a terminal: rows and columns. ioctl_tty(2), TIOCGWINSZ.
pub fn window(fd: BorrowedFd<'_>) -> Result<(u16, u16), Errno> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ stores one winsize in `size`, which outlives the call.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &mut size) })?;
    Ok((size.ws_row, size.ws_col))
}

/// Sets the size of a terminal. ioctl_tty(2), TIOCSWINSZ.
pub fn set_window(fd: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<(), Errno> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize from `size`, which outlives the call.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &size) }).map(drop)
}

/// Opens a context in which a file system of type `kind` is configured. fsopen(2), Linux 5.2.
pub fn fsopen(kind: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: fsopen reads a string that ends in NUL; 1 is FSOPEN_CLOEXEC.
    let raw = Errno::result(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1) })?;
    adopt(raw as RawFd).ok_or(Errno::EBADF)
}

/// Sets one option (key and value) of a file system context; `None` creates the file system. fsconfig(2).
pub fn fsconfig(fs: BorrowedFd<'_>, option: Option<(&CStr, &CStr)>) -> Result<(), Errno> {
    let (command, key, value) = match option {
        Some((key, value)) => (1, key.as_ptr(), value.as_ptr()),
        None => (6, std::ptr::null(), std::ptr::null()),
    };
    // SAFETY: FSCONFIG_SET_STRING (1) reads two strings that end in NUL; FSCONFIG_CMD_CREATE (6) reads nothing.
    Errno::result(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), command, key, value, 0) })
        .map(drop)
}

/// Mounts a file system that [`fsconfig`] created on the directory `target`. fsmount(2), move_mount(2).
pub fn fsmount(fs: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: fsmount takes only integers; 1 is FSMOUNT_CLOEXEC.
    let raw = Errno::result(unsafe { libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), 1, 0) })?;
    let mount = adopt(raw as RawFd).ok_or(Errno::EBADF)?;
    // SAFETY: move_mount reads two strings that end in NUL; 0x44 is MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            0x44,
        )
    };
    Errno::result(ret).map(drop)
}

/// Makes `to` a copy of `from` that shares its blocks until either file is written to. ioctl_ficlone(2).
pub fn clone_file(to: BorrowedFd<'_>, from: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: FICLONE takes two descriptors and touches no memory of ours.
    Errno::result(unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) }).map(drop)
}

/// Replaces the standard descriptor `standard` (0, 1 or 2) by a duplicate of `fd`. dup2(2).
pub fn replace_standard(fd: BorrowedFd<'_>, standard: RawFd) -> Result<(), Errno> {
    // SAFETY: dup2 takes two integers; no `OwnedFd` of ours holds 0, 1 or 2.
    Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), standard) }).map(drop)
}

/// Sends a signal by its number, including real-time signals, to one process. kill(2).
pub fn send_signal(pid: i32, signal: i32) -> Result<(), Errno> {
    if pid <= 0 || signal <= 0 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: kill takes two integers.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Reaps one child that has ended. Returns its process id and its exit code, or 128 + the signal that killed it.
/// waitpid(2).
pub fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: waitpid stores one int in `status`, which outlives the call.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    let code =
        if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
    (pid > 0).then_some((pid, code))
}
