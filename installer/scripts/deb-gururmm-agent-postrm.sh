rm -rf /var/lib/gururmm-agent /run/gururmm-agent /etc/gururmm/enroll.conf /etc/gururmm/allow-downgrade
if getent group gururmm >/dev/null; then groupdel gururmm || true; fi
rmdir /etc/gururmm 2>/dev/null || true
