#!/bin/bash
# The part of scripts/systemd.sh that runs beside systemd in the container. /mnt
# holds the programs.
. /mnt/beside-systemd.sh
text_has() { show StatusText | grep -q "$1"; }

until_ 60 booted || die "boot" "$(systemctl is-system-running)"
say "systemd" "$(systemctl --version | head -1)"

agent=/usr/local/bin/gururmm-agent
cp /mnt/gururmm-agent $agent
export GURURMM_URL=https://127.0.0.1:8443 GURURMM_CA=/var/lib/gururmm/main.crt
systemd-run --quiet --unit=server /mnt/gururmm serve --listen 127.0.0.1:8443 --oob-listen 127.0.0.1:8444 \
	--public-url $GURURMM_URL --oob-url https://127.0.0.1:8444
until_ 30 test -s /var/lib/gururmm/main.crt || die "server" "$(journalctl -u server --no-pager -n 5)"
GURURMM_TOKEN=$(/mnt/gururmm operator-token smoke | grep -o 'gro_[A-Z0-9]*')
export GURURMM_TOKEN
enroll_token() { /mnt/gururmm enroll-token create --json 2>/dev/null | grep -o 'gre_[A-Z0-9]*' >$own/token; }
until_ 30 enroll_token || die "server" "no enrollment token"

$agent install >/dev/null || die "install" "exit code $?"
$agent start || die "start" "exit code $?"
[ "$(show Type)/$(show NotifyAccess)/$(show Restart)" = notify/main/always ] || fail "unit" "$(show Type)"
text_has 'Not enrolled' || fail "waits to be enrolled" "$(show StatusText)"
say "waits to be enrolled" "ready: $(show StatusText | cut -c1-42)"

$agent enroll --server $GURURMM_URL --token-file $own/token --ca $GURURMM_CA >$own/enrolled || die "enroll" "$(cat $own/enrolled)"
id=$(grep -o 'agent [0-9a-f-]\{36\}' $own/enrolled | cut -d' ' -f2)
until_ 60 text_has '^guarding, ok' || die "verdict as status text" "$(show StatusText)"
say "verdict as status text" "$(show StatusText | cut -c1-44)"

execs() { # SCRIPT: its output, its exit code
	timeout 60 /mnt/gururmm exec "$id" -- "$1" 2>$own/exec.err
}
worker() { pgrep -P "$(show MainPID)" -f 'gururmm-agent worker'; }
well() { text_has '^guarding, ok' && [ -n "$(worker)" ]; }

guardian=$(show MainPID)
environment=$(tr '\0' '\n' <"/proc/$(worker)/environ")
if grep -qE '^(NOTIFY_SOCKET|WATCHDOG_)' <<<"$environment"; then
	fail "worker can't speak for the unit" "$environment"
fi
tr '\0' '\n' <"/proc/$guardian/environ" | grep -q ^NOTIFY_SOCKET= || fail "worker can't speak for the unit" "neither can the guardian"
scores="$(cat /proc/"$guardian"/oom_score_adj) $(cat /proc/"$(worker)"/oom_score_adj) $(execs 'cat /proc/self/oom_score_adj')"
if [ "$(show OOMScoreAdjust)" = -900 ] && sh -c 'echo -900 >/proc/self/oom_score_adj' 2>/dev/null; then
	[ "$scores" = "-900 0 0" ] || fail "who is spared without memory" "$scores: $(cat $own/exec.err)"
	say "who is spared without memory" "guardian, worker, job: $scores"
else
	[ "$(show OOMScoreAdjust)" = -900 ] || fail "who is spared without memory" "OOMScoreAdjust=$(show OOMScoreAdjust)"
	say "who is spared without memory" "NOT TESTED: no CAP_SYS_RESOURCE in this container"
fi
execs 'set -e; touch /usr/by-a-job /etc/by-a-job; chmod u+s /usr/by-a-job; su nobody -s /bin/sh -c id
mkdir -p /tmp/pack/DEBIAN
printf "Package: by-a-job\nVersion: 1\nArchitecture: all\nMaintainer: a job\nDescription: nothing\n" >/tmp/pack/DEBIAN/control
dpkg-deb --build /tmp/pack /tmp/by-a-job.deb
dpkg --install /tmp/by-a-job.deb
unshare --mount mount -t tmpfs none /media' >$own/out || fail "a job administers" "$(cat $own/out $own/exec.err)"
[ -u /usr/by-a-job ] && dpkg --status by-a-job | grep -q 'install ok installed' && say "a job administers" "/usr, /etc, su, dpkg, mount"
filters() { grep Seccomp_filters "/proc/$1/status" | cut -f2; }
if [ "$(filters "$(worker)")" -gt "$(filters 1)" ] && show SystemCallFilter | grep -q '^~.*\<uselib\>' && show RestrictAddressFamilies | grep -q '^~.*AF_RDS'; then
	say "what no job needs is refused" "$(($(filters "$(worker)") - $(filters 1))) filters of system calls"
else
	fail "what no job needs is refused" "filters: $(filters "$(worker)"), of systemd: $(filters 1); $(show SystemCallFilter)"
fi

# An order to restart the service: an unclean end, so that systemd acts.
guardian=$(show MainPID)
timeout 60 /mnt/gururmm direct "$id" restart_service --reason "a test" >$own/out 2>&1 || fail "restart_service" "$(cat $own/out)"
back() { [ "$(show MainPID)" != "$1" ] && [ "$(show MainPID)" != 0 ] && well; }
until_ 60 back "$guardian" || die "restart_service" "$(show StatusText)"
journalctl --no-pager -u $unit -o cat | grep -q 'Main process exited, code=exited, status=1/FAILURE' || fail "restart_service" "it ended cleanly"
say "restart_service" "exit code 1, process $guardian, then $(show MainPID)"

