//! Settings of the CDN manager, states of its tasks, and results of its methods.
//!
//! Types without behaviour.

use super::eviction::Marks;

/// How far a task's file has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CdnStatus {
    /// No thread has begun to fetch what is missing.
    Waiting,
    /// A thread fetches.
    Running,
    /// All pieces are there.
    Success,
    /// The disk or this process failed, or the content is not what the client expects.
    Failed,
    /// The origin failed.
    SourceError,
}

/// Which hosts fetch from origins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pattern {
    /// The supernode fetches each file once, and serves it.
    #[default]
    Local,
    /// Each client fetches from the origin. The supernode stores nothing, and offers each piece at once.
    Source,
}

/// The settings of the manager.
#[derive(Clone, Debug)]
pub struct CdnSettings {
    /// Which hosts fetch from origins.
    pub pattern: Pattern,
    /// Most threads that fetch or check at a time.
    pub fetches_max: usize,
    /// Limit on the bytes of all fetches together, per second; 0 means no limit.
    pub bytes_per_second: u64,
    /// When files are deleted.
    pub marks: Marks,
}

impl Default for CdnSettings {
    fn default() -> Self {
        let marks = Marks::default();
        CdnSettings { pattern: Pattern::Local, fetches_max: 8, bytes_per_second: 0, marks }
    }
}

/// The result of [`trigger`](super::Cdn::trigger).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TriggerOutcome {
    /// The file is complete: nothing is fetched, and no event follows.
    Complete,
    /// A fetch runs or waits since an earlier call.
    Runs,
    /// A fetch begins or waits for a thread. Pieces may be there already.
    Begins,
}
