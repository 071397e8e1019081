//! An engine that an ordinary user runs: owners are in a user namespace, or recorded next to the files.
//!
//! The user is `nobody`, which every host has. A mount namespace of the engine has an /etc/subuid of the test.

use sampan_ipc::engine::{Answer, Pull, Request};
use sampan_oci::digest::Digest;
use sampan_tests::engine::Engine;
use sampan_tests::host::{binary, need_root};
use sampan_tests::registry::{Image, Layer, Packing, Reply, ScriptedRegistry};
use std::fs::{self, Metadata, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use tar::{Builder, EntryType, Header};

/// User and group `nobody`.
const NOBODY: u32 = 65_534;
/// First subordinate ID; it is ID 1 inside the namespace.
const FIRST: u32 = 300_000;

/// Starts an engine as `nobody`, with `ids` subordinate IDs.
fn start(ids: u32, table: &str) -> Engine {
    need_root();
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("ours");
    let line = if ids > 0 { format!("nobody:{FIRST}:{ids}\n") } else { String::new() };
    fs::write(dir.path().join("subid"), line).expect("written");
    fs::write(dir.path().join("sampan.toml"), format!("[engine]\n{table}\n")).expect("written");
    // The build's directory may be closed to other users.
    fs::copy(binary("sampan-engine"), dir.path().join("engine")).expect("copied");
    chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("root gives it away");
    let mut command = as_nobody(&dir.path().join("engine"), &dir.path().join("subid"));
    Engine::start_by(dir, &mut command)
}

fn as_nobody(program: &Path, subid: &Path) -> Command {
    for file in ["/etc/subuid", "/etc/subgid"] {
        assert!(Path::new(file).exists(), "{file} is missing: make an empty one");
    }
    let script = "mount --bind \"$0\" /etc/subuid && mount --bind \"$0\" /etc/subgid && \
                  exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(subid).arg(program);
    command
}

/// Kills the engine, and starts another one on the same store.
fn restarted(mut engine: Engine) -> Engine {
    engine.child.kill().expect("ours");
    engine.child.wait().expect("ours");
    let dir = std::mem::replace(&mut engine.dir, tempfile::tempdir().expect("a directory"));
    drop(engine);
    let mut command = as_nobody(&dir.path().join("engine"), &dir.path().join("subid"));
    Engine::start_by(dir, &mut command)
}

/// An entry of a layer: type, path, mode, owner and group.
struct Entry(EntryType, &'static str, u32, (u64, u64));

fn layer(entries: &[Entry]) -> Layer {
    let mut builder = Builder::new(Vec::new());
    for Entry(kind, name, mode, (uid, gid)) in entries {
        let mut header = Header::new_gnu();
        header.set_path(name).expect("short");
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_uid(*uid);
        header.set_gid(*gid);
        header.set_mtime(1_600_000_000);
        let content: &[u8] = if *kind == EntryType::Regular { b"content" } else { b"" };
        header.set_size(content.len() as u64);
        match kind {
            EntryType::Link => header.set_link_name("bin/tool").expect("short"),
            EntryType::Symlink => header.set_link_name("/anywhere").expect("short"),
            EntryType::Char => {
                header.set_device_major(1).expect("gnu");
                header.set_device_minor(3).expect("gnu");
            }
            _ => {}
        }
        header.set_cksum();
        builder.append(&header, content).expect("to memory");
    }
    Layer::of_tar(builder.into_inner().expect("to memory"), Packing::Gzip)
}

/// A layer with owners, setuid files, links, a FIFO, a device, whiteouts, and directories that are hard to remove.
fn sample() -> Layer {
    use EntryType::{Char, Directory, Fifo, Link, Regular, Symlink};
    layer(&[
        Entry(Directory, "./", 0o755, (0, 0)),
        Entry(Directory, "bin/", 0o755, (0, 0)),
        Entry(Regular, "bin/tool", 0o4755, (0, 0)),
        Entry(Link, "bin/again", 0o4755, (0, 0)),
        Entry(Directory, "home/", 0o750, (1000, 1001)),
        Entry(Regular, "home/file", 0o640, (1000, 1001)),
        Entry(Regular, "home/setgid", 0o2755, (5, 6)),
        Entry(Symlink, "home/link", 0o777, (7, 7)),
        Entry(Fifo, "home/pipe", 0o622, (8, 8)),
        Entry(Char, "null", 0o666, (0, 0)),
        Entry(Directory, "closed/", 0o000, (9, 9)),
        Entry(Directory, "closed/deep/", 0o500, (9, 9)),
        Entry(Regular, "closed/deep/file", 0o000, (9, 9)),
        Entry(Directory, "tmp/", 0o1777, (3, 3)),
        Entry(Regular, "tmp/other", 0o600, (4, 4)),
        Entry(Regular, "far", 0o4755, (70_000, 70_001)),
        Entry(Regular, "home/.wh.gone", 0o644, (0, 0)),
        Entry(Regular, "tmp/.wh..wh..opq", 0o644, (0, 0)),
    ])
}

/// A layer with a file that has an owner in an xattr already, and a capability.
fn attributed() -> Layer {
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let attributes: [(&str, &[u8]); 3] = [
        ("SCHILY.xattr.user.containers.override_stat", b"0:0:04755:file"),
        ("SCHILY.xattr.user.note", b"kept"),
        ("SCHILY.xattr.security.capability", capability),
    ];
    with_attributes(attributes)
}

/// A layer with a file whose access control list names a user that has no mapping in the namespace. acl(5).
fn listed() -> Layer {
    let mut list = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(1u16, 6u16, u32::MAX), (2, 4, 70_000), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
    {
        list.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        list.extend(id.to_le_bytes());
    }
    with_attributes([("SCHILY.xattr.system.posix_acl_access", list.as_slice())])
}

fn with_attributes<'a>(attributes: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Layer {
    let mut builder = Builder::new(Vec::new());
    builder.append_pax_extensions(attributes).expect("to memory");
    let mut header = Header::new_ustar();
    header.set_path("file").expect("short");
    header.set_mode(0o755);
    header.set_uid(5);
    header.set_gid(6);
    header.set_mtime(1_600_000_000);
    header.set_size(0);
    header.set_cksum();
    builder.append(&header, std::io::empty()).expect("to memory");
    Layer::of_tar(builder.into_inner().expect("to memory"), Packing::Gzip)
}

fn pull(engine: &Engine, registry: &ScriptedRegistry, name: &str, layer: &Layer) -> Vec<String> {
    registry.publish(name, &Image::of(std::slice::from_ref(layer), "amd64"));
    engine.pull(&registry.reference(name)).expect("pulled").notes
}

fn look(root: &Path, name: &str) -> Metadata {
    fs::symlink_metadata(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Owner, group and mode on the host.
fn owner(root: &Path, name: &str) -> (u32, u32, u32) {
    let meta = look(root, name);
    (meta.uid(), meta.gid(), meta.mode() & 0o7777)
}

/// An extended attribute; empty if there is none.
fn attribute(root: &Path, file: &str, name: &str) -> String {
    let output = Command::new("getfattr")
        .args(["--only-values", "--absolute-names", "-h", "-n", name])
        .arg(root.join(file))
        .output()
        .expect("getfattr of Debian's package attr");
    String::from_utf8(output.stdout).expect("text")
}

fn has_attribute(root: &Path, file: &str, name: &str) -> bool {
    let mut command = Command::new("getfattr");
    command.args(["--only-values", "-h", "-n", name]).arg(root.join(file));
    command.output().expect("getfattr of Debian's package attr").status.success()
}

/// Asserts the forms of a whiteout and an opaque directory for an overlayfs that is mounted with `userxattr`.
fn expect_whiteouts(root: &Path) {
    let gone = look(root, "home/gone");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(attribute(root, "tmp", "user.overlay.opaque"), "y");
}

/// Removes the image, and asserts that none of its files remains.
fn remove(engine: &Engine, reference: &str) {
    let answers = engine.ask(Request::Remove { name: reference.to_owned(), force: false }).all();
    assert!(matches!(answers.last(), Some(Answer::Done(_))), "{answers:?}");
    engine.wait_until("all of the image to go", || engine.named().is_empty() && engine.temporaries() == 0);
}

#[test]
fn with_subordinate_ids_owners_are_real_and_files_removable() {
    let registry = ScriptedRegistry::start();
    let engine = start(65_536, "");
    let layer = sample();
    let notes = pull(&engine, &registry, "owners", &layer);
    assert_eq!(notes.len(), 1, "the device alone is told of: {notes:?}");
    assert!(notes[0].contains(": entries skipped: 1; devices"), "{notes:?}");
    let root = engine.layer_dir(&Digest::of(&layer.tar));
    let inside = |id: u32| if id == 0 { NOBODY } else { FIRST + id - 1 };
    for (name, uid, gid, mode) in [
        ("", 0, 0, 0o755),
        ("bin/tool", 0, 0, 0o4755),
        ("home", 1000, 1001, 0o750),
        ("home/file", 1000, 1001, 0o640),
        ("home/setgid", 5, 6, 0o2755),
        ("home/link", 7, 7, 0o777),
        ("home/pipe", 8, 8, 0o622),
        ("closed", 9, 9, 0),
        ("closed/deep/file", 9, 9, 0),
        ("tmp", 3, 3, 0o1777),
        // This owner has no mapping: the file belongs to root of the namespace, and loses its setuid bit.
        ("far", 0, 0, 0o755),
    ] {
        assert_eq!(owner(&root, name), (inside(uid), inside(gid), mode), "{name:?}");
    }
    assert_eq!(attribute(&root, "far", "user.containers.override_stat"), "70000:70001:04755:file");
    assert_eq!(attribute(&root, "home/file", "user.containers.override_stat"), "");
    assert_eq!(
        (look(&root, "bin/again").ino(), look(&root, "bin/tool").nlink()),
        (look(&root, "bin/tool").ino(), 2)
    );
    assert_eq!(look(&root, "home/file").mtime(), 1_600_000_000);
    assert_eq!(look(&root, "home").mtime(), 1_600_000_000);
    assert!(!root.join("null").exists());
    expect_whiteouts(&root);
    // Another engine makes another namespace with the same IDs, and can remove these files.
    let engine = restarted(engine);
    remove(&engine, &registry.reference("owners"));
}

#[test]
fn without_ids_owners_are_written_down_and_that_is_told_once() {
    let registry = ScriptedRegistry::start();
    let layer = sample();
    for (ids, table, why) in [
        (0, "", "/etc/subuid has no range for user 65534"),
        (65_536, "user-namespace = false", "user-namespace is false in the configuration"),
    ] {
        let engine = start(ids, table);
        let notes = pull(&engine, &registry, "owners", &layer);
        let advice = format!("owners of files are recorded in extended attributes only: {why}");
        assert_eq!(notes[0], advice);
        assert_eq!(notes.len(), 2, "{notes:?}");
        let root = engine.layer_dir(&Digest::of(&layer.tar));
        for (name, mode, recorded) in [
            ("bin/tool", 0o4755, ""),
            ("home", 0o750, "1000:1001:0750:dir"),
            ("home/file", 0o640, "1000:1001:0640:file"),
            ("home/setgid", 0o755, "5:6:02755:file"),
            ("closed", 0o700, "9:9:00:dir"),
            ("closed/deep/file", 0, "9:9:00:file"),
            ("tmp", 0o1777, "3:3:01777:dir"),
            ("far", 0o755, "70000:70001:04755:file"),
        ] {
            assert_eq!(owner(&root, name), (NOBODY, NOBODY, mode), "{name}");
            assert_eq!(attribute(&root, name, "user.containers.override_stat"), recorded, "{name}");
        }
        assert!(look(&root, "home/pipe").file_type().is_fifo() && !root.join("null").exists());
        expect_whiteouts(&root);
        let other = self::layer(&[Entry(EntryType::Regular, "x", 0o644, (1, 1))]);
        assert_eq!(pull(&engine, &registry, "other", &other), [""; 0], "told once");
        engine.ask(Request::Remove { name: registry.reference("other"), force: false }).all();
        remove(&engine, &registry.reference("owners"));
    }
}

#[test]
fn a_layer_does_not_say_itself_what_is_written_down() {
    let registry = ScriptedRegistry::start();
    let layer = attributed();
    let recorded = "user.containers.override_stat";
    for (ids, override_stat, has_capability) in [(65_536, "", true), (0, "5:6:0755:file", false)] {
        let engine = start(ids, "");
        pull(&engine, &registry, "attributed", &layer);
        let root = engine.layer_dir(&Digest::of(&layer.tar));
        assert_eq!(attribute(&root, "file", recorded), override_stat);
        assert_eq!(attribute(&root, "file", "user.note"), "kept");
        assert_eq!(has_attribute(&root, "file", "security.capability"), has_capability);
    }
}

#[test]
fn an_access_list_with_an_unmapped_user_is_no_error() {
    let registry = ScriptedRegistry::start();
    for ids in [65_536, 0] {
        let engine = start(ids, "");
        let layer = listed();
        pull(&engine, &registry, "listed", &layer);
        let root = engine.layer_dir(&Digest::of(&layer.tar));
        assert!(look(&root, "file").is_file());
        // Outside of a namespace, an ordinary user may name any user in an access control list.
        assert_eq!(has_attribute(&root, "file", "system.posix_acl_access"), ids == 0);
    }
}

#[test]
fn leftovers_in_the_namespace_are_removed_at_the_next_start() {
    let registry = ScriptedRegistry::start();
    let engine = start(65_536, "");
    let owned = layer(&[
        Entry(EntryType::Directory, "dir/", 0o700, (9, 9)),
        Entry(EntryType::Regular, "dir/file", 0o600, (9, 9)),
    ]);
    // A few entries that are unpacked at once, and then content that never ends.
    let mut tar = owned.tar[..owned.tar.len() - 1024].to_vec();
    tar.extend_from_slice(&Layer::large("large", 5_000_000, Packing::Plain).tar);
    let slow = Layer::of_tar(tar, Packing::Plain);
    registry.publish("slow", &Image::of(std::slice::from_ref(&slow), "amd64"));
    let blob = format!("slow/blobs/{}", Digest::of(&slow.blob));
    registry.answer(&blob, Reply::Slow(slow.blob, 500_000));
    let pull = Pull { reference: registry.reference("slow"), detach: true, ..Pull::default() };
    engine.ask(Request::Pull(pull)).all();
    let tmp = engine.store().join("tmp");
    engine.wait_until("a file of another owner", || {
        let layers = fs::read_dir(&tmp).expect("listed").flatten();
        layers.map(|layer| layer.path().join("diff/dir/file")).any(|file| file.exists())
    });
    let engine = restarted(engine);
    engine.wait_for_no_temporaries();
}

#[test]
fn a_layer_refused_in_the_namespace_is_named_and_leaves_nothing() {
    let registry = ScriptedRegistry::start();
    let engine = start(65_536, "");
    let evil = Layer::of(&[("fine", b"x"), ("../evil", b"x")], Packing::Gzip);
    registry.publish("evil", &Image::of(&[sample(), evil], "amd64"));
    let failure = engine.pull(&registry.reference("evil")).expect_err("refused");
    assert!(
        failure.message.contains("layer entry \"../evil\" is refused: it leads out"),
        "{}",
        failure.message
    );
    let cut = layer(&[Entry(EntryType::Regular, "file", 0o644, (1, 1))]);
    let cut = Layer::of_tar(cut.tar[..700].to_vec(), Packing::Gzip);
    registry.publish("cut", &Image::of(&[cut], "amd64"));
    let failure = engine.pull(&registry.reference("cut")).expect_err("refused");
    assert!(failure.message.contains("the tar ends within an entry"), "{}", failure.message);
    engine.wait_for_no_temporaries();
    assert!(engine.images().is_empty());
}

#[test]
fn an_ordinary_user_s_engine_says_that_containers_take_root() {
    let engine = start(0, "");
    let Some(Answer::Info(info)) = engine.ask(Request::Info).next() else { panic!("an answer") };
    assert!(info.runtime.contains("only root can, and this engine runs as uid 65534"), "{}", info.runtime);
}
