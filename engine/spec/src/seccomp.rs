//! The filter of system calls: parses a profile in the form of containers-common, and converts it to the form of the
//! runtime-spec.
//!
//! A profile is the file `seccomp.json` in this directory, a configured file, or text in a request. One parser reads
//! all of them; configured and requested profiles are not trusted. A rule may apply only to some processors,
//! capabilities or kernels; rules that do not apply to the container are left out. containers-seccomp.json(5).

use super::capabilities::Set;
use super::config_json::{Argument, Seccomp, Syscall};
use super::error::SpecError;
use super::host::Host;
use super::runtime::Runtime;
use super::security;
use super::settings::Settings;
use sampan_ipc::container::Create;
use sampan_ipc::text::excerpt;
use sampan_os::small_file;
use serde::{Deserialize, Deserializer};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// The default profile; `docs/seccomp.md` explains it.
pub const DEFAULT: &str = include_str!("seccomp.json");
/// Longest profile, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Most rules of a profile.
const RULES_MAX: usize = 4096;
/// Most names of system calls in one rule.
const NAMES_MAX: usize = 2048;
/// The hint for a profile that cannot be used.
const HINT: &str = "see containers-seccomp.json(5); --security-opt seccomp=unconfined goes without";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Profile {
    default_action: String,
    default_errno: String,
    default_errno_ret: Option<u32>,
    #[serde(deserialize_with = "null_is_default")]
    architectures: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    arch_map: Vec<Arch>,
    #[serde(deserialize_with = "null_is_default")]
    flags: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Arch {
    architecture: String,
    #[serde(deserialize_with = "null_is_default")]
    sub_architectures: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    #[serde(deserialize_with = "null_is_default")]
    names: Vec<String>,
    /// The only name, in profiles of an old form.
    name: String,
    action: String,
    errno: String,
    errno_ret: Option<u32>,
    #[serde(deserialize_with = "null_is_default")]
    args: Vec<Argument>,
    #[serde(deserialize_with = "null_is_default")]
    includes: Filter,
    #[serde(deserialize_with = "null_is_default")]
    excludes: Filter,
}

/// Conditions under which a rule applies. An empty list is no condition.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    #[serde(deserialize_with = "null_is_default")]
    caps: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    arches: Vec<String>,
    min_kernel: String,
}

fn null_is_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// The filter of a container with `capabilities`; `None` if the container's system calls are not filtered.
///
/// # Errors
/// [`SpecError`] if the profile is not valid, or if a filter was requested and the kernel or the runtime cannot
/// filter.
pub fn filter(
    create: &Create,
    capabilities: Set,
    host: &Host,
    runtime: &Runtime,
    settings: &Settings,
    warnings: &mut Vec<String>,
) -> Result<Option<Arc<Seccomp>>, SpecError> {
    let requested = security::option(create, "seccomp");
    match requested {
        Some("unconfined") => return Ok(None),
        None if create.privileged => return Ok(None),
        _ => {}
    }
    if !host.seccomp || !runtime.seccomp {
        let lacks = if host.seccomp {
            format!("{} is built without seccomp", runtime.name)
        } else {
            "this kernel has no seccomp".to_owned()
        };
        if requested.is_some() {
            return Err(SpecError::host("filter the container's system calls", lacks, HINT));
        }
        warnings.push(format!("the container's system calls are not filtered: {lacks}"));
        return Ok(None);
    }
    let (text, from) = match (requested, &settings.seccomp_profile) {
        (Some(profile), _) if profile.trim_start().starts_with('{') => {
            (profile.to_owned(), "the given profile".to_owned())
        }
        (Some(other), _) => {
            return Err(SpecError::option(
                "--security-opt seccomp",
                other,
                "expected a profile, or unconfined",
            ));
        }
        (None, Some(path)) => (read(path)?, path.display().to_string()),
        (None, None) => return Ok(Some(default(capabilities, host))),
    };
    convert(&text, capabilities, host)
        .map(|filter| Some(Arc::new(filter)))
        .map_err(|why| SpecError::host(format!("use {from} as seccomp profile"), why, HINT))
}

