#!/bin/bash
# The part of scripts/packages.sh that looks at packages without installing them on a
# running system. /mnt holds the packages.
. /mnt/beside-systemd.sh
debs=(/mnt/1.1.0/*.deb) rpms=(/mnt/1.1.0/*.rpm)
[ ${#debs[@]} = 4 ] && [ ${#rpms[@]} = 4 ] || fail "packages" "${debs[*]} ${rpms[*]}"

lintian --allow-root --fail-on error,warning --tag-display-limit 0 "${debs[@]}" >$own/out 2>&1 || fail "lintian" "$(cat $own/out)"
say "lintian" "$(lintian --version), ${#debs[@]} packages"
for rpm in "${rpms[@]}"; do
	rpmlint --strict --config /mnt/rpmlint.toml "$rpm" >$own/out 2>&1 || fail "rpmlint" "$(cat $own/out)"
	grep -q ' 0 errors, 0 warnings' $own/out || fail "rpmlint" "$rpm: $(cat $own/out)"
done
say "rpmlint" "$(rpmlint --version), ${#rpms[@]} packages"

# Maintainer scripts: of the deb as they lie in it, of the rpm as rpm gives them to sh.
for deb in "${debs[@]}"; do
	rm -rf $own/x
	dpkg-deb --raw-extract "$deb" $own/x
	for s in preinst postinst prerm postrm; do
		shellcheck --shell=dash "$own/x/DEBIAN/$s" >$own/out || fail "shellcheck" "$deb, $s: $(cat $own/out)"
		dash -n "$own/x/DEBIAN/$s" || fail "dash" "$deb, $s"
	done
done
for rpm in "${rpms[@]}"; do
	for s in PREIN POSTIN PREUN POSTUN; do
		rpm -qp --nosignature --qf "%{$s}" "$rpm" >$own/s.sh
		[ -s $own/s.sh ] || fail "scripts" "$rpm has no $s"
		shellcheck --shell=dash $own/s.sh >$own/out || fail "shellcheck" "$rpm, $s: $(cat $own/out)"
	done
done
say "scripts" "shellcheck and dash find no fault"

# The package for macOS, by readers that know nothing of us: libarchive checks the sums.
rm -rf $own/x && mkdir -p $own/x/payload $own/x/scripts
pkg=/mnt/1.1.0/gururmm-agent-1.1.0.pkg
bsdtar -x -f $pkg -C $own/x || fail "pkg" "libarchive does not read it"
(cd $own/x/payload && zcat ../gururmm-agent.pkg/Payload | cpio --quiet -id --no-absolute-filenames) || fail "pkg" "cpio does not read the payload"
(cd $own/x/scripts && zcat ../gururmm-agent.pkg/Scripts | cpio --quiet -id --no-absolute-filenames) || fail "pkg" "cpio does not read the scripts"
modes=$(cd $own/x/payload && find . -printf '%m %y %p\n' | sort -k3)
want='755 d .
755 d ./Library
755 d ./Library/GuruRMM
755 d ./Library/GuruRMM/bin
755 f ./Library/GuruRMM/bin/gururmm-agent
755 d ./Library/LaunchDaemons
644 f ./Library/LaunchDaemons/gururmm-agent.plist'
[ "$modes" = "$want" ] || fail "pkg" "$modes"
[ "$(head -c 8 $own/x/payload/Library/GuruRMM/bin/gururmm-agent | od -An -tx1 | tr -d ' ')" = cafebabe00000002 ] || fail "pkg" "no universal program"
sh -n $own/x/scripts/preinstall && sh -n $own/x/scripts/postinstall && shellcheck --shell=sh $own/x/scripts/* >$own/out || fail "pkg" "$(cat $own/out)"
# Its bill says of each file what the payload has: path, mode, owner; size and cksum(1).
bill=$(node -e '
	for (const f of require("/mnt/lsbom")(require("fs").readFileSync(process.argv[1])))
		console.log([f.filename, f.mode.toString(8), f.user + "/" + f.group].concat(f.size === undefined ? [] : [f.size, f.checksum]).join("\t"))
	' $own/x/gururmm-agent.pkg/Bom | sort)
want=$(cd $own/x/payload && find . | sort | while read -r f; do
	sum=''
	[ -d "$f" ] || sum=$(cksum "$f" | awk '{ printf "\t%s\t%s", $2, $1 }')
	printf '%s\t%o\t0/0%s\n' "$f" "0x$(stat -c %f "$f")" "$sum"
done)
[ "$bill" = "$want" ] || fail "pkg's bill" "$(diff <(echo "$want") <(echo "$bill"))"
say "pkg's bill" "lsbom lists what the payload has, $(echo "$bill" | wc -l) entries"
say "pkg" "libarchive and cpio read it: a program for two processors, the job, two scripts"

# rpm into a folder: files, modes, and what becomes of a changed setting.
at=$own/r
install_() { rpm --root $at --nodeps --noscripts "$@" >$own/out 2>&1 || fail "rpm $1" "$(cat $own/out)"; }
mkdir -p $at
rpm --root $at --initdb
install_ -i /mnt/1.0.0/gururmm-agent-*.x86_64.rpm /mnt/1.0.0/gururmm-server-*.x86_64.rpm
modes=$(cd $at && stat -c '%a %U:%G %n' usr/bin/gururmm usr/bin/gururmm-agent usr/lib/systemd/system/gururmm-agent.service etc/gururmm etc/gururmm/server.yaml)
want='755 root:root usr/bin/gururmm
755 root:root usr/bin/gururmm-agent
644 root:root usr/lib/systemd/system/gururmm-agent.service
755 root:root etc/gururmm
644 root:root etc/gururmm/server.yaml'
[ "$modes" = "$want" ] || fail "rpm files" "$modes"
rpm --root $at -V --nodeps gururmm-agent gururmm-server >$own/out || fail "rpm -V" "$(cat $own/out)"
echo '#changed' >>$at/etc/gururmm/server.yaml
install_ -U /mnt/1.1.0/gururmm-agent-*.x86_64.rpm /mnt/1.1.0/gururmm-server-*.x86_64.rpm
grep -q '#changed' $at/etc/gururmm/server.yaml || fail "rpm upgrade" "a changed setting is gone"
[ "$($at/usr/bin/gururmm-agent --version)" = "gururmm-agent version v1.1.0" ] || fail "rpm upgrade" "$($at/usr/bin/gururmm-agent --version)"
if rpm --root $at --nodeps --noscripts -U /mnt/1.0.0/gururmm-agent-*.x86_64.rpm >$own/out 2>&1; then fail "rpm downgrade" "rpm lets it pass"; fi
install_ -e gururmm-agent gururmm-server
[ -e $at/etc/gururmm/server.yaml.rpmsave ] && [ ! -e $at/usr/bin/gururmm ] || fail "rpm erase" "$(find $at/etc $at/usr/bin)"
say "rpm files" "modes, verified, setting kept, upgraded, erased"

# What the scriptlet refuses: a newer program in the place of the one that dnf would put back.
rpm -qp --nosignature --qf '%{PREIN}' /mnt/1.0.0/gururmm-agent-*.rpm >$own/s.sh
prein() { # VERSION-THERE: what the scriptlet says to an upgrade over it
	printf '#!/bin/sh\necho "gururmm-agent version v%s"\n' "$1" >/usr/bin/gururmm-agent
	chmod 755 /usr/bin/gururmm-agent
	sh $own/s.sh 2 >$own/out 2>&1
}
[ -e /usr/bin/gururmm-agent ] && fail "rpm scriptlets" "the container is not empty"
for v in 0.9.0 1.0.0-rc.2 1.0.0; do prein $v || fail "rpm scriptlets" "$v to 1.0.0: $(cat $own/out)"; done
for v in 1.0.1-rc.1 1.0.1 1.10.0; do
	if prein $v; then fail "rpm scriptlets" "$v to 1.0.0 is let pass"; fi
	grep -q 'NOT INSTALLED, nothing was changed' $own/out || fail "rpm scriptlets" "$(cat $own/out)"
done
mkdir -p /etc/gururmm && touch /etc/gururmm/allow-downgrade
prein 1.1.0 || fail "rpm scriptlets" "allowed, and refused: $(cat $own/out)"
rm -r /usr/bin/gururmm-agent /etc/gururmm
say "rpm scriptlets" "an older version is refused, and let pass where that is meant"

[ $failed = 0 ] && echo "packages: lint passed, $SECONDS s"
exit $failed
