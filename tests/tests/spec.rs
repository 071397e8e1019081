//! Bundles that the engine makes, run by runc: the effect of each option inside the container.
//!
//! The root file system is a static busybox in the test's directory; there is no engine and no shim.

use sampan_engine::config::{self, Config, Invocation};
use sampan_ipc::container::{Create, Exec, Mount, MountKind, Network, Notify, Restart};
use sampan_oci::Run;
use sampan_spec::bundle::{self, Bundle, Input};
use sampan_spec::error::SpecError;
use sampan_spec::host::Host;
use sampan_spec::mounts::Files;
use sampan_spec::names;
use sampan_spec::rootfs_view::Root;
use sampan_spec::runtime::Runtime;
use sampan_spec::security::Labels;
use sampan_tests::host::need_root;
use sampan_tests::random::Random;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

/// The result of a run.
#[derive(Debug)]
struct Outcome {
    code: i32,
    out: String,
    err: String,
    warnings: Vec<String>,
}

impl Outcome {
    /// The output; panics if the container failed.
    fn text(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        self.out.trim_end()
    }
}

/// A root file system, and the other inputs from which a test makes a bundle and runs it.
struct Fixture {
    dir: TempDir,
    config: Box<Config>,
    host: Host,
    runtime: Arc<Runtime>,
    run: Run,
}

