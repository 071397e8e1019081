//! A Debian root file system, made by debootstrap and imported as an image: it is complete, and its programs work.
//!
//! It is made once, from the archive that this host's apt uses, and kept in the build's directory.

use sampan_tests::containers::Containers;
use sampan_tests::host::{need_root, wait_until};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The archive that is used if this host's apt has no Debian archive.
const ARCHIVE: (&str, &str) = ("http://deb.debian.org/debian", "stable");
/// Root's password, which setuid programs of the tests use.
const SECRET: &str = "secret";
/// Commands that add to the image a user in two supplementary groups, and a program with a capability.
const PREPARE: &str = r#"
set -e
rm -f "$1"/var/cache/apt/archives/*.deb
chroot "$1" useradd --create-home --shell /bin/bash --groups audio,video ann
echo "root:$2" | chroot "$1" chpasswd
cp "$1/bin/true" "$1/usr/local/bin/capable"
setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 "$1/usr/local/bin/capable"
"#;

/// Mirror and suite: the first Debian archive in apt's configuration that is not one of updates.
fn archive() -> (String, String) {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let more = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    files.extend(more.map(|entry| entry.path()));
    files.sort();
    let of = |file: &PathBuf| {
        let text = fs::read_to_string(file).ok()?;
        match file.extension().is_some_and(|extension| extension == "sources") {
            true => text.split("\n\n").find_map(of_stanza),
            false => text.lines().find_map(of_line),
        }
    };
    files.iter().find_map(of).unwrap_or_else(|| (ARCHIVE.0.to_owned(), ARCHIVE.1.to_owned()))
}

/// `deb [options] URI SUITE COMPONENT…`. sources.list(5).
fn of_line(line: &str) -> Option<(String, String)> {
    let rest = line.strip_prefix("deb ")?.trim_start();
    let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
    let mut words = rest.split_whitespace();
    fitting(words.next()?, words.next()?)
}

/// A source in the format of lines `Key: value`. sources.list(5).
fn of_stanza(stanza: &str) -> Option<(String, String)> {
    let value = |key: &str| stanza.lines().find_map(|line| line.strip_prefix(key)).map(str::split_whitespace);
    value("Types:")?.find(|kind| *kind == "deb")?;
    fitting(value("URIs:")?.next()?, value("Suites:")?.next()?)
}

fn fitting(uri: &str, suite: &str) -> Option<(String, String)> {
    let is_debian = uri.trim_end_matches('/').ends_with("/debian") && uri.contains("://");
    (is_debian && !suite.contains(['-', '/'])).then(|| (uri.to_owned(), suite.to_owned()))
}

#[test]
fn the_archive_is_the_one_that_apt_has() {
    let found = Some(("http://mirror.lan/debian".to_owned(), "bookworm".to_owned()));
    assert_eq!(of_line("deb [arch=amd64 x=y] http://mirror.lan/debian bookworm main"), found);
    assert_eq!(of_line("deb http://mirror.lan/debian-security bookworm-security main"), None);
    assert_eq!(of_line("# deb http://mirror.lan/debian bookworm main"), None);
    let stanza =
        "Types: deb deb-src\n# why\nURIs: http://mirror.lan/debian\nSuites: bookworm bookworm-updates\n";
    assert_eq!(of_stanza(stanza), found);
    assert_eq!(of_stanza("Types: deb-src\nURIs: http://mirror.lan/debian\nSuites: bookworm\n"), None);
    assert_eq!(of_stanza("Types: deb\nURIs: https://other.lan/node\nSuites: nodistro\n"), None);
}

/// Path of the root file system. One of the tests makes it if it does not exist, while the others wait.
fn root() -> PathBuf {
    need_root();
    let (mirror, suite) = archive();
    let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let lock = File::create(kept.join("debian.lock")).expect("the build's directory");
    let _lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).expect("locked");
    let root = kept.join(format!("debian-{suite}"));
    if !root.exists() {
        make(&mirror, &suite, &root);
    }
    root
}

fn make(mirror: &str, suite: &str, root: &Path) {
    let unfinished = root.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).expect("what an earlier run has left");
    }
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", suite]).arg(&unfinished).arg(mirror);
    let output = debootstrap.output().expect("Debian's package debootstrap: see tests/install-deps.sh");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "debootstrap cannot make {suite} of {mirror}, which /etc/apt/sources.list* name: is it to be reached?\n{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let prepared = Command::new("sh").args(["-c", PREPARE, "sh"]).arg(&unfinished).arg(SECRET).output();
    let prepared = prepared.expect("a shell");
    assert!(prepared.status.success(), "{prepared:?}");
    fs::rename(unfinished, root).expect("renamed");
}

/// An installation with the image `debian:min`.
fn installed() -> (Containers, PathBuf) {
    let (root, containers) = (root(), Containers::quiet(""));
    let tar = containers.host.path("root.tar");
    let mut command = Command::new("tar");
    command.args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "--format=pax", "-C"]).arg(&root);
    assert!(command.arg("-cf").arg(&tar).arg(".").status().expect("tar").success());
    containers.stdout_of(&["import", "debian:min", tar.to_str().expect("text"), "--cmd", "/bin/bash"]);
    fs::remove_file(tar).expect("ours");
    (containers, root)
}

/// Output of a command in a new container; it must succeed.
fn inside(containers: &Containers, options: &[&str], script: &str) -> String {
    containers.stdout_of(&[&["run", "--rm"], options, &["debian:min", "bash", "-c", script]].concat())
}

/// Output of a program that runs in `dir`, as sorted lines.
fn lines(dir: &Path, program: &str, args: &[&str]) -> Vec<String> {
    let output = Command::new(program).args(args).current_dir(dir).output().expect("installed");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<String> =
        String::from_utf8_lossy(&output.stdout).split('\0').map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Groups of paths that are hard links of one file, sorted by their first path.
fn links(dir: &Path) -> Vec<Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in lines(dir, "find", &[".", "-type", "f", "-links", "+1", "-printf", "%P %i\\0"]) {
        if let Some((path, inode)) = line.rsplit_once(' ') {
            all.entry(inode.to_owned()).or_default().push(path.to_owned());
        }
    }
    let mut groups: Vec<Vec<String>> = all.into_values().collect();
    groups.sort();
    groups
}

#[test]
fn the_unpacked_root_is_the_one_that_debootstrap_made() {
    let (containers, root) = installed();
    let layers = fs::read_dir(containers.host.path("data/store/layers")).expect("the store");
    let mut layers = layers.map(|layer| layer.expect("listed").path().join("diff"));
    let unpacked = layers.find(|layer| layer.join("etc/debian_version").exists()).expect("a layer");
    // Type, mode with setuid and sticky bits, owner, time in nanoseconds, links, target.
    let entries = |dir: &Path| lines(dir, "find", &[".", "-printf", "%p %y %m %U %G %T@ %n %l\\0"]);
    let (ours, theirs) = (entries(&unpacked), entries(&root));
    let wrong: Vec<_> = theirs.iter().filter(|line| ours.binary_search(line).is_err()).take(20).collect();
    assert!(
        ours.len() == theirs.len() && wrong.is_empty() && ours.len() > 1000,
        "{} {} {wrong:?}",
        ours.len(),
        theirs.len()
    );
    assert!(theirs.iter().any(|line| line.starts_with("./usr/bin/su f 4755 0 0 ")));
    let devices = |dir: &Path| {
        lines(dir, "find", &[".", "-type", "c", "-exec", "stat", "--printf", "%n %t %T\\0", "{}", "+"])
    };
    assert_eq!(devices(&unpacked), devices(&root));
    assert!(devices(&root).iter().any(|line| line == "./dev/null 1 3"));
    assert!(!links(&root).is_empty() && links(&unpacked) == links(&root), "{:?}", links(&unpacked));
    let attributes =
        |dir: &Path| lines(dir, "getfattr", &["-R", "-h", "-d", "-m", "-", "-e", "hex", "."]).concat();
    assert_eq!(attributes(&unpacked), attributes(&root));
    assert!(attributes(&root).contains("security.capability=0x01000002"));
    let diff = Command::new("diff").args(["-r", "-q", "--no-dereference"]).arg(&root).arg(&unpacked).output();
    let diff = String::from_utf8_lossy(&diff.expect("diffutils").stdout).into_owned();
    // For devices, diff only prints their types, which are compared above.
    let different: Vec<&str> = diff.lines().filter(|line| !line.contains(" special file")).collect();
    assert!(different.is_empty(), "{different:?}");
}

#[test]
fn users_groups_and_directories_are_those_of_its_files() {
    let (containers, _) = installed();
    for (user, expected) in [
        ("games", "5 60 60"),
        ("www-data", "33 33 33"),
        ("www-data:audio", "33 29 29"),
        ("5:audio", "5 29 29"),
        ("1234:5678", "1234 5678 5678"),
        ("ann", "1000 1000 1000 29 44"),
    ] {
        assert_eq!(inside(&containers, &["-u", user], "echo $(id -u) $(id -g) $(id -G)"), expected, "{user}");
    }
    assert_eq!(
        inside(&containers, &["-u", "ann"], "id -un; echo ~; echo $HOME"),
        "ann\n/home/ann\n/home/ann"
    );
    assert_eq!(inside(&containers, &["-u", "games", "--group-add", "video"], "id -Gn"), "games video");
    let output = containers.sampan(&["run", "--rm", "-u", "nobody-like-that", "debian:min", "true"]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert_eq!(inside(&containers, &["-w", "/var/tmp"], "pwd; stat -c %a ."), "/var/tmp\n1777");
    assert_eq!(inside(&containers, &["-w", "/bin"], "pwd -P"), "/usr/bin");
    assert_eq!(inside(&containers, &["-w", "/srv/new/one"], "pwd"), "/srv/new/one");
}

#[test]
fn packages_are_whole_and_can_be_installed() {
    let (containers, _) = installed();
    assert_eq!(inside(&containers, &[], "dpkg --verify; dpkg --audit; apt-get check -qq"), "");
    assert!(inside(&containers, &[], "dpkg -l").contains("\nii  base-files "));
    assert!(inside(&containers, &[], "apt-config dump").contains("Dir::State \"var/lib/apt\";"));
    let script = "set -e; mkdir -p /tmp/p/DEBIAN /tmp/p/opt; echo hello >/tmp/p/opt/hello
        printf 'Package: p\\nVersion: 1\\nArchitecture: all\\nMaintainer: a <a@b>\\nDescription: p\\n' >/tmp/p/DEBIAN/control
        printf '#!/bin/sh\\nchown games /opt/hello\\n' >/tmp/p/DEBIAN/postinst; chmod 755 /tmp/p/DEBIAN/postinst
        dpkg-deb -b /tmp/p /tmp/p.deb >/dev/null; apt-get install -qq -y /tmp/p.deb >/dev/null 2>&1
        dpkg-query -W p; stat -c '%U' /opt/hello; dpkg -P p >/dev/null; test ! -e /opt/hello";
    assert_eq!(inside(&containers, &[], script), "p\t1\ngames");
}

#[test]
fn a_setuid_program_gives_rights_unless_new_ones_are_forbidden() {
    let (containers, _) = installed();
    let su = |options: &[&str]| -> Output {
        let words =
            [&["run", "--rm", "-i", "-u", "ann"], options, &["debian:min", "su", "-c", "id -un"]].concat();
        let mut command = containers.host.command("sampan");
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("built");
        child.stdin.take().expect("piped").write_all(format!("{SECRET}\n").as_bytes()).expect("it reads");
        child.wait_with_output().expect("it ends")
    };
    let allowed = su(&[]);
    assert!(allowed.status.success() && allowed.stdout == b"root\n", "{allowed:?}");
    let forbidden = su(&["--security-opt", "no-new-privileges"]);
    assert!(!forbidden.status.success() && forbidden.stdout.is_empty(), "{forbidden:?}");
    let rights = "grep NoNewPrivs /proc/self/status";
    assert_eq!(inside(&containers, &["--security-opt", "no-new-privileges"], rights), "NoNewPrivs:\t1");
}

#[test]
fn a_terminal_has_job_control_and_a_login_shell_its_profile() {
    let (containers, _) = installed();
    let sampan = sampan_tests::host::binary("sampan");
    let line = format!("{} run --rm -it debian:min bash --norc", sampan.display());
    let mut command = containers.host.command_of(Path::new("script"));
    command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("Debian's package bsdutils");
    let words = "sleep 1000 &\njobs\nkill %1\nwait %1\necho ended $?\n(exit 7); exit\n";
    child.stdin.as_mut().expect("piped").write_all(words.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(
        said.contains("Running") && said.contains("ended 143") && !said.contains("no job control"),
        "{said}"
    );
    let login = "shopt -q login_shell && echo $PATH; cd; pwd";
    let said = containers.stdout_of(&["run", "--rm", "debian:min", "bash", "-lc", login]);
    assert_eq!(said, "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n/root");
    let length = "word=$'\\xc3\\xa4'; echo ${#word}; locale 2>&1 | head -n1";
    assert_eq!(inside(&containers, &["-e", "LANG=C.UTF-8"], length), "1\nLANG=C.UTF-8");
    assert_eq!(inside(&containers, &["-e", "LC_ALL=C"], length), "2\nLANG=");
}

#[test]
fn an_init_takes_orphans_away_and_without_one_they_stay() {
    let (containers, _) = installed();
    let script = "(sleep 0.01 &); exec sleep 1000";
    let run = |name: &str, options: &[&str]| {
        let words = [&["run", "-d", "--name", name], options, &["debian:min", "bash", "-c", script]].concat();
        containers.stdout_of(&words);
    };
    run("with", &["--init"]);
    run("without", &[]);
    let states = |name: &str| {
        let look =
            "for one in /proc/[0-9]*; do [ $(cat $one/comm) = sleep ] && grep State $one/status; done; true";
        containers.stdout_of(&["exec", name, "bash", "-c", look])
    };
    wait_until("a zombie", || states("without"), || states("without").contains("zombie"));
    wait_until("no orphan", || states("with"), || states("with").lines().count() == 1);
    assert!(!states("with").contains("zombie") && states("without").contains("zombie"));
}
