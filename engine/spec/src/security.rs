//! Security options: chooses a container's AppArmor profile and SELinux labels, and parses `--security-opt`.
//!
//! Called when a container is created and when its bundle is made. Decides only from the options, the configuration
//! and a [`Host`], so that tests need neither AppArmor nor SELinux in the kernel. [`super::lsm`] parses the host's
//! profiles and contexts. This module loads no profile; [`super::relabel`] labels files.

use super::error::SpecError;
use super::host::Host;
use super::lsm::{Context, SHARED_LEVEL, is_part};
use super::settings::Settings;
use sampan_ipc::container::Create;
use sampan_ipc::text::excerpt;
use serde::{Deserialize, Serialize};

/// The kernel's name of the AppArmor profile that confines nothing.
const UNCONFINED: &str = "unconfined";
/// Docker's default profile.
const DOCKER: &str = "docker-default";
/// Beginning of the name of podman's default profile; a version follows.
const PODMAN: &str = "containers-default-";
/// Number of categories of SELinux's multi-category security, which are `c0` to `c1023`.
const CATEGORIES: u64 = 1024;
/// The level of the files of containers without a process label. No labelled container gets these two categories, so
/// none can read such files.
const UNUSED_LEVEL: &str = "s0:c1022,c1023";
/// Number of random pairs of categories that are tried. If other containers have all of them, two containers share the
/// last pair.
const DRAWS_MAX: usize = 1000;
/// The forms of `--security-opt label=`, for messages.
const EXPECTED: &str = "expected disable, user:, role:, type:, level: or filetype: and a word";

/// The SELinux labels of a container; empty if it has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// The label of the container's processes.
    pub process: String,
    /// The label of the container's files.
    pub mount: String,
}

impl Labels {
    /// Whether the container has no label.
    pub fn is_empty(&self) -> bool {
        self.process.is_empty() && self.mount.is_empty()
    }

    /// The level of the container's files, which is usually unique; `None` without a label.
    pub fn level(&self) -> Option<&str> {
        self.mount.splitn(4, ':').nth(3)
    }

    /// The label of files that all containers share; `None` if this container has no label.
    pub fn shared(&self) -> Option<String> {
        let context = Context::parse(&self.mount)?;
        Some(Context { level: SHARED_LEVEL.to_owned(), ..context }.to_string())
    }
}

/// Chooses the labels of a new container. `is_used` returns whether another container has a level.
///
/// The labels are empty if SELinux is off, if its policy has no contexts for containers, or if the configuration has
/// `selinux = false`.
///
/// # Errors
/// [`SpecError::Option`] if a `--security-opt label=` is malformed.
pub fn labels(
    create: &Create,
    host: &Host,
    settings: &Settings,
    is_used: impl Fn(&str) -> bool,
) -> Result<Labels, SpecError> {
    let mut requested = Vec::new();
    for option in &create.security {
        let Some(text) = option.strip_prefix("label").and_then(|rest| rest.strip_prefix(['=', ':'])) else {
            continue;
        };
        requested.push(parse_label(text)?);
    }
    let Some(contexts) = host.contexts.as_ref().filter(|_| host.selinux && settings.selinux) else {
        return Ok(Labels::default());
    };
    let (mut process, mut file) = (contexts.process.clone(), contexts.file.clone());
    if create.privileged || requested.contains(&Label::Disable) {
        file.level = UNUSED_LEVEL.to_owned();
        return Ok(Labels { process: String::new(), mount: file.to_string() });
    }
    let level = draw(sampan_ipc::sender::random, is_used);
    process.level.clone_from(&level);
    file.level = level;
    for label in requested {
        match label {
            Label::Disable => {}
            Label::User(user) => {
                process.user = user.to_owned();
                file.user = user.to_owned();
            }
            Label::Role(role) => process.role = role.to_owned(),
            Label::Type(kind) => process.kind = kind.to_owned(),
            Label::FileType(kind) => file.kind = kind.to_owned(),
            Label::Level(level) => {
                process.level = level.to_owned();
                file.level = level.to_owned();
            }
        }
    }
    Ok(Labels { process: process.to_string(), mount: file.to_string() })
}

