//! Which tasks and peers are forgotten, and when.
//!
//! Pure: the event loop gives it the time, the tasks and the peers, sleeps until [`Gc::deadline`], and carries out
//! its [`Action`]s. An idle task loses its swarm (downloads, holders, leases), never its file: `cdn` chooses files
//! to delete when the disk gets full. A task that is in use is not forgotten, however long ago a client asked for
//! it.

use crate::task_id::TaskId;
use std::time::{Duration, Instant};

/// Least time between two rounds, so that many tasks that end one after the other cost one round.
const SPACING: Duration = Duration::from_secs(15);
/// Time between two looks at the disk while files grow.
const DISK_INTERVAL: Duration = Duration::from_secs(15);
/// Time between two looks at the disk while no file grows. Other programs may fill the disk.
const DISK_INTERVAL_IDLE: Duration = Duration::from_secs(300);
/// Most actions of one round, so that the event loop serves clients in between. The next round follows at once.
const ACTIONS_MAX: usize = 1024;

/// After which times tasks and peers are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcSettings {
    /// How long a task keeps its swarm after it was last used.
    pub task_idle: Duration,
    /// How long a peer is kept after its last request, or after its upload server has ended.
    pub peer_idle: Duration,
}

impl Default for GcSettings {
    /// Three minutes each: Dragonfly's uploaders keep a file for as long.
    fn default() -> Self {
        let idle = Duration::from_secs(180);
        GcSettings { task_idle: idle, peer_idle: idle }
    }
}

/// What this module must know of a task.
#[derive(Clone, Copy, Debug)]
pub struct TaskUse {
    /// The task.
    pub id: TaskId,
    /// When a client last registered for the task, pulled from it or reported a piece.
    pub used: Instant,
    /// Whether the task is being fetched, a pull waits for it, or a preheat needs it.
    pub is_busy: bool,
}

/// What this module must know of a peer.
#[derive(Clone, Copy, Debug)]
pub struct PeerUse<P> {
    /// The peer.
    pub id: P,
    /// When the peer last sent a request, or another peer last got a piece from it.
    pub heard: Instant,
    /// When the peer said that its upload server ends.
    pub down: Option<Instant>,
}

/// What the event loop does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<P> {
    /// Forget the task's downloads, progress and holders. Its file and record stay.
    ForgetTask(TaskId),
    /// Forget the peer, its load, and all pieces that it holds.
    ForgetPeer(P),
    /// Let `cdn` choose files to delete.
    FreeDisk,
}

/// When the next round is due, and what it removes.
#[derive(Debug)]
pub struct Gc {
    settings: GcSettings,
    /// When something may be idle for long enough; `None` while there is nothing that can become idle.
    idle_at: Option<Instant>,
    disk_at: Option<Instant>,
}

impl Gc {
    /// Expects nothing to become idle yet. The first round looks at the disk.
    pub fn new(settings: GcSettings, now: Instant) -> Self {
        Gc { settings, idle_at: None, disk_at: Some(now) }
    }

    /// How long a task keeps its clients after it was last used.
    pub fn task_idle(&self) -> Duration {
        self.settings.task_idle
    }

    /// When [`Gc::run`] must be called; `None` if nothing can happen before the next [`Gc::on_use`].
    pub fn deadline(&self) -> Option<Instant> {
        [self.idle_at, self.disk_at].into_iter().flatten().min()
    }

    /// Records that a task or a peer was registered or used. Cheap: the loop may call it for each request.
    pub fn on_use(&mut self, now: Instant) {
        // Later uses move the time further away. The next round finds that out.
        let soonest = now + self.settings.task_idle.min(self.settings.peer_idle);
        self.idle_at = Some(self.idle_at.map_or(soonest, |at| at.min(soonest)));
    }

    /// Records that a file grows.
    pub fn on_fetch(&mut self, now: Instant) {
        let soon = now + DISK_INTERVAL;
        self.disk_at = Some(self.disk_at.map_or(soon, |at| at.min(soon)));
    }

