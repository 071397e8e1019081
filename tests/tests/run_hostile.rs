//! Hostile images, options, clients and containers: they cannot read, write or block the host.

use sampan_ipc::container::{AttachMessage, Create, Exec, Mount, Phase, Streams};
use sampan_ipc::engine::{Answer, Container, Load, Request, Start, Stop};
use sampan_tests::containers::{Attached, Containers, answers, header, sh};
use sampan_tests::host::wait_until;
use sampan_tests::leaks;
use sampan_tests::random::Random;
use sampan_tests::registry::{Image, Layer, Packing, write_layout};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

const HOSTILE: &str = "docker.io/library/hostile:1";
const CANARY: &str = "canary-that-no-container-sees";

fn start(container: &str) -> Request {
    Request::Start(Start { container: container.to_owned(), ..Start::default() })
}

fn stop(container: &str) -> Request {
    Request::Stop(Stop { container: container.to_owned(), timeout: Some(0), signal: None })
}

fn remove(container: &str) -> Request {
    Request::RemoveContainer { container: container.to_owned(), force: true }
}

/// The final reply to a request that may fail.
fn outcome(containers: &Containers, request: Request) -> Result<(), String> {
    match containers.ask(request).pop() {
        Some(Answer::Done(_)) => Ok(()),
        Some(Answer::Error(failure)) => Err(failure.message),
        other => panic!("{other:?}\n{}", containers.log()),
    }
}

/// Checks that the engine replies, and can run a container.
fn check_alive(containers: &Containers, name: &str) {
    let (told, out, _) = containers.run(sh(name, "echo well"), b"");
    assert_eq!((told, out.as_str()), (AttachMessage::Exited(0), "well\n"));
    assert!(!containers.log().contains("panicked"), "{}", containers.log());
}

/// All files below a directory of the host, with their content.
fn contents(dir: &Path) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = fs::read_dir(dir)
        .expect("listed")
        .map(|entry| entry.expect("read").path())
        .map(|path| {
            (path.display().to_string(), fs::read_to_string(&path).unwrap_or_else(|_| "directory".into()))
        })
        .collect();
    all.sort();
    all
}

#[test]
fn links_of_an_image_lead_to_nothing_of_the_host() {
    let containers = Containers::new();
    let host = containers.host.path("host");
    fs::create_dir(&host).expect("made");
    let user = "root:x:0:0:root:/root:/bin/sh\nspy:x:4242:4242::/:/bin/sh\n";
    for (name, text) in
        [("passwd", user), ("group", "spies:x:4343:spy\n"), ("file", CANARY), ("hosts", CANARY)]
    {
        fs::write(host.join(name), text).expect("written");
    }
    let before = contents(&host);
    let to = |below: &str| host.join(below).display().to_string();
    let up = |below: &str| format!("../../../../../../../../../..{}", to(below));
    containers.import_as(HOSTILE, |tar| {
        let links = [
            ("etc/passwd", to("passwd")),
            ("etc/group", up("group")),
            ("etc/hosts", to("hosts")),
            ("etc/hostname", up("hostname")),
            ("etc/resolv.conf", to("resolv.conf")),
            ("volume", to("")),
            ("up", up("")),
            ("loop", "/loop".to_owned()),
            ("link-to-file", to("file")),
        ];
        for (name, target) in &links {
            tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), name, target).expect("to memory");
        }
    });
    let of = |name: &str| Create {
        image: HOSTILE.to_owned(),
        ..sh(name, "cat /link-to-file /etc/passwd /up/file; echo end")
    };
    let (told, out, _) = containers.run(of("plain"), b"");
    assert!(matches!(told, AttachMessage::Exited(_)), "{told:?}");
    assert!(!out.contains(CANARY) && !out.contains("spy"), "{out}");
    // Users and groups that only the host's files have are unknown.
    for user in ["spy", "root:spies"] {
        let create = Create { user: Some(user.to_owned()), ..of("who") };
        match containers.ask(Request::Create(Box::new(create))).pop() {
            Some(Answer::Error(failure)) => {
                assert!(failure.message.contains(user.trim_start_matches("root:")), "{failure:?}")
            }
            Some(Answer::Done(_)) => {
                outcome(&containers, start("who")).expect_err("an unknown user");
                containers.ok(remove("who"));
            }
            other => panic!("{other:?}"),
        }
    }
    // A mount target or a created file behind a link of the image is inside of the container.
    let source = containers.host.path("source");
    fs::create_dir(&source).expect("made");
    fs::write(source.join("inside"), "").expect("written");
    for (nth, target) in
        ["/volume/new", "/up/new", "/volume", "/loop/x", "/link-to-file"].into_iter().enumerate()
    {
        let mount =
            Mount { source: source.display().to_string(), target: target.to_owned(), ..Mount::default() };
        let create = Create { mounts: vec![mount], ..of(&format!("mount-{nth}")) };
        let id = match containers.ask(Request::Create(Box::new(create))).remove(0) {
            Answer::Container { id, .. } => id,
            Answer::Error(_) => continue,
            other => panic!("{other:?}"),
        };
        let _ = outcome(&containers, start(&id));
        containers.ok(remove(&id));
        assert_eq!(contents(&host), before, "{target}");
    }
    for (nth, dir) in ["/volume/made", "/up/made", "/loop"].into_iter().enumerate() {
        let create = Create { workdir: Some(dir.to_owned()), ..of(&format!("dir-{nth}")) };
        if let Answer::Container { id, .. } = containers.ask(Request::Create(Box::new(create))).remove(0) {
            let _ = outcome(&containers, start(&id));
            containers.ok(remove(&id));
        }
        assert_eq!(contents(&host), before, "{dir}");
    }
    check_alive(&containers, "after");
}