/// The filter made from [`DEFAULT`]. The last result is cached: the next container usually needs an equal filter, both
/// when it is created and when it starts.
#[expect(clippy::expect_used, reason = "the profile is compiled in, and a test converts it")]
fn default(capabilities: Set, host: &Host) -> Arc<Seccomp> {
    type Kept = ((Set, String, (u32, u32)), Arc<Seccomp>);
    static LAST: Mutex<Option<Kept>> = Mutex::new(None);
    let key = (capabilities, host.arch.clone(), host.kernel);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match &*last {
        Some((of, filter)) if *of == key => Arc::clone(filter),
        _ => {
            let filter = convert(DEFAULT, capabilities, host).expect("a test reads our own profile");
            let filter = Arc::new(filter);
            *last = Some((key, Arc::clone(&filter)));
            filter
        }
    }
}

fn read(path: &Path) -> Result<String, SpecError> {
    let cannot =
        |why: String| SpecError::host(format!("read the seccomp profile {}", path.display()), why, HINT);
    let bytes = small_file::open(path).and_then(|file| small_file::read(file, FILE_MAX));
    let bytes = bytes.map_err(|error| cannot(error.to_string()))?;
    match bytes.len() as u64 > FILE_MAX {
        true => Err(cannot("it has more than 1 MiB".to_owned())),
        false => String::from_utf8(bytes).map_err(|error| cannot(error.to_string())),
    }
}

/// Converts a profile to the form of the runtime-spec. The error describes what is wrong with the profile.
fn convert(text: &str, capabilities: Set, host: &Host) -> Result<Seccomp, String> {
    let profile: Profile = serde_json::from_str(text).map_err(|error| error.to_string())?;
    check_action(&profile.default_action)?;
    if profile.syscalls.len() > RULES_MAX {
        return Err(format!("it has {} rules, at most {RULES_MAX} are read", profile.syscalls.len()));
    }
    let mut syscalls = Vec::new();
    for rule in profile.syscalls {
        if rule.holds(capabilities, host)? {
            syscalls.push(rule.syscall()?);
        }
    }
    if let Some(flag) = profile.flags.iter().find(|flag| !is_word(flag, "SECCOMP_FILTER_FLAG_")) {
        return Err(format!("there is no flag {:?}", excerpt(flag)));
    }
    Ok(Seccomp {
        default_errno_ret: errno(&profile.default_errno, profile.default_errno_ret)?,
        default_action: profile.default_action,
        architectures: architectures(&profile.architectures, &profile.arch_map, host)?,
        flags: profile.flags,
        syscalls,
    })
}

impl Rule {
    fn holds(&self, capabilities: Set, host: &Host) -> Result<bool, String> {
        let has =
            |filter: &Filter| filter.caps.iter().map(|cap| capabilities.has(cap)).collect::<Vec<bool>>();
        let here = |filter: &Filter| filter.arches.iter().any(|arch| is_arch(arch, &host.arch));
        let (inside, outside) = (&self.includes, &self.excludes);
        let new_enough = |filter: &Filter| match filter.min_kernel.as_str() {
            "" => Ok(None),
            text => kernel(text).map(|least| Some(host.kernel >= least)),
        };
        let included = has(inside).into_iter().all(|has| has)
            && (inside.arches.is_empty() || here(inside))
            && new_enough(inside)?.unwrap_or(true);
        let excluded =
            has(outside).into_iter().any(|has| has) || here(outside) || new_enough(outside)?.unwrap_or(false);
        Ok(included && !excluded)
    }

