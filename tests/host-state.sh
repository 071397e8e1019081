#!/bin/sh
# Checks that the tests leave the host unchanged: `make test` calls it before and after them.
#
#   tests/host-state.sh before FILE     writes the state of the host into FILE
#   tests/host-state.sh after FILE      compares the state with FILE; if it differs, prints the differences and fails
#
# The state is: mounts, control groups, users, groups, network namespaces, loop devices, entries of /run, /var/lib and
# /tmp, and running programs. Of control groups, entries of /tmp and programs, only those with names that the tests use
# count, since others change by themselves.
set -eu

# Programs that are expected to be started only by the tests.
programs='sampan|sampan-engine|sampan-monitor|sampan-monitord|sampan-shim|sampan-docker-a|runc|crun|docker-registry|redis-server|nats-server|mosquitto|dockerd|containerd|catatonit'

look() {
    # Without IDs, which the kernel assigns in sequence.
    awk '{ $1 = $2 = $3 = ""; gsub(/(shared|master|propagate_from):[0-9]+ /, ""); print "mount" $0 }' /proc/self/mountinfo
    find /sys/fs/cgroup -mindepth 1 -maxdepth 1 \( -type d -o -type l \) | sed 's/^/control group /'
    find /sys/fs/cgroup -mindepth 2 -type d -name '*sampan*' 2>/dev/null | sed 's/^/control group /'
    stat --format 'control groups %A' /sys/fs/cgroup
    sed 's/^/user /' /etc/passwd
    sed 's/^/group /' /etc/group
    find /run /var/lib -mindepth 1 -maxdepth 1 | sed 's/^/directory entry /'
    find /run/sampan* /run/netns /run/containers /var/lib/sampan* /var/lib/containers -mindepth 1 -maxdepth 2 2>/dev/null |
        sed 's/^/directory entry /' || true
    find /tmp -mindepth 1 -maxdepth 1 \( -name 'sampan*' -o -name '.tmp??????' \) | sed 's/^/directory entry /'
    losetup --all --noheadings --output NAME,BACK-FILE 2>/dev/null | sed 's/^/loop device /' || true
    for process in /proc/[0-9]*; do
        read -r name <"$process/comm" || continue
        if printf '%s\n' "$name" | grep -Eqx "$programs"; then
            echo "process ${process#/proc/} $(tr '\0' ' ' <"$process/cmdline")"
        fi
    done 2>/dev/null
}

# Removes the parent group of containers' control groups, which the OCI runtime keeps for the next container.
remove_parents() {
    find /sys/fs/cgroup -mindepth 1 -maxdepth 2 -type d -name sampan 2>/dev/null | while read -r group; do
        grep -qxF "control group $group" "$1" || rmdir "$group" 2>/dev/null || true
    done
}

case ${1-} in
before) look | sort >"$2" ;;
after)
    remove_parents "$2"
    now=$(mktemp)
    trap 'rm -f "$now"' EXIT
    look | sort >"$now"
    if ! changes=$(diff "$2" "$now"); then
        echo 'error: the tests changed the host (<: missing now, >: new)' >&2
        printf '%s\n' "$changes" | grep '^[<>]' >&2
        echo 'hint: if another program changed it meanwhile, run the tests again' >&2
        exit 1
    fi
    ;;
*)
    echo "usage: tests/host-state.sh before|after FILE" >&2
    exit 2
    ;;
esac
