#!/bin/bash
# The part of scripts/packages.sh that runs beside systemd in the container: the life of the
# debs. /mnt holds the packages.
. /mnt/beside-systemd.sh
out=$own/out
export DEBIAN_FRONTEND=noninteractive
agent_deb() { ls /mnt/"$1"/gururmm-agent_*_amd64.deb; }
server_deb() { ls /mnt/"$1"/gururmm-server_*_amd64.deb; }
installs() { # DEB WORDS: it does, and says so
	dpkg -i "$1" >$out 2>&1 || die "install $(basename "$1")" "$(cat $out)"
	tr '\n' ' ' <$out | tr -s ' ' | grep -qF -- "$2" || fail "install $(basename "$1")" "it does not say '$2': $(cat $out)"
}
refuses() { # DEB WORDS: it changes nothing, and says why
	local before after
	before="$(dpkg -l 'gururmm*' 2>/dev/null | grep ^ii) $(show MainPID) $(ls -l /usr/bin/gururmm* 2>&1)"
	if dpkg -i "$1" >$out 2>&1; then fail "refuse $(basename "$1")" "it was installed: $(cat $out)"; fi
	tr '\n' ' ' <$out | tr -s ' ' | grep -qF -- "NOT INSTALLED, nothing was changed: $2" || fail "refuse $(basename "$1")" "it does not say '$2': $(cat $out)"
	after="$(dpkg -l 'gururmm*' 2>/dev/null | grep ^ii) $(show MainPID) $(ls -l /usr/bin/gururmm* 2>&1)"
	[ "$before" = "$after" ] || fail "refuse $(basename "$1")" "before: $before, after: $after"
}

until_ 60 booted || die "boot" "$(systemctl is-system-running)"

# A server from its deb.
installs "$(server_deb 1.0.0)" 'the server listens'
[ "$(ps -o user:20= -C gururmm | tr -d ' ')" = gururmm-server ] || fail "server's account" "$(ps -o user:20=,args= -C gururmm)"
caps=$(grep CapEff "/proc/$(show MainPID gururmm.service)/status" | cut -f2)
[ "$caps" = 0000000000000400 ] || fail "server's rights" "capabilities $caps, want CAP_NET_BIND_SERVICE alone"
[ "$(stat -c '%a %U' /var/lib/gururmm)" = '700 gururmm-server' ] || fail "server's state" "$(stat -c '%a %U' /var/lib/gururmm)"
export GURURMM_URL=https://127.0.0.1:8443 GURURMM_CA=/var/lib/gururmm/main.crt
gururmm update keygen --out $own/release.key --no-password >$out || fail "release key" "$(cat $out)"
printf '%s\n' "release_key: [$(tail -1 $own/release.key.pub)]" 'listen: "127.0.0.1:8443"' 'oob_listen: "127.0.0.1:8444"' "public_url: $GURURMM_URL" 'oob_url: https://127.0.0.1:8444' >>/etc/gururmm/server.yaml
systemctl restart gururmm || die "server" "its settings"
until_ 30 test -e /run/gururmm/ready.json || die "server" "not ready"
GURURMM_TOKEN=$(sudo -u gururmm-server gururmm operator-token tester --config /etc/gururmm/server.yaml 2>$out | grep -o 'gro_[A-Z0-9]*')
export GURURMM_TOKEN
enroll_token() { gururmm enroll-token create --json 2>/dev/null | grep -o 'gre_[A-Z0-9]*' >$own/token; }
until_ 30 enroll_token || die "server" "no enrollment token: $(gururmm enroll-token create 2>&1)"
if journalctl --no-pager | grep -qE 'gr[eo]_[A-Z0-9]{8}'; then fail "server's first start" "a token is in the journal"; fi
say "server" "runs as gururmm-server, no token in the journal"

order() { # KEY=VALUE...: an order to enroll, with the newest token
	install -d /etc/gururmm
	printf '%s\n' "CA_FILE=$GURURMM_CA" "$@" | install -D -m 600 /dev/stdin /etc/gururmm/enroll.conf
}
good() { enroll_token && order "SERVER_URL=$GURURMM_URL" "ENROLL_TOKEN=$(cat $own/token)"; }
field() { gururmm-agent settle --within 1s --json | sed -n "s/.*\"$1\": \"\(.*\)\",*/\1/p"; }
execs() { timeout 60 gururmm exec "$(field agent)" -- "$1"; } # SCRIPT: its output, its exit code

