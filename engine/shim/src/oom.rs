//! Reports when the kernel has killed a process of the container for lack of memory.
//!
//! Sources: the eventfd of control groups version 1 (Linux, admin-guide/cgroup-v1/memory.rst, oom_control), and the
//! file `memory.events` of version 2 (admin-guide/cgroup-v2.rst).

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use sampan_os::cgroup;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Delays in milliseconds after an event of version 1 at which the counter is read again, until it has grown.
const RECHECKS: [u64; 6] = [2, 8, 32, 128, 512, 2048];

/// The directory in which most hosts mount the memory controller of version 1.
const V1_MEMORY: &str = "/sys/fs/cgroup/memory";

/// Watches the memory control group of one run of the container.
#[derive(Debug)]
pub(crate) struct Oom {
    source: Source,
    counter: PathBuf,
    /// The value of the kernel's counter `oom_kill` up to which kills were reported. Begins at 0: each run has a new
    /// control group, so kills from before the watch began belong to this run.
    counted: u64,
    /// Version 1: the times at which the counter is read again, the next one last.
    rechecks: Vec<Instant>,
}

#[derive(Debug)]
enum Source {
    V1(EventFd),
    V2(Inotify),
}

impl Oom {
    /// Watches the memory control group of container `id`, whose process 1 is `pid`; `None` if there is no such group.
    /// `unit` is the control group of the container's systemd unit, if any.
    pub(crate) fn watch(pid: i32, id: &str, unit: Option<&str>) -> Option<Self> {
        Self::watch_group_of(pid, id).or_else(|| {
            // If process 1 has ended, /proc no longer names its group, but the group still exists.
            let groups = cgroup::groups(id, unit);
            let has = |file: &str| groups.iter().find(|group| group.join(file).exists());
            match has("memory.oom_control") {
                Some(dir) => Self::watch_v1(dir),
                None => Self::watch_v2(has("memory.events")?),
            }
        })
    }

    fn watch_group_of(pid: i32, id: &str) -> Option<Self> {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        if !groups.contains(id) {
            return None;
        }
        let v1 = cgroup_path(&groups, |names| names.split(',').any(|name| name == "memory"));
        // Try the usual directory first: the list of all mounts is long on a host with many containers.
        if let Some(dir) = v1.map(|path| Path::new(V1_MEMORY).join(path.trim_start_matches('/')))
            && let Some(oom) = Self::watch_v1(&dir)
        {
            return Some(oom);
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        match v1.and_then(|path| mounted_at(&mounts, "cgroup", "memory", path)) {
            Some(dir) => Self::watch_v1(&dir),
            None => {
                Self::watch_v2(&mounted_at(&mounts, "cgroup2", "", cgroup_path(&groups, str::is_empty)?)?)
            }
        }
    }

    fn watch_v1(dir: &Path) -> Option<Self> {
        let counter = dir.join("memory.oom_control");
        let (control, event) = (
            File::open(&counter).ok()?,
            EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).ok()?,
        );
        let words = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
        fs::write(dir.join("cgroup.event_control"), words).ok()?;
        Some(Oom { source: Source::V1(event), counted: 0, counter, rechecks: Vec::new() })
    }

    fn watch_v2(dir: &Path) -> Option<Self> {
        let counter = dir.join("memory.events");
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
        inotify.add_watch(&counter, AddWatchFlags::IN_MODIFY).ok()?;
        Some(Oom { source: Source::V2(inotify), counted: 0, counter, rechecks: Vec::new() })
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::V1(event) => event.as_fd(),
            Source::V2(inotify) => inotify.as_fd(),
        }
    }

    /// Whether the kernel has killed processes for lack of memory since the last call. To be called when the
    /// descriptor is readable, and at [`Oom::deadline`].
    pub(crate) fn has_killed(&mut self) -> bool {
        let now = Instant::now();
        match &self.source {
            // The event comes before the kernel chooses a process to kill, so the counter may grow a moment later. It
            // also comes while an earlier victim still ends, and then the kernel kills nobody else.
            Source::V1(event) if event.read().is_ok() => {
                self.rechecks =
                    RECHECKS.iter().rev().map(|delay| now + Duration::from_millis(*delay)).collect();
            }
            Source::V1(_) if self.rechecks.is_empty() => return false,
            Source::V1(_) => self.rechecks.retain(|at| *at > now),
            Source::V2(inotify) if inotify.read_events().is_ok() => {}
            Source::V2(_) => return false,
        }
        let is_more = self.is_counted();
        if is_more {
            self.rechecks.clear();
        }
        is_more
    }

    /// When [`Oom::has_killed`] must be called again, although the descriptor is not readable.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.rechecks.last().copied()
    }

    /// Whether the kernel has killed a process in this run that [`Oom::has_killed`] did not report. Called at the end
    /// of a run.
    pub(crate) fn was_missed(&mut self) -> bool {
        self.is_counted()
    }

    fn is_counted(&mut self) -> bool {
        let Some(count) = kills(&self.counter) else { return false };
        let is_more = count > self.counted;
        self.counted = count;
        is_more
    }
}

