package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gururmm/agent/guardian"
	"gururmm/internal/lockfile"
)

// hears is the file that a program started by the test below notes events in.
const hears = "GURURMM_TEST_HEARS"

func init() {
	file := os.Getenv(hears)
	if file == "" {
		return
	}
	s := &Setup{events: make(chan guardian.Event, maxPending)}
	ctx, disobey := s.obeyParent(context.Background(), inherit())
	defer disobey()
	for {
		select {
		case e := <-s.events:
			f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				panic(err)
			}
			if _, err := f.WriteString(string(e) + "\n"); err != nil || f.Close() != nil {
				panic("can't be noted")
			}
		case <-ctx.Done():
			os.Exit(ExitHandover)
		}
	}
}

// The service manager tells the launcher; the guardian that it started hears it, and the
// end of the launcher's context ends it in order.
func TestGuardianHearsWhatItsLauncherIsTold(t *testing.T) {
	s, err := Prepare(Options{StateDir: filepath.Join(t.TempDir(), "state")})
	if err != nil {
		t.Fatal(err)
	}
	lock, err := lockfile.Take(s.Dir.Path(lockFile))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "heard")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- s.become(ctx, os.Args[0], []string{hears + "=" + file, envInstalled + "=v1.0.0 " + os.Args[0]}, lock, slog.New(slog.DiscardHandler))
	}()
	want := ""
	for _, e := range knownEvents {
		s.events <- e
		want += string(e) + "\n"
	}
	for late := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		raw, _ := os.ReadFile(file)
		if string(raw) == want {
			break
		}
		if time.Now().After(late) {
			t.Fatalf("heard %q, want %q", raw, want)
		}
	}
	stop()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("the guardian does not end with its launcher's context")
	}
}
