//! Resolves the user and groups of a process (`--user`, `--group-add`) by the container's /etc/passwd and /etc/group.
//!
//! The two files come from the container's root file system and are not trusted. passwd(5), group(5).

use super::config_json::User;
use super::error::SpecError;
use super::rootfs_view::Root;

/// Longest /etc/passwd or /etc/group that is read, in bytes.
const FILE_MAX: u64 = 4 << 20;
/// Most groups of a process. getgroups(2), NGROUPS_MAX.
const GROUPS_MAX: usize = 65_536;
/// Highest user or group ID, as in docker.
const ID_MAX: u32 = 0x7fff_ffff;

/// The resolved user of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// IDs of the user and its groups, for the runtime.
    pub user: User,
    /// The user's home directory.
    pub home: String,
}

/// A line of /etc/passwd.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Finds `user` (`user[:group]`, names or numbers; empty means root) in the root file system `root`, and adds
/// `groups`.
///
/// Without a group, the user has the groups that /etc/group lists; with a group, the user has only that group. The
/// primary group is also a supplementary group, as in docker. Otherwise a process could leave its primary group by
/// changing it, and could then access files whose mode denies access to that group.
///
/// # Errors
/// [`SpecError::Option`] for names that are not in the files, [`SpecError::Root`] if the files cannot be read.
pub fn resolve(root: &Root, user: &str, groups: &[String]) -> Result<Resolved, SpecError> {
    let text = |path| -> Result<String, SpecError> {
        let bytes = root.read(path, FILE_MAX)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (passwd, group) = (text("/etc/passwd")?, text("/etc/group")?);
    resolve_in(&passwd, &group, user, groups)
}

fn resolve_in(passwd: &str, group: &str, requested: &str, more: &[String]) -> Result<Resolved, SpecError> {
    let (user, own_group) = match requested.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (requested, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = id(user);
    // Search for the name first: a name of digits takes precedence over a user ID, as in docker.
    let named = accounts(passwd).find(|account| account.name == user);
    let account = named.or_else(|| accounts(passwd).find(|account| Some(account.uid) == number));
    let Some(uid) = account.as_ref().map(|account| account.uid).or(number) else {
        return Err(SpecError::option(
            "--user",
            requested,
            "there is no such user in the container's /etc/passwd",
        ));
    };
    let gid = match own_group {
        Some(name) => group_id(group, name, "--user")?,
        None => account.as_ref().map_or(0, |account| account.gid),
    };
    let mut additional: Vec<u32> = vec![gid];
    if let (Some(account), None) = (&account, own_group) {
        additional.extend(memberships(group, account.name));
    }
    for name in more {
        additional.push(group_id(group, name, "--group-add")?);
    }
    let mut seen = std::collections::HashSet::new();
    additional.retain(|gid| seen.insert(*gid));
    if additional.len() > GROUPS_MAX {
        return Err(SpecError::option("--user", requested, "it is in more groups than a process can have"));
    }
    let home = account.map(|account| account.home).filter(|home| home.starts_with('/'));
    let home = home.unwrap_or(if uid == 0 { "/root" } else { "/" }).to_owned();
    Ok(Resolved { user: User { uid, gid, additional_gids: additional }, home })
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let (uid, gid) = (id(fields.nth(1)?)?, id(fields.next()?)?);
        Some(Account { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

/// Name, ID and members of each group in /etc/group.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = id(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn memberships<'a>(group: &'a str, user: &'a str) -> impl Iterator<Item = u32> + 'a {
    groups(group)
        .filter(move |(_, _, members)| members.split(',').any(|member| member == user))
        .map(|(_, gid, _)| gid)
}

fn group_id(group: &str, name: &str, option: &'static str) -> Result<u32, SpecError> {
    let named = groups(group).find(|(known, ..)| *known == name).map(|(_, gid, _)| gid);
    named.or_else(|| id(name)).ok_or_else(|| {
        SpecError::option(option, name, "there is no such group in the container's /etc/group")
    })
}

fn id(word: &str) -> Option<u32> {
    let is_number = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    word.parse().ok().filter(|id| is_number && *id <= ID_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/var/www:/bin/sh\n\
                          broken\n:x:1:1::/:\nhuge:x:99999999999:1::/:\n7:x:70:70::/seven:\n";
    const GROUP: &str = "root:x:0:\nweb:x:33:\nlogs:x:40:web,other\nmore:x:41:other,web\nmine:x:33:web\n";

    fn ask(user: &str, more: &[&str]) -> Result<(u32, u32, Vec<u32>, String), String> {
        let more: Vec<String> = more.iter().map(ToString::to_string).collect();
        let resolved = resolve_in(PASSWD, GROUP, user, &more).map_err(|error| error.to_string())?;
        Ok((resolved.user.uid, resolved.user.gid, resolved.user.additional_gids, resolved.home))
    }

    #[test]
    fn names_and_numbers_are_found_as_docker_finds_them() {
        assert_eq!(ask("", &[]), Ok((0, 0, vec![0], "/root".into())));
        assert_eq!(ask("web", &[]), Ok((33, 33, vec![33, 40, 41], "/var/www".into())));
        assert_eq!(ask("33", &[]), Ok((33, 33, vec![33, 40, 41], "/var/www".into())));
        assert_eq!(ask("web:logs", &[]), Ok((33, 40, vec![40], "/var/www".into())));
        assert_eq!(ask("1234", &[]), Ok((1234, 0, vec![0], "/".into())));
        assert_eq!(ask("1234:5678", &["logs", "99", "99"]), Ok((1234, 5678, vec![5678, 40, 99], "/".into())));
        assert_eq!(ask(":logs", &[]), Ok((0, 40, vec![40], "/root".into())));
        assert_eq!(ask("7", &[]), Ok((70, 70, vec![70], "/seven".into())));
    }

    #[test]
    fn an_error_names_the_missing_user() {
        for (user, more) in
            [("nobody", &[][..]), ("0:nogroup", &[]), ("4294967295", &[]), ("-1", &[]), ("web", &["x"])]
        {
            assert!(ask(user, more).is_err(), "{user}");
        }
        assert!(ask("huge", &[]).is_err_and(|why| why.contains("huge")));
    }
}
