//! The capabilities of a container. capabilities(7). Does no I/O.

use super::config_json::Capabilities;
use super::error::SpecError;
use sampan_ipc::container::Create;

/// All capabilities of Linux, in the order of their numbers.
const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
/// The default capabilities of a container: docker's set.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A set of capabilities as a bit mask, as the kernel writes it in `/proc/PID/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set(pub u64);

impl Set {
    /// All capabilities that this program knows.
    pub const ALL: Set = Set((1 << ALL.len()) - 1);

    /// Whether the capability `name`, such as `CAP_SYS_ADMIN`, is in the set.
    pub fn has(self, name: &str) -> bool {
        let bare = name.strip_prefix("CAP_").unwrap_or(name);
        ALL.iter().position(|known| *known == bare).is_some_and(|at| self.0 >> at & 1 == 1)
    }

    /// The names of the capabilities, with `CAP_`.
    pub fn names(self) -> Vec<String> {
        let there = ALL.iter().enumerate().filter(|(at, _)| self.0 >> at & 1 == 1);
        there.map(|(_, name)| format!("CAP_{name}")).collect()
    }

    fn of(names: &[&str]) -> Set {
        let bits = names.iter().filter_map(|name| ALL.iter().position(|known| known == name));
        Set(bits.fold(0, |set, at| set | 1 << at))
    }
}

/// The capabilities of a container, and the ones among them that a request added by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// All capabilities that the container may have.
    pub all: Set,
    /// The capabilities that a request added by name: an ordinary user in the container has these as well.
    pub added: Set,
}

/// The capabilities that the options request, even if the engine itself lacks some of them.
///
/// # Errors
/// [`SpecError::Option`] if a name is no capability.
pub fn wanted(create: &Create) -> Result<Chosen, SpecError> {
    let (add, drop) = (read("--cap-add", &create.cap_add)?, read("--cap-drop", &create.cap_drop)?);
    if create.privileged {
        return Ok(Chosen { all: Set::ALL, added: Set(0) });
    }
    let is_all = |words: &[String]| words.iter().any(|word| word.eq_ignore_ascii_case("ALL"));
    let all = match (is_all(&create.cap_add), is_all(&create.cap_drop)) {
        (true, _) if !is_all(&create.cap_drop) => Set::ALL.0 & !drop.0,
        (_, true) => named(&create.cap_add)?.0,
        _ => (Set::of(&DEFAULT).0 & !drop.0) | add.0,
    };
    Ok(Chosen { all: Set(all), added: Set(add.0 & all) })
}

/// Splits `wanted`: returns the capabilities that an engine with the capabilities `own` can give, and the rest.
pub fn possible(wanted: Chosen, own: Set) -> (Chosen, Set) {
    let left_out = Set(wanted.all.0 & !own.0);
    (Chosen { all: Set(wanted.all.0 & own.0), added: Set(wanted.added.0 & own.0) }, left_out)
}

/// The capability sets of a process of user `uid`.
///
/// Root has all capabilities of `chosen`. An ordinary user has the ones that were added by name, also in programs that
/// the user executes (ambient set). The user gets the others only by executing a file that has them.
pub fn sets(chosen: Chosen, uid: u32) -> Capabilities {
    let bounding = chosen.all.names();
    match uid {
        0 => Capabilities {
            effective: bounding.clone(),
            permitted: bounding.clone(),
            bounding,
            ..Default::default()
        },
        _ => {
            let added = chosen.added.names();
            Capabilities {
                bounding,
                effective: added.clone(),
                permitted: added.clone(),
                inheritable: added.clone(),
                ambient: added,
            }
        }
    }
}

/// Parses the capabilities in `words`; skips the word `ALL`.
fn named(words: &[String]) -> Result<Set, SpecError> {
    let single: Vec<String> =
        words.iter().filter(|word| !word.eq_ignore_ascii_case("ALL")).cloned().collect();
    read("--cap-add", &single)
}

fn read(option: &'static str, words: &[String]) -> Result<Set, SpecError> {
    let mut set = 0;
    for word in words {
        let upper = word.to_ascii_uppercase();
        if upper == "ALL" {
            set |= Set::ALL.0;
            continue;
        }
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let Some(at) = ALL.iter().position(|known| *known == bare) else {
            return Err(SpecError::option(option, word, "there is no such capability; see capabilities(7)"));
        };
        set |= 1 << at;
    }
    Ok(Set(set))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(add: &[&str], drop: &[&str]) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let create = Create { cap_add: words(add), cap_drop: words(drop), ..Create::default() };
        wanted(&create).expect("known capabilities").all.names()
    }

    #[test]
    fn adding_and_dropping_is_as_in_docker() {
        assert_eq!(ask(&[], &[]).len(), 14);
        assert_eq!(ask(&["all"], &[]).len(), 41);
        assert_eq!(ask(&["ALL"], &["sys_admin"]).len(), 40);
        assert!(ask(&[], &["ALL"]).is_empty());
        assert_eq!(ask(&["cap_net_admin"], &["ALL"]), ["CAP_NET_ADMIN"]);
        assert!(ask(&["NET_ADMIN"], &["KILL"]).contains(&"CAP_NET_ADMIN".to_owned()));
        assert!(!ask(&["NET_ADMIN"], &["KILL"]).contains(&"CAP_KILL".to_owned()));
        assert!(wanted(&Create { cap_add: vec!["NONSENSE".into()], ..Create::default() }).is_err());
    }

    #[test]
    fn an_ordinary_user_has_only_what_was_added_by_name() {
        let create = Create { cap_add: vec!["NET_ADMIN".into()], ..Create::default() };
        let chosen = wanted(&create).expect("known");
        assert_eq!(sets(chosen, 0).effective.len(), 15);
        let ordinary = sets(chosen, 1000);
        assert_eq!(
            (ordinary.bounding.len(), ordinary.effective, ordinary.ambient.len()),
            (15, vec!["CAP_NET_ADMIN".to_owned()], 1)
        );
    }

    #[test]
    fn a_capability_that_the_engine_lacks_is_left_out_and_reported() {
        let all = wanted(&Create { privileged: true, ..Create::default() }).expect("known");
        let own = Set(Set::ALL.0 & !Set::of(&["SYS_RESOURCE"]).0);
        let (chosen, left_out) = possible(all, own);
        assert_eq!((chosen.all, left_out.names()), (own, vec!["CAP_SYS_RESOURCE".to_owned()]));
        assert!(own.has("CAP_SYS_ADMIN") && !own.has("SYS_RESOURCE") && !own.has("CAP_NONE"));
    }
}
