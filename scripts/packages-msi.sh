# The life of the msi under Wine, with a server on loopback. Sourced by scripts/packages-wine.sh in
# a subshell, for each try. What Wine has not is compared in the tables (installer/msi_test.go).
# shellcheck shell=bash
failed=0
agent='C:\Program Files\GuruRMM\gururmm-agent.exe'
files="$WINEPREFIX/drive_c/Program Files/GuruRMM" data=$WINEPREFIX/drive_c/ProgramData/GuruRMM/Agent
service='HKLM\SYSTEM\CurrentControlSet\Services\gururmm-agent'
. /mnt/wine-server.sh
: >/mnt/out/msi.log
secrets=""

msi() { # VERSION OPERATION PROPERTY...: its code; what it says is in msi.last and msi.log
	local version=$1 operation=$2 code
	shift 2
	rm -f /mnt/out/msi.last
	w 150 msiexec "$operation" "Z:\\mnt\\$version\\gururmm-agent-$version-x64.msi" /qn '/l*v' 'Z:\mnt\out\msi.last' "$@"
	code=$?
	# Wine lists all properties, hidden ones too.
	grep -v '^Property(S): ENROLL_TOKEN = ' /mnt/out/msi.last >>/mnt/out/msi.log
	return $code
}
told() { tail -4 "$data/log/install.log" 2>/dev/null | tr -d '\r' | tr '\n' ' ' | tr -s ' '; } # what the last one said of itself
installs() { # STEP WORDS VERSION PROPERTY...: it does, and its log ends with WORDS
	local step=$1 words=$2
	shift 2
	msi "$1" /i "${@:2}" || die "$step" "code $?: $(tail -30 /mnt/out/msi.last)"
	told | grep -qF -- "$words" || fail "$step" "it does not say '$words': $(told)"
}
snapshot() { # all that an installation changes
	w 30 reg query "$service"
	grep -E 'ImagePath|Start|Type' $out
	w 30 sc query gururmm-agent
	grep STATE $out
	find "$files" "$data" -type f -not -path '*/log/*' -exec stat -c '%n %s' {} + 2>/dev/null | grep -E 'exe$|identity|enroll' | sort
}
refuses() { # STEP VERSION PROPERTY...: it changes nothing
	local before after step=$1
	shift
	before=$(snapshot)
	if msi "$1" /i "${@:2}"; then fail "$step" "it was installed"; fi
	after=$(snapshot)
	[ "$before" = "$after" ] || fail "$step" "before: $before, after: $after"
}
settled() { # VERSION: guards, with a verified link; it sets id
	w 20 "$agent" settle --within 1s --json
	id=$(sed -n 's/.*"agent": "\(.*\)".*/\1/p' $out)
	grep -q '"outcome": "verified"' $out && grep -q "\"guards\": \"v$1\"" $out
}
state() { w 20 sc query gururmm-agent; sed -n 's/.*STATE.* \([A-Z_]*\) *$/\1/p' $out; }
removed() { ! w 20 sc query gururmm-agent; }
registry() { # all that the machine's has, as text
	local hive
	for hive in SOFTWARE SYSTEM; do
		w 60 reg export "HKLM\\$hive" 'Z:\mnt\out\registry' /y || die "registry" "$(cat $out)"
		iconv -f UTF-16 -t UTF-8 /mnt/out/registry
	done
}
# What is in the way is told, and nothing is changed.
w 30 sc create gururmm-agent binPath= 'C:\other.exe' || die "foreign service" "$(cat $out)"
refuses "foreign service" 1.0.0
w 30 sc delete gururmm-agent
until_ 20 removed || die "foreign service" "it stays: $(cat $out)"
refuses "order without a server" 1.0.0 ENROLL_TOKEN=gre_NONE
[ ! -e "$files" ] && [ ! -e "$data" ] || fail "refused" "$(ls "$files" "$data")"
say "foreign service, half an order" "refused, nothing changed"

# One command. The server is at 127.0.0.1, and its certificate its own.
enroll_token
secrets=$(cat /mnt/token)
installs "install" 'version v1.0.0 guards this endpoint, and its link is verified.' 1.0.0 \
	SERVER_URL=$GURURMM_URL "ENROLL_TOKEN=$secrets" "PIN=$pin"
settled 1.0.0 || die "install" "$(cat $out)"
first=$id
[ ! -e "$data/enroll.conf" ] || fail "install" "the order is left"
execs one || fail "install" "no command runs: $(cat /mnt/out/exec.err)"
w 30 reg query "$service"
grep -q 'ImagePath.*C:\\Program Files\\GuruRMM\\gururmm-agent.exe"* run --service' $out || fail "service" "$(cat $out)"
grep -q 'PreshutdownTimeout.*0x4e20' $out && grep -q 'DelayedAutoStart.*0x1' $out || fail "service" "not configured as 'install' does: $(cat $out)"
w 30 reg query 'HKLM\SYSTEM\CurrentControlSet\Control\Session Manager\Environment' /v PATH
grep -q 'C:\\Program Files\\GuruRMM' $out || fail "PATH" "$(cat $out)"
say "install" "one command: verified, a command runs"

