# refuse ends an installation before anything was changed.
refuse() {
	warn "NOT INSTALLED, nothing was changed: $*"
	exit 1
}
# mayFollow OLD: this version may take the place of that one, as dpkg and rpm write it.
mayFollow() {
	newer "$1" || return 0
	if [ -e /etc/gururmm/allow-downgrade ]; then
		say "takes the place of $1, which is newer: /etc/gururmm/allow-downgrade is there"
		return 0
	fi
	refuse "$1 is newer than @VERSION@. An older version need not understand what a newer one wrote," \
		"and may lack what was mended since. If that is meant: touch /etc/gururmm/allow-downgrade"
}
# notShadowed: systemd prefers a unit in /etc to the package's.
notShadowed() {
	own=/etc/systemd/system/@UNIT@
	[ -f "$own" ] || return 0
	if grep -q '@COMMAND@.* run --service' "$own"; then
		refuse "it is installed by hand already, by $own. Give that up first, which keeps identity and state:" \
			"@COMMAND@ uninstall"
	fi
	refuse "$own is in the way: a service of the same name that is not this package's." \
		"If it is not needed: systemctl disable --now @UNIT@, remove that file, systemctl daemon-reload; then install again"
}
# judge is for the end, when $action and $old (none: "") are known.
judge() {
	[ -z "$old" ] || mayFollow "$old"
	[ "$action" = upgrade ] || notShadowed
}
