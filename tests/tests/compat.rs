//! An image that the engine unpacks has the same entries as one that `umoci unpack` makes, and skopeo and umoci can
//! read the engine's store. The images have all kinds of unusual entries, in several layers.

use sampan_engine::container::rootfs::copy::copy;
use sampan_ipc::engine::{Answer, Request, Verify};
use sampan_oci::digest::Digest;
use sampan_tests::engine::Engine;
use sampan_tests::host::need_root;
use sampan_tests::registry::{DockerRegistry, Image, Layer, Packing, write_layout};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tar::{Builder, EntryType, Header};

/// `security.capability` of a file with cap_net_bind_service, as vfs_cap_data version 2. The value contains a line
/// break, at which a careless parser of PAX headers stops.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A tar that is being written.
struct Tar(Builder<Vec<u8>>);

/// An entry of the tar.
struct Entry<'a> {
    kind: EntryType,
    mode: u32,
    owner: (u64, u64),
    mtime: &'a str,
    link: &'a str,
    device: (u32, u32),
    content: &'a [u8],
    xattrs: &'a [(&'a str, &'a [u8])],
}

const FILE: Entry<'static> = Entry {
    kind: EntryType::Regular,
    mode: 0o644,
    owner: (0, 0),
    mtime: "1600000000",
    link: "",
    device: (0, 0),
    content: b"",
    xattrs: &[],
};
const DIR: Entry<'static> = Entry { kind: EntryType::Directory, mode: 0o755, ..FILE };

impl Tar {
    fn new() -> Self {
        Tar(Builder::new(Vec::new()))
    }

    /// Adds an entry; its times and xattrs are in a PAX header.
    fn add(&mut self, path: &str, entry: &Entry<'_>) -> &mut Self {
        let mut pax: Vec<(String, Vec<u8>)> = vec![("mtime".to_owned(), entry.mtime.into())];
        for (name, value) in entry.xattrs {
            pax.push((format!("SCHILY.xattr.{name}"), value.to_vec()));
        }
        let records = pax.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        self.0.append_pax_extensions(records).expect("to memory");
        let mut header = Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(entry.mtime.split('.').next().and_then(|s| s.parse().ok()).unwrap_or(0));
        header.set_size(entry.content.len() as u64);
        header.set_device_major(entry.device.0).expect("small");
        header.set_device_minor(entry.device.1).expect("small");
        match entry.kind {
            EntryType::Link | EntryType::Symlink => self.0.append_link(&mut header, path, entry.link),
            _ => self.0.append_data(&mut header, path, entry.content),
        }
        .expect("to memory");
        self
    }

    fn dir(&mut self, path: &str) -> &mut Self {
        self.add(path, &DIR)
    }

    fn file(&mut self, path: &str, content: &str) -> &mut Self {
        self.add(path, &Entry { content: content.as_bytes(), ..FILE })
    }

    fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("to memory")
    }
}

/// An access control list in the format of its attribute, which gives user 1000 the permissions `named`. acl(5).
fn acl(named: u16, mask: u16) -> Vec<u8> {
    let entries =
        [(1, 7, u32::MAX), (2, named, 1000), (4, 5, u32::MAX), (0x10, mask, u32::MAX), (0x20, 5, u32::MAX)];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(u16::to_le_bytes(permissions));
        bytes.extend(u32::to_le_bytes(id));
    }
    bytes
}

/// A security label that no host sets, and its form in the output of getfattr.
const LABEL: &[u8] = b"sampan";
const LABEL_PRINTED: &str = "security.selinux=0x73616d70616e";

