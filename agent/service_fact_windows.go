package agent

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"

	"gururmm/agent/probe"
	"gururmm/checkup"
)

// serviceFact asks the service control manager for our service.
func serviceFact(context.Context) probe.Fact {
	var now svc.Status
	var config mgr.Config
	err := scm{}.with(func(_ *mgr.Mgr, s *mgr.Service) (err error) {
		if now, err = s.Query(); err != nil {
			return err
		}
		config, err = s.Config()
		return err
	})
	switch {
	case errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST):
		return probe.Fact{Status: checkup.Warn, Seen: "the service is not installed",
			Do: "Install it, so that it runs after a reboot: gururmm-agent install, then gururmm-agent start."}
	case err != nil:
		return probe.Fact{Status: checkup.Warn, Seen: err.Error(), Do: "Run the doctor from an elevated prompt."}
	}
	f := probe.Fact{Status: checkup.Pass, Seen: fmt.Sprintf("service manager: running, process %d", now.ProcessId),
		Figures: map[string]any{"state": uint32(now.State), "start_type": config.StartType, "pid": now.ProcessId}}
	switch {
	case now.State != svc.Running:
		f.Status, f.Seen, f.Do = checkup.Warn, fmt.Sprintf("service manager: state %d, code %d", now.State, max(now.Win32ExitCode, now.ServiceSpecificExitCode)),
			"It is installed and does not run: gururmm-agent start."
	case config.StartType != mgr.StartAutomatic:
		f.Status, f.Do = checkup.Warn, "It runs, but will not after a reboot: sc config "+ServiceName+" start= auto."
	}
	return f
}