# Bad input: what is in the way is told, and nothing is changed.
printf '[Service]\nExecStart=/opt/other/agent\n' >/etc/systemd/system/$unit
refuses "$(agent_deb 1.0.0)" "/etc/systemd/system/$unit is in the way: a service of the same name"
rm /etc/systemd/system/$unit
dpkg-deb --extract "$(agent_deb 1.0.0)" $own
$own/usr/bin/gururmm-agent install >/dev/null || fail "by hand" "exit code $?"
refuses "$(agent_deb 1.0.0)" "it is installed by hand already"
$own/usr/bin/gururmm-agent uninstall || fail "by hand" "exit code $?"
systemctl daemon-reload
say "foreign service, manual service" "refused, nothing changed"

# One command: the line that an operator is shown, pasted where the package lies.
gururmm enroll-token create --show-install >$out || die "install" "no line"
line=$(grep 'apt install' $out | sed 's/apt install/apt-get install -y/')
secret=$(grep -o 'gre_[A-Z0-9]*' <<<"$line")
(cd /mnt/1.0.0 && eval "$line") >$out 2>&1 || die "install" "$line: $(cat $out)"
tr '\n' ' ' <$out | tr -s ' ' | grep -qF 'version v1.0.0 guards this endpoint, and its link is verified.' || die "install" "$(cat $out)"
[ ! -e /etc/gururmm/enroll.conf ] || fail "install" "the order is left"
id=$(field agent)
[ "$(execs 'echo from a job')" = 'from a job' ] || fail "install" "no command runs"
if grep -rlF --exclude-dir=proc "$secret" /etc /var /run /usr/lib/systemd 2>/dev/null; then fail "token" "it is left there"; fi
if journalctl --no-pager | grep -qF "$secret"; then fail "token" "it is in the journal"; fi
[ "$(show UnitFileState)/$(show Type)/$(show FragmentPath)" = "enabled/notify//usr/lib/systemd/system/$unit" ] || fail "unit" "$(show UnitFileState)/$(show Type)/$(show FragmentPath)"
say "install" "one command: verified, a command runs, the token is nowhere"

# Twice is once.
installs "$(agent_deb 1.0.0)" 'its link is verified'
[ "$(field agent)" = "$id" ] || fail "install again" "agent $(field agent), was $id"
if gururmm-agent install >$out 2>&1; then fail "install by hand" "beside a package's unit"; fi
grep -q 'installed by a package' $out || fail "install by hand" "$(cat $out)"
if gururmm-agent uninstall >$out 2>&1; then fail "uninstall by hand" "of a package's unit"; fi
# A token that comes too late is not left about.
good
systemctl restart $unit
until_ 20 test ! -e /etc/gururmm/enroll.conf || fail "order of one that is enrolled" "it is left"
say "install again" "harmless; install by hand refused"

# It hangs, and the watchdog ends it.
mkdir -p /etc/systemd/system/$unit.d
printf '[Service]\nWatchdogSec=8\nTimeoutAbortSec=2\n' >/etc/systemd/system/$unit.d/test.conf
systemctl daemon-reload
systemctl restart $unit
settled() { [ "$(field outcome)" = verified ]; }
until_ 60 settled || die "restart" "$(gururmm-agent settle --within 1s)"
guardian=$(show MainPID)
kill -STOP "$guardian"
back() { [ "$(show MainPID)" != "$guardian" ] && [ "$(show MainPID)" != 0 ] && settled; }
until_ 60 back || die "hang" "$(show StatusText)"
journalctl --no-pager -u $unit | grep -q 'Watchdog timeout' || fail "hang" "not by the watchdog"
rm -r /etc/systemd/system/$unit.d
systemctl daemon-reload
say "hang" "ended by the watchdog, verified again"