# Killed, it comes back.
guardian=$(show MainPID)
kill -9 "$guardian"
until_ 60 back "$guardian" || die "kill -9" "$(show StatusText)"
say "kill -9" "process $guardian, then $(show MainPID); restarts: $(show NRestarts)"

# A job that eats all memory it may have goes alone.
guardian=$(show MainPID)
if systemctl set-property --runtime $unit MemoryMax=200M MemorySwapMax=0 && [ -e "/sys/fs/cgroup$(show ControlGroup)/memory.max" ]; then
	execs 'tail /dev/zero'
	code=$?
	if [ $code = 255 ] && grep -q 'killed' $own/exec.err && [ "$(show MainPID)" = "$guardian" ] && until_ 30 well; then
		say "a job eats the memory" "it was killed, the guardian goes on"
	else
		fail "a job eats the memory" "exit code $code, guardian $guardian, now $(show MainPID): $(cat $own/exec.err)"
	fi
	systemctl set-property --runtime $unit MemoryMax=infinity
else
	say "a job eats the memory" "NOT TESTED: no memory controller in this container"
fi

# Frozen, it is not fed for.
mkdir -p /etc/systemd/system/$unit.d
printf '[Service]\nWatchdogSec=12\nTimeoutAbortSec=2\n' >/etc/systemd/system/$unit.d/test.conf
systemctl daemon-reload
$agent restart || die "restart" "exit code $?"
until_ 60 well || die "restart" "$(show StatusText)"
guardian=$(show MainPID)
sleep 14 # longer than the watchdog: one that turns is fed
[ "$(show MainPID)" = "$guardian" ] || fail "frozen guardian" "the watchdog ended one that was well"
kill -STOP "$guardian"
began=$SECONDS
until_ 60 back "$guardian" || die "frozen guardian" "$(show StatusText)"
journalctl --no-pager -u $unit | grep -q 'Watchdog timeout' || fail "frozen guardian" "not by the watchdog: $(journalctl --no-pager -u $unit | grep -v '{' | tail -20)"
say "frozen guardian" "ended by the watchdog, back after $((SECONDS - began)) s"
[ -z "$(pgrep -x gururmm-agent | grep -vw -e "$(show MainPID)" -e "$(worker)")" ] || fail "frozen guardian" "its worker is left: $(pgrep -ax gururmm-agent)"
rm /etc/systemd/system/$unit.d/test.conf

# A stop drains.
(execs 'sleep 100' >/dev/null) &
until_ 30 pgrep -f '^sleep 100$' >/dev/null || fail "stop drains" "no job runs: $(cat $own/exec.err)"
began=$SECONDS
$agent stop || fail "stop drains" "exit code $?"
[ "$(show Result)/$(show ActiveState)" = success/inactive ] || fail "stop drains" "$(show Result)/$(show ActiveState)"
pgrep -x gururmm-agent >/dev/null && fail "stop drains" "left: $(pgrep -ax gururmm-agent)"
pgrep -f '^sleep 100$' >/dev/null && fail "stop drains" "the job is left"
journalctl --no-pager -u $unit -n 30 -o cat | grep -q '"message":"guardian ended"' || fail "stop drains" "not by itself"
say "stop drains" "after $((SECONDS - began)) s, with a job running"

# The stricter one.
$agent install --hardened >/dev/null || die "hardened" "exit code $?"
$agent start || die "hardened" "exit code $?"
until_ 60 well || die "hardened" "$(show StatusText)"
refused() { # SCRIPT
	if execs "$1" >$own/out; then fail "hardened" "a job may: $1"; fi
	[ -s $own/out ] || grep -qiE 'read-only|not permitted|denied' $own/exec.err || fail "hardened" "$1: $(cat $own/exec.err)"
}
refused 'touch /usr/by-another'
refused 'touch /etc/by-another'
refused 'su nobody -s /bin/sh -c id'
refused 'mount -t tmpfs none /mnt'
refused 'date -s 2020-01-01'
execs 'cat /etc/shadow >/dev/null && ls /root >/dev/null && cat /proc/1/environ >/dev/null && ping -c1 127.0.0.1 >/dev/null && echo x >/tmp/x' ||
	fail "hardened" "a job can't observe: $(cat $own/exec.err)"
say "hardened" "$(grep -E 'NoNewPrivs|CapEff' /proc/"$(worker)"/status | tr '\t\n' '  ')"
$agent status >$own/out || fail "hardened" "status: $(cat $own/out)"
[[ "$(show SystemCallFilter) $(show RestrictAddressFamilies)" == *ptrace* && "$(show SystemCallFilter)$(show RestrictAddressFamilies)" != *~* ]] ||
	fail "hardened" "of the unit's own lists something is left: $(show SystemCallFilter), $(show RestrictAddressFamilies)"

$agent uninstall || fail "uninstall" "exit code $?"
[ "$(show LoadState)" = not-found ] || fail "uninstall" "$(show LoadState)"
[ -e /etc/systemd/system/$unit.d ] && fail "uninstall" "the drop-in is left"
[ -s /var/lib/gururmm-agent/identity.json ] || fail "uninstall" "the state is gone"
if $agent start 2>$own/out; then fail "uninstall" "it starts"; fi
grep -q 'not installed' $own/out || fail "uninstall" "$(cat $own/out)"

if [ $failed = 0 ]; then echo "systemd: all passed, $SECONDS s"; fi
exit $failed
