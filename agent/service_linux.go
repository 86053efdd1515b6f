package agent

import "errors"

// errNoSystemd says how to go on where another init runs.
var errNoSystemd = errors.New("systemd does not run here: let your init start `" + ServiceName +
	" run --service`, and start it again whenever it ends")

func newManager() (manager, error) {
	if !exists("/run/systemd/system") { // sd_booted(3)
		return nil, errNoSystemd
	}
	return systemd{root: "/", run: command}, nil
}
