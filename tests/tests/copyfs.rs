//! Containers whose root file system is a copy of the layers: it has the content that overlayfs would show, and belongs
//! to one container. If overlayfs is refused, the engine reports that once.

use nix::mount::{MsFlags, mount};
use sampan_ipc::container::{AttachMessage, Create, Listing, Mount, MountKind};
use sampan_ipc::engine::{Answer, Info, Request};
use sampan_tests::containers::{Containers, sh};
use sampan_tests::registry::{Image, Layer, Packing, write_layout};
use std::fs;
use std::path::Path;
use std::process::Command;
use tar::{Builder, EntryType, Header};

/// `security.capability` of a file with cap_net_raw, as vfs_cap_data version 2.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn add(tar: &mut Builder<Vec<u8>>, path: &str, kind: EntryType, mode: u32, link: &str, content: &str) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(1_500_000_000);
    header.set_size(content.len() as u64);
    header.set_device_major(1).expect("small");
    header.set_device_minor(3).expect("small");
    match kind {
        EntryType::Symlink | EntryType::Link => tar.append_link(&mut header, path, link),
        _ => tar.append_data(&mut header, path, content.as_bytes()),
    }
    .expect("to memory");
}

/// A busybox layer, and two layers that hide, replace and link.
fn layers(containers: &Containers) -> Vec<Layer> {
    let (dir, file, link) = (EntryType::Directory, EntryType::Regular, EntryType::Link);
    let mut lower = Builder::new(Vec::new());
    add(&mut lower, "./", dir, 0o711, "", "");
    for path in ["etc/gone", "etc/changed", "opaque/old", "srv/kept"] {
        add(&mut lower, path, file, 0o640, "", path);
    }
    add(&mut lower, "srv/su", file, 0o4755, "", "setuid");
    add(&mut lower, "srv/twin", link, 0o644, "srv/su", "");
    add(&mut lower, "srv/null", EntryType::Char, 0o666, "", "");
    add(&mut lower, "srv/fifo", EntryType::Fifo, 0o620, "", "");
    add(&mut lower, "srv/away", EntryType::Symlink, 0o777, "/etc/passwd", "");
    let capability = [("SCHILY.xattr.security.capability", CAPABILITY), ("SCHILY.xattr.user.note", b"text")];
    lower.append_pax_extensions(capability).expect("to memory");
    add(&mut lower, "srv/ping", file, 0o755, "", "ping");
    let mut upper = Builder::new(Vec::new());
    add(&mut upper, "etc/.wh.gone", file, 0o644, "", "");
    add(&mut upper, "etc/changed", file, 0o600, "", "changed");
    add(&mut upper, "opaque/.wh..wh..opq", file, 0o644, "", "");
    add(&mut upper, "opaque/new", file, 0o644, "", "new");
    add(&mut upper, "srv/.wh.twin", file, 0o644, "", "");
    add(&mut upper, "srv/three", file, 0o644, "", "three");
    add(&mut upper, "srv/four", link, 0o644, "srv/three", "");
    let boxed = fs::read(containers.host.path("box.tar")).expect("made with the installation");
    let tars = [boxed, lower.into_inner().expect("memory"), upper.into_inner().expect("memory")];
    tars.into_iter().map(|tar| Layer::of_tar(tar, Packing::Gzip)).collect()
}

/// Pulls the image; returns its ID.
fn pull(containers: &Containers) -> String {
    let layout = containers.host.path("layout");
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    write_layout(&layout, &[Image::of(&layers(containers), architecture)]);
    let mut command = containers.host.command("sampan");
    command.args(["pull", "-q", &format!("oci:{}:t", layout.display())]);
    assert!(command.output().expect("built").status.success(), "{}", containers.log());
    let Some(Answer::Images(images)) = containers.ok(Request::Images).into_iter().next() else {
        panic!("images")
    };
    images.into_iter().find(|image| image.layers == 3).expect("pulled").id
}

fn info(containers: &Containers) -> Info {
    match containers.ok(Request::Info).remove(0) {
        Answer::Info(info) => *info,
        other => panic!("{other:?}"),
    }
}