#[test]
fn links_for_dev_proc_and_etc_do_not_touch_the_host() {
    let containers = Containers::new();
    let host = containers.host.path("host");
    fs::create_dir(&host).expect("made");
    fs::write(host.join("canary"), CANARY).expect("written");
    let before = contents(&host);
    let busybox = fs::read("/bin/busybox").expect("Debian's package busybox-static");
    for (nth, name) in ["dev", "proc", "sys", "etc"].into_iter().enumerate() {
        let reference = format!("docker.io/library/links:{nth}");
        containers.import_bare(&reference, |tar| {
            let mut head = header(tar::EntryType::Directory, 0o755, 0);
            tar.append_data(&mut head, "bin/", &[][..]).expect("to memory");
            let mut head = header(tar::EntryType::Regular, 0o755, busybox.len());
            tar.append_data(&mut head, "bin/sh", busybox.as_slice()).expect("to memory");
            tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), name, &host).expect("to memory");
        });
        let create = Create {
            image: reference,
            ..sh(&format!("links-{nth}"), "echo x > /etc/made; echo x > /dev/made; echo end")
        };
        if let Answer::Container { id, .. } = containers.ask(Request::Create(Box::new(create))).remove(0) {
            match outcome(&containers, start(&id)) {
                Ok(()) => {}
                Err(reason) => assert!(reason.contains("cannot start container"), "{reason}"),
            }
            containers.ok(remove(&id));
        }
        assert_eq!(contents(&host), before, "/{name} is a link");
    }
    check_alive(&containers, "after");
}

/// Loads an image with `count` layers, each with one file, on top of one with busybox.
fn load_layers(containers: &Containers, count: usize) -> Result<(), String> {
    let busybox = fs::read("/bin/busybox").expect("Debian's package busybox-static");
    let mut tar = tar::Builder::new(Vec::new());
    let mut head = header(tar::EntryType::Regular, 0o755, busybox.len());
    tar.append_data(&mut head, "bin/sh", busybox.as_slice()).expect("to memory");
    let mut layers = vec![Layer::of_tar(tar.into_inner().expect("to memory"), Packing::Plain)];
    let small = |nth: usize| Layer::of(&[(&format!("layer-{nth}"), b"x" as &[u8])], Packing::Plain);
    layers.extend((1..count).map(small));
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let dir = containers.host.path(&format!("layout-{count}"));
    fs::create_dir(&dir).expect("made");
    write_layout(&dir, &[Image::of(&layers, arch)]);
    let load = Load {
        source: Container::OciLayout,
        reference: Some(format!("docker.io/library/layers:{count}")),
        ..Load::default()
    };
    let dir = File::open(dir).expect("opened");
    match containers.ask_with(Request::Load(load), &[dir.as_raw_fd()]).pop() {
        Some(Answer::Done(_)) => Ok(()),
        Some(Answer::Error(failure)) => Err(failure.message),
        other => panic!("{other:?}\n{}", containers.log()),
    }
}

