package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gururmm/agent/local"
	"gururmm/agent/state"
)

func TestFlagsOutrankAgentYAML(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s, err := Prepare(Options{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if s.Level != "info" || s.Group != local.StatusGroup || s.Socket != local.SocketPath(dir, false) {
		t.Fatalf("defaults: %+v", s)
	}
	yaml := "log_level: debug\nstatus_socket: /tmp/a.sock\nstatus_group: adm\n"
	if err := os.WriteFile(filepath.Join(dir, "agent.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err = Prepare(Options{StateDir: dir}); err != nil || s.Level != "debug" || s.Socket != "/tmp/a.sock" || s.Group != "adm" {
		t.Fatalf("agent.yaml: %+v, %v", s, err)
	}
	if s, err = Prepare(Options{StateDir: dir, LogLevel: "error", StatusSocket: "/tmp/b.sock"}); err != nil || s.Level != "error" || s.Socket != "/tmp/b.sock" {
		t.Fatalf("flags: %+v, %v", s, err)
	}
	if socket, err := FindSocket(Options{StateDir: dir}); err != nil || socket != "/tmp/a.sock" {
		t.Fatalf("status asks at %q, %v", socket, err)
	}
}

func TestFindingTheSocketMakesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "nothing")
	if socket, err := FindSocket(Options{StateDir: dir}); err != nil || socket == "" {
		t.Fatalf("%q, %v", socket, err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Fatal("asking for the status made a state directory")
	}
}

func TestNotEnrolledEndsInTheForegroundAndWaitsAsAService(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	s, err := Prepare(Options{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if err := Run(t.Context(), s, log, nil); !errors.Is(err, state.ErrNotEnrolled) {
		t.Fatalf("foreground: %v, want ErrNotEnrolled", err)
	}

	s.Service = true
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- Run(ctx, s, log, nil) }()
	client := local.NewClient(s.Socket)
	deadline := time.Now().Add(time.Minute)
	for {
		st, err := client.Status(ctx)
		if err == nil {
			if st.Mode != local.ModeNotEnrolled || ExitCode(st) != ExitUnknown {
				t.Fatalf("status %+v, want not_enrolled", st)
			}
			var b bytes.Buffer
			if err := WriteStatus(&b, st, Style{}); err != nil || !strings.Contains(b.String(), "gururmm-agent enroll") {
				t.Fatalf("says %q, %v: not what to do", b.String(), err)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Fatalf("stopped while waiting: %v", err)
	}
}

func TestTokenComesFromOnePlace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("gre_ABC\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if token, err := (EnrollOptions{TokenFile: file}).token(); err != nil || token != "gre_ABC" {
		t.Fatalf("%q, %v", token, err)
	}
	if _, err := (EnrollOptions{Token: "x", TokenFile: file}).token(); err == nil {
		t.Fatal("two tokens were taken")
	}
	if err := os.WriteFile(file, bytes.Repeat([]byte("x"), maxTokenFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (EnrollOptions{TokenFile: file}).token(); err == nil {
		t.Fatal("a file without bounds was taken")
	}
}
