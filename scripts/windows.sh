#!/bin/bash
# Runs the Windows build under Wine: the unit tests of the packages that an
# endpoint consists of, then a real agent against a real server on loopback.
#
#   scripts/windows.sh [PACKAGE...]     with packages: only their unit tests
#
# Wine is no Windows: what passes here is built and called right; what only
# Windows can show is listed in docs/operations.md.
#
# Where Wine itself breaks off and does so again in a fresh prefix, what it kept from
# being tested is named, and that is no failure; a test that fails is. Without root on
# a Debian this says so and goes on, unless CI is set: there it must run. What was not
# tested is left in bin/windows.untested too.
set -euo pipefail
cd "$(dirname "$0")/.."
self=$PWD/scripts/windows.sh
mark=$PWD/bin/windows.untested

# The whole has a limit, in seconds: a mirror that hangs must not hang a test run. So
# has what may be installed, and what is begun under Wine, whatever that took.
limit=1000 making=500 running=440
if [ -z "${GURURMM_WINDOWS_BOUNDED:-}" ]; then
	mkdir -p bin
	rm -f "$mark"
	GURURMM_WINDOWS_BOUNDED=1 timeout --kill-after=15 $limit bash "$self" "$@" &
	trap 'kill $! 2>/dev/null' INT TERM
	wait $! && exit 0
	code=$?
	[ $code != 124 ] && [ $code != 137 ] || echo "windows: FAILED: not done within $limit s" >&2
	exit $code
fi

# untested WHAT: said at the end, and left for whoever sums up.
untested() { echo "windows: NOT TESTED: $1" | tee -a "$mark" || true; }

if ! root=$(timeout --kill-after=15 $making bash scripts/rootfs.sh wine wine64); then
	if [ -n "${CI:-}" ]; then
		echo "windows: FAILED: Wine can't be had here (see above), and with CI set this must run" >&2
		exit 1
	fi
	untested "Wine can't be had here (see above); the Windows build was only vetted"
	exit 0
fi
sh scripts/need.sh go git ip unshare

packages=$*
[ -n "$packages" ] || packages=$(GOOS=windows go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' \
	./wire ./selfcheck/... ./oob ./session ./agent/... ./internal/... ./cmd/gururmm-agent | sed 's|^gururmm/||')

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/bin"
ld="-s -w"
GOOS=windows CGO_ENABLED=0 go build -trimpath -ldflags "$ld" -o "$work/bin/" ./cmd/gururmm-agent
CGO_ENABLED=0 go build -trimpath -ldflags "$ld" -o "$work/bin/" ./cmd/gururmm
if [ $# = 0 ]; then # a version to roll out
	update=$work/bin/update-v1.1.0.exe
	GOOS=windows CGO_ENABLED=0 go build -trimpath -tags=faults -ldflags "$ld -X gururmm/internal/version.Version=v1.1.0" -o "$update" ./cmd/gururmm-agent
	"$work/bin/gururmm" update keygen --no-password --out "$work/release.key" >/dev/null
	"$work/bin/gururmm" update sign --key "$work/release.key" --version v1.1.0 "$update" >/dev/null
fi
for p in $packages; do
	GOOS=windows CGO_ENABLED=0 go test -c -ldflags "-s -w" -o "$work/bin/${p//\//+}.test.exe" "./$p"
done
cp scripts/windows-inside.sh scripts/windows-agent.sh scripts/wine*.sh "$work/"

left=$((limit - SECONDS - 20))
code=0
timeout --foreground --kill-after=10 $((limit - SECONDS)) bash scripts/wine-chroot.sh "$root" "$work" windows-inside.sh \
	$((left < running ? left : running)) $([ $# = 0 ] || echo tests) || code=$?
while IFS= read -r line; do untested "$line"; done <"$work/out/untested"
exit $code
