#!/bin/sh
# Makes the secrets that compose.yaml mounts, once, each readable for the account of its
# container alone:
#
#   sudo sh secrets.sh
set -eu
umask 077
cd "$(dirname "$0")"
if [ -e secrets ]; then
	echo "secrets: they are there, and stay as they are: $PWD/secrets" >&2
	exit 1
fi
rm -rf secrets.new
mkdir secrets.new
random() { od -An -v -tx1 -N24 /dev/urandom | tr -d ' \n'; }
write() { # NAME OWNER, the text on standard input
	cat >"secrets.new/$1"
	chown "$2" "secrets.new/$1"
}
database=$(random)
bus=$(random)
server=65532:65532
# They go by printf, which is the shell's own: no process list shows them.
printf '%s\n' "$database" | write database.password 999:999
printf 'postgres://gururmm:%s@database:5432/gururmm?sslmode=disable\n' "$database" | write database.url $server
printf 'nats://%s@bus:4222\n' "$bus" | write bus.url $server
printf 'listen: "0.0.0.0:4222"\nhttp: "127.0.0.1:8222"\nauthorization { token: "%s" }\n' "$bus" | write bus.conf $server
mv secrets.new secrets
