//! The system calls that nix lacks, one function a call. All `unsafe` of this crate is here and below.

pub mod spawn;

use nix::errno::Errno;
use nix::poll::{PollFd, PollTimeout, poll};
use std::ffi::CStr;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Bounds how many arenas the allocator makes, so that many short threads do not each keep memory; and has buffers of a
/// layer come from memory that earlier ones were in, not from a mapping for each. What is freed is kept until
/// [`trim_memory`], which comes soon behind the work. mallopt(3).
pub fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt changes the allocator's own settings; called before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 8 << 20);
    }
}

/// Gives back what a job needed and an idle process does not: freed memory, the stack below the caller, and pages of
/// program code, which the kernel maps again from its cache when they are next run: what comes before the process
/// sleeps should be little. For the main thread. malloc_trim(3), madvise(2).
pub fn trim_memory() {
    let clean = trim_data();
    forget_code(&clean);
}

/// As [`trim_memory`], with poll(2) right behind it: pages of code that are run in between would stay.
#[inline(never)]
pub fn trim_memory_and_poll(polls: &mut [PollFd<'_>], timeout: PollTimeout) {
    let clean = trim_data();
    forget_code(&clean);
    let _ = poll(polls, timeout);
}

/// Most mappings of code that are given back: a program and a few libraries have no more.
const CODE_MAX: usize = 16;

/// Gives back heap and stack; where mappings of code begin, and how long they are.
#[inline(never)]
fn trim_data() -> [(usize, usize); CODE_MAX] {
    trim_heap();
    let (found, stack) = mappings().unwrap_or_default();
    trim_stack(stack);
    let mut clean = [(0, 0); CODE_MAX];
    clean.iter_mut().zip(found).for_each(|(to, from)| *to = from);
    clean
}

#[inline(always)]
fn forget_code(clean: &[(usize, usize)]) {
    for (start, len) in clean.iter().copied().filter(|(_, len)| *len > 0) {
        // SAFETY: the mapping is of a file, private, not writable, and has no page of its own (see below), so
        // what is dropped is read from the same file again; nothing that was stored can be lost.
        unsafe {
            libc::madvise(start as *mut libc::c_void, len, libc::MADV_DONTNEED);
        }
    }
}

/// Bytes of the stack that are left alone: frames of whoever gives the rest back.
const STACK_IN_USE: usize = 16 << 10;

/// Gives back what of `stack`, the addresses of the main thread's, is below its current end. Nothing on another thread.
#[inline(never)]
fn trim_stack(stack: Range<usize>) {
    let here = std::hint::black_box(0_u8);
    let here = std::ptr::from_ref(&here).addr();
    let page = 4096;
    let (lowest, end) = (stack.start, here.saturating_sub(STACK_IN_USE) / page * page);
    if !stack.contains(&here) || end <= lowest {
        return;
    }
    // SAFETY: all frames that are in use lie above `here`, or within STACK_IN_USE below it; what is below them is read
    // by nobody before it is written.
    unsafe {
        libc::madvise(std::ptr::without_provenance_mut(lowest), end - lowest, libc::MADV_DONTNEED);
    }
}

/// What [`mappings`] finds.
type Mappings = (Vec<(usize, usize)>, Range<usize>);

/// Mappings of program files that are not writable and were never written to (as relocations do): where they begin,
/// and how long they are. And the main thread's stack. proc(5), smaps.
fn mappings() -> io::Result<Mappings> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let mut clean = Vec::new();
    let (mut current, mut stack) = (None, 0..0);
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if first == "Private_Dirty:" {
            let dirty = words.next() != Some("0");
            clean.extend(current.take().filter(|_| !dirty));
        } else if let Some((start, end)) = first.split_once('-') {
            let readable = words.next().is_some_and(|mode| matches!(mode, "r-xp" | "r--p"));
            let path = words.nth(3).unwrap_or_default();
            let of_file = path.starts_with('/');
            let (start, end) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16));
            if let ("[stack]", Ok(start), Ok(end)) = (path, &start, &end) {
                stack = *start..*end;
            }
            current = match (start, end) {
                (Ok(start), Ok(end)) if readable && of_file => Some((start, end.saturating_sub(start))),
                _ => None,
            };
        }
    }
    Ok((clean, stack))
}

fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim locks the allocator itself and invalidates no allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}

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

/// Sets an extended attribute of what `fd` refers to. fsetxattr(2).
///
/// # Errors
/// The errno.
pub fn fsetxattr(fd: impl AsFd, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the name ends with NUL, and `value` is readable for the length given; the kernel copies both.
    let ret = unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(ret).map(drop)
}

/// Sets an extended attribute of `path` itself, also if it is a symbolic link. lsetxattr(2).
///
/// # Errors
/// The errno.
pub fn lsetxattr(path: &CStr, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: both strings end with NUL, and `value` is readable for the length given; the kernel copies all.
    let ret = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(ret).map(drop)
}

/// The names of the extended attributes of `path` itself, each with a NUL behind it. llistxattr(2).
///
/// # Errors
/// The errno.
pub fn llistxattr(path: &CStr) -> Result<Vec<u8>, Errno> {
    // SAFETY: the path ends with NUL, and the kernel writes at most `len` bytes to `to`, or nothing if both are 0.
    fill(|to, len| unsafe { libc::llistxattr(path.as_ptr(), to.cast(), len) })
}

/// An extended attribute of `path` itself. lgetxattr(2).
///
/// # Errors
/// The errno.
pub fn lgetxattr(path: &CStr, name: &CStr) -> Result<Vec<u8>, Errno> {
    // SAFETY: as above; the name ends with NUL.
    fill(|to, len| unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), to.cast(), len) })
}

/// The same of what `fd` refers to. flistxattr(2).
///
/// # Errors
/// The errno.
pub fn flistxattr(fd: impl AsFd) -> Result<Vec<u8>, Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes to `to`, or nothing if both are 0.
    fill(|to, len| unsafe { libc::flistxattr(fd, to.cast(), len) })
}

/// An extended attribute of what `fd` refers to. fgetxattr(2).
///
/// # Errors
/// The errno.
pub fn fgetxattr(fd: impl AsFd, name: &CStr) -> Result<Vec<u8>, Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: as above; the name ends with NUL.
    fill(|to, len| unsafe { libc::fgetxattr(fd, name.as_ptr(), to.cast(), len) })
}

/// Removes an extended attribute of what `fd` refers to. fremovexattr(2).
///
/// # Errors
/// The errno: `ENODATA` if it has none of that name.
pub fn fremovexattr(fd: impl AsFd, name: &CStr) -> Result<(), Errno> {
    // SAFETY: the name ends with NUL; the call keeps no pointer.
    let ret = unsafe { libc::fremovexattr(fd.as_fd().as_raw_fd(), name.as_ptr()) };
    Errno::result(ret).map(drop)
}

/// The same of what is at `path`, which may be a link. lremovexattr(2).
///
/// # Errors
/// As [`fremovexattr`].
pub fn lremovexattr(path: &CStr, name: &CStr) -> Result<(), Errno> {
    // SAFETY: both end with NUL; the call keeps no pointer.
    Errno::result(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) }).map(drop)
}

/// Asks for a length, then for so many bytes; again if there are more by then.
fn fill(get: impl Fn(*mut u8, usize) -> isize) -> Result<Vec<u8>, Errno> {
    loop {
        let len = usize::try_from(Errno::result(get(std::ptr::null_mut(), 0))?).unwrap_or(0);
        if len == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; len];
        match Errno::result(get(bytes.as_mut_ptr(), len)) {
            Ok(len) => {
                bytes.truncate(usize::try_from(len).unwrap_or(0));
                return Ok(bytes);
            }
            Err(Errno::ERANGE) => {}
            Err(errno) => return Err(errno),
        }
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

/// Bytes that can be read from a pipe or socket now. ioctl_tty(2), FIONREAD.
pub fn bytes_waiting(fd: BorrowedFd<'_>) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD stores one int, which lives until the call is over.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &mut count) };
    if ret == 0 { usize::try_from(count).unwrap_or(0) } else { 0 }
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