#[test]
fn images_of_many_layers_run_or_say_why_not() {
    let containers = Containers::new();
    for count in [120, 300] {
        load_layers(&containers, count).expect("loaded");
        let name = format!("layers-{count}");
        // The shell of this image is busybox, and there are no other programs.
        let script = format!("test -e /layer-1 && test -e /layer-{} && exit 5", count - 1);
        let create = Create {
            image: format!("docker.io/library/layers:{count}"),
            entrypoint: Some(vec!["/bin/sh".to_owned()]),
            command: vec!["-c".to_owned(), script],
            ..sh(&name, "")
        };
        let id = containers.create(create);
        match outcome(&containers, start(&id)) {
            Ok(()) => {
                containers.await_summary(&id, "its end", |s| s.phase == Phase::Exited && s.exit_code == 5)
            }
            Err(reason) => assert!(count > 120 && reason.contains("300 layers"), "{reason}"),
        }
        containers.ok(remove(&id));
    }
    let reason = load_layers(&containers, 10_000).expect_err("far too many");
    assert!(reason.contains("layers"), "{reason}");
    check_alive(&containers, "after");
}

#[test]
fn control_characters_are_refused_or_escaped_everywhere() {
    let containers = Containers::new();
    let evil = "a\n{\"x\":1}\r\u{1b}[2J\u{7f}\0";
    let create = |change: fn(&mut Create, String)| {
        let mut create = sh("evil", "true");
        change(&mut create, evil.to_owned());
        create
    };
    let changes: [fn(&mut Create, String); 9] = [
        |create, evil| create.name = Some(evil),
        |create, evil| create.hostname = Some(evil),
        |create, evil| create.labels = vec![(evil.clone(), evil)],
        |create, evil| create.labels = vec![("key".into(), evil)],
        |create, evil| create.env = vec![format!("A={evil}")],
        |create, evil| create.user = Some(evil),
        |create, evil| create.workdir = Some(format!("/{evil}")),
        |create, evil| create.image = evil,
        |create, evil| {
            create.mounts =
                vec![Mount { source: "/tmp".into(), target: format!("/{evil}"), ..Mount::default() }]
        },
    ];
    for change in changes {
        let answers = containers.ask(Request::Create(Box::new(create(change))));
        let Some(Answer::Container { id, .. }) = answers.first() else {
            let Some(Answer::Error(failure)) = answers.last() else { panic!("{answers:?}") };
            assert!(!failure.message.contains(['\n', '\r', '\u{1b}', '\0']), "{failure:?}");
            continue;
        };
        let inspect = Request::InspectContainer { container: id.clone(), size: false };
        let Some(Answer::Json(json)) = containers.ok(inspect).into_iter().next() else { panic!("no JSON") };
        serde_json::from_str::<serde_json::Value>(&json).expect("good JSON");
        assert!(!json.contains(['\r', '\u{1b}', '\0']), "{json}");
        let _ = outcome(&containers, start(id));
        containers.ok(remove(id));
        // An event that is printed as one line of text contains no line break.
        for event in containers.events(id, "destroy") {
            assert!(!event.action.contains(char::is_control), "{event:?}");
        }
    }
    // A container may have any command line; it is escaped.
    let id = containers.create(Create {
        command: vec!["sh".into(), "-c".into(), "exit 3\n#\u{1b}[2J".into()],
        ..sh("words", "")
    });
    containers.start(&id);
    containers.await_summary(&id, "its end", |s| s.phase == Phase::Exited && s.exit_code == 3);
    check_alive(&containers, "after");
}

