#!/bin/bash
# Builds the packages and lets them live: the debs under a real systemd, the first process of
# a container; the rpms by rpm's own tools. And asks lintian and rpmlint.
#
# Without root on a Debian this says so and goes on, unless CI is set: there it must
# run. What was not tested is left in bin/packages.untested too.
set -euo pipefail
cd "$(dirname "$0")/.."
mark=$PWD/bin/packages.untested
mkdir -p bin
rm -f "$mark"

# Limits in seconds: a mirror that hangs must not hang a test run.
making=300 installing=120 building=300 running=400

# untested WHAT: the container can't be had, which says nothing of the packages.
untested() {
	if [ -n "${CI:-}" ]; then
		echo "packages: FAILED: $1, and with CI set this must run" >&2
		exit 1
	fi
	echo "packages: NOT TESTED: $1" | tee "$mark"
	exit 0
}

# The linters live in the container too: rpmlint unpacks what it looks at, and not only where it should.
root=$(timeout --kill-after=15 $making bash scripts/rootfs.sh packages systemd systemd-sysv dbus procps sudo ca-certificates lintian rpmlint rpm cpio shellcheck libarchive-tools) ||
	untested "a container can't be had here (see above)"
timeout --kill-after=15 $installing sh scripts/need.sh systemd-nspawn nsenter unshare pgrep ||
	untested "systemd-nspawn can't be had here (see above)"
sh scripts/need.sh go

work=$(mktemp -d)
container=""
cleanup() {
	# Its namespace ends with the child of timeout, and all that is in it; timeout itself,
	# killed, would leave both.
	[ -z "$container" ] || { pkill -KILL -P "$container"; wait "$container"; } 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT

began=$SECONDS
export SOURCE_DATE_EPOCH=1767225600
go build -o "$work/installer" ./installer
# The release that is tested, whole; then one before and one after it, as far as they are needed.
timeout $building "$work/installer" --version 1.1.0 --out "$work/1.1.0" >/dev/null
timeout $building "$work/installer" --version 1.0.0 --arch amd64 --out "$work/1.0.0" >/dev/null
timeout $building "$work/installer" --version 1.2.0-rc.1 --arch amd64 --products gururmm-agent --out "$work/1.2.0-rc.1" >/dev/null
# Two builds of the same are the same: the program from a fresh cache would take minutes, so the packing is what is repeated.
timeout $building "$work/installer" --version 1.1.0 --out "$work/again" >/dev/null
diff -r "$work/1.1.0" "$work/again" || { echo "packages: FAILED: the same order gave other bytes" >&2; exit 1; }
(cd "$work/1.1.0" && sha256sum --quiet --check SHA256SUMS)
echo "$((SECONDS - began)) s  built; $(find "$work/1.1.0" -type f | wc -l) files of one release, the same bytes twice"

cp scripts/packages-inside.sh "$work/inside.sh"
cp scripts/packages-lint.sh scripts/rpmlint.toml "$work/"

# What is written inside goes to memory and is gone afterwards.
timeout --kill-after=5 $((running + 70)) unshare --mount --pid --fork --kill-child --mount-proc systemd-nspawn --quiet \
	--directory="$root" --volatile=overlay --boot --private-network --machine=gururmm-packages \
	--register=no --keep-unit --console=pipe --bind-ro="$work:/mnt" \
	</dev/null >"$work.console" 2>&1 &
container=$!

# leader is the container's first process: the one whose child is systemd.
leader() {
	local pid
	for pid in $(pgrep -x systemd); do
		if [ "$pid" != 1 ] && [ -e "/proc/$pid/root/mnt/inside.sh" ] && cmp -s "/proc/$pid/root/mnt/inside.sh" "$work/inside.sh"; then
			echo "$pid"
			return 0
		fi
	done
	return 1
}
for _ in $(seq 300); do
	init=$(leader) && break
	kill -0 "$container" 2>/dev/null || break
	sleep 0.2
done
if [ -z "${init:-}" ]; then
	echo "packages: the container does not start:" >&2
	cat "$work.console" >&2
	rm -f "$work.console"
	untested "systemd-nspawn does not run here (see above)"
fi
rm -f "$work.console"
inside() { # SECONDS SCRIPT
	local code=0
	timeout --kill-after=5 "$1" nsenter --target "$init" --all env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 bash "/mnt/$2" || code=$?
	[ $code != 124 ] && [ $code != 137 ] || echo "packages: FAILED: $2 is not done within $1 s" >&2
	return $code
}
code=0
inside $running inside.sh || code=1
inside 120 packages-lint.sh || code=1
exit $code
