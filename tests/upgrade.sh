#!/bin/sh
# Builds the engine and the shim of an earlier commit, and runs the tests of an upgrade from it.
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
# The folder is no member of this workspace; its programs go beside those of this build, not over them.
(cd "$before/tree" && CARGO_TARGET_DIR=../target "$cargo" build --workspace --bins)
SAMPAN_BEFORE_DIR=$(cd "$before/target/debug" && pwd) "$cargo" test -p sampan-tests --test upgrade