#[test]
fn an_environment_of_a_mebibyte_arrives_and_a_larger_one_fails() {
    let containers = Containers::new();
    // With name, equals sign and end, each variable has 64 KiB: together a mebibyte, by the kernel's way of counting.
    let variable = |nth: usize, end: &str| format!("BIG{nth:02}={}", "x".repeat((64 << 10) - 6 - end.len()));
    let script = "echo ${#BIG00} ${#BIG15}; while ! test -e /go; do sleep 0.05; done";
    let lines: String = (0..16).map(|nth| variable(nth, "\n") + "\n").collect();
    assert_eq!(lines.len(), 1 << 20);
    fs::write(containers.host.path("env"), lines).expect("written");
    let by_file = ["--env-file".to_owned(), "env".to_owned()].to_vec();
    let by_words = (0..16).flat_map(|nth| ["-e".to_owned(), variable(nth, "\0")]).collect();
    for (name, options) in [("by-file", by_file), ("by-words", by_words)] {
        let words = ["run", "-d", "--name", name].map(str::to_owned).to_vec();
        let command = ["box:1", "sh", "-c", script].map(str::to_owned).to_vec();
        let words = [words, options, command].concat();
        containers.stdout_of(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(containers.stdout_of(&["exec", name, "sh", "-c", "echo ${#BIG00}"]), "65529");
        assert!(containers.stdout_of(&["inspect", name]).len() > 1 << 20);
        containers.stdout_of(&["exec", name, "touch", "/go"]);
        assert_eq!(containers.stdout_of(&["wait", name]), "0");
        assert_eq!(containers.stdout_of(&["logs", name]), "65529 65529");
    }
    let files = ["A", "B", "C", "D", "E"].map(|name| format!("env{name}"));
    let mut words = vec!["run", "--rm"];
    for file in &files {
        let lines: String = (0..15).map(|nth| format!("{file}{}", variable(nth, "") + "\n")).collect();
        fs::write(containers.host.path(file), lines).expect("written");
        words.extend(["--env-file", file]);
    }
    let output = containers.sampan(&[&words[..], &["box:1", "true"]].concat());
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{why}");
    assert!(why.contains("at most 4194304"), "{why}");
    check_alive(&containers, "after");
}

/// A descriptor of an unusual kind.
fn odd(random: &mut Random, dir: &Path) -> OwnedFd {
    match random.below(6) {
        0 => File::create(dir.join("odd-file")).expect("made").into(),
        1 => File::open(dir).expect("opened").into(),
        2 => UnixStream::pair().expect("a pair").0.into(),
        3 => std::os::unix::net::UnixDatagram::unbound().expect("made").into(),
        4 => nix::unistd::pipe().expect("a pipe").0,
        _ => File::open("/dev/zero").expect("opened").into(),
    }
}

#[test]
fn clients_with_too_few_too_many_or_odd_descriptors_harm_nobody() {
    let containers = Containers::new();
    let engine = containers.engine_pid();
    let id = containers.create_sh("target", "exec sleep 1000");
    containers.start(&id);
    let before = leaks::descriptors(engine);
    let [shim] = containers.shims()[..] else { panic!("one shim") };
    // The shim replies after it has finished the start, so that descriptors which it opens late are counted too.
    containers.ok(Request::Top { container: id.clone(), columns: Vec::new() });
    let shim_before = leaks::descriptors(shim);
    let mut random = Random::new(0xfd);
    let all = Streams { stdin: true, stdout: true, stderr: true };
    for nth in 0..60 {
        let fds: Vec<OwnedFd> =
            (0..random.below(9)).map(|_| odd(&mut random, &containers.host.path("run"))).collect();
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let request = match random.below(3) {
            0 => Request::Attach { container: id.clone(), streams: all, size: (0, 0) },
            1 => Request::Start(Start { container: id.clone(), attach: Some(all), size: (0, 0) }),
            _ => {
                let command = vec!["true".to_owned()];
                Request::Exec(Box::new(Exec {
                    container: id.clone(),
                    command,
                    streams: all,
                    ..Exec::default()
                }))
            }
        };
        let socket = containers.send(request, &raw);
        drop(fds);
        // Half of the clients do not wait for a reply.
        if nth % 2 == 0 {
            let answers = answers(socket);
            assert!(matches!(answers.last(), Some(Answer::Done(_) | Answer::Error(_))), "{answers:?}");
        }
    }
    check_alive(&containers, "after");
    assert_eq!(containers.summary(&id).expect("there").phase, Phase::Running);
    let looks = || {
        format!(
            "{} and {} descriptors, {before} and {shim_before} before\n{:?}",
            leaks::descriptors(engine),
            leaks::descriptors(shim),
            kinds(shim)
        )
    };
    let is_well = || leaks::descriptors(engine) <= before && leaks::descriptors(shim) <= shim_before;
    wait_until("all descriptors to be closed", looks, is_well);
    containers.ok(remove(&id));
}

fn kinds(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string())).collect()
}

