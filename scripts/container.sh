# Sourced by what tests in a container whose first process is a real systemd. Before that:
#   what=NAME     of the test, for words and for bin/NAME.untested
#   running=S     how long all that is run inside may take, in seconds
#
# Without root on a Debian the test says that it did not run and goes on, unless CI is set:
# there it must run.
mark=$PWD/bin/$what.untested
mkdir -p bin
rm -f "$mark"

# Limits in seconds: a mirror that hangs must not hang a test run.
making=500 installing=120

# untested WHY: the container can't be had, which says nothing of what is tested.
untested() {
	if [ -n "${CI:-}" ]; then
		echo "$what: FAILED: $1, and with CI set this must run" >&2
		exit 1
	fi
	echo "$what: NOT TESTED: $1" | tee "$mark"
	exit 0
}

# have NAME PACKAGE...: the container, $root, with these, and $work, which it will have as /mnt.
have() {
	root=$(timeout --kill-after=15 $making bash scripts/rootfs.sh "$@") ||
		untested "a container can't be had here (see above)"
	timeout --kill-after=15 $installing sh scripts/need.sh systemd-nspawn nsenter unshare pgrep ||
		untested "systemd-nspawn can't be had here (see above)"
	work=$(mktemp -d)
	container=""
	trap cleanup EXIT
}

cleanup() {
	# Its namespace ends with the child of timeout, and all that is in it; timeout itself,
	# killed, would leave both.
	[ -z "$container" ] || { pkill -KILL -P "$container"; wait "$container"; } 2>/dev/null || true
	rm -rf "$work" "$work.console"
}

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

# boot SCRIPT: starts the container, with SCRIPT as /mnt/inside.sh. What is written inside goes
# to memory and is gone afterwards.
boot() {
	cp "$1" "$work/inside.sh"
	cp scripts/beside-systemd.sh "$work/"
	timeout --kill-after=5 $((running + 70)) unshare --mount --pid --fork --kill-child --mount-proc systemd-nspawn --quiet \
		--directory="$root" --volatile=overlay --boot --private-network --machine="gururmm-$what" \
		--register=no --keep-unit --console=pipe --bind-ro="$work:/mnt" \
		</dev/null >"$work.console" 2>&1 &
	container=$!
	for _ in $(seq 300); do
		init=$(leader) && return
		kill -0 "$container" 2>/dev/null || break
		sleep 0.2
	done
	echo "$what: the container does not start:" >&2
	cat "$work.console" >&2
	untested "systemd-nspawn does not run here (see above)"
}

# inside SECONDS SCRIPT: runs /mnt/SCRIPT there.
inside() {
	local code=0
	timeout --kill-after=5 "$1" nsenter --target "$init" --all env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 bash "/mnt/$2" || code=$?
	[ $code != 124 ] && [ $code != 137 ] || echo "$what: FAILED: $2 is not done within $1 s" >&2
	return $code
}
