//! docker-py of PyPI in a virtual environment, which is made once and kept in the target directory.
//!
//! The requirements have hashes, so that pip installs these files or none. Once the environment is there, no test needs
//! a network.

use crate::host::binary;
use nix::fcntl::{Flock, FlockArg};
use sampan_oci::digest::Digest;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The interpreter of the virtual environment.
///
/// Panics with pip's message if the environment cannot be made.
pub fn python() -> PathBuf {
    let requirements = clients().join("requirements.txt");
    let text = fs::read(&requirements).expect("requirements");
    let target = binary("sampan").parent().and_then(Path::parent).expect("target/PROFILE").to_owned();
    let id: String = Digest::of(&text).hex().chars().take(12).collect();
    let (dir, ready) = (target.join(format!("docker-py-{id}")), target.join(format!("docker-py-{id}.ready")));
    let lock = File::create(target.join("docker-py.lock")).expect("a lock file");
    // Tests run at the same time; the first one makes the environment.
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).expect("locked");
    if !ready.exists() {
        let _ = fs::remove_dir_all(&dir);
        run(Command::new("python3").args(["-m", "venv"]).arg(&dir), "Debian's package python3-venv");
        let mut pip = Command::new(dir.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--require-hashes"]);
        pip.args(["--no-deps", "--only-binary", ":all:", "--requirement"]).arg(&requirements);
        run(&mut pip, "pypi.org, the first time");
        fs::write(&ready, "").expect("written");
    }
    dir.join("bin/python")
}

/// The directory of the programs of foreign clients.
pub fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

fn run(command: &mut Command, need: &str) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; it needs {need}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}\nit needs {need}");
}