# An update of the agent's own above the package: the package is the fallback, a newer one wins.
mkdir $own/new
dpkg-deb --extract "$(agent_deb 1.1.0)" $own/new && mv $own/new/usr/bin/gururmm-agent $own/new/agent-1.1.0
gururmm update sign --key $own/release.key --version v1.1.0 $own/new/agent-1.1.0 >$out 2>&1 &&
	gururmm update publish $own/new/agent-1.1.0 >>$out 2>&1 &&
	gururmm update roll v1.1.0 --agents "$id" --ring 100% --soak 0 --grace 1s >>$out 2>&1 || fail "update" "$(cat $out)"
guards() { [ "$(field outcome)/$(field guards)" = "verified/$1" ]; } # VERSION
until_ 60 guards v1.1.0 || die "update" "$(cat $out; gururmm-agent status)"
confirmed() { ! gururmm-agent version | grep -q 'not confirmed'; }
until_ 60 confirmed || fail "update" "$(gururmm-agent version)"
installs "$(agent_deb 1.0.0)" 'version v1.1.0 (the installed program is v1.0.0) guards this endpoint, and its link is verified.'
say "update above a package" "v1.1.0 guards above v1.0.0, also once that is installed again"

# An upgrade keeps what there is.
echo 'GURURMM_AGENT_LOG_LEVEL=debug' >>/etc/default/gururmm-agent
events=$(gururmm-agent events -n 0 | wc -l)
installs "$(agent_deb 1.1.0)" 'version v1.1.0 guards this endpoint, and its link is verified.'
[ "$(field agent)" = "$id" ] || fail "upgrade" "agent $(field agent), was $id"
grep -q LOG_LEVEL=debug /etc/default/gururmm-agent || fail "upgrade" "settings are gone"
[ "$(gururmm-agent events -n 0 | wc -l)" -ge "$events" ] || fail "upgrade" "history is gone"
[ "$(execs 'echo still')" = still ] || fail "upgrade" "no command runs"
gururmm-agent version | grep -q 'Guards here' && fail "upgrade" "the update is left: $(gururmm-agent version)"
installs "$(server_deb 1.1.0)" 'the server listens'
grep -q "public_url: $GURURMM_URL" /etc/gururmm/server.yaml || fail "server's upgrade" "settings are gone"
until_ 60 settled || die "server's upgrade" "$(gururmm-agent settle --within 1s)"
say "upgrade" "verified by v1.1.0: identity, settings, history; server too"

# One who stopped it is heeded.
systemctl stop $unit
installs "$(agent_deb 1.2.0-rc.1)" 'installed, and not started: the service is stopped'
[ "$(show ActiveState)/$(show UnitFileState)" = inactive/enabled ] || fail "upgrade of one stopped" "$(show ActiveState)/$(show UnitFileState)"
systemctl start $unit
systemctl disable $unit 2>/dev/null
installs "$(agent_deb 1.2.0-rc.1)" 'version v1.2.0-rc.1 guards this endpoint, and its link is verified.'
[ "$(show UnitFileState)" = disabled ] || fail "upgrade of one disabled" "$(show UnitFileState)"
systemctl enable $unit 2>/dev/null
say "upgrade of one stopped, disabled" "stays stopped, stays disabled"

# No way back but a meant one.
refuses "$(agent_deb 1.1.0)" '1.2.0~rc.1-1 is newer than 1.1.0.'
settled || fail "downgrade" "the one that is there no longer guards"
refuses "$(server_deb 1.0.0)" '1.1.0-1 is newer than 1.0.0.'
touch /etc/gururmm/allow-downgrade
installs "$(agent_deb 1.1.0)" 'version v1.1.0 guards this endpoint, and its link is verified.'
[ ! -e /etc/gururmm/allow-downgrade ] || fail "downgrade" "the permission is left"
say "downgrade" "refused, nothing changed; allowed once"

