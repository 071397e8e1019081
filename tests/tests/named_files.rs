//! Files that a user names: an existing file keeps its links, owner and mode, and a file that is not a regular file is
//! never replaced, waited for, or read without end.

use nix::sys::stat::{Mode, SFlag, mknod};
use sampan_ipc::container::Create;
use sampan_ipc::engine::Request;
use sampan_tests::containers::Containers;
use sampan_tests::host::{Host, binary, need_root, wait_until};
use serde_json::json;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command until it ends by itself.
fn ends(command: Command) -> (ExitStatus, String) {
    end(begin(command))
}

/// A running command; dropping it kills it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn begin(mut command: Command) -> Running {
    Running(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("built"))
}

/// Waits until a command has ended by itself; returns its status and its standard error.
fn end(mut begun: Running) -> (ExitStatus, String) {
    let (child, mut status) = (&mut begun.0, None);
    wait_until("the command to end", String::new, || {
        status = child.try_wait().expect("ours");
        status.is_some()
    });
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    (status.expect("it has ended"), said)
}

/// A directory with one file of each type that is not a regular file.
struct Others {
    paths: Vec<PathBuf>,
    before: Vec<(u64, u32, u64)>,
    _socket: UnixListener,
}

impl Others {
    /// The devices are on a file system of their own, so that the test cannot change the host's.
    fn new(host: &mut Host) -> Self {
        let dir = host.mount_tmpfs("others", 1 << 20);
        let all = Mode::from_bits_truncate(0o666);
        for (name, minor) in [("null", 3), ("zero", 5)] {
            let device = nix::sys::stat::makedev(1, minor);
            mknod(&dir.join(name), SFlag::S_IFCHR, all, device).expect("root may");
        }
        nix::unistd::mkfifo(&dir.join("fifo"), all).expect("made");
        fs::create_dir(dir.join("directory")).expect("made");
        symlink("null", dir.join("link")).expect("made");
        let socket = UnixListener::bind(dir.join("socket")).expect("bound");
        let names = ["null", "zero", "fifo", "directory", "link", "socket"];
        let paths: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).collect();
        let before = paths.iter().map(|path| identity(path)).collect();
        Others { paths, before, _socket: socket }
    }

    /// Asserts that no file was replaced, and that no file was left next to them.
    fn assert_untouched(&self) {
        for (path, before) in self.paths.iter().zip(&self.before) {
            assert_eq!(identity(path), *before, "{}", path.display());
        }
        let dir = self.paths[0].parent().expect("a directory");
        assert_eq!(fs::read_dir(dir).expect("listed").count(), self.paths.len());
    }
}

fn identity(path: &Path) -> (u64, u32, u64) {
    let meta = fs::symlink_metadata(path).expect("there");
    (meta.ino(), meta.mode(), meta.rdev())
}

fn text(path: &Path) -> String {
    path.to_str().expect("text").to_owned()
}