/// A parsed `--security-opt label=`.
#[derive(Debug, PartialEq, Eq)]
enum Label<'a> {
    Disable,
    User(&'a str),
    Role(&'a str),
    Type(&'a str),
    Level(&'a str),
    FileType(&'a str),
}

fn parse_label(text: &str) -> Result<Label<'_>, SpecError> {
    let bad = || Err(SpecError::option("--security-opt label", text, EXPECTED));
    if text == "disable" {
        return Ok(Label::Disable);
    }
    let Some((key, value)) = text.split_once(':') else { return bad() };
    // Only a level contains colons, such as `s0:c1,c2`.
    if !is_part(value) || (key != "level" && value.contains([':', ','])) {
        return bad();
    }
    match key {
        "user" => Ok(Label::User(value)),
        "role" => Ok(Label::Role(value)),
        "type" => Ok(Label::Type(value)),
        "level" => Ok(Label::Level(value)),
        "filetype" => Ok(Label::FileType(value)),
        _ => bad(),
    }
}

/// Draws a level of two categories that no other container has, the smaller category first.
fn draw(mut random: impl FnMut() -> u64, is_used: impl Fn(&str) -> bool) -> String {
    let mut level = String::new();
    for _ in 0..DRAWS_MAX {
        let number = random();
        let (one, two) = (number % CATEGORIES, (number >> 32) % CATEGORIES);
        if one == two {
            continue;
        }
        level = format!("s0:c{},c{}", one.min(two), one.max(two));
        if level != UNUSED_LEVEL && !is_used(&level) {
            break;
        }
    }
    level
}

/// Chooses the AppArmor profile of a container. `None` means that the container keeps the engine's profile, which is
/// usually none.
///
/// # Errors
/// [`SpecError`] if a requested or configured profile is not loaded, or if AppArmor is off.
pub fn apparmor(create: &Create, host: &Host, settings: &Settings) -> Result<Option<String>, SpecError> {
    let (option, profile) = match (option(create, "apparmor"), &settings.apparmor_profile) {
        (Some(""), _) => {
            return Err(SpecError::option(
                "--security-opt apparmor",
                "",
                "expected a profile's name, or unconfined",
            ));
        }
        (Some(profile), _) => ("--security-opt apparmor", profile),
        (None, _) if create.privileged => return Ok(host.apparmor.then(|| UNCONFINED.to_owned())),
        (None, Some(profile)) => ("the key apparmor-profile", profile.as_str()),
        (None, None) => return Ok(default_profile(host).map(str::to_owned)),
    };
    let doing = || format!("give the container the AppArmor profile {:?} of {option}", excerpt(profile));
    match (&host.profiles, profile) {
        (_, UNCONFINED) => Ok(host.apparmor.then(|| UNCONFINED.to_owned())),
        _ if !host.apparmor => Err(SpecError::host(
            doing(),
            "AppArmor is off in this host's kernel",
            "leave the profile out, or boot with apparmor=1 security=apparmor",
        )),
        // The kernel's list has no stacks of profiles and no profiles of other namespaces, so their names are not
        // checked.
        (Some(loaded), name) if !name.starts_with(':') && !name.contains("//&") && !loaded.contains(name) => {
            Err(SpecError::host(
                doing(),
                "no profile of this name is loaded",
                "load it with apparmor_parser(8); /sys/kernel/security/apparmor/profiles lists what is loaded",
            ))
        }
        _ => Ok(Some(profile.to_owned())),
    }
}

/// The default AppArmor profile: docker's if it is loaded, otherwise the newest of podman's that is loaded.
pub fn default_profile(host: &Host) -> Option<&str> {
    let loaded = host.profiles.as_ref().filter(|_| host.apparmor)?;
    if let Some(name) = loaded.get(DOCKER) {
        return Some(name);
    }
    let version = |name: &&String| name.strip_prefix(PODMAN).map(numbers);
    loaded.iter().filter(|name| name.starts_with(PODMAN)).max_by_key(version).map(String::as_str)
}

/// A key that orders versions by their numbers, so that 0.9 is lower than 0.50, and a pre-release (0.57.0-dev) is
/// lower than its release.
fn numbers(version: &str) -> (Vec<u64>, bool) {
    let (digits, word) = version.split_once('-').map_or((version, ""), |(digits, word)| (digits, word));
    (digits.split('.').map(|number| number.parse().unwrap_or(0)).collect(), word.is_empty())
}

/// The defaults for containers, as `info` shows them: `apparmor=docker-default`, `selinux=container_t`.
pub fn describe(host: &Host, settings: &Settings) -> Vec<String> {
    let mut lines = Vec::new();
    if host.apparmor {
        let profile = settings.apparmor_profile.as_deref().or_else(|| default_profile(host));
        lines.push(format!("apparmor={}", profile.unwrap_or(UNCONFINED)));
    }
    if host.selinux {
        let kind = match &host.contexts {
            _ if !settings.selinux => "disabled",
            Some(contexts) => contexts.process.kind(),
            None => "no-container-policy",
        };
        lines.push(format!("selinux={kind}"));
    }
    lines
}

/// Advice for an administrator, which the engine logs at its start.
pub fn advice(host: &Host, settings: &Settings) -> Vec<&'static str> {
    let mut lines = Vec::new();
    if host.apparmor && settings.apparmor_profile.is_none() && default_profile(host).is_none() {
        lines.push(
            "AppArmor is on, but neither docker-default nor containers-default-* is loaded: containers run without a \
             profile until one is, or apparmor-profile names another one",
        );
    }
    if host.selinux && settings.selinux && host.contexts.is_none() {
        lines.push(
            "SELinux is on, but its policy has no contexts for containers: they run without labels (install \
             container-selinux)",
        );
    }
    lines
}

/// The value of the security option `key`, from `key=value` or docker's older form `key:value`. If the option occurs
/// several times, the last value counts.
pub fn option<'a>(create: &'a Create, key: &str) -> Option<&'a str> {
    create.security.iter().rev().find_map(|option| {
        let rest = option.strip_prefix(key)?;
        if rest.is_empty() { Some("") } else { rest.strip_prefix(['=', ':']) }
    })
}

