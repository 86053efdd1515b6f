#!/bin/bash
# Runs a script in the chroot with Wine, in namespaces of its own: nothing in them outlives it,
# and their loopback is nobody else's.
#
#   scripts/wine-chroot.sh ROOT WORK SCRIPT [ARGUMENT...]
#
# WORK is /mnt there, with SCRIPT in it; the sources are /mnt/src, read only.
set -euo pipefail
mkdir -p "$2/out" "$2/src"
: >"$2/out/untested"
exec unshare --mount --pid --net --fork --kill-child bash -c '
	set -e
	root=$1 work=$2
	shift 2
	ip link set lo up
	mount -t proc proc "$root/proc"
	mount --rbind /dev "$root/dev"
	mount -t tmpfs tmpfs "$root/tmp"
	mount --bind "$work" "$root/mnt"
	mount --bind . "$root/mnt/src"
	mount -o remount,bind,ro "$root/mnt/src"
	script=$1
	shift
	exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin bash "/mnt/$script" "$@"
' sh "$@"