#[test]
fn ids_are_written_through_links_and_only_to_regular_files() {
    let mut containers = Containers::new();
    let others = Others::new(&mut containers.host);
    let at = |name: &str| containers.host.path(name);
    for other in &others.paths {
        for option in ["--cidfile", "--pidfile"] {
            let args = ["run", "-d", option, &text(other), "box:1", "true"];
            let (status, said) = ends({
                let mut command = containers.host.command("sampan");
                command.args(args);
                command
            });
            assert_eq!(status.code(), Some(125), "{args:?}: {said}");
            assert!(said.contains(option), "{said}");
        }
        // The shim checks the path too, since the engine has other clients than this command line.
        let pidfile = Some(other.clone());
        let name = Some(format!("by-{}", other.file_name().expect("a name").to_string_lossy()));
        let create = Create {
            image: "box:1".into(),
            command: vec!["true".into()],
            pidfile,
            name,
            ..Create::default()
        };
        let id = containers.create(create);
        let failure = containers.fails(Request::Start(sampan_ipc::engine::Start {
            container: id.clone(),
            ..sampan_ipc::engine::Start::default()
        }));
        assert!(failure.message.contains("cannot write the pid file"), "{}", failure.message);
        containers.stdout_of(&["rm", &id]);
    }
    others.assert_untouched();
    let (status, said) = ends({
        let mut command = containers.host.command("sampan");
        command.args(["create", "--cidfile", &text(&at("nowhere/cid")), "box:1", "true"]);
        command
    });
    assert!(status.code() == Some(125) && said.contains("--cidfile"), "{said}");
    assert_eq!(containers.stdout_of(&["ps", "--all", "--quiet"]), "", "nothing is half-done");

    // Symbolic links are followed, and other files in these directories are left alone.
    let (pid, real_pid, cid, real_cid) = (at("pid"), at("real.pid"), at("cid"), at("real.cid"));
    symlink("real.pid", &pid).expect("made");
    symlink("real.cid", &cid).expect("made");
    fs::write(&real_pid, "before, and longer than a process id is\n").expect("written");
    chown(&real_pid, Some(12), Some(34)).expect("root may");
    fs::set_permissions(&real_pid, Permissions::from_mode(0o640)).expect("set");
    for neighbour in ["pid.tmp", "real.pid.tmp"] {
        fs::write(at(neighbour), "kept").expect("written");
    }
    let before = fs::read_dir(at("")).expect("listed").count();
    let options = ["run", "-d", "--cidfile", &text(&cid), "--pidfile", &text(&pid), "box:1", "sleep", "1000"];
    let id = containers.stdout_of(&options);
    assert_eq!(fs::read_to_string(&real_cid).expect("written"), id);
    assert!(fs::symlink_metadata(&cid).expect("there").is_symlink());
    assert!(fs::symlink_metadata(&pid).expect("there").is_symlink());
    let meta = fs::metadata(&real_pid).expect("there");
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (12, 34, 0o640));
    let process = containers.summary(&id).expect("it runs").pid;
    assert_eq!(fs::read_to_string(&real_pid).expect("written"), format!("{process}\n"));
    assert_eq!(fs::read(at("pid.tmp")).expect("there"), b"kept");
    assert_eq!(fs::read(at("real.pid.tmp")).expect("there"), b"kept");
    assert_eq!(fs::read_dir(at("")).expect("listed").count(), before + 1, "no draft stays");
    // The ID file exists already through the link.
    let again = containers.sampan(&["create", "--cidfile", &text(&cid), "box:1", "true"]);
    assert_eq!(again.status.code(), Some(125));
    assert!(stderr(&again).contains("the file exists already"), "{}", stderr(&again));
    assert_eq!(fs::read_to_string(&real_cid).expect("written"), id);
}

/// A host with an engine and one image, `demo:1`.
struct Saver {
    host: Host,
    engine: Child,
}

impl Saver {
    fn new() -> Self {
        need_root();
        let host = Host::new();
        let log = File::create(host.path("engine.log")).expect("a log");
        let mut command = host.command("sampan-engine");
        let engine = command.stdout(Stdio::null()).stderr(log).spawn().expect("built");
        let saver = Saver { host, engine };
        wait_until("the engine", String::new, || saver.sampan(&["info"]).status.success());
        let mut builder = tar::Builder::new(File::create(saver.host.path("layer.tar")).expect("a file"));
        let mut header = tar::Header::new_gnu();
        header.set_size(100_000);
        header.set_mode(0o644);
        builder.append_data(&mut header, "file", &vec![7; 100_000][..]).expect("written");
        builder.finish().expect("written");
        let output = saver.sampan(&["import", "demo:1", &text(&saver.host.path("layer.tar"))]);
        assert!(output.status.success(), "{}", stderr(&output));
        saver
    }

    fn sampan(&self, args: &[&str]) -> Output {
        self.host.command("sampan").args(args).output().expect("built")
    }

    fn save(&self, to: &Path) -> Output {
        self.sampan(&["save", "--quiet", "--output", &text(to), "demo:1"])
    }

    /// Prepares a script of bash, which has process substitution, with `sampan` in its `PATH`.
    fn bash(&self, script: &str) -> Output {
        let mut command = self.host.command_of("bash".as_ref());
        let dir = binary("sampan").parent().expect("a directory").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        command.args(["-euc", script]).env("PATH", format!("{dir}:{path}")).current_dir(self.host.path(""));
        command.output().expect("bash")
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        let _ = self.engine.kill();
        let _ = self.engine.wait();
    }
}

fn is_archive(bytes: &[u8]) -> bool {
    let mut archive = tar::Archive::new(bytes);
    let names: Vec<String> = archive
        .entries()
        .into_iter()
        .flatten()
        .map_while(Result::ok)
        .map(|entry| entry.path().expect("a path").display().to_string())
        .collect();
    names.iter().any(|name| name == "manifest.json") && bytes.len().is_multiple_of(512)
}

