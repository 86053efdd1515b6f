package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gururmm/checkup"
	"gururmm/internal/diskfree"
	"gururmm/internal/lockfile"
)

func bare(t *testing.T) Subject {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return Subject{Version: "v1", StateDir: dir, LockFile: filepath.Join(dir, "guardian.lock")}
}

func TestStateDirectory(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Subject) error
		status checkup.Status
		seen   string
	}{
		{"in order", nil, checkup.Pass, "private and writable"},
		{"open to others", func(s *Subject) error { return os.Chmod(s.StateDir, 0o755) }, checkup.Fail, "0755"},
		{"not there", func(s *Subject) error { return os.Remove(s.StateDir) }, checkup.Warn, "nothing is enrolled"},
		{"a file", func(s *Subject) error {
			return errors.Join(os.Remove(s.StateDir), os.WriteFile(s.StateDir, nil, 0o600))
		}, checkup.Fail, "not a directory"},
		{"not enrolled", func(s *Subject) error { s.NotEnrolled = "this endpoint is not enrolled"; return nil }, checkup.Warn, "not enrolled"},
		{"damaged", func(s *Subject) error { s.Broken = "identity.json can't be understood"; return nil }, checkup.Fail, "can't be understood"},
	} {
		s := bare(t)
		if c.change != nil {
			if err := c.change(&s); err != nil {
				t.Fatal(err)
			}
		}
		before, _ := os.ReadDir(filepath.Dir(s.StateDir))
		r := visit(t, s, State)[State]
		if r.Status != c.status || !strings.Contains(r.Seen, c.seen) || (r.Status != checkup.Pass) != (r.Do != "") {
			t.Errorf("%s: %+v", c.name, r)
		}
		after, _ := os.ReadDir(filepath.Dir(s.StateDir))
		inside, _ := os.ReadDir(s.StateDir)
		if len(before) != len(after) || len(inside) != 0 {
			t.Errorf("%s: something was left behind: %v, %v", c.name, after, inside)
		}
		if fi, err := os.Stat(s.StateDir); err == nil && c.name == "open to others" && fi.Mode().Perm() != 0o755 {
			t.Errorf("the directory was mended to %v: a doctor only looks", fi.Mode())
		}
	}
}

func TestWhoHoldsTheDirectory(t *testing.T) {
	answers := func(pid int) func(context.Context) (Running, error) {
		return func(context.Context) (Running, error) {
			return Running{Socket: "status.sock", PID: pid, Verdict: Fact{Status: checkup.Pass, Seen: "well"}}, nil
		}
	}
	refuses := func(err error) func(context.Context) (Running, error) {
		return func(context.Context) (Running, error) { return Running{}, err }
	}
	self := os.Getpid()
	for _, c := range []struct {
		name     string
		hold     bool
		guardian func(context.Context) (Running, error)
		status   checkup.Status
		seen     string
	}{
		{"one guardian", true, answers(self), checkup.Pass, fmt.Sprintf("process %d holds the lock and answers", self)},
		{"two guardians", true, answers(self + 1), checkup.Fail, fmt.Sprintf("but process %d answers", self+1)},
		{"a guardian that hangs", true, refuses(&SilentError{Seen: "it hangs", Do: "Let it go on."}), checkup.Fail, "does not answer"},
		{"a guardian that does not answer", true, refuses(ErrNotRunning), checkup.Fail, "nobody answers"},
		{"no right to ask", true, refuses(os.ErrPermission), checkup.Warn, "permission"},
		{"another directory's guardian", false, answers(self + 1), checkup.Fail, "does not hold the lock"},
		{"none", false, refuses(ErrNotRunning), checkup.Warn, "no guardian runs"},
	} {
		s := bare(t)
		s.Guardian = c.guardian
		if c.hold {
			lock, err := lockfile.Take(s.LockFile)
			if err != nil {
				t.Fatal(err)
			}
			defer lock.Release()
		}
		r := visit(t, s, Instance)[Instance]
		if r.Status != c.status || !strings.Contains(r.Seen, c.seen) || (r.Status != checkup.Pass) != (r.Do != "") {
			t.Errorf("%s: %+v", c.name, r)
		}
		if _, err := os.Stat(s.LockFile); !c.hold && err == nil {
			t.Errorf("%s: the lock file was made", c.name)
		}
	}
}

func TestGuardiansOwnWord(t *testing.T) {
	s := bare(t)
	if r := visit(t, s, Guardian)[Guardian]; r.Status != checkup.Skip {
		t.Errorf("none: %+v", r)
	}
	s.Guardian = func(context.Context) (Running, error) {
		return Running{Verdict: Fact{Status: checkup.Fail, Seen: "texts are lost", Do: "wait"}}, nil
	}
	if r := visit(t, s, Guardian)[Guardian]; r.Status != checkup.Fail || r.Seen != "texts are lost" || r.Do != "wait" {
		t.Errorf("%+v", r)
	}
}

func TestDiskIsTold(t *testing.T) {
	s := bare(t)
	s.StateDir = filepath.Join(s.StateDir, "not", "there", "yet")
	r := visit(t, s, Disk)[Disk]
	if free, ok := r.Figures["free_bytes"].(uint64); !ok || free == 0 || r.Target != filepath.Dir(filepath.Dir(filepath.Dir(s.StateDir))) {
		t.Errorf("%+v", r)
	}
}

