//! Starts a program without a copy of this process: clone(2) with CLONE_VM and CLONE_VFORK, then execve(2).
//!
//! A fork(2) copies page tables, and each page that is written to afterwards costs a fault in either process. Here the
//! new process borrows this one's memory, while the calling thread stands still, until it has become the program. It
//! does nothing in between but system calls, on a stack of its own, with all signals blocked.

use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

/// Bytes of a stack between clone and execve: a few frames of functions of the C library.
const STACK: usize = 16 << 10;
/// Exit status of a process that could not become the program; nobody but this module sees it.
const FAILED: libc::c_int = 127;

/// What a new process is to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kin {
    /// Its child, first of a process group of its own, killed by the kernel when the calling thread ends.
    /// PR_SET_PDEATHSIG(2const).
    Child,
    /// In a session of its own, and child of whoever adopts orphans: it is not reaped here. setsid(2).
    Orphan,
}

/// A program that is to be started.
pub struct Program<'a> {
    /// Its file.
    pub path: &'a CStr,
    /// Its words, its name first.
    pub words: &'a [CString],
    /// All of its environment, `NAME=value`.
    pub environment: &'a [&'a CStr],
    /// Its standard input, output and error; none of them a standard stream of this process.
    pub standard: [BorrowedFd<'a>; 3],
    /// Descriptors that it gets under the numbers that they have here, although they close on execve elsewhere.
    pub kept: &'a [OwnedFd],
    /// What it is to this process.
    pub kin: Kin,
}

/// What the new process reads and writes in this one's memory.
struct Plan {
    path: *const libc::c_char,
    words: *const *const libc::c_char,
    environment: *const *const libc::c_char,
    standard: [RawFd; 3],
    kept: *const RawFd,
    kept_len: usize,
    kin: Kin,
    parent: libc::pid_t,
    /// Where the stack of the process that an orphan's parent starts begins, which is its highest address.
    stack: *mut libc::c_void,
    /// The orphan.
    pid: libc::pid_t,
    /// Why there is no program, or 0.
    errno: libc::c_int,
}

#[repr(C, align(16))]
struct Stack(MaybeUninit<[u8; STACK]>);

impl Stack {
    fn top(&mut self) -> *mut libc::c_void {
        ptr::from_mut(self).wrapping_add(1).cast()
    }
}

/// Starts `program`; its process id.
///
/// # Errors
/// No process can be made, or the file cannot be executed. Nothing runs then.
pub fn spawn(program: &Program<'_>) -> io::Result<i32> {
    let words: Vec<*const libc::c_char> =
        program.words.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
    let environment: Vec<*const libc::c_char> =
        program.environment.iter().map(|one| one.as_ptr()).chain([ptr::null()]).collect();
    let kept: Vec<RawFd> = program.kept.iter().map(AsRawFd::as_raw_fd).collect();
    let mut stacks = [const { Stack(MaybeUninit::uninit()) }; 2];
    let [first, second] = &mut stacks;
    let mut plan = Plan {
        path: program.path.as_ptr(),
        words: words.as_ptr(),
        environment: environment.as_ptr(),
        standard: program.standard.map(|fd| fd.as_raw_fd()),
        kept: kept.as_ptr(),
        kept_len: kept.len(),
        kin: program.kin,
        parent: nix::unistd::getpid().as_raw(),
        stack: second.top(),
        pid: 0,
        errno: 0,
    };
    let entry = match program.kin {
        Kin::Child => become_program,
        Kin::Orphan => leave_orphan,
    };
    let pid = without_signals(|| start(entry, first.top(), &mut plan))?;
    if program.kin == Kin::Orphan || plan.errno != 0 {
        // It has ended.
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None)?;
    }
    match (plan.errno, program.kin) {
        (0, Kin::Child) => Ok(pid),
        (0, Kin::Orphan) => Ok(plan.pid),
        (errno, _) => Err(Errno::from_raw(errno).into()),
    }
}

type Entry = extern "C" fn(*mut libc::c_void) -> libc::c_int;

/// Runs `entry` in a new process; returns when that has ended, or is a program of its own.
fn start(entry: Entry, stack: *mut libc::c_void, plan: *mut Plan) -> Result<libc::pid_t, Errno> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack has room for what `entry` calls, none of which unwinds or takes a lock; what `plan` points to
    // outlives the call, since CLONE_VFORK keeps the calling thread here until the memory is no longer borrowed.
    Errno::result(unsafe { libc::clone(entry, stack, flags, plan.cast()) })
}

/// No handler of this process's may run in the one that borrows its memory.
fn without_signals<T>(work: impl FnOnce() -> T) -> T {
    use nix::sys::signal::{SigSet, SigmaskHow};
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let done = work();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    done
}

/// Starts the program in another process and ends, which leaves that an orphan.
extern "C" fn leave_orphan(plan: *mut libc::c_void) -> libc::c_int {
    let plan: *mut Plan = plan.cast();
    // SAFETY: `start` was given a plan, which nobody else looks at before this process has ended.
    let stack = unsafe { (*plan).stack };
    let outcome = start(become_program, stack, plan);
    // SAFETY: as above; the other process has ended, or is a program.
    let plan = unsafe { &mut *plan };
    match outcome {
        Ok(pid) => plan.pid = pid,
        Err(errno) => plan.errno = errno as libc::c_int,
    }
    0
}

/// Becomes the program; returns only if that fails.
extern "C" fn become_program(plan: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `start` was given a plan, which nobody else looks at before this process has ended or become a program.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    // SAFETY: system calls with integers, and with memory of `plan` that outlives them.
    plan.errno = unsafe { try_program(plan) };
    FAILED
}

