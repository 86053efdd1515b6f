#!/bin/bash
# Builds the packages and lets them live: the debs under a real systemd, the first process of
# a container; the rpms by rpm's own tools; the msi under Wine. And asks lintian and rpmlint. What
# was not tested is left in bin/packages.untested: see scripts/container.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
what=packages building=1200 living=400 looking=120 wining=600
running=$((living + looking))
. scripts/container.sh
# The linters live in the container too: rpmlint unpacks what it looks at, and not only where it should.
have packages systemd systemd-sysv dbus procps sudo ca-certificates lintian rpmlint rpm cpio shellcheck libarchive-tools nodejs
sh scripts/need.sh go npm msibuild gcab

began=$SECONDS
export SOURCE_DATE_EPOCH=1767225600
go build -o "$work/installer" ./installer
# The release that is tested, whole; then one before and one after it, as far as they are needed.
timeout $building "$work/installer" --version 1.1.0 --out "$work/1.1.0" >/dev/null
timeout $building "$work/installer" --version 1.0.0 --arch amd64 --out "$work/1.0.0" >/dev/null
timeout $building "$work/installer" --version 1.2.0-rc.1 --arch amd64 --products gururmm-agent --out "$work/1.2.0-rc.1" >/dev/null
# The same order gives the same bytes, whoever builds it and where: a copy of the source in another folder, with another
# account's home and umask, in another time zone and language; one product from an empty cache too.
mkdir -p "$work/elsewhere/a copy"
git ls-files -z | xargs -0 cp --parents -t "$work/elsewhere/a copy"
elsewhere() { # GOCACHE ARGUMENT...
	(cd "$work/elsewhere/a copy" && umask 077 && modules=$(go env GOMODCACHE) && cache=$1 && shift &&
		env -i PATH="$PATH" HOME="$work/elsewhere" GOMODCACHE="$modules" GOCACHE="$cache" GOPROXY=off GOTOOLCHAIN=local \
			TZ=Pacific/Kiritimati LC_ALL=C SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH \
			timeout $building "$work/installer" --version 1.1.0 "$@" >/dev/null)
}
elsewhere "$(go env GOCACHE)" --out "$work/again"
elsewhere "$work/elsewhere/cache" --products gururmm-agent --arch amd64 --formats deb,rpm --out "$work/fresh"
diff -r "$work/1.1.0" "$work/again" || { echo "packages: FAILED: the same order gave other bytes in another folder" >&2; exit 1; }
(cd "$work/1.1.0" && sha256sum --quiet --check SHA256SUMS && sha256sum --quiet --check "$work/fresh/SHA256SUMS") ||
	{ echo "packages: FAILED: an empty cache gave other bytes" >&2; exit 1; }
chmod -R u+w "$work/elsewhere" && rm -r "$work/elsewhere" "$work/again"
echo "$((SECONDS - began)) s  built; $(find "$work/1.1.0" -type f | wc -l) files of one release, the same bytes in another folder; $(wc -l <"$work/fresh/SHA256SUMS") of them from an empty cache too"

# The image's program is the packages' own. There is no Docker here: the build line alone is run.
line=$(sed -n '/^RUN .*go build/,/[^\\]$/p' docs/deploy/Dockerfile | sed "s|^RUN ||; s|/out/|$work/image/|")
VERSION=v1.1.0 TARGETOS=linux TARGETARCH=amd64 sh -ec "$line"
dpkg-deb --fsys-tarfile "$work"/1.1.0/gururmm-server_1.1.0-1_amd64.deb | tar -xO ./usr/bin/gururmm | cmp - "$work/image/gururmm" ||
	{ echo "packages: FAILED: docs/deploy/Dockerfile builds another program than the packages have" >&2; exit 1; }
echo "$((SECONDS - began)) s  the Dockerfile's build line gives the packages' program"

# A reader of bills that has nothing in common with our writer: the npm package lsbom, by its hash.
(cd "$work" && timeout --kill-after=15 $installing npm pack --silent lsbom@1.0.1 >/dev/null &&
	echo "7c7dc4d8032c998f35cd119387393d01d345f211dd722321307672b7d0449e83  lsbom-1.0.1.tgz" | sha256sum --quiet --check &&
	mkdir lsbom && tar -xzf lsbom-1.0.1.tgz -C lsbom --strip-components=1) || untested "the npm package lsbom can't be had here"

cp scripts/packages-lint.sh scripts/rpmlint.toml "$work/"
boot scripts/packages-inside.sh
code=0
inside $living inside.sh || code=1
inside $looking packages-lint.sh || code=1

# The msi, in the chroot that scripts/windows.sh has too.
if ! wine=$(timeout --kill-after=15 $making bash scripts/rootfs.sh wine wine64); then
	[ $code = 0 ] || exit 1
	untested "Wine can't be had here (see above)"
fi
mkdir -p "$work/wine/bin"
cp scripts/wine*.sh scripts/packages-wine.sh scripts/packages-msi.sh "$work/wine/"
for version in 1.0.0 1.1.0 1.2.0-rc.1; do
	mkdir "$work/wine/$version"
	cp "$work/$version"/*-x64.msi "$work/wine/$version/"
done
CGO_ENABLED=0 go build -trimpath -o "$work/wine/bin/" ./cmd/gururmm
GOOS=windows CGO_ENABLED=0 go build -o "$work/wine/bin/suspend.exe" scripts/testdata/suspend.go
"$work/wine/bin/gururmm" update keygen --no-password --out "$work/wine/release.key" >/dev/null
timeout --foreground --kill-after=10 $((wining + 10)) bash scripts/wine-chroot.sh "$wine" "$work/wine" packages-wine.sh $wining || code=1
if [ $code = 0 ] && [ -s "$work/wine/out/untested" ]; then untested "$(cat "$work/wine/out/untested")"; fi
exit $code