# No room for it: dpkg says so and puts back what was there, which never stopped.
guardian=$(show MainPID)
fallocate -l "$(($(df --output=avail -k / | tail -1) - 5000))K" $own/fill || fail "disk full" "the disk can't be filled"
if dpkg -i "$(agent_deb 1.2.0-rc.1)" >$out 2>&1; then fail "disk full" "it was installed: $(cat $out)"; fi
rm $own/fill
grep -q 'No space left on device' $out || fail "disk full" "$(cat $out)"
[ "$(dpkg-query -W -f '${db:Status-Abbrev}${Version}' gururmm-agent)/$(show MainPID)" = "ii 1.1.0-1/$guardian" ] && guards v1.1.0 ||
	fail "disk full" "$(dpkg-query -W gururmm-agent), process $guardian, then $(show MainPID): $(gururmm-agent settle --within 1s)"
say "disk full" "refused by dpkg, the version before never stopped"

# Removed, the state stays; installed again, it is the same endpoint.
dpkg -r gururmm-agent >$out 2>&1 || die "remove" "$(cat $out)"
systemctl daemon-reload
[ "$(show LoadState)" = not-found ] && [ -z "$(pgrep -x gururmm-agent)" ] || fail "remove" "$(show LoadState), $(pgrep -ax gururmm-agent)"
[ -s /var/lib/gururmm-agent/identity.json ] || fail "remove" "the state is gone"
refuses "$(agent_deb 1.0.0)" '1.1.0-1 is newer than 1.0.0.'
installs "$(agent_deb 1.1.0)" 'its link is verified'
[ "$(field agent)/$(show UnitFileState)" = "$id/enabled" ] || fail "reinstall" "$(field agent)/$(show UnitFileState), was $id"
say "remove, reinstall" "the same endpoint, enabled and verified"

# Purged, nothing is left.
dpkg -P gururmm-agent >$out 2>&1 || die "purge" "$(cat $out)"
left=$(find / -xdev -iname '*gururmm-agent*' -not -path '/proc/*' -not -path '/mnt/*' -not -path "$own/*" -not -path '/var/log/*' 2>/dev/null)
[ -z "$left" ] || fail "purge" "left: $left"
getent group gururmm >/dev/null && fail "purge" "the group is left"
say "purge" "nothing is left"

# Without an order it waits; then it carries out what it can, and says what it can't.
if gururmm-agent 2>/dev/null; then fail "purge" "it still runs"; fi
installs "$(agent_deb 1.1.0)" 'is installed and runs, waiting to be enrolled'
says() { gururmm-agent settle --within 1s | tr '\n' ' ' | tr -s ' ' | grep -qF -- "$1"; }
order SERVER_URL=https://127.0.0.1:9 ENROLL_TOKEN=gre_NONE
until_ 20 says 'is the server running, and the port right?' || fail "server away" "$(gururmm-agent settle --within 1s)"
says 'It goes on trying' || fail "server away" "$(gururmm-agent settle --within 1s)"
order "SERVER_URL=$GURURMM_URL" "ENROLL_TOKEN=$secret"
until_ 20 says 'make a new one with: gururmm enroll-token create' || fail "spent token" "$(gururmm-agent settle --within 1s)"
[ -e /etc/gururmm/enroll.conf ] || fail "spent token" "the order is gone, unread by whom it concerns"
good
chmod 644 /etc/gururmm/enroll.conf
until_ 20 says 'others may read /etc/gururmm/enroll.conf' || fail "order that others may read" "$(gururmm-agent settle --within 1s)"
rm /etc/gururmm/enroll.conf
enroll_token
install -m 600 $own/token /etc/gururmm/token
order "SERVER_URL=$GURURMM_URL" TOKEN_FILE=/etc/gururmm/token
until_ 30 settled || fail "order that came later" "$(gururmm-agent settle --within 1s)"
[ ! -e /etc/gururmm/enroll.conf ] && [ ! -e /etc/gururmm/token ] || fail "order that came later" "$(ls /etc/gururmm)"
say "orders" "server away, spent, readable: told; a good one carried out"

# Where nothing may be started, nothing is.
dpkg -P gururmm-agent >$out 2>&1 || die "purge" "$(cat $out)"
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
installs "$(agent_deb 1.1.0)" 'installed, and not started'
rm /usr/sbin/policy-rc.d
[ "$(show ActiveState)/$(show UnitFileState)" = inactive/enabled ] || fail "no starts allowed" "$(show ActiveState)/$(show UnitFileState)"
dpkg -P gururmm-agent >$out 2>&1 || die "purge" "$(cat $out)"
say "no starts allowed" "installed, enabled, not started"