/// # Safety
/// In a process of its own, whose end nobody minds.
unsafe fn try_program(plan: &Plan) -> libc::c_int {
    // SAFETY: see above.
    unsafe {
        for (standard, fd) in (0..).zip(plan.standard) {
            // A copy that closes on execve is one to another number alone.
            if libc::dup2(fd, standard) < 0 {
                return Errno::last_raw();
            }
        }
        for nth in 0..plan.kept_len {
            // The flag is one of this process's table of descriptors, which is a copy.
            if libc::fcntl(*plan.kept.add(nth), libc::F_SETFD, 0) < 0 {
                return Errno::last_raw();
            }
        }
        match plan.kin {
            Kin::Child => {
                libc::setpgid(0, 0);
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                // It may have ended before the kernel was asked.
                if libc::getppid() != plan.parent {
                    return libc::ESRCH;
                }
            }
            Kin::Orphan => {
                libc::setsid();
            }
        }
        // What is ignored stays so in a program, and Rust's own start ignores this one.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none = MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
        libc::execve(plan.path, plan.words, plan.environment);
        Errno::last_raw()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn shell(script: &str, kin: Kin) -> (io::Result<i32>, String) {
        shell_with(script, &[], kin)
    }

    fn shell_with(script: &str, kept: &[OwnedFd], kin: Kin) -> (io::Result<i32>, String) {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let null = File::options().read(true).write(true).open("/dev/null").expect("opened");
        let words = ["sh", "-c", script].map(|word| CString::new(word).expect("no NUL"));
        let standard = [null.as_fd(), writer.as_fd(), null.as_fd()];
        let environment = [c"ONLY=this"];
        let program =
            Program { path: c"/bin/sh", words: &words, environment: &environment, standard, kept, kin };
        let pid = spawn(&program);
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        (pid, text)
    }

    /// Fields 4 to 6 of /proc/PID/stat: parent, process group, session. proc_pid_stat(5).
    const STAT: &str = "read -r pid comm state parent group session rest </proc/self/stat; \
                        echo $$ $parent $group $session; env; readlink /proc/self/fd/2";

    #[test]
    fn a_child_leads_a_group_and_has_the_environment_that_it_was_given() {
        let (pid, text) = shell(STAT, Kin::Child);
        let pid = pid.expect("started");
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).expect("a child of ours");
        let mut lines = text.lines();
        let numbers: Vec<i32> =
            lines.next().expect("a line").split(' ').map(|word| word.parse().expect("a number")).collect();
        assert_eq!(numbers[..3], [pid, std::process::id().cast_signed(), pid], "{text}");
        assert!(text.contains("\nONLY=this\n") && !text.contains("HOME="), "{text}");
        assert!(text.ends_with("/dev/null\n"), "{text}");
    }

    #[test]
    fn an_orphan_leads_a_session_and_is_no_child() {
        let (pid, text) = shell(STAT, Kin::Orphan);
        let pid = pid.expect("started");
        let numbers: Vec<i32> = text
            .lines()
            .next()
            .expect("a line")
            .split(' ')
            .map(|word| word.parse().expect("a number"))
            .collect();
        assert_eq!((numbers[0], numbers[2], numbers[3]), (pid, pid, pid), "{text}");
        assert_ne!(numbers[1], std::process::id().cast_signed());
        let gone = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
        assert_eq!(gone, Err(Errno::ECHILD));
    }

    #[test]
    fn a_descriptor_that_is_kept_has_its_number_and_closes_in_other_programs() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        std::io::Write::write_all(&mut writer, b"kept\n").expect("written");
        let kept = [OwnedFd::from(reader)];
        let number = kept[0].as_raw_fd();
        let script = format!("[ -e /proc/self/fd/{number} ] && head -n1 <&{number} || echo none");
        assert_eq!(shell_with(&script, &[], Kin::Orphan).1, "none\n");
        assert_eq!(shell_with(&script, &kept, Kin::Orphan).1, "kept\n");
    }

    #[test]
    fn what_cannot_be_executed_is_told_and_leaves_no_process() {
        let null = File::options().read(true).write(true).open("/dev/null").expect("opened");
        let words = [c"x".to_owned()];
        for kin in [Kin::Child, Kin::Orphan] {
            for (path, kind) in
                [(c"/nonexistent", io::ErrorKind::NotFound), (c"/dev/null", io::ErrorKind::PermissionDenied)]
            {
                let standard = [null.as_fd(); 3];
                let program = Program { path, words: &words, environment: &[], standard, kept: &[], kin };
                assert_eq!(spawn(&program).expect_err("no program").kind(), kind);
            }
        }
    }

    #[test]
    fn signals_are_as_they_were_before_and_the_program_has_none_blocked() {
        let (_, text) = shell("grep -E '^Sig(Blk|Ign)' /proc/self/status", Kin::Orphan);
        let zero = "0000000000000000";
        assert!(text.contains(&format!("SigBlk:\t{zero}")) && text.contains("SigIgn:\t"), "{text}");
        let ignored = text.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).expect("a line");
        let ignored = u64::from_str_radix(ignored, 16).expect("a number");
        assert_eq!(ignored & 1 << (libc::SIGPIPE - 1), 0);
        let ours = std::fs::read_to_string("/proc/thread-self/status").expect("read");
        assert!(ours.contains(&format!("SigBlk:\t{zero}")), "{ours}");
    }
}
