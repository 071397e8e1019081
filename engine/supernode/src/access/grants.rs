//! Which clients have shown access to which tasks.
//!
//! Owned by the event loop, which adds a grant when an origin has accepted a client's credential for a file. While
//! the grant lasts, the origin is not asked again. Never asks an origin itself.

use super::credential::Credential;
use crate::task_id::TaskId;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// Longest time for which the origin is not asked again.
pub const GRANT_TIME_MAX: Duration = Duration::from_secs(300);
/// The time for a credential that does not say when it expires.
pub const GRANT_TIME: Duration = Duration::from_secs(60);
/// Most grants. When a further one comes, those that end first are forgotten: their clients have to show access
/// again.
pub const GRANTS_MAX: usize = 16 << 10;

/// The accesses that were shown a short time ago.
#[derive(Debug, Default)]
pub struct Grants {
    until: HashMap<(Credential, TaskId), SystemTime>,
}

impl Grants {
    /// Remembers that the origin of `task` has just accepted `credential`, until the credential expires, for at
    /// most [`GRANT_TIME_MAX`].
    pub fn add(&mut self, credential: Credential, task: TaskId, now: SystemTime) {
        let until = match credential.expires() {
            Some(expires) => expires.min(now + GRANT_TIME_MAX),
            None => now + GRANT_TIME,
        };
        if until <= now {
            return;
        }
        if self.until.len() >= GRANTS_MAX {
            self.expire(now);
        }
        if self.until.len() >= GRANTS_MAX {
            self.forget_earliest();
        }
        self.until.insert((credential, task), until);
    }

    /// Whether the origin of `task` has accepted `credential` a short time ago.
    pub fn contains(&self, credential: Credential, task: TaskId, now: SystemTime) -> bool {
        // If the clock was set back, a grant must not last longer.
        self.until
            .get(&(credential, task))
            .is_some_and(|until| now < *until && *until <= now + GRANT_TIME_MAX)
    }

    /// Forgets the grants that have ended.
    pub fn expire(&mut self, now: SystemTime) {
        self.until.retain(|_, until| now < *until && *until <= now + GRANT_TIME_MAX);
        if self.until.is_empty() {
            self.until.shrink_to_fit();
        }
    }

    /// Forgets all grants for `task`, because the task is gone or its file has changed.
    pub fn remove(&mut self, task: &TaskId) {
        self.until.retain(|(_, of), _| of != task);
    }

    /// The number of grants.
    pub fn len(&self) -> usize {
        self.until.len()
    }

    /// Whether there is no grant.
    pub fn is_empty(&self) -> bool {
        self.until.is_empty()
    }

    /// Forgets the eighth of the grants that ends first, so that a full map is not searched for each new grant.
    fn forget_earliest(&mut self) {
        let mut ends: Vec<SystemTime> = self.until.values().copied().collect();
        let eighth = ends.len() / 8;
        let (_, last, _) = ends.select_nth_unstable(eighth);
        let (last, mut most) = (*last, eighth + 1);
        self.until.retain(|_, until| {
            let goes = *until <= last && most > 0;
            most -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::credential::tests::token;
    use super::*;
    use std::time::UNIX_EPOCH;

    fn credential(value: &str) -> Credential {
        Credential::of([("authorization", value)]).expect("a secret")
    }

    fn task(n: u32) -> TaskId {
        TaskId::new(&n.to_string(), "", "")
    }

    #[test]
    fn a_grant_ends_with_its_token_or_after_its_time() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (value, seconds) in [
            ("Basic eDp5".to_owned(), 60),
            (token("1000010"), 10),
            (token("2000000"), 300),
            (token("1000000"), 0),
            (token("5"), 0),
        ] {
            let (mut grants, credential) = (Grants::default(), credential(&value));
            grants.add(credential, task(0), now);
            for second in [0, 9, 10, 59, 60, 299, 300, 301] {
                let is = grants.contains(credential, task(0), now + Duration::from_secs(second));
                assert_eq!(is, second < seconds, "{value} after {second} s");
            }
        }
    }

    #[test]
    fn a_grant_is_for_one_credential_and_one_task() {
        let (mut grants, now) = (Grants::default(), UNIX_EPOCH + Duration::from_secs(1_000_000));
        let [a, b] = ["a", "b"].map(credential);
        grants.add(a, task(0), now);
        grants.add(b, task(1), now);
        assert!(grants.contains(a, task(0), now) && grants.contains(b, task(1), now));
        assert!(!grants.contains(b, task(0), now) && !grants.contains(a, task(1), now));
        assert!(!grants.contains(a, task(0), now - Duration::from_secs(3600)), "the clock was set back");
        grants.remove(&task(0));
        assert!(!grants.contains(a, task(0), now) && grants.contains(b, task(1), now));
        grants.expire(now + GRANT_TIME);
        assert!(grants.is_empty());
    }

    #[test]
    fn a_full_memory_forgets_what_ends_first() {
        let (mut grants, now) = (Grants::default(), UNIX_EPOCH + Duration::from_secs(1_000_000));
        let [short, long] = [token("1000020"), token("2000000")].map(|value| credential(&value));
        for n in 0..100 {
            grants.add(short, task(n), now);
        }
        for n in 0..2 * GRANTS_MAX as u32 {
            grants.add(long, task(n), now + Duration::from_millis(u64::from(n)));
            assert!(grants.len() <= GRANTS_MAX);
        }
        let newest = 2 * GRANTS_MAX as u32 - 1;
        assert!(grants.contains(long, task(newest), now + Duration::from_secs(33)));
        assert!((0..100).all(|n| !grants.contains(short, task(n), now)));
        assert!(!grants.contains(long, task(0), now));
    }
}
