package agent

import (
	"context"
	"errors"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc/mgr"

	"gururmm/agent/probe"
	"gururmm/checkup"
)

// serviceFact asks the service control manager for our service.
func serviceFact(context.Context) probe.Fact {
	var said scmSaid
	err := scm{}.with(func(_ *mgr.Mgr, s *mgr.Service) error {
		now, err := s.Query()
		if err != nil {
			return err
		}
		config, err := s.Config()
		if err != nil {
			return err
		}
		said = scmSaid{state: uint32(now.State), startType: config.StartType, pid: now.ProcessId, code: max(now.Win32ExitCode, now.ServiceSpecificExitCode)}
		return nil
	})
	switch {
	case errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST):
		return notInstalled()
	case err != nil:
		return probe.Fact{Status: checkup.Warn, Seen: err.Error(), Do: "Run the doctor from an elevated prompt."}
	}
	return said.fact()
}
