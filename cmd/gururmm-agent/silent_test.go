//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"gururmm/checkup"
)

// A guardian that is stopped answers nobody: `status` and `doctor` say which process
// that is, what the kernel says of it, and what to do, within their deadline.
func TestAStoppedGuardianIsNamed(t *testing.T) {
	base, err := os.MkdirTemp("", "silent") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	dir := filepath.Join(base, "state")
	guard := exec.CommandContext(t.Context(), program, "run", "--service", "--state-dir", dir)
	if err := guard.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(guard.Process.Signal(syscall.SIGCONT), guard.Process.Signal(syscall.SIGTERM)); err != nil {
			t.Error(err)
		}
		_ = guard.Wait()
	})
	status := func() result { return call(t, nil, "status", "--state-dir", dir) }
	for began := time.Now(); !strings.Contains(status().out, "enroll"); time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("it does not answer at all: %+v", status())
		}
	}

	if err := guard.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	got := status()
	t.Logf("status of a stopped guardian after %v", time.Since(began).Round(time.Millisecond))
	want := []string{fmt.Sprintf("the guardian (pid %d) does not answer since ", guard.Process.Pid)}
	if runtime.GOOS == "linux" {
		want = append(want, "state T (stopped)", fmt.Sprintf("kill -CONT %d", guard.Process.Pid))
	}
	for _, w := range want {
		if said := strings.Join(strings.Fields(got.errout), " "); !strings.Contains(said, w) {
			t.Errorf("status says %q, want %q in it", said, w)
		}
	}
	if got.code != 2 {
		t.Errorf("exit code %d, want 2", got.code)
	}
	for line := range strings.Lines(got.errout) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	var told struct {
		Mode string `json:"mode"`
		PID  int    `json:"pid"`
	}
	raw := call(t, nil, "status", "--json", "--state-dir", dir)
	if err := json.Unmarshal([]byte(raw.out), &told); err != nil || told.Mode != "silent" || told.PID != guard.Process.Pid || raw.code != 2 {
		t.Errorf("as JSON: %+v, exit code %d, %v", told, raw.code, err)
	}

	doctor := call(t, nil, "doctor", "--json", "--only", "guardian,instance", "--state-dir", dir)
	report, err := checkup.Parse([]byte(doctor.out))
	if err != nil {
		t.Fatalf("doctor: %v, %+v", err, doctor)
	}
	for _, r := range report.Results {
		if r.Status != checkup.Fail || !strings.Contains(r.Seen, fmt.Sprint(guard.Process.Pid)) || r.Do == "" {
			t.Errorf("doctor: %+v", r)
		}
	}
	if doctor.code != 1 || len(report.Results) != 2 {
		t.Errorf("doctor: exit code %d, %d results", doctor.code, len(report.Results))
	}
}
