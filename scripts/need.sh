#!/bin/sh
# Makes sure that the named commands are here. What is missing is installed
# through apt when this runs as root on Debian or a relative of it; otherwise it
# is named, and nothing is changed.
#
#   scripts/need.sh make gcc python3
set -eu

package_of() { # command -> Debian package
	case "$1" in
	gcc) echo "gcc libc6-dev" ;;
	ps | pgrep) echo procps ;;
	systemd-analyze) echo systemd ;;
	ip) echo iproute2 ;;
	systemd-nspawn) echo systemd-container ;;
	nsenter | unshare) echo util-linux ;;
	initdb) echo postgresql ;;
	msibuild | msiinfo) echo msitools ;;
	nginx-stream) echo libnginx-mod-stream ;;
	*) echo "$1" ;;
	esac
}

# here tells whether a command is; Debian has PostgreSQL's in a folder for each version, and
# nginx's stream is no command but a module.
here() {
	command -v "$1" >/dev/null 2>&1 && return
	for file in /usr/lib/postgresql/*/bin/"$1"; do
		[ -x "$file" ] && return
	done
	[ "$1" = nginx-stream ] && [ -e /usr/lib/nginx/modules/ngx_stream_module.so ]
}

missing=""
packages=""
for command in "$@"; do
	if ! here "$command"; then
		missing="$missing $command"
		packages="$packages $(package_of "$command")"
	fi
done
[ -z "$missing" ] && exit 0

case "$missing" in
*" go"*)
	echo "need: Go 1.26 or newer is missing; install it from your system or https://go.dev/dl" >&2
	exit 1
	;;
esac
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "need: installing$packages" >&2
	export DEBIAN_FRONTEND=noninteractive
	# apt serves one at a time, and what runs beside this may need something too.
	mkdir -p /run/lock
	exec 9>/run/lock/gururmm-need
	flock -w 300 9 || echo "need: someone else has been installing for 300 s; trying all the same" >&2
	# A server that only tests need must not begin to serve on this machine, now or at its next boot.
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
		trap 'exit 1' HUP INT TERM
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
		chmod 755 /usr/sbin/policy-rc.d
	fi
	for try in 1 2 3; do # a mirror that fails or hangs for a moment is not the end
		[ $try = 1 ] || sleep $((try * 3))
		# Word splitting is meant: several packages. A service that one of them starts must
		# not keep the lock.
		# shellcheck disable=SC2086
		if timeout 60 apt-get update -qq &&
			timeout 180 apt-get install -y -qq --no-install-recommends $packages >/dev/null 9>&-; then
			break
		fi
		echo "need: try $try of installing$packages failed" >&2
	done
	for command in $missing; do
		case "$command" in
		nginx | haproxy) systemctl disable --quiet "$command" 2>/dev/null || true ;;
		esac
		if ! here "$command"; then
			echo "need: $command is still missing after installing$packages" >&2
			exit 1
		fi
	done
	exit 0
fi
echo "need: missing:$missing. Install the packages:$packages" >&2
exit 1