/// Access control lists that must not be inherited, a label, and a directory whose second entry removes what the first
/// one set.
fn listed(tar: &mut Tar) {
    let (access, default) = (acl(7, 7), acl(6, 7));
    let list: [(&str, &[u8]); 1] = [("system.posix_acl_access", &access)];
    tar.add("etc/listed", &Entry { xattrs: &list, mode: 0o755, content: b"root's", ..FILE });
    tar.add("etc/listed-5", &Entry { xattrs: &list, mode: 0o755, owner: (5, 5), content: b"5's", ..FILE });
    tar.add("share/", &Entry { xattrs: &[("system.posix_acl_default", &default)], ..DIR });
    tar.file("share/file", "not user 1000's").dir("share/sub/");
    tar.add("share/fifo", &Entry { kind: EntryType::Fifo, mode: 0o620, ..FILE });
    tar.add("share/", &Entry { xattrs: &[("system.posix_acl_default", &default)], ..DIR });
    tar.add("etc/label", &Entry { xattrs: &[("security.selinux", LABEL)], ..FILE });
    tar.add("named/", &Entry { xattrs: &[("user.first", b"1"), ("user.both", b"1")], ..DIR });
    tar.add("named/", &Entry { xattrs: &[("user.both", b"2")], ..DIR });
}

/// All kinds, modes, owners, times, links and names.
fn awkward() -> Vec<u8> {
    let mut tar = Tar::new();
    let (plain, link) = (FILE, Entry { kind: EntryType::Link, ..FILE });
    tar.add("./", &Entry { mtime: "1500000000.5", ..DIR }).dir("bin/").dir("etc/").dir("dev/");
    tar.add("bin/su", &Entry { mode: 0o4755, owner: (1000, 1001), content: b"su", ..plain });
    tar.add("bin/write", &Entry { mode: 0o2755, owner: (0, 5), content: b"write", ..plain });
    tar.add("bin/none", &Entry { mode: 0, owner: (65534, 65534), content: b"none", ..plain });
    tar.add("bin/far", &Entry { owner: (3_000_000_000, 2_999_999_999), content: b"far", ..plain });
    tar.add("tmp/", &Entry { mode: 0o1777, mtime: "1234567890.987654321", ..DIR });
    tar.add("srv/", &Entry { mode: 0o2750, owner: (33, 34), xattrs: &[("user.what", b"a dir")], ..DIR });
    let xattrs: [(&str, &[u8]); 2] =
        [("security.capability", CAPABILITY), ("user.note", b"two\nlines = one\n")];
    tar.add("bin/ping", &Entry { mode: 0o755, content: b"ping", xattrs: &xattrs, ..plain });
    tar.add("etc/exact", &Entry { mtime: "1600000000.123456789", content: b"ns", ..plain });
    tar.add("etc/old", &Entry { mtime: "1", content: b"1970", ..plain });
    tar.add("etc/future", &Entry { mtime: "4102444800.000000001", content: b"2100", ..plain });
    tar.file("etc/one", "one").add("etc/two", &Entry { link: "etc/one", ..link });
    tar.add("bin/three", &Entry { link: "etc/one", ..link });
    let symlink =
        Entry { kind: EntryType::Symlink, mode: 0o777, owner: (7, 8), mtime: "1400000000.25", ..FILE };
    tar.add("etc/link", &Entry { link: "one", ..symlink });
    tar.add("etc/nowhere", &Entry { link: "/no/such/place", ..symlink });
    tar.add("etc/up", &Entry { link: "../../../../etc/passwd", ..symlink });
    tar.add("dev/fifo", &Entry { kind: EntryType::Fifo, mode: 0o620, owner: (3, 4), ..FILE });
    tar.add("dev/null", &Entry { kind: EntryType::Char, mode: 0o666, device: (1, 3), ..FILE });
    tar.add(
        "dev/loop9",
        &Entry { kind: EntryType::Block, mode: 0o660, owner: (0, 6), device: (7, 9), ..FILE },
    );
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(255));
    tar.dir(&format!("{}/", "d".repeat(200))).file(&long, "a long name");
    tar.file(&format!("implied/{}/x", "e".repeat(180)), "below directories that have no entry");
    tar.file("etc/späß ☃", "UTF-8").file("etc/ sp  ace\t", "blanks");
    tar.file("etc/empty", "");
    listed(&mut tar);
    // Entries of which later layers hide some.
    for dir in ["gone/", "gone/deep/", "opaque/", "opaque/sub/", "swap/", "stays/", "again/", "mode/"] {
        tar.dir(dir);
    }
    for path in
        ["gone/deep/a", "opaque/old", "opaque/sub/old", "swap/inner", "stays/a", "stays/b", "again/old"]
    {
        tar.file(path, path);
    }
    tar.file("becomes-dir", "a file").file("etc/changed", "before").file("etc/removed", "gone soon");
    // The second entry with the same name replaces the first.
    tar.file("etc/twice", "first, and longer").file("etc/twice", "second");
    tar.finish()
}

