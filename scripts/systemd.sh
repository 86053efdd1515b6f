#!/bin/bash
# Installs the agent under a real systemd, the first process of a container, and
# shows that the unit keeps what it promises. What was not tested is left in
# bin/systemd.untested: see scripts/container.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
what=systemd running=240
. scripts/container.sh
have systemd systemd systemd-sysv dbus iputils-ping procps
sh scripts/need.sh go

CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$work/" ./cmd/gururmm-agent ./cmd/gururmm
boot scripts/systemd-inside.sh
inside $running inside.sh
