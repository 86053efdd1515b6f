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
self=$PWD/scripts/windows.sh

# The whole has a limit: a mirror that hangs must not hang a test run.
limit=720
if [ -z "${GURURMM_WINDOWS_BOUNDED:-}" ]; then
	GURURMM_WINDOWS_BOUNDED=1 timeout --kill-after=15 $limit bash "$self" "$@" &
	trap 'kill $! 2>/dev/null' INT TERM
	wait $! && exit 0
	code=$?
	[ $code != 124 ] && [ $code != 137 ] || echo "windows: FAILED: not done within $limit s" >&2
	exit $code
fi

if ! root=$(bash scripts/rootfs.sh wine wine64); then
	if [ -n "${CI:-}" ]; then
		echo "windows: FAILED: Wine can't be had here (see above), and with CI set this must run" >&2
		exit 1
	fi
	echo "windows: NOT TESTED: Wine can't be had here (see above); the Windows build was only vetted"
	exit 0
fi
sh scripts/need.sh go git ip unshare

packages=$*
[ -n "$packages" ] || packages=$(GOOS=windows go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' \
	./wire ./selfcheck/... ./oob ./session ./agent/... ./internal/... ./cmd/gururmm-agent | sed 's|^gururmm/||')

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
timeout --foreground --kill-after=10 480 unshare --mount --pid --net --fork --kill-child bash -c '
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
