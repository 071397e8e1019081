#!/usr/bin/env bash
# Shows the main functions in a minute: watch events, pull with live progress, list, run. Needs no internet and no
# server.
#
#   tests/demo.sh BIN-DIR [IMAGE]
#
# Two complete installations run side by side in a private directory: one makes an image of three layers and
# serves it as a registry at 2 MiB/s, the other pulls it. With IMAGE, the demo pulls IMAGE from its registry instead.
# If the user is root and crun or runc is installed, a container runs too. Leaves nothing on the host.
set -euo pipefail

bin=$(cd "$1" && pwd)
image=${2:-}
work=$(mktemp -d "${TMPDIR:-/tmp}/sampan-demo.XXXXXX")
pids=()
has_containers=
container=

finish() {
    status=$?
    trap '' INT TERM
    end_containers || true
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    if [ "$status" -ne 0 ]; then cat "$work"/*/log >&2 2>/dev/null || true; fi
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

# A container outlives the engine: if the demo fails while no engine is running, this starts one to remove the
# container.
end_containers() {
    [ -n "$has_containers" ] || return 0
    at pulling "$bin/sampan" info >/dev/null 2>&1 || start pulling
    at pulling "$bin/sampan" ps -aq | while read -r id; do at pulling "$bin/sampan" rm --force "$id" >/dev/null; done
    has_containers=
}

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { printf '$ sampan %s\n' "$*"; }

# Runs CMD in the installation NAME: at NAME CMD... An installation consists of three directories. In the background,
# CMD must begin with `exec`, so that a signal to the job reaches the program and not a shell around it.
at() {
    local name=$1
    shift
    SAMPAN_RUN_DIR="$work/$name/run" SAMPAN_STATE_DIR="$work/$name/state" SAMPAN_DATA_DIR="$work/$name/data" "$@"
}

# Waits at most a minute until FILE contains TEXT: await FILE TEXT
await() {
    local file=$1 text=$2 tries=0
    until grep -q -- "$text" "$file" 2>/dev/null; do
        tries=$((tries + 1))
        if [ "$tries" -gt 1200 ]; then echo "error: no '$text' in $file after a minute" >&2; return 1; fi
        sleep 0.05
    done
}

start() {
    mkdir -p "$work/$1"
    # Emptied before the job starts, since the log of an earlier start also contains 'ready'.
    : >"$work/$1/log"
    at "$1" exec "$bin/sampan" up >>"$work/$1/log" 2>&1 &
    pids+=($!)
    await "$work/$1/log" ready
}

# Makes a root file system in three layers: a system, a program, its data.
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

# Makes the root file system of a container: one static program, /bin/serve. It is a script of busybox if the host has
# busybox, otherwise a C program.
make_program() {
    local root="$work/program"
    mkdir -p "$root/bin"
    busybox=$(command -v busybox || true)
    if [ -n "$busybox" ] && cp -L "$busybox" "$root/bin/busybox" && chroot "$root" /bin/busybox true 2>/dev/null; then
        cat >"$root/bin/serve" <<'SH'
#!/bin/busybox sh
if [ $# -gt 0 ]; then echo "$*"; exit 0; fi
trap 'echo bye; exit 0' TERM
echo serving
while :; do busybox sleep 60 & wait; done
SH
        chmod 755 "$root/bin/serve"
    else
        rm -f "$root/bin/busybox"
        cat >"$work/serve.c" <<'C'
#include <signal.h>
#include <stdio.h>
int main(int count, char **words) {
    sigset_t end;
    int signal;
    for (int i = 1; i < count; i++) printf("%s%c", words[i], i + 1 < count ? ' ' : '\n');
    if (count > 1) return 0;
    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigprocmask(SIG_BLOCK, &end, NULL);
    puts("serving");
    fflush(stdout);
    sigwait(&end, &signal);
    puts("bye");
    return 0;
}
C
        "${CC:-cc}" -static -o "$root/bin/serve" "$work/serve.c" 2>/dev/null || return 1
    fi
    tar -C "$root" --owner=0 --group=0 --numeric-owner -cf "$work/program.tar" .
}

# Prints the reason if no container can run on this host.
what_lacks() {
    if [ "$(id -u)" -ne 0 ]; then
        echo 'they need root, and the demo runs as an ordinary user'
    elif ! command -v crun >/dev/null && ! command -v runc >/dev/null; then
        echo 'neither crun nor runc is in PATH'
    elif ! make_program; then
        echo 'there is neither a static busybox nor a C compiler that links statically'
    fi
}

# Prints and runs `sampan ARGS` in the installation that pulls.
try() {
    show "$*"
    at pulling "$bin/sampan" "$@"
}

run_container() {
    say 'a container runs'
    at pulling "$bin/sampan" import --quiet --cmd /bin/serve demo/serve:1 "$work/program.tar" >/dev/null
    has_containers=yes
    show 'run --detach --name web demo/serve:1'
    container=$(at pulling "$bin/sampan" run --detach --name web demo/serve:1)
    echo "$container"
    try ps
    try exec web serve hello from within
    wait_for_log
    try logs --timestamps web

    say 'the engine is killed with kill -9; the container keeps running, and the next engine finds it'
    engine=$(at pulling "$bin/sampan" info | sed -n 's/^engine .*process \([0-9]*\).*/\1/p')
    kill -KILL "$engine"
    wait "${pids[0]}" 2>/dev/null || true
    unset 'pids[0]'
    start pulling
    await "$work/pulling/log" 'container web'
    grep 'container web' "$work/pulling/log"
    try ps

    say 'the container is stopped; its events tell its whole life, from create to destroy'
    try stop web
    try logs web
    try rm web
    has_containers=
    show "events --since 10m --no-follow --filter type=container"
    at pulling "$bin/sampan" events --since 10m --no-follow --filter type=container |
        sed "s/$container/${container:0:12}…/; s/execID=[0-9a-f]*/execID=…/"
    nothing_is_left
}

