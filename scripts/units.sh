#!/bin/sh
# Lets systemd itself check the unit and its stricter drop-in, as packages get them.
set -eu
cd "$(dirname "$0")/.."
if [ "$(uname -s)" != Linux ]; then
	echo "units: only systemd's own tool can check them, and it runs on Linux only"
	exit 0
fi
sh scripts/need.sh go systemd-analyze
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
CGO_ENABLED=0 go build -o "$dir/gururmm-agent" ./cmd/gururmm-agent
unit="$dir/gururmm-agent.service"

check() { # title
	# It warns of what it does not know, and exits 0.
	SYSTEMD_LOG_LEVEL=warning systemd-analyze verify --man=no "$unit" >"$dir/out" 2>&1 || true
	if grep -F gururmm-agent "$dir/out" >&2; then
		echo "units: systemd-analyze finds fault with $1" >&2
		exit 1
	fi
}

for state in "" "/srv/a state/100%"; do
	"$dir/gururmm-agent" service-definition systemd --program "$dir/gururmm-agent" --state-dir "$state" >"$unit"
	check "the unit"
	mkdir -p "$unit.d"
	"$dir/gururmm-agent" service-definition systemd-hardened --state-dir "$state" >"$unit.d/hardened.conf"
	check "hardened.conf"
	rm -r "$unit.d"
done
# The server's, with a program that is here.
sed "s#^ExecStart=[^ ]*#ExecStart=$dir/gururmm-agent#" installer/files/gururmm.service >"$dir/gururmm.service"
SYSTEMD_LOG_LEVEL=warning systemd-analyze verify --man=no "$dir/gururmm.service" >"$dir/out" 2>&1 || true
if grep -F gururmm.service "$dir/out" >&2; then
	echo "units: systemd-analyze finds fault with the server's unit" >&2
	exit 1
fi
# It can fail: a word that is none must be found.
echo "Nonsense=yes" >>"$unit"
if (check "an unknown word") 2>/dev/null; then
	echo "units: systemd-analyze found no fault with an unknown word" >&2
	exit 1
fi
echo "units: systemd-analyze finds no fault"
