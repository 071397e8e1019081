#!/usr/bin/env bash
# The main job in a minute: watch, pull with live progress, list. Needs no internet and no server.
#
#   tests/demo.sh BIN-DIR [IMAGE]
#
# Two complete installations run side by side in a private directory: one makes an image of three layers and
# serves it as a registry at 2 MiB/s, the other pulls it. With IMAGE, that one is pulled from its registry.
# Leaves nothing behind.
set -euo pipefail

bin=$(cd "$1" && pwd)
image=${2:-}
work=$(mktemp -d "${TMPDIR:-/tmp}/sampan-demo.XXXXXX")
pids=()

finish() {
    status=$?
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    if [ "$status" -ne 0 ]; then cat "$work"/*/log >&2 2>/dev/null || true; fi
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { printf '$ sampan %s\n' "$*"; }

# An installation is three directories; nothing else tells two of them apart. In the background, CMD is `exec …`: a
# signal to the job must reach the program, not a shell around it.
at() {
    local name=$1
    shift
    SAMPAN_RUN_DIR="$work/$name/run" SAMPAN_STATE_DIR="$work/$name/state" SAMPAN_DATA_DIR="$work/$name/data" "$@"
}

# Waits until FILE holds TEXT, at most a minute.
await() {
    local file=$1 text=$2 tries=0
    until grep -q -- "$text" "$file" 2>/dev/null; do
        tries=$((tries + 1))
        if [ "$tries" -gt 1200 ]; then echo "error: no '$text' in $file after a minute" >&2; exit 1; fi
        sleep 0.05
    done
}

start() {
    mkdir -p "$work/$1"
    at "$1" exec "$bin/sampan" up >"$work/$1/log" 2>&1 &
    pids+=($!)
    await "$work/$1/log" ready
}

# A root file system in three layers: a system, a program, its data.
make_layers() {
    mkdir -p "$work/layers/base/etc" "$work/layers/base/bin" "$work/layers/app/opt" "$work/layers/data/srv"
    echo 'NAME="Sampan demo"' >"$work/layers/base/etc/os-release"
    cp "$bin/sampan-monitord" "$work/layers/base/bin/"
    cp "$bin/sampan-engine" "$work/layers/app/opt/"
    head -c 3000000 /dev/urandom >"$work/layers/data/srv/data"
    for layer in base app data; do
        tar -C "$work/layers/$layer" --owner=0 --group=0 --numeric-owner -cf "$work/$layer.tar" .
    done
}

say 'monitord and engine start, in a private directory'
start pulling
show up
grep -v 'debug' "$work/pulling/log" || true

say 'events are watched from now on'
show 'events'
at pulling exec "$bin/sampan" events >"$work/events" &
pids+=($!)
tail -n +1 -f "$work/events" 2>/dev/null &
tail_pid=$!
pids+=("$tail_pid")

if [ -z "$image" ]; then
    say 'a second installation makes an image of three tars and serves it'
    start serving
    make_layers
    show 'import demo/hello:1 base.tar app.tar data.tar'
    at serving "$bin/sampan" import --quiet --cmd /bin/sampan-monitord demo/hello:1 "$work/base.tar" "$work/app.tar" "$work/data.tar"
    show 'serve --listen 127.0.0.1:0 --rate 2M/s'
    at serving exec "$bin/sampan" serve --listen 127.0.0.1:0 --rate 2M/s >"$work/serve" 2>&1 &
    pids+=($!)
    await "$work/serve" '127\.0\.0\.1:'
    cat "$work/serve"
    image="$(grep -o '127\.0\.0\.1:[0-9]*' "$work/serve" | head -n 1)/demo/hello:1"
fi

say 'the image is pulled: every byte is shown'
show "pull $image"
# Bars redraw their lines; on a terminal, event lines wait until they are done.
if [ -t 1 ]; then kill -STOP "$tail_pid"; fi
at pulling "$bin/sampan" pull "$image"
if [ -t 1 ]; then kill -CONT "$tail_pid"; fi
await "$work/events" 'job done'

say 'what is in the store now'
show images
at pulling "$bin/sampan" images

say 'what monitord knows'
show 'monitor status'
at pulling "$bin/sampan" monitor status

say 'everything stops; nothing stays'
