//! Which boot of the host this is: what was true of processes and unsynced files before another boot is not true now.
//!
//! Called by the store, the shim and the engine, each of which keeps the identity beside what depends on it. random(4).

/// The identity of this boot, 36 characters; `None` if the kernel does not say.
pub fn read() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}