# Waits until the container has written its first line, which is then in its log.
wait_for_log() {
    at pulling exec "$bin/sampan" logs --follow web >"$work/output" &
    follower=$!
    pids+=("$follower")
    await "$work/output" serving
    kill "$follower" && wait "$follower" || true
    unset 'pids[-1]'
}

nothing_is_left() {
    local left
    left=$(grep -F "$work" /proc/mounts || true; find /sys/fs/cgroup -type d -name "*$container*" 2>/dev/null || true
        find "$work/pulling" -name "*$container*")
    if [ -n "$left" ]; then printf 'error: the container left something over:\n%s\n' "$left" >&2; exit 1; fi
    echo 'nothing is left of the container: no mount, no control group, no file'
}

say 'monitord and engine start, in a private directory'
start pulling
show up
grep -v 'debug' "$work/pulling/log" || true

say 'a subscriber watches events from now on'
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
    await "$work/serve" 'serving on .*:[0-9]'
    cat "$work/serve"
    image="$(sed -n 's/^serving on //p' "$work/serve")/demo/hello:1"
fi

say 'the image is pulled: every byte is shown'
show "pull $image"
# Progress bars redraw their lines, so on a terminal the event lines are printed after the pull.
if [ -t 1 ]; then kill -STOP "$tail_pid"; fi
at pulling "$bin/sampan" pull "$image"
if [ -t 1 ]; then kill -CONT "$tail_pid"; fi
await "$work/events" 'job done'

say 'the store now contains'
show images
at pulling "$bin/sampan" images

lacks=$(what_lacks)
if [ -n "$lacks" ]; then say "containers are left out: $lacks"; else run_container; fi

say 'the status of monitord'
show 'monitor status'
at pulling "$bin/sampan" monitor status

say 'everything stops; nothing is left'
