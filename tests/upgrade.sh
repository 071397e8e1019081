#!/bin/sh
# Builds the programs of an earlier commit, and tests that this build takes over their containers.
set -eu
commit=${1:?usage: tests/upgrade.sh COMMIT}
target=${CARGO_TARGET_DIR:-target}
before=$target/before
cargo=${CARGO:-cargo}

git cat-file -e "$commit^{commit}" || {
    echo "error: there is no commit $commit in this clone" >&2
    echo 'hint: git fetch --unshallow' >&2
    exit 1
}
rm -rf "$before/tree"
mkdir -p "$before/tree"
git archive "$commit" | tar -x -C "$before/tree"
# The earlier tree has its own target directory, so that its programs do not overwrite those of this build.
(cd "$before/tree" && CARGO_TARGET_DIR=../target "$cargo" build --workspace --bins)
SAMPAN_BEFORE_DIR=$(cd "$before/target/debug" && pwd) "$cargo" test -p sampan-tests --test upgrade
