# Before an upgrade nothing is stopped: the version before serves until the new one is whole.
if [ "$1" = remove ] && booted; then
	deb-systemd-invoke stop @UNIT@ || true
fi
