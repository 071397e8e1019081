//! Time as events have it and as people write it.
/// Now, in nanoseconds since the Unix epoch, by CLOCK_REALTIME.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
/// RFC 3339 in local time with offset and nine digits.
pub fn local(nanos: i64) -> String {
    chrono::DateTime::from_timestamp_nanos(nanos).with_timezone(&chrono::Local).format("%Y-%m-%dT%H:%M:%S%.9f%:z").to_string()
}
