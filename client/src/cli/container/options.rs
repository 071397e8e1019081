//! Parses the values of the options of `create`, `run` and `exec`, in docker's syntax.
//!
//! Reads only files that options name. Every error names the option and its value. The engine checks everything that
//! only the engine can check, such as whether a user exists.

use crate::cli::error::{Failure, USAGE};
use sampan_ipc::container::{FOR_EVER, Mount, MountKind, Network, Restart};
use sampan_ipc::{named_file, size};
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Longest file of variables or labels, and longest seccomp profile. A whole request has at most 4 MiB, and repeats
/// parts of such a file in its command line.
const FILE_MAX: u64 = 1 << 20;

/// Makes the failure for an invalid value of an option.
fn invalid(option: &str, value: &str, why: &str) -> Failure {
    Failure::new(format!("{option} {value:?}: {why}")).status(USAGE)
}

/// Parses a size: `64m`, `1g`, `1.5GiB`, with units of 1024 as in docker.
pub(crate) fn size(option: &str, text: &str) -> Result<u64, Failure> {
    let wrong = || invalid(option, text, "not a size").hint("write a number and b, k, m, g or t: 64m");
    size::parse(text).ok_or_else(wrong)
}

/// Parses `--memory-swap`: a size, or -1.
pub(crate) fn swap(text: &str) -> Result<i64, Failure> {
    if text == "-1" {
        return Ok(-1);
    }
    i64::try_from(size("--memory-swap", text)?)
        .map_err(|_| invalid("--memory-swap", text, "the size is too large"))
}

/// Parses `--cpus` as billionths of a CPU; 0 means no limit.
pub(crate) fn cpus(text: &str) -> Result<u64, Failure> {
    let wrong = || invalid("--cpus", text, "not a number of CPUs").hint("write a number such as 2 or 0.5");
    let (whole, fraction, scale) = size::decimal(text).ok_or_else(wrong)?;
    let nanos = whole
        .checked_mul(1_000_000_000)
        .and_then(|whole| whole.checked_add(fraction * (1_000_000_000 / scale)));
    nanos.ok_or_else(wrong)
}

/// Parses `--stop-timeout`: seconds; a negative number means no limit.
pub(crate) fn stop_timeout(seconds: i64) -> Result<u32, Failure> {
    match seconds {
        ..0 => Ok(FOR_EVER),
        seconds => u32::try_from(seconds)
            .map_err(|_| invalid("--stop-timeout", &seconds.to_string(), "too long; -1 means no limit")),
    }
}

/// Parses `--ulimit NAME=SOFT[:HARD]`; -1 and `unlimited` mean no limit.
pub(crate) fn ulimit(text: &str) -> Result<(String, i64, i64), Failure> {
    let wrong = |why| invalid("--ulimit", text, why).hint("write NAME=SOFT[:HARD]: nofile=1024:2048");
    let (name, limits) = text.split_once('=').ok_or_else(|| wrong("'=' is missing"))?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| match text {
        "unlimited" | "-1" => Some(-1),
        _ => text.parse::<i64>().ok().filter(|number| *number >= 0),
    };
    let (Some(soft), Some(hard)) = (number(soft), number(hard)) else {
        return Err(wrong("a limit is not a number"));
    };
    if name.is_empty() {
        return Err(wrong("the name is missing"));
    }
    if hard >= 0 && (soft < 0 || soft > hard) {
        return Err(wrong("the soft limit is above the hard limit"));
    }
    Ok((name.to_ascii_lowercase(), soft, hard))
}

