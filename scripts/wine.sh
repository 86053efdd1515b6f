# Sourced by what runs under Wine in the chroot: how Wine is kept, and what its end means. Before
# that: end=SECONDS, the moment of $SECONDS by which all is to be done.
#
# Where Wine broke off (scripts/wine-verdict.sh), the same is run again in a fresh
# prefix, three times at most. What could not be tested then is a line of
# /mnt/out/untested; it is no failure.
#
# Wine's output always goes to a file: its helpers keep a pipe open for ever.
# shellcheck shell=bash
set -uo pipefail
. /mnt/wine-verdict.sh
export HOME=/mnt/home WINEDEBUG=-all WINEDLLOVERRIDES="mscoree,mshtml=" XDG_RUNTIME_DIR=/tmp
mkdir -p "$HOME"
wine=/usr/lib/wine/wine64
wineserver=/usr/lib/wine/wineserver64
failed=0
: >/mnt/out/untested

say() { printf '%3d s  %-34s %s\n' $SECONDS "$1" "$2"; }
fail() {
	failed=1
	echo "$1" >>/mnt/out/failed
	say "$1" "FAILED: $2"
}
die() {
	fail "$@"
	exit 1
}
untested() {
	say "$1" "NOT TESTED: $2"
	echo "$1: $2" >>/mnt/out/untested
}

# w SECONDS COMMAND...: runs a Windows program, its output in $out (and all outputs
# in /mnt/out/said), its exit code the result.
out=/mnt/out/last
: >$out
w() {
	local limit=$1
	shift
	timeout --kill-after=5 "$limit" $wine "$@" >$out.raw 2>&1 </dev/null &
	local run=$! code
	while kill -0 $run 2>/dev/null; do # without its server it would stand still
		[ "$(server_is)" = up ] || kill $run
		sleep 0.1
	done
	wait $run
	code=$?
	tr -d '\r' <$out.raw >$out
	cat $out >>/mnt/out/said
	# Stood still, or ended by a Unix signal: timeout(1).
	[ $code -lt 124 ] || [ $code -ge 160 ] || echo "${1##*/} stood still or crashed (code $code)" >>/mnt/out/signs
	return $code
}

# until SECONDS COMMAND...: the moment a fact holds.
until_() {
	local late=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $late ] || return 1
		sleep 0.3
	done
}

# serve PREFIX: a server for it, after the end of the last one. It stays: one that
# Wine starts by itself ends three seconds after the last program, its services with
# it, and breaks off a program that starts just then.
server=""
serve() {
	end_server
	export WINEPREFIX=$1
	$wineserver -p -f >/mnt/out/wineserver.log 2>&1 </dev/null &
	server=$!
	until_ 10 listening
}
end_server() {
	[ -n "$server" ] || return 0
	timeout 10 $wineserver -k >/dev/null 2>&1 </dev/null
	kill -9 "$server" 2>/dev/null
	wait "$server" 2>/dev/null
	server=""
	kill -9 $(ours) 2>/dev/null # what stands still without it
}
# ours: the processes of this prefix.
ours() { grep -lsxzF "WINEPREFIX=$WINEPREFIX" /proc/[0-9]*/environ | cut -d/ -f3; }

# prepare: what every prefix is a copy of. Its service manager is thrown away: it
# began before there was an environment for services.
made=/mnt/made
prepare() {
	rm -rf $made
	mkdir $made
	serve $made && w 90 wineboot --init || return 1
	# Services have this environment, read when their manager starts: only a build for it obeys.
	w 20 reg add 'HKLM\System\CurrentControlSet\Control\Session Manager\Environment' /v GURURMM_FAULTS /d 'Z:\mnt\faults' /f || return 1
	end_server
	rm -f $made/wineserver # where the server was
	grep -q '^"PATH"' $made/system.reg
}

