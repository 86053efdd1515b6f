#!/bin/bash
# Builds the packages and lets them live: the debs under a real systemd, the first process of
# a container; the rpms by rpm's own tools. And asks lintian and rpmlint. What was not tested is
# left in bin/packages.untested: see scripts/container.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
what=packages building=300 living=400 looking=120
running=$((living + looking))
. scripts/container.sh
# The linters live in the container too: rpmlint unpacks what it looks at, and not only where it should.
have packages systemd systemd-sysv dbus procps sudo ca-certificates lintian rpmlint rpm cpio shellcheck libarchive-tools
sh scripts/need.sh go

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

cp scripts/packages-lint.sh scripts/rpmlint.toml "$work/"
boot scripts/packages-inside.sh
code=0
inside $living inside.sh || code=1
inside $looking packages-lint.sh || code=1
exit $code
