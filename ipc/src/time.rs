//! Times: in events as nanoseconds since the Unix epoch, and in the forms that people read and write.
//!
//! [`local`] formats a time, and [`parse`] reads that form back to the same nanosecond. Used for the lines of events,
//! and for options such as `--since`, `--until` and `--time`. Only [`now`] reads the clock, and only functions for
//! local time read the time zone.

#[cfg(feature = "calendar")]
mod calendar;
mod duration;

#[cfg(feature = "calendar")]
pub use self::calendar::{FORMS, TimeError, http_date, in_order, local, parse};
pub use self::duration::duration;
use std::time::{SystemTime, UNIX_EPOCH};

/// The current time in nanoseconds since the Unix epoch. CLOCK_REALTIME, clock_gettime(2).
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
