//! Starts a program without copying this process: clone(2) with CLONE_VM and CLONE_VFORK, then execve(2).
//!
//! Called by the engine to start shims, and by the shim to start the OCI runtime. fork(2) would copy the page tables,
//! and every page written afterwards would cost a page fault. Here the new process shares this process's memory, and
//! the calling thread is suspended, until execve(2) succeeds or the new process exits. Until then the new process
//! only makes system calls, on a stack of its own, with all signals blocked.

use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

/// Bytes of the stack between clone and execve: room for a few frames of C library functions.
const STACK: usize = 16 << 10;
/// Exit status of a new process whose execve failed; only this module sees it.
const FAILED: libc::c_int = 127;

/// The relation of a new process to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// A child that leads its own process group; the kernel kills it when the calling thread ends.
    /// PR_SET_PDEATHSIG(2const).
    Child,
    /// A process in its own session, adopted by init or a subreaper, which reaps it. setsid(2).
    Orphan,
}

/// A program to start.
pub struct Program<'a> {
    /// The file to execute.
    pub path: &'a CStr,
    /// The arguments; the first is the program's name.
    pub args: &'a [CString],
    /// The complete environment, as `NAME=value`.
    pub environment: &'a [&'a CStr],
    /// Standard input, output and error. None may be descriptor 0, 1 or 2 of this process.
    pub standard: [BorrowedFd<'a>; 3],
    /// Close-on-exec descriptors that this program inherits nevertheless, under their present numbers.
    pub inherited: &'a [OwnedFd],
    /// The relation to this process.
    pub relation: Relation,
}

/// Data that the new process reads and writes while it shares this process's memory.
struct Plan {
    path: *const libc::c_char,
    args: *const *const libc::c_char,
    environment: *const *const libc::c_char,
    standard: [RawFd; 3],
    inherited: *const RawFd,
    inherited_len: usize,
    relation: Relation,
    parent: libc::pid_t,
    /// The highest address of a second stack: for an orphan, a short-lived process clones once more.
    second_stack: *mut libc::c_void,
    /// The orphan's process id; the short-lived process stores it.
    pid: libc::pid_t,
    /// The errno of the step that failed, or 0.
    errno: libc::c_int,
}

#[repr(C, align(16))]
struct Stack(MaybeUninit<[u8; STACK]>);

impl Stack {
    fn top(&mut self) -> *mut libc::c_void {
        ptr::from_mut(self).wrapping_add(1).cast()
    }
}

/// Starts `program` and returns its process id.
///
/// # Errors
/// The process cannot be created, or the file cannot be executed. No new process is left in either case.
pub fn spawn(program: &Program<'_>) -> io::Result<i32> {
    let args: Vec<*const libc::c_char> =
        program.args.iter().map(|arg| arg.as_ptr()).chain([ptr::null()]).collect();
    let environment: Vec<*const libc::c_char> =
        program.environment.iter().map(|one| one.as_ptr()).chain([ptr::null()]).collect();
    let inherited: Vec<RawFd> = program.inherited.iter().map(AsRawFd::as_raw_fd).collect();
    let mut stacks = [const { Stack(MaybeUninit::uninit()) }; 2];
    let [first, second] = &mut stacks;
    let mut plan = Plan {
        path: program.path.as_ptr(),
        args: args.as_ptr(),
        environment: environment.as_ptr(),
        standard: program.standard.map(|fd| fd.as_raw_fd()),
        inherited: inherited.as_ptr(),
        inherited_len: inherited.len(),
        relation: program.relation,
        parent: nix::unistd::getpid().as_raw(),
        second_stack: second.top(),
        pid: 0,
        errno: 0,
    };
    let entry = match program.relation {
        Relation::Child => execute_program,
        Relation::Orphan => clone_orphan,
    };
    let pid = with_signals_blocked(|| start(entry, first.top(), &mut plan))?;
    if program.relation == Relation::Orphan || plan.errno != 0 {
        // This process has exited already: the short-lived parent of an orphan, or a child whose execve failed.
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None)?;
    }
    match (plan.errno, program.relation) {
        (0, Relation::Child) => Ok(pid),
        (0, Relation::Orphan) => Ok(plan.pid),
        (errno, _) => Err(Errno::from_raw(errno).into()),
    }
}

type Entry = extern "C" fn(*mut libc::c_void) -> libc::c_int;

/// Runs `entry` in a new process; returns when that process has exited or its execve has succeeded.
fn start(entry: Entry, stack: *mut libc::c_void, plan: *mut Plan) -> Result<libc::pid_t, Errno> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack has room for the functions that `entry` calls; none of them unwinds or takes a lock. All that
    // `plan` points to outlives the call: CLONE_VFORK suspends the calling thread until the new process no longer
    // shares this memory.
    Errno::result(unsafe { libc::clone(entry, stack, flags, plan.cast()) })
}

/// Calls `work` with all signals blocked: no signal handler may run in a new process that shares this memory.
fn with_signals_blocked<T>(work: impl FnOnce() -> T) -> T {
    use nix::sys::signal::{SigSet, SigmaskHow};
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let done = work();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    done
}

