package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gururmm/checkup"
)

func TestWhatSystemdSaysIsJudged(t *testing.T) {
	root := t.TempDir()
	m := systemd{root: root}
	packaged := filepath.Join(root, packagedUnits[0])
	for _, c := range []struct {
		name   string
		said   map[string]string
		both   bool // a package's unit is there, too
		status checkup.Status
		seen   string
		do     string
	}{
		{"well", map[string]string{"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "UnitFileState": "enabled", "FragmentPath": packaged}, false,
			checkup.Pass, "active (running), enabled, a package's unit", ""},
		{"own unit", map[string]string{"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", "FragmentPath": m.unit()}, false, checkup.Pass, "a unit of its own", ""},
		{"own unit before the package's", map[string]string{"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", "FragmentPath": m.unit()}, true, checkup.Warn, "", "hides the package's unit"},
		{"not installed", map[string]string{"LoadState": "not-found", "ActiveState": "inactive"}, false, checkup.Warn, "not installed", "install"},
		{"masked", map[string]string{"LoadState": "masked", "ActiveState": "inactive"}, false, checkup.Fail, "", "unmask"},
		{"failed", map[string]string{"LoadState": "loaded", "ActiveState": "failed", "UnitFileState": "enabled"}, false, checkup.Fail, "failed", "journalctl"},
		{"stopped", map[string]string{"LoadState": "loaded", "ActiveState": "inactive", "UnitFileState": "enabled"}, false, checkup.Warn, "inactive", "systemctl start"},
		{"not after a reboot", map[string]string{"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "disabled"}, false, checkup.Warn, "disabled", "systemctl enable"},
		{"nothing is said", map[string]string{}, false, checkup.Warn, "", "systemctl start"},
	} {
		if c.both {
			if err := os.MkdirAll(filepath.Dir(packaged), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(packaged, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		f := m.fact(c.said)
		if f.Status != c.status || !strings.Contains(f.Seen, c.seen) || !strings.Contains(f.Do, c.do) || (f.Status == checkup.Pass) != (f.Do == "") {
			t.Errorf("%s: %+v", c.name, f)
		}
		os.Remove(packaged)
	}
	again := m.fact(map[string]string{"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", "NRestarts": "3"})
	if len(again.Notes) != 1 || !strings.Contains(again.Notes[0], "3 times") {
		t.Errorf("%+v", again)
	}
}

func TestWhatLaunchdSaysIsJudged(t *testing.T) {
	m := launchd{root: t.TempDir()}
	if f := m.fact("state = running\n", nil); f.Status != checkup.Warn || !strings.Contains(f.Seen, "not installed") || f.Do == "" {
		t.Errorf("not installed: %+v", f)
	}
	if err := os.MkdirAll(filepath.Dir(m.plist()), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.plist(), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, said string
		unloaded   error
		status     checkup.Status
		seen, do   string
	}{
		{"well", "system/gururmm-agent = {\n\tactive count = 1\n\tstate = running\n\tpid = 412\n\tendpoints = {\n\t\tstate = off\n", nil, checkup.Pass, "launchd: running", ""},
		{"it ends again and again", "\tstate = spawn scheduled\n", nil, checkup.Warn, "spawn scheduled", "restart"},
		{"not loaded", "", errors.New("exit status 113"), checkup.Warn, "not loaded: exit status 113", "gururmm-agent start"},
		{"nothing is said", "", nil, checkup.Pass, "whether it runs is not told", ""},
	} {
		f := m.fact(c.said, c.unloaded)
		if f.Status != c.status || !strings.Contains(f.Seen, c.seen) || !strings.Contains(f.Do, c.do) || (f.Status == checkup.Pass) != (f.Do == "") {
			t.Errorf("%s: %+v", c.name, f)
		}
	}
}

func TestWhatWindowsServiceManagerSaysIsJudged(t *testing.T) {
	for _, c := range []struct {
		name     string
		said     scmSaid
		status   checkup.Status
		seen, do string
	}{
		{"well", scmSaid{state: 4, startType: 2, pid: 412}, checkup.Pass, "running, process 412", ""},
		{"on its way", scmSaid{state: 2, startType: 2, pid: 412}, checkup.Pass, "starting", ""},
		{"stopped", scmSaid{state: 1, startType: 2, code: 1067}, checkup.Warn, "stopped, code 1067", "gururmm-agent start"},
		{"paused", scmSaid{state: 7, startType: 2}, checkup.Warn, "paused", "gururmm-agent start"},
		{"not after a reboot", scmSaid{state: 4, startType: 3}, checkup.Warn, "running", "start= auto"},
		{"nothing is said", scmSaid{}, checkup.Warn, "state 0", "gururmm-agent start"},
	} {
		f := c.said.fact()
		if f.Status != c.status || !strings.Contains(f.Seen, c.seen) || !strings.Contains(f.Do, c.do) || (f.Status == checkup.Pass) != (f.Do == "") {
			t.Errorf("%s: %+v", c.name, f)
		}
	}
}