/// Hides and replaces entries of the lower layer.
fn hiding() -> Vec<u8> {
    let mut tar = Tar::new();
    tar.file(".wh.gone", "").dir("etc/").file("etc/.wh.removed", "").file("etc/.wh.never-was", "");
    tar.add("opaque/", &Entry { mode: 0o700, owner: (9, 9), ..DIR });
    tar.file("opaque/.wh..wh..opq", "").file("opaque/new", "new");
    // A directory becomes a file and a file a directory, with whiteouts and without.
    tar.file("swap", "now a file").dir("becomes-dir/").file("becomes-dir/x", "inside");
    tar.add("etc/changed", &Entry { mode: 0o600, owner: (12, 13), content: b"after", ..FILE });
    tar.dir("stays/").file("stays/.wh.a", "").file("stays/c", "c");
    tar.add("mode/", &Entry { mode: 0o711, mtime: "1650000000.75", ..DIR });
    tar.file(".wh.again", "");
    // The layer has no entry for the directory, so the directory keeps the attributes of the lower layer.
    tar.file("tmp/left", "left").file("stays/sub/deep", "below a directory that nobody names");
    tar.finish()
}

/// Restores hidden entries, and hides restored ones.
fn returning() -> Vec<u8> {
    let mut tar = Tar::new();
    tar.dir("again/").file("again/new", "new").dir("gone/").file("gone/back", "back");
    tar.dir("opaque/").file("opaque/.wh.new", "").file("opaque/newer", "newer");
    tar.dir("becomes-dir/").file("becomes-dir/.wh..wh..opq", "").file("becomes-dir/y", "only this");
    let link = Entry { kind: EntryType::Link, link: "again/new", ..FILE };
    tar.add("again/hard", &link);
    tar.file("mode/in", "in").file("tmp/.wh.left", "").file("dev/.wh.fifo", "");
    tar.finish()
}

/// A sparse file, packed by GNU tar in the given format.
fn sparse(format: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("holes");
    let file = fs::File::create(&path).expect("made");
    for at in [0, 300_000, 1_500_000, 1_500_000 + 4096 * 9] {
        std::os::unix::fs::FileExt::write_at(&file, format!("at {at}").as_bytes(), at).expect("written");
    }
    file.set_len(3_000_001).expect("a hole at the end");
    let out = Command::new("tar")
        .args(["--sparse", "--owner=0", "--group=0", "--mtime=@1600000000"])
        .args(format)
        .arg("-C")
        .args([dir.path(), Path::new("-c"), Path::new("holes")])
        .output()
        .expect("GNU tar");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(out.stdout.len() < 1_000_000, "GNU tar found the holes");
    out.stdout
}

/// The compared attributes of an entry; `inode` is the first path of its group of hard links.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    kind: char,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    device: u64,
    size: u64,
    content: String,
    linked_with: Option<PathBuf>,
    xattrs: Vec<String>,
}