#[test]
fn garbage_on_a_control_socket_ends_that_client_alone() {
    let containers = Containers::new();
    let id = containers.create_sh("target", "exec sleep 1000");
    containers.start(&id);
    let mut random = Random::new(0x6a);
    for len in [1, 4, 5, 100, 9000, 100_000] {
        let (mut attached, theirs) = Attached::new();
        let fds: Vec<RawFd> = theirs.iter().map(AsRawFd::as_raw_fd).collect();
        let streams = Streams { stdin: true, stdout: true, stderr: true };
        let request = Request::Attach { container: id.clone(), streams, size: (0, 0) };
        let answers = containers.ask_with(request, &fds);
        assert!(matches!(answers.last(), Some(Answer::Done(_))), "{answers:?}");
        drop(theirs);
        // A write error is no failure: the shim may close before it has read everything.
        let _ = attached.control.write_all(&random.bytes(len));
        let _ = attached.control.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = attached.control.read_to_end(&mut rest);
    }
    assert_eq!(containers.summary(&id).expect("there").phase, Phase::Running);
    containers.ok(stop(&id));
    check_alive(&containers, "after");
}

#[test]
fn a_container_that_floods_its_client_can_be_stopped() {
    let containers = Containers::new();
    let id = containers.create(Create { log_driver: Some("none".to_owned()), ..sh("flood", "exec yes") });
    let attached = containers.attach_start(&id);
    let [shim] = containers.shims()[..] else { panic!("one shim: {:?}", containers.shims()) };
    check_alive(&containers, "meanwhile");
    assert!(leaks::pss(shim) < 8 << 10, "{} KiB", leaks::pss(shim));
    containers.ok(stop(&id));
    assert_eq!(containers.summary(&id).expect("there").phase, Phase::Exited);
    // The client does not even read now.
    containers.ok(remove(&id));
    drop(attached);
    containers.await_no_shim();
}

#[test]
fn a_fork_bomb_is_held_by_its_limit_and_goes_with_its_container() {
    let containers = Containers::new();
    let create = Create {
        pids: Some(40),
        ..sh("bomb", "bomb() { bomb & bomb & wait; }; bomb; while :; do sleep 1; done")
    };
    let id = containers.create(create);
    containers.start(&id);
    check_alive(&containers, "meanwhile");
    containers.ok(stop(&id));
    containers.await_summary(&id, "its end", |s| s.phase == Phase::Exited);
    containers.ok(remove(&id));
    assert_eq!(leaks::left_running(&containers, &[id]), [""; 0]);
}

#[test]
fn a_container_that_closes_its_streams_lives_on() {
    let containers = Containers::new();
    let script =
        "exec 0<&- 1>&- 2>&-; mkdir /tmp/closed; while test ! -e /tmp/go; do sleep 0.1; done; exit 6";
    let id = containers.create_sh("closed", script);
    let mut attached = containers.attach_start(&id);
    attached.stdin = None;
    let root = format!("/proc/{}/root/tmp", containers.summary(&id).expect("there").pid);
    wait_until("the streams to be closed", || containers.log(), || Path::new(&root).join("closed").exists());
    assert_eq!(containers.summary(&id).expect("there").phase, Phase::Running);
    fs::write(Path::new(&root).join("go"), "").expect("written into the container");
    let (told, out, err) = attached.to_end(b"");
    assert_eq!((told, out.as_str(), err.as_str()), (AttachMessage::Exited(6), "", ""));
}

#[test]
fn a_process_1_that_ignores_sigterm_is_killed_after_the_timeout() {
    let containers = Containers::new();
    let id = containers.create_sh("deaf", "trap '' TERM; echo ready; while :; do sleep 1; done");
    let mut attached = containers.attach_start(&id);
    let mut ready = [0; 6];
    attached.stdout.read_exact(&mut ready).expect("ready");
    let begun = std::time::Instant::now();
    containers.ok(Request::Stop(Stop { container: id.clone(), timeout: Some(1), signal: None }));
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1));
    assert_eq!(containers.summary(&id).expect("there").exit_code, 137);
}

#[test]
fn a_container_with_a_bottomless_tree_can_be_removed() {
    let containers = Containers::new();
    let script = "i=0; while test $i -lt 3000; do mkdir d && cd d || exit 1; i=$((i+1)); done; exit 0";
    for auto_remove in [true, false] {
        let create = Create { auto_remove, ..sh("deep", script) };
        let id = containers.create(create);
        containers.start(&id);
        if !auto_remove {
            containers.await_summary(&id, "its end", |s| s.phase == Phase::Exited);
            containers.ok(remove(&id));
        }
        containers.await_gone(&id);
        let left = leaks::left_of(&containers, std::slice::from_ref(&id));
        wait_until(
            "nothing to be left",
            || format!("{left:?}"),
            || leaks::left_of(&containers, std::slice::from_ref(&id)).is_empty(),
        );
    }
}