fn warnings(containers: &Containers, create: Create) -> Vec<String> {
    match containers.ok(Request::Create(Box::new(create))).remove(0) {
        Answer::Container { warnings, .. } => warnings,
        other => panic!("{other:?}"),
    }
}

/// What a container of the image sees of its root file system, as printed by a script inside.
fn seen_inside(containers: &Containers, image: &str) -> String {
    let id = containers.create(Create { image: image.to_owned(), ..sh("seen", "sleep 1000") });
    containers.start(&id);
    let pid = containers.summary("seen").expect("runs").pid;
    let find = "find . -xdev -path ./dev -prune -o -path ./etc/hosts -prune -o -path ./etc/hostname -prune -o \
                -path ./etc/resolv.conf -prune -o -path ./etc -printf '%p %y %m %U:%G\\n' -o -type d -name etc -prune -o \
                -type d -printf '%p %y %m %U:%G\\n' -o -printf '%p %y %m %U:%G %s %T@ %l\\n' | sort; \
                getfattr -R -P -h -d -m '^(user|security.capability)' -e hex . ; cat etc/changed opaque/new; stat -c %h srv/four";
    let out = Command::new("sh")
        .args(["-c", find])
        .current_dir(format!("/proc/{pid}/root"))
        .output()
        .expect("find and getfattr: see tests/install-deps.sh");
    containers.ok(Request::RemoveContainer { container: "seen".to_owned(), force: true });
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    text
}

#[test]
fn a_copy_shows_inside_what_overlayfs_shows() {
    let (overlay, copy) =
        (Containers::configured("rootfs = \"overlay\""), Containers::configured("rootfs = \"copy\""));
    assert_eq!(
        (info(&overlay).rootfs.as_str(), info(&copy).rootfs.split(':').next()),
        ("overlay", Some("copy"))
    );
    let seen = [&overlay, &copy].map(|one| seen_inside(one, &pull(one)));
    for what in [
        "./srv/su f 4755 7:8",
        "./srv/null c 666",
        "user.note",
        "security.capability",
        "./srv/four f 644 7:8",
    ] {
        assert!(seen[0].contains(what), "{what} in\n{}", seen[0]);
    }
    for what in ["gone", "opaque/old", "srv/twin"] {
        assert!(!seen[0].contains(what), "{what} in\n{}", seen[0]);
    }
    let (left, right): (Vec<&str>, Vec<&str>) = (seen[0].lines().collect(), seen[1].lines().collect());
    let differ: Vec<_> = left.iter().zip(&right).filter(|(one, other)| one != other).collect();
    assert!(differ.is_empty() && left.len() == right.len(), "{differ:#?}");
}

#[test]
fn a_copy_belongs_to_its_container_and_is_removed_with_it() {
    let mut containers = Containers::configured("rootfs = \"copy\"");
    let image = pull(&containers);
    let script = "test ! -e /etc/gone && rm /etc/changed && mknod /tmp/node c 0 0; \
                  echo 'bob:x:77:78::/:/bin/sh' >>/etc/passwd; dd if=/dev/zero of=/big bs=1k count=300 2>/dev/null; \
                  mkdir -p /deep && cd /deep && for n in $(seq 300); do mkdir d && cd d; done; echo written";
    let (told, out, err) = containers.run(Create { image: image.clone(), ..sh("writes", script) }, b"");
    assert_eq!((told, out.as_str()), (AttachMessage::Exited(0), "written\n"), "{err}");
    containers.kill_engine();
    containers.start_engine();
    // Files that a container wrote exist in its next run, and a user in its own /etc/passwd is found.
    containers.await_summary("writes", "its end", |s| s.exit_code == 0 && s.pid == 0);
    let listing = Listing { all: true, size: true, ..Listing::default() };
    let Some(Answer::Containers(all)) = containers.ok(Request::Containers(listing)).into_iter().next() else {
        panic!("containers")
    };
    let size = all.first().and_then(|summary| summary.size).expect("asked for");
    assert!((300 << 10..3 << 20).contains(&size), "{size}");
    let other = Create { image, user: Some("bob".to_owned()), ..sh("other", "true") };
    assert!(containers.fails(Request::Create(Box::new(other.clone()))).message.contains("bob"));
    let id = containers.summary("writes").expect("kept").id;
    let passwd = containers.host.path("data/containers").join(&id).join("rootfs/etc/passwd");
    assert!(fs::read_to_string(passwd).expect("read").contains("bob"));
    assert!(!containers.host.path("data/containers").join(&id).join("upper").exists());
    let (told, out, _) = containers.run(Create { user: None, name: Some("fresh".to_owned()), ..other }, b"");
    assert_eq!((told, out.as_str()), (AttachMessage::Exited(0), ""));
    for name in ["writes", "fresh"] {
        containers.ok(Request::RemoveContainer { container: name.to_owned(), force: true });
    }
    let left = fs::read_dir(containers.host.path("data/containers")).expect("listed").count();
    assert_eq!(left, 0);
    containers.await_no_shim();
}