#[test]
fn an_archive_replaces_a_links_target_and_keeps_owner_and_mode() {
    let saver = Saver::new();
    let at = |name: &str| saver.host.path(name);
    fs::create_dir(at("out")).expect("made");
    let (link, real, lost) = (at("out/link.tar"), at("out/real.tar"), at("out/lost.tar"));
    symlink("real.tar", &link).expect("made");
    symlink("new.tar", &lost).expect("made");
    fs::write(&real, "before").expect("written");
    chown(&real, Some(12), Some(34)).expect("root may");
    fs::set_permissions(&real, Permissions::from_mode(0o604)).expect("set");
    // A failed command leaves every file unchanged.
    let output = saver.sampan(&["save", "--output", &text(&link), "demo:1", "absent:1"]);
    assert!(!output.status.success());
    assert_eq!(fs::read(&real).expect("there"), b"before");
    for path in [&link, &lost] {
        let output = saver.save(path);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(fs::symlink_metadata(path).expect("there").is_symlink());
        assert!(is_archive(&fs::read(path).expect("there")));
    }
    let meta = fs::metadata(&real).expect("there");
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (12, 34, 0o604));
    assert_eq!(fs::read_dir(at("out")).expect("listed").count(), 4, "no draft stays");
}

#[test]
fn an_archive_is_written_to_devices_and_pipes_in_place() {
    let mut saver = Saver::new();
    let others = Others::new(&mut saver.host);
    for other in &others.paths {
        let mut command = saver.host.command("sampan");
        command.args(["save", "--quiet", "--output", &text(other), "demo:1"]);
        let (status, said) = ends(command);
        let kind = fs::metadata(other).expect("there").file_type();
        let is_fine = kind.is_char_device();
        assert_eq!(status.success(), is_fine, "{}: {said}", other.display());
        assert!(!kind.is_fifo() || said.contains("it is a FIFO, and nobody reads it"), "{said}");
        assert!(!kind.is_socket() || said.contains("it is a socket"), "{said}");
    }
    others.assert_untouched();
    let script = "
        mkfifo pipe; cat pipe >from-fifo & sampan save -q -o pipe demo:1; wait $!
        sampan save -o >(cat >from-substitution) demo:1 >/dev/null
        sampan save -o /dev/stdout demo:1 | cat >from-stdout
        sampan save -o /dev/fd/1 demo:1 >from-descriptor
        { echo head; sampan save -o /dev/stdout demo:1; echo tail; } >between
        sampan push demo:1 docker-archive:/dev/stdout:demo:1 | cat >from-push
        until test -s from-substitution && tail -c 512 from-substitution | cmp -s -n 512 - /dev/zero; do :; done";
    let output = saver.bash(script);
    assert!(output.status.success(), "{}", stderr(&output));
    for name in ["from-fifo", "from-substitution", "from-stdout", "from-descriptor", "from-push"] {
        assert!(is_archive(&fs::read(saver.host.path(name)).expect("there")), "{name}");
    }
    let between = fs::read(saver.host.path("between")).expect("there");
    let archive = between.strip_prefix(b"head\n").and_then(|rest| rest.strip_suffix(b"tail\n"));
    assert!(archive.is_some_and(is_archive), "what was written before and after is there");
}

#[test]
fn a_layout_with_irregular_files_is_refused_and_not_changed() {
    let saver = Saver::new();
    let at = |name: &str| saver.host.path(name);
    let target = format!("oci:{}:x", at("layout").display());
    assert!(saver.sampan(&["push", "demo:1", &target]).status.success());
    let index = at("layout/index.json");
    fs::set_permissions(&index, Permissions::from_mode(0o640)).expect("set");
    let again = format!("oci:{}:y", at("layout").display());
    assert!(saver.sampan(&["push", "demo:1", &again]).status.success());
    assert_eq!(fs::metadata(&index).expect("there").mode() & 0o7777, 0o640);
    fs::rename(&index, at("layout/kept.json")).expect("renamed");
    for make in ["symlink", "fifo", "directory"] {
        match make {
            "symlink" => symlink("kept.json", &index).expect("made"),
            "fifo" => nix::unistd::mkfifo(&index, Mode::S_IRWXU).expect("made"),
            _ => fs::create_dir(&index).expect("made"),
        }
        let before = identity(&index);
        let mut command = saver.host.command("sampan");
        command.args(["push", "demo:1", &format!("oci:{}:z", at("layout").display())]);
        let (status, said) = ends(command);
        assert!(
            !status.success() && said.contains("index.json exists and is no regular file"),
            "{make}: {said}"
        );
        assert_eq!(identity(&index), before, "{make}");
        let removed = if make == "directory" { fs::remove_dir(&index) } else { fs::remove_file(&index) };
        removed.expect("removed");
    }
    let kept = fs::read_to_string(at("layout/kept.json")).expect("there");
    assert!(kept.contains("\"x\"") && kept.contains("\"y\"") && !kept.contains("\"z\""), "{kept}");
}

