//! The user and the groups of an installation, and their IDs in /etc/passwd and /etc/group.
//!
//! Daemons give their sockets to the groups; clients accept a socket that belongs to the user. This module reads the
//! two files directly: getgrnam(3) would load the name service modules into each process, which take memory and may
//! query other hosts. passwd(5), group(5).

use std::fs;

/// The user that sampan-monitord runs as under a service manager.
pub const MONITORD_USER: &str = "sampan";
/// The group whose members may read events and emit their own.
pub const WATCH_GROUP: &str = "sampan";
/// The group whose members may write facts into the monitor FIFO.
pub const FACTS_GROUP: &str = "sampan-facts";
/// The group whose members may use the engine. They can become root, since they may mount any directory of the host.
pub const ADMIN_GROUP: &str = "sampan-admin";

/// The ID of the group `name`; `None` if the host does not have it.
pub fn group_id(name: &str) -> Option<u32> {
    number(&fs::read_to_string("/etc/group").ok()?, name)
}

/// The ID of the user `name`; `None` if the host does not have it.
pub fn user_id(name: &str) -> Option<u32> {
    number(&fs::read_to_string("/etc/passwd").ok()?, name)
}

/// The third field of the line that begins with `name`, which is the ID in both files.
fn number(file: &str, name: &str) -> Option<u32> {
    let line = file.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split(':').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let group = "root:x:0:\nsampan-admin:x:7:\nsampan:x:993:me,you\n";
        assert_eq!(number(group, "sampan"), Some(993));
        assert_eq!(number(group, "sampan-admin"), Some(7));
        assert_eq!(number(group, "sampan-facts"), None);
        let passwd = "root:x:0:0:root:/root:/bin/sh\nsampan:x:998:993:Sampan events:/:/sbin/nologin\n";
        assert_eq!(number(passwd, "sampan"), Some(998));
        assert_eq!(number("sampan", "sampan"), None);
        assert_eq!(number("sampan:x:-1:\n", "sampan"), None);
    }
}
