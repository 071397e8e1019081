//! Writes a new execution of a replication into its journal, before anything is answered or done.
//!
//! Called by `server`, on a thread of its own: this module waits for the disk. Runs no execution.

use crate::context::Shared;
use crate::error;
use sampan_ipc::engine::{Code, Failure};
use sampan_ipc::replication::State;
use sampan_ipc::report;
use sampan_os::mutex::lock;
use sampan_replication::execution;
use sampan_replication::journal::{Journal, JournalError};
use sampan_replication::record::{Order, Record};
use std::sync::Arc;

/// What a new execution is to do.
pub enum Wish {
    /// This order, of a command or of a policy.
    Order(Box<Order>),
    /// Continue an earlier execution, or repeat its failed artifacts.
    Again {
        /// The number of the earlier execution.
        id: u64,
        /// Only the artifacts that failed.
        only_failed: bool,
    },
}

const LISTS: &str = "'sampan replication ls' lists executions";

/// Writes the execution `id` into a journal. `None` if it `is_skipped`, because its policy is busy: it then is recorded
/// as such, and has ended.
///
/// # Errors
/// The journal cannot be written, or the earlier execution cannot be continued.
pub fn begin_execution(
    shared: &Shared,
    id: u64,
    wish: Wish,
    is_skipped: bool,
) -> Result<Option<Arc<Journal>>, Failure> {
    let journals = &shared.replication.journals;
    let refused = |error: JournalError| {
        let message = format!("cannot begin a replication: {}", report::chain(&error));
        error::new(Code::Failed, message, "")
    };
    let order = match wish {
        Wish::Order(order) => *order,
        Wish::Again { id: old, only_failed } => return again(shared, id, old, only_failed).map(Some),
    };
    let policy = order.policy.clone();
    let journal = journals.begin(id, order).map_err(refused)?;
    if !is_skipped {
        return Ok(Some(journal));
    }
    let (at, error) = (sampan_ipc::time::now(), Default::default());
    journal.record(Record::Execution { state: State::Skipped, at, error }).map_err(refused)?;
    journals.finish(id);
    log::info!("execution {id} is skipped, because policy {policy} is busy");
    shared.announcer.job("skip", id, "replicate", &policy, &[("policy", &policy)]);
    Ok(None)
}

/// Begins the execution `id`, which takes over what is left of the execution `old`.
fn again(shared: &Shared, id: u64, old: u64, only_failed: bool) -> Result<Arc<Journal>, Failure> {
    let (replication, conflict) = (&shared.replication, |message| error::new(Code::Conflict, message, ""));
    // One at a time: two executions must not take over the same upload sessions.
    let _one = lock(&replication.continuing);
    let journals = &replication.journals;
    if let Some(other) = journals.continuation_of(old) {
        return Err(conflict(format!("execution {other} continues execution {old} already")));
    }
    let Some((_, model)) = journals.order_of(old) else {
        return Err(error::new(Code::NotFound, format!("there is no execution {old}"), LISTS));
    };
    if !model.execution.state.is_final() {
        let message = format!("execution {old} is {}", model.execution.state);
        return Err(error::new(Code::Conflict, message, &format!("sampan replication stop {old}")));
    }
    let takes = |state: State| if only_failed { state == State::Error } else { state != State::Finished };
    let Some((order, records)) = execution::continuation(&model, takes) else {
        return Err(conflict(format!("execution {old} has nothing left to do")));
    };
    let begun = journals.begin(id, order).and_then(|journal| {
        match records.into_iter().try_for_each(|record| journal.record(record)) {
            Ok(()) => Ok(journal),
            Err(error) => {
                journals.abandon(id);
                Err(error)
            }
        }
    });
    let journal = begun.map_err(|error| {
        let message = format!("cannot continue execution {old}: {}", report::chain(&error));
        error::new(Code::Failed, message, "")
    })?;
    // Its upload sessions belong to the new execution now.
    journals.drop_kept(old);
    Ok(journal)
}