/// Parses `--restart no|on-failure[:N]|always|unless-stopped`.
pub(crate) fn restart(text: &str) -> Result<Restart, Failure> {
    let wrong = || {
        invalid("--restart", text, "no such policy")
            .hint("the policies are no, on-failure[:COUNT], always and unless-stopped")
    };
    let (policy, count) = match text.split_once(':') {
        Some((policy, count)) => (policy, Some(count)),
        None => (text, None),
    };
    match (policy, count) {
        ("" | "no", None) => Ok(Restart::No),
        ("always", None) => Ok(Restart::Always),
        ("unless-stopped", None) => Ok(Restart::UnlessStopped),
        ("on-failure", None) => Ok(Restart::OnFailure(0)),
        ("on-failure", Some(count)) => count.parse().map(Restart::OnFailure).map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

/// Parses `--network none|host`.
pub(crate) fn network(text: &str) -> Result<Network, Failure> {
    match text {
        "none" => Ok(Network::None),
        "host" => Ok(Network::Host),
        "" | "default" => Ok(Network::Default),
        _ => Err(invalid("--network", text, "no such network").hint("the networks are none and host")),
    }
}

/// Parses `KEY=VALUE`. With `may_lack`, a word without `=` is a key with an empty value.
pub(crate) fn pair(option: &str, text: &str, may_lack: bool) -> Result<(String, String), Failure> {
    let (key, value) = match text.split_once('=') {
        Some(pair) => pair,
        None if may_lack => (text, ""),
        None => return Err(invalid(option, text, "'=' is missing").hint("write KEY=VALUE")),
    };
    if key.is_empty() {
        return Err(invalid(option, text, "the key is missing").hint("write KEY=VALUE"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Returns all variables: first the ones from the files, then the ones from the command line.
pub(crate) fn environment(files: &[PathBuf], words: &[String]) -> Result<Vec<String>, Failure> {
    let mut all = Vec::new();
    for file in files {
        let name = file.display().to_string();
        for line in lines(&read("--env-file", file)?, &name, "--env-file")? {
            all.extend(variable("--env-file", &line)?);
        }
    }
    for word in words {
        all.extend(variable("--env", word)?);
    }
    Ok(all)
}

/// Returns a variable as `KEY=VALUE`. A bare `KEY` gets its value from this process; `None` if this process has no
/// such variable.
fn variable(option: &str, word: &str) -> Result<Option<String>, Failure> {
    if word.is_empty() || word.starts_with('=') {
        return Err(invalid(option, word, "the name is missing").hint("write KEY=VALUE, or only KEY"));
    }
    if word.contains('=') {
        return Ok(Some(word.to_owned()));
    }
    match env::var_os(word).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(value)) => Ok(Some(format!("{word}={value}"))),
        Some(Err(_)) => Err(invalid(option, word, "the value of the variable is not UTF-8")),
    }
}

/// Returns all labels: first the ones from the files, then the ones from the command line.
pub(crate) fn labels(files: &[PathBuf], words: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let mut all = Vec::new();
    for file in files {
        let name = file.display().to_string();
        for line in lines(&read("--label-file", file)?, &name, "--label-file")? {
            all.push(pair("--label-file", &line, true)?);
        }
    }
    for word in words {
        let (key, value) = pair("--label", word, true)?;
        if key.contains(char::is_whitespace) {
            return Err(invalid("--label", word, "the key has white space in it"));
        }
        all.push((key, value));
    }
    Ok(all)
}

/// Splits a file into lines as docker does: removes leading blanks, empty lines and lines that begin with `#`.
fn lines(text: &str, file: &str, option: &str) -> Result<Vec<String>, Failure> {
    let mut all = Vec::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = line.split_once('=').map_or(line, |(key, _)| key);
        if key.contains(|c: char| c.is_whitespace()) {
            return Err(invalid(option, file, &format!("variable {key:?} has white space in its name")));
        }
        all.push(line.to_owned());
    }
    Ok(all)
}

fn read(option: &str, path: &Path) -> Result<String, Failure> {
    let name = path.display().to_string();
    let failed =
        |error: &dyn std::fmt::Display| invalid(option, &name, &format!("cannot read the file: {error}"));
    named_file::read_text(path, FILE_MAX).map_err(|error| failed(&error))
}

/// Parses `--security-opt`. Reads the file of `seccomp=FILE` here, since the engine may not have access to it.
pub(crate) fn security(text: &str) -> Result<String, Failure> {
    // Docker used ':' before it used '=', and still accepts it.
    let profile = text.strip_prefix("seccomp=").or_else(|| text.strip_prefix("seccomp:"));
    match profile {
        None => Ok(text.to_owned()),
        Some("") => Err(invalid("--security-opt", text, "the profile is missing")
            .hint("write seccomp=FILE or seccomp=unconfined")),
        Some(word @ ("unconfined" | "builtin" | "default")) => Ok(format!("seccomp={word}")),
        Some(file) => {
            let profile = read("--security-opt seccomp", Path::new(file))?;
            let value: serde_json::Value = serde_json::from_str(&profile).map_err(|error| {
                invalid("--security-opt", text, &format!("the profile is not JSON: {error}"))
            })?;
            if !value.is_object() {
                return Err(invalid("--security-opt", text, "the profile is not a JSON object"));
            }
            Ok(format!("seccomp={value}"))
        }
    }
}

/// Makes a path of this host absolute, from the working directory of this process.
fn absolute(option: &str, value: &str, path: &str) -> Result<String, Failure> {
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    let here = env::current_dir()
        .map_err(|error| invalid(option, value, &format!("cannot get the working directory: {error}")))?;
    // Keep '..' in the path: after a symbolic link it means another directory, and the engine follows links.
    let mut whole = here;
    for part in Path::new(path).components() {
        match part {
            std::path::Component::CurDir => {}
            part => whole.push(part),
        }
    }
    whole.into_os_string().into_string().map_err(|_| invalid(option, value, "the path is not UTF-8"))
}

/// Parses `--volume SOURCE:TARGET[:OPTIONS]`.
pub(crate) fn volume(text: &str) -> Result<Mount, Failure> {
    let wrong =
        |why: &str| invalid("--volume", text, why).hint("write SOURCE:TARGET[:OPTIONS]: ./data:/data:ro");
    let mut parts = text.splitn(3, ':');
    let (source, target) = match (parts.next(), parts.next()) {
        (Some(source), Some(target)) if !source.is_empty() => (source, target),
        _ => return Err(wrong("source or target is missing (there are no anonymous volumes yet)")),
    };
    if !source.starts_with(['/', '.']) {
        // Docker also refuses a name with a '/'. A person who types '~' does not want a directory of that name.
        return Err(wrong(
            "the source is a name, and there are no named volumes yet; the path of a directory begins with '/' or '.'",
        ));
    }
    if !target.starts_with('/') {
        return Err(wrong("the target must be an absolute path"));
    }
    let mut mount = Mount {
        kind: MountKind::Bind,
        source: absolute("--volume", text, source)?,
        target: target.to_owned(),
        make_source: true,
        ..Mount::default()
    };
    let options = parts.next();
    if options == Some("") {
        return Err(wrong("the options after the last colon are missing"));
    }
    let mut access = None;
    for option in options.unwrap_or_default().split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "rw" if access.is_some_and(|other| other != option) => {
                return Err(wrong("ro and rw exclude each other"));
            }
            "ro" | "rw" => access = Some(option),
            _ => mount.options.push(option.to_owned()),
        }
    }
    mount.read_only = access == Some("ro");
    Ok(mount)
}

/// Parses `--tmpfs TARGET[:OPTIONS]`.
pub(crate) fn tmpfs(text: &str) -> Result<Mount, Failure> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    if !target.starts_with('/') {
        return Err(
            invalid("--tmpfs", text, "the target must be an absolute path").hint("write /run:size=64m")
        );
    }
    let mut mount = Mount { kind: MountKind::Tmpfs, target: target.to_owned(), ..Mount::default() };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.read_only = true,
            "rw" => mount.read_only = false,
            _ => mount.options.push(option.to_owned()),
        }
    }
    Ok(mount)
}

