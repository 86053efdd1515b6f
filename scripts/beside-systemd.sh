# Sourced by what runs beside systemd in a container: how it says what it finds. A script ends
# with exit $failed.
set -u # and no pipefail: grep -q leaves before its left side has ended
unit=gururmm-agent.service
failed=0
own=$(mktemp -d -p /var/tmp) # for its own files, on the disk of /
export HOME=$own

say() { printf '%3d s  %-34s %s\n' $SECONDS "$1" "$2"; }
fail() {
	failed=1
	say "$1" "FAILED: $2"
}
die() {
	fail "$@"
	journalctl --no-pager -n 25 -u $unit -u gururmm.service
	exit 1
}
until_() { # SECONDS COMMAND...: the moment a fact holds
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.2
	done
}
booted() { systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded'; }
show() { systemctl show --property="$1" --value "${2:-$unit}"; }
