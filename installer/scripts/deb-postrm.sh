case "$1" in
remove | purge) reload ;;
*) exit 0 ;;
esac
[ "$1" = purge ] || exit 0
if command -v deb-systemd-helper >/dev/null; then
	deb-systemd-helper purge @UNIT@ >/dev/null || true
fi
rm -rf "/etc/systemd/system/@UNIT@.d" /run/@NAME@.installs