# The rpm's life, by rpm itself, though the system is a Debian: its scriptlets and systemd are real.
agent_rpm() { ls /mnt/"$1"/gururmm-agent-*.x86_64.rpm; }
rpms() { rpm --nodeps --nosignature "$@" >$out 2>&1; }
rpm_installs() { # VERSION WORDS
	rpms -U "$(agent_rpm "$1")" || die "rpm $1" "$(cat $out)"
	tr '\n' ' ' <$out | tr -s ' ' | grep -qF -- "$2" || fail "rpm $1" "it does not say '$2': $(cat $out)"
}
good
rpm_installs 1.0.0 'version v1.0.0 guards this endpoint, and its link is verified.'
id=$(field agent)
[ "$(show UnitFileState)" = enabled ] && [ ! -e /etc/gururmm/enroll.conf ] || fail "rpm" "$(show UnitFileState), $(ls /etc/gururmm)"
systemctl stop $unit
rpm_installs 1.1.0 'installed, and not started: the service is stopped'
[ "$(show ActiveState)/$(show UnitFileState)" = inactive/enabled ] || fail "rpm over one stopped" "$(show ActiveState)/$(show UnitFileState)"
systemctl start $unit
rpm_installs 1.2.0-rc.1 'version v1.2.0-rc.1 guards this endpoint, and its link is verified.'
guardian=$(show MainPID)
if rpms -U --oldpackage "$(agent_rpm 1.1.0)"; then fail "rpm downgrade" "it was installed"; fi
grep -q 'NOT INSTALLED, nothing was changed: 1.2.0~rc.1 is newer than 1.1.0' $out || fail "rpm downgrade" "$(cat $out)"
[ "$(rpm -q --qf '%{VERSION}' gururmm-agent)/$(show MainPID)" = "1.2.0~rc.1/$guardian" ] || fail "rpm downgrade" "$(rpm -q gururmm-agent), process $guardian, now $(show MainPID)"
rpms -e gururmm-agent || die "rpm erase" "$(cat $out)"
[ "$(show LoadState)" = not-found ] && [ -z "$(pgrep -x gururmm-agent)" ] && [ -s /var/lib/gururmm-agent/identity.json ] || fail "rpm erase" "$(show LoadState), $(pgrep -ax gururmm-agent)"
rpm_installs 1.2.0-rc.1 'its link is verified'
[ "$(field agent)" = "$id" ] || fail "rpm installed again" "agent $(field agent), was $id"
rpms -e gururmm-agent || die "rpm erase" "$(cat $out)"
rm -rf /var/lib/gururmm-agent /etc/gururmm/enroll.conf /etc/default/gururmm-agent* /etc/systemd/system/gururmm-agent.service.d
groupdel gururmm
say "rpm" "install, stopped, upgrade, downgrade refused, erase, again"

# The server goes, and its account.
dpkg -r gururmm-server >$out 2>&1 || die "server's removal" "$(cat $out)"
[ -s /var/lib/gururmm/command.key ] || fail "server's removal" "the keys are gone"
installs "$(server_deb 1.1.0)" 'the server listens'
GURURMM_CA=/var/lib/gururmm/main.crt gururmm agents >$out 2>&1 || fail "server's reinstall" "$(cat $out)"
grep -q "$(hostname)" $out || fail "server's reinstall" "it forgot its agents: $(cat $out)"
dpkg -P gururmm-server >$out 2>&1 || die "server's purge" "$(cat $out)"
left=$(find / -xdev -iname '*gururmm*' -not -path '/proc/*' -not -path '/mnt/*' -not -path "$own/*" -not -path '/var/log/*' -not -path '/run/systemd/*' 2>/dev/null)
[ -z "$left" ] || fail "server's purge" "left: $left"
getent passwd gururmm-server >/dev/null && fail "server's purge" "the account is left"
say "server" "removed, installed again with its fleet, purged"

if [ $failed = 0 ]; then echo "packages: all passed, $SECONDS s"; fi
exit $failed
