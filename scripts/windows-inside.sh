#!/bin/bash
# The part of scripts/windows.sh that runs in the chroot with Wine. /mnt/bin holds
# the programs, /mnt/src the sources, read only.
#
#   windows-inside.sh SECONDS [tests]     tests: no agent, no service
end=$1 # of SECONDS
. /mnt/wine.sh

# Tests that Wine can't hold, and why.
#   neterr "unanswered DNS": Wine has no SIO_UDP_NETRESET, so Go can't open a UDP socket.
#   neterr "reset during TLS": a reader gets the end of the stream for a reset now and then.
#   oob "ImportsNothing": asks the go command, which is not here; it is not about the platform.
#   probe "TestNames": the same UDP socket.
#   probe "TestStateDirectory": Wine keeps an access list as far as a Unix mode can hold
#     it, so each directory seems to let others in; "a setting that can't be
#     understood": the same, found first.
skip='TestRealErrors/unanswered_DNS|TestRealErrors/reset_during_TLS|TestImportsNothingOfTheLink|^TestNames$|^TestStateDirectory$|TestDoctorOnTheCommandLine/a_setting_that'

# package NAME: its tests.
package() {
	local limit=$((end - SECONDS))
	[ $limit -lt $most ] || limit=$most
	cd "/mnt/src/$1" || die "$1" "no such directory"
	GURURMM_TEST_AGENT='Z:\mnt\bin\gururmm-agent.exe' w $limit "/mnt/bin/${1//\//+}.test.exe" -test.timeout $((limit - 10))s -test.skip "$skip"
	came=$(verdict $? $out "$(server_is)")
	cd /mnt
	failed_tests $out >/mnt/out/failed
	show() {
		grep -E '^ *--- FAIL|^panic' $out
		grep -v '^time=' $out | tail -60
	}
}
shopt -s nullglob
for test in /mnt/bin/*.test.exe; do
	name=$(basename "$test" .test.exe)
	thrice "${name//+//}" package "${name//+//}"
done

least=90 # it has waits of its own
if [ "${2:-}" != tests ]; then thrice "agent and service" whole windows-agent.sh; fi

if [ -s /mnt/out/untested ]; then
	echo "windows: not all was tested under Wine, $SECONDS s"
elif [ $failed = 0 ]; then
	echo "windows: all passed under Wine, $SECONDS s"
fi
exit $failed
