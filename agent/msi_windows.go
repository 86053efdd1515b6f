package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/eventlog"
	"golang.org/x/sys/windows/svc/mgr"

	"gururmm/agent/state"
	"gururmm/internal/atomicfile"
)

// What the package for Windows has done by the program that it brings, since its tables can't:
// write a private file that no log shows, know a service that was stopped from one that runs,
// and tell what an installation came to.

// packageKey is the key of the registry that the package leaves, and packageValue its version in it.
const (
	packageKey   = `SOFTWARE\GuruRMM\Agent`
	packageValue = "Package"
)

// packaged is the version of the package that owns the service; "": none does.
func packaged() string {
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, packageKey, registry.QUERY_VALUE|registry.WOW64_64KEY)
	if err != nil {
		return ""
	}
	defer k.Close()
	version, _, err := k.GetStringValue(packageValue)
	if err != nil {
		return ""
	}
	return version
}

// serviceNote is how the service was before a package changed it.
type serviceNote struct {
	StartType uint32 `json:"start_type"`
	Stopped   bool   `json:"stopped"`
}

// packageDir is the state directory, made and private, or refused: %ProgramData% lets everybody
// make folders, and what SYSTEM writes or removes must not follow where somebody else leads.
func packageDir() (string, error) {
	dir, err := state.DefaultDir()
	if err != nil {
		return "", err
	}
	_, err = state.Open(dir)
	return dir, err
}

// notePath is where it is kept meanwhile: an upgrade removes the service and makes it anew.
func notePath() (string, error) {
	dir, err := packageDir()
	return filepath.Join(dir, state.NoteFile), err
}

// NoteService notes how the service is, for [StartNoted].
func NoteService() error {
	path, err := notePath()
	if err != nil {
		return err
	}
	var note serviceNote
	err = scm{}.with(func(_ *mgr.Mgr, s *mgr.Service) error {
		now, err := s.Query()
		note.Stopped = now.State == svc.Stopped
		return err
	})
	if err != nil {
		return err
	}
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, `SYSTEM\CurrentControlSet\Services\`+ServiceName, registry.QUERY_VALUE)
	if err != nil {
		return err
	}
	defer k.Close()
	start, _, err := k.GetIntegerValue("Start") // QueryServiceConfig2, which [mgr.Service.Config] needs, is more than Wine knows
	if err != nil {
		return err
	}
	note.StartType = uint32(start)
	raw, err := json.Marshal(note)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, raw, 0o600)
}

// StartNoted starts the service, unless a note says that it was stopped before; a start type
// that somebody chose is set again. kept says what was left as it was, for people; "": it was started.
func StartNoted() (kept string, err error) {
	path, err := notePath()
	if err != nil {
		return "", err
	}
	note := serviceNote{StartType: mgr.StartAutomatic}
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return "", err
	default:
		if err := json.Unmarshal(raw, &note); err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
	}
	if note.Stopped {
		kept = "the service was stopped before"
	} else if err := startWhenStopped(); err != nil {
		return "", err
	}
	if note.StartType != mgr.StartAutomatic { // last: one that is disabled does not start
		err := scm{}.with(func(_ *mgr.Mgr, s *mgr.Service) error {
			return windows.ChangeServiceConfig(s.Handle, windows.SERVICE_NO_CHANGE, note.StartType, windows.SERVICE_NO_CHANGE, nil, nil, nil, nil, nil, nil, nil)
		})
		if err != nil {
			return "", fmt.Errorf("start type %d: %w", note.StartType, err)
		}
		if kept != "" && note.StartType == mgr.StartDisabled {
			kept = "the service is disabled"
		}
	}
	return kept, remove(path)
}

// startWhenStopped starts the service, after a stop that is under way.
func startWhenStopped() error {
	err := scm{}.with(func(_ *mgr.Mgr, s *mgr.Service) error {
		now, err := s.Query()
		if err != nil || now.State != svc.StopPending {
			return err
		}
		return awaitState(s, svc.Stopped)
	})
	if err != nil {
		return err
	}
	return scm{}.start()
}

// OrderToEnroll leaves an order of KEY=VALUE words for the service.
func OrderToEnroll(words []string) error {
	s, err := Prepare(Options{Service: true})
	if err != nil {
		return err
	}
	return atomicfile.Write(s.EnrollFile, writeOrder(words), 0o600)
}

// DropOrder takes it back, where an installation fails.
func DropOrder() error {
	dir, err := packageDir()
	if err != nil {
		return err
	}
	return remove(enrollFile(dir))
}

// Purge removes all state: identity, journal, settings, logs.
func Purge() error {
	dir, err := packageDir()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	os.Remove(filepath.Dir(dir)) // stays if others keep something there
	return nil
}

// maxInstallLog bounds the package's log in bytes; one that is larger begins anew.
const maxInstallLog = 1 << 20

// LogInstall tells what a package did, in log\install.log of the state directory and in the
// Application log. bad: it failed.
func LogInstall(text string, bad bool) error {
	return errors.Join(logInstall(text), eventInstall(text, bad))
}

func logInstall(text string) error {
	dir, err := packageDir()
	if err != nil {
		return err
	}
	path, mode := filepath.Join(dir, state.LogDir, "install.log"), os.O_APPEND
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if info, err := os.Stat(path); err == nil && info.Size() > maxInstallLog {
		mode = os.O_TRUNC
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|mode, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s %s\r\n", time.Now().UTC().Format(time.RFC3339), strings.ReplaceAll(strings.TrimSpace(text), "\n", "\r\n"))
	return errors.Join(err, f.Close())
}

func eventInstall(text string, bad bool) error {
	l, err := eventlog.Open(ServiceName)
	if err != nil {
		return err
	}
	write := l.Info
	if bad {
		write = l.Error
	}
	return errors.Join(write(eventInstalled, text), l.Close())
}