fn kills(counter: &Path) -> Option<u64> {
    let text = fs::read_to_string(counter).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// The path of the process in the hierarchy whose list of controllers satisfies `fits`. cgroups(7),
/// "/proc/PID/cgroup".
fn cgroup_path(text: &str, fits: impl Fn(&str) -> bool) -> Option<&str> {
    text.lines().find_map(|line| {
        let (names, path) = line.split_once(':')?.1.split_once(':')?;
        fits(names).then_some(path)
    })
}

/// The directory at which `path` of a hierarchy is mounted; `kind` and `option` select the hierarchy.
/// proc_pid_mountinfo(5).
fn mounted_at(mounts: &str, kind: &str, option: &str, path: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut words = before.split(' ').skip(3);
        let (root, target) = (words.next()?, words.next()?);
        let mut after = after.split(' ');
        let fits = after.next()? == kind
            && (option.is_empty() || after.nth(1)?.split(',').any(|word| word == option));
        let below = if root == "/" { path } else { path.strip_prefix(root)? };
        fits.then(|| Path::new(target).join(below.trim_start_matches('/')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_found_in_either_version() {
        let mounts = "30 25 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let groups = "4:memory:/a/b\n0::/c\n";
        let v1 = cgroup_path(groups, |names| names.split(',').any(|name| name == "memory")).expect("there");
        assert_eq!(mounted_at(mounts, "cgroup", "memory", v1), Some("/sys/fs/cgroup/memory/a/b".into()));
        let v2 = cgroup_path(groups, str::is_empty).expect("there");
        assert_eq!(mounted_at(mounts, "cgroup2", "", v2), Some("/sys/fs/cgroup/unified/c".into()));
        assert_eq!(mounted_at("bad\n - \n", "cgroup", "memory", "/"), None);
    }

    /// Writes the file in the kernel's format. cgroup-v2.rst, "Memory Interface Files".
    fn count(dir: &Path, kills: u64) {
        let text = format!("low 0\nhigh 0\nmax 31\noom 2\noom_kill {kills}\noom_group_kill 7\n");
        fs::write(dir.join("memory.events"), text).expect("written");
    }

    #[test]
    fn version_2_reports_each_kill_once_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(Oom::watch_v2(dir.path()).is_none(), "no memory controller");
        count(dir.path(), 0);
        let mut oom = Oom::watch_v2(dir.path()).expect("a file to watch");
        assert!(!oom.has_killed());
        count(dir.path(), 0);
        assert!(!oom.has_killed() && !oom.was_missed(), "a limit was hit, and nobody was killed");
        count(dir.path(), 1);
        assert!(oom.has_killed() && !oom.has_killed() && !oom.was_missed());
        count(dir.path(), 3);
        assert!(oom.was_missed() && !oom.was_missed());
        fs::remove_file(dir.path().join("memory.events")).expect("the group goes");
        assert!(!oom.has_killed() && !oom.was_missed());
    }

    #[test]
    fn version_1_reports_a_kill_after_its_event_and_no_event_without_a_kill() {
        let dir = tempfile::tempdir().expect("a directory");
        let count = |kills: u64| {
            let text = format!("oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n");
            fs::write(dir.path().join("memory.oom_control"), text).expect("written");
        };
        count(0);
        let mut oom = Oom::watch_v1(dir.path()).expect("a file to watch");
        let event = |oom: &Oom| match &oom.source {
            Source::V1(event) => event.write(1).expect("an event"),
            Source::V2(_) => panic!("version 1"),
        };
        assert!(!oom.has_killed() && oom.deadline().is_none());
        event(&oom);
        assert!(!oom.has_killed() && oom.deadline().is_some());
        count(1);
        assert!(oom.has_killed() && oom.deadline().is_none());
        event(&oom);
        assert!(!oom.has_killed() && !oom.was_missed(), "an event, and no other kill");
        oom.rechecks = vec![Instant::now()];
        assert!(!oom.has_killed() && oom.deadline().is_none());
        event(&oom);
        fs::remove_file(dir.path().join("memory.oom_control")).expect("the group goes");
        assert!(!oom.has_killed() && !oom.was_missed());
    }

    #[test]
    fn a_kill_before_the_watch_is_reported_at_the_end() {
        let dir = tempfile::tempdir().expect("a directory");
        count(dir.path(), 1);
        let mut oom = Oom::watch_v2(dir.path()).expect("a file to watch");
        assert!(!oom.has_killed() && oom.was_missed() && !oom.was_missed());
    }
}
