# A server on loopback for an agent under Wine, and what is asked of both. Sourced by a story
# of scripts/wine.sh, which sets before that: agent=PATH of the program, id of the agent once it is known.
# shellcheck shell=bash
export GURURMM_URL=https://127.0.0.1:8443 GURURMM_CA=/mnt/server/main.crt
/mnt/bin/gururmm serve --state-dir /mnt/server --listen 127.0.0.1:8443 --oob-listen 127.0.0.1:8444 \
	--release-key /mnt/release.key.pub --public-url $GURURMM_URL --oob-url https://127.0.0.1:8444 >/mnt/out/server.log 2>&1 </dev/null &
started=$!
trap 'kill $started 2>/dev/null; wait $started' EXIT
until_ 30 grep -q '"serving"' /mnt/out/server.log || die "server" "$(tail -5 /mnt/out/server.log)"
GURURMM_TOKEN=$(/mnt/bin/gururmm operator-token smoke --state-dir /mnt/server | grep -o 'gro_[A-Z0-9]*')
export GURURMM_TOKEN
# enroll_token: a new one, in /mnt/token; it sets pin, the server's.
enroll_token() {
	local made
	made=$(/mnt/bin/gururmm enroll-token create --json)
	grep -o 'gre_[A-Z0-9]*' <<<"$made" >/mnt/token
	# shellcheck disable=SC2034
	pin=$(grep -o 'sha256/[^"]*' <<<"$made")
}

status() { w 20 "$agent" status --json; }
well() { status; }
field() { # name of an object, name of its number
	tr -d ' \n' <$out | grep -o "\"$1\":{[^}]*}" | head -1 | grep -o "\"$2\":[0-9]*" | cut -d: -f2
}
worker() { status; field worker pid; }
execs() { # a word to print: the command's own exit code and output come back
	local text code
	text=$(timeout 60 /mnt/bin/gururmm exec "$id" --shell cmd -- "echo $1& exit 7" 2>/mnt/out/exec.err | tr -d '\r')
	code=$?
	[ $code = 7 ] && [ "$text" = "$1" ]
}
