# A real agent under Wine against a real server on loopback: in the foreground, then
# as a service. Sourced by scripts/windows-inside.sh in a subshell, for each try.
# shellcheck shell=bash
failed=0
agent=/mnt/bin/gururmm-agent.exe
. /mnt/wine-server.sh
enroll_token

w 60 $agent enroll --server $GURURMM_URL --token-file 'Z:\mnt\token' --ca 'Z:\mnt\server\main.crt' || die "enroll" "$(cat $out)"
id=$(grep -o 'agent [0-9a-f-]\{36\}' $out | cut -d' ' -f2)
[ -n "$id" ] || die "enroll" "no id in: $(cat $out)"
say "enroll" "agent $id"

gone() { ! kill -0 "$1" 2>/dev/null; }
log=$WINEPREFIX/drive_c/ProgramData/GuruRMM/Agent/log/agent.log

timeout 300 $wine $agent run >/mnt/out/agent.log 2>&1 </dev/null &
foreground=$!
started="$started $foreground"
until_ 60 well || die "run" "status: $(cat $out); log: $(tail -5 /mnt/out/agent.log)"
say "run, status" "$(tr -d '\n' <$out | grep -o '"verdict": *{ *"code": *"[^"]*"' | grep -o '"[^"]*"$')"
execs one || die "exec of a cmd script" "$(cat /mnt/out/exec.err)"
say "exec of a cmd script" "ok"

if w 20 $agent run; then fail "second instance" "it ran"; fi
if grep -q 'another agent is running: process [0-9]*, since .*, on the state directory C:' $out; then
	say "second instance" "$(grep -o 'another agent is running.*' $out | cut -d, -f1,2)"
else
	fail "second instance" "$(cat $out)"
fi

before=$(worker)
w 20 taskkill /f /pid "$before" || fail "kill of the worker" "$(cat $out)"
repaired() { now=$(worker) && [ "${now:-0}" != 0 ] && [ "$now" != "$before" ] && well; }
if until_ 60 repaired && execs two; then
	say "kill of the worker" "process $before, then $now"
else
	fail "kill of the worker" "was $before, now '${now:-}': $(cat $out /mnt/out/exec.err)"
fi

status
guardian=$(field guardian pid)
before=$(field worker pid)
w 20 taskkill /f /pid "$guardian" || fail "kill of the guardian" "$(cat $out)"
until_ 20 gone $foreground || fail "kill of the guardian" "it lives"
tasks() { w 20 tasklist /nh /fi "PID eq $before" && ! grep -q "gururmm" $out; }
if until_ 20 tasks; then
	say "kill of the guardian" "its worker went with it"
else
	fail "kill of the guardian" "its worker lives: $(cat $out)"
fi

# The service.
w 60 $agent install --log-level debug || die "install" "$(cat $out)"
w 20 reg query 'HKLM\SYSTEM\CurrentControlSet\Services\gururmm-agent' || fail "install" "$(cat $out)"
grep -q 'ImagePath.*run --service --log-level debug' $out && grep -q 'DelayedAutoStart.*0x1' $out && grep -q PreshutdownTimeout $out || fail "install" "$(cat $out)"
say "install" "$(grep -o '[^ ]*gururmm-agent.exe.*' $out)"
w 60 $agent start || die "service start" "$(cat $out); $(tail -5 $log)"
until_ 60 well || die "service start" "status: $(cat $out); $(tail -5 $log)"
execs three || die "exec by the service" "$(cat /mnt/out/exec.err)"
say "service start" "running; exec ok"

# An update of the service. The new guardian dies once before it confirms: the launcher,
# and not the service manager, starts it again.
faults=/mnt/faults
rm -rf $faults
mkdir $faults
touch $faults/update.guarding
rolls() { # VERSION
	/mnt/bin/gururmm update publish /mnt/bin/update-$1.exe >/mnt/out/update.err 2>&1 &&
		/mnt/bin/gururmm update roll $1 --agents "$id" --ring 100% --soak 0 --grace 1s >>/mnt/out/update.err 2>&1
}
runs() { # VERSION SOURCE: as guardian, and as worker with a verified link
	status && [ "$(tr -d ' \n' <$out | grep -o '"source":"[a-z]*"' | head -1)" = "\"source\":\"$2\"" ] &&
		[ "$(tr -d ' \n' <$out | grep -o "\"version\":\"$1\"" | wc -l)" -ge 2 ] &&
		grep -q '"phase": *"verified"' $out
}
began=$SECONDS
if rolls v1.1.0 && until_ 40 runs v1.1.0 updated && execs four &&
	[ -e $faults/update.guarding.died ] && grep -q 'a version that had yet to confirm has ended' $log; then
	say "update" "runs v1.1.0 after $((SECONDS - began)) s, its guardian killed once; exec ok"
else
	fail "update" "$(cat /mnt/out/update.err /mnt/out/exec.err); status: $(cat $out); $(tail -5 $log)"
fi
began=$SECONDS
if /mnt/bin/gururmm direct "$id" rollback >/mnt/out/update.err 2>&1 && until_ 40 runs dev installed && execs five; then
	say "rollback" "runs the installed program after $((SECONDS - began)) s; exec ok"
else
	fail "rollback" "$(cat /mnt/out/update.err /mnt/out/exec.err); status: $(cat $out); $(tail -5 $log)"
fi
if w 60 $agent stop; then
	w 20 sc query gururmm-agent
	grep -q STOPPED $out && grep -q '"message":"guardian ended"' $log &&
		say "service stop" "drained and stopped" || fail "service stop" "$(cat $out); $(tail -3 $log)"
else
	fail "service stop" "$(cat $out)"
fi
w 60 $agent uninstall || fail "uninstall" "$(cat $out)"
removed() { ! w 20 sc query gururmm-agent; } # the manager waits for the last handle
until_ 30 removed || fail "uninstall" "still there"
[ -s $WINEPREFIX/drive_c/ProgramData/GuruRMM/Agent/identity.json ] || fail "uninstall" "the state is gone"

exit $failed
