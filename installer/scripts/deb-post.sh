case "$1" in
configure) ;;
*) exit 0 ;; # an upgrade or a removal that failed: all is as it was
esac
action=upgrade
if [ -z "${2:-}" ] || [ -e /run/@NAME@.installs ]; then action=install; fi
rm -f /run/@NAME@.installs

# launch: enable it as the administrator left it, and start it.
launch() {
	deb-systemd-helper unmask @UNIT@ >/dev/null || true
	if deb-systemd-helper --quiet was-enabled @UNIT@; then
		deb-systemd-helper enable @UNIT@ >/dev/null || true
	else
		deb-systemd-helper update-state @UNIT@ >/dev/null || true
	fi
	reload
	booted || return 0
	if [ "$action" = install ]; then
		deb-systemd-invoke start @UNIT@ || true
	elif ! stopped; then
		deb-systemd-invoke restart @UNIT@ || true
	fi
}