/// Parses `--mount KEY=VALUE,…`.
pub(crate) fn mount(text: &str) -> Result<Mount, Failure> {
    let wrong = |why: &str| {
        invalid("--mount", text, why).hint("write type=bind,src=PATH,dst=PATH[,ro] or type=tmpfs,dst=PATH")
    };
    let mut mount = Mount::default();
    let mut kind = None;
    for field in fields(text).ok_or_else(|| wrong("a quote is not closed"))? {
        let (key, value) =
            field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        let key = key.to_ascii_lowercase();
        let need =
            || value.filter(|value| !value.is_empty()).ok_or_else(|| wrong(&format!("{key} needs a value")));
        match key.as_str() {
            "type" => kind = Some(need()?.to_ascii_lowercase()),
            "src" | "source" => mount.source = absolute("--mount", text, need()?)?,
            "dst" | "destination" | "target" => mount.target = need()?.to_owned(),
            "ro" | "readonly" => {
                mount.read_only = parse_bool(value).ok_or_else(|| wrong("ro must be true or false"))?
            }
            "rw" => mount.read_only = !parse_bool(value).ok_or_else(|| wrong("rw must be true or false"))?,
            "bind-propagation" => mount.options.push(need()?.to_owned()),
            "bind-nonrecursive" => {
                if parse_bool(value).ok_or_else(|| wrong("bind-nonrecursive must be true or false"))? {
                    mount.options.push("bind".to_owned());
                }
            }
            "bind-recursive" => match need()? {
                "enabled" => {}
                "disabled" => mount.options.push("bind".to_owned()),
                _ => return Err(wrong("bind-recursive must be enabled or disabled")),
            },
            // This key has a meaning only on other systems.
            "consistency" => drop(need()?),
            "tmpfs-size" => mount.options.push(format!("size={}", size("--mount tmpfs-size", need()?)?)),
            "tmpfs-mode" => mount.options.push(format!("mode={}", need()?)),
            _ => return Err(wrong(&format!("unknown key {key:?}"))),
        }
    }
    mount.kind = match kind.as_deref() {
        Some("bind") => MountKind::Bind,
        Some("tmpfs") => MountKind::Tmpfs,
        // Docker's default type is `volume`.
        None | Some("volume") => {
            return Err(wrong("there are no named volumes yet; the types are bind and tmpfs"));
        }
        Some(_) => return Err(wrong("no such type; the types are bind and tmpfs")),
    };
    check_mount(&mount).map_err(wrong)?;
    Ok(mount)
}

