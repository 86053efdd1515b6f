# Who is in it may ask for the status (gururmm-agent status).
getent group gururmm >/dev/null || groupadd --system gururmm || warn "the group gururmm could not be made: only root may ask for the status"
# A permission to go back is for once.
rm -f /etc/gururmm/allow-downgrade

launch
if ! booted; then
	say "installed, and not started: systemd does not run here"
elif stopped; then
	say "installed, and not started: the service is stopped, disabled or not to be started here. Start it with: systemctl start @UNIT@"
else
	# Done is what has a verified link. It says so, or what else is the case; that is no
	# reason to call the package broken.
	/usr/bin/gururmm-agent settle --within 60s || true
fi
