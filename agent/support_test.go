package agent

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"gururmm/agent/bundle"
)

// A bundle is written whole, for its owner alone, over nobody's file, or not at all.
func TestABundleIsWrittenWholeOrNotAtAll(t *testing.T) {
	o := Options{StateDir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(o.StateDir, "events.jsonl"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	order := BundleOrder{File: filepath.Join(dir, "b.tar.gz"), Reason: "a test", NoDoctor: true}

	stopped, stop := context.WithCancel(t.Context())
	stop()
	if _, _, err := MakeBundle(stopped, o, order); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("a stop leaves %v, %v", left, err)
	}

	file, m, err := MakeBundle(t.Context(), o, order)
	if err != nil || file != order.File || m.Reason != "a test" {
		t.Fatalf("%q, %+v, %v", file, m, err)
	}
	info, err := os.Stat(file)
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := MakeBundle(t.Context(), o, order); err == nil || !strings.Contains(err.Error(), "is there already") || !strings.Contains(err.Error(), "--output") {
		t.Errorf("over a file: %v", err)
	}
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed, %v", err)
	}
	order.File = filepath.Join(dir, "nowhere", "b.tar.gz")
	if _, _, err := MakeBundle(t.Context(), o, order); err == nil || !strings.Contains(err.Error(), "--output") {
		t.Errorf("no such folder: %v", err)
	}

	var out bytes.Buffer
	m, n, err := StreamBundle(t.Context(), o, order, &out)
	if err != nil || n != out.Len() {
		t.Fatalf("%d of %d bytes, %v", n, out.Len(), err)
	}
	if got, _, err := bundle.Read(&out); err != nil || got.Bundle != m.Bundle {
		t.Errorf("streamed: %+v, %v", got, err)
	}
}

func TestABundleThatDoesNotFitLeavesNothing(t *testing.T) {
	if runtime.GOOS != "linux" {
		return // /dev/full is Linux's
	}
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = writeBundle(t.Context(), Options{}, BundleOrder{NoDoctor: true}, t.TempDir(), f)
	if err == nil || !strings.Contains(err.Error(), "no space left") || !strings.Contains(err.Error(), "free space") {
		t.Errorf("%v", err)
	}
}

// The doctor of a bundle asks the guardian that the bundle asks, wherever it answers.
func TestTheDoctorOfABundleAsksTheSameGuardian(t *testing.T) {
	if got := strings.Join(visitArgs("/run/other.sock"), " "); got != "doctor --json --status-socket /run/other.sock" {
		t.Error(got)
	}
	if got := strings.Join(visitArgs(""), " "); got != "doctor --json" {
		t.Error(got)
	}
}

// No errand speaks for the agent to the service manager.
func TestAnErrandDoesNotSpeakToTheServiceManager(t *testing.T) {
	ours := []string{"PATH=/bin", "NOTIFY_SOCKET=/run/notify", "WATCHDOG_USEC=1", "WATCHDOG_PID=2"}
	if got := strings.Join(errandEnv(ours, false), " "); got != "PATH=/bin" {
		t.Error(got)
	}
	if got := strings.Join(errandEnv(ours, true), " "); got != "PATH=/bin GOMAXPROCS=1" {
		t.Errorf("a quiet one: %s", got)
	}
}
