//go:build unix

package lab_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gururmm/operator"
	"gururmm/wire"
)

// TestRestoredFromABackup: the server's machine is lost while a command runs. A backup that
// was made while it served, restored in the second try, is that server again: the endpoint
// comes back by itself, what it ran meanwhile arrives, and nothing runs twice.
func TestRestoredFromABackup(t *testing.T) {
	s := newScene(t)
	state, file := filepath.Join(s.Dir, "server"), filepath.Join(s.Dir, "backup.tar.gz")
	before := s.submit("")
	s.completed(before)
	s.says("direct", s.agent.ID, "send_bundle", "--wait", patience.String())
	bundles, err := s.Client().Bundles(t.Context(), s.agent.ID)
	if err != nil || len(bundles) != 1 {
		t.Fatalf("bundles %+v, %v", bundles, err)
	}
	running := s.sleeper()
	s.says("backup", "--state-dir", state, "-o", file)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup has mode %v, %v", info.Mode(), err)
	}
	if _, words, code, err := s.Operator(t.Context(), "backup", "--state-dir", state, "-o", file); err != nil || code == 0 || !strings.Contains(words, "is there already") {
		t.Errorf("over a backup: exit %d, %s, %v", code, words, err)
	}
	if said := s.says("backup", "--verify", file); !strings.Contains(said, "All of it is as it was written") {
		t.Errorf("verified: %s", said)
	}
	late := s.submit("") // the restored server will not know it
	s.completed(late)
	s.Server().KillAlone()
	if err := os.Rename(state, state+".lost"); err != nil {
		t.Fatal(err)
	}

	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	s.fault("restore.put", true)
	cut := exec.CommandContext(t.Context(), bin.Server, "restore", file, "--state-dir", state)
	cut.Env = append(os.Environ(), "GURURMM_FAULTS="+s.Faults())
	if said, err := cut.CombinedOutput(); err == nil || len(said) > 0 {
		t.Fatalf("a restore that was killed: %v, %s", err, said)
	}
	if err := s.StartServer(t.Context()); err == nil || !strings.Contains(err.Error(), "a restore has not come to its end here") {
		t.Fatalf("on the half of a restore: %v", err)
	}
	if err := os.RemoveAll(state); err != nil {
		t.Fatal(err)
	}
	s.says("restore", file, "--state-dir", state)
	if err := s.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.verified()
	s.open(running)
	s.completed(running.order)
	s.completed(before)
	s.completed(s.submit(""))
	if _, err := s.Client().Command(t.Context(), late.id); err == nil {
		t.Error("a command that came behind the backup is known")
	} else if p, ok := errors.AsType[wire.Problem](err); !ok || p.Status != 404 {
		t.Error(err)
	}
	list, err := s.Client().Commands(t.Context(), operator.Filter{})
	if err != nil || len(list) != 3 {
		t.Errorf("%d commands, %v", len(list), err)
	}
	back, err := s.Client().Bundles(t.Context(), s.agent.ID)
	if err != nil || len(back) != 1 || back[0].ID != bundles[0].ID {
		t.Errorf("bundles %+v, %v", back, err)
	} else if _, err := s.unpacked(back[0]); err != nil {
		t.Error(err)
	}
	s.allOnce()
}