fn check_mount(mount: &Mount) -> Result<(), &'static str> {
    match mount.kind {
        _ if mount.target.is_empty() => Err("the target is missing"),
        _ if !mount.target.starts_with('/') => Err("the target must be an absolute path"),
        MountKind::Bind if mount.source.is_empty() => Err("the source is missing"),
        MountKind::Tmpfs if !mount.source.is_empty() => Err("a tmpfs has no source"),
        _ => Ok(()),
    }
}

fn parse_bool(value: Option<&str>) -> Option<bool> {
    match value {
        None | Some("true" | "1") => Some(true),
        Some("false" | "0") => Some(false),
        Some(_) => None,
    }
}

/// Splits comma-separated values; a value that contains commas is in quotes. Returns `None` if a quote is not closed.
fn fields(text: &str) -> Option<Vec<String>> {
    let (mut all, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                field.push('"');
                chars.next();
            }
            '"' => quoted = !quoted,
            ',' if !quoted => all.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    all.push(field);
    (!quoted).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, bytes) in
            [("64m", 64 << 20), ("1.5g", 3 << 29), ("512", 512), ("1KiB", 1024), ("0", 0), ("2tb", 2 << 40)]
        {
            assert_eq!(size("--memory", text).expect(text), bytes, "{text}");
        }
        for text in ["", "m", "-1", "1x", "1.2.3m", "99999999999999999999g", "1 2m", "\u{e4}"] {
            let failure = size("--memory", text).expect_err(text);
            assert_eq!(failure.status, USAGE);
            assert!(failure.message.contains("--memory"), "{}", failure.message);
        }
        assert_eq!(swap("-1").expect("unlimited"), -1);
        assert_eq!(cpus("0.5").expect("half"), 500_000_000);
        assert_eq!(cpus("2").expect("two"), 2_000_000_000);
        assert_eq!((stop_timeout(-1).expect("for ever"), stop_timeout(3).expect("three")), (FOR_EVER, 3));
        assert!(stop_timeout(1 << 40).is_err());
        assert_eq!((cpus("0").expect("no limit"), cpus("1.").expect("one")), (0, 1_000_000_000));
        for text in ["-1", "", ".", "x", "1.0000000001"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_and_policies_have_their_forms() {
        assert_eq!(ulimit("nofile=1024:2048").expect("good"), ("nofile".into(), 1024, 2048));
        assert_eq!(ulimit("core=-1").expect("good"), ("core".into(), -1, -1));
        assert_eq!(ulimit("NPROC=5").expect("good"), ("nproc".into(), 5, 5));
        for text in ["nofile", "=1", "nofile=", "nofile=2:1", "nofile=-1:5", "nofile=-2", "nofile=1:2:3"] {
            assert!(ulimit(text).is_err(), "{text}");
        }
        assert_eq!(restart("on-failure:3").expect("good"), Restart::OnFailure(3));
        assert_eq!(restart("on-failure").expect("good"), Restart::OnFailure(0));
        assert_eq!(restart("unless-stopped").expect("good"), Restart::UnlessStopped);
        for text in ["always:3", "sometimes", "on-failure:", "on-failure:-1"] {
            assert!(restart(text).is_err(), "{text}");
        }
        assert!(network("bridge").is_err());
    }

    #[test]
    fn a_volume_is_source_target_and_options() {
        let mount = volume("/a:/b:ro,rslave").expect("good");
        assert_eq!((mount.source.as_str(), mount.target.as_str()), ("/a", "/b"));
        assert!(mount.read_only && mount.make_source);
        assert_eq!(mount.options, ["rslave"]);
        let here = env::current_dir().expect("a directory").display().to_string();
        assert_eq!(volume("./x:/b").expect("good").source, format!("{here}/x"));
        assert_eq!(volume("./x/y:/b").expect("good").source, format!("{here}/x/y"));
        for text in
            ["", "/a", ":/b", "/a:b", "name:/b", "/a:", "a", "~/x:/b", "x/y:/b", "/a:/b:", "/a:/b:ro,rw"]
        {
            assert_eq!(volume(text).expect_err(text).status, USAGE);
        }
    }

    #[test]
    fn a_mount_is_a_line_of_keys() {
        let bind = mount("type=bind,\"src=/a,b\",dst=/c,ro").expect("good");
        assert_eq!((bind.source.as_str(), bind.target.as_str(), bind.read_only), ("/a,b", "/c", true));
        assert!(!bind.make_source);
        let same = mount("Type=BIND,source=/a,target=/c,consistency=cached,bind-recursive=disabled");
        assert_eq!(same.expect("good").options, ["bind"]);
        let memory = mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700").expect("good");
        assert_eq!(
            (memory.kind, memory.options),
            (MountKind::Tmpfs, vec!["size=1048576".into(), "mode=700".into()])
        );
        for text in [
            "",
            "type=bind,src=/a",
            "src=/a,dst=/b",
            "type=nfs,dst=/a",
            "type=bind,src=/a,dst=b",
            "type=bind,dst=/b",
            "type=tmpfs,src=/a,dst=/b",
            "type=bind,src=/a,dst=/b,x=1",
            "type=bind,src=/a,dst=/b,ro=maybe",
            "\"type=bind",
        ] {
            assert_eq!(mount(text).expect_err(text).status, USAGE);
        }
        let memory = tmpfs("/run:size=64m,mode=1777,ro").expect("good");
        assert_eq!((memory.target.as_str(), memory.read_only), ("/run", true));
        assert_eq!(memory.options, ["size=64m", "mode=1777"]);
        assert!(tmpfs("run").is_err());
    }

    #[test]
    fn files_of_variables_are_read_as_docker_reads_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("env");
        fs::write(&file, "\u{feff}A=1\n# no\n\n  B = 2 = 3 \nSAMPAN_TEST_NOT_SET\nPATH\n").expect("written");
        assert!(environment(std::slice::from_ref(&file), &[]).is_err(), "white space in a name");
        fs::write(&file, "\u{feff}A=1\n# no\n\n  B= 2 = 3 \nSAMPAN_TEST_NOT_SET\nPATH\n").expect("written");
        let all = environment(&[file], &["A=2".into()]).expect("good");
        let path = format!("PATH={}", env::var("PATH").expect("a path"));
        assert_eq!(all, ["A=1", "B= 2 = 3 ", &path, "A=2"]);
        assert!(environment(&[dir.path().join("none")], &[]).is_err());
        assert!(environment(&[], &["=x".into()]).is_err());
        assert_eq!(
            labels(&[], &["a".into(), "b=c=d".into()]).expect("good"),
            [("a".into(), String::new()), ("b".into(), "c=d".into())]
        );
        assert!(labels(&[], &["a b=c".into()]).is_err());
    }

    #[test]
    fn a_seccomp_profile_is_sent_and_not_its_path() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("profile");
        fs::write(&file, "{ \"defaultAction\": \"SCMP_ACT_ALLOW\" }").expect("written");
        let option = security(&format!("seccomp={}", file.display())).expect("good");
        assert_eq!(option, r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW"}"#);
        fs::write(&file, "no").expect("written");
        assert!(security(&format!("seccomp={}", file.display())).is_err());
        assert_eq!(security("seccomp=unconfined").expect("good"), "seccomp=unconfined");
        assert_eq!(security("no-new-privileges").expect("good"), "no-new-privileges");
    }
}
