# newer OLD: that version is newer than this one. sort knows ~ as rpm does.
newer() { [ "$1" != "@VERSION@" ] && [ "$(printf '%s\n%s\n' "$1" "@VERSION@" | sort -V | tail -n 1)" = "$1" ]; }
action=install old=
if [ "${1:-1}" -gt 1 ]; then
	action=upgrade
	# The program says it, for rpm's own database is in use. v1.2.3-rc.1 is 1.2.3~rc.1 here.
	old=$(/usr/bin/@COMMAND@ --version 2>/dev/null | sed -n '1s|.* v\([0-9][^ ]*\)$|\1|p' | sed 's|-|~|; s|-|_|g') || old=
fi
judge
