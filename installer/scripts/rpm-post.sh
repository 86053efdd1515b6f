action=install
if [ "${1:-1}" -gt 1 ]; then action=upgrade; fi

# launch: enable and start it the first time, later only what runs.
launch() {
	reload
	if [ "$action" = install ]; then
		systemctl enable @UNIT@ >/dev/null 2>&1 || warn "the service is not enabled: systemctl enable @UNIT@ says why"
	fi
	booted || return 0
	if [ "$action" = install ]; then
		systemctl start @UNIT@ || true
	elif ! stopped; then
		systemctl restart @UNIT@ || true
	fi
}
