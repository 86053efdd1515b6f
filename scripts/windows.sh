#!/bin/bash
# Runs the Windows build under Wine: the unit tests of the packages that an
# endpoint consists of, then a real agent against a real server on loopback.
#
#   scripts/windows.sh [PACKAGE...]     with packages: only their unit tests
#
# Wine is no Windows: what passes here is built and called right; what only
# Windows can show is listed in docs/operations.md.
#
# Without root on a Debian this says so and goes on, unless CI is set: there it must run.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! root=$(bash scripts/rootfs.sh wine wine64); then
	[ -z "${CI:-}" ] || exit 1
	echo "windows: NOT TESTED: Wine can't be had here (see above)"
	exit 0
fi
sh scripts/need.sh go git ip unshare

# internal/tcpinfo: its tests are about what the Linux kernel tells of a connection.
packages=$*
[ -n "$packages" ] || packages=$(GOOS=windows go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' \
	./wire ./selfcheck/... ./oob ./session ./agent/... ./internal/... ./cmd/gururmm-agent | sed 's|^gururmm/||' | grep -vx internal/tcpinfo)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/bin" "$work/src" "$work/out"
ld="-s -w"
GOOS=windows CGO_ENABLED=0 go build -trimpath -ldflags "$ld" -o "$work/bin/" ./cmd/gururmm-agent
CGO_ENABLED=0 go build -trimpath -ldflags "$ld" -o "$work/bin/" ./cmd/gururmm
for p in $packages; do
	GOOS=windows CGO_ENABLED=0 go test -c -ldflags "-s -w" -o "$work/bin/${p//\//+}.test.exe" "./$p"
done
cp scripts/windows-inside.sh "$work/inside.sh"

# Namespaces of its own: nothing in it outlives this, and its loopback is nobody else's.
timeout --kill-after=10 480 unshare --mount --pid --net --fork --kill-child bash -c '
	set -e
	root=$1 work=$2
	ip link set lo up
	mount -t proc proc "$root/proc"
	mount --rbind /dev "$root/dev"
	mount -t tmpfs tmpfs "$root/tmp"
	mount --bind "$work" "$root/mnt"
	mount --bind . "$root/mnt/src"
	mount -o remount,bind,ro "$root/mnt/src"
	exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin bash /mnt/inside.sh $3
' sh "$root" "$work" "$([ $# = 0 ] || echo tests)"
