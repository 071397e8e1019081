//! The system calls that nix lacks, one function a call.

use nix::errno::Errno;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Takes over a descriptor that this process was given and that no type owns yet.
///
/// Returns `None` if the number is no open descriptor, or a standard stream.
pub fn adopt(raw: RawFd) -> Option<OwnedFd> {
    if raw <= 2 {
        return None;
    }
    // SAFETY: F_GETFD reads a flag; a number that is no descriptor gives EBADF.
    if unsafe { libc::fcntl(raw, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and the callers get their numbers from the kernel (SCM_RIGHTS) or from systemd
    // (LISTEN_FDS) and adopt each once, before anything else can own it.
    Some(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Lets the program that `command` starts have `fd`, under the same number. It must stay open until then.
pub fn pass_on(command: &mut Command, fd: BorrowedFd<'_>) {
    let raw = fd.as_raw_fd();
    let keep_open = move || {
        // SAFETY: F_SETFD changes a flag of a descriptor of the new process, and touches no memory.
        match unsafe { libc::fcntl(raw, libc::F_SETFD, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec it makes one system call, and allocates nothing unless that fails.
    unsafe {
        command.pre_exec(keep_open);
    }
}

/// Lets all other threads go first, on processors and, with most schedulers, on disks: for the calling thread
/// alone, for good. setpriority(2), "C library/kernel differences".
pub fn yield_to_others() {
    // SAFETY: setpriority takes three integers; 0 is the calling thread. That it fails is no harm.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
    }
}

/// Makes everything that was written to the file system of `file` durable. syncfs(2).
///
/// # Errors
/// What syncfs says; since Linux 5.8 that includes failed writes of any file since the last call by the same descriptor, or
/// since that was opened: one that is opened for the call may not hear of those that others have heard of.
pub fn sync_file_system(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: syncfs takes a descriptor, which is open for as long as it is borrowed, and no memory.
    if unsafe { libc::syncfs(file.as_raw_fd()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Bytes that can be read from a pipe, socket or terminal now. ioctl_tty(2), FIONREAD, pipe(7).
///
/// # Errors
/// The errno.
pub fn bytes_waiting(fd: impl AsFd) -> Result<usize, Errno> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD stores one int, which lives until the call is over.
    let ret = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut count) };
    Errno::result(ret).map(|_| usize::try_from(count).unwrap_or(0))
}

/// Rows and columns of a terminal. ioctl_tty(2), TIOCGWINSZ.
pub fn window(fd: BorrowedFd<'_>) -> Result<(u16, u16), Errno> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize, which is ours until the call is over.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &mut size) })?;
    Ok((size.ws_row, size.ws_col))
}

/// Sets the size of a terminal. ioctl_tty(2), TIOCSWINSZ.
pub fn set_window(fd: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<(), Errno> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which lives until the call is over.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &size) }).map(drop)
}

/// Makes the configuration of a new file system. fsopen(2), Linux 5.2.
pub fn fsopen(kind: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: fsopen reads a string that ends in NUL.
    let raw = Errno::result(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1) })?;
    adopt(raw as RawFd).ok_or(Errno::EBADF)
}

/// Sets one option of a new file system; without a key, makes it. fsconfig(2).
pub fn fsconfig(fs: BorrowedFd<'_>, option: Option<(&CStr, &CStr)>) -> Result<(), Errno> {
    let (command, key, value) = match option {
        Some((key, value)) => (1, key.as_ptr(), value.as_ptr()),
        None => (6, std::ptr::null(), std::ptr::null()),
    };
    // SAFETY: FSCONFIG_SET_STRING (1) reads two strings that end in NUL; FSCONFIG_CMD_CREATE (6) reads nothing.
    Errno::result(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), command, key, value, 0) })
        .map(drop)
}

/// Mounts a file system that [`fsconfig`] made on the directory `target`. fsmount(2), move_mount(2).
pub fn fsmount(fs: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: fsmount takes integers alone.
    let raw = Errno::result(unsafe { libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), 1, 0) })?;
    let mount = adopt(raw as RawFd).ok_or(Errno::EBADF)?;
    // SAFETY: move_mount reads two strings that end in NUL; 0x44 is MOVE_MOUNT_F_EMPTY_PATH with that of the target.
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

/// Lets the empty file `to` share the blocks of `from`, until one of them is written to. ioctl_ficlone(2).
pub fn clone_file(to: BorrowedFd<'_>, from: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: FICLONE takes two descriptors, and touches no memory of ours.
    Errno::result(unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) }).map(drop)
}

/// Puts `fd` in the place of a standard descriptor. dup2(2).
pub fn replace_standard(fd: BorrowedFd<'_>, standard: RawFd) -> Result<(), Errno> {
    // SAFETY: dup2 takes two integers; nothing of ours owns 0, 1 and 2.
    Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), standard) }).map(drop)
}

/// Sends a signal by number, real-time ones too, to one process. kill(2).
pub fn send_signal(pid: i32, signal: i32) -> Result<(), Errno> {
    if pid <= 0 || signal <= 0 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: kill takes two integers.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Reaps one child that has ended: its id, and its exit code, or 128 and the signal. waitpid(2).
pub fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: waitpid stores one int, which lives until the call is over.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    let code =
        if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
    (pid > 0).then_some((pid, code))
}
