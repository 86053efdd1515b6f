# newer OLD: that version is newer than this one.
newer() { dpkg --compare-versions "$1" gt "@VERSION@-1"; }
case "$1" in
install)
	action=install old=${2:-}
	: >/run/@NAME@.installs || true # for the script that follows; it is told no difference
	;;
upgrade) action=upgrade old=${2:-} ;;
*) exit 0 ;; # an upgrade that failed: the version before is being put back
esac
judge
