rm -rf /var/lib/gururmm /run/gururmm /etc/gururmm/allow-downgrade
if getent passwd gururmm-server >/dev/null; then userdel gururmm-server || true; fi
if getent group gururmm-server >/dev/null; then groupdel gururmm-server || true; fi
rmdir /etc/gururmm 2>/dev/null || true
