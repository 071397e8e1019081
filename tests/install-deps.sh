#!/bin/sh
# Installs the Debian packages that the tests need and the host lacks. Starts no service.
set -eu

need=''
while read -r command package; do
    if ! command -v "$command" >/dev/null 2>&1; then need="$need $package"; fi
done <<LIST
docker-registry docker-registry
nginx nginx-light
htpasswd apache2-utils
podman podman
openssl openssl
skopeo skopeo
umoci umoci
jq jq
socat socat
zstd zstd
redis-server redis-server
nats-server nats-server
mosquitto mosquitto
setpriv util-linux
unshare util-linux
mount mount
script bsdutils
newuidmap uidmap
getfattr attr
setfattr attr
tar tar
python3 python3
systemd-analyze systemd
cc gcc
ctr containerd
dockerd docker.io
docker docker.io
curl curl
runc runc
crun crun
debootstrap debootstrap
busybox busybox-static
catatonit catatonit
losetup mount
mkfs.ext4 e2fsprogs
xfs_io xfsprogs
LIST
# A module has no command to look for: docker-py is installed into a virtual environment.
python3 -c 'import ensurepip' 2>/dev/null || need="$need python3-venv"
[ -z "$need" ] && exit 0

fail() {
    echo "error: the tests need$need" >&2
    echo "hint: $1" >&2
    exit 1
}
command -v apt-get >/dev/null 2>&1 || fail 'install them with your package manager; their names are Debian'\''s'
[ "$(id -u)" -eq 0 ] || fail "as root: apt-get install --no-install-recommends$need"

echo "installing for the tests:$need"
# By default, a server's package starts the server; the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
apt-get install -y -q --no-install-recommends $need >/dev/null 2>&1 || {
    apt-get update -q >/dev/null
    apt-get install -y -q --no-install-recommends $need
}
