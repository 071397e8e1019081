#!/bin/sh
# Whether the tests leave the host as they found it: `make test` calls it before and after them.
#
#   tests/host-state.sh before FILE     writes what the host looks like into FILE
#   tests/host-state.sh after FILE      compares; fails with what is new, and what is gone
#
# Looks at mounts, control groups, users, groups, network namespaces, loop devices, at what lies in /run, /var/lib and
# /tmp, and at programs that the tests start. Of control groups, /tmp and programs it sees those alone whose names are the
# tests' own: others come and go by themselves.
set -eu

# Programs that nothing but the tests would start here.
programs='sampan|sampan-engine|sampan-monitor|sampan-monitord|sampan-shim|runc|crun|docker-registry|redis-server|nats-server|mosquitto|dockerd|containerd|catatonit'

look() {
    # Without the numbers that the kernel counts up.
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

# The OCI runtime makes this group for those of containers, and leaves it to the next container. Here comes none.
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
        echo 'error: the tests did not leave the host as it was (<: gone, >: new)' >&2
        printf '%s\n' "$changes" | grep '^[<>]' >&2
        echo 'hint: somebody else may have changed it meanwhile; then run the tests again' >&2
        exit 1
    fi
    ;;
*)
    echo "usage: tests/host-state.sh before|after FILE" >&2
    exit 2
    ;;
esac
