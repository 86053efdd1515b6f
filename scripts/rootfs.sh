#!/bin/bash
# Keeps a small Debian in /var/cache/gururmm-lab, to be used by chroot or
# systemd-nspawn, and prints where it is. Made once; a half-made one is made anew.
#
#   scripts/rootfs.sh NAME PACKAGE...
#
# Exit code 3: it can't be had here, and why is said.
set -euo pipefail
name=$1
shift
cache=${GURURMM_LAB_CACHE:-/var/cache/gururmm-lab}
root=$cache/$name
suite=trixie

cannot() {
	echo "rootfs: $1" >&2
	exit 3
}
[ "$(uname -s)/$(uname -m)" = Linux/x86_64 ] || cannot "needs Linux on x86_64, this is $(uname -s) on $(uname -m)"
[ "$(id -u)" = 0 ] || cannot "needs root: it is made by debootstrap and entered by chroot"
command -v apt-get >/dev/null || cannot "needs a Debian or a relative of it"
unshare --mount --pid --fork true 2>/dev/null || cannot "this machine allows no namespaces"

mkdir -p "$cache"
exec 9>"$cache/$name.lock"
flock -w 400 9 || cannot "another run is still making it"
if [ -e "$root.ready" ] && [ "$(cat "$root.ready")" = "$suite $*" ]; then
	echo "$root"
	exit 0
fi
bash "$(dirname "$0")/need.sh" debootstrap unshare >&2 || cannot "debootstrap can't be installed"
[ -e "/usr/share/debootstrap/scripts/$suite" ] || cannot "this debootstrap does not know Debian $suite"

# alone SECONDS COMMAND...: in namespaces that end with it, whatever it has started.
alone() {
	timeout --foreground --signal=KILL "$1" unshare --mount --pid --fork --kill-child --mount-proc "${@:2}" 9>&-
}

make() {
	rm -rf --one-file-system "$root" "$root.ready"
	alone 240 debootstrap --variant=minbase "$suite" "$root" >"$root.log" 2>&1 || return 1
	# Nothing is started inside while it is made.
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
	chmod 755 "$root/usr/sbin/policy-rc.d"
	alone 240 sh -c '
		mount -t proc proc "$1/proc"
		root=$1; shift
		export DEBIAN_FRONTEND=noninteractive
		chroot "$root" apt-get install -y -qq --no-install-recommends -o Acquire::Retries=3 "$@" &&
			chroot "$root" apt-get clean' sh "$root" "$@" >>"$root.log" 2>&1 || return 1
	rm "$root/usr/sbin/policy-rc.d"
}

for try in 1 2 3; do
	echo "rootfs: makes $root (Debian $suite with $*), about a minute" >&2
	if make "$@"; then
		echo "$suite $*" >"$root.ready"
		echo "$root"
		exit 0
	fi
	echo "rootfs: try $try failed; the end of $root.log:" >&2
	tail -5 "$root.log" >&2
	sleep $((try * 5))
done
cannot "it could not be made: see $root.log"
