# An account without rights, and a group that is not the one that may ask agents.
getent group gururmm-server >/dev/null || groupadd --system gururmm-server
if ! getent passwd gururmm-server >/dev/null; then
	useradd --system --gid gururmm-server --home-dir /var/lib/gururmm --no-create-home \
		--shell /usr/sbin/nologin --comment "GuruRMM server" gururmm-server
fi
rm -f /etc/gururmm/allow-downgrade

launch
if ! booted; then
	say "installed, and not started: systemd does not run here"
	exit 0
fi
if stopped; then
	say "installed, and not started: the service is stopped, disabled or not to be started here. Start it with: systemctl start @UNIT@"
	exit 0
fi
# It leaves this once it listens.
left=30
until [ "$(activeState)" = active ] && [ -e /run/gururmm/ready.json ]; do
	left=$((left - 1))
	if [ $left = 0 ]; then
		warn "installed, but the server does not listen: journalctl -u @UNIT@ says why"
		exit 0
	fi
	sleep 1
done
say "the server listens. Its settings: /etc/gururmm/server.yaml"
if [ "$action" = install ]; then
	say "make yourself an operator's token: sudo -u gururmm-server gururmm operator-token NAME --config /etc/gururmm/server.yaml"
fi
