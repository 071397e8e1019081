//! Time as events have it, nanoseconds since the Unix epoch, and as people write and read it.
//!
//! [`local`] prints what [`parse`] reads back to the same nanosecond. Used by the event line and by whoever takes
//! `--since`, `--until` or `--time`. Reads the clock only in [`now`], the time zone only for local forms.

#[cfg(feature = "calendar")]
mod calendar;
mod duration;

#[cfg(feature = "calendar")]
pub use self::calendar::{FORMS, TimeError, in_order, local, parse};
pub use self::duration::duration;
use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in nanoseconds since the Unix epoch, by CLOCK_REALTIME.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
