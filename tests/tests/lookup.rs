//! What the engine finds in a stack of layers equals what overlayfs shows when the layers are mounted.
//!
//! The stacks are random, with a fixed seed: files, directories, links, whiteouts, opaque directories.

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, mknod};
use sampan_spec::rootfs_view::{Kind, LookupError, Root, visible};
use sampan_tests::host::need_root;
use sampan_tests::random::Random;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const NAMES: [&str; 3] = ["a", "b", "c"];
const TARGETS: [&str; 9] = ["a", "/a", "../b", "/b/c", "../../../../a", ".", "/", "c/./b", "/proc/self/root"];
const LAYERS: usize = 4;
const STACKS: usize = 40;

/// Fills `dir` with random entries.
fn fill(random: &mut Random, dir: &Path, layer: usize, depth: usize, is_lowest: bool) {
    for name in NAMES {
        let path = dir.join(name);
        match random.below(9) {
            0 => fs::write(&path, format!("{layer}:{}", path.display())).expect("written"),
            1 => symlink(random.pick(&TARGETS), &path).expect("made"),
            2 if !is_lowest => mknod(&path, SFlag::S_IFCHR, Mode::empty(), 0).expect("as root"),
            3..=6 if depth > 0 => {
                fs::create_dir(&path).expect("made");
                fill(random, &path, layer, depth - 1, is_lowest);
                if !is_lowest && random.one_in(5) {
                    let mark =
                        if random.one_in(4) { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
                    set(mark, &path);
                }
            }
            _ => {}
        }
    }
}

fn set(attribute: &str, path: &Path) {
    let set = Command::new("setfattr").args(["-n", attribute, "-v", "y"]).arg(path).status();
    assert!(set.is_ok_and(|status| status.success()), "setfattr: see tests/install-deps.sh");
}

/// What the kernel finds at `path` in the mounted stack.
fn mounted(root: &Path, path: &str) -> Result<Option<(Kind, Vec<u8>)>, ()> {
    let dir = File::open(root).expect("mounted");
    let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let mut file = loop {
        match openat2(&dir, path, how) {
            Ok(fd) => break File::from(fd),
            // A mount or rename elsewhere on the host makes the kernel unsure about "..": try again. openat2(2).
            Err(Errno::EAGAIN) => {}
            Err(Errno::ELOOP) => return Err(()),
            Err(_) => return Ok(None),
        }
    };
    if file.metadata().expect("open").is_dir() {
        return Ok(Some((Kind::Directory, Vec::new())));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("read");
    Ok(Some((Kind::File, bytes)))
}

/// What the engine finds at `path`.
fn found(root: &Root, path: &str) -> Result<Option<(Kind, Vec<u8>)>, ()> {
    match root.kind(path) {
        Ok(Some(Kind::File)) => {
            let bytes = root.read(path, 1000).expect("it was there").expect("it was there");
            Ok(Some((Kind::File, bytes)))
        }
        Ok(kind) => Ok(kind.map(|kind| (kind, Vec::new()))),
        Err(LookupError::Refused { .. }) => Err(()),
        Err(error) => panic!("{path}: {error}"),
    }
}

fn compare(random: &mut Random, layers: &[PathBuf], target: &Path) -> usize {
    let root = Root::new(layers.iter().cloned());
    let mut there = 0;
    for _ in 0..400 {
        let count = 1 + random.below(5);
        let words: Vec<&str> =
            (0..count).map(|_| if random.one_in(8) { ".." } else { *random.pick(&NAMES) }).collect();
        let path = format!("/{}", words.join("/"));
        let seen = mounted(target, &path);
        assert_eq!(found(&root, &path), seen, "{path} in {}", target.display());
        there += usize::from(matches!(seen, Ok(Some(_))));
    }
    there
}

#[test]
fn a_stack_of_layers_is_read_as_overlayfs_shows_it() {
    need_root();
    let mut random = Random::new(7);
    let mut there = 0;
    for _ in 0..STACKS {
        let dir = tempfile::Builder::new().prefix("sampan-lookup.").tempdir().expect("a directory");
        let layers: Vec<PathBuf> = (0..LAYERS).map(|layer| dir.path().join(format!("l{layer}"))).collect();
        for (number, layer) in layers.iter().enumerate() {
            fs::create_dir(layer).expect("made");
            fill(&mut random, layer, number, 2, number + 1 == LAYERS);
            if random.one_in(8) {
                set("trusted.overlay.opaque", layer);
            }
        }
        // overlayfs itself ignores an opaque mark on a layer's root.
        let layers = if random.one_in(2) { visible(layers) } else { layers };
        let target = dir.path().join("root");
        fs::create_dir(&target).expect("made");
        // A mount without an upper directory requires two layers.
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).expect("made");
        let lower: Vec<&str> =
            layers.iter().chain([&empty]).map(|layer| layer.to_str().expect("text")).collect();
        let options = format!("lowerdir={}", lower.join(":"));
        mount(Some("overlay"), &target, Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str()))
            .expect("mounted");
        let compared =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| compare(&mut random, &layers, &target)));
        umount2(&target, MntFlags::MNT_DETACH).expect("unmounted");
        match compared {
            Ok(count) => there += count,
            Err(panic) => {
                let kept = dir.keep();
                eprintln!("the layers are kept in {}", kept.display());
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(there > STACKS * 50, "only {there} paths led anywhere: they would show nothing");
}

#[test]
fn nothing_is_seen_below_a_layer_whose_root_is_opaque() {
    need_root();
    let dir = tempfile::Builder::new().prefix("sampan-lookup.").tempdir().expect("a directory");
    let layers: Vec<PathBuf> =
        ["upper", "middle", "lower"].iter().map(|name| dir.path().join(name)).collect();
    layers.iter().for_each(|layer| fs::create_dir(layer).expect("made"));
    set("trusted.overlay.opaque", &layers[1]);
    assert_eq!(visible(layers.clone()), layers[..2]);
    assert_eq!(visible(layers[2..].to_vec()), layers[2..]);
}
