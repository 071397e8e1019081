//! Identifies the current boot of the host: after a reboot, recorded process ids and unsynced files are not valid.
//!
//! Called by the store, the shim and the engine, each of which records the identity with the data that depends on it.
//! Keeps nothing itself. random(4).

/// The identity of this boot, a UUID of 36 characters; `None` if /proc cannot be read.
pub fn read() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}
