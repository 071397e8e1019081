//! The system calls that nix lacks, one function a call. All `unsafe` of this crate is here.

use nix::errno::Errno;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Bounds how many arenas the allocator makes, so that many short threads do not each keep memory. mallopt(3).
pub fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt changes the allocator's own settings; called before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Gives back what a job needed and an idle engine does not: freed memory, and pages of program code, which
/// the kernel maps again from its cache when they are next run. malloc_trim(3), madvise(2).
pub fn trim_memory() {
    trim_heap();
    for (start, len) in clean_file_mappings().unwrap_or_default() {
        // SAFETY: the mapping is of a file, private, not writable, and has no page of its own (see below), so
        // what is dropped is read from the same file again; nothing that was stored can be lost.
        unsafe {
            libc::madvise(start as *mut libc::c_void, len, libc::MADV_DONTNEED);
        }
    }
}

/// Mappings of program files that are not writable and were never written to (as relocations do). proc(5), smaps.
fn clean_file_mappings() -> io::Result<Vec<(usize, usize)>> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let mut clean = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if first == "Private_Dirty:" {
            let dirty = words.next() != Some("0");
            clean.extend(current.take().filter(|_| !dirty));
        } else if let Some((start, end)) = first.split_once('-') {
            let readable = words.next().is_some_and(|mode| matches!(mode, "r-xp" | "r--p"));
            let of_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
            let (start, end) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16));
            current = match (start, end) {
                (Ok(start), Ok(end)) if readable && of_file => Some((start, end.saturating_sub(start))),
                _ => None,
            };
        }
    }
    Ok(clean)
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

/// Makes everything that was written to the file system of `dir` durable. syncfs(2).
///
/// # Errors
/// What syncfs says; since Linux 5.8 that includes failed writes of any file since the last call.
pub fn sync_file_system(dir: &Path) -> io::Result<()> {
    let dir = std::fs::File::open(dir)?;
    // SAFETY: syncfs takes a descriptor, which `dir` keeps open, and no memory.
    if unsafe { libc::syncfs(dir.as_raw_fd()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
