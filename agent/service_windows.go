package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/eventlog"
	"golang.org/x/sys/windows/svc/mgr"

	"gururmm/agent/guardian"
)

// controlWait bounds the wait for a service to start or stop, as its own stop is bounded.
const controlWait = 2 * guardian.StopWithin

// recovery is what the service manager does when the service fails: soon at
// first, then with growing patience, and never not at all (the last is repeated).
var recovery = []mgr.RecoveryAction{
	{Type: mgr.ServiceRestart, Delay: 2 * time.Second},
	{Type: mgr.ServiceRestart, Delay: 10 * time.Second},
	{Type: mgr.ServiceRestart, Delay: time.Minute},
}

// recoveryReset is how long without a failure it takes to begin with the first action again, in seconds.
const recoveryReset = 3600

// scm is the service control manager.
type scm struct{}

func newManager() (manager, error) { return scm{}, nil }

// StartPackaged is what to type to start the service that a package brought; "": none did.
func StartPackaged() string {
	if packaged() == "" {
		return ""
	}
	return ServiceName + " start"
}

// with opens the service and does do; access is what do needs.
func (scm) with(do func(*mgr.Mgr, *mgr.Service) error) error {
	m, err := mgr.Connect()
	if err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	defer m.Disconnect()
	s, err := m.OpenService(ServiceName)
	if err != nil {
		return err
	}
	defer s.Close()
	return do(m, s)
}

func (w scm) installed() (bool, error) {
	err := w.with(func(*mgr.Mgr, *mgr.Service) error { return nil })
	if errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST) {
		return false, nil
	}
	return err == nil, err
}

func (w scm) install(s Service) error {
	if s.Hardened {
		return errNotHere
	}
	if version := packaged(); version != "" {
		return fmt.Errorf("%w: version %s; %s", ErrPackaged, version, StartPackaged())
	}
	m, err := mgr.Connect()
	if err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	defer m.Disconnect()
	made, err := m.CreateService(ServiceName, s.Program, mgr.Config{
		StartType: mgr.StartAutomatic, ErrorControl: mgr.ErrorNormal,
		DisplayName: ServiceTitle, Description: ServiceDescription,
	}, s.Args()...)
	switch {
	case errors.Is(err, windows.ERROR_SERVICE_EXISTS):
		return fmt.Errorf("it is installed already: %s uninstall first", ServiceName)
	case err != nil:
		return err
	}
	defer made.Close()
	if err := configure(made); err != nil {
		return errors.Join(err, made.Delete()) // none is better than one that ends stopped
	}
	const kinds = eventlog.Error | eventlog.Warning | eventlog.Info
	if err := eventlog.InstallAsEventCreate(ServiceName, kinds); err != nil && !eventSourceExists() {
		return errors.Join(fmt.Errorf("event log source: %w", err), made.Delete())
	}
	return nil
}

// ConfigureService sets what a package's table of services does not take.
func ConfigureService() error {
	return scm{}.with(func(_ *mgr.Mgr, s *mgr.Service) error { return configure(s) })
}

// configure sets what CreateService does not take.
func configure(s *mgr.Service) error {
	// What a boot needs goes first; an RMM can wait a minute.
	delayed := windows.SERVICE_DELAYED_AUTO_START_INFO{IsDelayedAutoStartUp: 1}
	err := windows.ChangeServiceConfig2(s.Handle, windows.SERVICE_CONFIG_DELAYED_AUTO_START_INFO, (*byte)(unsafe.Pointer(&delayed)))
	if err != nil && !unknownLevel(err) {
		return fmt.Errorf("delayed start: %w", err)
	}
	if err := s.SetRecoveryActions(recovery, recoveryReset); err != nil {
		return fmt.Errorf("recovery actions: %w", err)
	}
	// An orderly stop with an error is a failure too.
	if err := s.SetRecoveryActionsOnNonCrashFailures(true); err != nil && !unknownLevel(err) {
		return fmt.Errorf("recovery actions on failures: %w", err)
	}
	// SERVICE_PRESHUTDOWN_INFO of <winsvc.h>: milliseconds a shutdown of the machine waits for us.
	info := struct{ timeout uint32 }{uint32(controlWait.Milliseconds())}
	err = windows.ChangeServiceConfig2(s.Handle, windows.SERVICE_CONFIG_PRESHUTDOWN_INFO, (*byte)(unsafe.Pointer(&info)))
	if err != nil && !unknownLevel(err) {
		return fmt.Errorf("wait at a shutdown: %w", err)
	}
	return nil
}

// unknownLevel: a service manager that is not Windows' own (Wine's) may not know
// a setting. None is needed for the promise: a guardian that fails does not
// report a stop, and one that is not told of a shutdown in time is ended by it.
func unknownLevel(err error) bool { return errors.Is(err, windows.ERROR_INVALID_LEVEL) }

// eventSourceExists: one of a former installation is as good.
func eventSourceExists() bool {
	l, err := eventlog.Open(ServiceName)
	if err != nil {
		return false
	}
	return l.Close() == nil
}

func (w scm) uninstall() error {
	if packaged() != "" {
		return fmt.Errorf("%w: remove the package", ErrPackaged)
	}
	if err := w.stop(); err != nil {
		return err
	}
	err := w.with(func(_ *mgr.Mgr, s *mgr.Service) error { return s.Delete() })
	if err != nil {
		return err
	}
	_ = eventlog.Remove(ServiceName) // it may never have been made, by a package
	return nil
}

func (w scm) start() error {
	return w.with(func(_ *mgr.Mgr, s *mgr.Service) error {
		err := s.Start()
		if err != nil && !errors.Is(err, windows.ERROR_SERVICE_ALREADY_RUNNING) {
			return err
		}
		return awaitState(s, svc.Running)
	})
}