impl Fixture {
    fn new() -> Self {
        need_root();
        let dir = tempfile::Builder::new().prefix("sampan-spec.").tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("open to other users");
        let rootfs = dir.path().join("rootfs");
        for name in ["bin", "etc", "tmp", "data", "proc", "sys", "dev", "sbin", "home/web", "root"] {
            fs::create_dir_all(rootfs.join(name)).expect("made");
        }
        fs::copy(busybox(), rootfs.join("bin/busybox")).expect("busybox");
        for applet in [
            "sh", "cat", "id", "ls", "mount", "unshare", "hostname", "touch", "true", "sleep", "env", "pwd",
            "ip", "mknod", "dd", "stat", "ps", "chroot", "readlink",
        ] {
            symlink("busybox", rootfs.join("bin").join(applet)).expect("made");
        }
        let passwd = "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/home/web:/bin/sh\n";
        fs::write(rootfs.join("etc/passwd"), passwd).expect("written");
        fs::write(rootfs.join("etc/group"), "root:x:0:\nweb:x:33:\nlogs:x:40:web\nmore:x:41:\n")
            .expect("written");
        for (name, text) in
            [("hosts", "127.0.0.1 localhost\n"), ("hostname", "made\n"), ("resolv.conf", "# none\n")]
        {
            fs::write(dir.path().join(name), text).expect("written");
        }
        let file = dir.path().join("sampan.toml");
        fs::write(&file, "[engine]\nruntime = 'runc'\ncgroup-manager = 'cgroupfs'\n").expect("written");
        let args = ["sampan-engine", "--config"].map(OsString::from);
        let Ok(Invocation::Run(config)) = config::from_args(args.into_iter().chain([file.into_os_string()]))
        else {
            panic!("a configuration")
        };
        let runtime =
            Runtime::find(&config.settings, None).expect("runc is installed: see tests/install-deps.sh");
        Fixture { dir, config, host: Host::probe(), runtime, run: Run::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn with_input<T>(&self, id: &str, create: &Create, call: impl FnOnce(&Input<'_>) -> T) -> T {
        let root = Root::new([self.path("rootfs")]);
        let files = Files {
            hostname: self.path("hostname"),
            hosts: self.path("hosts"),
            resolv_conf: self.path("resolv.conf"),
        };
        call(&Input {
            id,
            create,
            run: &self.run,
            host: &self.host,
            runtime: &self.runtime,
            settings: &self.config.settings,
            network: if create.network == Network::Default { self.config.network } else { create.network },
            root: &root,
            rootfs: &self.path("rootfs"),
            files: &files,
            labels: &Labels::default(),
        })
    }

    fn bundle(&self, id: &str, create: &Create) -> Result<Bundle, SpecError> {
        self.with_input(id, create, bundle::bundle)
    }

    /// Runs a container to its end.
    fn run(&self, create: Create) -> Outcome {
        let id = names::id().expect("random bytes");
        let bundle = self.bundle(&id, &create).unwrap_or_else(|error| panic!("no bundle: {error}"));
        self.start(&id, &bundle)
    }

    fn start(&self, id: &str, bundle: &Bundle) -> Outcome {
        bundle.make_sources().expect("directories");
        let dir = self.path(id);
        fs::create_dir(&dir).expect("made");
        fs::write(dir.join("config.json"), bundle.json()).expect("written");
        let words = self.runtime.command(&self.path("state"));
        let output = Command::new("timeout")
            .args(["60"])
            .args(&words)
            .args(["run", "--bundle"])
            .args([dir.as_os_str(), id.as_ref()])
            .stdin(Stdio::null())
            .output()
            .expect("runc");
        // There is nothing to delete if the run succeeded.
        let _ = Command::new("timeout").args(["60"]).args(&words).args(["delete", "--force", id]).output();
        Outcome {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            warnings: bundle.warnings.clone(),
        }
    }
}

fn busybox() -> &'static str {
    ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("busybox-static is installed: see tests/install-deps.sh")
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// A container that runs `script`.
fn sh(script: &str) -> Create {
    Create { image: "test".into(), command: words(&["/bin/sh", "-c", script]), ..Create::default() }
}

fn tmpfs(target: &str, options: &[&str]) -> Mount {
    Mount { kind: MountKind::Tmpfs, target: target.into(), options: words(options), ..Mount::default() }
}

fn volume(source: &Path, target: &str, options: &[&str]) -> Mount {
    let source = source.to_str().expect("text").to_owned();
    Mount { kind: MountKind::Bind, source, make_source: true, ..tmpfs(target, options) }
}

#[test]
fn a_plain_container_has_what_docker_gives() {
    let fixture = Fixture::new();
    let script = "id -u; id -g; pwd; hostname; cat /etc/hostname; grep -i -E 'capeff|nonewpriv|seccomp:' /proc/self/status;
        for f in null zero full random urandom tty ptmx; do test -c /dev/$f || echo no $f; done; echo $PATH; echo $HOME; echo $HOSTNAME; cat /proc/self/oom_score_adj";
    fs::remove_file(fixture.path("rootfs/bin/env")).expect("there");
    symlink("busybox", fixture.path("rootfs/bin/grep")).expect("made");
    let outcome = fixture.run(sh(script));
    let lines: Vec<&str> = outcome.text().lines().collect();
    let host = lines[3];
    assert_eq!((lines[0], lines[1], lines[2], host.len(), lines[4]), ("0", "0", "/", 12, "made"));
    // chown to setfcap: docker's fourteen capabilities, as far as this process has them.
    assert!(lines[5].ends_with("00000000a80425fb"), "{lines:?}");
    assert!(lines[6].ends_with('0') && lines[7].ends_with('2'), "{lines:?}");
    assert!(lines[8].starts_with("/usr/local/sbin:"), "{lines:?}");
    assert_eq!((lines[9], lines[10], lines.len()), ("/root", host, 12), "{lines:?}");
}

#[test]
fn paths_that_tell_of_the_host_are_masked_or_cannot_be_written() {
    let fixture = Fixture::new();
    let look = "ls -A /proc/scsi /sys/firmware 2>/dev/null | cat; cat /proc/kcore | busybox wc -c;
        (echo 1 >/proc/sysrq-trigger) 2>/dev/null && echo open; (echo x >/proc/sys/kernel/hostname) 2>/dev/null && echo writable; (touch /sys/x) 2>/dev/null && echo sys; echo end";
    let create = |security: &[&str]| Create { security: words(security), ..sh("cat /proc/self/mountinfo") };
    let outcome = fixture.run(sh(look));
    assert!(outcome.text().ends_with("0\nend"), "{outcome:?}");
    assert!(fixture.run(create(&[])).text().contains("/proc/sys "));
    assert!(!fixture.run(create(&["systempaths=unconfined"])).text().contains("/proc/sys "));
}

#[test]
fn the_network_is_loopback_alone_or_the_hosts() {
    let fixture = Fixture::new();
    let look = "ip -o addr; cat /proc/net/dev; readlink /proc/self/ns/net";
    let none = fixture.run(sh(look));
    let interfaces = none
        .text()
        .lines()
        .filter(|line| line.trim_start().split(':').nth(1).is_some() && line.contains(":  "))
        .count();
    assert!(none.text().contains("127.0.0.1"), "loopback is up: {none:?} {interfaces}");
    assert!(!none.text().contains("eth0"), "{none:?}");
    let own = fs::read_link("/proc/self/ns/net").expect("a link");
    let host = fixture.run(Create { network: Network::Host, ..sh(look) });
    assert!(host.text().ends_with(own.to_str().expect("text")), "{host:?}");
    let port = fixture.run(sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"));
    assert_eq!(port.text(), "0");
}

#[test]
fn users_and_groups_are_found_by_name_in_the_container() {
    let fixture = Fixture::new();
    let ask = |user: &str, groups: &[&str]| {
        let create = Create {
            user: Some(user.into()),
            group_add: words(groups),
            ..sh("id -u; id -g; id -G; echo $HOME")
        };
        fixture.run(create).text().replace('\n', " ")
    };
    assert_eq!(ask("web", &[]), "33 33 33 40 /home/web");
    assert_eq!(ask("web:more", &["logs"]), "33 41 41 40 /home/web");
    assert_eq!(ask("1234:5", &["99"]), "1234 5 5 99 /");
    let error =
        fixture.bundle("x", &Create { user: Some("nobody".into()), ..sh("true") }).expect_err("no such user");
    assert!(error.to_string().contains("nobody"), "{error}");
}

#[test]
fn files_of_the_host_are_not_reached_by_links_of_the_image() {
    let fixture = Fixture::new();
    let secret = fixture.path("secret");
    fs::write(&secret, "evil:x:77:77::/:/bin/sh\n").expect("written");
    let passwd = fixture.path("rootfs/etc/passwd");
    fs::remove_file(&passwd).expect("there");
    symlink(&secret, &passwd).expect("made");
    assert!(fixture.bundle("x", &Create { user: Some("evil".into()), ..sh("true") }).is_err());
    // A working directory or a mount target that is a link leads to a place inside the container.
    symlink("/../../../../..", fixture.path("rootfs/up")).expect("made");
    symlink(fixture.dir.path(), fixture.path("rootfs/out")).expect("made");
    let create = Create { workdir: Some("/up".into()), ..sh("pwd; ls /bin/busybox") };
    assert!(fixture.run(create).text().ends_with("/bin/busybox"));
    let create = Create { mounts: vec![tmpfs("/out/inside", &[])], ..sh("cat /proc/self/mountinfo") };
    let outcome = fixture.run(create);
    assert!(outcome.text().contains("tmpfs"), "{outcome:?}");
    assert!(!fixture.path("inside").exists(), "nothing was made on the host");
}

#[test]
fn environment_words_and_directory_come_from_image_and_options() {
    let mut fixture = Fixture::new();
    fixture.run = Run {
        env: words(&["A=image", "B=image", "PATH=/bin"]),
        entrypoint: words(&["/bin/sh", "-c"]),
        cmd: words(&["echo default"]),
        working_dir: Some("/data/new".into()),
        user: Some("web".into()),
        ..Run::default()
    };
    let plain = Create { image: "test".into(), ..Create::default() };
    assert_eq!(fixture.run(plain.clone()).text(), "default");
    let create = Create {
        env: words(&["B=mine", "C=x y\nz"]),
        command: words(&["echo $A $B \"$C\" $PATH; pwd; id -u"]),
        ..plain.clone()
    };
    assert_eq!(fixture.run(create).text(), "image mine x y\nz /bin\n/data/new\n33");
    let create = Create { entrypoint: Some(words(&["/bin/pwd"])), workdir: Some("/tmp".into()), ..plain };
    assert_eq!(fixture.run(create).text(), "/tmp");
    let create = Create { workdir: Some("/etc/passwd".into()), ..sh("true") };
    assert!(fixture.bundle("x", &create).is_err_and(|error| error.to_string().contains("not a directory")));
}

#[test]
fn an_environment_of_a_mebibyte_arrives() {
    let fixture = Fixture::new();
    let env = (0..12).map(|n| format!("V{n}={}", "x".repeat(90_000))).collect();
    let outcome = fixture.run(Create { env, ..sh("/bin/busybox env | busybox wc -c") });
    assert!(outcome.text().parse::<u64>().expect("a number") > 1_080_000, "{outcome:?}");
}

#[test]
fn capabilities_are_added_dropped_and_kept_from_ordinary_users() {
    let fixture = Fixture::new();
    symlink("busybox", fixture.path("rootfs/bin/awk")).expect("made");
    let ask = |add: &[&str], drop: &[&str], user: Option<&str>| {
        let create = Create {
            cap_add: words(add),
            cap_drop: words(drop),
            user: user.map(str::to_owned),
            ..sh("awk '/^Cap(Eff|Bnd)/ {print $2}' /proc/self/status")
        };
        fixture.run(create).text().replace('\n', " ")
    };
    assert_eq!(ask(&[], &["ALL"], None), "0000000000000000 0000000000000000");
    assert_eq!(ask(&["NET_ADMIN"], &["all"], None), "0000000000001000 0000000000001000");
    assert_eq!(ask(&[], &[], Some("web")), "0000000000000000 00000000a80425fb");
    assert_eq!(ask(&["cap_sys_time"], &["ALL"], Some("web")), "0000000002000000 0000000002000000");
}

#[test]
fn a_privileged_container_has_all_that_the_engine_can_give() {
    let fixture = Fixture::new();
    symlink("busybox", fixture.path("rootfs/bin/awk")).expect("made");
    let script = "awk '/^(CapEff|Seccomp:)/ {print $2}' /proc/self/status; mount -t tmpfs none /tmp && echo mounted; ls /dev | busybox wc -l; (echo 1 > /proc/sys/net/ipv4/ip_forward) && echo set";
    let outcome = fixture.run(Create { privileged: true, ..sh(script) });
    let lines: Vec<&str> = outcome.text().lines().collect();
    let own = fixture.host.capabilities.0;
    assert_eq!(u64::from_str_radix(lines[0], 16), Ok(own), "{outcome:?}");
    assert_eq!((lines[1], lines[2], lines[4]), ("0", "mounted", "set"), "{outcome:?}");
    // If this process itself lacks capabilities, there is a warning.
    assert_eq!(outcome.warnings.is_empty(), own.count_ones() == 41, "{outcome:?}");
    let plain = fixture.run(sh("mount -t tmpfs none /tmp"));
    assert_ne!(plain.code, 0);
}

#[test]
fn system_calls_are_filtered_unless_that_is_asked_not_to_be() {
    let fixture = Fixture::new();
    // As root with the capability, so that only the filter denies the call; other tests check its rules for
    // capabilities.
    let denied = fixture.run(sh("unshare -U true && echo unshared"));
    assert!(denied.code != 0 && denied.err.contains("not permitted"), "{denied:?}");
    let free = fixture
        .run(Create { security: words(&["seccomp=unconfined"]), ..sh("unshare -U true && echo unshared") });
    assert_eq!(free.text(), "unshared");
    let profile = r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errno":"EACCES"}]}"#;
    let own = fixture.run(Create {
        security: words(&[profile]),
        ..sh("busybox mkdir /tmp/x; unshare -U true && echo unshared")
    });
    assert!(own.text() == "unshared" && own.err.contains("Permission denied"), "{own:?}");
    for bad in
        ["seccomp=/a/file", "seccomp={}", "seccomp={\"defaultAction\":\"SCMP_ACT_NOTIFY\"}", "nonsense=1"]
    {
        assert!(fixture.bundle("x", &Create { security: words(&[bad]), ..sh("true") }).is_err(), "{bad}");
    }
}

#[test]
fn no_new_privileges_is_set() {
    let fixture = Fixture::new();
    symlink("busybox", fixture.path("rootfs/bin/awk")).expect("made");
    let create = Create {
        security: words(&["no-new-privileges"]),
        ..sh("awk '/^NoNewPrivs/ {print $2}' /proc/self/status")
    };
    assert_eq!(fixture.run(create).text(), "1");
}

#[test]
fn a_read_only_container_writes_only_where_it_may() {
    let fixture = Fixture::new();
    let mounts = vec![tmpfs("/tmp", &["size=1m", "mode=1777"]), tmpfs("/run", &["exec"])];
    let script = "touch /x 2>/dev/null && echo written; touch /tmp/x && echo tmp; dd if=/dev/zero of=/tmp/big bs=1k count=2000 2>/dev/null || echo full; cat /proc/self/mountinfo | busybox grep -E ' /(tmp|run) '";
    let outcome = fixture.run(Create { read_only: true, mounts, ..sh(script) });
    let text = outcome.text();
    assert!(text.starts_with("tmp\nfull\n"), "{outcome:?}");
    assert!(text.contains("/tmp rw,nosuid,nodev,noexec") && text.contains("size=1024k"), "{outcome:?}");
    assert!(text.contains("/run rw,nosuid,nodev,"), "{outcome:?}");
}

#[test]
fn directories_of_the_host_are_mounted_as_asked() {
    let fixture = Fixture::new();
    let (there, missing) = (fixture.path("there"), fixture.path("a/missing/one"));
    fs::create_dir_all(there.join("below")).expect("made");
    fs::write(there.join("file"), "of the host").expect("written");
    let mounts = vec![
        volume(&there, "/data", &["ro"]),
        volume(&missing, "/made", &["z"]),
        volume(&there.join("file"), "/etc/one", &["rslave"]),
    ];
    let outcome = fixture.run(Create {
        mounts,
        ..sh("cat /data/file /etc/one; touch /data/x 2>/dev/null || echo refused; touch /made/new")
    });
    assert_eq!(outcome.text(), "of the hostof the hostrefused");
    assert!(missing.join("new").exists());
    assert_eq!(outcome.warnings.len(), usize::from(!fixture.host.selinux), "{outcome:?}");
    let strict = Mount { make_source: false, ..volume(&fixture.path("none"), "/x", &[]) };
    let error = fixture.bundle("x", &Create { mounts: vec![strict], ..sh("true") }).expect_err("not there");
    assert!(error.to_string().contains("none"), "{error}");
}

#[test]
fn a_directory_is_mounted_before_what_is_in_it() {
    let fixture = Fixture::new();
    let etc = fixture.path("other-etc");
    fs::create_dir(&etc).expect("made");
    fs::write(etc.join("mark"), "mine").expect("written");
    let mounts = vec![
        tmpfs("/x/y/z", &[]),
        volume(&etc, "/etc", &[]),
        tmpfs("/x", &[]),
        tmpfs("/dev", &["dev", "mode=755"]),
    ];
    let script = "cat /etc/mark /etc/hostname; busybox grep -c ' /x' /proc/self/mountinfo; test -d /dev/shm && test -c /dev/null && echo dev";
    assert_eq!(fixture.run(Create { mounts, ..sh(script) }).text(), "minemade\n2\ndev");
    // A dangling link on the host is an error, and no directory is made in its place.
    let dangling = fixture.path("dangling");
    symlink("/nowhere", &dangling).expect("made");
    let create = Create { mounts: vec![volume(&dangling, "/data", &[])], ..sh("true") };
    assert!(fixture.bundle("x", &create).expect("as far as can be told").make_sources().is_err());
}

#[test]
fn what_is_mounted_below_a_read_only_source_is_read_only_too() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let fixture = Fixture::new();
    assert!(fixture.runtime.mounts_with("rro"), "runc is new enough to be asked");
    let (there, below) = (fixture.path("there"), fixture.path("there/below"));
    fs::create_dir_all(&below).expect("made");
    mount(Some("none"), &below, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mounted");
    let outcome = fixture.run(Create {
        mounts: vec![volume(&there, "/data", &["ro"])],
        ..sh("touch /data/below/x 2>/dev/null || echo refused")
    });
    umount2(&below, MntFlags::MNT_DETACH).expect("unmounted");
    assert_eq!(outcome.text(), "refused");
}

#[test]
fn devices_are_there_with_the_rights_that_were_asked_for() {
    let fixture = Fixture::new();
    let pool = fixture.path("pool");
    fs::create_dir(&pool).expect("made");
    let made = Command::new("mknod").arg(pool.join("zero")).args(["c", "1", "5"]).status();
    assert!(made.is_ok_and(|status| status.success()));
    let script = "stat -c '%t,%T' /dev/mine /dev/pool/zero; dd if=/dev/mine of=/dev/null bs=1 count=3 2>/dev/null && echo read;
        mknod /tmp/kmsg c 1 11 && (busybox head -c 1 /tmp/kmsg >/dev/null 2>&1 || echo denied)";
    let devices = words(&["/dev/zero:/dev/mine:r", &format!("{}:/dev/pool", pool.display())]);
    let outcome = fixture.run(Create { devices, ..sh(script) });
    let text = outcome.text();
    assert!(text.starts_with("1,5\n1,5\nread"), "{outcome:?}");
    // Control groups restrict devices; without them, only the missing MKNOD does.
    assert_eq!(
        text.ends_with("denied"),
        fixture.host.controls("devices") || fixture.host.cgroups.word() == "v2",
        "{outcome:?}"
    );
    assert!(fixture.bundle("x", &Create { devices: words(&["/etc/passwd"]), ..sh("true") }).is_err());
}

#[test]
fn memory_processors_and_processes_are_limited() {
    let fixture = Fixture::new();
    let create = Create {
        memory: Some(64 << 20),
        nano_cpus: Some(500_000_000),
        pids: Some(7),
        shm_size: Some(2 << 20),
        ..sh(
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; cat /proc/self/mountinfo | busybox grep /dev/shm; true",
        )
    };
    let outcome = fixture.run(create.clone());
    let text = outcome.text();
    for (controller, wanted) in [("memory", "67108864"), ("cpu", "50000"), ("pids", "7")] {
        let is_there = text.lines().any(|line| line.split(' ').next() == Some(wanted));
        assert_eq!(is_there, fixture.host.controls(controller), "{controller}: {outcome:?}");
        assert_eq!(
            outcome.warnings.iter().any(|w| w.contains(controller)),
            !fixture.host.controls(controller)
        );
    }
    assert!(text.contains("size=2048k"), "{outcome:?}");
    if fixture.host.controls("pids") {
        let create =
            Create { command: sh("for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait").command, ..create };
        let outcome = fixture.run(create);
        assert!(outcome.err.contains("fork"), "{outcome:?}");
    }
}

#[test]
fn limits_are_set_or_the_host_is_named() {
    let fixture = Fixture::new();
    let with = |name: &str, soft, hard| Create {
        ulimits: vec![(name.into(), soft, hard)],
        ..sh("ulimit -n; ulimit -H -n")
    };
    let (_, hard) = fixture.host.limits["nofile"];
    let outcome = fixture.run(with("nofile", 100, 200));
    assert_eq!(outcome.text(), "100\n200");
    // Raising a limit above the engine's own needs a capability that some hosts do not give.
    let above = with("nofile", 1, i64::try_from(hard).map_or(-1, |hard| hard + 1));
    if fixture.host.capabilities.has("CAP_SYS_RESOURCE") {
        assert!(fixture.bundle("x", &above).is_ok());
    } else if hard < u64::MAX {
        let error = fixture.bundle("x", &above).expect_err("above the engine's own");
        assert!(error.hint().contains("LimitNOFILE"), "{error}");
    }
    assert!(fixture.bundle("x", &with("files", 1, 1)).is_err());
}

#[test]
fn hostname_kernel_parameters_and_annotations_are_set() {
    let fixture = Fixture::new();
    let create = Create {
        hostname: Some("harbour.example".into()),
        sysctls: vec![("net.ipv4.ip_forward".into(), "1".into()), ("kernel.shmmni".into(), "77".into())],
        annotations: vec![("org.example".into(), "x".into())],
        ..sh("hostname; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni")
    };
    assert_eq!(fixture.run(create.clone()).text(), "harbour.example\n1\n77");
    let bundle = fixture.bundle("x", &create).expect("a bundle");
    assert_eq!(bundle.spec.annotations["org.example"], "x");
    let host = Create { sysctls: vec![("vm.swappiness".into(), "1".into())], ..create };
    assert!(fixture.bundle("x", &host).is_err());
}

#[test]
fn a_small_init_is_process_1_and_reaps() {
    let fixture = Fixture::new();
    assert!(fixture.host.init.is_some(), "catatonit is installed: see tests/install-deps.sh");
    let create = Create { init: true, ..sh("cat /proc/1/cmdline | busybox tr '\\0' ' '; echo; exit 7") };
    let outcome = fixture.run(create);
    assert_eq!(outcome.code, 7, "{outcome:?}");
    assert!(outcome.out.starts_with("/sbin/docker-init -- /bin/sh"), "{outcome:?}");
}

#[test]
fn an_execution_runs_as_it_was_asked_to() {
    let fixture = Fixture::new();
    let id = names::id().expect("random bytes");
    // The container waits for a file in a directory that it shares with the test.
    let shared = fixture.path("shared");
    fs::create_dir(&shared).expect("made");
    assert!(nix::unistd::mkfifo(&shared.join("end"), nix::sys::stat::Mode::S_IRWXU).is_ok());
    let create = Create { mounts: vec![volume(&shared, "/shared", &[])], ..sh("cat /shared/end >/dev/null") };
    let exec = Exec {
        command: words(&["/bin/sh", "-c", "id -u; pwd; echo $X; hostname"]),
        env: words(&["X=1"]),
        user: Some("web".into()),
        workdir: Some("/tmp".into()),
        ..Exec::default()
    };
    let process =
        fixture.with_input(&id, &create, |input| bundle::exec_process(input, &exec)).expect("a process");
    let file = fixture.path("process.json");
    fs::write(&file, serde_json::to_string(&process).expect("JSON")).expect("written");
    let bundle = fixture.bundle(&id, &create).expect("a bundle");
    let words = fixture.runtime.command(&fixture.path("state"));
    let outcome = std::thread::scope(|scope| {
        let container = scope.spawn(|| fixture.start(&id, &bundle));
        sampan_tests::host::wait_until("the container to run", String::new, || {
            let state = Command::new(&words[0]).args(&words[1..]).args(["state", &id]).output();
            state
                .is_ok_and(|state| String::from_utf8_lossy(&state.stdout).contains("\"status\": \"running\""))
        });
        let output = Command::new("timeout")
            .arg("60")
            .args(&words)
            .args(["exec", "--process"])
            .args([file.as_os_str(), id.as_ref()])
            .output()
            .expect("runc");
        fs::write(shared.join("end"), "now").expect("it reads");
        assert_eq!(container.join().expect("no panic").code, 0);
        output
    });
    let text = String::from_utf8_lossy(&outcome.stdout);
    assert_eq!(text.trim_end(), format!("33\n/tmp\n1\n{}", &id[..12]), "{outcome:?}");
}

#[test]
fn the_runtime_that_works_here_is_chosen_and_says_which_it_is() {
    need_root();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("sampan.toml");
    fs::write(&file, "[engine]\n").expect("written");
    let args = ["sampan-engine", "--config"].map(OsString::from);
    let Ok(Invocation::Run(config)) = config::from_args(args.into_iter().chain([file.into_os_string()]))
    else {
        panic!("a configuration")
    };
    let runtime = Runtime::find(&config.settings, None).expect("crun or runc");
    assert!(["crun", "runc"].contains(&runtime.name.as_str()) && !runtime.spec.is_empty());
    assert!(runtime.version.starts_with(|c: char| c.is_ascii_digit()), "{runtime:?}");
    if runtime.name == "runc" && Path::new("/usr/bin/crun").exists() {
        assert!(runtime.passed_over.iter().any(|why| why.starts_with("crun: ")), "{runtime:?}");
    }
    let again = Runtime::find(&config.settings, None).expect("kept in mind");
    assert!(Arc::ptr_eq(&runtime, &again));
}

#[test]
fn a_terminal_is_the_containers_own() {
    let fixture = Fixture::new();
    symlink("busybox", fixture.path("rootfs/bin/tty")).expect("made");
    let id = names::id().expect("random bytes");
    let create = Create { tty: true, ..sh("tty; echo $TERM; test -c /dev/console && echo console") };
    let bundle = fixture.bundle(&id, &create).expect("a bundle");
    let dir = fixture.path(&id);
    fs::create_dir(&dir).expect("made");
    fs::write(dir.join("config.json"), bundle.json()).expect("written");
    let line = format!(
        "timeout --foreground 60 {} run --bundle {} {id}",
        fixture.runtime.command(&fixture.path("state")).join(" "),
        dir.display()
    );
    // script(1) gives runc a terminal.
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output();
    let text = String::from_utf8_lossy(&output.expect("script").stdout).replace('\r', "");
    assert!(text.trim_end().ends_with("/dev/pts/0\nxterm\nconsole"), "{text:?}");
}

#[test]
fn a_container_that_says_itself_that_it_is_ready_has_the_socket() {
    let fixture = Fixture::new();
    let socket = fixture.path("notify");
    let _bound = std::os::unix::net::UnixDatagram::bind(&socket).expect("bound");
    let with = |socket: &str| Create {
        sdnotify: Notify::Container,
        notify_socket: Some(socket.to_owned()),
        ..sh("test -S $NOTIFY_SOCKET && echo $NOTIFY_SOCKET")
    };
    assert_eq!(fixture.run(with(socket.to_str().expect("text"))).text(), "/run/notify.sock");
    assert!(fixture.bundle("x", &with("@abstract")).is_err_and(|error| error.hint().contains("conmon")));
}

#[test]
fn the_profile_of_podman_is_read_as_it_is() {
    let fixture = Fixture::new();
    let profile = fs::read_to_string("/usr/share/containers/seccomp.json");
    let profile = profile.expect("podman's profile is installed with podman: see tests/install-deps.sh");
    let create = Create {
        security: vec![format!("seccomp={profile}")],
        ..sh("busybox grep Seccomp: /proc/self/status")
    };
    assert_eq!(fixture.run(create).text(), "Seccomp:\t2");
    // The option in the host's configuration has the same effect.
    let mut fixture = fixture;
    fixture.config.settings.seccomp_profile = Some("/usr/share/containers/seccomp.json".into());
    assert_eq!(
        fixture.run(sh("unshare -U true && busybox grep Seccomp: /proc/self/status")).text(),
        "Seccomp:\t2",
        "it lets namespaces be made, as ours does not"
    );
    fixture.config.settings.seccomp_profile = Some("/no/such/profile".into());
    let error = fixture.bundle("x", &sh("true")).expect_err("no such file");
    assert!(error.to_string().contains("/no/such/profile"), "{error}");
}

/// Parts of options: valid, invalid and unusual ones.
const PIECES: [&str; 44] = [
    "",
    "a",
    "web",
    "0",
    "-1",
    "1:2",
    "/",
    "/a",
    "/a/../..",
    "../x",
    "/dev/null",
    "/dev/zero:/x:rw",
    ":",
    "::::",
    "=",
    "A=b",
    "ALL",
    "cap_kill",
    "NET_ADMIN",
    "seccomp=unconfined",
    "seccomp={}",
    "seccomp={\"defaultAction\":1}",
    "no-new-privileges:true",
    "label=disable",
    "apparmor=x",
    "systempaths=",
    "ro",
    "rslave",
    "size=64m",
    "size=%",
    "mode=17777777777",
    "z",
    "U",
    "\0",
    "\u{1b}[2J",
    "\u{202e}",
    "\u{e9}\u{fffd}",
    "nofile",
    "net.ipv4.ip_forward",
    "kernel.shmmax",
    "fs.mqueue./..",
    "999999999999999999999",
    "RTMIN+99",
    "/proc/self/root/../..",
];

fn word(random: &mut Random) -> String {
    let mut word = (*random.pick(&PIECES)).to_owned();
    while random.one_in(3) {
        word += *random.pick(&PIECES);
    }
    if random.one_in(200) {
        word = word.repeat(20_000);
    }
    word
}

fn some<T>(random: &mut Random, make: impl Fn(&mut Random) -> T) -> Option<T> {
    random.one_in(4).then(|| make(random))
}

fn list<T>(random: &mut Random, make: impl Fn(&mut Random) -> T) -> Vec<T> {
    let count = if random.one_in(5) { random.below(4) } else { 0 };
    (0..count).map(|_| make(random)).collect()
}

fn pair(random: &mut Random) -> (String, String) {
    (word(random), word(random))
}

fn number(random: &mut Random) -> u64 {
    *random.pick(&[0, 1, 6 << 20, 10_000_000, 1 << 40, u64::MAX >> 1, u64::MAX])
}

fn mount(random: &mut Random) -> Mount {
    Mount {
        kind: *random.pick(&[MountKind::Bind, MountKind::Tmpfs]),
        source: word(random),
        target: word(random),
        read_only: random.one_in(2),
        options: list(random, word),
        make_source: random.one_in(2),
    }
}

/// A request that a hostile or careless client may send.
fn any_create(random: &mut Random) -> Create {
    Create {
        name: some(random, word),
        image: "test".into(),
        command: if random.one_in(2) { words(&["true"]) } else { list(random, word) },
        entrypoint: some(random, |random| list(random, word)),
        env: list(random, word),
        user: some(random, word),
        workdir: some(random, word),
        hostname: some(random, word),
        tty: random.one_in(2),
        labels: list(random, pair),
        mounts: list(random, mount),
        read_only: random.one_in(2),
        network: *random.pick(&[Network::Default, Network::None, Network::Host]),
        restart: *random.pick(&[Restart::No, Restart::OnFailure(3), Restart::Always, Restart::UnlessStopped]),
        auto_remove: random.one_in(4),
        init: random.one_in(4),
        privileged: random.one_in(4),
        cap_add: list(random, word),
        cap_drop: list(random, word),
        devices: list(random, word),
        security: list(random, word),
        ulimits: list(random, |random| (word(random), number(random) as i64, number(random) as i64)),
        memory: some(random, number),
        memory_swap: some(random, |random| number(random) as i64),
        nano_cpus: some(random, number),
        pids: some(random, |random| number(random) as i64),
        shm_size: some(random, number),
        stop_signal: some(random, word),
        sdnotify: *random.pick(&[Notify::Ignore, Notify::Container, Notify::Conmon]),
        notify_socket: some(random, word),
        group_add: list(random, word),
        sysctls: list(random, pair),
        annotations: list(random, pair),
        ..Create::default()
    }
}

#[test]
fn whatever_is_asked_for_a_bundle_or_an_error_is_the_answer() {
    let fixture = Fixture::new();
    let mut random = Random::new(4);
    let mut made = 0;
    for turn in 0..20_000 {
        let create = any_create(&mut random);
        match fixture.bundle("0123456789abcdef", &create) {
            Ok(bundle) => {
                made += 1;
                // A NUL would end a word early in a C string.
                assert!(!bundle.json().contains("\\u0000"), "turn {turn}: {create:?}");
                let hostile = |mount: &sampan_spec::config_json::Mount| !mount.destination.starts_with('/');
                assert!(!bundle.spec.mounts.iter().any(hostile), "turn {turn}: {create:?}");
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.len() < 2000 && !text.contains(char::is_control), "turn {turn}: {text:?}");
            }
        }
        let exec = Exec {
            command: list(&mut random, word),
            env: create.env.clone(),
            user: create.user.clone(),
            ..Exec::default()
        };
        let _ = fixture.with_input("0123456789abcdef", &create, |input| bundle::exec_process(input, &exec));
    }
    assert!(made > 300, "only {made} of them made sense: they would show nothing");
}