/// All entries below `root`, by path.
fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut xattrs = xattrs(root);
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).expect("listed");
        let kind = meta.file_type();
        let content = match () {
            () if kind.is_file() => Digest::of(&fs::read(&full).expect("read")).to_string(),
            () if kind.is_symlink() => fs::read_link(&full).expect("read").to_string_lossy().into_owned(),
            () => String::new(),
        };
        if kind.is_dir() {
            let entries = fs::read_dir(&full).expect("listed");
            let mut names: Vec<PathBuf> =
                entries.map(|entry| path.join(entry.expect("listed").file_name())).collect();
            names.sort();
            // In reverse, so that the stack returns names in order: the first path of each group of hard links is then
            // equal in both trees.
            pending.extend(names.into_iter().rev());
        }
        let linked = kind.is_file() && meta.nlink() > 1;
        let first = linked.then(|| inodes.entry(meta.ino()).or_insert_with(|| path.clone()).clone());
        let letter = match () {
            () if kind.is_dir() => 'd',
            () if kind.is_symlink() => 'l',
            () if kind.is_fifo() => 'p',
            () if kind.is_char_device() => 'c',
            () if kind.is_block_device() => 'b',
            () => 'f',
        };
        let entry = Seen {
            kind: letter,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            mtime: if is_in_no_layer(&path) { (0, 0) } else { (meta.mtime(), meta.mtime_nsec()) },
            device: if matches!(letter, 'c' | 'b') { meta.rdev() } else { 0 },
            size: if letter == 'd' { 0 } else { meta.size() },
            content,
            linked_with: first,
            xattrs: xattrs.remove(&path).unwrap_or_default(),
        };
        seen.insert(path, entry);
    }
    seen
}

/// True for directories whose time is not compared. A directory without an entry in any layer has the epoch as its time
/// here. umoci gives it the time of unpacking, and its parent too.
fn is_in_no_layer(path: &Path) -> bool {
    let none = ["implied", "", "stays", "stays/sub"].map(Path::new);
    none.contains(&path) || path.parent() == Some(none[0])
}

/// Extended attributes below `root` by path, in the form of getfattr.
fn xattrs(root: &Path) -> BTreeMap<PathBuf, Vec<String>> {
    let mut command = Command::new("getfattr");
    command.args(["-R", "-P", "-h", "-d", "-m", "^(user|security|system.posix_acl)", "-e", "hex", "."]);
    let out = command.current_dir(root).output().expect("getfattr of Debian's package attr");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut all: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut path = PathBuf::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix("# file: ") {
            Some(name) => {
                path = if name == "." { PathBuf::new() } else { name.trim_start_matches("./").into() }
            }
            // Labels that the host sets depend on a file's location.
            None if line.starts_with("security.selinux") && line != LABEL_PRINTED => {}
            None => all.entry(path.clone()).or_default().push(line.to_owned()),
        }
    }
    all.values_mut().for_each(|values| values.sort());
    all
}

/// Layers mounted by overlayfs; dropping the value unmounts them.
struct Overlay(tempfile::TempDir);

