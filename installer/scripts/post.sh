activeState() { systemctl show --property=ActiveState --value @UNIT@ 2>/dev/null || true; }
# stopped: nobody wants the service to run now. One that crashes is no such one.
stopped() { [ "$(activeState)" = inactive ]; }
