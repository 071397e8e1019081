//! Classifies file system errors, independent of the operation that failed.
//!
//! Called by crates whose errors carry an [`io::Error`] somewhere among their causes.

use std::error::Error;
use std::io;

/// True if `error` or one of its causes reports a full disk or an exceeded quota.
pub fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
            return true;
        }
        cause = error.source();
    }
    false
}