# Twice is once, and so is a repair.
installs "install again" 'its link is verified' 1.0.0
until_ 30 settled 1.0.0 && [ "$id" = "$first" ] || fail "install again" "agent $id, was $first"
rm "$files/gururmm-agent.exe" 2>/dev/null
installs "repair" 'its link is verified' 1.0.0 REINSTALL=ALL REINSTALLMODE=amus # Wine finds no product for /fa FILE
settled 1.0.0 && [ "$id" = "$first" ] || fail "repair" "agent $id, was $first: $(cat $out)"
if w 60 "$agent" install; then fail "install by hand" "beside a package's service"; fi
grep -q 'installed by a package' $out || fail "install by hand" "$(cat $out)"
if w 60 "$agent" uninstall; then fail "uninstall by hand" "of a package's service"; fi
say "install again, repair" "harmless; install by hand refused"

# The worker hangs, and the guardian ends it.
before=$(worker)
w 20 /mnt/bin/suspend.exe "$before" || fail "hang" "it is not suspended: $(cat $out)"
back() { now=$(worker) && [ "${now:-0}" != 0 ] && [ "$now" != "$before" ] && settled 1.0.0; }
until_ 90 back || fail "hang" "was $before, is ${now:-}: $(cat $out)"
execs two || fail "hang" "$(cat /mnt/out/exec.err)"
say "hang of the worker" "process $before, then $now; verified again"

# An upgrade keeps what there is.
identity=$(cksum <"$data/identity.json")
installs "upgrade" 'version v1.1.0 guards this endpoint, and its link is verified.' 1.1.0
settled 1.1.0 && [ "$id $(cksum <"$data/identity.json")" = "$first $identity" ] || fail "upgrade" "agent $id, was $first: $(cat $out)"
execs three || fail "upgrade" "no command runs: $(cat /mnt/out/exec.err)"
say "upgrade" "verified by v1.1.0, the same endpoint"

refuses "downgrade" 1.0.0
settled 1.1.0 || fail "downgrade" "the one that is there no longer guards: $(cat $out)"
say "downgrade" "refused, nothing changed"

# One who stopped it is heeded.
w 60 "$agent" stop || fail "stop" "$(cat $out)"
installs "upgrade of one stopped" 'version v1.2.0-rc.1 is installed, and not started: the service was stopped before' 1.2.0-rc.1
[ "$(state)" = STOPPED ] || fail "upgrade of one stopped" "$(cat $out)"
# Wine's sc can't disable: the registry says so, which is where the package looks.
w 30 reg add "$service" /v Start /t REG_DWORD /d 4 /f || fail "disable" "$(cat $out)"
installs "downgrade that is meant, of one disabled" 'version v1.1.0 is installed, and not started: the service is disabled' 1.1.0 ALLOW_DOWNGRADE=1
w 30 reg query "$service" /v Start
grep -q 0x4 $out && [ "$(state)" = STOPPED ] || fail "upgrade of one disabled" "$(cat $out)"
say "upgrade of one stopped, disabled" "stays stopped, stays disabled; a downgrade that is meant"

# Removed, the state stays; installed again, it is the same endpoint.
msi 1.1.0 /x || die "remove" "code $?"
until_ 30 removed || fail "remove" "the service is left: $(cat $out)"
[ ! -e "$files" ] && [ -s "$data/identity.json" ] || fail "remove" "$(ls "$files" "$data" 2>&1)"
installs "reinstall" 'its link is verified' 1.1.0
settled 1.1.0 && [ "$id" = "$first" ] || fail "reinstall" "agent $id, was $first"
say "remove, reinstall" "the same endpoint"

# Purged, nothing is left.
msi 1.1.0 /x PURGE=1 || die "purge" "code $?"
until_ 30 removed || fail "purge" "the service is left: $(cat $out)"
left=$(find "$WINEPREFIX/drive_c" -iname '*gururmm*'; registry | grep -i gururmm | grep -v GURURMM_FAULTS)
[ -z "$left" ] || fail "purge" "left: $left"
say "purge" "nothing is left"

# By a file with the token; no token anywhere.
enroll_token
secrets="$secrets $(cat /mnt/token)"
cp /mnt/token "$WINEPREFIX/drive_c/token.txt"
installs "token file" 'its link is verified' 1.1.0 SERVER_URL=$GURURMM_URL 'TOKEN_FILE=C:\token.txt' 'CA_FILE=Z:\mnt\server\main.crt'
[ ! -e "$WINEPREFIX/drive_c/token.txt" ] || fail "token file" "it is left"
registry >/mnt/out/registry.txt
for secret in $secrets; do
	if grep -rlaF "$secret" /mnt/out/msi.log /mnt/out/registry.txt "$WINEPREFIX/drive_c"; then fail "token" "it is left there"; fi
done
grep -q OrderToEnroll /mnt/out/msi.log || fail "logs" "they do not tell of the order"
say "token" "neither in a verbose log nor in the registry nor in a file"

# A folder that somebody else made in our place: who owns it could exchange what is in it.
msi 1.1.0 /x PURGE=1 || die "purge" "code $?"
planted=$WINEPREFIX/drive_c/ProgramData/GuruRMM
mkdir "$planted" && chown 4711 "$planted"
if msi 1.1.0 /i SERVER_URL=$GURURMM_URL ENROLL_TOKEN=gre_NONE; then fail "planted folder" "it was installed"; fi
[ -z "$(ls -A "$planted")" ] || fail "planted folder" "$(ls -lA "$planted")"
say "planted folder" "refused, nothing written there"

exit $failed