#[test]
fn credentials_are_changed_through_links_and_only_in_files() {
    let mut saver = Saver::new();
    let others = Others::new(&mut saver.host);
    let (link, real) = (saver.host.path("auth.json"), saver.host.path("real.json"));
    symlink("real.json", &link).expect("made");
    let entry = json!({"auth": "YW5uOmh1bnRlcjI="});
    let document = json!({"auths": {"r.example": entry, "other.example": entry}}).to_string();
    fs::write(&real, &document).expect("written");
    chown(&real, Some(12), Some(34)).expect("root may");
    fs::set_permissions(&real, Permissions::from_mode(0o640)).expect("set");
    let output = saver.sampan(&["logout", "--authfile", &text(&link), "r.example"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    let meta = fs::metadata(&real).expect("there");
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (12, 34, 0o640));
    let now = fs::read_to_string(&real).expect("there");
    assert!(!now.contains("\"r.example\"") && now.contains("other.example"), "{now}");
    // A file of 5 MB is not read either.
    let large = saver.host.path("large.json");
    fs::write(&large, format!("{{\"x\":\"{}\"}}", "x".repeat(5_000_000))).expect("written");
    for path in others.paths.iter().chain([&large]) {
        for args in [
            &["logout", "--authfile", &text(path), "r.example"][..],
            &["pull", "--authfile", &text(path), "r.example/a:1"],
            &["login", "--get-login", "--authfile", &text(path), "r.example"],
        ] {
            let mut command = saver.host.command("sampan");
            command.args(args);
            let (status, said) = ends(command);
            let says = if path == &large { "it is longer than" } else { "it is no regular file" };
            assert!(!status.success() && said.contains(says), "{args:?}: {said}");
        }
    }
    others.assert_untouched();
}

#[test]
fn files_that_are_read_are_bounded_and_a_fifo_does_not_hang() {
    let mut saver = Saver::new();
    let others = Others::new(&mut saver.host);
    let [_, zero, fifo, directory, _, _] = others.paths.as_slice() else { panic!("six") };
    let (zero, fifo, directory) = (text(zero), text(fifo), text(directory));
    let (layout, archive) = (format!("oci:{fifo}"), format!("docker-archive:{fifo}"));
    let mut cases: Vec<(&str, Vec<&str>, &str)> = vec![
        ("sampan", vec!["pull", &layout], "cannot open layout"),
        ("sampan", vec!["pull", &archive], "nobody writes into it"),
        ("sampan", vec!["save", "--format", "oci-dir", "--output", &fifo, "demo:1"], "ot a directory"),
    ];
    let endless = "it has more than 1048576 bytes";
    for (path, says) in [(&fifo, "nobody writes into it"), (&directory, "s a directory"), (&zero, endless)] {
        cases.extend([
            ("sampan-engine", vec!["--config", path], says),
            ("sampan-monitord", vec!["--config", path], says),
            ("sampan", vec!["create", "--env-file", path, "demo:1", "true"], says),
            ("sampan", vec!["create", "--label-file", path, "demo:1", "true"], says),
        ]);
        if *path != zero {
            let archives = [vec!["load", "--input", path], vec!["import", "x:1", path]];
            cases.extend(archives.map(|args| ("sampan", args, says)));
        }
    }
    // All run at once, since each waits some seconds for a process to open the FIFO.
    let begun: Vec<Running> = cases
        .iter()
        .map(|(program, args, _)| {
            let mut command = saver.host.command(program);
            command.args(args);
            begin(command)
        })
        .collect();
    for ((program, args, says), child) in cases.iter().zip(begun) {
        let (status, said) = end(child);
        assert!(!status.success() && said.contains(says), "{program} {args:?}: {said}");
    }
    others.assert_untouched();
    // A pipe with a writer is as good as a regular file.
    let output = saver.bash(
        "sampan save demo:1 >archive; mkfifo full; cat archive >full & sampan load -i full; wait $!
         sampan load -i <(cat archive); sampan import piped:1 <(cat layer.tar)",
    );
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_socket_takes_no_place_of_a_file() {
    let host = Host::new();
    fs::create_dir(host.path("run")).expect("made");
    let file = host.path("run/events.sock");
    fs::write(&file, "kept").expect("written");
    let (status, said) = ends(host.command("sampan-monitord"));
    assert!(!status.success() && said.contains("the path exists and is not a socket"), "{said}");
    assert_eq!(fs::read(&file).expect("there"), b"kept");
}