func TestARoomThatRunsOut(t *testing.T) {
	const plenty, files = 10 << 30, 1 << 20
	for _, c := range []struct {
		room   diskfree.Room
		err    error
		status checkup.Status
		seen   string
	}{
		{room: diskfree.Room{Free: plenty, Total: plenty, FreeFiles: files, Files: files}, status: checkup.Pass, seen: "10 GiB free of 10 GiB, 1048576 more files"},
		{room: diskfree.Room{Free: diskWarn, Total: plenty, FreeFiles: filesWarn, Files: files}, status: checkup.Pass},
		{room: diskfree.Room{Free: diskWarn - 1, Total: plenty, FreeFiles: files, Files: files}, status: checkup.Warn, seen: "255 MiB free"},
		{room: diskfree.Room{Free: plenty, Total: plenty, FreeFiles: filesWarn - 1, Files: files}, status: checkup.Warn, seen: "1999 more files"},
		{room: diskfree.Room{Free: diskFail, Total: plenty, FreeFiles: files, Files: files}, status: checkup.Warn},
		{room: diskfree.Room{Free: plenty, Total: plenty, FreeFiles: filesFail, Files: files}, status: checkup.Warn},
		{room: diskfree.Room{Free: diskFail - 1, Total: plenty, FreeFiles: files, Files: files}, status: checkup.Fail, seen: "15 MiB free"},
		{room: diskfree.Room{Free: plenty, Total: plenty, FreeFiles: filesFail - 1, Files: files}, status: checkup.Fail, seen: "99 more files"},
		{room: diskfree.Room{Free: plenty, Total: plenty}, status: checkup.Pass, seen: "10 GiB free of 10 GiB"}, // it does not count files
		{err: errors.New("the disk is gone"), status: checkup.Fail, seen: "the disk is gone"},
	} {
		s := bare(t)
		s.Room = func(dir string) (diskfree.Room, error) {
			if dir != s.StateDir {
				t.Errorf("asked of %s", dir)
			}
			return c.room, c.err
		}
		r := visit(t, s, Disk)[Disk]
		if r.Status != c.status || !strings.Contains(r.Seen, c.seen) || (r.Status != checkup.Pass) != (r.Do != "") {
			t.Errorf("%+v, %v: %+v", c.room, c.err, r)
		}
		if _, counted := r.Figures["free_files"]; counted != (c.room.Files > 0) {
			t.Errorf("%+v: %v", c.room, r.Figures)
		}
	}
}

// A probe that hangs is told as such, and the others' results come all the same.
func TestAProbeThatHangs(t *testing.T) {
	s := bare(t)
	release := make(chan struct{})
	defer close(release)
	s.Service = func(context.Context) Fact { <-release; return Fact{} }
	s.Versions = func(context.Context) Fact { return Fact{Status: checkup.Pass, Seen: "v1"} }
	report, err := Run(t.Context(), s, Options{Only: []string{Service, Versions}, Timeout: 10 * time.Millisecond})
	if err != nil || len(report.Results) != 2 {
		t.Fatalf("%+v, %v", report, err)
	}
	if r := report.Results[0]; r.Status != checkup.Fail || !strings.Contains(r.Seen, "did not end within 10ms") || r.Do == "" {
		t.Errorf("%+v", r)
	}
	if r := report.Results[1]; r.Status != checkup.Pass {
		t.Errorf("%+v", r)
	}
	if report.Verdict != checkup.Fail {
		t.Errorf("verdict %q", report.Verdict)
	}
}

// A fact that says nothing is unknown, and never passes.
func TestAnEmptyFactIsNotHealthy(t *testing.T) {
	s := bare(t)
	s.Service = func(context.Context) Fact { return Fact{} }
	report, err := Run(t.Context(), s, Options{Only: []string{Service}})
	if err != nil || report.Verdict != checkup.Unknown || report.ExitCode() != checkup.ExitFailed {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestInterrupted(t *testing.T) {
	s := bare(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.Service = func(ctx context.Context) Fact {
		cancel()
		<-ctx.Done()
		return Fact{Status: checkup.Fail, Seen: "given up"}
	}
	report, err := Run(ctx, s, Options{Only: []string{Service}})
	if !errors.Is(err, context.Canceled) || report.Results[0].Status != checkup.Skip || report.Results[0].Seen != "interrupted" {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestWhatIsNotReachedInTimeIsSaid(t *testing.T) {
	s := bare(t)
	s.Service = func(ctx context.Context) Fact {
		<-ctx.Done()
		return Fact{Status: checkup.Fail, Seen: "given up"}
	}
	s.Versions = func(context.Context) Fact { return Fact{Status: checkup.Pass, Seen: "v1"} }
	report, err := Run(t.Context(), s, Options{Only: []string{Service, Versions}, Within: 200 * time.Millisecond})
	if err != nil || report.Results[0].Status != checkup.Skip || !strings.Contains(report.Results[0].Seen, "within 200ms") || report.Results[1].Status != checkup.Pass {
		t.Errorf("%+v, %v", report, err)
	}
}