impl Overlay {
    /// Mounts `layers` read-only; the lowest one comes first.
    fn of(layers: &[PathBuf]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for below in ["empty", "merged", "short"] {
            fs::create_dir(dir.path().join(below)).expect("made");
        }
        // Short relative names, since mount options are limited to a page. An empty layer, since overlayfs requires two
        // lower layers.
        let mut lower = vec![PathBuf::from("empty")];
        for (nth, layer) in layers.iter().enumerate() {
            let link = PathBuf::from(format!("short/{nth}"));
            std::os::unix::fs::symlink(layer, dir.path().join(&link)).expect("made");
            lower.push(link);
        }
        let lower: Vec<String> = lower.iter().rev().map(|path| path.display().to_string()).collect();
        let status = Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", &format!("ro,lowerdir={}", lower.join(":")), "merged"])
            .current_dir(dir.path())
            .status()
            .expect("mount");
        assert!(status.success(), "overlayfs stacks {layers:?}");
        Overlay(dir)
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("merged")
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.root(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Chain IDs of layers. OCI image-spec, "Layer ChainID".
fn chain_ids(layers: &[Layer]) -> Vec<Digest> {
    let mut chain: Option<Digest> = None;
    let step = |layer: &Layer| {
        let diff = Digest::of(&layer.tar);
        let next = match &chain {
            None => diff,
            Some(below) => Digest::of(format!("{below} {diff}").as_bytes()),
        };
        chain = Some(next.clone());
        next
    };
    layers.iter().map(step).collect()
}

fn run(command: &mut Command) -> String {
    let out = command.stdin(Stdio::null()).output().expect("a tool that install-deps.sh installs");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn umoci_unpack(layout: &str, dir: &Path) -> PathBuf {
    run(Command::new("umoci").args(["unpack", "--image", layout]).arg(dir));
    dir.join("rootfs")
}

fn assert_same(ours: &BTreeMap<PathBuf, Seen>, theirs: &BTreeMap<PathBuf, Seen>, what: &str) {
    let mut wrong = Vec::new();
    for path in ours.keys().chain(theirs.keys()).collect::<std::collections::BTreeSet<_>>() {
        if ours.get(path) != theirs.get(path) {
            wrong.push(format!(
                "{}\n  ours   {:?}\n  umoci  {:?}",
                path.display(),
                ours.get(path),
                theirs.get(path)
            ));
        }
    }
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

/// Options of GNU tar for the formats of a sparse file; all formats give the same file.
const SPARSE_PAX: [&str; 2] = ["--format=posix", "--sparse-version=1.0"];
const SPARSE_PAX_OLD: [&str; 2] = ["--format=posix", "--sparse-version=0.1"];
const SPARSE_PAX_OLDEST: [&str; 2] = ["--format=posix", "--sparse-version=0.0"];
const SPARSE_GNU: [&str; 1] = ["--format=gnu"];

fn layers_of(packing: Packing, format: &[&str]) -> Vec<Layer> {
    let tars = [awkward(), sparse(format), hiding(), returning()];
    tars.into_iter().map(|tar| Layer::of_tar(tar, packing)).collect()
}

/// The entries that umoci makes of the image. The image is packed without zstd and without sparse files of the old GNU
/// format, which umoci 0.4.7 cannot read.
fn reference(dir: &Path) -> BTreeMap<PathBuf, Seen> {
    let layout = dir.join("reference");
    write_layout(&layout, &[Image::of(&layers_of(Packing::Gzip, &SPARSE_PAX), "amd64")]);
    look(&umoci_unpack(&format!("{}:t", layout.display()), &dir.join("bundle")))
}

/// The entries of the image `pushed` that the engine unpacked, mounted as a stack.
fn ours(engine: &Engine, pushed: &str, layers: &[Layer]) -> BTreeMap<PathBuf, Seen> {
    engine.pull(pushed).expect("pulled");
    let dirs: Vec<PathBuf> = chain_ids(layers).iter().map(|chain| engine.layer_dir(chain)).collect();
    look(&Overlay::of(&dirs).root())
}

#[test]
fn what_is_unpacked_is_what_umoci_unpacks_however_it_was_packed() {
    need_root();
    let dir = tempfile::tempdir().expect("a directory");
    let registry = DockerRegistry::start(dir.path());
    let theirs = reference(dir.path());
    assert!(theirs.len() > 40, "umoci unpacked {} entries", theirs.len());
    let forms: [(Packing, &[&str]); 4] = [
        (Packing::Gzip, &SPARSE_PAX),
        (Packing::Zstd, &SPARSE_GNU),
        (Packing::Plain, &SPARSE_PAX_OLD),
        (Packing::Plain, &SPARSE_PAX_OLDEST),
    ];
    for (packing, format) in forms {
        let layers = layers_of(packing, format);
        let pushed =
            registry.push(&format!("awkward:{packing:?}").to_lowercase(), &[Image::of(&layers, "amd64")]);
        let engine = Engine::start();
        assert_same(&ours(&engine, &pushed, &layers), &theirs, &format!("{packing:?}"));
    }
}

/// A lower layer with attributes of directories, and an upper layer with files in these directories but without entries
/// for them.
fn unnamed() -> Vec<Layer> {
    let mut lower = Tar::new();
    let root = Entry { mode: 0o751, owner: (5, 6), mtime: "1500000000.5", ..DIR };
    lower.add("./", &Entry { xattrs: &[("user.root", b"the root")], ..root });
    lower.add("tmp/", &Entry { mode: 0o1777, mtime: "1234567890.987654321", ..DIR });
    lower.add("srv/", &Entry { mode: 0o2750, owner: (33, 34), xattrs: &[("user.what", b"a dir")], ..DIR });
    lower.add("srv/deep/", &Entry { mode: 0o700, owner: (35, 36), mtime: "1", ..DIR });
    lower.file("srv/deep/old", "old").file("srv/gone", "gone soon");
    let mut upper = Tar::new();
    upper.file("tmp/x", "x").file("srv/deep/y", "y").file("srv/.wh.gone", "");
    [lower, upper].into_iter().map(|tar| Layer::of_tar(tar.finish(), Packing::Gzip)).collect()
}

/// The entries of [`look`], with the time of the root.
fn look_at_all(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = look(root);
    let meta = fs::metadata(root).expect("there");
    seen.get_mut(Path::new("")).expect("the root").mtime = (meta.mtime(), meta.mtime_nsec());
    seen
}

/// Sets a layer back to the state in which an engine leaves it that is killed after unpacking it and before looking at
/// lower layers.
fn unsettle(diff: &Path, paths: &[&str]) {
    for path in paths.iter().map(|path| diff.join(path)) {
        for name in xattrs(&path).remove(Path::new("")).unwrap_or_default() {
            let name = name.split('=').next().expect("a name").to_owned();
            run(Command::new("setfattr").args(["-x", &name]).arg(&path));
        }
        std::os::unix::fs::chown(&path, Some(0), Some(0)).expect("set");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
        fs::File::open(&path).and_then(|dir| dir.set_modified(std::time::SystemTime::now())).expect("set");
    }
    let list: String = paths.iter().map(|path| format!("{path}\0")).collect();
    fs::write(diff.with_file_name("implied"), list).expect("written");
}

#[test]
fn implied_directories_equal_umocis_also_after_a_kill() {
    need_root();
    let dir = tempfile::tempdir().expect("a directory");
    let registry = DockerRegistry::start(dir.path());
    let layers = unnamed();
    let layout = dir.path().join("reference");
    write_layout(&layout, &[Image::of(&layers, "amd64")]);
    let theirs = look_at_all(&umoci_unpack(&format!("{}:t", layout.display()), &dir.path().join("bundle")));
    assert_eq!(theirs[Path::new("tmp")].mode, 0o1777);
    assert_eq!(theirs[Path::new("srv")].xattrs.len(), 1);

    let pushed = registry.push("unnamed:t", &[Image::of(&layers, "amd64")]);
    let engine = Engine::start();
    let dirs: Vec<PathBuf> = chain_ids(&layers).iter().map(|chain| engine.layer_dir(chain)).collect();
    engine.pull(&pushed).expect("pulled");
    assert!(dirs.iter().all(|diff| !diff.with_file_name("implied").exists()), "nothing waits any more");
    assert_same(&look_at_all(&Overlay::of(&dirs).root()), &theirs, "one pull");

    unsettle(&dirs[1], &["", "tmp", "srv", "srv/deep"]);
    assert!(look_at_all(&Overlay::of(&dirs).root()) != theirs, "what is to be put right");
    engine.pull(&pushed).expect("pulled");
    assert!(!dirs[1].with_file_name("implied").exists());
    assert_same(&look_at_all(&Overlay::of(&dirs).root()), &theirs, "the pull after a kill");
    engine.ask(Request::Verify(Verify { deep: true })).watch().expect("a fresh unpacking is the same");

    fs::set_permissions(dirs[1].join("tmp"), fs::Permissions::from_mode(0o755)).expect("set");
    let verified = engine.ask(Request::Verify(Verify { deep: true })).watch();
    assert!(verified.is_err(), "a directory that is no more what the layer below says");
    assert_same(&look_at_all(&Overlay::of(&dirs).root()), &theirs, "what verify unpacked again");
}

#[test]
fn a_copy_of_the_layers_is_what_overlayfs_shows_of_them() {
    need_root();
    let dir = tempfile::tempdir().expect("a directory");
    let registry = DockerRegistry::start(dir.path());
    for (name, layers) in [("awkward:t", layers_of(Packing::Gzip, &SPARSE_PAX)), ("unnamed:t", unnamed())] {
        let engine = Engine::start();
        engine.pull(&registry.push(name, &[Image::of(&layers, "amd64")])).expect("pulled");
        let dirs: Vec<PathBuf> = chain_ids(&layers).iter().map(|chain| engine.layer_dir(chain)).collect();
        let shown = look_at_all(&Overlay::of(&dirs).root());
        let target = dir.path().join(name);
        fs::create_dir(&target).expect("made");
        let upmost: Vec<PathBuf> = dirs.into_iter().rev().collect();
        let left_out = copy(&upmost, &target, &dir.path().join("scratch")).expect("copied");
        assert_eq!(left_out, 0);
        assert_same(&look_at_all(&target), &shown, name);
    }
}

#[test]
fn a_docker_schema_2_image_unpacks_like_umoci_and_can_be_copied() {
    need_root();
    let dir = tempfile::tempdir().expect("a directory");
    let registry = DockerRegistry::start(dir.path());
    let layers = layers_of(Packing::Gzip, &SPARSE_PAX);
    let oci = registry.push("awkward:oci", &[Image::of(&layers, "amd64")]);
    let docker = format!("{}/awkward:docker", registry.address);
    run(Command::new("skopeo")
        .args(["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false", "--format", "v2s2"])
        .args([format!("docker://{oci}"), format!("docker://{docker}")]));
    let engine = Engine::start();
    let theirs = reference(dir.path());
    assert_same(&ours(&engine, &docker, &layers), &theirs, "docker schema 2");
    engine.pull(&oci).expect("pulled");

    // Other tools do not find docker's manifests in a layout by name: the store gives that name to an equivalent OCI
    // manifest.
    for (nth, name) in [&oci, &docker].into_iter().enumerate() {
        let from = format!("oci:{}:{name}", engine.store().display());
        let seen = run(Command::new("skopeo").args(["inspect", &from]));
        assert!(seen.contains("org.example.made"), "{seen}");
        // A copy reads and hashes every blob.
        let copy = dir.path().join(format!("copy-{nth}"));
        run(Command::new("skopeo").args(["copy", "--quiet", &from, &format!("oci:{}:t", copy.display())]));
        let again = dir.path().join(format!("again-{nth}"));
        let again = look(&umoci_unpack(&format!("{}:t", copy.display()), &again));
        assert_same(&again, &theirs, "a copy of our store");
        let direct = dir.path().join(format!("direct-{nth}"));
        let direct = look(&umoci_unpack(&format!("{}:{name}", engine.store().display()), &direct));
        assert_same(&direct, &theirs, "our store");
    }
    // These files of the store do not count as images.
    assert_eq!(engine.images().len(), 2);
    let listed = run(Command::new("umoci").args(["ls", "--layout"]).arg(engine.store()));
    assert!(listed.contains(&oci) && listed.contains(&docker), "{listed}");

    // The equivalent manifest is removed with its image.
    let alone = Engine::start();
    alone.pull(&docker).expect("pulled");
    let removed = alone.ask(Request::Remove { name: docker, force: false }).next();
    assert!(matches!(removed, Some(Answer::Done(_))), "{removed:?}");
    assert_eq!(alone.named(), Vec::<String>::new());
}

#[test]
fn getfattr_and_the_walk_see_what_differs() {
    // Tests the comparison itself: it must notice a difference in every attribute.
    need_root();
    let dir = tempfile::tempdir().expect("a directory");
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(5);
    for root in [&one, &two] {
        fs::create_dir(root).expect("made");
        fs::write(root.join("f"), "content").expect("written");
        fs::hard_link(root.join("f"), root.join("g")).expect("linked");
        for name in ["f", "."] {
            fs::File::open(root.join(name)).and_then(|f| f.set_modified(time)).expect("set");
        }
    }
    assert!(look(&one) == look(&two));
    run(Command::new("setfattr").args(["-n", "user.x", "-v", "1"]).arg(two.join("f")));
    assert!(look(&one) != look(&two), "an xattr");
    run(Command::new("setfattr").args(["-x", "user.x"]).arg(two.join("f")));
    assert!(look(&one) == look(&two));
    fs::remove_file(two.join("g")).expect("removed");
    fs::copy(two.join("f"), two.join("g")).expect("copied");
    for name in ["g", "."] {
        fs::File::open(two.join(name)).and_then(|f| f.set_modified(time)).expect("set");
    }
    assert!(look(&one) != look(&two), "a hard link");
}