    /// The actions that are due at `now`. `has_files`: whether there is any file to delete; `is_fetching`: whether
    /// one grows. Takes time proportional to the number of tasks and peers, but only when something may be due.
    pub fn run<P>(
        &mut self,
        now: Instant,
        tasks: impl IntoIterator<Item = TaskUse>,
        peers: impl IntoIterator<Item = PeerUse<P>>,
        has_files: bool,
        is_fetching: bool,
    ) -> Vec<Action<P>> {
        let mut actions = Vec::new();
        if self.disk_at.is_some_and(|at| at <= now) {
            actions.push(Action::FreeDisk);
            let interval = if is_fetching { DISK_INTERVAL } else { DISK_INTERVAL_IDLE };
            self.disk_at = (has_files || is_fetching).then(|| now + interval);
        }
        if self.idle_at.is_none_or(|at| at > now) {
            return actions;
        }
        let mut next: Option<Instant> = None;
        let mut is_over = |at: Instant, is_busy: bool, is_full: bool, idle: Duration| {
            // Something in use is looked at again after its whole time, since its use may end at once.
            let at = if is_busy { at.max(now + idle) } else { at };
            let is_over = at <= now && !is_full;
            if !is_over {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
            is_over
        };
        for task in tasks {
            let idle = self.settings.task_idle;
            let is_full = actions.len() >= ACTIONS_MAX;
            if is_over(task.used + idle, task.is_busy, is_full, idle) {
                actions.push(Action::ForgetTask(task.id));
            }
        }
        for peer in peers {
            let idle = self.settings.peer_idle;
            let since = peer.down.map_or(peer.heard, |down| down.min(peer.heard));
            let is_full = actions.len() >= ACTIONS_MAX;
            if is_over(since + idle, false, is_full, idle) {
                actions.push(Action::ForgetPeer(peer.id));
            }
        }
        let is_full = actions.len() >= ACTIONS_MAX;
        let spacing = SPACING.min(self.settings.task_idle).min(self.settings.peer_idle);
        self.idle_at = next.map(|at| if is_full { at.max(now) } else { at.max(now + spacing) });
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    type Actions = Vec<Action<&'static str>>;

    fn id(number: u32) -> TaskId {
        TaskId::new(&format!("http://origin/{number}"), "", "")
    }

    fn task(number: u32, used: Instant) -> TaskUse {
        TaskUse { id: id(number), used, is_busy: false }
    }

    fn peer(id: &'static str, heard: Instant) -> PeerUse<&'static str> {
        PeerUse { id, heard, down: None }
    }

    /// A collector without disk, and the time at which it was made.
    fn gc() -> (Gc, Instant) {
        let now = Instant::now();
        let mut gc = Gc::new(GcSettings::default(), now);
        assert_eq!(gc.run::<&str>(now, [], [], false, false), [Action::FreeDisk]);
        assert_eq!(gc.deadline(), None);
        gc.on_use(now);
        (gc, now)
    }

    #[test]
    fn a_task_is_forgotten_three_minutes_after_its_last_use() {
        let (mut gc, start) = gc();
        assert_eq!(gc.deadline(), Some(start + 3 * MINUTE));
        let tasks = [task(1, start), task(2, start + MINUTE)];
        let early = gc.run::<&str>(start + 2 * MINUTE, tasks, [], false, false);
        assert_eq!((early, gc.deadline()), (Actions::new(), Some(start + 3 * MINUTE)));
        let actions = gc.run::<&str>(start + 3 * MINUTE, tasks, [], false, false);
        assert_eq!((actions, gc.deadline()), (vec![Action::ForgetTask(id(1))], Some(start + 4 * MINUTE)));
        let rest = gc.run::<&str>(start + 4 * MINUTE, [task(2, start + MINUTE)], [], false, false);
        assert_eq!((rest, gc.deadline()), (vec![Action::ForgetTask(id(2))], None));
    }

    #[test]
    fn a_busy_task_is_kept_and_looked_at_again() {
        let (mut gc, start) = gc();
        let now = start + 60 * MINUTE;
        let tasks = [TaskUse { is_busy: true, ..task(1, start) }];
        assert_eq!(gc.run::<&str>(now, tasks, [], false, false), []);
        assert_eq!(gc.deadline(), Some(now + 3 * MINUTE));
        let later = gc.run::<&str>(now + 3 * MINUTE, [task(1, start)], [], false, false);
        assert_eq!(later, [Action::ForgetTask(id(1))]);
    }

    #[test]
    fn a_peer_goes_three_minutes_after_it_went_down() {
        let (mut gc, start) = gc();
        let down = PeerUse { down: Some(start), ..peer("down", start + 2 * MINUTE) };
        let silent = peer("silent", start + MINUTE);
        let actions = gc.run(start + 3 * MINUTE, [], [down, silent], false, false);
        assert_eq!(actions, [Action::ForgetPeer("down")]);
        assert_eq!(gc.run(start + 4 * MINUTE, [], [silent], false, false), [Action::ForgetPeer("silent")]);
    }

    #[test]
    fn rounds_have_a_least_distance_and_a_most_size() {
        let (mut gc, start) = gc();
        let second = Duration::from_secs(1);
        let now = start + 3 * MINUTE;
        assert_eq!(gc.run::<&str>(now, [task(1, start), task(2, start + second)], [], false, false).len(), 1);
        assert_eq!(gc.deadline(), Some(now + SPACING));
        let many: Vec<TaskUse> = (0..1500).map(|number| task(number, start)).collect();
        let now = now + SPACING;
        let first = gc.run::<&str>(now, many.iter().copied(), [], false, false);
        assert_eq!((first.len(), gc.deadline()), (ACTIONS_MAX, Some(now)));
        let left = many.iter().copied().filter(|task| !first.contains(&Action::ForgetTask(task.id)));
        let second = gc.run::<&str>(now, left, [], false, false);
        assert_eq!((first.len() + second.len(), gc.deadline()), (1500, None));
    }

    #[test]
    fn the_disk_is_looked_at_often_only_while_files_grow() {
        let now = Instant::now();
        let mut gc = Gc::new(GcSettings::default(), now);
        assert_eq!(gc.run::<&str>(now, [], [], true, false), [Action::FreeDisk]);
        assert_eq!(gc.deadline(), Some(now + DISK_INTERVAL_IDLE));
        gc.on_fetch(now);
        gc.on_fetch(now + MINUTE);
        let now = now + DISK_INTERVAL;
        assert_eq!(gc.deadline(), Some(now));
        assert_eq!(gc.run::<&str>(now, [], [], true, true), [Action::FreeDisk]);
        assert_eq!(gc.deadline(), Some(now + DISK_INTERVAL));
        assert_eq!(gc.run::<&str>(now + DISK_INTERVAL, [], [], false, false), [Action::FreeDisk]);
        assert_eq!(gc.deadline(), None);
    }
}
