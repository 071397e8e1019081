//! The user and the groups of an installation, and their numbers in /etc/passwd and /etc/group.
//!
//! Daemons give their sockets to the groups; clients accept a socket of the user. The two files are read directly: the
//! C library would load its name services into each process, keep them, and ask other hosts. passwd(5), group(5).

use std::fs;

/// The user that sampan-monitord runs as under a service manager.
pub const MONITORD_USER: &str = "sampan";
/// The group whose members watch events and emit their own.
pub const WATCH_GROUP: &str = "sampan";
/// The group whose members write facts into the monitor FIFO.
pub const FACTS_GROUP: &str = "sampan-facts";
/// The group whose members use the engine, and are root in all but name: they may mount any directory of the host.
pub const ADMIN_GROUP: &str = "sampan-admin";

/// The number of a group; `None` if the host does not have it.
pub fn group_id(name: &str) -> Option<u32> {
    number(&fs::read_to_string("/etc/group").ok()?, name)
}

/// The number of a user; `None` if the host does not have it.
pub fn user_id(name: &str) -> Option<u32> {
    number(&fs::read_to_string("/etc/passwd").ok()?, name)
}

/// The third field of the line of `name`: both files have the number there.
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
