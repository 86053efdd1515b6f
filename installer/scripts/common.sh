say() { echo "@NAME@: $*"; }
warn() { echo "@NAME@: $*" >&2; }
booted() { [ -d /run/systemd/system ]; }
reload() { ! booted || systemctl daemon-reload || true; }
