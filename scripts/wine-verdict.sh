# What an attempt under Wine came to: a test that failed, or a Wine that broke off.
# Sourced by scripts/windows-inside.sh; scripts/wine-verdict-test.sh holds it.
#
# Wine closes a process's connection to its server before the other threads of the
# process have ended. One that asks the server just then says "wine client error",
# mostly harmlessly, at times at the price of the exit code or the whole process.

# wine_words FILE: the first thing that Wine itself says in an output, "" if nothing.
wine_words() {
	grep -aoE 'wine client error:.*|^wine: .*|^wineserver.*' "$1" | grep -avm1 'created the configuration directory'
}

# failed_tests FILE: the names of the tests that failed, one a line. A test binary
# that ended in a panic, a crash or its time-out has such a name too, and so has one
# that says FAIL and nothing else. What a test printed without an end of line stands
# before Go's words; a subtest's name is indented.
failed_tests() {
	local names
	names=$(grep -avE '^ +--- FAIL: ' "$1" | grep -aoE -- '--- FAIL: [^ ]+ \(' | cut -d' ' -f3)
	[ -z "$names" ] || echo "$names"
	if grep -aq 'panic: test timed out' "$1"; then
		echo time-out
	elif grep -aqE '^(panic: |fatal error: |Exception 0x)' "$1" ||
		{ grep -aqE '(panic|fatal error): ' "$1" && grep -aqE '^goroutine [0-9]+ ' "$1"; }; then
		echo panic
	elif [ -z "$names" ] && [ "$(last_line "$1")" = FAIL ]; then
		echo unnamed
	fi
}

# last_line FILE: of the output, but for what Wine says.
last_line() { grep -avE 'wine client error:|^$' "$1" | tail -1 | tr -d '\r'; }

# verdict CODE FILE SERVER: of a test binary's exit code and output; SERVER is up
# or gone. Prints one of
#   ok      all tests passed
#   failed  tests failed, and there is no sign of Wine
#   doubt   tests failed, or timed out, where Wine may be the reason
#   broke   Wine broke off: no test failed, and they did not end as Go ends them
verdict() {
	local code=$1 file=$2 server=$3 end wine=""
	end=$(last_line "$file")
	if [ "$code" = 0 ] && [ "$end" = PASS ]; then
		echo ok
		return
	fi
	# timeout(1) says 124 or 137; above 128 it is a Unix signal, which no Windows program ends by.
	if [ -n "$(wine_words "$file")" ] || [ "$server" = gone ] || [ "$code" = 124 ] || { [ "$code" -gt 128 ] && [ "$code" -lt 160 ]; }; then
		wine=yes
	fi
	case "$(failed_tests "$file" | tail -1)" in
	"") ;;
	time-out)
		echo doubt
		return
		;;
	panic) # a child's that was meant to be, if all tests passed nevertheless
		if [ "$end" != PASS ]; then
			[ -n "$wine" ] && echo doubt || echo failed
			return
		fi
		;;
	*)
		[ -n "$wine" ] && echo doubt || echo failed
		return
		;;
	esac
	# Go says PASS and ends with 0, or FAIL and ends with 1.
	if [ -n "$wine" ] || [ "$end" = PASS ] || [ "$code" = 0 ]; then
		echo broke
	else
		echo failed
	fi
}

# twice NAMES NAMES: the names that are in both.
twice() { comm -12 <(sort -u <<<"$1") <(sort -u <<<"$2") | grep .; }
