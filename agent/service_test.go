package agent

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/kardianos/service"
)

// manager is a service manager that knows no service, and lets nobody change that.
type manager struct{ service.Service }

func (manager) Status() (service.Status, error) {
	return service.StatusUnknown, service.ErrNotInstalled
}
func (manager) Install() error   { return fmt.Errorf("write the unit: %w", os.ErrPermission) }
func (manager) Uninstall() error { return nil }
func (manager) Start() error     { return errors.New("exit status 5") }
func (manager) Stop() error      { return errors.New("exit status 5") }
func (manager) Restart() error   { return errors.New("exit status 5") }

func TestServiceErrorsSayWhatToDo(t *testing.T) {
	for action, want := range map[string]error{
		"start": ErrNotInstalled, "stop": ErrNotInstalled, "restart": ErrNotInstalled, "install": ErrRights, "uninstall": nil,
	} {
		if err := control(manager{}, action); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", action, err, want)
		}
	}
}