/// Checks that all security options are known.
///
/// # Errors
/// [`SpecError::Option`] for an unknown option.
pub fn check(create: &Create) -> Result<(), SpecError> {
    const KNOWN: [&str; 5] = ["no-new-privileges", "seccomp", "apparmor", "label", "systempaths"];
    for option in &create.security {
        let key = option.split(['=', ':']).next().unwrap_or_default();
        if !KNOWN.contains(&key) {
            let why = "expected no-new-privileges, seccomp=…, apparmor=…, label=… or systempaths=unconfined";
            return Err(SpecError::option("--security-opt", option, why));
        }
    }
    Ok(())
}

/// Whether the container's processes gain no privileges by executing a program. prctl(2), PR_SET_NO_NEW_PRIVS.
///
/// # Errors
/// [`SpecError::Option`] if `no-new-privileges` has a value other than true or false.
pub fn no_new_privileges(create: &Create) -> Result<bool, SpecError> {
    match option(create, "no-new-privileges") {
        None | Some("false" | "0") => Ok(false),
        Some("" | "true" | "1") => Ok(true),
        Some(other) => {
            Err(SpecError::option("--security-opt no-new-privileges", other, "expected true or false"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsm::{Contexts, loaded};

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    const LXC_CONTEXTS: &str = "# a policy's\nprocess = \"system_u:system_r:container_t:s0\"\n\
        content = \"system_u:object_r:virt_var_lib_t:s0\"\nfile = \"system_u:object_r:container_file_t:s0\"\n\
        ro_file=\"system_u:object_r:container_ro_file_t:s0\"\n";

    fn selinux() -> Host {
        Host { selinux: true, contexts: Contexts::parse(LXC_CONTEXTS), ..Host::default() }
    }

    fn apparmor_of(profiles: &str) -> Host {
        Host { apparmor: true, profiles: Some(loaded(profiles)), ..Host::default() }
    }

    fn ask(options: &[&str]) -> Create {
        Create { security: options.iter().map(ToString::to_string).collect(), ..Create::default() }
    }

    fn labels_of(options: &[&str]) -> Result<Labels, SpecError> {
        labels(&ask(options), &selinux(), &Settings::default(), |_| false)
    }

    #[test]
    fn the_default_profile_is_dockers_or_the_newest_of_podmans() {
        let of = |profiles: &str| {
            apparmor(&ask(&[]), &apparmor_of(profiles), &Settings::default()).expect("no question")
        };
        let both = "snap.x (enforce)\ncontainers-default-0.50.1 (enforce)\ndocker-default (enforce)\n";
        assert_eq!(of(both).as_deref(), Some("docker-default"));
        let versions = "containers-default-0.50.1 (enforce)\ncontainers-default-0.9.9 (enforce)\n\
            containers-default-0.57.0-dev (enforce)\ncontainers-default-0.57.0 (complain)\n\
            :ns:containers-default-0.99.0 (enforce)\n";
        assert_eq!(of(versions).as_deref(), Some("containers-default-0.57.0"));
        assert_eq!(of("docker-default-x (enforce)\n/usr/bin/man (enforce)\nnonsense\n"), None);
        let unknown = Host { apparmor: true, ..Host::default() };
        assert_eq!(apparmor(&ask(&[]), &unknown, &Settings::default()).expect("none"), None);
        assert_eq!(apparmor(&ask(&[]), &Host::default(), &Settings::default()).expect("off"), None);
    }

    #[test]
    fn options_take_precedence_over_the_configuration_and_a_missing_profile_is_an_error() {
        let host = apparmor_of("docker-default (enforce)\nmine (enforce)\nours (enforce)\n");
        let settings = Settings { apparmor_profile: Some("ours".into()), ..Settings::default() };
        let of =
            |options: &[&str]| apparmor(&ask(options), &host, &settings).map_err(|error| error.to_string());
        assert_eq!(of(&[]), Ok(Some("ours".into())));
        assert_eq!(of(&["apparmor=x", "apparmor=mine"]), Ok(Some("mine".into())));
        assert_eq!(of(&["apparmor:unconfined"]), Ok(Some("unconfined".into())));
        assert_eq!(of(&["apparmor=mine//&ours"]), Ok(Some("mine//&ours".into())));
        assert!(of(&["apparmor="]).is_err_and(|error| error.contains("expected a profile's name")));
        assert!(
            of(&["apparmor=x"]).is_err_and(|error| error.contains("\"x\"") && error.contains("is loaded"))
        );
        let privileged = Create { privileged: true, ..ask(&[]) };
        assert_eq!(apparmor(&privileged, &host, &settings).expect("free").as_deref(), Some("unconfined"));
        let confined = Create { privileged: true, ..ask(&["apparmor=mine"]) };
        assert_eq!(apparmor(&confined, &host, &settings).expect("requested").as_deref(), Some("mine"));
        let off = Host::default();
        assert!(apparmor(&ask(&["apparmor=mine"]), &off, &Settings::default()).is_err());
        let error = apparmor(&ask(&[]), &off, &settings).expect_err("the configuration asks for it");
        assert!(error.to_string().contains("apparmor-profile"), "{error}");
        assert_eq!(apparmor(&ask(&["apparmor=unconfined"]), &off, &settings).expect("it is"), None);
        assert_eq!(apparmor(&privileged, &off, &settings).expect("it is"), None);
    }

    #[test]
    fn labels_are_those_of_the_policy_with_two_categories_of_their_own() {
        let labels = labels_of(&[]).expect("labels");
        let level = labels.level().expect("a level").to_owned();
        assert_eq!(labels.process, format!("system_u:system_r:container_t:{level}"));
        assert_eq!(labels.mount, format!("system_u:object_r:container_file_t:{level}"));
        let categories: Vec<u64> = level
            .strip_prefix("s0:")
            .expect("a sensitivity")
            .split(',')
            .map(|word| word.strip_prefix('c').expect("a category").parse().expect("a number"))
            .collect();
        assert!(
            categories.len() == 2 && categories[0] < categories[1] && categories[1] < CATEGORIES,
            "{level}"
        );
        assert_eq!(labels.shared().as_deref(), Some("system_u:object_r:container_file_t:s0"));
    }

    #[test]
    fn a_level_that_another_container_has_is_not_drawn_again() {
        let number = |one: u64, two: u64| one | (two << 32);
        let mut numbers = [number(5, 5), number(7, 3), number(1023, 1022), number(9, 4)].into_iter();
        let level = draw(|| numbers.next().expect("enough"), |level| level == "s0:c3,c7");
        assert_eq!(level, "s0:c4,c9");
        // If other containers use all levels, the new container shares a level.
        assert_eq!(draw(|| number(2, 1), |_| true), "s0:c1,c2");
    }

    #[test]
    fn label_options_change_their_part_and_nonsense_is_refused() {
        let labels = labels_of(&["label=type:my_t", "label=level:s0:c1,c2", "label:filetype:my_file_t"]);
        let labels = labels.expect("labels");
        assert_eq!(labels.process, "system_u:system_r:my_t:s0:c1,c2");
        assert_eq!(labels.mount, "system_u:object_r:my_file_t:s0:c1,c2");
        let labels =
            labels_of(&["label=user:u", "label=role:r", "label=level:s0-s0:c0.c1023"]).expect("labels");
        assert_eq!(labels.process, "u:r:container_t:s0-s0:c0.c1023");
        assert_eq!(labels.mount, "u:object_r:container_file_t:s0-s0:c0.c1023");
        for disabled in [labels_of(&["label=disable"]), labels_of(&["label=type:x", "label:disable"])] {
            let labels = disabled.expect("labels");
            assert_eq!(labels.process, "");
            assert_eq!(labels.mount, "system_u:object_r:container_file_t:s0:c1022,c1023");
        }
        for wrong in [
            "label=",
            "label=enable",
            "label=type",
            "label=type:",
            "label=type:a:b",
            "label=type:a b",
            "label=level:s0:c1;c2",
            "label=color:red",
            "label=type:a\"b",
        ] {
            let error = labels_of(&[wrong]).expect_err(wrong).to_string();
            assert!(error.contains("--security-opt label") && error.contains("disable"), "{error}");
            // Invalid options are refused even while SELinux is off.
            assert!(
                super::labels(&ask(&[wrong]), &Host::default(), &Settings::default(), |_| false).is_err()
            );
        }
    }

    #[test]
    fn without_selinux_or_its_policy_or_by_configuration_there_are_no_labels() {
        let of = |host: &Host, settings: &Settings| {
            labels(&ask(&["label=type:x"]), host, settings, |_| false).expect("none")
        };
        let off = Settings { selinux: false, ..Settings::default() };
        assert!(of(&selinux(), &off).is_empty());
        assert!(of(&Host { selinux: true, ..Host::default() }, &Settings::default()).is_empty());
        assert!(of(&Host { selinux: false, ..selinux() }, &Settings::default()).is_empty());
        assert!(!of(&selinux(), &Settings::default()).is_empty());
    }

    #[test]
    fn a_policys_file_without_labels_is_ignored() {
        assert_eq!(Contexts::parse(""), None);
        assert_eq!(Contexts::parse("process = \"system_u:system_r:container_t:s0\"\n"), None);
        assert_eq!(Contexts::parse("process = \"x\"\nfile = \"y\"\n"), None);
        let bare = Contexts::parse("process=u:r:t\nfile=u:o:f\n").expect("old policies have no levels");
        assert_eq!(bare.file.to_string(), "u:o:f:s0");
    }

    #[test]
    fn defaults_are_described_and_advice_is_given_for_what_is_missing() {
        let settings = Settings::default();
        assert_eq!(describe(&Host::default(), &settings), Vec::<String>::new());
        let both = Host {
            selinux: true,
            contexts: Contexts::parse(LXC_CONTEXTS),
            ..apparmor_of("docker-default (enforce)\n")
        };
        assert_eq!(describe(&both, &settings), ["apparmor=docker-default", "selinux=container_t"]);
        assert!(advice(&both, &settings).is_empty());
        let chosen =
            Settings { apparmor_profile: Some("mine".into()), selinux: false, ..Settings::default() };
        assert_eq!(describe(&both, &chosen), ["apparmor=mine", "selinux=disabled"]);
        let bare = Host { selinux: true, ..apparmor_of("") };
        assert_eq!(describe(&bare, &settings), ["apparmor=unconfined", "selinux=no-container-policy"]);
        assert_eq!((advice(&bare, &settings).len(), advice(&bare, &chosen).len()), (2, 0));
    }

    #[test]
    fn unknown_security_options_are_refused_and_the_last_one_applies() {
        let ask = |options: &[&str]| Create { security: list(options), ..Create::default() };
        assert_eq!(no_new_privileges(&ask(&["no-new-privileges"])).ok(), Some(true));
        assert_eq!(
            no_new_privileges(&ask(&["no-new-privileges", "no-new-privileges:false"])).ok(),
            Some(false)
        );
        assert!(no_new_privileges(&ask(&["no-new-privileges=maybe"])).is_err());
        assert!(check(&ask(&["seccomp=unconfined", "label=disable"])).is_ok());
        assert!(check(&ask(&["seccmp=unconfined"])).is_err());
    }
}
