//! How many connections each user may have.
//!
//! Owned by the event loop, which counts each connection here. Root and the gateway's own user may use all places. The other
//! users have a limit each, and together leave places to root, so that an administrator is served whatever they do.

use std::collections::HashMap;

/// Most connections; further ones wait in the kernel's backlog.
pub(crate) const CONNECTIONS_MAX: usize = 4_096;
/// Most connections of all users but root and the gateway's own.
const OF_OTHERS_MAX: usize = 3_072;
/// Most connections of each of these users.
const OF_USER_MAX: usize = 1_024;

/// The connections by user.
#[derive(Debug)]
pub(crate) struct Quota {
    own_uid: u32,
    all: usize,
    others: usize,
    by_uid: HashMap<u32, usize>,
}

impl Quota {
    /// No connections. `own_uid` is the user of this process.
    pub(crate) fn new(own_uid: u32) -> Self {
        Quota { own_uid, all: 0, others: 0, by_uid: HashMap::new() }
    }

    /// Whether no further connection can be served.
    pub(crate) fn is_full(&self) -> bool {
        self.all >= CONNECTIONS_MAX
    }

    /// Counts a connection of `uid`; returns false, and counts nothing, if the user has too many already.
    pub(crate) fn admit(&mut self, uid: u32) -> bool {
        if self.is_limited(uid) {
            let count = self.by_uid.get(&uid).copied().unwrap_or_default();
            if count >= OF_USER_MAX || self.others >= OF_OTHERS_MAX {
                return false;
            }
            self.by_uid.insert(uid, count + 1);
            self.others += 1;
        }
        self.all += 1;
        true
    }

    /// Forgets a connection of `uid` that was admitted.
    pub(crate) fn release(&mut self, uid: u32) {
        self.all = self.all.saturating_sub(1);
        if !self.is_limited(uid) {
            return;
        }
        self.others = self.others.saturating_sub(1);
        match self.by_uid.get_mut(&uid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.by_uid.remove(&uid)),
        }
    }

    fn is_limited(&self, uid: u32) -> bool {
        uid != 0 && uid != self.own_uid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_with_too_many_connections_costs_others_none() {
        let mut quota = Quota::new(500);
        assert!((0..OF_USER_MAX).all(|_| quota.admit(1000)));
        assert!(!quota.admit(1000));
        assert!(quota.admit(1001), "another user");
        quota.release(1000);
        assert!(quota.admit(1000) && !quota.admit(1000));
        let of_others =
            1 + (1002..2000).flat_map(|uid| [uid; OF_USER_MAX]).filter(|uid| quota.admit(*uid)).count();
        assert_eq!(OF_USER_MAX + of_others, OF_OTHERS_MAX);
        assert!(!quota.is_full());
        let rest = CONNECTIONS_MAX - OF_OTHERS_MAX;
        assert!((0..rest).all(|n| quota.admit(if n % 2 == 0 { 0 } else { 500 })));
        assert!(quota.is_full());
        quota.release(0);
        assert!(!quota.is_full());
    }

    #[test]
    fn a_user_without_connections_is_forgotten() {
        let mut quota = Quota::new(0);
        assert!(quota.admit(7) && quota.admit(7));
        quota.release(7);
        quota.release(7);
        assert_eq!((quota.by_uid.len(), quota.others, quota.all), (0, 0, 0));
    }
}
