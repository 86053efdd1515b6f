if [ "${1:-0}" = 0 ]; then
	if booted; then systemctl disable --now @UNIT@ || true; else systemctl disable @UNIT@ || true; fi
fi