/// Runs in the short-lived process: starts the program in a second new process and exits, which makes that an orphan.
extern "C" fn clone_orphan(plan: *mut libc::c_void) -> libc::c_int {
    let plan: *mut Plan = plan.cast();
    // SAFETY: `plan` is the plan that `spawn` gave to `start`. `spawn` is suspended until this process has exited.
    let stack = unsafe { (*plan).second_stack };
    let outcome = start(execute_program, stack, plan);
    // SAFETY: `spawn` is still suspended, and the orphan has executed its program or exited: no one else uses the plan.
    let plan = unsafe { &mut *plan };
    match outcome {
        Ok(pid) => plan.pid = pid,
        Err(errno) => plan.errno = errno as libc::c_int,
    }
    0
}

/// Runs in the new process: executes the program; returns only if that fails.
extern "C" fn execute_program(plan: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `plan` is the plan that `spawn` gave to `start`. All other users of it are suspended until this process
    // has executed its program or exited.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    // SAFETY: this is a new process with a descriptor table of its own, and all pointers in `plan` are valid.
    plan.errno = unsafe { prepare_and_execute(plan) };
    FAILED
}

/// Sets up descriptors, process group or session, and signals, then executes the program. Returns the errno of the
/// step that failed.
///
/// # Safety
/// Must run in a new process: it changes descriptors 0 to 2, the signal mask and the process group. All pointers in
/// `plan` must be valid.
unsafe fn prepare_and_execute(plan: &Plan) -> libc::c_int {
    // SAFETY: each is a system call with integers or with pointers of `plan`, which the caller guarantees to be valid.
    unsafe {
        for (standard, fd) in (0..).zip(plan.standard) {
            // dup2 leaves close-on-exec set if both numbers are equal; `Program::standard` rules that out.
            if libc::dup2(fd, standard) < 0 {
                return Errno::last_raw();
            }
        }
        for nth in 0..plan.inherited_len {
            // Clears close-on-exec here only: without CLONE_FILES, the new process has a descriptor table of its own.
            if libc::fcntl(*plan.inherited.add(nth), libc::F_SETFD, 0) < 0 {
                return Errno::last_raw();
            }
        }
        match plan.relation {
            Relation::Child => {
                libc::setpgid(0, 0);
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                // The parent may have ended before the prctl; then no signal would ever come.
                if libc::getppid() != plan.parent {
                    return libc::ESRCH;
                }
            }
            Relation::Orphan => {
                libc::setsid();
            }
        }
        // Rust's runtime ignores SIGPIPE at start, and execve(2) keeps ignored signals ignored.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none = MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
        libc::execve(plan.path, plan.args, plan.environment);
        Errno::last_raw()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn shell(script: &str, relation: Relation) -> (io::Result<i32>, String) {
        shell_with(script, &[], relation)
    }

    fn shell_with(script: &str, inherited: &[OwnedFd], relation: Relation) -> (io::Result<i32>, String) {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let null = File::options().read(true).write(true).open("/dev/null").expect("opened");
        let args = ["sh", "-c", script].map(|word| CString::new(word).expect("no NUL"));
        let standard = [null.as_fd(), writer.as_fd(), null.as_fd()];
        let environment = [c"ONLY=this"];
        let program = Program {
            path: c"/bin/sh",
            args: &args,
            environment: &environment,
            standard,
            inherited,
            relation,
        };
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
        let (pid, text) = shell(STAT, Relation::Child);
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
        let (pid, text) = shell(STAT, Relation::Orphan);
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
        assert_eq!(shell_with(&script, &[], Relation::Orphan).1, "none\n");
        assert_eq!(shell_with(&script, &kept, Relation::Orphan).1, "kept\n");
    }

    #[test]
    fn a_failed_execve_is_reported_and_leaves_no_process() {
        let null = File::options().read(true).write(true).open("/dev/null").expect("opened");
        let args = [c"x".to_owned()];
        for relation in [Relation::Child, Relation::Orphan] {
            for (path, kind) in
                [(c"/nonexistent", io::ErrorKind::NotFound), (c"/dev/null", io::ErrorKind::PermissionDenied)]
            {
                let standard = [null.as_fd(); 3];
                let program =
                    Program { path, args: &args, environment: &[], standard, inherited: &[], relation };
                assert_eq!(spawn(&program).expect_err("no program").kind(), kind);
            }
        }
    }

    #[test]
    fn signals_are_as_they_were_before_and_the_program_has_none_blocked() {
        let (_, text) = shell("grep -E '^Sig(Blk|Ign)' /proc/self/status", Relation::Orphan);
        let zero = "0000000000000000";
        assert!(text.contains(&format!("SigBlk:\t{zero}")) && text.contains("SigIgn:\t"), "{text}");
        let ignored = text.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).expect("a line");
        let ignored = u64::from_str_radix(ignored, 16).expect("a number");
        assert_eq!(ignored & 1 << (libc::SIGPIPE - 1), 0);
        let ours = std::fs::read_to_string("/proc/thread-self/status").expect("read");
        assert!(ours.contains(&format!("SigBlk:\t{zero}")), "{ours}");
    }
}