    fn syscall(self) -> Result<Syscall, String> {
        let mut names = self.names;
        if !self.name.is_empty() {
            names.push(self.name);
        }
        let fine = |name: &String| {
            !name.is_empty()
                && name.len() <= 64
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if names.is_empty() || names.len() > NAMES_MAX {
            return Err("a rule has no names of system calls, or too many".to_owned());
        }
        if let Some(name) = names.iter().find(|name| !fine(name)) {
            return Err(format!("{:?} is not the name of a system call", excerpt(name)));
        }
        check_action(&self.action)?;
        for argument in &self.args {
            if argument.index > 5 || !is_word(&argument.op, "SCMP_CMP_") {
                return Err(format!("the condition on argument {} is not valid", argument.index));
            }
        }
        let errno_ret = errno(&self.errno, self.errno_ret)?;
        Ok(Syscall { names, action: self.action, errno_ret, args: self.args })
    }
}

fn check_action(action: &str) -> Result<(), String> {
    const KNOWN: [&str; 8] =
        ["ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "TRACE", "TRAP"];
    match action.strip_prefix("SCMP_ACT_") {
        Some(word) if KNOWN.contains(&word) => Ok(()),
        // This action needs a process that answers each call, and the engine has no such process.
        Some("NOTIFY") => Err("SCMP_ACT_NOTIFY is not supported".to_owned()),
        _ => Err(format!("there is no action {:?}", excerpt(action))),
    }
}

fn is_word(word: &str, prefix: &str) -> bool {
    let fine = |rest: &str| {
        !rest.is_empty() && rest.len() < 40 && rest.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
    };
    word.strip_prefix(prefix).is_some_and(fine)
}

/// The errno of a rule, given by name or number. The number takes precedence, as in containers-common.
fn errno(name: &str, number: Option<u32>) -> Result<Option<u32>, String> {
    const KNOWN: [(&str, u32); 8] = [
        ("EPERM", 1),
        ("ENOENT", 2),
        ("EACCES", 13),
        ("EINVAL", 22),
        ("ENOSYS", 38),
        ("EAFNOSUPPORT", 97),
        ("EOPNOTSUPP", 95),
        ("EAGAIN", 11),
    ];
    match (name, number) {
        (_, Some(number)) if number <= 4095 => Ok(Some(number)),
        (_, Some(number)) => Err(format!("{number} is not an errno")),
        ("", None) => Ok(None),
        (name, None) => match KNOWN.iter().find(|(known, _)| *known == name) {
            Some((_, number)) => Ok(Some(*number)),
            None => Err(format!("the errno {:?} is not known; give its number as errnoRet", excerpt(name))),
        },
    }
}

fn kernel(text: &str) -> Result<(u32, u32), String> {
    let wrong = || format!("minKernel {:?} is not a version", excerpt(text));
    let (major, minor) = text.split_once('.').ok_or_else(wrong)?;
    Ok((major.parse().map_err(|_| wrong())?, minor.parse().map_err(|_| wrong())?))
}

/// Whether `word` is a name of the architecture `here` in profiles, which use Go's names and some of libseccomp's
/// names.
fn is_arch(word: &str, here: &str) -> bool {
    word == here || matches!((word, here), ("x86", "386") | ("x32" | "386", "amd64") | ("arm", "arm64"))
}

/// The architectures of the filter: the host's, and other ones whose programs the host runs. `map` takes precedence
/// over `fixed`.
fn architectures(fixed: &[String], map: &[Arch], host: &Host) -> Result<Vec<String>, String> {
    let native = match host.arch.as_str() {
        "amd64" => "X86_64",
        "386" => "X86",
        "arm64" => "AARCH64",
        "arm" => "ARM",
        "ppc64le" => "PPC64LE",
        "s390x" => "S390X",
        "riscv64" => "RISCV64",
        "loongarch64" | "loong64" => "LOONGARCH64",
        _ => "NATIVE",
    };
    let native = format!("SCMP_ARCH_{native}");
    let mut all = match map.iter().find(|arch| arch.architecture == native) {
        Some(arch) => [&[native][..], &arch.sub_architectures].concat(),
        None if !fixed.is_empty() => fixed.to_vec(),
        None => vec![native],
    };
    all.dedup();
    let fine = |arch: &String| {
        arch.strip_prefix("SCMP_ARCH_").is_some_and(|rest| {
            !rest.is_empty()
                && rest.len() < 20
                && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        })
    };
    match all.iter().find(|arch| !fine(arch)) {
        Some(arch) => Err(format!("there is no architecture {:?}", excerpt(arch))),
        None => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host { arch: "amd64".into(), kernel: (6, 1), seccomp: true, ..Host::default() }
    }

    fn default(capabilities: u64) -> Seccomp {
        convert(DEFAULT, Set(capabilities), &host()).expect("our own profile")
    }

    fn allows(filter: &Seccomp, name: &str) -> bool {
        filter.syscalls.iter().any(|rule| {
            rule.action == "SCMP_ACT_ALLOW"
                && rule.args.is_empty()
                && rule.names.iter().any(|known| known == name)
        })
    }

    #[test]
    fn the_default_profile_allows_work_and_denies_the_host() {
        let plain = default(0);
        assert_eq!((plain.default_action.as_str(), plain.default_errno_ret), ("SCMP_ACT_ERRNO", Some(1)));
        assert_eq!(plain.architectures, ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
        for name in [
            "openat",
            "execve",
            "futex",
            "epoll_wait",
            "ptrace",
            "getrandom",
            "rseq",
            "landlock_restrict_self",
        ] {
            assert!(allows(&plain, name), "{name}");
        }
        for name in [
            "mount",
            "unshare",
            "setns",
            "bpf",
            "reboot",
            "kexec_load",
            "init_module",
            "io_uring_setup",
            "userfaultfd",
            "keyctl",
            "add_key",
            "open_by_handle_at",
            "clone",
            "clone3",
            "socket",
            "personality",
            "chroot",
            "swapon",
            "perf_event_open",
            "iopl",
            "syslog",
        ] {
            assert!(!allows(&plain, name), "{name}");
        }
    }

    #[test]
    fn capabilities_open_what_they_are_about() {
        let admin = default(1 << 21);
        assert!(
            allows(&admin, "mount")
                && allows(&admin, "clone")
                && allows(&admin, "clone3")
                && !allows(&admin, "reboot")
        );
        assert!(
            admin.syscalls.iter().all(|rule| rule.action == "SCMP_ACT_ALLOW"),
            "clone3 is not refused any more"
        );
        assert!(allows(&default(1 << 18), "chroot"));
        assert!(allows(&default(1 << 22), "reboot"));
    }

    #[test]
    fn every_name_of_the_default_profile_is_once_in_its_group() {
        let profile: Profile = serde_json::from_str(DEFAULT).expect("JSON");
        for rule in &profile.syscalls {
            let mut names = rule.names.clone();
            names.dedup();
            assert_eq!(names, rule.names);
            assert!(rule.names.is_sorted(), "{:?}", rule.names);
        }
        let plain: Vec<&String> = profile
            .syscalls
            .iter()
            .filter(|rule| {
                rule.includes.caps.is_empty() && rule.includes.arches.is_empty() && rule.args.is_empty()
            })
            .flat_map(|rule| &rule.names)
            .collect();
        let distinct: std::collections::BTreeSet<&&String> = plain.iter().collect();
        assert_eq!(plain.len(), distinct.len());
    }

    #[test]
    fn profiles_of_others_are_read_and_nonsense_is_refused() {
        let read = |text: &str| convert(text, Set(0), &host());
        let old = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"archMap":null,
            "syscalls":[{"name":"mkdir","action":"SCMP_ACT_ERRNO","args":null,"includes":null,"errno":"EACCES"}]}"#;
        let filter = read(old).expect("an old one");
        assert_eq!((filter.syscalls[0].names[0].as_str(), filter.syscalls[0].errno_ret), ("mkdir", Some(13)));
        let newer = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"99.1"}},
            {"names":["sync"],"action":"SCMP_ACT_ALLOW","excludes":{"arches":["amd64"]}}]}"#;
        assert!(read(newer).expect("a new one").syscalls.is_empty());
        for nonsense in [
            "",
            "{}",
            "[]",
            "{\"defaultAction\":\"ALLOW\"}",
            "{\"defaultAction\":\"SCMP_ACT_NOTIFY\"}",
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a b"],"action":"SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ERRNO","errnoRet":9999}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ERRNO","args":[{"index":9,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["x"]}"#,
        ] {
            assert!(read(nonsense).is_err(), "{nonsense}");
        }
    }
}