#[test]
fn refused_overlayfs_is_reported_once_and_containers_are_copies() {
    let mut containers = Containers::new();
    containers.kill_engine();
    // overlayfs refuses an upper directory that is itself on overlayfs.
    let base = containers.host.mount_tmpfs("base", 64 << 20);
    for name in ["lower", "upper", "work"] {
        fs::create_dir(base.join(name)).expect("made");
    }
    let over = containers.host.path("over");
    fs::create_dir(&over).expect("made");
    let _mounted = Mounted::overlay(&base, &over);
    let table = format!("[engine]\ncontainers = \"{}\"\n", over.join("containers").display());
    fs::write(containers.host.path("sampan.toml"), table).expect("written");
    containers.start_engine();
    let said = info(&containers).rootfs;
    assert!(said.starts_with("copy: ") && said.contains("overlayfs"), "{said}");
    let first = warnings(&containers, sh("first", "echo copied"));
    assert!(first.iter().any(|warning| warning.contains("copy of its image")), "{first:?}");
    assert_eq!(warnings(&containers, sh("second", "true")), Vec::<String>::new());
    assert_eq!(containers.log().matches("overlayfs does not work").count(), 1);
    let id = containers.summary("first").expect("made").id;
    let (told, out, err) = containers.attach_start(&id).to_end(b"");
    assert_eq!((told, out.as_str()), (AttachMessage::Exited(0), "copied\n"), "{err}");
    for name in ["first", "second"] {
        containers.ok(Request::RemoveContainer { container: name.to_owned(), force: true });
    }
    containers.await_no_shim();
    // The engine's trial of overlayfs leaves no files.
    assert_eq!(fs::read_dir(over.join("containers")).expect("listed").count(), 0);
    assert!(!fs::read_to_string("/proc/self/mounts").expect("mounted").contains("containers/.trial"));
}

#[test]
fn a_disk_too_small_for_a_copy_is_an_error_and_leaves_nothing() {
    let mut containers = Containers::new();
    containers.kill_engine();
    let small = containers.host.mount_tmpfs("small", 256 << 10);
    let table = format!("[engine]\nrootfs = \"copy\"\ncontainers = \"{}\"\n", small.display());
    fs::write(containers.host.path("sampan.toml"), table).expect("written");
    containers.start_engine();
    let failure = containers.fails(Request::Create(Box::new(sh("large", "true"))));
    assert!(failure.message.contains("bin/busybox") && failure.message.contains("No space"), "{failure:?}");
    assert_eq!(fs::read_dir(&small).expect("listed").count(), 0);
    let mount = Mount { kind: MountKind::Tmpfs, target: "/tmp".to_owned(), ..Mount::default() };
    let again = Create { mounts: vec![mount], ..sh("large", "true") };
    assert!(
        containers.fails(Request::Create(Box::new(again))).message.contains("No space"),
        "the name is free"
    );
}

/// A mounted overlayfs; dropping the value unmounts it.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn overlay(base: &Path, target: &Path) -> Self {
        let part = |name: &str| format!("{name}dir={}", base.join(name).display());
        let options = ["lower", "upper", "work"].map(part).join(",");
        let flags = MsFlags::empty();
        mount(Some("overlay"), target, Some("overlay"), flags, Some(options.as_str()))
            .expect("root may mount");
        Mounted(target.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
