#!/bin/sh
# Runs a command with its temporary files in memory: inmemory.sh COMMAND [ARG ...]
#
# Tests that sync to a disk thousands of times wait for it most of their time, and none of
# them cuts the power: what a killed process has written is kept in memory as well. Where
# there is no file system in memory with room and leave to run programs, it is the disk.
# Builds keep to the disk: their files are large.
set -eu
room=4194304 # KB, of which the tests take a quarter
dir=
if [ "$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 {print ($1 == "tmpfs") * $4}')" -ge "$room" ] 2>/dev/null; then
	dir=$(mktemp -d /dev/shm/gt.XXXXXX 2>/dev/null) || dir=
fi
if [ -n "$dir" ]; then
	chmod 755 "$dir" # a database server is another user
	printf '#!/bin/sh\n' >"$dir/run" && chmod 755 "$dir/run"
	if "$dir/run" 2>/dev/null; then
		export GOTMPDIR="${GOTMPDIR:-${TMPDIR:-/tmp}}" TMPDIR="$dir"
	fi
	rm -f "$dir/run"
	trap 'rm -rf "$dir"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
fi
"$@"
