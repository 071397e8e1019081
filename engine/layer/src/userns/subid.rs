//! Subordinate IDs: the IDs that an ordinary user may map in its user namespaces. subuid(5), subgid(5).
//!
//! Called by [`crate::userns`]. Reads `/etc/subuid` and `/etc/subgid` directly, and `/etc/passwd` for the user's name.
//! Never asks a name service, which would load libraries into this process.

use std::fs;

/// Most ranges of subordinate IDs that are used. The kernel accepts 340 lines in a map. user_namespaces(7).
const RANGES_MAX: usize = 100;

/// The IDs from `start` to `start + count - 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first ID.
    pub start: u32,
    /// The number of IDs; at least one.
    pub count: u32,
}

/// The ranges of user `uid` in `file`; empty if the file does not exist.
pub fn ranges(file: &str, uid: u32) -> Vec<Range> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    parse(&text, &owners(&passwd, uid))
}

/// The names by which `/etc/subuid` and `/etc/subgid` may refer to a user: the user's login names and user ID.
fn owners(passwd: &str, uid: u32) -> Vec<String> {
    let uid = uid.to_string();
    let named = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    named.chain([uid.clone()]).collect()
}

/// Parses lines of the form `OWNER:START:COUNT`; skips all other lines.
fn parse(text: &str, owners: &[String]) -> Vec<Range> {
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (start, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        // Never map ID 0, the host's root. Skip a range that exceeds 32 bits: the line is a mistake.
        let is_sane = start > 0 && count > 0 && start.checked_add(count).is_some();
        (is_sane && fields.next().is_none() && owners.iter().any(|known| known == owner))
            .then_some(Range { start, count })
    };
    text.lines().filter_map(range).take(RANGES_MAX).collect()
}

/// The arguments of newuidmap(1) or newgidmap(1): map the namespace's root to `own`, and the IDs from 1 on to `ranges`.
pub fn map(own: u32, ranges: &[Range]) -> Vec<String> {
    let mut inside = 1u32;
    let mut words = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
    for Range { start, count } in ranges {
        let Some(next) = inside.checked_add(*count) else { break };
        words.extend([inside.to_string(), start.to_string(), count.to_string()]);
        inside = next;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number_and_nonsense_is_passed_over() {
        let owners = owners("root:x:0:0::/:/bin/sh\nann:x:1000:7::/:\nbad\n:\n", 1000);
        assert_eq!(owners, ["ann", "1000"]);
        let text = "ann:100000:65536\nbob:1:1\n1000:300000:5\nann:0:9\nann:5:0\nann:4294967295:2\nann:x:1\nann:1\nann:1:2:3\n\n";
        let found = parse(text, &owners);
        let wanted = [Range { start: 100_000, count: 65_536 }, Range { start: 300_000, count: 5 }];
        assert_eq!(found, wanted);
        assert_eq!(map(1000, &found).join(" "), "0 1000 1 1 100000 65536 65537 300000 5");
        let huge = Range { start: 1, count: u32::MAX - 1 };
        assert_eq!(map(1, &[huge, huge]).len(), 6);
    }
}
