#!/bin/bash
# Holds scripts/wine-verdict.sh: nothing that Wine does fails a test run, and nothing
# that a test does is called Wine's.
set -u
cd "$(dirname "$0")"
. ./wine-verdict.sh
file=$(mktemp)
trap 'rm -f "$file"' EXIT
bad=0

is() { # WANT CODE SERVER OUTPUT
	printf '%b' "$4" >"$file"
	local got
	got=$(verdict "$2" "$file" "$3")
	if [ "$got" != "$1" ]; then
		echo "wine-verdict: $got, want $1, for exit code $2, server $3:" >&2
		cat "$file" >&2
		bad=1
	fi
}
noise='wine client error:254: sendmsg: Bad file descriptor\n'
late='panic: test timed out after 1m40s\nrunning tests:\n\tTestA (1m40s)\n'

is ok 0 up 'PASS\n'
is ok 0 up "--- PASS: TestA (0.01s)\nPASS\r\n"
is ok 0 up "PASS\n$noise"            # the noise of a process that ends
is ok 0 up "panic: a child's\nPASS\n"
is ok 0 gone 'PASS\n'                # it went afterwards

is failed 1 up '--- FAIL: TestA (0.01s)\n    a_test.go:7: no\nFAIL\n'
is failed 1 up '    --- FAIL: TestA/b (0.01s)\n--- FAIL: TestA (0.01s)\nFAIL\n'
is failed 2 up 'panic: oh\n\ngoroutine 7 [running]:\n'
is failed 2 up 'fatal error: all goroutines are asleep - deadlock!\n'
is failed 2 up 'Exception 0xc0000005 0x0 0x0 0x7f\nPC=0x1\n'
is failed 1 up '{"level":"error"}\n' # ended by itself, not by Go's tests, and not by Wine
is failed 3 up ''
is failed 1 up 'FAIL\n'

# A line that a test left open stands before what Go says of it.
is failed 1 up 'half a line--- FAIL: TestA (0.01s)\nFAIL\n'
is doubt 1 up "${noise}half a line--- FAIL: TestA (0.01s)\nFAIL\n"
is doubt 1 up "${noise}half a linepanic: oh\n\ngoroutine 7 [running]:\n"
is doubt 1 up "${noise}FAIL\n" # it says itself that something failed
is doubt 2 up "$late"
is doubt 1 up "${noise}--- FAIL: TestA (0.01s)\nFAIL\n"
is doubt 1 gone '--- FAIL: TestA (0.01s)\nFAIL\n'
is doubt 2 up "half a line wine client error:b8: partial wakeup read 4\npanic: oh\n"

is broke 1 up "$noise"
is broke 1 up 'some words wine client error:b8: recvmsg: Connection reset by peer\n'
is broke 1 up 'PASS\n'               # the exit code was lost
is broke 1 up "panic: a child's\nPASS\n"
is broke 0 up '=== RUN   TestA\n'    # it did not get to the end, and says 0
is broke 0 up ''
is broke 0 gone ''
is broke 124 up '=== RUN   TestA\n'  # stands still: not even Go's time-out came
is broke 137 up ''
is broke 139 up ''
is broke 1 up 'wine: Unhandled page fault on read access to 0 at 0, starting debugger...\n'
is broke 1 up 'wineserver: Error on master socket\n'

printf -- '--- FAIL: TestB (0s)\n    --- FAIL: TestB/x (0s)\n--- FAIL: TestA (0s)\npanic: oh\n' >"$file"
[ "$(failed_tests "$file" | tr '\n' ' ')" = "TestB TestA panic " ] || { echo "wine-verdict: names: $(failed_tests "$file")" >&2; bad=1; }
[ "$(twice "$(printf 'a\nb\n')" "$(printf 'c\nb\n')")" = b ] || { echo "wine-verdict: b is in both" >&2; bad=1; }
[ -z "$(twice "" "")" ] || { echo "wine-verdict: nothing is in both" >&2; bad=1; }
exit $bad