# fresh: a new prefix. The first program starts the service manager. Were there two,
# a call would find either: they are asked by the same pipe.
prefixes=0
fresh() {
	prefixes=$((prefixes + 1))
	cp -a $made /mnt/prefix$prefixes && serve /mnt/prefix$prefixes && w 40 cmd /c ver || return 1
	[ "$(for p in $(ours); do grep -lsa 'system32.services\.exe' "/proc/$p/cmdline"; done | wc -l)" = 1 ]
}
listening() { # its socket, named by device and inode of the prefix
	# shellcheck disable=SC2046
	compgen -G "/tmp/*/$(printf 'server-%x-%x' $(stat -c '%d %i' "$WINEPREFIX"))/socket" >/dev/null
}
server_is() { kill -0 "$server" 2>/dev/null && echo up || echo gone; }

# again COMMAND...: tried three times.
again() { "$@" || "$@" || "$@"; }

# enough SECONDS: so much time is left.
enough() { [ $((SECONDS + $1)) -le "$end" ]; }

# most is the longest that one test binary may take, least what must be left for a try; seconds.
most=110 least=50

# thrice NAME COMMAND...: runs COMMAND until it has come to an end that is not
# Wine's. It sets came to a verdict, and leaves the failed tests in /mnt/out/failed.
thrice() {
	local name=$1 before="" why="" both began try
	shift
	for try in 1 2 3; do
		if ! enough $least; then
			# Seen to fail, and no time to see whether that was Wine.
			if grep -qvx time-out <<<"${before:-time-out}"; then
				fail "$name" "${before//$'\n'/ } (${why})"
			else
				untested "$name" "no time is left${why:+; $why}"
			fi
			return
		fi
		: >/mnt/out/failed
		: >/mnt/out/said
		: >/mnt/out/signs
		began=$SECONDS
		"$@"
		case $came in
		ok)
			say "$name" "ok, $((SECONDS - began)) s"
			[ "$(server_is)" = up ] || again fresh
			return
			;;
		failed)
			fail "$name" "after $((SECONDS - began)) s"
			show
			return
			;;
		doubt) # failing twice, or at the end, is no accident
			both=$(twice "$(cat /mnt/out/failed)" "$before")
			before=$(printf '%s\n%s' "$before" "$(cat /mnt/out/failed)" | grep .)
			if [ -n "$both" ] || [ $try = 3 ]; then
				fail "$name" "not for the first time: ${both:-$before}"
				show
				return
			fi
			;;
		esac
		why=$(wine_words /mnt/out/said)
		[ -n "$why" ] || why=$(tail -1 /mnt/out/signs)
		[ "$(server_is)" = up ] || why="its server is gone; $why"
		[ -n "$why" ] || why="$(tail -1 $out)"
		say "$name" "Wine may have broken off, after $((SECONDS - began)) s: $why"
		[ $came = broke ] || say "$name" "and these failed: $(tr '\n' ' ' </mnt/out/failed)"
		show >/mnt/out/broke.$prefixes
		if ! again fresh; then
			untested "$name" "Wine broke off ($why), and does not start again"
			return
		fi
	done
	untested "$name" "Wine broke off 3 times: $why"
}

# whole SCRIPT: a story of steps, each of which can fail twice, for [thrice].
whole() {
	rm -rf /mnt/server
	# shellcheck disable=SC1090
	(. "/mnt/$1") 2>/mnt/out/shell.err
	came=$?
	cat /mnt/out/agent.log >>/mnt/out/said 2>/dev/null
	if [ $came = 0 ]; then
		came=ok
	elif [ -n "$(wine_words /mnt/out/said)" ] || [ -s /mnt/out/signs ] || [ "$(server_is)" = gone ]; then
		came=doubt
	else
		came=failed
	fi
	show() { cat /mnt/out/shell.err; }
}

if ! again prepare || ! again fresh; then
	untested "all" "Wine does not start: $(tail -1 $out)"
	exit 0
fi
say "wine" "$(grep -i windows $out)"
