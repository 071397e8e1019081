//! The limit of this process's descriptors. getrlimit(2).
//!
//! Called once, at the start of a daemon, before it accepts connections.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit to `wanted` descriptors, or as far as the hard limit allows. Returns the limit in force, as a
/// number of descriptors. `setting` names the setting or constant that `wanted` comes from, for the log.
pub fn raise_limit(wanted: u64, setting: &str) -> u64 {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(errno) => {
            log::warn!("cannot read the limit of descriptors: {errno}");
            return wanted;
        }
    };
    if soft >= wanted {
        return soft;
    }
    let allowed = wanted.min(hard);
    if let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, allowed, hard) {
        log::warn!("cannot raise the limit of descriptors to {allowed}, some clients may not fit: {errno}");
        return soft;
    }
    if allowed < wanted {
        log::warn!(
            "the hard limit of {allowed} descriptors admits fewer clients than {setting}: raise LimitNOFILE of the unit"
        );
    }
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_as_far_as_the_hard_limit() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        assert!(raise_limit(1, "a test") >= 1);
        assert_eq!(raise_limit(hard.saturating_add(1), "a test"), hard);
    }
}
