package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/kardianos/service"
)

// ServiceName is what the service manager calls us.
const ServiceName = "gururmm-agent"

// packagedUnits are where a package puts its unit. One of our own in
// /etc/systemd/system would shadow it, and outlive its upgrades.
var packagedUnits = []string{
	"/usr/lib/systemd/system/" + ServiceName + ".service",
	"/lib/systemd/system/" + ServiceName + ".service",
}

// ErrNotInstalled says that there is no service to control.
var ErrNotInstalled = errors.New("the service is not installed: " + ServiceName + " install")

// ErrRights says that only an administrator may do this.
var ErrRights = errors.New("run as root (administrator)")

// ErrPackaged says that a package owns the service definition.
var ErrPackaged = errors.New("the service is installed by a package")

// unit is written in place of kardianos' own, which has RestartSec=120 and a
// start limit: an agent that asked to be restarted would stay away for two
// minutes, and one that crashes often would end stopped. KillMode=mixed leaves
// draining to the guardian; what is left then is killed.
const unit = `[Unit]
Description={{Description}}
ConditionFileIsExecutable={{Path | cmdEscape}}
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart={{Path | cmdEscape}}{{range Arguments}} {{. | cmd}}{{end}}
Restart=always
RestartSec=2
KillMode=mixed
TimeoutStopSec=20

[Install]
WantedBy=multi-user.target
`

// ServiceActions are what [ControlService] can do.
var ServiceActions = []string{"install", "uninstall", "start", "stop", "restart"}

// ControlService installs, uninstalls, starts, stops or restarts the service.
// stateDir is written into a new installation; "": the platform's default.
func ControlService(action, stateDir string) error {
	if os.Geteuid() > 0 { // Windows: -1, and the service manager says it
		return fmt.Errorf("%s: %w", action, ErrRights)
	}
	svc, err := service.New(&program{}, serviceConfig(stateDir))
	if err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	return control(svc, action)
}

// control does what [ControlService] promises. It does not leave it to
// service.Control, whose errors can't be told apart.
func control(svc service.Service, action string) error {
	do := map[string]func() error{
		"install": svc.Install, "uninstall": svc.Uninstall, "start": svc.Start, "stop": svc.Stop, "restart": svc.Restart,
	}[action]
	switch action {
	case "start", "stop", "restart":
		if _, err := svc.Status(); errors.Is(err, service.ErrNotInstalled) {
			return ErrNotInstalled
		}
	case "install":
		for _, file := range packagedUnits {
			if exists(file) {
				return fmt.Errorf("%w: %s; use systemctl enable --now %s", ErrPackaged, file, ServiceName)
			}
		}
	case "uninstall":
		// Windows only marks a running service for deletion, launchd likes it stopped too.
		if state, err := svc.Status(); err == nil && state == service.StatusRunning {
			if err := svc.Stop(); err != nil {
				return fmt.Errorf("uninstall: stop first: %w", err)
			}
		}
	}
	err := do()
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%s: %w: %w", action, ErrRights, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	return nil
}

func serviceConfig(stateDir string) *service.Config {
	args := []string{"run", "--service"}
	if stateDir != "" {
		args = append(args, "--state-dir", stateDir)
	}
	return &service.Config{
		Name: ServiceName, DisplayName: "GuruRMM Agent",
		Description: "GuruRMM endpoint agent: runs what the operator orders, and repairs its own link",
		Arguments:   args,
		Option: service.KeyValue{
			"SystemdScript": unit,
			"Restart":       "always",
			"RunAtLoad":     true, // launchd: its default here is false
			"KeepAlive":     true,
			"LogOutput":     false,
			// Windows: the documented default is restart, the code's is none.
			"OnFailure":              "restart",
			"OnFailureDelayDuration": "2s",
			"OnFailureResetPeriod":   3600, // seconds
			"DelayedAutoStart":       false,
		},
	}
}

// RunService runs run as the service manager wants it: on Windows under its
// control handler, elsewhere as any program. A failed run ends the process with
// code 1, so that it is started again.
func RunService(ctx context.Context, run func(context.Context) error) error {
	if runtime.GOOS != "windows" || service.Interactive() {
		return run(ctx)
	}
	p := &program{run: run, ctx: ctx}
	svc, err := service.New(p, serviceConfig(""))
	if err != nil {
		return err
	}
	return svc.Run()
}

// program is the service as kardianos drives it; Start must not block.
type program struct {
	run    func(context.Context) error
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

func (p *program) Start(service.Service) error {
	if p.run == nil {
		return errors.New("not to be run, only controlled")
	}
	ctx, cancel := context.WithCancel(p.ctx)
	p.cancel, p.done = cancel, make(chan struct{})
	go func() {
		defer close(p.done)
		p.err = p.run(ctx)
		if ctx.Err() == nil {
			// Ended by itself. Only a process that dies, without reporting a stop, is
			// restarted by the service manager.
			os.Exit(1)
		}
	}()
	return nil
}

func (p *program) Stop(service.Service) error {
	p.cancel()
	<-p.done // run bounds its own stop
	return p.err
}