func (w scm) stop() error {
	return w.with(func(_ *mgr.Mgr, s *mgr.Service) error {
		_, err := s.Control(svc.Stop)
		if err != nil && !errors.Is(err, windows.ERROR_SERVICE_NOT_ACTIVE) {
			return err
		}
		return awaitState(s, svc.Stopped)
	})
}

func (w scm) restart() error {
	if err := w.stop(); err != nil {
		return err
	}
	return w.start()
}

// awaitState waits until s is in state.
func awaitState(s *mgr.Service, state svc.State) error {
	for end := time.Now().Add(controlWait); ; time.Sleep(100 * time.Millisecond) {
		now, err := s.Query()
		switch {
		case err != nil:
			return err
		case now.State == state:
			return nil
		case state == svc.Running && now.State == svc.Stopped:
			return fmt.Errorf("it ended at once, code %d: see its log, or run it by hand", max(now.Win32ExitCode, now.ServiceSpecificExitCode))
		case time.Now().After(end):
			return fmt.Errorf("still in state %d of the service manager after %v", now.State, controlWait)
		}
	}
}

// RunService runs run as the service manager wants it: under its control
// handler, or plainly where none started this process. A run that ends by itself
// ends the process with code 1 and without a word to the service manager, which
// then starts it again whatever its settings.
//
// Whether the service manager started us is found by asking it:
// svc.IsWindowsService goes by session and parent, which Wine answers differently.
// A program that the launcher started does not ask: the answer is no, may take many
// seconds without a guardian, and may take the place of a service that starts just then.
func (s *Setup) RunService(ctx context.Context, run func(context.Context) error) error {
	return s.runService(ctx, run, svc.Run)
}

// runService is RunService, with what asks the service manager.
func (s *Setup) runService(ctx context.Context, run func(context.Context) error, ask func(string, svc.Handler) error) error {
	if os.Getenv(envInstalled) != "" {
		return run(ctx)
	}
	h := &handler{ctx: ctx, run: run, events: s.events, exit: os.Exit}
	err := ask(ServiceName, h)
	if errors.Is(err, windows.ERROR_FAILED_SERVICE_CONTROLLER_CONNECT) {
		return run(ctx)
	}
	return errors.Join(err, h.err)
}

// errLeft says that a stop was reported though the guardian did not end.
var errLeft = errors.New("the guardian does not end: left behind")

// handler answers the service control manager.
type handler struct {
	ctx    context.Context
	run    func(context.Context) error
	events chan<- guardian.Event
	exit   func(code int) // os.Exit but in a test
	err    error          // what run came to, or errLeft
}

// accepts: PreShutdown comes before Shutdown, with time enough to drain.
const accepts = svc.AcceptStop | svc.AcceptShutdown | svc.AcceptPreShutdown | svc.AcceptPowerEvent | svc.AcceptSessionChange

const (
	// hint is what a pending state may take from one checkpoint to the next.
	hint  = 5 * time.Second
	check = time.Second
)

// PBT_APMSUSPEND, PBT_APMRESUMEAUTOMATIC, WTS_SESSION_LOGON and WTS_SESSION_LOGOFF of <winuser.h>.
const (
	powerSuspend         = 0x4
	powerResumeAutomatic = 0x12
	sessionLogon         = 0x5
	sessionLogoff        = 0x6
)

// Execute implements svc.Handler. A guardian that does not end when it is told to is
// left behind: else the service would be stopping for ever, and could not be started.
func (h *handler) Execute(_ []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (bool, uint32) {
	status <- svc.Status{State: svc.StartPending, WaitHint: uint32(hint.Milliseconds())}
	ctx, stop := context.WithCancel(h.ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { // ends with run, or the process
		err := h.run(ctx)
		if ctx.Err() == nil {
			h.exit(1)
		}
		done <- err
	}()
	status <- svc.Status{State: svc.Running, Accepts: accepts}
	var ticks, over <-chan time.Time // while it stops
	var checkpoint uint32
	pending := func() {
		checkpoint++
		status <- svc.Status{State: svc.StopPending, CheckPoint: checkpoint, WaitHint: uint32(hint.Milliseconds())}
	}
	for {
		select {
		case h.err = <-done:
			return false, 0
		case <-over:
			h.err = errLeft
			return false, 0
		case <-ticks:
			pending()
		case r := <-requests:
			switch r.Cmd {
			case svc.Interrogate:
				status <- r.CurrentStatus
			case svc.Stop, svc.Shutdown, svc.PreShutdown:
				stop()
				if ticks == nil {
					t := time.NewTicker(check)
					defer t.Stop()
					ticks, over = t.C, time.After(guardian.StopWithin+stopMargin)
				}
				pending()
			default:
				h.happened(r)
			}
		}
	}
}

// happened tells the guardian of what befell the machine, if it means something to it.
func (h *handler) happened(r svc.ChangeRequest) {
	switch {
	case r.Cmd == svc.PowerEvent && r.EventType == powerSuspend:
		h.tell(guardian.EventSuspend)
	case r.Cmd == svc.PowerEvent && r.EventType == powerResumeAutomatic: // comes always; others tell besides who is there
		h.tell(guardian.EventResume)
	case r.Cmd == svc.SessionChange && (r.EventType == sessionLogon || r.EventType == sessionLogoff):
		h.tell(guardian.EventSession)
	}
}

// tell passes on an event. A guardian that hangs takes none: what does not fit into the
// queue is lost, and never waited for. A suspend is found out by its gap too.
func (h *handler) tell(e guardian.Event) {
	select {
	case h.events <- e:
	default:
	}
}
